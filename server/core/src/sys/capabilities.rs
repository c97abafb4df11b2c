//! `sys/capabilities*`, `sys/internal/ui/*`: what a token may do.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value, parameters};

use super::System;
use crate::policies::{Compiled, system_time};
use crate::router;
use crate::tokens;
use crate::tx::Tx;

parameters! {
    pub struct Asked {
        /// The paths that are asked about.
        paths: Option<Vec<String>>,
        /// One path (old name).
        path: Option<Vec<String>>,
        /// The token that is asked about.
        token: Option<String>,
        /// The accessor that is asked about.
        accessor: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("capabilities", "What a token may do at paths.", |p| p.update(of_token))
        .path("capabilities-self", "What the caller may do at paths.", |p| p.update(of_self))
        .path("capabilities-accessor", "What the token of an accessor may do at paths.", |p| p.update(of_accessor))
        .path("internal/ui/mounts", "The mounts that the caller can use.", |p| p.read(ui_mounts).unauthenticated())
        .path("internal/ui/mounts/{path...}", "The mount of a path.", |p| p.read(ui_mount).unauthenticated())
        .path("internal/ui/namespaces", "The namespaces that the caller can use.", |p| {
            p.read(ui_namespaces).unauthenticated()
        })
        .path("internal/ui/resultant-acl", "All that the caller may do.", |p| p.read(resultant))
}

/// What a token of these policies and this entity may do. None: its entity is gone or disabled.
fn union(sys: &System, tx: &mut Tx, names: &[String], entity_id: &str) -> Result<Option<Arc<Compiled>>> {
    let core = sys.core()?;
    let now = core.policy_time();
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let names = &Arc::<[String]>::from(names).into();
    if entity_id.is_empty() {
        return open.policies.union(tx, names, None, now).map(Some);
    }
    match open.identities.get(tx, entity_id)?.filter(|who| !who.entity.disabled) {
        Some(who) => open.policies.union(tx, names, Some(&who), now).map(Some),
        None => Ok(None),
    }
}

fn answer(sys: &System, tx: &mut Tx, (names, entity_id): (&[String], &str), p: &Asked) -> Result<Response> {
    let paths = p
        .paths
        .as_ref()
        .or(p.path.as_ref())
        .filter(|l| !l.is_empty())
        .ok_or_else(|| Error::bad_request("paths must be supplied"))?;
    if paths.iter().any(String::is_empty) {
        return Err(Error::bad_request("missing path"));
    }
    let union = union(sys, tx, names, entity_id)?.ok_or(Error::PermissionDenied)?;
    let now = system_time(sys.core()?.policy_time());
    let mut m = Map::new();
    for path in paths {
        m.insert(path.clone(), union.acl.capabilities(path, now).into());
    }
    if let [only] = paths.as_slice() {
        m.insert("capabilities".into(), union.acl.capabilities(only, now).into());
    }
    Ok(Response::both(m))
}

fn of_token(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Response> {
    let token = p.token.clone().filter(|t| !t.is_empty()).ok_or_else(|| Error::bad_request("no token found"))?;
    let held = tokens::find_valid(tx, &token, call.now)?.ok_or_else(|| Error::bad_request("invalid token"))?;
    answer(sys, tx, (&held.entry.policies, &held.entry.entity_id), &p)
}

fn of_self(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Response> {
    answer(sys, tx, (&call.caller.policies, &call.caller.entity_id), &p)
}

fn of_accessor(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Response> {
    let accessor =
        p.accessor.clone().filter(|t| !t.is_empty()).ok_or_else(|| Error::bad_request("missing accessor"))?;
    let invalid = || Error::bad_request("invalid accessor");
    let id = tokens::by_accessor(tx, &accessor)?.ok_or_else(invalid)?;
    let entry = tokens::load_valid(tx, &id, call.now)?.ok_or_else(invalid)?;
    answer(sys, tx, (&entry.policies, &entry.entity_id), &p)
}

/// The policies of the token that came with an unauthenticated request, if it is a good one.
pub(super) fn own_policies(sys: &System, tx: &mut Tx, call: &Call<'_>) -> Result<Option<Arc<Compiled>>> {
    let Some(token) = &call.request.token else { return Ok(None) };
    match tokens::find_valid(tx, token.expose(), call.now)?.filter(|h| h.entry.admits(call.request.remote)) {
        Some(held) => union(sys, tx, &held.entry.policies, &held.entry.entity_id),
        None => Ok(None),
    }
}

fn ui_mounts(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let union = own_policies(sys, tx, call)?;
    if union.is_none() && call.request.token.is_some() {
        return Err(Error::PermissionDenied);
    }
    let (mut secret, mut auth) = (Map::new(), Map::new());
    let now = system_time(sys.core()?.policy_time());
    let mut entries = router::load(tx)?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    for e in entries {
        let usable = union.as_ref().is_some_and(|u| u.acl.reaches(&e.full_path(), now));
        if !usable && e.listing_visibility != "unauth" {
            continue;
        }
        let shown = if union.is_some() {
            router::shown(&e)
        } else {
            let mut m = Map::new();
            m.insert("type".into(), e.kind.clone().into());
            m.insert("description".into(), e.description.clone().into());
            m.insert("options".into(), router::options_value(&e));
            m
        };
        if e.auth { &mut auth } else { &mut secret }.insert(e.path.clone(), Value::Object(shown));
    }
    let mut m = Map::new();
    m.insert("auth".into(), Value::Object(auth));
    m.insert("secret".into(), Value::Object(secret));
    Ok(Response::data(m))
}

fn ui_mount(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let refused = || {
        Error::Status(
            403,
            vec![format!(
                "preflight capability check returned 403, please ensure client's policies grant access to path {:?}",
                format!("{}/", call.capture("path").trim_end_matches('/'))
            )],
        )
    };
    let path = call.capture("path");
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let union = own_policies(sys, tx, call)?.ok_or(Error::PermissionDenied)?;
    let router = core.router(&open)?;
    let (mount, _) = router.find(path).ok_or_else(refused)?;
    if !union.acl.reaches(&mount.full_path, system_time(core.policy_time())) {
        return Err(refused());
    }
    let mut m = router::shown(&mount.entry);
    m.insert("path".into(), mount.entry.path.clone().into());
    Ok(Response::data(m))
}

/// There is the root alone, which is not listed.
fn ui_namespaces(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    own_policies(sys, tx, call)?.ok_or(Error::PermissionDenied)?;
    Ok(Response::data(Map::new()))
}

fn resultant(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let union = union(sys, tx, &call.caller.policies, &call.caller.entity_id)?;
    let union = union.ok_or(Error::PermissionDenied)?;
    let mut m = Map::new();
    let (mut exact, mut globs) = (Map::new(), Map::new());
    for rule in union.acl.rules() {
        let mut r = Map::new();
        let p = rule.permissions;
        r.insert("capabilities".into(), p.capabilities.names().into());
        for (name, parameters) in
            [("allowed_parameters", &p.allowed_parameters), ("denied_parameters", &p.denied_parameters)]
        {
            if !parameters.is_empty() {
                let shown = parameters.iter().map(|(k, values)| {
                    (k.clone(), values.iter().map(holdfast_policy::ParameterValue::to_json).collect::<Value>())
                });
                r.insert(name.into(), Value::Object(shown.collect()));
            }
        }
        if !p.required_parameters.is_empty() {
            r.insert("required_parameters".into(), p.required_parameters.clone().into());
        }
        if let Some(limit) = p.pagination_limit {
            r.insert("pagination_limit".into(), limit.into());
        }
        let text = rule.expression.trim_end_matches('*');
        if rule.expression.ends_with('*') || rule.expression.contains('+') {
            globs.insert(text.to_owned(), Value::Object(r));
        } else {
            exact.insert(text.to_owned(), Value::Object(r));
        }
    }
    m.insert("exact_paths".into(), Value::Object(exact));
    m.insert("glob_paths".into(), Value::Object(globs));
    m.insert("root".into(), union.acl.is_root().into());
    Ok(Response::data(m))
}
