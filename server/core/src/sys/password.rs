//! `sys/policies/password/*`: how passwords are made for database users and for people.

use holdfast_policy::PasswordPolicy;
use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Transaction, parameters, record};
use minicbor::{Decode, Encode};

use super::System;
use crate::layout::{PASSWORD_POLICIES, SYSTEM};
use crate::names;
use crate::random;
use crate::tx::Tx;

#[derive(Debug, Encode, Decode)]
struct Stored {
    #[n(0)]
    text: String,
}
holdfast_sdk::record!(Stored);

parameters! {
    pub struct Write {
        /// The policy in HCL or JSON: a length, and rules that name characters.
        policy: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("policies/password", "List the password policies.", |p| p.list(list))
        .path("policies/password/{name+}/generate", "Make a password by a policy.", |p| p.read(generate))
        .path("policies/password/{name+}", "Read, write and delete a password policy.", |p| {
            p.read(read).update(write).delete(delete)
        })
}

fn list(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mut found = tx.within(SYSTEM, |tx| names::below(tx, PASSWORD_POLICIES, ""))?;
    found.sort();
    Response::list(found)
}

fn stored(tx: &mut Tx, name: &str) -> Result<Option<String>> {
    let stored: Option<Stored> = tx.within(SYSTEM, |tx| record::get(tx, Place::Name(PASSWORD_POLICIES, name)))?;
    Ok(stored.map(|s| s.text))
}

fn text_of(tx: &mut Tx, call: &Call<'_>) -> Result<String> {
    let absent = || Error::Status(404, vec!["policy does not exist".into()]);
    stored(tx, call.capture("name"))?.ok_or_else(absent)
}

/// Make a password by a stored policy, if there is one of that name.
pub fn generate_by(tx: &mut Tx, name: &str) -> Result<Option<String>> {
    let Some(text) = stored(tx, name)? else { return Ok(None) };
    let policy = PasswordPolicy::parse(&text).map_err(Error::internal)?;
    policy.generate(random::below).map(Some)
}

fn read(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let mut m = Map::new();
    m.insert("policy".into(), text_of(tx, call)?.into());
    Ok(Response::data(m))
}

fn write(_: &System, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let text = p.policy.filter(|t| !t.is_empty()).ok_or_else(|| Error::bad_request("missing policy"))?;
    PasswordPolicy::parse(&text).map_err(|e| Error::bad_request(format!("invalid password policy: {e}")))?;
    let place = Place::Name(PASSWORD_POLICIES, call.capture("name"));
    tx.within(SYSTEM, |tx| record::put(tx, place, &Stored { text }))?;
    Ok(Response::empty())
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    tx.within(SYSTEM, |tx| tx.delete(Place::Name(PASSWORD_POLICIES, call.capture("name"))))?;
    Ok(Response::empty())
}

fn generate(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let policy = PasswordPolicy::parse(&text_of(tx, call)?).map_err(Error::internal)?;
    let mut m = Map::new();
    m.insert("password".into(), policy.generate(random::below)?.into());
    Ok(Response::data(m))
}
