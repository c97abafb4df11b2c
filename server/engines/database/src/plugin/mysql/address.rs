//! `connection_url` of MySQL: `USER:PASSWORD@tcp(HOST:PORT)/DATABASE?KEY=VALUE`.
//!
//! It is taken apart first and filled in afterwards: no character of a user name or password has a meaning in it.

use std::time::Duration;

use holdfast_sdk::duration;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Address {
    pub user: String,
    pub password: String,
    pub at: At,
    pub database: String,
    pub tls: Word,
    pub time_out: Option<Duration>,
    /// System variables that a connection sets.
    pub variables: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    Tcp(String, u16),
    Unix(String),
}

impl Default for At {
    fn default() -> At {
        At::Tcp("127.0.0.1".into(), PORT)
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Tcp(host, port) => write!(f, "{host}:{port}"),
            At::Unix(path) => f.write_str(path),
        }
    }
}

/// The word for `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Word {
    #[default]
    Off,
    On,
    SkipVerify,
    Preferred,
}

const PORT: u16 = 3306;

/// Settings of Go's driver that have no meaning here.
const IGNORED: &[&str] = &[
    "allowAllFiles",
    "allowCleartextPasswords",
    "allowFallbackToPlaintext",
    "allowNativePasswords",
    "allowOldPasswords",
    "charset",
    "checkConnLiveness",
    "clientFoundRows",
    "collation",
    "columnsWithAlias",
    "compress",
    "connectionAttributes",
    "interpolateParams",
    "loc",
    "maxAllowedPacket",
    "multiStatements",
    "parseTime",
    "readTimeout",
    "rejectReadOnly",
    "serverPubKey",
    "timeTruncate",
    "writeTimeout",
];

pub fn parse(url: &str, username: &str, password: &str) -> Result<Address, String> {
    let fill = |text: &str| text.replace("{{username}}", username).replace("{{password}}", password);
    let (before, behind) = url.rsplit_once('/').ok_or("invalid DSN: missing the slash separating the database name")?;
    // A path of a socket has slashes of its own.
    let mut address = Address::default();
    let (login, at) = match before.rsplit_once('@') {
        Some((login, at)) => (login, at),
        None => ("", before),
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    (address.user, address.password) = (fill(user), fill(password));
    address.at = place(&fill(at))?;
    let (database, query) = behind.split_once('?').unwrap_or((behind, ""));
    address.database = fill(database);
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("invalid DSN: {pair:?} has no value"))?;
        address.set(key, fill(value))?;
    }
    Ok(address)
}

fn place(text: &str) -> Result<At, String> {
    let (network, inner) = match text.split_once('(') {
        Some((network, rest)) => {
            (network, rest.strip_suffix(')').ok_or("invalid DSN: network address not terminated")?)
        }
        None => (text, ""),
    };
    match (network, inner) {
        ("" | "tcp", "") => Ok(At::default()),
        ("tcp", inner) => {
            let (host, port) = match inner.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') => {
                    (host, port.parse().map_err(|_| format!("invalid port {port:?}"))?)
                }
                _ => (inner, PORT),
            };
            Ok(At::Tcp(host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
        }
        ("unix", path) if !path.is_empty() => Ok(At::Unix(path.to_owned())),
        (network, _) => Err(format!("default addr for network '{network}' unknown")),
    }
}

impl Address {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "tls" => {
                self.tls = match value.to_ascii_lowercase().as_str() {
                    "true" | "1" => Word::On,
                    "false" | "0" => Word::Off,
                    "skip-verify" => Word::SkipVerify,
                    "preferred" => Word::Preferred,
                    _ => return Err(format!("invalid value / unknown config name: {value}")),
                }
            }
            "timeout" => {
                let nanos = duration::parse(&value).ok_or_else(|| format!("time: invalid duration {value:?}"))?;
                self.time_out = u64::try_from(nanos).ok().filter(|n| *n > 0).map(Duration::from_nanos);
            }
            key if IGNORED.contains(&key) => {}
            key if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                self.variables.push((key.to_owned(), value));
            }
            key => return Err(format!("invalid DSN: {key:?} is no name of a variable")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_character_may_be_in_a_user_name_and_a_password() {
        let all: String = (' '..='~').collect();
        let a = parse("{{username}}:{{password}}@tcp(db:33)/shop", &all, &all).unwrap();
        assert_eq!((&a.user, &a.password, a.database.as_str()), (&all, &all, "shop"));
        assert_eq!(a.at, At::Tcp("db".into(), 33));
    }

    #[test]
    fn addresses_are_taken_apart() {
        let of = |url: &str| parse(url, "u", "p");
        assert_eq!(of("/").unwrap(), Address::default());
        assert_eq!(of("u@tcp([::1]:9)/").unwrap().at, At::Tcp("::1".into(), 9));
        assert_eq!(of("u@unix(/run/db)/d").unwrap().at, At::Unix("/run/db".into()));
        let a = of("u@tcp(h)/?tls=skip-verify&timeout=5s&parseTime=true&max_statement_time=5").unwrap();
        assert_eq!((a.tls, a.time_out), (Word::SkipVerify, Some(Duration::from_secs(5))));
        assert_eq!(a.variables, [("max_statement_time".into(), "5".into())]);
        for bad in [
            "nonsense",
            "mysql://u:p@h:1/",
            "u@tcp(h/",
            "u@tcp(h)/?tls=perhaps",
            "u@tcp(h)/?timeout=x",
            "u@tcp(h)/?a;b=1",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
