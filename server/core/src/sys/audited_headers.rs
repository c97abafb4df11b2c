//! `sys/config/auditing/request-headers`: which request headers the audit log shows.

use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Value, parameters, record};
use minicbor::{Decode, Encode};
use serde_json::json;

use super::System;
use super::cors::is_header_name;
use crate::layout::{SETTINGS, STORE};
use crate::tx::Tx;

/// Where the settings are.
pub(super) const NAME: &[u8] = b"audited-headers";
/// Shown without being asked for, unless they are configured.
const ALWAYS: [&str; 2] = ["user-agent", "x-correlation-id"];
/// Headers that may be shown.
const MOST: usize = 100;

/// Request headers that audit lines show, by their names in lower case.
#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct AuditedHeaders {
    #[n(0)]
    headers: Vec<AuditedHeader>,
}
holdfast_sdk::record!(AuditedHeaders);

#[derive(Debug, Clone, Encode, Decode)]
struct AuditedHeader {
    #[n(0)]
    name: String,
    /// Show the HMAC of its values.
    #[n(1)]
    hmac: bool,
}

parameters! {
    pub struct Settings {
        /// Show the HMAC of the header's values, not themselves.
        hmac: Option<bool>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("config/auditing/request-headers", "List the request headers that the audit log shows.", |p| {
            p.read(all).root_protected()
        })
        .path("config/auditing/request-headers/{header}", "A request header that the audit log shows.", |p| {
            p.read(read).update(write).delete(delete).root_protected()
        })
}

impl AuditedHeaders {
    /// The names of all that are shown.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let configured = self.headers.iter().map(|h| h.name.as_str());
        ALWAYS.into_iter().filter(|n| self.find(n).is_none()).chain(configured)
    }

    /// Whether the values of a header are shown as their HMAC; `None`: it is not shown.
    pub fn hmac(&self, name: &str) -> Option<bool> {
        self.find(name).map(|h| h.hmac).or_else(|| ALWAYS.contains(&name).then_some(false))
    }

    fn find(&self, name: &str) -> Option<&AuditedHeader> {
        self.headers.iter().find(|h| h.name == name)
    }
}

pub fn load(tx: &mut Tx) -> Result<AuditedHeaders> {
    Ok(tx.within(STORE, |tx| record::get(tx, Place::Ordered(SETTINGS, NAME)))?.unwrap_or_default())
}

fn save(tx: &mut Tx, all: &AuditedHeaders) -> Result<()> {
    tx.within(STORE, |tx| record::put(tx, Place::Ordered(SETTINGS, NAME), all))
}

fn shown(header: &AuditedHeader) -> Value {
    json!({"hmac": header.hmac})
}

fn all(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let headers: Map<String, Value> = load(tx)?.headers.iter().map(|h| (h.name.clone(), shown(h))).collect();
    let mut m = Map::new();
    m.insert("headers".into(), Value::Object(headers));
    Ok(Response::both(m))
}

/// Under the name that it was asked by.
fn read(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let asked = call.capture("header");
    let all = load(tx)?;
    let header =
        all.find(&asked.to_ascii_lowercase()).ok_or_else(|| Error::bad_request("Could not find header in config"))?;
    let mut m = Map::new();
    m.insert(asked.into(), shown(header));
    Ok(Response::both(m))
}

fn write(_: &System, tx: &mut Tx, call: &Call<'_>, p: Settings) -> Result<Response> {
    let header = AuditedHeader { name: call.capture("header").to_ascii_lowercase(), hmac: p.hmac.unwrap_or(false) };
    if !is_header_name(&header.name) {
        return Err(Error::bad_request(format!("{:?} is no name of a header", header.name)));
    }
    let mut all = load(tx)?;
    all.headers.retain(|h| h.name != header.name);
    if all.headers.len() >= MOST {
        return Err(Error::bad_request(format!("the audit log shows {MOST} request headers at most")));
    }
    let at = all.headers.partition_point(|h| h.name < header.name);
    all.headers.insert(at, header);
    save(tx, &all)?;
    Ok(Response::empty())
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let mut all = load(tx)?;
    let before = all.headers.len();
    all.headers.retain(|h| !h.name.eq_ignore_ascii_case(call.capture("header")));
    if all.headers.len() < before {
        save(tx, &all)?;
    }
    Ok(Response::empty())
}
