//! The interface of an engine or auth method.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::{Act, Call, Failure, Means, Operation, Outside, Request, Response, Result, Route, Timestamp, Tx, Work};

/// What `prepare` computed, handed to every run of `apply`.
pub type Prepared = Arc<dyn Any + Send + Sync>;

/// Whether a backend is a secrets engine or an auth method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Secret,
    Auth,
    System,
}

/// An engine or auth method, one instance for each mount.
pub trait Backend: Send + Sync + 'static {
    /// `kv`, `approle`, …
    fn kind(&self) -> &'static str;
    fn class(&self) -> Class;

    /// The table of paths, for OpenAPI, `path-help`, unauthenticated and root-protected paths.
    fn routes(&self) -> Vec<Route<'_>>;

    /// The route of a path, relative to the mount.
    fn find(&self, operation: Operation, path: &str) -> Option<crate::Found>;

    /// Whether something is at the path of a POST (then it is an update). `None`: no existence check, always an update.
    fn exists(&self, _found: &crate::Found, _tx: &mut Tx, _call: &Call<'_>) -> Result<Option<bool>> {
        Ok(None)
    }

    /// Slow or random work, once, outside the transaction.
    fn prepare<'a>(
        &'a self,
        _found: &'a crate::Found,
        _request: &'a Request,
        _captures: &'a crate::Captures,
    ) -> Option<Pin<Box<dyn Future<Output = Result<Prepared>> + Send + 'a>>> {
        None
    }

    /// Handle the request on the transaction. Pure; may run again.
    fn apply(&self, found: &crate::Found, tx: &mut Tx, call: &Call<'_>) -> Result<Response>;

    /// First transaction of a request that acts outside (see [`Outside`]): what it is about to do. `None`: nothing
    /// has to be done, the handler is all there is. As pure as `apply`; what it writes is committed with the intent.
    fn intend(&self, _found: &crate::Found, _tx: &mut Tx, _call: &Call<'_>) -> Result<Option<Act>> {
        Ok(None)
    }

    /// Make it, outside every transaction. It may be dropped at any await once its time is over.
    fn effect<'a>(&'a self, _outside: &'a Outside, _means: &'a Means) -> Work<'a, Result<Means, Failure>> {
        Box::pin(async { Err(Failure::Nothing(crate::Error::UnsupportedOperation)) })
    }

    /// Read what reaching it needs (the connection, statements), before it is undone.
    fn reach(&self, _tx: &mut Tx, outside: &Outside) -> Result<Means> {
        Err(crate::Error::Internal(format!(
            "{} does not act outside, and {:?} is to be undone",
            self.kind(),
            outside.name
        )))
    }

    /// Take it back. Idempotent: what is not there is undone.
    fn undo<'a>(&'a self, _outside: &'a Outside, _means: &'a Means) -> Work<'a, Result<()>> {
        Box::pin(async { Err(crate::Error::UnsupportedOperation) })
    }

    /// The mount was disabled and everything outside is undone: tidy up what the engine keeps beside its
    /// records, in batches, before those are removed. True: call again. Called again after it has said false.
    fn clean(&self, _tx: &mut Tx) -> Result<bool> {
        Ok(false)
    }

    /// What a new mount writes first.
    fn mounted(&self, _tx: &mut Tx) -> Result<()> {
        Ok(())
    }

    /// Take the mount over from an earlier version of the engine, in the commit that changes its
    /// options. From then on this backend answers, so it must read what the earlier version left. True:
    /// a job has to call [`upgrade`](Backend::upgrade) until all of that is changed.
    fn take_over(&self, _tx: &mut Tx, _now: Timestamp) -> Result<bool> {
        Ok(false)
    }

    /// Change a batch of what an earlier version left, from `cursor` on (empty at first). Returns the next
    /// batch's cursor; `None`: all is done. Requests go on meanwhile, and a batch may run twice.
    fn upgrade(&self, _tx: &mut Tx, _cursor: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
