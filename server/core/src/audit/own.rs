//! What the server does by itself, as the audit log tells it: both lines of a request, with the actor `system` and a
//! cause, when the act is done or has failed.
//!
//! Nobody waits for such lines, and no act fails for want of them: a lease that has to end ends. What no device has taken
//! yet is in the store ([`super::untold`]), from the commit of the act on.

use std::sync::Arc;

use holdfast_sdk::{Result, Timestamp};
use minicbor::{Decode, Encode};
use tokio::task::JoinHandle;

use super::untold::Batch;
use super::{Broker, Device, Pending, accepted, line, write};
use crate::layout::{NamespaceId, ROOT};
use crate::leases::EngineLease;
use crate::random;
use crate::tokens::TokenEntry;
use crate::{Core, Open};

/// Something that the server has done, or tried to.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Act {
    #[n(0)]
    time_ns: u64,
    /// An id of its own: lines with the same one tell of the same act.
    #[n(1)]
    pub(super) id: String,
    #[cbor(n(2), with = "minicbor::bytes")]
    namespace: NamespaceId,
    /// As the log shows that, once it is known.
    #[cbor(skip)]
    pub(super) namespace_id: String,
    #[cbor(skip)]
    pub(super) namespace_path: String,
    /// `revoke`, `rotate`, …
    #[n(3)]
    pub(super) operation: String,
    /// The route that does the same when it is asked to, or the mount's.
    #[n(4)]
    pub(super) path: String,
    #[n(5)]
    pub(super) mount_point: String,
    #[n(6)]
    pub(super) cause: String,
    #[n(7)]
    pub(super) data: Vec<(String, Shown)>,
    /// What came of it.
    #[n(8)]
    pub(super) outcome: Vec<(String, Shown)>,
    /// Why it failed.
    #[n(9)]
    pub(super) error: Option<String>,
}

