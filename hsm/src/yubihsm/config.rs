//! The `seal "yubihsm"` and `device "yubihsm"` stanzas, as far as the device is concerned.

use super::protocol::domains_text;
use crate::confinement::HelperLimits;
use crate::device::{DeviceError, secret_text};
use crate::memory::Secret;
use minicbor::{Decode, Encode};

/// Which YubiHSM 2, and who asks it.
#[derive(Debug, Encode, Decode)]
pub struct YubiHsmConfig {
    /// Where its connector listens, as in `http://127.0.0.1:12345`.
    #[n(0)]
    pub connector: String,
    /// Object id of the authentication key.
    #[n(1)]
    pub auth_key: u16,
    /// What the authentication key is derived from.
    #[cbor(n(2), with = "secret_text")]
    pub password: Option<Secret<String>>,
    /// The domains of keys that are made, domain 1 in the lowest bit; 0: those of the authentication key.
    #[n(3)]
    pub domains: u16,
    /// The serial number that it must have.
    #[n(4)]
    pub serial: Option<u32>,
    /// Label of the wrap key.
    #[n(5)]
    pub key_label: Option<String>,
    /// Object id of the wrap key.
    #[n(6)]
    pub key_id: Option<u16>,
    /// Whether to make the wrap key if it is missing.
    #[n(7)]
    pub generate_key: bool,
    /// Where its audit log is kept: a file that lines are added to. `None`: the log is left to others.
    #[n(8)]
    pub log_file: Option<String>,
    /// What its helper may do.
    #[n(9)]
    pub limits: HelperLimits,
}

impl YubiHsmConfig {
    /// Where a connector listens if nobody says otherwise.
    pub const DEFAULT_CONNECTOR: &str = "http://127.0.0.1:12345";
    /// The authentication key of a YubiHSM that was never set up.
    pub const DEFAULT_AUTH_KEY: u16 = 1;

    /// For a connector, with nothing else set.
    pub fn new(connector: impl Into<String>) -> Self {
        Self {
            connector: connector.into(),
            auth_key: Self::DEFAULT_AUTH_KEY,
            password: None,
            domains: 0,
            serial: None,
            key_label: None,
            key_id: None,
            generate_key: false,
            log_file: None,
            limits: HelperLimits::default(),
        }
    }

    /// For log lines and error texts.
    pub fn name(&self) -> String {
        match self.serial {
            Some(serial) => format!("the YubiHSM {serial} at {}", self.connector),
            None => format!("the YubiHSM at {}", self.connector),
        }
    }

    /// Host and port of the connector.
    ///
    /// # Errors
    /// `Config` if it is no address of HTTP.
    pub(crate) fn address(&self) -> Result<(String, u16), DeviceError> {
        const USUAL_PORT: u16 = 12345;
        let parsed = self.connector.strip_prefix("http://").and_then(|rest| {
            let authority = rest.strip_suffix('/').unwrap_or(rest);
            if authority.is_empty() || authority.contains(['/', '@', '?', '#', ' ']) {
                return None;
            }
            // An address of IPv6 has colons of its own, inside brackets.
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
                _ => (authority, USUAL_PORT),
            };
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            (!host.is_empty() && port != 0).then(|| (host.to_owned(), port))
        });
        parsed.ok_or_else(|| {
            DeviceError::config(format!(
                "connector '{}' is no address of a yubihsm-connector: write it as in \"{}\" (what passes is encrypted end to \
                 end; https is not spoken here)",
                self.connector,
                Self::DEFAULT_CONNECTOR
            ))
        })
    }

    /// The one port that its helper may connect to.
    pub(crate) fn port(&self) -> Option<u16> {
        self.address().ok().map(|(_, port)| port)
    }

    /// For error texts: whose keys are seen.
    pub(crate) fn who(&self) -> String {
        format!("authentication key {}", self.auth_key)
    }

    /// For error texts.
    pub(crate) fn domains_text(&self) -> String {
        domains_text(self.domains)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connectors_address_is_read_from_its_url() {
        let of = |url: &str| YubiHsmConfig::new(url).address().ok();
        let is = |url: &str, host: &str, port: u16| assert_eq!(of(url), Some((host.to_owned(), port)), "{url}");
        is("http://127.0.0.1:12345", "127.0.0.1", 12345);
        is("http://hsm.example:80/", "hsm.example", 80);
        is("http://[::1]:7000", "::1", 7000);
        is("http://[::1]", "::1", 12345);
        is("http://localhost", "localhost", 12345);
        for url in [
            "",
            "127.0.0.1:12345",
            "https://127.0.0.1",
            "http://",
            "http://h:0",
            "http://h:x",
            "http://a/b",
            "http://u@h",
        ] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
