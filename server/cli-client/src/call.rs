//! One call of a command: what it was given and where it prints.

use crate::client::{Client, Settings};
use crate::commands::Command;
use crate::console::Console;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::flags::Flags;
use crate::output::Format;

pub struct Call<'a> {
    pub command: &'static Command,
    pub flags: Flags,
    pub args: Vec<String>,
    pub format: Format,
    pub console: &'a Console,
    pub environment: &'a Environment,
}

impl Call<'_> {
    /// A client as flags and environment say.
    pub fn client(&self) -> Result<Client, Failure> {
        Settings::of(&self.flags, &self.args, self.environment).and_then(Client::new).map_err(Failure::refused)
    }

    /// Exactly `count` arguments, or a usage failure.
    pub fn exactly(&self, count: usize) -> Result<(), Failure> {
        self.between(count, count, &count.to_string())
    }

    /// From `least` to `most` arguments; `expected` is how the failure says it.
    pub fn between(&self, least: usize, most: usize, expected: &str) -> Result<(), Failure> {
        let got = self.args.len();
        let wrong = match got {
            n if n < least => "Not enough",
            n if n > most => "Too many",
            _ => return Ok(()),
        };
        Err(Failure::usage(format!("{wrong} arguments (expected {expected}, got {got})")))
    }

    /// The field that alone is wanted.
    pub fn field(&self) -> Option<&str> {
        self.flags.text("field").filter(|f| !f.is_empty())
    }

    /// The argument at `index`; the empty text where there is none.
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// Says that it went well, in the table format; the others print nothing then.
    pub fn success(&self, line: impl std::fmt::Display) -> Outcome {
        self.console.say(format_args!("Success! {line}"));
        Ok(0)
    }
}

/// A path as the API takes it: no slash at its ends. Blanks stay: a name may begin and end with them.
pub fn sanitized(path: &str) -> String {
    path.trim_matches('/').to_string()
}

/// A mount's path: without a slash before, with one behind.
pub fn with_slash(path: &str) -> String {
    let path = path.trim();
    if path.ends_with('/') { path.to_string() } else { format!("{path}/") }
}