/// How a value stands in the line.
#[derive(Debug, Clone, Encode, Decode)]
pub(super) enum Shown {
    #[n(0)]
    Plain(#[n(0)] String),
    /// As an HMAC, unless the device shows all.
    #[n(1)]
    Hashed(#[n(0)] String),
    /// As the device shows accessors.
    #[n(2)]
    Accessor(#[n(0)] String),
    #[n(3)]
    Number(#[n(0)] u64),
}

/// A failure is told with as many bytes at most.
const ERROR_BYTES: usize = 4096;

impl Act {
    pub fn new(operation: &str, path: impl Into<String>, cause: impl Into<String>) -> Act {
        Act {
            time_ns: crate::clock::now().0,
            id: random::uuid().map(|id| random::uuid_text(&id)).unwrap_or_default(),
            namespace: ROOT,
            namespace_id: "root".into(),
            namespace_path: String::new(),
            operation: operation.to_owned(),
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
            act.data.push(("accessor".to_owned(), Shown::Accessor(token.accessor.clone())));
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

    pub fn plain(mut self, name: &str, value: &str) -> Act {
        self.data.push((name.to_owned(), Shown::Plain(value.to_owned())));
        self
    }

    pub fn hashed(mut self, name: &str, value: &str) -> Act {
        self.data.push((name.to_owned(), Shown::Hashed(value.to_owned())));
        self
    }

    pub fn number(mut self, name: &str, value: u64) -> Act {
        self.data.push((name.to_owned(), Shown::Number(value)));
        self
    }

    /// How far it is.
    pub fn state(mut self, state: &str) -> Act {
        self.outcome.push(("state".to_owned(), Shown::Plain(state.to_owned())));
        self
    }

    /// How often it was tried.
    pub fn tries(mut self, tries: u64) -> Act {
        self.outcome.push(("tries".to_owned(), Shown::Number(tries)));
        self
    }

    /// It failed. What the failure says may repeat what somebody outside has said, and is hashed.
    pub fn failed(mut self, error: &str) -> Act {
        let end = error.floor_char_boundary(ERROR_BYTES);
        self.error = Some(error[..end].to_owned());
        self
    }

    pub(super) fn time(&self) -> Timestamp {
        Timestamp(self.time_ns)
    }
}

impl Broker {
    /// The lines of each act, to every device. `again`: they were found in the store, by whoever came after.
    pub(super) fn tell(&self, acts: &[Act], again: bool) -> Result<Pending> {
        let lines = |device: &Device, out: &mut Vec<u8>| {
            for act in acts {
                line::own_lines(device, act, again, out);
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
        let taken = match open.audit.tell(&[act], false) {
            Ok(pending) => accepted(pending).await,
            Err(e) => Err(e),
        };
        match taken {
            Ok(()) => self.metrics.own_lines.add(1),
            Err(_) => self.metrics.audit_failures.add(1),
        }
        taken
    }

    /// Write down what the server has done by itself. Nobody has to wait for what is returned.
    pub(crate) fn did(self: &Arc<Self>, open: &Arc<Open>, acts: impl Into<Batch>) -> Option<JoinHandle<()>> {
        let mut batch = acts.into();
        if batch.acts.is_empty() {
            return None;
        }
        if open.audit.devices().is_empty() {
            // There is no audit any more.
            open.audit.untold.is_told(batch.place);
            return None;
        }
        self.name_namespaces(open, &mut batch.acts);
        Some(self.tell(open, batch))
    }

    pub(super) fn name_namespaces(&self, open: &Open, acts: &mut [Act]) {
        for act in acts {
            if act.namespace == ROOT {
                "root".clone_into(&mut act.namespace_id);
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
    }

    pub(super) fn tell(self: &Arc<Self>, open: &Arc<Open>, mut batch: Batch) -> JoinHandle<()> {
        let pending = open.audit.tell(&batch.acts, false);
        let (core, open) = (Arc::downgrade(self), Arc::downgrade(open));
        tokio::spawn(async move {
            // What a file has outlives this process. What is still to be sent does not, unless the store has it.
            if batch.place.is_none()
                && pending.as_ref().map_or(true, Pending::is_on_its_way)
                && let (Some(core), Some(open)) = (core.upgrade(), open.upgrade())
            {
                core.keep_untold(&open, &mut batch).await;
            }
            let taken = match pending {
                Ok(pending) => accepted(pending).await,
                Err(e) => Err(e),
            };
            let Some(core) = core.upgrade() else { return };
            match (taken, open.upgrade()) {
                (Ok(()), open) => {
                    core.metrics.own_lines.add(batch.acts.len() as u64);
                    if let Some(open) = open {
                        open.audit.untold.is_told(batch.place);
                    }
                }
                (Err(_), Some(open)) => core.not_told(&open, batch),
                (Err(_), None) => core.lost(&batch),
            }
        })
    }

    fn not_told(&self, open: &Open, batch: Batch) {
        self.metrics.own_line_failures.add(batch.acts.len() as u64);
        if let Some(first) = batch.acts.first() {
            tracing::error!(
                acts = batch.acts.len(), operation = first.operation, path = %first.path, cause = %first.cause,
                "no audit device takes the lines of what the server did by itself; they are kept for when one does"
            );
        }
        if let Some(batch) = open.audit.untold.keep(batch) {
            self.lost(&batch);
        }
    }

    /// Nobody offers them again, in this process.
    fn lost(&self, batch: &Batch) {
        let acts = batch.acts.len();
        if batch.place.is_some() {
            tracing::warn!(acts, "lines of what the server did by itself are in the store: the next unseal tells them");
            return;
        }
        self.metrics.own_lines_lost.add(acts as u64);
        tracing::error!(acts, "lines of what the server did by itself are lost: no audit device took them");
    }

    /// Offer again what no device has taken.
    pub(super) fn tell_late(self: &Arc<Self>, open: &Arc<Open>) {
        for batch in open.audit.untold.take_late() {
            self.tell(open, batch);
        }
    }

    /// The server is sealed: what was not taken until now, and is not in the store, is lost.
    pub(crate) fn lose_late(&self, open: &Open) {
        for batch in open.audit.untold.take_all() {
            self.lost(&batch);
        }
    }
}
