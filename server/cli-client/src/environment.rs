//! The environment's settings: `HOLDFAST_X` before `BAO_X` before `VAULT_X`.

use std::collections::HashMap;

/// Prefixes of a setting's name, the winner first.
const PREFIXES: [&str; 3] = ["HOLDFAST", "BAO", "VAULT"];

/// What the process was started with. A setting is asked for by its bare name (`ADDR`).
pub struct Environment {
    variables: HashMap<String, String>,
}

/// A setting that is there, perhaps empty, and the full name of the variable that gave it.
pub struct Setting<'a> {
    pub value: &'a str,
    pub variable: String,
}

impl Environment {
    pub fn of_process() -> Environment {
        let variables = std::env::vars_os()
            .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
            .collect();
        Environment { variables }
    }

    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Environment {
        let variables = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Environment { variables }
    }

    /// The first variable that is set, by rank. Set but empty, it still hides the ones after it.
    pub fn setting(&self, name: &str) -> Option<Setting<'_>> {
        PREFIXES.iter().find_map(|prefix| {
            let variable = format!("{prefix}_{name}");
            let value = self.variables.get(&variable)?;
            Some(Setting { value, variable })
        })
    }

    /// The setting's value, unless it is absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.setting(name).map(|s| s.value).filter(|v| !v.is_empty())
    }

    /// A variable by its full name.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The user's name.
    pub fn user(&self) -> Option<&str> {
        ["USER", "LOGNAME"].iter().find_map(|n| self.variables.get(*n)).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The user's home folder.
    pub fn home(&self) -> Option<&str> {
        self.variable("HOME").filter(|v| !v.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_name_wins_over_the_older_ones() {
        let e = Environment::of(&[("VAULT_ADDR", "v"), ("BAO_ADDR", "b"), ("HOLDFAST_ADDR", "h")]);
        assert_eq!(e.text("ADDR"), Some("h"));
        let e = Environment::of(&[("VAULT_ADDR", "v"), ("BAO_ADDR", "b")]);
        assert_eq!(e.text("ADDR"), Some("b"));
        assert_eq!(e.setting("ADDR").map(|s| s.variable), Some("BAO_ADDR".to_string()));
    }

    #[test]
    fn an_empty_variable_hides_the_ones_after_it() {
        let e = Environment::of(&[("VAULT_TOKEN", "v"), ("BAO_TOKEN", "")]);
        assert_eq!(e.text("TOKEN"), None);
    }
}
