//! Which of the seals that the files name opens the store, and which one it comes from.

use crate::{Config, ConfigError, ConfigErrorKind, Seal, SealKind};

/// The seals of a configuration by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SealsInUse<'a> {
    /// What opens the store; `None`: Shamir's shares.
    pub present: Option<&'a SealKind>,
    /// What opened it before: `disabled = "true"` stands in its stanza.
    pub former: Option<&'a SealKind>,
}

impl Config {
    /// The seal that opens the store, and the one that it is migrated from.
    ///
    /// # Errors
    /// Several of either, of which nobody knows which counts.
    pub fn seals_in_use(&self) -> Result<SealsInUse<'_>, ConfigError> {
        let (disabled, enabled): (Vec<&Seal>, Vec<&Seal>) = self.seals.iter().partition(|seal| seal.disabled);
        let refused = |seal: &Seal, text: &str| {
            Err(ConfigError { place: seal.place.clone(), kind: ConfigErrorKind::Conflict(text.to_owned()) })
        };
        if let [_, second, ..] = enabled[..] {
            return refused(
                second,
                "several seals at once are not offered: keep the stanza of the one that is to open the store, and write \
                 disabled = \"true\" into that of the one which it is migrated from",
            );
        }
        if let [_, second, ..] = disabled[..] {
            return refused(
                second,
                "two seals are disabled, and a store is migrated from one: take away the stanza of the one that does not \
                 seal it",
            );
        }
        let present = enabled.first().map(|seal| &seal.kind);
        if let (None, [only]) = (present, &disabled[..])
            && only.kind == SealKind::Shamir
        {
            return refused(
                only,
                "seal \"shamir\" is disabled and no other seal is named: name the one that the store is migrated to",
            );
        }
        let is_device = |kind: &&SealKind| **kind != SealKind::Shamir;
        Ok(SealsInUse {
            present: present.filter(is_device),
            // Shares are with people: there is nothing to set up for them.
            former: disabled.first().map(|seal| &seal.kind).filter(is_device),
        })
    }
}
