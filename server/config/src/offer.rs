//! What the caller brings: the kinds that its build has, and the environment.

/// The storages and seals that exist in this build, and the variables that
/// may stand for keys of a file.
#[derive(Clone, Copy)]
pub struct Offer<'a> {
    /// The kinds of `storage`, as in `["inmem", "file"]`.
    pub storages: &'a [&'a str],
    /// The kinds of `seal`, as in `["shamir", "pkcs11", "software"]`.
    pub seals: &'a [&'a str],
    /// Gives the value of an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// Names of variables begin with one of these; the first that is set counts.
pub(crate) const PREFIXES: [&str; 3] = ["HOLDFAST", "BAO", "VAULT"];

impl Offer<'_> {
    /// The first variable `PREFIX_suffix` that is set and not empty, with its
    /// name.
    pub fn variable(&self, suffix: &str) -> Option<(String, String)> {
        PREFIXES.iter().find_map(|prefix| {
            let name = format!("{prefix}_{suffix}");
            let value = (self.environment)(&name).filter(|value| !value.is_empty())?;
            Some((name, value))
        })
    }
}

/// The environment of the process.
pub(crate) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl<'a> Offer<'a> {
    /// These kinds, with the environment of the process.
    pub fn new(storages: &'a [&'a str], seals: &'a [&'a str]) -> Offer<'a> {
        Offer { storages, seals, environment: &process_environment }
    }
}
