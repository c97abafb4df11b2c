//! Why a policy's text was refused.

use holdfast_hcl::Position;

/// Why a policy was refused, and where.
///
/// Shown as `at LINE:COLUMN: path "…": what is wrong`. The caller puts
/// `failed to parse policy: ` before it where a client expects that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {position}: {}{kind}", self.place())]
pub struct PolicyError {
    /// Where in the text.
    pub position: Position,
    /// The path of the rule in which it is wrong.
    pub path: Option<String>,
    /// What is wrong.
    pub kind: PolicyErrorKind,
}

impl PolicyError {
    pub(crate) fn new(position: Position, kind: PolicyErrorKind) -> PolicyError {
        PolicyError { position, path: None, kind }
    }

    fn place(&self) -> String {
        match &self.path {
            Some(path) => format!("path {path:?}: "),
            None => String::new(),
        }
    }
}

impl From<holdfast_hcl::Error> for PolicyError {
    fn from(error: holdfast_hcl::Error) -> PolicyError {
        PolicyError::new(error.position, PolicyErrorKind::Syntax(error.kind))
    }
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyErrorKind {
    /// Not HCL, or not in the form of a policy.
    #[error("{0}")]
    Syntax(holdfast_hcl::ErrorKind),
    /// A key that no policy has.
    #[error("invalid key {key:?}; known here are {known}")]
    Key {
        /// The key.
        key: String,
        /// The keys that may stand there.
        known: String,
    },
    /// A capability that does not exist.
    #[error("invalid capability {0:?}; capabilities are create, read, update, patch, delete, list, scan, sudo, deny")]
    Capability(String),
    /// An old `policy = "…"` that does not exist.
    #[error("invalid policy {0:?}; it may be read, write, sudo or deny (better: capabilities)")]
    OldPolicy(String),
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
    /// A string that cannot be read as what it should be.
    #[error("{key}: {value:?} is not {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value given.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// `+*` in a path.
    #[error("invalid use of wildcards ('+*' is forbidden); end the path in `+/*` or `*`")]
    PlusStar,
    /// `{{` without `}}` or the other way round.
    #[error("unbalanced templating characters in the path; a template is `{{{{identity.…}}}}`")]
    Template,
    /// A maximum below the minimum.
    #[error("max_wrapping_ttl cannot be less than min_wrapping_ttl")]
    WrappingTtl,
    /// A filter template that cannot be read.
    #[error("list_scan_response_keys_filter_path: {0:?} is no template of text, {{{{ .path }}}} and {{{{ .key }}}}")]
    FilterTemplate(String),
    /// A filter template that gives every key the same path.
    #[error(
        "list_scan_response_keys_filter_path resulted in same path for two different keys; it must hold {{{{ .key }}}}"
    )]
    FilterWithoutKey,
}
