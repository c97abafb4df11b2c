//! The feature level of the store: it rises when all members can follow (see [`holdfast_storage::level`]).

use holdfast_storage::level::{self, LEVEL_KEY};
use holdfast_storage::{Proposal, Write};

use crate::Core;
use crate::cluster::Cluster;

/// A program whose level is lower than the store's, which it would misread.
pub(crate) fn cannot_follow(known: u64, level: u64) -> String {
    format!(
        "this cluster has feature level {level}, and the program of the new node knows up to {known}: \
         install a later one"
    )
}

impl Core {
    /// The level that the store has now.
    pub(crate) fn feature_level(&self) -> u64 {
        level::of(&self.store.snapshot()).unwrap_or(level::FIRST)
    }

    /// The level that all members can follow.
    pub(crate) fn level_of_all(&self, cluster: &dyn Cluster) -> u64 {
        let all = cluster.members().0.into_iter().map(|m| m.peer.level.max(level::FIRST));
        all.min().unwrap_or(level::FIRST).min(level::known())
    }

    /// Let the store have a level, if its own is lower. Where it does not go well it is tried again.
    pub(crate) async fn raise_level(&self, to: u64) {
        let present = self.feature_level();
        if present >= to {
            return;
        }
        let view_index = self.store.view().index();
        let proposal = Proposal {
            view_index,
            reads: vec![(LEVEL_KEY.into(), view_index)],
            writes: vec![Write::Put(LEVEL_KEY.into(), level::value(to))],
            ..Proposal::default()
        };
        let raised = async { self.store.propose(proposal)?.committed().await };
        match raised.await {
            Ok(_) => {
                tracing::info!(from = present, to, "the feature level has risen: earlier programs are too old now")
            }
            Err(e) => tracing::warn!(error = %e, "the feature level could not rise; it is tried again"),
        }
    }
}
