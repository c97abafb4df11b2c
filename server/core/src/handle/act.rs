//! Requests that act outside: first transaction, the act, and taking it back.

use std::sync::Arc;

use holdfast_sdk::{Done, Error, Failure, Found, Prepared, Result};

use super::{Authorised, Way};
use crate::failpoint::failpoint;
use crate::intents::{self, MAX_TIME_OUT};
use crate::router::{Handler, Mount};
use crate::targets::{End, within};
use crate::undo::took_too_long;
use crate::{tokens, wrapping};

/// What was done outside, and the intent that goes when the request is complete.
pub(super) struct Acted {
    pub key: intents::Key,
    pub done: Done,
}

impl Way<'_> {
    /// Commit the intent, then act. `None`: nothing has to be done outside.
    pub(super) async fn act(
        &self,
        mount: &Arc<Mount>,
        found: &Found,
        authorised: &mut Authorised,
        prepared: Option<&Prepared>,
    ) -> Result<Option<Acted>> {
        let Handler::Engine(backend) = &mount.handler else { return Ok(None) };
        let mut first = true;
        let began = self.core.clock.boot();
        let intended = self
            .core
            .transact(self.open, |tx| {
                if !std::mem::take(&mut first) {
                    *authorised = self.authorise_again()?;
                }
                authorised.depend(tx);
                if let Some(id) = authorised.caller.token_id.filter(|_| !authorised.counted) {
                    wrapping::check(tx, self.request, self.now)?;
                    if tokens::load(tx, &id)?.is_none() {
                        return Err(Error::PermissionDenied);
                    }
                }
                tx.enter(mount.scope);
                let call = self.call(&authorised.caller, self.operation, found, prepared);
                let Some(act) = backend.intend(found, tx, &call)? else { return Ok(None) };
                self.core.targets.require_open(mount.entry.uuid, &act.outside.target, self.core.clock.boot())?;
                let key = intents::add(tx, mount, &self.request.id, &act, self.core.clock.cluster())?;
                Ok(Some((key, act)))
            })
            .await?;
        let Some((key, act)) = intended else { return Ok(None) };
        failpoint!(self.core, "intended");
        let outside = act.outside;
        let work = async {
            let limit = act.time_out.min(MAX_TIME_OUT);
            let boot = || self.core.clock.boot();
            let enter = self.core.targets.enter(mount.entry.uuid, &outside.target, boot);
            let permit = match tokio::time::timeout(limit, enter).await {
                Ok(entered) => entered.map_err(Failure::Nothing)?,
                Err(_) => return Err(Failure::Nothing(Error::Unavailable(too_many(&outside.target)))),
            };
            // A process that was stopped may come here when its intent is undone already.
            let left = limit.saturating_sub(boot().saturating_sub(began));
            if left.is_zero() {
                return Err(Failure::Nothing(Error::Unavailable(took_too_long(&outside.target))));
            }
            match within(left, backend.effect(&outside, &act.means)).await {
                Some(ended) => {
                    permit.ended(End::of_act(&ended), boot());
                    ended
                }
                None => {
                    permit.ended(End::Unreached, boot());
                    Err(Failure::Uncertain(Error::Unavailable(took_too_long(&outside.target))))
                }
            }
        };
        let effected = tokio::select! {
            // The intent is looked at again when the server is unsealed.
            () = self.core.closing(self.open) => return Err(Error::Unavailable("Vault is sealed".into())),
            ended = work => ended,
        };
        failpoint!(self.core, "acted");
        match effected {
            Ok(result) => {
                self.core.metrics.acts.add(1);
                Ok(Some(Acted { key, done: Done { outside, means: act.means, result } }))
            }
            Err(Failure::Nothing(e)) => {
                self.core.metrics.act_failures.add(1);
                let forgotten = self.core.transact(self.open, |tx| {
                    tx.enter(mount.scope);
                    intents::drop_open(tx, &key)
                });
                let forgotten = forgotten.await;
                if let Err(e) = forgotten {
                    tracing::warn!(error = %e, "an act that made nothing is undone after its deadline all the same");
                }
                Err(e)
            }
            Err(Failure::Uncertain(e)) => {
                self.core.metrics.act_failures.add(1);
                let acted = Acted { key, done: Done { outside, means: act.means, result: Arc::new(()) } };
                self.take_back(mount, &acted, &e).await;
                Err(e)
            }
        }
    }

    /// The request failed after its act: what was made is undone.
    pub(super) async fn take_back(&self, mount: &Mount, acted: &Acted, why: &Error) {
        if matches!(why, Error::Status(503, _)) {
            // Nobody knows whether the request was committed; whether the intent is there says it, at its deadline.
            return;
        }
        let (outside, why) = (&acted.done.outside, why.to_string());
        let given = self.core.transact(self.open, |tx| {
            tx.enter(mount.scope);
            intents::give_back(tx, mount, &acted.key, outside, &why, self.core.clock.cluster())
        });
        if let Err(e) = given.await {
            tracing::warn!(error = %e, name = %outside.name, "what was made outside is undone after its deadline");
        }
        self.core.intent_due.notify_one();
    }
}

fn too_many(target: &str) -> String {
    format!("too many requests wait for {target:?}; try again")
}
