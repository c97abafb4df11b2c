//! How a command ends when it does not succeed.

use std::fmt::Display;

/// A command's end that is not its ordinary result. The dispatcher prints it and exits.
pub enum Failure {
    /// The message goes to stderr.
    Stop { code: i32, message: String },
    /// Nothing was sent: the text (a `curl` line, a policy) goes to stdout and the exit is 0.
    Rehearsed(String),
}

/// An exit code, or why there is none.
pub type Outcome = Result<i32, Failure>;

impl Failure {
    /// Wrong use: arguments, flags, data, formats. Exit 1.
    pub fn usage(message: impl Display) -> Failure {
        Failure::Stop { code: 1, message: message.to_string() }
    }

    /// The server refused, could not be reached, or has nothing there. Exit 2.
    pub fn refused(message: impl Display) -> Failure {
        Failure::Stop { code: 2, message: message.to_string() }
    }

    /// The same failure with another exit code.
    pub fn with_code(self, code: i32) -> Failure {
        match self {
            Failure::Stop { message, .. } => Failure::Stop { code, message },
            other => other,
        }
    }
}

/// Says what was being done when a request failed.
pub trait Explain<T> {
    /// `WHAT: error`, exit 2.
    fn explain(self, what: impl Display) -> Result<T, Failure>;
    /// The error alone, exit 2.
    fn bare(self) -> Result<T, Failure>;
}

impl<T> Explain<T> for Result<T, crate::client::Error> {
    fn explain(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|e| match e {
            crate::client::Error::Rehearsed(text) => Failure::Rehearsed(text),
            e => Failure::refused(format!("{what}: {e}")),
        })
    }

    fn bare(self) -> Result<T, Failure> {
        self.map_err(|e| match e {
            crate::client::Error::Rehearsed(text) => Failure::Rehearsed(text),
            e => Failure::refused(e),
        })
    }
}
