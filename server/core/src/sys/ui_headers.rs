//! `sys/config/ui/headers`: headers of the web UI's answers.

use holdfast_sdk::parameters::Names;
use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Transaction, parameters, record};
use minicbor::{Decode, Encode};

use super::System;
use super::cors::is_header_name;
use crate::layout::{STORE, UI_HEADERS};
use crate::tx::Tx;

/// Headers that may be set.
const MOST: usize = 100;

#[derive(Debug, Clone, Encode, Decode)]
struct Header {
    #[n(0)]
    values: Vec<String>,
}
holdfast_sdk::record!(Header);

parameters! {
    pub struct Values {
        /// The header's values; a comma does not separate them.
        values: Option<Names>,
        /// Show all values, not only the first.
        multivalue: Option<bool>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("config/ui/headers", "List the headers of the web UI.", |p| p.list(list).root_protected()).path(
        "config/ui/headers/{header}",
        "A header of the web UI.",
        |p| p.read(read).update(write).delete(delete).root_protected(),
    )
}

/// A header's name as HTTP/1.1 usually shows it: `X-Extra`.
fn canonical(name: &str) -> String {
    let part = |p: &str| {
        let mut chars = p.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(chars.map(|c| c.to_ascii_lowercase())).collect::<String>()
    };
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

fn load(tx: &mut Tx, name: &str) -> Result<Option<Header>> {
    tx.within(STORE, |tx| record::get(tx, Place::Name(UI_HEADERS, name)))
}

fn all(tx: &mut Tx) -> Result<Vec<String>> {
    tx.within(STORE, |tx| tx.names(UI_HEADERS, "", "", MOST))
}

fn list(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(all(tx)?)
}

fn read(_: &System, tx: &mut Tx, call: &Call<'_>, p: Values) -> Result<Response> {
    let header = load(tx, &canonical(call.capture("header")))?.ok_or(Error::NotFound)?;
    let mut m = Map::new();
    if p.multivalue.unwrap_or(false) {
        m.insert("values".into(), header.values.into());
    } else {
        m.insert("value".into(), header.values.into_iter().next().unwrap_or_default().into());
    }
    Ok(Response::data(m))
}

fn write(_: &System, tx: &mut Tx, call: &Call<'_>, p: Values) -> Result<Response> {
    let name = canonical(call.capture("header"));
    let values = p.values.unwrap_or_default().0;
    if values.is_empty() {
        return Err(Error::bad_request("header and values must be specified"));
    }
    if name.starts_with("X-Vault-") {
        return Err(Error::bad_request("X-Vault headers cannot be set"));
    }
    if !is_header_name(&name) || values.iter().any(|v| v.chars().any(char::is_control)) {
        return Err(Error::bad_request("this is no header that HTTP allows"));
    }
    if all(tx)?.len() >= MOST && load(tx, &name)?.is_none() {
        return Err(Error::bad_request(format!("at most {MOST} headers can be set")));
    }
    tx.within(STORE, |tx| record::put(tx, Place::Name(UI_HEADERS, &name), &Header { values }))?;
    let response = Response { status: Some(200), ..Response::empty() };
    Ok(match name.as_str() {
        "Content-Security-Policy" => {
            response.warn("overriding default Content-Security-Policy which is secure by default, proceed with caution")
        }
        _ => response,
    })
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = canonical(call.capture("header"));
    tx.within(STORE, |tx| tx.delete(Place::Name(UI_HEADERS, &name)))?;
    Ok(Response::empty())
}
