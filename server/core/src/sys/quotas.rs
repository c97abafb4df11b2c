//! `sys/quotas/*`: rate limits, limits of leases, and what counts for all of them.

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Transaction, Value, parameters};

use super::System;
use crate::layout::{QUOTAS, STORE};
use crate::quotas::leases::{self, LeaseRule};
use crate::quotas::{self, Config, MOST, Rule};
use crate::router::Handler;
use crate::tx::Tx;
use crate::{namespaces, random};

parameters! {
    pub struct Limit {
        /// What it is on: nothing (all requests), a namespace, a mount, or a path in a mount.
        path: Option<String>,
        /// Requests that each client may send in an interval.
        rate: Option<Value>,
        /// The interval; a second where it is left out.
        interval: Option<Seconds>,
        /// How long a client stays out that has sent too many; 0: until the interval is over.
        block_interval: Option<Seconds>,
        /// Only for logins of this role.
        role: Option<String>,
        /// Counts in the namespaces below too.
        inheritable: Option<bool>,
        /// Accepted; the route says it.
        r#type: Option<String>,
    }
}
parameters! {
    pub struct LeaseCount {
        /// What it is on: nothing (all leases), a namespace, or a mount.
        path: Option<String>,
        /// Leases that there may be.
        max_leases: Option<i64>,
        /// Only for this role of the mount.
        role: Option<String>,
        /// Counts the leases of the namespaces below too.
        inheritable: Option<bool>,
        /// Accepted; the route says it.
        r#type: Option<String>,
    }
}
parameters! {
    pub struct Settings {
        /// Paths on which no limit is.
        rate_limit_exempt_paths: Option<Value>,
        /// Refused requests show in the audit log.
        enable_rate_limit_audit_logging: Option<bool>,
        /// Answers say how much is left.
        enable_rate_limit_response_headers: Option<bool>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("quotas/config", "What counts for all quotas.", |p| p.read(read_config).update(write_config))
        .path("quotas/rate-limit", "List the rate limits.", |p| p.list(list))
        .path("quotas/rate-limit/{name}", "Read, write and delete a rate limit.", |p| {
            p.read(read).update(write).delete(delete)
        })
        .path("quotas/lease-count", "List the limits of leases.", |p| p.list(list_lease_counts))
        .path("quotas/lease-count/{name}", "Read, write and delete a limit of leases.", |p| {
            p.read(read_lease_count).update(write_lease_count).delete(delete_lease_count)
        })
}

fn read_config(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let config = quotas::config(tx)?;
    let mut m = Map::new();
    m.insert("enable_rate_limit_audit_logging".into(), config.audits.into());
    m.insert("enable_rate_limit_response_headers".into(), config.shows_headers.into());
    m.insert("rate_limit_exempt_paths".into(), config.exempt_paths.into());
    Ok(Response::data(m))
}

fn write_config(_: &System, tx: &mut Tx, _: &Call<'_>, p: Settings) -> Result<Response> {
    // One text is one path: a comma may be part of it.
    let exempt_paths = match p.rate_limit_exempt_paths {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(path)) if path.is_empty() => Vec::new(),
        Some(Value::String(path)) => vec![path],
        Some(Value::Array(paths)) => paths.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(_) => return Err(Error::bad_request("rate_limit_exempt_paths is a list of paths")),
    };
    if exempt_paths.len() > MOST {
        return Err(Error::bad_request(format!("at most {MOST} paths can be exempt")));
    }
    let config = Config {
        exempt_paths,
        audits: p.enable_rate_limit_audit_logging.unwrap_or(false),
        shows_headers: p.enable_rate_limit_response_headers.unwrap_or(false),
    };
    quotas::save_config(tx, &config)?;
    Ok(Response::empty())
}

fn list(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(tx.within(STORE, |tx| tx.names(QUOTAS, "", "", 0))?)
}

fn read(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let rule = quotas::rule(tx, call.capture("name"))?.ok_or(Error::NotFound)?;
    let mut m = Map::new();
    m.insert("block_interval".into(), (rule.block_ms / 1000).into());
    m.insert("inheritable".into(), rule.inheritable.into());
    m.insert("interval".into(), (rule.interval_ms / 1000).into());
    m.insert("name".into(), rule.name.clone().into());
    m.insert("path".into(), rule.full_path().into());
    m.insert("rate".into(), number(rule.rate));
    m.insert("role".into(), rule.role.clone().into());
    m.insert("type".into(), "rate-limit".into());
    Ok(Response::data(m))
}

/// A whole number without a point.
fn number(rate: f64) -> Value {
    if rate.fract() == 0.0 && rate < 9e15 { (rate as u64).into() } else { rate.into() }
}

fn rate(given: Option<&Value>) -> Result<f64> {
    let unreadable = || Error::bad_request("error converting input for field \"rate\": it is no number");
    let rate = match given {
        None | Some(Value::Null) => 0.0,
        Some(Value::Number(n)) => n.as_f64().ok_or_else(unreadable)?,
        Some(Value::String(text)) => text.trim().parse().map_err(|_| unreadable())?,
        Some(_) => return Err(unreadable()),
    };
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err(Error::bad_request("'rate' is invalid")) }
}

fn millis(given: Option<Seconds>, name: &str) -> Result<u64> {
    match given {
        None => Ok(0),
        Some(Seconds(s)) => match u64::try_from(s) {
            Ok(s) => Ok(s.saturating_mul(1000)),
            Err(_) => Err(Error::bad_request(format!("'{name}' is invalid"))),
        },
    }
}

