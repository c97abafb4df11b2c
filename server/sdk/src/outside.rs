//! Acts outside the store: a user in a database, a key in somebody else's cloud.
//!
//! What is made outside cannot be rolled back with a transaction, and must not be forgotten. A
//! request that acts outside goes this way:
//!
//! 1. `prepare`, once: what is slow or random (a password).
//! 2. *intend*, in a first transaction: the engine reads its role and its connection and names exactly
//!    what it is about to make, an [`Act`]. The core commits it as an *intent* with a deadline.
//! 3. [`Backend::effect`](crate::Backend::effect), outside every transaction and latch, with a time-out.
//! 4. The operation's handler, in a second transaction, finds what was done in
//!    [`Call::done`](crate::Call::done). What it writes, and the lease of its answer, are committed
//!    together with the end of the intent.
//!
//! If anything of this fails, or the server dies in between, the core takes it back:
//! [`Backend::reach`](crate::Backend::reach) in a transaction, then
//! [`Backend::undo`](crate::Backend::undo); and once more a while later, since an act that nobody waits
//! for any more may still happen. `undo` is therefore idempotent: what is not there counts as undone.
//! The statement of an act should carry an end of its own where the target has such (`VALID UNTIL`).
//!
//! A lease on what was made keeps the same [`Outside`]; renewing and revoking it go the same way
//! (`reach`, then the act), so an engine writes one `reach` for all of them.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;

/// Work outside.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an act needs beside its [`Outside`]: the connection, statements, a new password. In memory only.
pub type Means = Arc<dyn Any + Send + Sync>;

/// What is made outside: enough to find it again and undo, renew or revoke it, and no secret in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Where it is, for example the connection's name. Acts on one target are bounded in number.
    pub target: String,
    /// Its exact name there.
    pub name: String,
    /// The engine's own record of it, see [`record`](crate::record).
    pub record: Vec<u8>,
}

/// What a request is about to do outside.
pub struct Act {
    pub outside: Outside,
    pub means: Means,
    /// How long the act may take; at most five minutes. The target should be told a shorter one.
    pub time_out: Duration,
}

/// What was done outside for a request.
pub struct Done {
    pub outside: Outside,
    /// Those of the [`Act`].
    pub means: Means,
    /// What `effect` returned.
    pub result: Means,
}

/// An act that failed.
#[derive(Debug)]
pub enum Failure {
    /// Certainly nothing was made: there is nothing to undo.
    Nothing(Error),
    /// It may be there, whole or in part.
    Uncertain(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Uncertain(e)
    }
}

impl Failure {
    pub fn into_error(self) -> Error {
        match self {
            Failure::Nothing(e) | Failure::Uncertain(e) => e,
        }
    }
}
