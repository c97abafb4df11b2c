//! `sys/policies/acl/*`, `sys/policy/*`.

use holdfast_policy::Policy;
use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Timestamp, Transaction, Value, parameters};

use super::System;
use crate::layout::{POLICIES, SYSTEM};
use crate::policies::{self, StoredPolicy};
use crate::tx::Tx;

parameters! {
    pub struct Write {
        /// The policy in HCL or JSON, as it is or in base64.
        policy: Option<String>,
        /// When the policy ends (RFC 3339).
        expiration: Option<String>,
        /// How long the policy lives.
        ttl: Option<holdfast_sdk::parameters::Seconds>,
        /// The version that must be there.
        cas: Option<i64>,
    }
}
parameters! {
    pub struct Page {
        /// Start behind this name.
        after: Option<String>,
        /// Names at most.
        limit: Option<i64>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("policies/acl", "List the policies.", |p| p.list(list))
        .path("policies/acl/{name...}", "Read, write and delete a policy.", |p| {
            p.read(read).update(write).delete(delete)
        })
        .path("policy", "List the policies (old route).", |p| p.read(list_old).list(list_old))
        .path("policy/{name...}", "Read, write and delete a policy (old route).", |p| {
            p.read(read_old).update(write).delete(delete)
        })
}

fn names(tx: &mut Tx, p: &Page) -> Result<Vec<String>> {
    let mut names = tx.within(SYSTEM, |tx| tx.names(POLICIES, "", "", 0))?;
    names.retain(|n| n != "response-wrapping");
    names.push("root".into());
    names.sort();
    if let Some(after) = p.after.as_deref().filter(|a| !a.is_empty()) {
        names.retain(|n| n.as_str() > after);
    }
    if let Some(limit) = p.limit.filter(|l| *l > 0) {
        names.truncate(limit as usize);
    }
    Ok(names)
}

fn list(_: &System, tx: &mut Tx, _: &Call<'_>, p: Page) -> Result<Response> {
    Response::list(names(tx, &p)?)
}

fn list_old(_: &System, tx: &mut Tx, _: &Call<'_>, p: Page) -> Result<Response> {
    let names = names(tx, &p)?;
    let mut m = Map::new();
    m.insert("keys".into(), names.clone().into());
    m.insert("policies".into(), names.into());
    Ok(Response::both(m))
}

fn name_of(call: &Call<'_>) -> String {
    call.capture("name").trim_end_matches('/').to_lowercase()
}

fn found(tx: &mut Tx, name: &str) -> Result<StoredPolicy> {
    if name == "root" {
        return Ok(StoredPolicy { text: String::new(), modified: 0, expires: None, cas: 0 });
    }
    policies::read(tx, name)?.ok_or(Error::NotFound)
}

fn shown(name: &str, p: &StoredPolicy, key: &str) -> Map<String, Value> {
    let mut m = Map::new();
    m.insert("name".into(), name.into());
    m.insert(key.into(), p.text.clone().into());
    if name != "root" {
        m.insert("cas_required".into(), false.into());
        m.insert("version".into(), p.cas.into());
        m.insert("modified".into(), Timestamp::from_secs(p.modified).rfc3339().into());
    }
    if let Some(end) = p.expires {
        m.insert("expiration".into(), Timestamp::from_secs(end).rfc3339().into());
    }
    m
}

fn read(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name_of(call);
    let policy = found(tx, &name)?;
    Ok(Response::data(shown(&name, &policy, "policy")))
}

fn read_old(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name_of(call);
    let policy = found(tx, &name)?;
    let mut m = shown(&name, &policy, "rules");
    m.insert("policy".into(), policy.text.clone().into());
    Ok(Response::both(m))
}

fn write(_: &System, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = name_of(call);
    if name.is_empty() {
        return Err(Error::UnsupportedPath);
    }
    if name == "root" || name == "response-wrapping" {
        return Err(Error::bad_request(format!("cannot update {name:?} policy")));
    }
    let text = p
        .policy
        .filter(|t| !t.is_empty())
        .ok_or_else(|| Error::bad_request("'policy' parameter not supplied or empty"))?;
    let text = decoded(text);
    Policy::parse(&name, &text).map_err(|e| Error::bad_request(format!("failed to parse policy: {e}")))?;
    let expires = match (p.expiration.as_deref(), p.ttl) {
        (Some(t), _) if !t.is_empty() => Some(
            Timestamp::parse_rfc3339(t).ok_or_else(|| Error::bad_request("expiration is no RFC 3339 time"))?.secs(),
        ),
        (_, Some(ttl)) if ttl.0 > 0 => Some(call.now.secs() + ttl.0 as u64),
        _ => None,
    };
    if expires.is_some_and(|e| e <= call.now.secs()) {
        return Err(Error::bad_request("the policy would have ended already"));
    }
    let before = policies::read(tx, &name)?;
    let version = before.as_ref().map_or(0, |b| b.cas);
    if let Some(cas) = p.cas
        && u64::try_from(cas).ok() != Some(version)
    {
        return Err(Error::bad_request("check-and-set parameter did not match the current version"));
    }
    policies::write(tx, &name, &StoredPolicy { text, modified: call.now.secs(), expires, cas: version + 1 })?;
    Ok(Response::empty())
}

/// A policy may come in base64; blanks are a policy that grants nothing.
fn decoded(text: String) -> String {
    use base64::Engine;
    if text.trim().is_empty() {
        return text;
    }
    match base64::engine::general_purpose::STANDARD.decode(text.trim()).map(String::from_utf8) {
        Ok(Ok(plain)) => plain,
        _ => text,
    }
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name_of(call);
    if matches!(name.as_str(), "root" | "default" | "response-wrapping") {
        return Err(Error::bad_request(format!("cannot delete {name:?} policy")));
    }
    tx.within(SYSTEM, |tx| tx.delete(Place::Name(POLICIES, &name)))?;
    Ok(Response::empty())
}
