//! `identity/oidc/client/*`: services that people log in to.

use holdfast_hsm::memory::Secret;
use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    Call, Error, Map, Operation, Place, Preparation, Response, Result, Table, Transaction, Value, parameters,
};
use minicbor::{Decode, Encode};

use super::assignments::{self, once_each};
use super::{R, keys, map, plain, seconds, store};
use crate::identity::IdentityBackend;
use crate::layout::{IDENTITY, identity::OIDC_CLIENT, identity::OIDC_CLIENT_ID};
use crate::random;
use crate::tx::Tx;

const DAY_SECS: u64 = 24 * 3600;
const ID_CHARS: usize = 32;
const SECRET_PREFIX: &str = "hvo_secret_";
const SECRET_CHARS: usize = 64;

#[derive(Clone, Encode, Decode)]
pub struct Client {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub id: String,
    /// Of a confidential client.
    #[n(2)]
    secret: Option<String>,
    #[n(3)]
    pub key: String,
    #[n(4)]
    pub redirect_uris: Vec<String>,
    #[n(5)]
    pub assignments: Vec<String>,
    #[n(6)]
    pub id_token_secs: u64,
    #[n(7)]
    pub access_token_secs: u64,
    /// Whether people log in to it.
    #[n(8)]
    pub authorization_code: bool,
    /// Whether it gets tokens for itself.
    #[n(9)]
    pub client_credentials: bool,
}
holdfast_sdk::record!(Client);

impl store::Named for Client {
    const TABLE: Table = OIDC_CLIENT;
    const KIND: &'static str = "client";
    fn name(&self) -> &str {
        &self.name
    }
}

impl Client {
    pub fn is_confidential(&self) -> bool {
        self.secret.is_some()
    }

    /// Whether somebody who presents this is the client; a public one has no secret to present.
    pub fn knows(&self, presented: &Secret<String>) -> bool {
        self.secret.as_ref().is_none_or(|secret| presented.ct_eq(secret))
    }

    fn shown(&self) -> Map<String, Value> {
        map([
            ("redirect_uris", self.redirect_uris.clone().into()),
            ("assignments", self.assignments.clone().into()),
            ("key", self.key.clone().into()),
            ("id_token_ttl", self.id_token_secs.into()),
            ("access_token_ttl", self.access_token_secs.into()),
            ("client_id", self.id.clone().into()),
            ("client_type", if self.is_confidential() { "confidential" } else { "public" }.into()),
            ("authorization_code", self.authorization_code.into()),
            ("client_credentials", self.client_credentials.into()),
        ])
    }
}

pub fn by_id(tx: &mut Tx, id: &str) -> Result<Option<Client>> {
    let Some(name) = tx.within(IDENTITY, |tx| tx.get(Place::Id(OIDC_CLIENT_ID, id)))? else { return Ok(None) };
    let name = String::from_utf8(name).map_err(|_| Error::Internal("a client's record is broken".into()))?;
    store::load(tx, &name)
}

parameters! {
    pub struct Write {
        /// The key that signs its ID tokens; `default` where none is named. It stays.
        key: Option<String>,
        /// Where people may be sent back to.
        redirect_uris: Option<Vec<String>>,
        /// Who may log in to it.
        assignments: Option<Vec<String>>,
        /// confidential (it keeps a secret) or public; it stays.
        client_type: Option<String>,
        /// How long its ID tokens count.
        id_token_ttl: Option<Seconds>,
        /// How long its access tokens count.
        access_token_ttl: Option<Seconds>,
        /// Whether people log in to it.
        authorization_code: Option<bool>,
        /// Whether it gets tokens for itself: a confidential one may.
        client_credentials: Option<bool>,
    }
}

pub fn routes(routes: R) -> R {
    routes.path("oidc/client", "List the clients.", |p| p.list(list)).path(
        "oidc/client/{name}",
        "Read, write and delete a client.",
        |p| p.read(read).write(exists, write).prepared(Operation::Update, prepare_write).delete(delete),
    )
}

fn exists(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    store::is_there::<Client>(tx, call.capture("name")).map(Some)
}

