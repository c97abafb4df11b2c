//! `identity/oidc/token/*`: a token of a role, for whoever asks.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Value};

use tokio::sync::Semaphore;

use super::keys::{NamedKey, Signing};
use super::roles::Role;
use super::{R, config, jwt, map, plain, store, template};
use crate::identity::{IdentityBackend, Resolved, resolve};
use crate::layout::SYSTEM;
use crate::namespaces;
use crate::tx::Tx;

pub fn routes(routes: R) -> R {
    routes.path("oidc/token/{name}", "A signed token that says who the caller is.", |p| {
        p.read(token).prepared(Operation::Read, prepare)
    })
}

/// Sign claims; where that is slow, on a thread of its own.
pub async fn sign(turns: Arc<Semaphore>, key: Signing, claims: Map<String, Value>) -> Result<String> {
    let slow = key.algorithm.is_slow();
    let work = move || {
        let input = jwt::signing_input(key.algorithm, &key.kid, &claims);
        let signature = key.algorithm.sign(&key.private, input.as_bytes())?;
        Ok(jwt::signed(&input, &signature))
    };
    if !slow {
        return work();
    }
    let _turn = turns.acquire_owned().await.map_err(Error::internal)?;
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

/// The entity of the caller, which is in the namespace of its token.
pub fn caller(tx: &mut Tx, call: &Call<'_>) -> Result<Option<Resolved>> {
    match call.caller.entity_id.as_str() {
        "" => Ok(None),
        id => tx.within(SYSTEM.of(call.caller.namespace), |tx| resolve(tx, id)),
    }
}

fn prepare(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let name = plain(call.capture("name"))?;
    let refused = |why: String| Error::bad_request(why);
    let role = store::load::<Role>(tx, name)?.ok_or_else(|| refused(format!("role {name:?} not found")))?;
    let key =
        store::load::<NamedKey>(tx, &role.key)?.ok_or_else(|| refused(format!("key {:?} not found", role.key)))?;
    if !key.allows(&role.client_id) {
        return Err(refused(format!(
            "the key {:?} does not list the client ID of the role {name:?} as an allowed client ID",
            role.key
        )));
    }
    let who = caller(tx, call)?.ok_or_else(|| refused("no entity associated with the request's token".into()))?;
    key.note_use(tx);
    let now = call.now.secs();
    // A role that was written before the key's time was shortened.
    let ttl = role.ttl_secs.min(key.verification_secs);
    let mut claims = template::claims(&role.template, Some(&who), call.now)?;
    claims.extend(map([
        ("iss", config::issuer(backend, tx)?.into()),
        ("sub", crate::random::uuid_text(&who.entity.id).into()),
        ("aud", role.client_id.clone().into()),
        ("iat", now.into()),
        ("exp", now.saturating_add(ttl).into()),
        ("namespace", namespaces::id(tx)?.into()),
    ]));
    let slow = backend.slow.clone();
    Ok(Some(Box::pin(async move {
        let token = sign(slow, key.signing, claims).await?;
        let answer: Prepared =
            Arc::new(map([("client_id", role.client_id.into()), ("token", token.into()), ("ttl", ttl.into())]));
        Ok(answer)
    })))
}

fn token(_: &IdentityBackend, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let answer = call.prepared.and_then(|p| p.downcast_ref::<Map<String, Value>>());
    Ok(Response::data(answer.ok_or_else(|| Error::Internal("no token was signed".into()))?.clone()))
}
