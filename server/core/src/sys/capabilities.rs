//! `sys/capabilities*`, `sys/internal/ui/*`: what a token may do.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value, parameters};

use super::System;
use crate::layout::{NamespaceId, SYSTEM};
use crate::namespaces;
use crate::policies::{Compiled, system_time};
use crate::router;
use crate::tokens::{self, TokenEntry};
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
        .path("internal/ui/mounts", "The mounts that the caller can use.", |p| {
            p.read(ui_mounts).unauthenticated().reads_anywhere()
        })
        .path("internal/ui/mounts/{path...}", "The mount of a path.", |p| {
            p.read(ui_mount).unauthenticated().reads_anywhere()
        })
        .path("internal/ui/namespaces", "The namespaces that the caller can use.", |p| {
            p.read(ui_namespaces).unauthenticated().reads_anywhere()
        })
        .path("internal/ui/resultant-acl", "All that the caller may do.", |p| p.read(resultant).reads_anywhere())
}

/// Whose rights are asked about.
pub(super) struct Whose<'a> {
    pub(super) namespace: NamespaceId,
    pub(super) policies: &'a [String],
    pub(super) entity_id: &'a str,
}

impl<'a> Whose<'a> {
    pub(super) fn of(namespace: NamespaceId, entry: &'a TokenEntry) -> Whose<'a> {
        Whose { namespace, policies: &entry.policies, entity_id: &entry.entity_id }
    }

    pub(super) fn of_caller(call: &'a Call<'_>) -> Whose<'a> {
        let caller = call.caller;
        Whose { namespace: caller.namespace, policies: &caller.policies, entity_id: &caller.entity_id }
    }
}

/// What a token may do. None: its entity is gone or disabled.
pub(super) fn union(sys: &System, tx: &mut Tx, whose: &Whose<'_>) -> Result<Option<Arc<Compiled>>> {
    let core = sys.core()?;
    let now = core.policy_time();
    let open = core.open_to_read().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let names = &Arc::<[String]>::from(whose.policies).into();
    tx.within(SYSTEM.of(whose.namespace), |tx| {
        if whose.entity_id.is_empty() {
            return open.policies.union(tx, names, None, now).map(Some);
        }
        match open.identities.get(tx, whose.entity_id)?.filter(|who| !who.entity.disabled) {
            Some(who) => open.policies.union(tx, names, Some(&who), now).map(Some),
            None => Ok(None),
        }
    })
}

fn answer(sys: &System, tx: &mut Tx, call: &Call<'_>, whose: &Whose<'_>, p: &Asked) -> Result<Response> {
    let paths = p
        .paths
        .as_ref()
        .or(p.path.as_ref())
        .filter(|l| !l.is_empty())
        .ok_or_else(|| Error::bad_request("paths must be supplied"))?;
    if paths.iter().any(String::is_empty) {
        return Err(Error::bad_request("missing path"));
    }
    let union = union(sys, tx, whose)?.ok_or(Error::PermissionDenied)?;
    let now = system_time(sys.core()?.policy_time());
    let capabilities = |path: &str| union.acl.capabilities(&format!("{}{path}", call.request.namespace), now);
    let mut m = Map::new();
    for path in paths {
        m.insert(path.clone(), capabilities(path).into());
    }
    if let [only] = paths.as_slice() {
        m.insert("capabilities".into(), capabilities(only).into());
    }
    Ok(Response::both(m))
}

fn of_token(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Response> {
    let token = p.token.clone().filter(|t| !t.is_empty()).ok_or_else(|| Error::bad_request("no token found"))?;
    let invalid = || Error::bad_request("invalid token");
    let held = tokens::find_valid(tx, &token, call.now)?.ok_or_else(invalid)?;
    if !namespaces::is_within(tx, held.namespace, &call.request.namespace)? {
        return Err(invalid());
    }
    answer(sys, tx, call, &Whose::of(held.namespace, &held.entry), &p)
}

fn of_self(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Response> {
    answer(sys, tx, call, &Whose::of_caller(call), &p)
}

fn of_accessor(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Asked) -> Result<Response> {
    let accessor =
        p.accessor.clone().filter(|t| !t.is_empty()).ok_or_else(|| Error::bad_request("missing accessor"))?;
    let invalid = || Error::bad_request("invalid accessor");
    let id = tokens::by_accessor(tx, &accessor)?.ok_or_else(invalid)?;
    let entry = tokens::load_valid(tx, &id, call.now)?.ok_or_else(invalid)?;
    answer(sys, tx, call, &Whose::of(id.namespace, &entry), &p)
}

/// The policies of the token that came with an unauthenticated request, if it is a good one.
pub(super) fn own_policies(sys: &System, tx: &mut Tx, call: &Call<'_>) -> Result<Option<Arc<Compiled>>> {
    let Some(token) = &call.request.token else { return Ok(None) };
    match tokens::find_valid(tx, token.expose(), call.now)?.filter(|h| h.entry.admits(call.request.remote)) {
        Some(held) => union(sys, tx, &Whose::of(held.namespace, &held.entry)),
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
    let (here, namespace) = (tx.namespace(), &call.request.namespace);
    for e in entries {
        let reached = format!("{namespace}{}", e.full_path());
        let usable = union.as_ref().is_some_and(|u| u.acl.reaches(&reached, now));
        if !usable && e.listing_visibility != "unauth" {
            continue;
        }
        let shown = if union.is_some() {
            router::shown(&e, here)
        } else {
            let mut m = Map::new();
            m.insert("type".into(), e.shown_kind(here).into());
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
    let open = core.open_to_read().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let union = own_policies(sys, tx, call)?.ok_or(Error::PermissionDenied)?;
    let (mount, namespace) = core.mount_at(&open, &call.request.namespace, path)?.ok_or_else(refused)?;
    if !union.acl.reaches(&format!("{namespace}{}", mount.full_path), system_time(core.policy_time())) {
        return Err(refused());
    }
    let below = namespace.strip_prefix(&call.request.namespace).unwrap_or(&namespace);
    let mut m = router::shown(&mount.entry, mount.scope.namespace);
    m.insert("path".into(), format!("{below}{}", mount.entry.path).into());
    Ok(Response::data(m))
}

/// The namespaces below that the caller's policies reach into.
fn ui_namespaces(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let union = own_policies(sys, tx, call)?.ok_or(Error::PermissionDenied)?;
    let now = system_time(sys.core()?.policy_time());
    let here = &call.request.namespace;
    let mut found = namespaces::children(tx, here)?;
    found.retain(|n| union.acl.reaches(&n.path, now));
    let keys: Vec<Value> = found.iter().map(|n| n.path.strip_prefix(here).unwrap_or(&n.path).into()).collect();
    let mut m = Map::new();
    if !keys.is_empty() {
        m.insert("keys".into(), keys.into());
    }
    Ok(Response::data(m))
}

fn resultant(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let union = union(sys, tx, &Whose::of_caller(call))?;
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
