//! `seal "static"`: the reference's seal by a key that was given. Whoever has
//! the key and the store has everything, so it is for tests, and for places
//! where something else guards the key.

use crate::stanza::Stanza;
use crate::{ConfigError, Pin, PinSource};

/// `seal "static"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticSeal {
    /// The key that seals.
    pub current: StaticKey,
    /// The key before it, which still opens.
    pub previous: Option<StaticKey>,
}

/// An AES-256 key with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticKey {
    /// The name, which never means another key.
    pub id: String,
    /// The key: 32 bytes as they are, in hex, or in base64.
    pub key: PinSource,
}

pub(crate) fn read(s: &mut Stanza<'_>) -> Result<StaticSeal, ConfigError> {
    let current = key(s, "current_key_id", "current_key")?;
    let next = "set it to \"file:///PATH\" or \"env://NAME\" of an AES-256 key";
    Ok(StaticSeal {
        current: current.ok_or_else(|| s.missing("current_key", next))?,
        previous: key(s, "previous_key_id", "previous_key")?,
    })
}

fn key(s: &mut Stanza<'_>, id_key: &'static str, key_key: &'static str) -> Result<Option<StaticKey>, ConfigError> {
    let (id, text) = (s.text(id_key)?, s.text(key_key)?);
    let Some(text) = text else {
        return Ok(None);
    };
    let key = if let Some(path) = text.strip_prefix("file://") {
        PinSource::File(path.into())
    } else if let Some(name) = text.strip_prefix("env://") {
        PinSource::Environment(name.to_owned())
    } else if matches!(text.len(), 32 | 43 | 44 | 64) {
        PinSource::Given(Pin::new(text))
    } else {
        // The value is not shown: it is a key.
        let expected = "32 bytes as they are, in hex or in base64; \"file://…\" or \"env://…\" name where they are";
        return Err(s.wrong(key_key, "…", expected));
    };
    let next = "give the key a name that will never mean another key";
    let id = id.ok_or_else(|| s.missing(id_key, next))?;
    Ok(Some(StaticKey { id, key }))
}
