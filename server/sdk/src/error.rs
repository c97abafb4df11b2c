//! What a handler answers when it cannot do what was asked.

/// A failed request. The HTTP layer turns it into `{"errors":[…]}` with the status that belongs to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400: the request is wrong; the texts say what.
    #[error("{}", .0.join("; "))]
    BadRequest(Vec<String>),
    /// 403.
    #[error("permission denied")]
    PermissionDenied,
    /// 400 with a text: wrong credentials. It counts as a failed login of whom
    /// [`Backend::login_name`](crate::Backend::login_name) names.
    #[error("{0}")]
    LoginRefused(String),
    /// 404 with an empty list of errors.
    #[error("not found")]
    NotFound,
    /// 404: the mount has no such path.
    #[error("unsupported path")]
    UnsupportedPath,
    /// 405: the path has no such operation.
    #[error("unsupported operation")]
    UnsupportedOperation,
    /// Any status with its texts.
    #[error("{}", .1.join("; "))]
    Status(u16, Vec<String>),
    /// The transaction must run again; never reaches a client.
    #[error("the transaction read what has changed since")]
    Conflict,
    /// 503.
    #[error("{0}")]
    Unavailable(String),
    /// 500: what is outside could not be reached, or did not answer in time. Where that happens again and again and
    /// takes long, others are spared the waiting.
    #[error("{0}")]
    Unreachable(String),
    /// 500; the text is for the operator and holds no secret.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    pub fn bad_request(text: impl Into<String>) -> Error {
        Error::BadRequest(vec![text.into()])
    }
    /// The same with another text, whatever class it is of.
    #[must_use]
    pub fn say(self, text: impl FnOnce(&str) -> String) -> Error {
        let said = text(&self.to_string());
        match self {
            Error::Unreachable(_) => Error::Unreachable(said),
            _ => Error::Internal(said),
        }
    }
    pub fn internal(cause: impl std::fmt::Display) -> Error {
        Error::Internal(cause.to_string())
    }
}
