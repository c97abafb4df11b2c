//! The server's configuration: files in HCL or JSON, as Vault and OpenBao
//! have them, read into typed values.
//!
//! [`Config::load`] reads what `-config` names, several files or folders,
//! and merges them. A wrong type or value is an error with file, line and
//! column and what to do next; a key that nobody knows, or that is known and
//! has no effect here, is a [`Warning`] with its place.
//!
//! What this build offers is asked from the caller ([`Offer`]), so that a
//! storage or seal that exists elsewhere is refused by name, with the list of
//! those that exist here.
//!
//! The crate opens no listener, store or device: it tells what was written.

#![forbid(unsafe_code)]

mod audit;
mod audit_signing;
mod config;
mod confinement;
mod device;
mod entropy;
mod error;
mod files;
mod headers;
mod listener;
mod listener_unix;
mod lockout;
mod log;
mod merge;
mod migration;
mod network;
mod node_key;
mod offer;
mod pin;
mod seal;
mod seal_environment;
mod seal_static;
mod seal_tpm;
mod seals_in_use;
mod size;
mod stanza;
mod storage;
mod telemetry;
mod top_level;
mod url;
mod yubihsm;

pub use audit::{AuditDevice, AuditKind};
pub use audit_signing::AuditSigning;
pub use config::Config;
pub use confinement::{Confinement, Landlock};
pub use device::{Device, DeviceKind, Helper, Pkcs11Device, TpmDevice};
pub use error::{ConfigError, ConfigErrorKind, Place, Warning};
pub use headers::{HeaderStatus, ResponseHeaders};
pub use listener::{Listener, ProxyProtocol, TcpListener, TlsSettings, TlsVersion};
pub use listener_unix::UnixListener;
pub use lockout::{LockoutScope, UserLockout};
pub use log::{LogFormat, LogLevel, LogSettings};
pub use migration::Migration;
pub use network::Network;
pub use node_key::NodeKey;
pub use offer::Offer;
pub use pin::{Pin, PinSource};
pub use seal::{LibrarySettings, Pkcs11Seal, Seal, SealKind};
pub use seal_static::{StaticKey, StaticSeal};
pub use seal_tpm::{PcrSelection, TpmSeal};
pub use seals_in_use::{MOST_SEALS, SealInUse, SealsInUse};
pub use size::size;
pub use storage::{MinFreeDisk, RaftStorage, RetryJoin, Storage};
pub use telemetry::Telemetry;
pub use yubihsm::{YubiHsm, YubiHsmSeal};
