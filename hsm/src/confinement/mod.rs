//! What a device helper may still do once it knows its device: a vendor's library runs in it.
//!
//! - [`calls`]: a seccomp filter without the system calls that no PKCS#11 module needs: starting programs, tracing
//!   others, mounting, loading kernel modules. It cannot be left out: without it the helper serves nothing.
//! - [`libraries`]: what each known library needs beside that.
//! - [`files`]: Landlock rules: the module and the system's libraries to read, the token's folder to write, nothing
//!   else; a TPM's helper connects to its TPM alone, a YubiHSM's to its connector's port. A kernel without Landlock goes without.
//! - a user of its own, where one is configured.
//!
//! And what the server itself may do: [`calls`] again, and [`server`], its files.
//!
//! Why a list of what is forbidden: docs/decisions/0007-device-helper-confinement.md.

mod calls;
mod files;
mod libraries;
mod server;

use crate::account;
use crate::config::DeviceConfig;
use crate::device::DeviceError;
use crate::memory::{harden_process, lock_present_only};
use minicbor::{Decode, Encode};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::path::PathBuf;

use calls::Sockets;
pub use files::kernel_confines_files;
pub use server::{FileUse, ServerFiles, outside_rules, with_reason};

/// What the operator says about a helper, beside its device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct HelperLimits {
    /// The user that it becomes, by name or number.
    #[n(0)]
    pub user: Option<String>,
    /// Files and folders that it may read, beside those that every helper may.
    #[n(1)]
    pub read_paths: Vec<String>,
    /// Files and folders that it may write too.
    #[n(2)]
    pub write_paths: Vec<String>,
}

/// What a device needs of the file system.
#[derive(Debug, Default)]
struct Paths {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

/// Confines this process for good; it has one thread.
///
/// # Errors
/// `Config`, with what could not be done: the helper must not serve then.
pub(crate) fn confine(config: &DeviceConfig) -> Result<(), DeviceError> {
    let limits = config.limits();
    let mut paths = files::of(config);
    paths.read.extend(limits.read_paths.iter().map(PathBuf::from));
    paths.write.extend(limits.write_paths.iter().map(PathBuf::from));
    if let Some(name) = &limits.user {
        become_user(name)?;
    }
    // Again: another user has made the process dumpable, and the death of the spawner unheard.
    harden_process().map_err(|error| refused(&error.to_string()))?;
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    files::confine(&paths, files::ports(config).as_deref()).map_err(|error| refused(&format!("Landlock: {error}")))?;
    calls::confine(sockets(config)).map_err(|error| refused(&format!("seccomp: {error}")))
}

/// A TPM that is a device file needs no socket but the one that the helper has.
fn sockets(config: &DeviceConfig) -> Sockets {
    match config {
        DeviceConfig::Tpm(config) if config.device_file().is_some() => Sockets::NoFurther,
        _ => Sockets::Any,
    }
}

/// What became of a server's rules for files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRules {
    /// The kernel keeps the process to them.
    Enforced,
    /// The kernel has no Landlock: there are none.
    NoLandlock,
    /// None were asked for.
    Off,
}

/// Confines a server's process, all the threads that this one starts included: it starts no programs, makes no
/// processes, loads no libraries and traces nobody from here on, and uses no files but these, if there are any rules for
/// files. Its devices live in helpers, which a [`Spawner`] starts that was made before.
///
/// [`Spawner`]: crate::Spawner
///
/// # Errors
/// The kernel has no seccomp, or refuses the rules.
pub fn confine_server(files: Option<&ServerFiles>) -> Result<FileRules, String> {
    let rules = match files.map(server::confine).transpose().map_err(|error| format!("Landlock: {error}"))? {
        Some(true) => FileRules::Enforced,
        Some(false) => FileRules::NoLandlock,
        None => FileRules::Off,
    };
    calls::confine_server().map_err(|error| format!("seccomp: {error}"))?;
    Ok(rules)
}

fn become_user(name: &str) -> Result<(), DeviceError> {
    let told = |text: String| DeviceError::config(format!("helper_user of the seal: {text}"));
    // The right to lock memory without bound goes; the limit has to allow it then, or later memory is not locked.
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        lock_present_only();
    }
    account::become_user(name).map_err(|error| told(error.to_string()))
}

fn refused(text: &str) -> DeviceError {
    DeviceError::config(format!("the device helper cannot be confined, and does nothing without ({text})"))
}
