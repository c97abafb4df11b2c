//! A simulator of a YubiHSM 2 behind its connector, for tests. It is no YubiHSM.
//!
//! [`Simulator`] listens as `yubihsm-connector` does (`POST /connector/api`, `GET /connector/status`) and answers as Yubico's
//! command reference says that the device does: the secure channel with its cryptograms, chain of MACs and encryption
//! (`channel`), 16 sessions that end 30 s after their last use (`session`), objects with types, domains and capabilities
//! (`object`, `manage`), the commands that use keys (`keys`, `use_key`, `ccm`), and the audit log (`log`). Its clock can be moved.
//!
//! What it is not: its keys are in the memory of a test, its timing is a computer's, and where the reference leaves a choice
//! it may choose otherwise than the device does. It lacks: templates and SSH certificates, OTP, symmetric keys for ECB and
//! CBC, opaque objects, attestation, import under wrap (and what it exports has a form of its own), RSA wrap keys, asymmetric authentication, PKCS#1 v1.5
//! decryption, Brainpool and secp256k1 curves, FIPS mode, toggled algorithms. PSS takes a salt as long as the digest alone, and
//! OAEP no label.
//!
//! Yubico's own Python library is run against it (`tests/system/yubihsm`), so that it is not only our driver that finds it right.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod ccm;
mod channel;
mod code;
mod device;
mod http;
mod keys;
mod log;
mod manage;
mod object;
mod session;
mod use_key;

pub use code::capability;
pub use http::Simulator;
