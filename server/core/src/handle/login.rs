//! Who tries to log in, and what becomes of those who fail.

use holdfast_sdk::{Error, Found, Result};

use super::{Authorised, Outcome, Way};
use crate::audit::Act;
use crate::lockout::Failed;
use crate::router::{Handler, Mount};

impl Way<'_> {
    /// Who is locked out does not log in, even if they were not when they began to.
    pub(super) fn keep_locked_out(&self, mount: &Mount, login: Option<&str>) -> Result<()> {
        match login.is_some_and(|name| self.core.lockouts.holds(&mount.entry, name, self.now)) {
            true => Err(Error::PermissionDenied),
            false => Ok(()),
        }
    }

    /// Who tries to log in, if it is a login.
    pub(super) fn login_name(&self, mount: &Mount, found: &Found, authorised: &Authorised) -> Result<Option<String>> {
        let Handler::Engine(backend) = &mount.handler else { return Ok(None) };
        if !mount.entry.auth || !found.unauthenticated || !self.operation.writes() {
            return Ok(None);
        }
        let mut tx = self.core.reader(self.open);
        tx.enter(mount.scope);
        backend.login_name(found, &mut tx, &self.call(&authorised.caller, self.operation, found, None))
    }

    /// A login was carried out: one that failed counts, one that did not makes up for those before.
    pub(super) fn login_ended(&self, mount: &Mount, name: &str, carried_out: &Result<Outcome>) -> Result<()> {
        match carried_out {
            Err(Error::LoginRefused(_)) => match self.core.lockouts.failed(&mount.entry, name, self.now) {
                Failed::Counts => {}
                // What somebody finds out who was locked out meanwhile by others with the same name: nothing.
                Failed::WasLocked => return Err(Error::PermissionDenied),
                Failed::Locks(until) => {
                    let path = format!("sys/locked-users/{}", mount.entry.accessor);
                    let act = Act::new("update", path, "too many logins of this user failed");
                    let act = act.within(mount.scope.namespace).of_mount(&mount.full_path);
                    let act = act.hashed("alias_identifier", name).plain("locked_until", &until.rfc3339());
                    self.core.did(self.open, vec![act]);
                }
            },
            Ok(Outcome { response, .. }) if response.auth.is_some() => {
                self.core.lockouts.forget(&mount.entry.accessor, name)
            }
            _ => {}
        }
        Ok(())
    }
}
