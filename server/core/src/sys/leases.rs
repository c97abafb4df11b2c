//! `sys/leases/*`, and the older `sys/renew`, `sys/revoke…` of HashiCorp Vault.

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{Call, Error, Map, Operation, Response, Result, Routes, Timestamp, Value, parameters};

use super::System;
use crate::tx::Tx;
use crate::{jobs, leases, tokens};

parameters! {
    pub struct ById {
        /// The id of the lease.
        lease_id: Option<Value>,
        /// Answer only when it is done; it always is.
        sync: Option<bool>,
    }
}
parameters! {
    pub struct Renew {
        /// The id of the lease.
        lease_id: Option<Value>,
        /// How much longer it should live, from now.
        increment: Option<Seconds>,
    }
}
parameters! {
    pub struct Prefix {
        /// Answer only when it is done: up to a hundred leases always are, more are left to a job.
        sync: Option<bool>,
    }
}
parameters! {
    pub struct Counted {
        /// irrevocable is what can be asked for.
        r#type: Option<String>,
        /// Count those of the namespaces below too.
        include_child_namespaces: Option<bool>,
        /// How many are listed at most; none is no limit.
        limit: Option<String>,
    }
}

pub fn routes(mut routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes = routes
        .path("leases", "The leases that cannot be revoked.", |p| p.read(irrevocable).root_protected())
        .path("leases/count", "How many leases cannot be revoked.", |p| p.read(count))
        .path("leases/tidy", "Remove what leases that are gone have left.", |p| p.update(tidy))
        .path("leases/lookup", "Look a lease up.", |p| p.update(lookup).list(list).root_protected_for(Operation::List))
        .path("leases/lookup/{prefix...}", "List leases.", |p| p.list(list).root_protected());
    for base in ["leases/", ""] {
        routes = routes
            .path(&format!("{base}renew"), "Renew a lease.", |p| p.update(renew))
            .path(&format!("{base}renew/{{lease_id+}}"), "Renew a lease.", |p| p.update(renew))
            .path(&format!("{base}revoke"), "Revoke a lease.", |p| p.update(revoke))
            .path(&format!("{base}revoke/{{lease_id+}}"), "Revoke a lease.", |p| p.update(revoke))
            .path(&format!("{base}revoke-prefix/{{prefix+}}"), "Revoke all leases below a path.", |p| {
                p.update(revoke_prefix).root_protected()
            })
            .path(&format!("{base}revoke-force/{{prefix+}}"), "Forget all leases below a path.", |p| {
                p.update(revoke_prefix).root_protected()
            });
    }
    routes
}

/// The lease that is asked about: in the path, else in the body.
fn named(call: &Call<'_>, given: Option<Value>) -> Result<String> {
    if let Some(id) = call.captures.get("lease_id") {
        return Ok(id.to_owned());
    }
    match given {
        None | Some(Value::Null) => Err(Error::bad_request("lease_id must be specified")),
        Some(Value::String(id)) if id.is_empty() => Err(Error::bad_request("lease_id must be specified")),
        Some(Value::String(id)) => Ok(id),
        Some(_) => Err(Error::bad_request("invalid lease ID")),
    }
}

fn lookup(_: &System, tx: &mut Tx, call: &Call<'_>, p: ById) -> Result<Response> {
    let id = named(call, p.lease_id)?;
    let invalid = || Error::bad_request("invalid lease");
    let (token, _) = leases::token(tx, &id)?.ok_or_else(invalid)?;
    let e = tokens::load_valid(tx, &token, call.now)?.ok_or_else(invalid)?;
    let mut m = Map::new();
    m.insert("path".into(), id.rsplit_once('/').map_or("", |(path, _)| path).into());
    m.insert("id".into(), id.into());
    m.insert("issue_time".into(), e.issued().rfc3339().into());
    m.insert("expire_time".into(), e.expires.map_or(Value::Null, |t| t.rfc3339().into()));
    let renewed = (e.last_renewal_ns > 0).then(|| Timestamp(e.last_renewal_ns).rfc3339());
    m.insert("last_renewal".into(), renewed.map_or(Value::Null, Value::from));
    m.insert("renewable".into(), e.renewable.into());
    m.insert("ttl".into(), e.ttl_left_secs(call.now).into());
    Ok(Response::data(m))
}

fn list(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let folder = call.captures.get("prefix").unwrap_or_default().trim_end_matches('/');
    Response::list(leases::list(tx, &if folder.is_empty() { String::new() } else { format!("{folder}/") })?)
}

fn renew(_: &System, tx: &mut Tx, call: &Call<'_>, p: Renew) -> Result<Response> {
    let id = named(call, p.lease_id)?;
    match leases::token(tx, &id)? {
        Some(_) => Err(Error::bad_request("tokens cannot be renewed through this endpoint")),
        None => Err(Error::bad_request("lease not found")),
    }
}

fn revoke(_: &System, tx: &mut Tx, call: &Call<'_>, p: ById) -> Result<Response> {
    let id = named(call, p.lease_id)?;
    if let Some((token, _)) = leases::token(tx, &id)? {
        tokens::revoke_tree(tx, &token)?;
    }
    Ok(Response::empty())
}

fn revoke_prefix(_: &System, tx: &mut Tx, call: &Call<'_>, _: Prefix) -> Result<Response> {
    let prefix = call.capture("prefix").trim_end_matches('/');
    if let Some((token, _)) = leases::token(tx, prefix)? {
        tokens::revoke_tree(tx, &token)?;
    }
    let folder = format!("{prefix}/");
    if leases::revoke_below(tx, &folder, call.now)? {
        jobs::add(tx, jobs::Kind::RevokeLeases { folder, before: call.now.0 })?;
    }
    Ok(Response::empty())
}

fn tidy(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    tokens::start_tidy(tx)?;
    Ok(Response { status: Some(202), ..Response::empty() }
        .warn("Tidy operation successfully started. It is a job: see sys/jobs."))
}

/// Tokens are all that has leases, and nothing keeps a token from being revoked.
fn only_irrevocable(p: &Counted) -> Result<()> {
    match p.r#type.as_deref() {
        Some("irrevocable") => Ok(()),
        _ => Err(Error::NotFound),
    }
}

fn count(_: &System, _: &mut Tx, _: &Call<'_>, p: Counted) -> Result<Response> {
    only_irrevocable(&p)?;
    let mut m = Map::new();
    m.insert("lease_count".into(), 0.into());
    m.insert("counts".into(), Value::Object(Map::new()));
    Ok(Response::data(m))
}

fn irrevocable(_: &System, _: &mut Tx, _: &Call<'_>, p: Counted) -> Result<Response> {
    only_irrevocable(&p)?;
    if let Some(limit) = p.limit.as_deref().filter(|l| !l.is_empty() && *l != "none")
        && limit.parse::<u64>().ok().is_none_or(|n| n == 0)
    {
        return Err(Error::bad_request("limit must be 'none' or a positive integer"));
    }
    let mut m = Map::new();
    m.insert("lease_count".into(), 0.into());
    m.insert("leases".into(), Value::Array(Vec::new()));
    Ok(Response::data(m))
}
