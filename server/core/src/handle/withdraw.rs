//! What a request has made though no audit device takes the line of its answer: nobody is told of it, so it ends.

use holdfast_sdk::Result;

use super::Way;
use crate::audit::Act;
use crate::layout::SYSTEM;
use crate::tx::{Made, Tx};
use crate::{leases, tokens};

const CAUSE: &str = "no audit device took the line of the answer that would have handed it out";

impl Way<'_> {
    /// End the tokens and leases that a request has made. What a lease stands for is undone behind.
    pub(super) async fn withdraw(&self, made: &[Made]) {
        if made.is_empty() {
            return;
        }
        let ended = self.core.act(self.open, |tx, acts| {
            for one in made {
                acts.extend(end(tx, one)?);
            }
            Ok(())
        });
        if let Err(e) = ended.await {
            tracing::error!(
                error = %e, request = %self.request.id,
                "tokens and leases of a request whose answer was refused by the audit devices could not be revoked: they \
                 last until their time is over"
            );
        }
    }
}

/// What the server does, if that is there still.
fn end(tx: &mut Tx, made: &Made) -> Result<Option<Act>> {
    match made {
        Made::Token(id) => {
            let entry = tokens::load(tx, id)?;
            tokens::revoke_tree(tx, id)?;
            Ok(entry.map(|entry| Act::token_ends(id.namespace, &entry, CAUSE)))
        }
        Made::Lease(namespace, id) => {
            let lease = tx.within(SYSTEM.of(*namespace), |tx| leases::take_out(tx, id))?;
            Ok(lease.map(|lease| Act::lease_ends(*namespace, &lease, CAUSE)))
        }
    }
}
