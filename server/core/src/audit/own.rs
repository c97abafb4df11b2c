//! What the server does by itself, as the audit log tells it: both lines of a request, with the actor `system` and a
//! cause, when the act is done or has failed.
//!
//! Nobody waits for such lines, and no act fails for want of them: a lease that has to end ends. What no device took is
//! kept for a while and offered again; what is lost is counted, and said in the server's log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_sdk::{Result, Timestamp};

use super::{Broker, Device, Pending, accepted, line, write};
use crate::layout::{NamespaceId, ROOT};
use crate::leases::EngineLease;
use crate::random;
use crate::tokens::TokenEntry;
use crate::{Core, Open};

/// Acts whose lines no device has taken, that are kept.
const LATE: usize = 4096;
/// Late lines that are offered in one write.
const LATE_AT_ONCE: usize = 128;

/// Something that the server has done, or tried to.
pub struct Act {
    time: Timestamp,
    /// An id of its own.
    pub(super) id: String,
    namespace: NamespaceId,
    /// As the log shows that, once it is known.
    pub(super) namespace_id: String,
    pub(super) namespace_path: String,
    /// `revoke`, `rotate`, …
    pub(super) operation: &'static str,
    /// The route that does the same when it is asked to, or the mount's.
    pub(super) path: String,
    pub(super) mount_point: String,
    pub(super) cause: String,
    pub(super) data: Vec<(&'static str, Shown)>,
    /// What came of it.
    pub(super) outcome: Vec<(&'static str, Shown)>,
    /// Why it failed.
    pub(super) error: Option<String>,
}

/// How a value stands in the line.
pub(super) enum Shown {
    Plain(String),
    /// As an HMAC, unless the device shows all.
    Hashed(String),
    /// As the device shows accessors.
    Accessor(String),
    Number(u64),
}

impl Act {
    pub fn new(operation: &'static str, path: impl Into<String>, cause: impl Into<String>) -> Act {
        Act {
            time: crate::clock::now(),
            id: random::uuid().map(|id| random::uuid_text(&id)).unwrap_or_default(),
            namespace: ROOT,
            namespace_id: "root".into(),
            namespace_path: String::new(),
            operation,
            path: path.into(),
            mount_point: String::new(),
            cause: cause.into(),
            data: Vec::new(),
            outcome: Vec::new(),
            error: None,
        }
    }

    /// The time of a lease is over.
    pub fn lease_expired(namespace: NamespaceId, lease: &EngineLease) -> Act {
        Act::lease_ends(namespace, lease, "the lease's time is over: its end has begun")
    }

    /// The end of a lease has begun.
    pub fn lease_ends(namespace: NamespaceId, lease: &EngineLease, cause: &str) -> Act {
        let act = Act::new("revoke", "sys/leases/revoke", cause);
        act.within(namespace).of_mount(lease.mount_path()).plain("lease_id", &lease.id)
    }

    /// The time of a token is over.
    pub fn token_expired(namespace: NamespaceId, token: &TokenEntry) -> Act {
        Act::token_ends(namespace, token, "the token's time is over")
    }

    /// A token ends.
    pub fn token_ends(namespace: NamespaceId, token: &TokenEntry, cause: &str) -> Act {
        let mut act = Act::new("revoke", "auth/token/revoke-accessor", cause).within(namespace);
        if !token.accessor.is_empty() {
            act.data.push(("accessor", Shown::Accessor(token.accessor.clone())));
        }
        act.plain("display_name", &token.display_name).plain("creation_path", &token.path)
    }

    pub fn within(mut self, namespace: NamespaceId) -> Act {
        self.namespace = namespace;
        self
    }

    pub fn of_mount(mut self, path: &str) -> Act {
        path.clone_into(&mut self.mount_point);
        self
    }

    pub fn plain(mut self, name: &'static str, value: &str) -> Act {
        self.data.push((name, Shown::Plain(value.to_owned())));
        self
    }

    pub fn hashed(mut self, name: &'static str, value: &str) -> Act {
        self.data.push((name, Shown::Hashed(value.to_owned())));
        self
    }

    pub fn number(mut self, name: &'static str, value: u64) -> Act {
        self.data.push((name, Shown::Number(value)));
        self
    }

    /// How far it is.
    pub fn state(mut self, state: &str) -> Act {
        self.outcome.push(("state", Shown::Plain(state.to_owned())));
        self
    }

    /// How often it was tried.
    pub fn tries(mut self, tries: u64) -> Act {
        self.outcome.push(("tries", Shown::Number(tries)));
        self
    }

    /// It failed. What the failure says may repeat what somebody outside has said, and is hashed.
    pub fn failed(mut self, error: &str) -> Act {
        self.error = Some(error.to_owned());
        self
    }
}

/// Acts whose lines no device has taken.
#[derive(Default)]
pub struct Late(Mutex<VecDeque<Act>>);

impl Late {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Act>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep them for later. Returns how many found no room.
    fn keep(&self, acts: Vec<Act>) -> usize {
        let mut kept = self.lock();
        let room = LATE.saturating_sub(kept.len());
        let lost = acts.len().saturating_sub(room);
        kept.extend(acts.into_iter().take(room));
        lost
    }

    fn take(&self) -> Vec<Act> {
        let mut kept = self.lock();
        let n = kept.len().min(LATE_AT_ONCE);
        kept.drain(..n).collect()
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Broker {
    /// The lines of each act, to every device.
    fn tell(&self, acts: &[Act]) -> Result<Pending> {
        let lines = |device: &Device, out: &mut Vec<u8>| {
            for act in acts {
                line::own_lines(device, act.time, act, out);
            }
        };
        // As a request's that changes something: on the disk when it counts as accepted.
        write(&self.devices.load(), lines, |device, lines, urgent| device.append(lines, true, urgent))
    }
}

impl Core {
    /// Write down what the server is about to do for somebody without a token, and wait until a device has it.
    ///
    /// # Errors
    /// None takes it: it must not be done.
    pub(crate) async fn will_do(&self, open: &Open, act: Act) -> Result<()> {
        if open.audit.devices().is_empty() {
            return Ok(());
        }
        let taken = match open.audit.tell(&[act]) {
            Ok(pending) => accepted(pending).await,
            Err(e) => Err(e),
        };
        match taken {
            Ok(()) => self.metrics.own_lines.add(1),
            Err(_) => self.metrics.audit_failures.add(1),
        }
        taken
    }

    /// Write down what the server has done by itself. Nobody waits.
    pub(crate) fn did(self: &Arc<Self>, open: &Arc<Open>, mut acts: Vec<Act>) {
        if acts.is_empty() || open.audit.devices().is_empty() {
            return;
        }
        for act in &mut acts {
            if act.namespace == ROOT {
                continue;
            }
            // One that is gone by now is told by its UUID.
            match self.space_of(open, act.namespace) {
                Ok(Some(space)) => {
                    act.namespace_id.clone_from(&space.id);
                    act.namespace_path.clone_from(&space.path);
                }
                _ => act.namespace_id = random::uuid_text(&act.namespace),
            }
        }
        self.tell(open, acts);
    }

    fn tell(self: &Arc<Self>, open: &Arc<Open>, acts: Vec<Act>) {
        let Ok(pending) = open.audit.tell(&acts) else { return self.not_told(open, acts) };
        let (core, open) = (Arc::downgrade(self), Arc::downgrade(open));
        tokio::spawn(async move {
            let taken = accepted(pending).await;
            let Some(core) = core.upgrade() else { return };
            match (taken, open.upgrade()) {
                (Ok(()), _) => core.metrics.own_lines.add(acts.len() as u64),
                (Err(_), Some(open)) => core.not_told(&open, acts),
                (Err(_), None) => core.lost(acts.len()),
            }
        });
    }

    fn not_told(&self, open: &Open, acts: Vec<Act>) {
        self.metrics.own_line_failures.add(acts.len() as u64);
        if let Some(first) = acts.first() {
            tracing::error!(
                acts = acts.len(), operation = first.operation, path = %first.path, cause = %first.cause,
                "no audit device takes the lines of what the server did by itself; they are kept for when one does"
            );
        }
        self.lost(open.audit.late.keep(acts));
    }

    fn lost(&self, acts: usize) {
        if acts > 0 {
            self.metrics.own_lines_lost.add(acts as u64);
            tracing::error!(acts, "lines of what the server did by itself are lost: no audit device took them");
        }
    }

    /// Offer again what no device has taken.
    pub(super) fn tell_late(self: &Arc<Self>, open: &Arc<Open>) {
        let acts = open.audit.late.take();
        if !acts.is_empty() {
            self.tell(open, acts);
        }
    }

    /// The server is sealed: what was not taken until now is lost.
    pub(crate) fn lose_late(&self, open: &Open) {
        let mut lost = open.audit.late.take().len();
        while open.audit.late.len() > 0 {
            lost += open.audit.late.take().len();
        }
        self.lost(lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_comes_in_order() {
        let late = Late::default();
        let acts = |n: usize, path: &str| (0..n).map(|_| Act::new("revoke", path, "why")).collect::<Vec<_>>();
        assert_eq!(late.keep(acts(LATE - 1, "a")), 0);
        assert_eq!(late.keep(acts(3, "b")), 2);
        let mut count = 0;
        let mut last = Vec::new();
        while late.len() > 0 {
            let taken = late.take();
            assert!(taken.len() <= LATE_AT_ONCE);
            count += taken.len();
            last = taken;
        }
        assert_eq!((count, last.last().map(|a| a.path.as_str())), (LATE, Some("b")));
    }
}
