//! What can be wrong with a document, and where.

use crate::Position;

/// Why a document was refused, and at which place.
///
/// Shown as `at LINE:COLUMN: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {position}: {kind}")]
pub struct Error {
    /// Where it is wrong.
    pub position: Position,
    /// What is wrong.
    pub kind: ErrorKind,
}

impl Error {
    /// An error at a place.
    pub fn new(position: Position, kind: ErrorKind) -> Error {
        Error { position, kind }
    }
}

/// What is wrong with a document. Values are not shown: they may be secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something else stands where a certain thing must stand.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What may stand here.
        expected: &'static str,
        /// What stands here.
        found: String,
    },
    /// A character that begins nothing.
    #[error("unexpected character {0:?}")]
    Character(char),
    /// A string without its closing quote on the same line.
    #[error("the string that begins here is not closed on its line")]
    OpenString,
    /// A `/*` without `*/`.
    #[error("the comment that begins here is not closed")]
    OpenComment,
    /// A heredoc whose marker does not come again.
    #[error("the heredoc that begins here has no closing line {0:?}")]
    OpenHeredoc(String),
    /// `<<` without a marker and a line end.
    #[error("a heredoc begins with `<<NAME` or `<<-NAME` and a line end")]
    HeredocMarker,
    /// A `\` with something behind it that is no escape.
    #[error("unknown escape in a string; write a backslash itself as `\\\\`")]
    Escape,
    /// Digits that are no number.
    #[error("this is not a number; text, durations and sizes need quotes, as in \"10m\"")]
    Number,
    /// Two names before a `=`.
    #[error("{0:?} has a label and `=`; a block with a label has no `=`")]
    LabelledAttribute(String),
    /// An object or list in too many others.
    #[error("nested deeper than {} levels", crate::MAX_DEPTH)]
    TooDeep,
    /// A document past the bound.
    #[error("the document has {0} bytes; at most {max} are read", max = crate::MAX_BYTES)]
    TooLarge(usize),
    /// A byte that is no UTF-8.
    #[error("the document is not UTF-8")]
    NotUtf8,
    /// A document in JSON, which has no form to be put into.
    #[error("the document is JSON; only HCL is formatted")]
    JsonNotFormatted,
    /// A block where the reader wants labels that are not there.
    #[error("{name:?} needs a quoted name, as in `{name} \"…\" {{ … }}`")]
    LabelMissing {
        /// The name of the block.
        name: String,
    },
    /// A block with a label that the reader does not want.
    #[error("{name:?} has the label {label:?}, which has no meaning here")]
    LabelUnexpected {
        /// The name of the block.
        name: String,
        /// The first label too many.
        label: String,
    },
    /// A value where a block is needed.
    #[error("{name:?} must be a block, not {found}")]
    NotABlock {
        /// The name of the block.
        name: String,
        /// The kind of value that stands there.
        found: &'static str,
    },
}
