//! `identity/oidc/scope/*`: what clients may be told of people.

use holdfast_sdk::{Call, Error, Response, Result, Table, parameters};
use minicbor::{Decode, Encode};

use super::providers::Provider;
use super::{OPENID, R, map, plain, store, template};
use crate::identity::IdentityBackend;
use crate::layout::identity::OIDC_SCOPE;
use crate::tx::Tx;

#[derive(Debug, Clone, Encode, Decode)]
pub struct Scope {
    #[n(0)]
    name: String,
    #[n(1)]
    pub template: String,
    #[n(2)]
    description: String,
}
holdfast_sdk::record!(Scope);

impl store::Named for Scope {
    const TABLE: Table = OIDC_SCOPE;
    const KIND: &'static str = "scope";
    fn name(&self) -> &str {
        &self.name
    }
}

parameters! {
    pub struct Write {
        /// Claims: JSON with values of the entity, also in base64.
        template: Option<String>,
        /// For people.
        description: Option<String>,
    }
}

pub fn routes(routes: R) -> R {
    routes.path("oidc/scope", "List the scopes.", |p| p.list(list)).path(
        "oidc/scope/{name}",
        "Read, write and delete a scope.",
        |p| p.read(read).write(exists, write).delete(delete),
    )
}

fn exists(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    store::is_there::<Scope>(tx, call.capture("name")).map(Some)
}

fn list(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(store::names::<Scope>(tx)?)
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let scope = store::load::<Scope>(tx, plain(call.capture("name"))?)?.ok_or(Error::NotFound)?;
    Ok(Response::data(map([("template", scope.template.into()), ("description", scope.description.into())])))
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    if name == OPENID {
        return Err(Error::bad_request(format!("the {OPENID:?} scope name is reserved")));
    }
    let before = store::load::<Scope>(tx, name)?;
    let (template, description) = before.map(|b| (b.template, b.description)).unwrap_or_default();
    let given = p.template.map(|t| template::given(&t));
    if let Some(given) = &given {
        template::check(given)?;
    }
    store::save(
        tx,
        &Scope {
            name: name.to_owned(),
            template: given.unwrap_or(template),
            description: p.description.unwrap_or(description),
        },
    )?;
    Ok(Response::empty())
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    let refers = |p: &Provider| p.scopes.iter().any(|s| s == name);
    let providers = store::all::<Provider>(tx)?.into_iter().filter(refers).map(|p| p.name).collect();
    store::in_use("scope", name, "providers", providers)?;
    store::delete::<Scope>(tx, name)?;
    Ok(Response::empty())
}
