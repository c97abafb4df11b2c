//! `identity/oidc/`: identity tokens, and the OpenID provider.
//!
//! A token says who its holder is, to services that know nothing of this server but its published keys. Keys are
//! software keys, sealed as all that is stored.

mod algorithm;
mod config;
mod discovery;
mod introspect;
mod jwt;
mod keys;
mod provider;
mod roles;
pub mod rotation;
mod signing;
mod template;

pub use provider::Codes;

use holdfast_sdk::{Error, Map, Result, Routes, Value};

use super::record::map;
use super::{IdentityBackend, named as store};
use crate::tx::Tx;

type R = Routes<IdentityBackend, Tx>;

pub fn routes(routes: R) -> R {
    let routes = discovery::routes(config::routes(routes));
    let routes = roles::routes(keys::routes(routes));
    let routes = introspect::routes(signing::routes(routes));
    provider::routes(routes)
}

/// A name in a path: others are no path.
fn plain(name: &str) -> Result<&str> {
    if holdfast_sdk::names::is_plain(name) { Ok(name) } else { Err(Error::UnsupportedPath) }
}

/// A duration of a request in whole seconds.
fn seconds(field: &str, given: Option<holdfast_sdk::parameters::Seconds>) -> Result<Option<u64>> {
    let negative = |s: i64| {
        let why = format!("cannot provide negative value '{s}'");
        Error::bad_request(format!("error converting input for field {field:?}: {why}"))
    };
    given.map(|s| u64::try_from(s.0).map_err(|_| negative(s.0))).transpose()
}

/// A document that everybody may read and keep for a while.
fn published(document: Map<String, Value>) -> holdfast_sdk::Response {
    let mut response = holdfast_sdk::Response::bare(document);
    response.headers.push(("cache-control".into(), "max-age=3600".into()));
    response
}
