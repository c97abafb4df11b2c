//! `cubbyhole/`: a space for each token, which no other token sees and which ends with it.
//!
//! A name starts with the token's stored id, so that ending a token is deleting one folder, in the
//! commit that ends it. It is a backend of the core, since engines do not hear of ended tokens;
//! wrapped answers wait here too.

use holdfast_sdk::{
    Backend, Call, Class, Error, Found, Map, Operation, Place, Response, Result, Route, Routes, TokenId, Transaction,
    Value, json,
};

use crate::jobs;
use crate::layout::{CUBBYHOLE, KEPT_ELSEWHERE, NamespaceId, SPACES, TOKENS};
use crate::tokens::RESPONSE_WRAPPING;
use crate::tx::Tx;

/// Where the answer waits in a wrapping token's space.
pub const RESPONSE: &str = "response";

/// The secret engine, mounted at `cubbyhole/` when a store is made.
pub struct Cubbyhole {
    routes: Routes<Cubbyhole>,
}

impl Default for Cubbyhole {
    fn default() -> Self {
        let routes = Routes::new().path("{path...}", "Read, write, list and delete what belongs to this token.", |p| {
            p.read(read).write(exists, write).delete(delete).list(list)
        });
        Cubbyhole { routes }
    }
}

fn exists(_: &Cubbyhole, tx: &mut holdfast_sdk::Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(load(tx, &own(call)?, named(call)?)?.is_some()))
}

fn read(_: &Cubbyhole, tx: &mut holdfast_sdk::Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let path = named(call)?;
    let response = Response::data(load(tx, &own(call)?, path)?.ok_or(Error::NotFound)?);
    if path == RESPONSE && call.caller.policies.iter().any(|p| p == RESPONSE_WRAPPING) {
        return Ok(response.warn(
            "Reading from 'cubbyhole/response' is deprecated. Please use sys/wrapping/unwrap to unwrap responses, \
             as it provides additional security checks and other benefits.",
        ));
    }
    Ok(response)
}

fn write(_: &Cubbyhole, tx: &mut holdfast_sdk::Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let path = named(call)?;
    if call.request.data.is_empty() {
        return Err(Error::internal("missing data fields"));
    }
    save(tx, &own(call)?, path, &call.request.data)?;
    Ok(Response::empty())
}

fn delete(_: &Cubbyhole, tx: &mut holdfast_sdk::Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    tx.delete(Place::Name(SPACES, &name(&own(call)?, call.capture("path"))))?;
    Ok(Response::empty())
}

fn list(_: &Cubbyhole, tx: &mut holdfast_sdk::Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let folder = call.capture("path").trim_end_matches('/');
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    Response::list(tx.names(SPACES, &name(&own(call)?, &folder), "", 0)?)
}

fn own(call: &Call<'_>) -> Result<[u8; 32]> {
    call.caller
        .token_id
        .map(|id| id.own)
        .ok_or_else(|| Error::bad_request("cubbyhole operations are only supported by \"service\" type tokens"))
}

fn named<'a>(call: &'a Call<'_>) -> Result<&'a str> {
    match call.capture("path") {
        // The reference answers both mistakes with 500.
        "" => Err(Error::internal("missing path")),
        path => Ok(path),
    }
}

fn name(token: &[u8; 32], path: &str) -> String {
    format!("{}/{path}", hex::encode(token))
}

fn load<T: Transaction + ?Sized>(tx: &mut T, token: &[u8; 32], path: &str) -> Result<Option<Map<String, Value>>> {
    let stored = tx.get(Place::Name(SPACES, &name(token, path)))?;
    stored.map(|b| json::read(&b)).transpose()
}

fn save<T: Transaction + ?Sized>(tx: &mut T, token: &[u8; 32], path: &str, data: &Map<String, Value>) -> Result<()> {
    tx.put(Place::Name(SPACES, &name(token, path)), serde_json::to_vec(data).map_err(Error::internal)?)
}

/// What a token keeps at a path, in its own namespace.
pub fn get(tx: &mut Tx, token: &TokenId, path: &str) -> Result<Option<Map<String, Value>>> {
    tx.within(CUBBYHOLE.of(token.namespace), |tx| load(tx, &token.own, path))
}

/// Keep something in a token's space of its own namespace.
pub fn put(tx: &mut Tx, token: &TokenId, path: &str, data: &Map<String, Value>) -> Result<()> {
    tx.within(CUBBYHOLE.of(token.namespace), |tx| save(tx, &token.own, path, data))
}

/// Remember that a token keeps something in another namespace, so that it ends with the token.
pub fn keeps_elsewhere(tx: &mut Tx, token: &TokenId, namespace: &NamespaceId) -> Result<()> {
    let place = [&token.own[..], namespace].concat();
    tx.within(TOKENS.of(token.namespace), |tx| tx.put(Place::Ordered(KEPT_ELSEWHERE, &place), Vec::new()))
}

/// Whether there is anything in a token's space.
pub fn is_empty(tx: &mut Tx, token: &TokenId) -> Result<bool> {
    tx.within(CUBBYHOLE.of(token.namespace), |tx| Ok(tx.names(SPACES, &name(&token.own, ""), "", 1)?.is_empty()))
}

/// Delete up to `limit` entries of a token's space, those in other namespaces first. True: there may be more.
pub fn clean(tx: &mut Tx, token: &TokenId, limit: usize) -> Result<bool> {
    let end = holdfast_storage::prefix_end(&token.own).unwrap_or_default();
    let tokens = TOKENS.of(token.namespace);
    let elsewhere = tx.within(tokens, |tx| tx.ordered(KEPT_ELSEWHERE, &token.own, &end, 1))?;
    if let Some((place, _)) = elsewhere.first() {
        let namespace: Option<NamespaceId> = place.get(32..).and_then(|n| n.try_into().ok());
        if let Some(sealed) = namespace.filter(|n| tx.is_sealed(n)) {
            // The token's own id leads there, whichever namespace it is of.
            jobs::add_in(tx, sealed, jobs::Kind::CleanCubbyhole { token: token.own })?;
            tx.within(tokens, |tx| tx.delete(Place::Ordered(KEPT_ELSEWHERE, place)))?;
            return Ok(true);
        }
        if !namespace.is_some_and(|n| clean_in(tx, n, token, limit).unwrap_or(false)) {
            tx.within(tokens, |tx| tx.delete(Place::Ordered(KEPT_ELSEWHERE, place)))?;
        }
        return Ok(true);
    }
    clean_in(tx, token.namespace, token, limit)
}

fn clean_in(tx: &mut Tx, namespace: NamespaceId, token: &TokenId, limit: usize) -> Result<bool> {
    tx.within(CUBBYHOLE.of(namespace), |tx| {
        let folder = tx.key(Place::Name(SPACES, &name(&token.own, "")))?;
        tx.delete_prefix(&folder, limit)
    })
}

impl Backend for Cubbyhole {
    fn kind(&self) -> &'static str {
        "cubbyhole"
    }
    fn class(&self) -> Class {
        Class::Secret
    }
    fn routes(&self) -> Vec<Route<'_>> {
        self.routes.describe()
    }
    fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        self.routes.find(operation, path)
    }
    holdfast_sdk::handled_by!(routes);
}
