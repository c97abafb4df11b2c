//! `userinfo`: what a client may know of whoever gave it an access token.

use holdfast_sdk::{Call, Map, Response, Result, Value};

use super::oauth::{ACCESS_DENIED, INVALID_REQUEST, Refusal, Stop, refuse};
use super::providers::Provider;
use super::{R, claims_of, clients, exchange, is_assigned, map};
use crate::identity::{IdentityBackend, resolve};
use crate::layout::{ROOT, SYSTEM};
use crate::random;
use crate::tokens;
use crate::tx::Tx;

const INVALID_TOKEN: &str = "invalid_token";

pub fn routes(routes: R) -> R {
    routes.path("oidc/provider/{name}/userinfo", "What an access token lets its client know.", |p| {
        p.read(userinfo).update(userinfo).unauthenticated()
    })
}

fn userinfo(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    match told(tx, call) {
        Ok(claims) => Ok(Response::bare(claims)),
        Err(Stop::Refused(refusal)) => Ok(refused(&refusal)),
        Err(Stop::Failed(e)) => Err(e),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let (code, why) = (refusal.code, &refusal.why);
    let status = match code {
        INVALID_TOKEN => 401,
        ACCESS_DENIED => 403,
        _ => 400,
    };
    let answer = map([("error", code.into()), ("error_description", why.clone().into())]);
    let mut response = Response { status: Some(status), ..Response::bare(answer) };
    let challenge = format!("Bearer error={code:?},error_description={why:?}");
    response.headers.push(("www-authenticate".into(), challenge));
    response
}

fn told(tx: &mut Tx, call: &Call<'_>) -> Result<Map<String, Value>, Stop> {
    let denied = || refuse(INVALID_TOKEN, "permission denied");
    let token = call.request.token.as_ref().ok_or_else(denied)?;
    let held = tokens::find_valid(tx, token.expose(), call.now)?.ok_or_else(denied)?;
    if held.namespace != tx.namespace() || !held.entry.admits(call.request.remote) {
        return Err(denied().into());
    }
    let kept = |name: &str| held.entry.internal.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    let (client, provider, scopes) = (kept(exchange::CLIENT), kept(exchange::PROVIDER), kept(exchange::SCOPES));
    let (Some(client), Some(provider), Some(scopes)) = (client, provider, scopes) else { return Err(denied().into()) };
    let namespace = kept(exchange::ENTITY_NAMESPACE).and_then(random::parse_uuid).unwrap_or(ROOT);
    if provider != call.capture("name") {
        return Err(denied().into());
    }
    if !call.request.presented.bearer {
        return Err(refuse(INVALID_TOKEN, "access token must be sent as a Bearer token").into());
    }
    let provider = Provider::load(tx, provider)?.ok_or_else(|| refuse(INVALID_REQUEST, "provider not found"))?;
    let client = clients::by_id(tx, client)?.filter(|c| provider.allows(&c.id));
    let client = client.ok_or_else(|| refuse(ACCESS_DENIED, "client not found"))?;
    let who = tx.within(SYSTEM.of(namespace), |tx| resolve(tx, &held.entry.entity_id))?;
    let who = who.filter(|w| !w.entity.disabled).ok_or_else(denied)?;
    if !is_assigned(tx, &client, &who)? {
        return Err(refuse(ACCESS_DENIED, "identity entity not authorized by client assignment").into());
    }
    let scopes: Vec<String> = scopes.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let mut claims = claims_of(tx, &scopes, Some(&who), call.now)?;
    claims.insert("sub".into(), held.entry.entity_id.into());
    Ok(claims)
}
