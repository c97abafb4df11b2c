//! `identity/oidc/provider/*`: issuers, with their clients and scopes, and what they publish of themselves.

use holdfast_sdk::{Call, Error, Map, Response, Result, Table, Value, parameters};
use minicbor::{Decode, Encode};

use super::assignments::once_each;
use super::clients::{self, Client};
use super::scopes::Scope;
use super::{OPENID, R, config, discovery, map, plain, published, store, template};
use crate::identity::IdentityBackend;
use crate::layout::identity::OIDC_PROVIDER;
use crate::tx::Tx;

/// The provider that every namespace has.
const DEFAULT: &str = "default";

#[derive(Debug, Clone, Encode, Decode)]
pub struct Provider {
    #[n(0)]
    pub name: String,
    /// Scheme, host and port; empty: the server's own.
    #[n(1)]
    origin: String,
    #[n(2)]
    allowed_client_ids: Vec<String>,
    #[n(3)]
    pub scopes: Vec<String>,
}
holdfast_sdk::record!(Provider);

impl store::Named for Provider {
    const TABLE: Table = OIDC_PROVIDER;
    const KIND: &'static str = "provider";
    fn name(&self) -> &str {
        &self.name
    }
}

impl Provider {
    fn new(name: &str) -> Provider {
        let all = if name == DEFAULT { vec!["*".to_owned()] } else { Vec::new() };
        Provider { name: name.to_owned(), origin: String::new(), allowed_client_ids: all, scopes: Vec::new() }
    }

    pub fn load(tx: &mut Tx, name: &str) -> Result<Option<Provider>> {
        match store::load(tx, plain(name)?)? {
            None if name == DEFAULT => Ok(Some(Provider::new(DEFAULT))),
            found => Ok(found),
        }
    }

    pub fn allows(&self, client_id: &str) -> bool {
        self.allowed_client_ids.iter().any(|id| id == "*" || id == client_id)
    }

    pub fn issuer(&self, backend: &IdentityBackend, tx: &mut Tx) -> Result<String> {
        Ok(format!("{}identity/oidc/provider/{}", config::base(backend, tx, &self.origin, "v1")?, self.name))
    }

    fn shown(&self, backend: &IdentityBackend, tx: &mut Tx) -> Result<Map<String, Value>> {
        Ok(map([
            ("allowed_client_ids", self.allowed_client_ids.clone().into()),
            ("issuer", self.issuer(backend, tx)?.into()),
            ("scopes_supported", self.scopes.clone().into()),
        ]))
    }

    /// The clients that it may issue tokens for.
    fn clients(&self, tx: &mut Tx) -> Result<Vec<Client>> {
        if self.allowed_client_ids.iter().any(|id| id == "*") {
            return store::all(tx);
        }
        let mut found = Vec::new();
        for id in &self.allowed_client_ids {
            found.extend(clients::by_id(tx, id)?);
        }
        Ok(found)
    }
}

parameters! {
    pub struct Write {
        /// Scheme, host and port that tokens name as their issuer; empty: the server's own.
        issuer: Option<String>,
        /// Clients that it issues tokens for; `*`: all.
        allowed_client_ids: Option<Vec<String>>,
        /// Scopes that may be asked for, beside openid.
        scopes_supported: Option<Vec<String>>,
    }
}
parameters! {
    pub struct Filter {
        /// Only providers that this client may use.
        allowed_client_id: Option<String>,
    }
}

pub fn routes(routes: R) -> R {
    routes
        .path("oidc/provider", "List the providers.", |p| p.list(list))
        .path("oidc/provider/{name}", "Read, write and delete a provider.", |p| {
            p.read(read).write(exists, write).delete(delete)
        })
        .path("oidc/provider/{name}/.well-known/openid-configuration", "What clients need to know.", |p| {
            p.read(configuration).unauthenticated()
        })
        .path("oidc/provider/{name}/.well-known/keys", "The public keys that verify ID tokens.", |p| {
            p.read(public_keys).unauthenticated()
        })
}

fn exists(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Provider::load(tx, call.capture("name")).map(|found| Some(found.is_some()))
}

