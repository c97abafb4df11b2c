//! What a device is made of: its type, its path and its options, read as the reference reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_sdk::duration;

use super::spool::SpoolTarget;

/// The types of audit devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Syslog,
    Socket,
    Http,
}

impl Kind {
    pub fn of(name: &str) -> Option<Kind> {
        [Kind::File, Kind::Syslog, Kind::Socket, Kind::Http].into_iter().find(|kind| kind.word() == name)
    }

    pub fn word(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Syslog => "syslog",
            Kind::Socket => "socket",
            Kind::Http => "http",
        }
    }
}

/// A device as somebody described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig {
    pub kind: Kind,
    /// With a slash at its end.
    pub path: String,
    pub description: String,
    pub local: bool,
    pub options: Vec<(String, String)>,
}

/// The options of every type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub raw: bool,
    pub hmac_accessor: bool,
    pub elide_lists: bool,
    /// Stands before each line.
    pub prefix: String,
}

/// The options of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    File(FileTarget),
    Socket { network: Network, address: String, time_out: Duration },
    Syslog { facility: u8, tag: String, address: Option<PathBuf> },
    Http { uri: String, headers: Vec<(String, String)> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTarget {
    pub place: FilePlace,
    /// `None`: the one that the file has.
    pub mode: Option<u32>,
    /// For requests that change something, and for reads.
    pub durability: (Durability, Durability),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePlace {
    File(PathBuf),
    Stdout,
    Discard,
}

/// When a line counts as accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is written.
    Write,
    /// It is in a group fdatasync that the answer waits for.
    Sync,
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Tcp,
    Udp,
    Unix,
    UnixDatagram,
}

const MODE: u32 = 0o600;
/// Nobody executes an audit file: its content is in part what clients send.
const MODE_MASK: u32 = 0o666;
/// How long a socket may take; none at all would hold up whoever waits for the device.
const TIME_OUT: Duration = Duration::from_secs(2);
const LONGEST_TIME_OUT: Duration = Duration::from_secs(60);

/// How large the files of a spool may be.
const SPOOL_BYTES: u64 = 256 << 20;
const LEAST_SPOOL_BYTES: u64 = 1 << 20;
const MOST_SPOOL_BYTES: u64 = 1 << 40;

impl DeviceConfig {
    /// A `file` device; its path has a slash at its end.
    pub fn file(path: &str, file: &Path) -> DeviceConfig {
        DeviceConfig {
            kind: Kind::File,
            path: path.to_owned(),
            description: String::new(),
            local: false,
            options: vec![("file_path".to_owned(), file.display().to_string())],
        }
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// It is made without a test line.
    pub fn skips_test(&self) -> bool {
        self.option("skip_test").is_some_and(|text| switch(text).unwrap_or(false))
    }

    /// What all types have in common.
    pub fn shape(&self) -> Result<Shape, String> {
        let switched = |name, default| self.option(name).map_or(Ok(default), switch);
        match self.option("format") {
            None | Some("json") => {}
            Some("jsonx") => {
                return Err(
                    "jsonx formatting has been removed, consider switching to json by omitting \"format\" or setting \
                     it to \"json\""
                        .into(),
                );
            }
            Some(other) => return Err(format!("unknown format type {other:?}")),
        }
        Ok(Shape {
            raw: switched("log_raw", false)?,
            hmac_accessor: switched("hmac_accessor", true)?,
            elide_lists: switched("elide_list_responses", false)?,
            prefix: self.option("prefix").unwrap_or_default().to_owned(),
        })
    }

    /// The folder in which lines are kept until a remote peer has them.
    pub fn spool(&self) -> Result<Option<SpoolTarget>, String> {
        let max_bytes = self.option("spool_max_bytes");
        let Some(path) = self.option("spool_path").filter(|p| !p.is_empty()) else {
            return match max_bytes {
                Some(_) => Err("spool_max_bytes without spool_path: name the folder of the spool too".into()),
                None => Ok(None),
            };
        };
        if self.kind == Kind::File {
            return Err("spool_path is for devices of the types socket, syslog and http: a file needs none".into());
        }
        if !Path::new(path).is_absolute() {
            return Err(format!("spool_path {path:?}: the absolute path of a folder is expected"));
        }
        let max_bytes = match max_bytes {
            None => SPOOL_BYTES,
            Some(text) => text.parse().ok().filter(|n| (LEAST_SPOOL_BYTES..=MOST_SPOOL_BYTES).contains(n)).ok_or_else(|| {
                format!("spool_max_bytes {text:?}: a number of bytes from {LEAST_SPOOL_BYTES} to {MOST_SPOOL_BYTES} is expected")
            })?,
        };
        Ok(Some(SpoolTarget { path: path.into(), max_bytes }))
    }

    /// Where its lines go.
    pub fn target(&self) -> Result<Target, String> {
        match self.kind {
            Kind::File => self.file_target().map(Target::File),
            Kind::Socket => self.socket(),
            Kind::Syslog => self.syslog(),
            Kind::Http => self.http(),
        }
    }

    fn file_target(&self) -> Result<FileTarget, String> {
        let path = self.option("file_path").or(self.option("path")).ok_or("file_path is required")?;
        let mode = match self.option("mode") {
            None => Some(MODE),
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if !text.starts_with('+') => Some(mode & MODE_MASK).filter(|_| mode != 0),
                _ => return Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax")),
            },
        };
        let durability = match self.option("durability") {
            None | Some("batch") => (Durability::Sync, Durability::Write),
            Some("write") => (Durability::Write, Durability::Write),
            Some("sync") => (Durability::Sync, Durability::Sync),
            Some(other) => return Err(format!("durability {other:?}: write, batch and sync are possible")),
        };
        let place = match path {
            p if p.eq_ignore_ascii_case("stdout") => FilePlace::Stdout,
            p if p.eq_ignore_ascii_case("discard") => FilePlace::Discard,
            p => FilePlace::File(p.into()),
        };
        Ok(FileTarget { place, mode, durability })
    }

    fn socket(&self) -> Result<Target, String> {
        let address = self.option("address").filter(|a| !a.is_empty()).ok_or("address is required")?;
        let network = match self.option("socket_type").unwrap_or("tcp") {
            "tcp" | "tcp4" | "tcp6" => Network::Tcp,
            "udp" | "udp4" | "udp6" => Network::Udp,
            "unix" => Network::Unix,
            "unixgram" => Network::UnixDatagram,
            other => return Err(format!("socket_type: dial {other}: unknown network {other}")),
        };
        let time_out = match self.option("write_timeout") {
            None => TIME_OUT,
            Some(text) => match duration::parse(text).map(u64::try_from) {
                Some(Ok(0)) => TIME_OUT,
                Some(Ok(ns)) => Duration::from_nanos(ns).min(LONGEST_TIME_OUT),
                _ => return Err(format!("write_timeout: time: invalid duration {text:?}")),
            },
        };
        Ok(Target::Socket { network, address: address.to_owned(), time_out })
    }

    fn syslog(&self) -> Result<Target, String> {
        let name = self.option("facility").unwrap_or("AUTH");
        let facility = FACILITIES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, number)| *number)
            .ok_or_else(|| format!("invalid syslog facility: {name}"))?;
        let tag = self.option("tag").filter(|t| !t.is_empty()).unwrap_or("holdfast");
        if tag.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("invalid tag {tag:?}: it is one word"));
        }
        Ok(Target::Syslog { facility, tag: tag.to_owned(), address: self.option("address").map(PathBuf::from) })
    }

    fn http(&self) -> Result<Target, String> {
        let uri = self.option("uri").filter(|u| !u.is_empty()).ok_or("uri is required")?;
        let mut headers = Vec::new();
        if let Some(text) = self.option("headers") {
            let parsed: BTreeMap<String, Vec<String>> =
                serde_json::from_str(text).map_err(|e| format!("failed to parse headers: {e}"))?;
            for (name, values) in parsed {
                headers.extend(values.into_iter().map(|value| (name.clone(), value)));
            }
        }
        Ok(Target::Http { uri: uri.to_owned(), headers })
    }
}

/// RFC 5424, 6.2.1.
const FACILITIES: [(&str, u8); 20] = [
    ("KERN", 0),
    ("USER", 1),
    ("MAIL", 2),
    ("DAEMON", 3),
    ("AUTH", 4),
    ("SYSLOG", 5),
    ("LPR", 6),
    ("NEWS", 7),
    ("UUCP", 8),
    ("CRON", 9),
    ("AUTHPRIV", 10),
    ("FTP", 11),
    ("LOCAL0", 16),
    ("LOCAL1", 17),
    ("LOCAL2", 18),
    ("LOCAL3", 19),
    ("LOCAL4", 20),
    ("LOCAL5", 21),
    ("LOCAL6", 22),
    ("LOCAL7", 23),
];

/// The words for yes and no that the reference has.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}
