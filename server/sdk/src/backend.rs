//! The interface of an engine or auth method.

use std::any::Any;
use std::sync::Arc;

use crate::lease::Terms;
use crate::{
    Act, Call, Done, Failure, Means, Operation, Outside, Renewal, Response, Result, Route, Timestamp, Tx, Work,
};

/// What `prepare` computed, handed to every run of `apply`.
pub type Prepared = Arc<dyn Any + Send + Sync>;

/// Work that ends in what `apply` needs.
pub type Preparation = Work<'static, Result<Prepared>>;

/// Whether a backend is a secrets engine or an auth method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Secret,
    Auth,
    System,
}

/// Within `impl Backend`: requests are handled as the route table in the field says that its routes are. How a path is
/// found and shown stays the engine's own.
#[macro_export]
macro_rules! handled_by {
    ($table:ident) => {
        fn exists(
            &self,
            found: &$crate::Found,
            tx: &mut $crate::Tx,
            call: &$crate::Call<'_>,
        ) -> $crate::Result<Option<bool>> {
            self.$table.exists(self, found, tx, call)
        }
        fn prepare(
            &self,
            found: &$crate::Found,
            tx: &mut $crate::Tx,
            call: &$crate::Call<'_>,
        ) -> $crate::Result<Option<$crate::Preparation>> {
            self.$table.prepare(self, found, tx, call)
        }
        fn apply(
            &self,
            found: &$crate::Found,
            tx: &mut $crate::Tx,
            call: &$crate::Call<'_>,
        ) -> $crate::Result<$crate::Response> {
            self.$table.apply(self, found, tx, call)
        }
        fn intend(
            &self,
            found: &$crate::Found,
            tx: &mut $crate::Tx,
            call: &$crate::Call<'_>,
        ) -> $crate::Result<Option<$crate::Act>> {
            self.$table.intend(self, found, tx, call)
        }
    };
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

    /// Slow work, once, before the transaction: what is read here tells what it has to do.
    fn prepare(&self, _found: &crate::Found, _tx: &mut Tx, _call: &Call<'_>) -> Result<Option<Preparation>> {
        Ok(None)
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

    /// What counts for a lease of this mount when it is renewed: TTLs as they are configured now.
    fn lease_terms(&self, _tx: &mut Tx, _outside: &Outside) -> Result<Terms> {
        Err(crate::Error::Internal(format!("{} gives no leases that can be renewed", self.kind())))
    }

    /// Let what was made outside live until then: the lease on it is renewed, or shortened.
    fn extend<'a>(&'a self, _outside: &'a Outside, _means: &'a Means, _until: Timestamp) -> Work<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// A lease has ended and what it stood for is undone: in the commit that forgets it.
    fn lease_ended(&self, _tx: &mut Tx, _outside: &Outside) -> Result<()> {
        Ok(())
    }

    /// What the mount has to do by itself by now, at most `limit` (see [`chore`](crate::chore)).
    fn chores(&self, _tx: &mut Tx, _now: Timestamp, _limit: usize) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Begin a chore, as `intend` does for a request. `None`: there is nothing to do any more.
    fn begin_chore(&self, _tx: &mut Tx, _name: &str, _now: Timestamp) -> Result<Option<Act>> {
        Ok(None)
    }

    /// A chore is done outside, or has failed with this text: what is stored of it.
    fn end_chore(&self, _tx: &mut Tx, _name: &str, _now: Timestamp, _end: Result<&Done, &str>) -> Result<()> {
        Ok(())
    }

    /// The mount was disabled and everything outside is undone: tidy up what the engine keeps beside its
    /// records, in batches, before those are removed. True: call again. Called again after it has said false.
    fn clean(&self, _tx: &mut Tx) -> Result<bool> {
        Ok(false)
    }

    /// Who tries to log in, if the request is a login: the name that its entity's alias would have. With too many
    /// failures it is locked out for a while, before its credentials are looked at.
    fn login_name(&self, _found: &crate::Found, _tx: &mut Tx, _call: &Call<'_>) -> Result<Option<String>> {
        Ok(None)
    }

    /// Whether logins of this mount are for roles, so that a quota may be on one.
    fn has_login_roles(&self) -> bool {
        false
    }

    /// The role that a login is for, as its request says it.
    fn login_role(&self, _found: &crate::Found, _tx: &mut Tx, _call: &Call<'_>) -> Result<Option<String>> {
        Ok(None)
    }

    /// A token that a login of this mount gave is to be renewed: what counts for it now. `internal` is what the
    /// login left for this ([`Login::internal`](crate::Login::internal)).
    fn renew_login(&self, _tx: &mut Tx, _internal: &[(String, String)]) -> Result<Renewal> {
        Err(crate::Error::Internal(format!("{} gives no tokens", self.kind())))
    }

    /// The tables whose records are at ids. An id has another place in another namespace, so that these are not copied when the
    /// mount is moved to one: [`place_ids`](Backend::place_ids) writes them.
    fn id_tables(&self) -> &'static [crate::Table] {
        &[]
    }

    /// The record at a place was written anew in another namespace: write what of the tables of ids belongs to it. May be
    /// called again for the same.
    fn place_ids(&self, _tx: &mut Tx, _place: crate::Place<'_>, _record: &[u8]) -> Result<()> {
        Ok(())
    }

    /// The table that has one record for each secret, for those who count them.
    fn secrets(&self) -> Option<crate::Table> {
        None
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
