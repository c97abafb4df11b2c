//! kv version 1: a value for each path, no versions.

use holdfast_sdk::parameters::{Anything, Lenient, Seconds};
use holdfast_sdk::{
    Backend, Call, Class, Error, Found, Lease, Map, Operation, Place, Response, Result, Route, Routes, Table, Tx, Value,
};

const DATA: Table = Table(1);

pub struct KvV1 {
    routes: Routes<KvV1>,
    /// What clients are told how long a value is good for, unless it has a `ttl`.
    default_ttl_secs: u64,
}

impl KvV1 {
    /// An engine for a mount with this default TTL.
    pub fn new(default_ttl_secs: u64) -> KvV1 {
        let routes = Routes::new().path("{path...}", "Read, write, list and delete values.", |p| {
            p.read(read).write(exists, write).delete(delete).list(list).scan(scan).reads_anywhere()
        });
        KvV1 { routes, default_ttl_secs }
    }
}

fn exists(_: &KvV1, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(tx.get(Place::Name(DATA, call.capture("path")))?.is_some()))
}

fn read(kv: &KvV1, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let stored = tx.get(Place::Name(DATA, call.capture("path")))?.ok_or(Error::NotFound)?;
    if stored.first() != Some(&b'{') {
        // A record of version 2: the request was on its way when the mount was upgraded.
        return Err(Error::Unavailable("the mount has become one of version 2; try again".into()));
    }
    let data: Map<String, Value> = holdfast_sdk::json::read(&stored)?;
    // A `ttl` or `lease` of the data counts where it is a duration.
    let ttl_secs = match data.get("ttl").or(data.get("lease")) {
        Some(Value::Null) => 0,
        Some(v @ (Value::String(_) | Value::Number(_))) => {
            Seconds::lenient(v).map_or(kv.default_ttl_secs, |s| s.0.max(0) as u64)
        }
        _ => kv.default_ttl_secs,
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
    match crate::all_below(tx, DATA, &folder(call))? {
        // Unlike a list, a scan of nothing is no 404.
        keys if keys.is_empty() => Ok(Response::data(Map::new())),
        keys => Response::list(keys),
    }
}

impl Backend for KvV1 {
    fn secrets(&self) -> Option<Table> {
        Some(DATA)
    }

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
    holdfast_sdk::handled_by!(routes);
}
