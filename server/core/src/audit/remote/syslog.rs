//! The `syslog` audit device: datagrams to the system's log.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_sdk::Timestamp;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::Unsent;
use crate::clock;

/// Where a system's log listens.
const PLACES: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// How long it may take.
const TIME_OUT: Duration = Duration::from_secs(2);
/// RFC 5424, 6.2.1: informational.
const SEVERITY: u8 = 6;

pub struct Syslog {
    facility: u8,
    tag: String,
    /// Instead of where the system's log usually is.
    address: Option<PathBuf>,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub fn new(facility: u8, tag: String, address: Option<PathBuf>) -> Syslog {
        Syslog { facility, tag, address, socket: None }
    }

    pub async fn send(&mut self, line: &[u8]) -> Result<(), Unsent> {
        let message = self.message(line, clock::now());
        let sent = match self.socket.take() {
            Some(socket) => write(socket, &message).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let sent = match sent {
            Ok(socket) => Ok(socket),
            Err(_) => match self.connect() {
                Ok(socket) => write(socket, &message).await,
                Err(e) => Err(e),
            },
        };
        self.socket = Some(sent.map_err(|e| Unsent::unreachable(format!("Unix syslog delivery error: {e}")))?);
        Ok(())
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        match &self.address {
            Some(address) => socket.connect(address)?,
            None => {
                PLACES.iter().map(|place| socket.connect(place)).find(Result::is_ok).unwrap_or_else(|| {
                    Err(io::Error::new(io::ErrorKind::NotFound, "no system log listens at /dev/log"))
                })?
            }
        }
        Ok(socket)
    }

    /// As C libraries write it (RFC 3164, without the host).
    fn message(&self, line: &[u8], now: Timestamp) -> Vec<u8> {
        let priority = self.facility * 8 + SEVERITY;
        let mut out = format!("<{priority}>{} {}[{}]: ", stamp(now), self.tag, std::process::id()).into_bytes();
        out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        out
    }
}

async fn write(socket: UnixDatagram, message: &[u8]) -> io::Result<UnixDatagram> {
    timeout(TIME_OUT, socket.send(message)).await??;
    Ok(socket)
}

/// `Nov  9 17:04:05`, in UTC.
fn stamp(now: Timestamp) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // 2026-11-09T17:04:05Z
    let text = now.rfc3339_secs();
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or("");
    let month = part(5..7).parse::<usize>().ok().and_then(|m| MONTHS.get(m.wrapping_sub(1))).copied();
    let day: u8 = part(8..10).parse().unwrap_or(0);
    format!("{} {day:>2} {}", month.unwrap_or("Jan"), part(11..19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_priority_time_and_tag() {
        let syslog = Syslog::new(4, "holdfast".into(), None);
        let at = Timestamp(1_794_243_845 * 1_000_000_000);
        let text = String::from_utf8(syslog.message(b"{}\n", at)).unwrap();
        assert_eq!(text, format!("<38>Nov  9 17:04:05 holdfast[{}]: {{}}", std::process::id()));
    }
}
