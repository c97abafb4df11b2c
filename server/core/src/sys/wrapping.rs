//! `sys/wrapping/*`: answers that wait for one reader.

use holdfast_sdk::parameters::Anything;
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value, parameters};

use super::System;
use crate::tx::Tx;
use crate::wrapping;

parameters! {
    pub struct Which {
        /// The wrapping token; the caller's own where it is left out.
        token: Option<Value>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("wrapping/wrap", "Wrap what the request holds.", |p| p.update(wrap))
        .path("wrapping/lookup", "Where and when an answer was wrapped.", |p| {
            p.read(lookup).update(lookup).unauthenticated()
        })
        .path("wrapping/unwrap", "The wrapped answer, once.", |p| p.update(unwrap))
        .path("wrapping/rewrap", "Move a wrapped answer to a new token.", |p| p.update(rewrap))
}

fn wrap(_: &System, _: &mut Tx, call: &Call<'_>, p: Anything) -> Result<Response> {
    if call.request.wrap_ttl.is_none() {
        return Err(Error::bad_request("endpoint requires response wrapping to be used"));
    }
    Ok(Response::data(p.0))
}

fn lookup(_: &System, tx: &mut Tx, call: &Call<'_>, _: Which) -> Result<Response> {
    let entry = wrapping::find(tx, call.request, call.now)?.entry;
    let mut m = Map::new();
    m.insert("creation_path".into(), entry.path.clone().into());
    m.insert("creation_time".into(), entry.issued().rfc3339().into());
    m.insert("creation_ttl".into(), entry.creation_ttl_secs.into());
    Ok(Response::data(m))
}

fn unwrap(_: &System, tx: &mut Tx, call: &Call<'_>, _: Which) -> Result<Response> {
    let wrapped = wrapping::find(tx, call.request, call.now)?;
    wrapping::unwrap(tx, &wrapped)
}

fn rewrap(_: &System, tx: &mut Tx, call: &Call<'_>, _: Which) -> Result<Response> {
    let wrapped = wrapping::find(tx, call.request, call.now)?;
    let info = wrapping::rewrap(tx, &wrapped, call.request.wrap_ttl, &call.caller.display_name, call.now)?;
    Ok(Response { wrap_info: Some(info), ..Response::default() })
}
