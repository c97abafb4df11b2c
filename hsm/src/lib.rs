//! Keys that live in devices, and the memory that secrets live in.
//!
//! - [`memory`]: the two tiers of secrets (`Key`, `Secret`), the wiping allocator and the
//!   process-wide protections.
//! - [`device`]: the messages that every device understands, and `KeyDevice`, which a
//!   backend implements.
//! - [`pkcs11`], [`software`], [`yubihsm`]: the backends; [`tpm`]: the configuration of another, which is the crate `holdfast-tpm`.
//! - [`Spawner`], [`helper`], [`DeviceClient`]: a vendor's library runs in a process of
//!   its own. The server makes the spawner first of all; the spawner starts helpers; the
//!   client talks to one helper and keeps it running.
//!
//! ```no_run
//! use holdfast_hsm::pkcs11::Pkcs11Config;
//! use holdfast_hsm::{DeviceClient, Spawner, WrapKeyConfig};
//! use std::sync::Arc;
//!
//! // In `main`: the helper's own entry, then the spawner, before any thread.
//! if std::env::args().nth(1).as_deref() == Some(holdfast_hsm::helper::SUBCOMMAND) {
//!     holdfast_hsm::helper::main(holdfast_hsm::DeviceConfig::open);
//! }
//! let spawner = Arc::new(Spawner::start()?);
//!
//! let mut config = Pkcs11Config::new("/usr/lib/softhsm/libsofthsm2.so");
//! config.token_label = Some("holdfast".into());
//! config.key_label = Some("root".into());
//! config.generate_key = true;
//! let wrapping = WrapKeyConfig::from(&config);
//!
//! let device = DeviceClient::spawned(spawner, config);
//! let key = device.ensure_wrapping_key(&wrapping)?;
//! let wrapped = device.wrap(&key, b"the root key", b"cluster id")?;
//! let root_key = device.unwrap(&key, &wrapped, b"cluster id")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]
#![warn(missing_docs)]

#[allow(unsafe_code)]
pub mod account;
mod client;
mod config;
mod confinement;
pub mod device;
mod frame;
pub mod gcm;
pub mod health;
pub mod helper;
#[allow(unsafe_code)]
pub mod memory;
pub mod pkcs11;
mod quick;
pub mod software;
mod spawner;
pub mod tpm;
pub mod verify;
pub mod yubihsm;

pub use client::{DEFAULT_TIMEOUT, DeviceClient, WrapKeyConfig, WrapKeyInfo, custodians_of, waits};
pub use config::{DeviceConfig, OpenDevice};
pub use confinement::{
    FileRules, FileUse, HelperLimits, ServerFiles, confine_server, kernel_confines_files, outside_rules, with_reason,
};
pub use quick::Quickness;
pub use spawner::Spawner;