fn list(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let clients = store::all::<Client>(tx)?;
    let info: Map<String, Value> = clients.iter().map(|c| (c.name.clone(), Value::Object(c.shown()))).collect();
    let mut response = Response::list(clients.into_iter().map(|c| c.name).collect())?;
    if let holdfast_sdk::Body::Data(data) = &mut response.body {
        data.insert("key_info".into(), Value::Object(info));
    }
    Ok(response)
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let client = store::load::<Client>(tx, plain(call.capture("name"))?)?.ok_or(Error::NotFound)?;
    let mut shown = client.shown();
    if let Some(secret) = client.secret {
        shown.insert("client_secret".into(), secret.into());
    }
    Ok(Response::data(shown))
}

/// The client that a write leads to; a new one has no id yet, and its secret is to be made.
fn written(tx: &mut Tx, name: &str, p: Write) -> Result<Client> {
    let (id_token, access_token) =
        (seconds("id_token_ttl", p.id_token_ttl)?, seconds("access_token_ttl", p.access_token_ttl)?);
    let confidential = match p.client_type.as_deref() {
        None => None,
        Some("confidential") => Some(true),
        Some("public") => Some(false),
        Some(other) => return Err(Error::bad_request(format!("invalid client_type {other:?}"))),
    };
    let before = store::load::<Client>(tx, plain(name)?)?;
    if let Some(before) = &before {
        if p.key.as_ref().is_some_and(|k| *k != before.key) {
            return Err(Error::bad_request("key modification is not allowed"));
        }
        if confidential.is_some_and(|c| c != before.is_confidential()) {
            return Err(Error::bad_request("client_type modification is not allowed"));
        }
    }
    let mut client = before.unwrap_or_else(|| Client {
        name: name.to_owned(),
        id: String::new(),
        secret: confidential.unwrap_or(true).then(String::new),
        key: p.key.unwrap_or_else(|| keys::DEFAULT.into()),
        redirect_uris: Vec::new(),
        assignments: Vec::new(),
        id_token_secs: DAY_SECS,
        access_token_secs: DAY_SECS,
        authorization_code: true,
        client_credentials: false,
    });
    client.redirect_uris = p.redirect_uris.map_or(client.redirect_uris, once_each);
    client.assignments = p.assignments.map_or(client.assignments, once_each);
    client.id_token_secs = id_token.unwrap_or(client.id_token_secs);
    client.access_token_secs = access_token.unwrap_or(client.access_token_secs);
    client.authorization_code = p.authorization_code.unwrap_or(client.authorization_code);
    client.client_credentials = p.client_credentials.unwrap_or(client.client_credentials);
    if client.client_credentials && !client.is_confidential() {
        return Err(Error::bad_request("client_credentials=true is only allowed for client_type=confidential"));
    }
    for assignment in &client.assignments {
        if !assignments::is_there(tx, assignment)? {
            return Err(Error::bad_request(format!("assignment {assignment:?} does not exist")));
        }
    }
    let verification = keys::verification_secs(tx, &client.key)?
        .ok_or_else(|| Error::bad_request(format!("key {:?} does not exist", client.key)))?;
    if client.id_token_secs > verification {
        return Err(Error::bad_request(
            "a client's id_token_ttl cannot be greater than the verification_ttl of the key it references",
        ));
    }
    Ok(client)
}

fn prepare_write(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Option<Preparation>> {
    let client = written(tx, call.capture("name"), p)?;
    keys::prepare_default(backend, tx, &client.key)
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let mut client = written(tx, call.capture("name"), p)?;
    if client.id.is_empty() {
        client.id = random::alphanumeric(ID_CHARS)?;
        if let Some(secret) = &mut client.secret {
            *secret = format!("{SECRET_PREFIX}{}", random::alphanumeric(SECRET_CHARS)?);
        }
        tx.within(IDENTITY, |tx| tx.put(Place::Id(OIDC_CLIENT_ID, &client.id), client.name.clone().into_bytes()))?;
    }
    keys::referred(tx, call, &client.key)?;
    store::save(tx, &client)?;
    Ok(Response::empty())
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    if let Some(client) = store::load::<Client>(tx, name)? {
        tx.within(IDENTITY, |tx| tx.delete(Place::Id(OIDC_CLIENT_ID, &client.id)))?;
        store::delete::<Client>(tx, name)?;
    }
    Ok(Response::empty())
}
