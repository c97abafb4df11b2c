//! `identity/oidc/.well-known/*`: what whoever verifies a token needs to know.

use holdfast_sdk::{Call, Map, Response, Result, Value};

use super::keys::NamedKey;
use super::roles::Role;
use super::{R, algorithm, config, keys, map, published, store};
use crate::identity::IdentityBackend;
use crate::tx::Tx;

pub fn routes(routes: R) -> R {
    routes
        .path("oidc/.well-known/openid-configuration", "Where tokens come from and how they are signed.", |p| {
            p.read(configuration).unauthenticated()
        })
        .path("oidc/.well-known/keys", "The public keys that verify tokens.", |p| p.read(public_keys).unauthenticated())
}

fn configuration(backend: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let issuer = config::issuer(backend, tx)?;
    Ok(published(map([
        ("issuer", issuer.clone().into()),
        ("jwks_uri", format!("{issuer}/.well-known/keys").into()),
        ("response_types_supported", vec!["id_token"].into()),
        ("subject_types_supported", vec!["public"].into()),
        ("id_token_signing_alg_values_supported", algorithms()),
    ])))
}

pub fn algorithms() -> Value {
    algorithm::ALL.map(algorithm::Algorithm::name).to_vec().into()
}

fn public_keys(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let keys = of_roles(tx)?;
    key_set(&keys, call)
}

/// The keys that roles sign with.
pub fn of_roles(tx: &mut Tx) -> Result<Vec<NamedKey>> {
    let roles = store::all::<Role>(tx)?;
    named(tx, roles.into_iter().map(|r| r.key).collect())
}

/// Keys by their names, each once.
pub fn named(tx: &mut Tx, mut names: Vec<String>) -> Result<Vec<NamedKey>> {
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::with_capacity(names.len());
    for name in &names {
        found.extend(store::load(tx, name)?);
    }
    Ok(found)
}

/// A JWK set: keys in use, those that are next, and those that may still have signed what counts.
pub fn key_set(keys: &[NamedKey], call: &Call<'_>) -> Result<Response> {
    let jwks: Result<Vec<Map<String, Value>>> =
        keys.iter().flat_map(|k| k.public(call.now)).map(|k: keys::Public<'_>| k.algorithm.jwk(k.kid, k.key)).collect();
    let jwks: Vec<Value> = jwks?.into_iter().map(Value::Object).collect();
    Ok(Response::bare(map([("keys", jwks.into())])))
}
