//! `identity/oidc/role/*`: what identity tokens say, and for whom they are.

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{Call, Error, Operation, Preparation, Response, Result, Table, parameters};
use minicbor::{Decode, Encode};

use super::store::{self, Named};
use super::{R, keys, map, plain, seconds, template};
use crate::identity::IdentityBackend;
use crate::layout::identity::OIDC_ROLE;
use crate::random;
use crate::tx::Tx;

const CLIENT_ID_CHARS: usize = 26;
const DAY_SECS: u64 = 24 * 3600;

#[derive(Debug, Clone, Encode, Decode)]
pub struct Role {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub key: String,
    #[n(2)]
    pub template: String,
    /// The audience of its tokens.
    #[n(3)]
    pub client_id: String,
    #[n(4)]
    pub ttl_secs: u64,
}
holdfast_sdk::record!(Role);

impl Named for Role {
    const TABLE: Table = OIDC_ROLE;
    const KIND: &'static str = "role";
    fn name(&self) -> &str {
        &self.name
    }
}

parameters! {
    pub struct Write {
        /// The key that signs its tokens.
        key: Option<String>,
        /// Claims beside the usual ones: JSON with values of the token's entity, also in base64.
        template: Option<String>,
        /// For whom its tokens are; made up if none is given.
        client_id: Option<String>,
        /// How long its tokens count: no longer than the key is published.
        ttl: Option<Seconds>,
    }
}

pub fn routes(routes: R) -> R {
    routes.path("oidc/role", "List the roles of identity tokens.", |p| p.list(list)).path(
        "oidc/role/{name}",
        "Read, write and delete a role of identity tokens.",
        |p| p.read(read).write(exists, write).prepared(Operation::Update, prepare_write).delete(delete),
    )
}

fn list(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(store::names::<Role>(tx)?)
}

fn exists(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    store::is_there::<Role>(tx, call.capture("name")).map(Some)
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let role = store::load::<Role>(tx, plain(call.capture("name"))?)?.ok_or(Error::NotFound)?;
    Ok(Response::data(map([
        ("key", role.key.into()),
        ("ttl", role.ttl_secs.into()),
        ("template", role.template.into()),
        ("client_id", role.client_id.into()),
    ])))
}

/// The role that a write leads to, but for a client id that is to be made up.
fn written(tx: &mut Tx, name: &str, p: Write) -> Result<Role> {
    let ttl = seconds("ttl", p.ttl)?;
    let before = store::load::<Role>(tx, plain(name)?)?;
    let (none, usual) = (String::new, DAY_SECS);
    let mut role = before.unwrap_or_else(|| Role {
        name: name.to_owned(),
        key: none(),
        template: none(),
        client_id: none(),
        ttl_secs: usual,
    });
    role.key = p.key.unwrap_or(role.key);
    if role.key.is_empty() {
        return Err(Error::bad_request("the key parameter is required"));
    }
    if let Some(given) = p.template {
        role.template = template::given(&given);
        template::check(&role.template)?;
    }
    role.client_id = p.client_id.unwrap_or(role.client_id);
    role.ttl_secs = ttl.unwrap_or(role.ttl_secs);
    let verification = keys::verification_secs(tx, &role.key)?
        .ok_or_else(|| Error::bad_request(format!("cannot find key {:?}", role.key)))?;
    if role.ttl_secs > verification {
        return Err(Error::bad_request(
            "a role's token ttl cannot be longer than the verification_ttl of the key it references",
        ));
    }
    Ok(role)
}

fn prepare_write(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Option<Preparation>> {
    let role = written(tx, call.capture("name"), p)?;
    keys::prepare_default(backend, tx, &role.key)
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let mut role = written(tx, call.capture("name"), p)?;
    if role.client_id.is_empty() {
        role.client_id = random::alphanumeric(CLIENT_ID_CHARS)?;
    }
    keys::referred(tx, call, &role.key)?;
    store::save(tx, &role)?;
    Ok(Response::empty())
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    store::delete::<Role>(tx, plain(call.capture("name"))?)?;
    Ok(Response::empty())
}
