//! `identity/oidc/provider/*`: OpenID Connect for other services (OpenID Connect Core 1.0, RFC 6749, RFC 7636).
//!
//! A *client* is a service that people log in to; its *assignments* say which people. A *provider* is an issuer with
//! the clients and scopes that it knows. A logged-in person asks `authorize` for a code, the client gives it to
//! `token` for an ID token and an access token, and that one is good for `userinfo` alone.

mod assignments;
mod authorize;
mod clients;
mod codes;
mod exchange;
mod oauth;
mod providers;
mod scopes;
mod userinfo;

pub use codes::Codes;

use holdfast_sdk::{Error, Map, Result, Timestamp, Value};

use self::clients::Client;
use self::providers::Provider;
use self::scopes::Scope;
use super::{R, config, discovery, keys, map, plain, published, seconds, signing, store, template};
use crate::identity::Resolved;
use crate::random::uuid_text;
use crate::tx::Tx;

/// The scope that every request has, and that needs no declaration.
const OPENID: &str = "openid";

pub fn routes(routes: R) -> R {
    let routes = assignments::routes(routes);
    let routes = scopes::routes(routes);
    let routes = clients::routes(routes);
    let routes = providers::routes(routes);
    let routes = authorize::routes(routes);
    let routes = exchange::routes(routes);
    userinfo::routes(routes)
}

/// Keys of clients.
pub fn referring_clients(tx: &mut Tx, key: &str) -> Result<Vec<String>> {
    Ok(store::all::<Client>(tx)?.into_iter().filter(|c| c.key == key).map(|c| c.name).collect())
}

/// The scopes of a request that the provider knows, each once.
fn known_scopes(provider: &Provider, asked: &str) -> Vec<String> {
    let mut scopes: Vec<String> =
        asked.split(' ').filter(|s| provider.scopes.iter().any(|known| known == s)).map(str::to_owned).collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// What scopes tell of somebody. Two that tell the same are an error: nobody could say which counts.
fn claims_of(tx: &mut Tx, scopes: &[String], who: Option<&Resolved>, now: Timestamp) -> Result<Map<String, Value>> {
    let mut claims = Map::new();
    for name in scopes {
        let Some(scope) = store::load::<Scope>(tx, name)? else { continue };
        for (claim, value) in template::claims(&scope.template, who, now)? {
            if claims.insert(claim.clone(), value).is_some() {
                return Err(Error::bad_request(format!("two of the scopes have the claim {claim:?}")));
            }
        }
    }
    Ok(claims)
}

/// Whether one of a client's assignments is somebody's.
fn is_assigned(tx: &mut Tx, client: &Client, who: &Resolved) -> Result<bool> {
    let has = |ids: &[String], id: &str| ids.iter().any(|i| i == id);
    let entity = uuid_text(&who.entity.id);
    for name in &client.assignments {
        if name == assignments::ALLOW_ALL {
            return Ok(true);
        }
        let Some(assignment) = store::load::<assignments::Assignment>(tx, name)? else { continue };
        let by_group = |g: &super::super::record::Group| has(&assignment.group_ids, &uuid_text(&g.id));
        if has(&assignment.entity_ids, &entity) || who.groups().iter().any(by_group) {
            return Ok(true);
        }
    }
    Ok(false)
}
