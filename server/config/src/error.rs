//! What can be wrong with a configuration, and what is only worth a word.

use std::fmt;
use std::path::PathBuf;

use holdfast_hcl::Position;

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line and column.
    pub position: Position,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.position)
    }
}

/// Something that has no effect. Shown as `FILE:LINE:COLUMN: text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands; `None` for what comes from the environment.
    pub place: Option<Place>,
    /// What it is, and why it has no effect.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Why a configuration was refused. Shown as `FILE:LINE:COLUMN: text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it is wrong; `None` if it is no place in a file.
    pub place: Option<Place>,
    /// What is wrong.
    pub kind: ConfigErrorKind,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// An error that has no place in a file.
    pub(crate) fn without_place(kind: ConfigErrorKind) -> ConfigError {
        ConfigError { place: None, kind }
    }
}

/// What is wrong with a configuration. No value of a secret is shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// A file or folder that cannot be read.
    #[error("{path}: {reason}; check the path given with -config, and that the server's user may read it")]
    Read {
        /// The path.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A folder without configuration files.
    #[error("{path}: the folder has no file that ends in .hcl or .json")]
    NoFiles {
        /// The folder.
        path: String,
    },
    /// Not HCL, or not in the form that is needed.
    #[error("{0}")]
    Syntax(holdfast_hcl::ErrorKind),
    /// A value of the wrong kind.
    #[error("{key} must be {expected}, not {found}")]
    Type {
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value that cannot be used. The value itself is not shown where it
    /// may be a secret.
    #[error("{key} {value:?} is not {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// A key that must be there.
    #[error("{stanza} needs {key}; {next}")]
    Missing {
        /// The stanza.
        stanza: String,
        /// The key that is missing.
        key: &'static str,
        /// What to do.
        next: &'static str,
    },
    /// Two keys of which only one may stand there.
    #[error("{stanza} has both {first} and {second}; keep one of them")]
    Both {
        /// The stanza.
        stanza: String,
        /// The one key.
        first: &'static str,
        /// The other key.
        second: &'static str,
    },
    /// A storage, seal, listener or audit device that does not exist here.
    #[error("{what} {name:?} is not offered by Holdfast; there are: {offered}")]
    NotOffered {
        /// The stanza's name.
        what: &'static str,
        /// The kind asked for.
        name: String,
        /// The kinds that exist.
        offered: String,
    },
    /// A stanza that may stand once only.
    #[error("a second {0}; only one is used, so remove the others")]
    Twice(String),
    /// A stanza that must stand exactly once.
    #[error("exactly one {0:?} block is required")]
    NotOne(&'static str),
    /// A stanza that is refused.
    #[error("{what} is not offered by Holdfast; {next}")]
    Refused {
        /// The stanza.
        what: &'static str,
        /// What to do.
        next: &'static str,
    },
    /// A value that does not fit to another.
    #[error("{0}")]
    Conflict(String),
    /// A variable of the environment that cannot be used. Its value is not
    /// shown.
    #[error("the environment variable {name} is not {expected}; correct or unset it")]
    Environment {
        /// The variable.
        name: String,
        /// What it must be.
        expected: String,
    },
    /// A variable of the environment that could belong to several stanzas.
    #[error(
        "{name} is set, and there are {count} seals of that kind; unset it and write the value into the stanza it belongs to"
    )]
    EnvironmentAmbiguous {
        /// The variable.
        name: String,
        /// How many stanzas there are.
        count: usize,
    },
}
