//! A member that was started takes no part in elections for a moment.
//!
//! Whoever follows gives nobody else a vote for a time after it has heard of the leader, and the leader answers reads
//! while a majority has promised that. A member that dies and is back within that time has forgotten its promise: with
//! its vote another one could lead while the one before is still sure of its lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Raft;
use openraft::type_config::TypeConfigExt;

use super::group::is_alone;
use super::machine::Machine;
use super::types::{NodeId, Types};

/// What was promised, and whether the member may lead.
pub struct Rest {
    raft: Raft<Types, Machine>,
    id: NodeId,
    is_over: AtomicBool,
    may_lead: AtomicBool,
}

impl Rest {
    pub fn new(raft: Raft<Types, Machine>, id: NodeId) -> Rest {
        let rest = Rest { raft, id, is_over: AtomicBool::new(false), may_lead: AtomicBool::new(false) };
        rest.apply();
        rest
    }

    /// Until then nothing that was promised before is broken.
    pub async fn end_after(self: Arc<Self>, promised: Duration) {
        Types::sleep(promised).await;
        self.is_over.store(true, Ordering::SeqCst);
        self.apply();
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Whether this member may try to lead.
    pub fn may_lead(&self, may: bool) {
        self.may_lead.store(may, Ordering::SeqCst);
        self.apply();
    }

    fn apply(&self) {
        let may = self.may_lead.load(Ordering::SeqCst) && self.is_over();
        // Who is the only one that votes has promised nothing to anybody.
        self.raft.runtime_config().elect(may || is_alone(&self.raft, &self.id));
    }
}
