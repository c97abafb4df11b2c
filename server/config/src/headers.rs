//! `custom_response_headers`: headers that a listener adds to its answers.

use holdfast_hcl::{Node, Value};

use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, Warning};

/// The headers for one kind of status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHeaders {
    /// Which answers get them.
    pub status: HeaderStatus,
    /// Names and values; several values give several headers.
    pub headers: Vec<(String, Vec<String>)>,
}

/// For which status a header is added. Of several that fit, the most exact
/// counts for a header of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderStatus {
    /// Every answer.
    Default,
    /// All of a hundred: 2 is `2xx`.
    Hundred(u16),
    /// One status.
    Exactly(u16),
}

impl HeaderStatus {
    fn parse(text: &str) -> Option<HeaderStatus> {
        if text == "default" {
            return Some(HeaderStatus::Default);
        }
        let digits = |text: &str, range: std::ops::RangeInclusive<u16>| {
            text.parse().ok().filter(|number| range.contains(number))
        };
        match text.strip_suffix("xx") {
            Some(hundred) => digits(hundred, 1..=5).map(HeaderStatus::Hundred),
            None => digits(text, 100..=599).map(HeaderStatus::Exactly),
        }
    }
}

pub(crate) fn read(stanza: &mut Stanza<'_>, warnings: &mut Vec<Warning>) -> Result<Vec<ResponseHeaders>, ConfigError> {
    let mut all = Vec::new();
    let Some(headers) = stanza.block("custom_response_headers")? else {
        return Ok(all);
    };
    for item in &headers.object.items {
        let status = HeaderStatus::parse(item.name()).ok_or_else(|| {
            let kind = ConfigErrorKind::Value {
                key: "the status in custom_response_headers".to_owned(),
                value: item.name().to_owned(),
                expected: "\"default\", a status as in \"404\", or a hundred as in \"4xx\"".to_owned(),
            };
            headers.error(item.position(), kind)
        })?;
        let wrong = |node: &Node| {
            let kind = ConfigErrorKind::Type {
                key: format!("custom_response_headers {:?}", item.name()),
                expected: "a map of header names to lists of values without line ends",
                found: node.kind(),
            };
            headers.error(node.position, kind)
        };
        let object = item.node.as_object().ok_or_else(|| wrong(&item.node))?;
        let mut named = Vec::new();
        for header in &object.items {
            let values = values(&header.node).ok_or_else(|| wrong(&header.node))?;
            if !is_name(header.name()) {
                let kind = ConfigErrorKind::Value {
                    key: "the header in custom_response_headers".to_owned(),
                    value: header.name().to_owned(),
                    expected: "the name of a header".to_owned(),
                };
                return Err(headers.error(header.position(), kind));
            }
            if header.name().to_ascii_lowercase().starts_with("x-vault-") {
                let text = format!(
                    "the header {:?} has no effect: names that begin with X-Vault- are the server's own",
                    header.name()
                );
                warnings.push(headers.warning(header.position(), text));
                continue;
            }
            named.push((header.name().to_owned(), values));
        }
        all.push(ResponseHeaders { status, headers: named });
    }
    Ok(all)
}

fn values(node: &Node) -> Option<Vec<String>> {
    let one = |node: &Node| {
        let text = node.as_str()?;
        let clean = text.chars().all(|c| !c.is_control());
        clean.then(|| text.to_owned())
    };
    match &node.value {
        Value::List(nodes) => nodes.iter().map(one).collect(),
        _ => one(node).map(|value| vec![value]),
    }
}

/// Whether a text is a token of RFC 9110.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
