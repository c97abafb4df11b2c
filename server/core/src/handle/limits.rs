//! Quotas, before anything else is done for a request.

use std::sync::Arc;

use holdfast_sdk::{Caller, Error};

use super::house::House;
use super::{Located, Way};
use crate::audit::AuthFacts;
use crate::in_flight::Flight;
use crate::quotas::Ruling;
use crate::router::Handler;
use crate::{Answer, Core, Open};

impl Core {
    /// Count a request, and refuse one that is too many.
    pub(super) fn limit(
        self: &Arc<Self>,
        open: &Arc<Open>,
        house: &House,
        flight: &Flight,
    ) -> Result<Vec<(String, String)>, Answer> {
        if open.quotas.are_none() {
            return Ok(Vec::new());
        }
        let Located { mount, path, found } = house.router.locate(&flight.request);
        let request = &flight.request;
        let way = Way {
            core: self,
            open,
            flight,
            space: house.space(open),
            request,
            mount,
            path,
            found: found.as_ref(),
            operation: request.operation,
            now: self.clock.now(),
            routed_at: house.routed_at,
        };
        let role = || way.login_role();
        let ruling = self.ruling(open, request, mount.map(|m| &**m), role).map_err(|e| Answer::failure(&e))?;
        match ruling {
            None => Ok(Vec::new()),
            Some(Ruling { headers, refused: None, .. }) => Ok(headers),
            Some(Ruling { headers, refused: Some(mut answer), audits }) => {
                if audits && let Err(e) = way.audit_refusal() {
                    self.metrics.audit_failures.add(1);
                    return Err(Answer::failure(&e));
                }
                answer.headers = headers;
                Err(answer)
            }
        }
    }
}

impl Way<'_> {
    /// The role that a login is for.
    fn login_role(&self) -> Option<String> {
        let (mount, found) = (self.mount?, self.found?);
        let Handler::Engine(backend) = &mount.handler else { return None };
        if !mount.entry.auth || !found.unauthenticated || !self.operation.writes() {
            return None;
        }
        let mut tx = self.core.reader(self.open);
        tx.enter(mount.scope);
        // What cannot be read is refused by the login itself.
        backend.login_role(found, &mut tx, &self.call(&Caller::default(), self.operation, found, None)).ok()?
    }

    fn audit_refusal(&self) -> holdfast_sdk::Result<()> {
        let why = Error::Status(429, vec!["rate limit quota exceeded".into()]);
        let headers = self.open.audited_headers(self.core)?;
        let (facts, about) = (AuthFacts::default(), self.request_facts(&headers));
        let lines = self.open.audit.entry(&facts, &about).both((self.now, self.now), Some(&why), Err(&why));
        // Nothing waits for them to be on the disk.
        lines.map(drop)
    }
}
