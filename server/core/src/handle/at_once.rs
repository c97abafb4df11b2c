//! The shorter way of what only reads and never waits: most requests of an application go it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use holdfast_sdk::Error;

use super::house::House;
use super::{Located, Way, way_failure};
use crate::audit::Pending;
use crate::caught::DEFECT;
use crate::in_flight::Flight;
use crate::{Answer, Core, Open};

impl Core {
    /// The answer and its audit lines, unless the request has to go the long way. Nothing is left of it then.
    ///
    /// Both lines are written together, since nothing of a read shows before its answer.
    pub(super) fn read_at_once(
        self: &Arc<Self>,
        open: &Arc<Open>,
        house: &House,
        flight: &Flight,
    ) -> Option<(Answer, Pending)> {
        #[cfg(feature = "failpoints")]
        if self.failpoints.set_by_a_test() {
            return None;
        }
        let request = &flight.request;
        let reads = !request.operation.writes() && request.wrap_ttl.is_none();
        if !reads || request.data.contains_key("help") {
            return None;
        }
        let Located { mount, path, found } = house.router.locate(request);
        let mount = mount.filter(|mount| !mount.entry.moving)?;
        let found = found.as_ref().filter(|f| f.supported && !f.waits && !f.acts)?;
        let headers = open.audited_headers(self).ok()?;
        let (operation, now) = (request.operation, self.clock.now());
        let way = Way {
            core: self,
            open,
            flight,
            space: house.space(open),
            request,
            mount: Some(mount),
            path,
            found: Some(found),
            operation,
            now,
            routed_at: house.routed_at,
        };
        let authorised = if found.unauthenticated { way.nobody() } else { way.authorise().1.ok()? };
        // The use of a token is a write.
        if !authorised.counted {
            return None;
        }
        self.count_root(&authorised.caller);
        let about = way.request_facts(&headers);
        let facts = &authorised.facts;
        let result = match catch_unwind(AssertUnwindSafe(|| way.read(mount, found, &authorised, None))) {
            Ok(result) => result,
            Err(_) => Err(Error::Internal(DEFECT.into())),
        };
        let result = result.map(|(response, _effects)| response);
        let lines = open.audit.entry(facts, &about).both((now, self.clock.now()), None, result.as_ref());
        let answer = match (lines, result) {
            (Err(e), _) => {
                self.metrics.audit_failures.add(1);
                return Some((Answer::failure(&e), Pending::default()));
            }
            (Ok(lines), Ok(response)) => (Answer::success(response, &request.id, &mount.kind), lines),
            (Ok(lines), Err(e)) => (way_failure(&e, false), lines),
        };
        Some(answer)
    }
}
