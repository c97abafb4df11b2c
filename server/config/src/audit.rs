//! `audit`: where every request and answer is written down.

use holdfast_hcl::{Block, Value};

use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, Warning};

/// `audit "TYPE" "PATH"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditDevice {
    /// What it is.
    pub kind: AuditKind,
    /// Its path, ending in `/`.
    pub path: String,
    /// A remark.
    pub description: String,
    /// Not replicated.
    pub local: bool,
    /// Its options, as the device itself reads them.
    pub options: Vec<(String, String)>,
}

/// The kinds of audit device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditKind {
    /// A file.
    File,
    /// The system's log.
    Syslog,
    /// A socket.
    Socket,
    /// A server reached by HTTP.
    Http,
}

impl AuditKind {
    /// The name in files and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            AuditKind::File => "file",
            AuditKind::Syslog => "syslog",
            AuditKind::Socket => "socket",
            AuditKind::Http => "http",
        }
    }
}

/// Reads one `audit` block.
pub(crate) fn read(
    top: &Stanza<'_>,
    block: &Block<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<AuditDevice, ConfigError> {
    let kinds = [AuditKind::File, AuditKind::Syslog, AuditKind::Socket, AuditKind::Http];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == block.label(0)).ok_or_else(|| {
        let offered: Vec<&str> = kinds.into_iter().map(AuditKind::as_str).collect();
        let kind =
            ConfigErrorKind::NotOffered { what: "audit", name: block.label(0).to_owned(), offered: offered.join(", ") };
        top.error(block.labels[0].position, kind)
    })?;
    let path = block.label(1).trim_matches('/');
    if path.is_empty() {
        let kind = ConfigErrorKind::Value {
            key: "the path of audit".to_owned(),
            value: block.label(1).to_owned(),
            expected: "a path, as in audit \"file\" \"main\"".to_owned(),
        };
        return Err(top.error(block.labels[1].position, kind));
    }
    let mut s = top.inner("audit", block);
    let device = AuditDevice {
        kind,
        path: format!("{path}/"),
        description: s.string("description")?.unwrap_or_default(),
        local: s.bool("local")?.unwrap_or(false),
        options: options(&mut s)?,
    };
    s.finish(warnings);
    Ok(device)
}

fn options(s: &mut Stanza<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut options = Vec::new();
    for block in s.blocks("options", 0)? {
        for item in &block.body.items {
            let value = match &item.node.value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.as_text().to_owned(),
                Value::Bool(value) => value.to_string(),
                _ => {
                    let kind = ConfigErrorKind::Type {
                        key: format!("{} in options of {}", item.name(), s.name),
                        expected: "a string, number or boolean",
                        found: item.node.kind(),
                    };
                    return Err(s.error(item.node.position, kind));
                }
            };
            options.push((item.name().to_owned(), value));
        }
    }
    Ok(options)
}
