//! Why a request has no answer.

use std::fmt;
use std::io;

use serde_json::Value;

use super::Answer;
use crate::secret::Secret;

pub enum Error {
    /// The server answered with 400 or more.
    Api(ApiError),
    /// No answer came.
    Transport { method: &'static str, url: String, cause: String },
    /// An answer came that cannot be used.
    Unreadable(String),
    /// The request cannot be made at all.
    Unusable(String),
    /// Nothing was sent: this is the request, shown.
    Rehearsed(String),
}

/// What the server said.
pub struct ApiError {
    pub status: u16,
    method: &'static str,
    url: String,
    namespace: String,
    errors: Vec<String>,
    /// The errors are the body itself, which was not in the API's form.
    is_raw: bool,
    /// A 404 may carry warnings, or the metadata of what was deleted.
    pub secret: Option<Box<Secret>>,
}

impl ApiError {
    pub fn of(method: &'static str, url: String, namespace: &str, answer: &Answer) -> ApiError {
        let listed = serde_json::from_slice::<Value>(&answer.body)
            .ok()
            .and_then(|body| body.get("errors").cloned())
            .and_then(|errors| errors.as_array().cloned());
        let (errors, is_raw) = match listed {
            Some(errors) => (errors.iter().filter_map(Value::as_str).map(str::to_string).collect(), false),
            None => (vec![String::from_utf8_lossy(&answer.body).into_owned()], true),
        };
        let telling = |s: &Secret| !s.warnings().is_empty() || s.data.as_ref().is_some_and(|d| !d.is_empty());
        let secret = match answer.status {
            404 => Secret::parse(&answer.body).ok().flatten().filter(telling).map(Box::new),
            _ => None,
        };
        let namespace = namespace.to_string();
        ApiError { status: answer.status, method, url, namespace, errors, is_raw, secret }
    }

    /// Whether one of the server's errors holds these words.
    pub fn says(&self, words: &str) -> bool {
        self.errors.iter().any(|e| e.contains(words))
    }
}

impl Error {
    /// The status of the server's answer, if it was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Api(e) => Some(e.status),
            _ => None,
        }
    }

    /// What the server gave beside its error.
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Error::Api(e) => e.secret.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Api(e) => e.fmt(f),
            Error::Transport { method, url, cause } => {
                let (first, rest) = method.split_at(1);
                write!(f, "{first}{} {url:?}: {cause}", rest.to_lowercase())
            }
            Error::Unreadable(why) | Error::Unusable(why) | Error::Rehearsed(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error making API request.\n\n")?;
        if !self.namespace.is_empty() {
            writeln!(f, "Namespace: {}", self.namespace)?;
        }
        write!(f, "URL: {} {}\nCode: {}. ", self.method, self.url, self.status)?;
        if self.is_raw {
            return write!(f, "Raw Message:\n\n{}", self.errors.concat());
        }
        write!(f, "Errors:\n\n")?;
        for (i, error) in self.errors.iter().enumerate() {
            write!(f, "{}* {error}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// An operating system's error without the number behind it, in small letters.
pub fn os_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}