fn write(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Limit) -> Result<Response> {
    let name = call.capture("name");
    let rate = rate(p.rate.as_ref())?;
    let interval_ms = match millis(p.interval, "interval")? {
        0 => 1000,
        given => given,
    };
    let on = placed(sys, tx, p.path.as_deref().unwrap_or(""), p.role.unwrap_or_default(), false)?;
    let global = on.namespace.is_empty() && on.mount.is_empty();
    let rule = Rule {
        name: name.to_owned(),
        rate,
        interval_ms,
        block_ms: millis(p.block_interval, "block_interval")?,
        inheritable: global || p.inheritable.unwrap_or(false),
        written: random::uuid()?,
        ..on
    };
    let all = quotas::rules(tx)?;
    if let Some(other) = all.iter().find(|other| other.name != rule.name && other.is_on_the_same(&rule)) {
        let text = format!("quota rule with similar properties exists under the name {:?}", other.name);
        return Err(Error::bad_request(text));
    }
    if all.len() >= MOST && !all.iter().any(|other| other.name == rule.name) {
        return Err(Error::bad_request(format!("at most {MOST} quotas are possible")));
    }
    quotas::save(tx, &rule)?;
    Ok(Response::empty())
}

/// What a rule with this path and role is on; the rest of it is empty. Leases have the roles of engines too.
fn placed(sys: &System, tx: &mut Tx, path: &str, role: String, of_leases: bool) -> Result<Rule> {
    let empty = Rule {
        name: String::new(),
        namespace: String::new(),
        mount: String::new(),
        path: String::new(),
        role,
        rate: 0.0,
        interval_ms: 0,
        block_ms: 0,
        inheritable: false,
        written: [0; 16],
    };
    let trimmed = path.trim_start_matches('/');
    let no_login = |path: &str| {
        let text = "is not a valid auth method and therefore unsuitable for use with role-based quotas";
        Err(Error::bad_request(format!("Mount path {path:?} {text}")))
    };
    let namespace = match trimmed {
        "" => Some(String::new()),
        path => namespaces::at(tx, path)?.map(|n| n.path),
    };
    if let Some(namespace) = namespace {
        return if empty.role.is_empty() { Ok(Rule { namespace, ..empty }) } else { no_login(&namespace) };
    }
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let found = core.mount_at(&open, "", trimmed)?;
    let (mount, namespace) = found.ok_or_else(|| Error::bad_request(format!("invalid mount path {path:?}")))?;
    let behind = trimmed.strip_prefix(namespace.as_str()).unwrap_or(trimmed);
    let rest = behind.strip_prefix(mount.full_path.as_str()).unwrap_or("").to_owned();
    if !empty.role.is_empty() {
        let shown = format!("{namespace}{}", mount.full_path);
        match &mount.handler {
            Handler::Engine(_) if of_leases && !mount.entry.auth => {}
            _ if !mount.entry.auth => return no_login(&shown),
            Handler::Engine(backend) if backend.has_login_roles() => {}
            _ => {
                return Err(Error::bad_request(format!(
                    "Mount path {shown:?} does not support use with role-based quotas"
                )));
            }
        }
    }
    Ok(Rule { namespace, mount: mount.full_path.clone(), path: rest, ..empty })
}

fn list_lease_counts(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(leases::names(tx)?)
}

fn read_lease_count(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let rule = leases::load(tx, call.capture("name"))?.ok_or(Error::NotFound)?;
    let mut m = Map::new();
    m.insert("counter".into(), rule.counted(tx)?.into());
    m.insert("inheritable".into(), rule.on.inheritable.into());
    m.insert("max_leases".into(), rule.most.into());
    m.insert("name".into(), rule.on.name.clone().into());
    m.insert("path".into(), rule.on.full_path().into());
    m.insert("role".into(), rule.on.role.clone().into());
    m.insert("type".into(), "lease-count".into());
    Ok(Response::data(m))
}

fn write_lease_count(sys: &System, tx: &mut Tx, call: &Call<'_>, p: LeaseCount) -> Result<Response> {
    let name = call.capture("name");
    let most = match p.max_leases.map(u64::try_from) {
        Some(Ok(most)) if most > 0 => most,
        _ => return Err(Error::bad_request("'max_leases' is invalid: it is a number above zero")),
    };
    let on = placed(sys, tx, p.path.as_deref().unwrap_or(""), p.role.unwrap_or_default(), true)?;
    if !on.path.is_empty() {
        return Err(Error::bad_request("leases are counted in a namespace, of a mount, or for a role of it"));
    }
    let global = on.namespace.is_empty() && on.mount.is_empty();
    let inheritable = global || p.inheritable.unwrap_or(false);
    let on = Rule { name: name.to_owned(), inheritable, written: random::uuid()?, ..on };
    let all = leases::all(tx)?;
    if let Some(other) = all.iter().find(|other| other.on.name != on.name && other.on.is_on_the_same(&on)) {
        let text = format!("quota rule with similar properties exists under the name {:?}", other.on.name);
        return Err(Error::bad_request(text));
    }
    if all.len() >= MOST && !all.iter().any(|other| other.on.name == on.name) {
        return Err(Error::bad_request(format!("at most {MOST} quotas are possible")));
    }
    leases::save(tx, &LeaseRule { on, most })?;
    Ok(Response::empty())
}

fn delete_lease_count(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    leases::forget(tx, call.capture("name"))?;
    Ok(Response::empty())
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    quotas::forget(tx, call.capture("name"))?;
    Ok(Response::empty())
}
