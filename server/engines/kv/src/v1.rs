//! kv version 1: a value for each path, no versions.

use holdfast_sdk::parameters::{Anything, Lenient, Seconds};
use holdfast_sdk::{
    Backend, Call, Class, Error, Found, Lease, Map, Operation, Place, Response, Result, Route, Routes, Table, Tx, Value,
};

const DATA: Table = Table(1);
/// What clients are told how long a value is good for, unless it has a `ttl`.
const DEFAULT_TTL_SECS: u64 = 768 * 3600;

pub struct KvV1 {
    routes: Routes<KvV1>,
}

impl Default for KvV1 {
    fn default() -> Self {
        let routes = Routes::new().path("{path...}", "Read, write, list and delete values.", |p| {
            p.read(read).write(exists, write).delete(delete).list(list).scan(scan)
        });
        KvV1 { routes }
    }
}

fn exists(_: &KvV1, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(tx.get(Place::Name(DATA, call.capture("path")))?.is_some()))
}

fn read(_: &KvV1, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let stored = tx.get(Place::Name(DATA, call.capture("path")))?.ok_or(Error::NotFound)?;
    let data: Map<String, Value> = holdfast_sdk::json::read(&stored)?;
    // A `ttl` or `lease` of the data counts where it is a duration.
    let ttl_secs = match data.get("ttl").or(data.get("lease")) {
        Some(Value::Null) => 0,
        Some(v @ (Value::String(_) | Value::Number(_))) => {
            Seconds::lenient(v).map_or(DEFAULT_TTL_SECS, |s| s.0.max(0) as u64)
        }
        _ => DEFAULT_TTL_SECS,
    };
    let mut response = Response::data(data);
    response.lease = Some(Lease { id: String::new(), ttl_secs, renewable: false });
    Ok(response)
}

fn write(_: &KvV1, tx: &mut Tx, call: &Call<'_>, p: Anything) -> Result<Response> {
    let path = call.capture("path");
    if path.is_empty() {
        return Err(Error::bad_request("missing path"));
    }
    if p.0.is_empty() {
        return Err(Error::bad_request("missing data fields"));
    }
    tx.put(Place::Name(DATA, path), serde_json::to_vec(&p.0).map_err(Error::internal)?)?;
    Ok(Response::empty())
}

fn delete(_: &KvV1, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    tx.delete(Place::Name(DATA, call.capture("path")))?;
    Ok(Response::empty())
}

fn folder(call: &Call<'_>) -> String {
    let folder = call.capture("path").trim_end_matches('/');
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

/// All names of a folder; version 1 has no pages.
fn list(_: &KvV1, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(tx.names(DATA, &folder(call), "", 0)?)
}

fn scan(_: &KvV1, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(crate::all_below(tx, DATA, &folder(call))?)
}

impl Backend for KvV1 {
    fn kind(&self) -> &'static str {
        "kv"
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
    fn exists(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
        self.routes.exists(self, found, tx, call)
    }
    fn apply(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Response> {
        self.routes.apply(self, found, tx, call)
    }
}