fn list(backend: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, p: Filter) -> Result<Response> {
    let mut all = store::all::<Provider>(tx)?;
    if !all.iter().any(|p| p.name == DEFAULT) {
        all.push(Provider::new(DEFAULT));
        all.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if let Some(id) = p.allowed_client_id.filter(|id| !id.is_empty()) {
        all.retain(|provider| provider.allows(&id));
    }
    let mut info = Map::new();
    for provider in &all {
        info.insert(provider.name.clone(), Value::Object(provider.shown(backend, tx)?));
    }
    let mut response = Response::list(all.into_iter().map(|p| p.name).collect())?;
    if let holdfast_sdk::Body::Data(data) = &mut response.body {
        data.insert("key_info".into(), Value::Object(info));
    }
    Ok(response)
}

fn read(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let provider = Provider::load(tx, call.capture("name"))?.ok_or(Error::NotFound)?;
    Ok(Response::data(provider.shown(backend, tx)?))
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = call.capture("name");
    let mut provider = Provider::load(tx, name)?.unwrap_or_else(|| Provider::new(name));
    let mut response = Response::empty();
    if let Some(origin) = p.issuer {
        config::check_issuer(&origin)?;
        if !origin.is_empty() {
            response.warnings.push(config::EXPLICIT_ISSUER.into());
        }
        provider.origin = origin;
    }
    provider.allowed_client_ids = p.allowed_client_ids.map_or(provider.allowed_client_ids, once_each);
    if let Some(scopes) = p.scopes_supported {
        provider.scopes = once_each(scopes);
        response.warnings.extend(conflict(tx, &provider.scopes)?);
    }
    store::save(tx, &provider)?;
    Ok(response)
}

/// Refuse scopes that are not there; tell of two that have the same claim.
fn conflict(tx: &mut Tx, scopes: &[String]) -> Result<Option<String>> {
    let mut claims: Vec<(String, &str)> = Vec::new();
    let mut told = None;
    for name in scopes {
        let scope = store::load::<Scope>(tx, name)?.filter(|_| name != OPENID);
        let scope = scope.ok_or_else(|| Error::bad_request(format!("scope {name:?} does not exist")))?;
        for claim in template::check(&scope.template)? {
            if let Some((claim, other)) = claims.iter().find(|(c, _)| *c == claim) {
                told.get_or_insert_with(|| {
                    format!(
                        "Found scope templates with conflicting top-level keys: conflict {claim:?} in scopes \
                         {other:?}, {name:?}. This may result in an error if the scopes are requested in an OIDC \
                         Authentication Request."
                    )
                });
            } else {
                claims.push((claim, name));
            }
        }
    }
    Ok(told)
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    if name == DEFAULT {
        return Err(Error::bad_request(format!("deletion of OIDC provider {name:?} not allowed")));
    }
    store::delete::<Provider>(tx, name)?;
    Ok(Response::empty())
}

fn configuration(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let provider = Provider::load(tx, call.capture("name"))?.ok_or(Error::NotFound)?;
    let issuer = provider.issuer(backend, tx)?;
    let pages = config::base(backend, tx, &provider.origin, "ui/vault")?;
    let mut scopes = provider.scopes.clone();
    scopes.push(OPENID.into());
    Ok(published(map([
        ("issuer", issuer.clone().into()),
        ("jwks_uri", format!("{issuer}/.well-known/keys").into()),
        ("authorization_endpoint", format!("{pages}identity/oidc/provider/{}/authorize", provider.name).into()),
        ("token_endpoint", format!("{issuer}/token").into()),
        ("userinfo_endpoint", format!("{issuer}/userinfo").into()),
        ("request_parameter_supported", false.into()),
        ("request_uri_parameter_supported", false.into()),
        ("id_token_signing_alg_values_supported", discovery::algorithms()),
        ("response_types_supported", vec!["code"].into()),
        ("scopes_supported", scopes.into()),
        ("claims_supported", Value::Array(Vec::new())),
        ("subject_types_supported", vec!["public"].into()),
        ("grant_types_supported", vec!["authorization_code"].into()),
        ("token_endpoint_auth_methods_supported", vec!["none", "client_secret_basic", "client_secret_post"].into()),
    ])))
}

fn public_keys(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let provider = Provider::load(tx, call.capture("name"))?.ok_or(Error::NotFound)?;
    let names = provider.clients(tx)?.into_iter().map(|c| c.key).collect();
    let keys = discovery::named(tx, names)?;
    discovery::key_set(&keys, call)
}
