//! `identity/oidc/introspect`: whether a token of this server still counts.

use holdfast_sdk::{Call, Response, Result, Value, parameters};

use super::jwt::Presented;
use super::{R, config, discovery, map};
use crate::identity::{Entity, IdentityBackend, store as entities};
use crate::layout::SYSTEM;
use crate::namespaces;
use crate::tx::Tx;

parameters! {
    pub struct Introspect {
        /// The token.
        token: Option<String>,
        /// For whom it has to be; empty: for anybody.
        client_id: Option<String>,
    }
}

pub fn routes(routes: R) -> R {
    routes.path("oidc/introspect", "Whether a token still counts.", |p| p.update(introspect))
}

fn introspect(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Introspect) -> Result<Response> {
    let client = p.client_id.unwrap_or_default();
    let why = why_not(backend, tx, call, &p.token.unwrap_or_default(), &client)?;
    Ok(Response::bare(match why {
        None => map([("active", true.into())]),
        Some(why) => map([("active", false.into()), ("error", why.into())]),
    }))
}

fn why_not(
    backend: &IdentityBackend,
    tx: &mut Tx,
    call: &Call<'_>,
    token: &str,
    client: &str,
) -> Result<Option<String>> {
    let token = match Presented::parse(token) {
        Ok(token) => token,
        Err(why) => return Ok(Some(format!("error parsing token: {why}"))),
    };
    let keys = discovery::of_roles(tx)?;
    let mut public = keys.iter().flat_map(|k| k.public(call.now));
    let verified = public
        .find(|k| k.kid == token.kid && k.algorithm.name() == token.algorithm)
        .is_some_and(|k| k.algorithm.verifies(k.key, token.input.as_bytes(), &token.signature));
    if !verified {
        return Ok(Some("unable to validate the token signature".into()));
    }
    let claims = |why: &str| Ok(Some(format!("error validating claims: {why}")));
    let text = |name: &str| token.claims.get(name).and_then(Value::as_str).unwrap_or("");
    if text("iss") != config::issuer(backend, tx)? {
        return claims("validation failed, invalid issuer claim (iss)");
    }
    if !client.is_empty() && text("aud") != client {
        return claims("validation failed, invalid audience claim (aud)");
    }
    if token.claims.get("exp").and_then(Value::as_u64).is_none_or(|end| end <= call.now.secs()) {
        return claims("validation failed, token is expired (exp)");
    }
    Ok(match subject(tx, text("sub"))? {
        None => Some("entity was not found".into()),
        Some(entity) if entity.disabled => Some("entity is disabled".into()),
        Some(_) => None,
    })
}

/// The entity of a token: of this namespace, or of one above it, whose tokens count here.
fn subject(tx: &mut Tx, id: &str) -> Result<Option<Entity>> {
    let Some(id) = entities::parse(id) else { return Ok(None) };
    for namespace in namespaces::upwards(tx)? {
        if let Some(entity) = tx.within(SYSTEM.of(namespace), |tx| entities::entity(tx, &id))? {
            return Ok(Some(entity));
        }
    }
    Ok(None)
}
