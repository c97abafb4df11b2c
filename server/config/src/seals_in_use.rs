//! Which of the seals that the files name open the store, in which order, and which one it comes from.

use crate::{Config, ConfigError, ConfigErrorKind, Seal, SealKind};

/// Each is asked at an unseal and wraps each new root key, so there are not many.
pub const MOST_SEALS: usize = 3;

/// The seals of a configuration by what they are for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SealsInUse<'a> {
    /// What opens the store, in the order in which it is asked; none: Shamir's shares.
    pub present: Vec<SealInUse<'a>>,
    /// What opened it before: `disabled = "true"` stands in its stanza.
    pub former: Option<SealInUse<'a>>,
}

/// A seal with what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealInUse<'a> {
    pub kind: &'a SealKind,
    /// As its stanza says; of several: else its type.
    pub name: Option<String>,
    /// The lower is asked first.
    pub priority: u32,
}

impl<'a> SealInUse<'a> {
    fn of(seal: &'a Seal, is_one_of_several: bool) -> SealInUse<'a> {
        let name = seal.name.clone().or_else(|| is_one_of_several.then(|| seal.kind.word().to_owned()));
        let priority = seal.priority.and_then(|p| u32::try_from(p).ok()).unwrap_or(0);
        SealInUse { kind: &seal.kind, name, priority }
    }

    /// Its name, or its type where it has none.
    pub fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.kind.word())
    }
}

fn refused<T>(seal: &Seal, text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { place: seal.place.clone(), kind: ConfigErrorKind::Conflict(text.into()) })
}

impl Config {
    /// The seals that open the store, and the one that it is migrated from.
    ///
    /// # Errors
    /// Several of which nobody knows which is which, or which comes first; several that are disabled.
    pub fn seals_in_use(&self) -> Result<SealsInUse<'_>, ConfigError> {
        let (disabled, enabled): (Vec<&Seal>, Vec<&Seal>) = self.seals.iter().partition(|seal| seal.disabled);
        if enabled.len() > 1 {
            self.can_be_told_apart(&enabled)?;
        }
        if let [_, second, ..] = disabled[..] {
            return refused(
                second,
                "two seals are disabled, and a store is migrated from one: take away the stanza of the one that does not \
                 seal it",
            );
        }
        if let (true, [only]) = (enabled.is_empty(), &disabled[..])
            && only.kind == SealKind::Shamir
        {
            return refused(
                only,
                "seal \"shamir\" is disabled and no other seal is named: name the one that the store is migrated to",
            );
        }
        let is_device = |seal: &&&Seal| seal.kind != SealKind::Shamir;
        let several = enabled.len() > 1;
        let mut present: Vec<SealInUse<'_>> =
            enabled.iter().filter(is_device).map(|seal| SealInUse::of(seal, several)).collect();
        present.sort_by_key(|seal| seal.priority);
        Ok(SealsInUse {
            present,
            // Shares are with people: there is nothing to set up for them.
            former: disabled.iter().find(is_device).map(|seal| SealInUse::of(seal, several)),
        })
    }

    /// Several seals that are there at once have names and an order.
    fn can_be_told_apart(&self, enabled: &[&Seal]) -> Result<(), ConfigError> {
        if self.enable_multiseal == Some(false) {
            return refused(
                enabled[1],
                "there are several seals, and enable_multiseal = false: take that line away, or keep one stanza (with \
                 disabled = \"true\" in that of the seal which the store is migrated from)",
            );
        }
        if let Some(more) = enabled.get(MOST_SEALS) {
            return refused(more, format!("there are more than {MOST_SEALS} seals, which is the most: remove some"));
        }
        for (at, seal) in enabled.iter().enumerate() {
            if seal.kind == SealKind::Shamir {
                return refused(
                    seal,
                    "shares cannot be one of several seals: take the stanza of seal \"shamir\" away, or those of the others",
                );
            }
            let name = |seal: &Seal| seal.name.clone().unwrap_or_else(|| seal.kind.word().to_owned());
            if enabled[..at].iter().any(|other| name(other) == name(seal)) {
                let text = format!("two seals are called {:?}: give each a name of its own", name(seal));
                return refused(seal, text);
            }
            let Some(priority) = seal.priority else {
                return refused(
                    seal,
                    format!(
                        "there are several seals: say with priority which is asked first, also for {:?} (or write disabled = \"true\" \
                         into the one that the store is migrated from)",
                        name(seal)
                    ),
                );
            };
            if let Some(other) = enabled[..at].iter().find(|other| other.priority == Some(priority)) {
                let text = format!(
                    "the seals {:?} and {:?} have the same priority ({priority}): the lower is asked first, so each needs \
                     its own",
                    name(other),
                    name(seal)
                );
                return refused(seal, text);
            }
        }
        Ok(())
    }
}
