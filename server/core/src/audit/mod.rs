//! The audit log: a line before a request is handled, and one before it is answered.
//!
//! With one or more devices at least one must have accepted a line, or the request fails; with
//! none there is no audit. Devices are declared in the configuration.

mod file;
mod line;

pub use file::{Durability, FileDevice};
pub use line::{AuthFacts, Hasher, KnownToken, RequestFacts, TokenFacts, request_line, request_member, response_line};

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use holdfast_sdk::{Error, Result};

/// A device as the configuration declares it.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// With a slash at its end.
    pub path: String,
    pub description: String,
    pub options: Vec<(String, String)>,
}

impl DeviceConfig {
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A switch; off where it is not given.
    pub fn switch(&self, name: &str, default: bool) -> Result<bool, String> {
        match self.option(name) {
            None => Ok(default),
            Some("true" | "1" | "t") => Ok(true),
            Some("false" | "0" | "f") => Ok(false),
            Some(other) => Err(format!("audit device {}: {name} = {other:?} is no boolean", self.path)),
        }
    }
}

/// One audit device.
pub struct Device {
    pub config: DeviceConfig,
    pub hasher: Hasher,
    pub sink: Arc<FileDevice>,
}

/// All devices of an unsealed server.
#[derive(Default)]
pub struct Broker {
    pub devices: Vec<Device>,
}

/// Writes and syncs to wait for before the answer.
pub type Pending = Vec<oneshot::Receiver<bool>>;

/// Both lines of a usual request.
const LINES_BYTES: usize = 4096;

impl Broker {
    /// Write a line to every device. `line` makes it with the device's number and hasher.
    pub fn write(&self, writes: bool, line: impl Fn(usize, &Hasher, &mut Vec<u8>)) -> Result<Pending> {
        self.write_by(line, |sink, bytes| sink.append(bytes, writes))
    }

    /// The same for a line that nothing but its answer waits for: those of other requests may join it.
    pub fn write_together(&self, lines: impl Fn(usize, &Hasher, &mut Vec<u8>)) -> Result<Pending> {
        self.write_by(lines, |sink, bytes| sink.append_together(bytes))
    }

    fn write_by(
        &self,
        line: impl Fn(usize, &Hasher, &mut Vec<u8>),
        append: impl Fn(&Arc<FileDevice>, &[u8]) -> io::Result<Option<oneshot::Receiver<bool>>>,
    ) -> Result<Pending> {
        if self.devices.is_empty() {
            return Ok(Vec::new());
        }
        let (mut accepted, mut pending) = (false, Vec::new());
        let mut buffer = Vec::with_capacity(LINES_BYTES);
        for (number, device) in self.devices.iter().enumerate() {
            buffer.clear();
            line(number, &device.hasher, &mut buffer);
            buffer.push(b'\n');
            match append(&device.sink, &buffer) {
                Ok(sync) => {
                    accepted = true;
                    pending.extend(sync);
                }
                Err(e) => tracing::error!(device = %device.config.path, error = %e, "an audit device refused a line"),
            }
        }
        if accepted { Ok(pending) } else { Err(refused()) }
    }

    /// The member `request` of both lines, for each device.
    pub fn request_members(&self, facts: &AuthFacts, about: &RequestFacts<'_>) -> Vec<Vec<u8>> {
        self.devices.iter().enumerate().map(|(d, device)| request_member(d, &device.hasher, facts, about)).collect()
    }

    /// A token as each device's lines show it.
    pub fn known(&self, facts: &TokenFacts<'_>) -> KnownToken {
        KnownToken::new(self.devices.iter().map(|d| &d.hasher), facts)
    }

    /// Close and open the files again, after a rotation.
    pub fn reopen(&self) {
        for device in &self.devices {
            if let Err(e) = device.sink.reopen() {
                tracing::error!(device = %device.config.path, error = %e, "an audit file cannot be opened again");
            }
        }
    }
}

/// Nobody took the line: the request is not carried out, or its answer not given.
pub fn refused() -> Error {
    Error::Status(500, vec!["internal error".into()])
}

/// Wait until the lines are synced as their devices promise.
pub async fn synced(pending: Pending) -> Result<()> {
    if pending.is_empty() {
        return Ok(());
    }
    let mut any = false;
    for p in pending {
        any |= p.await.unwrap_or(false);
    }
    if any { Ok(()) } else { Err(refused()) }
}
