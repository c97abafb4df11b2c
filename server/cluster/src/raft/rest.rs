//! When a member takes no part in elections: for a moment after it was started, and while it reads an old list of members.
//!
//! Whoever follows gives nobody else a vote for a time after it has heard of the leader, and the leader answers reads
//! while a majority has promised that. A member that dies and is back within that time has forgotten its promise: with
//! its vote another one could lead while the one before is still sure of its lead.
//!
//! A node that was removed and has joined anew under its name has nothing, and is told of the past first: of lists in
//! which its name is that of the member which it was once, the only one that votes perhaps. By such a list it would elect
//! itself, with a short log and in a later term than the leader's, and others would cut theirs to it. Names come back, keys
//! do not: a member campaigns by a list that has its key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;

use super::group::{Oneself, Seen};
use super::machine::Machine;
use super::types::Types;

/// What was promised, and whether the member may lead.
pub struct Rest {
    raft: Raft<Types, Machine>,
    oneself: Oneself,
    is_over: AtomicBool,
    may_lead: AtomicBool,
}

impl Rest {
    pub fn new(raft: Raft<Types, Machine>, oneself: Oneself) -> Rest {
        let rest = Rest { raft, oneself, is_over: AtomicBool::new(false), may_lead: AtomicBool::new(false) };
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

    /// Look at each list of members, until the member ends.
    pub async fn follow(self: Arc<Self>, mut seen: Seen) {
        while seen.changed().await.is_ok() {
            self.apply();
        }
    }

    fn apply(&self) {
        let may = self.may_lead.load(Ordering::SeqCst) && self.is_over() && self.oneself.is_listed(&self.raft);
        // Who is the only one that votes has promised nothing to anybody.
        self.raft.runtime_config().elect(may || self.oneself.is_alone(&self.raft));
    }
}
