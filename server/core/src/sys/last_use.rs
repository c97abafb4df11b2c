//! `sys/last-use`: when roles, keys and secret ids were last used, to the hour.

use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Value, parameters};

use super::System;
use crate::last_use;
use crate::layout::IDENTITY;
use crate::router::Handler;
use crate::tx::Tx;

/// Things of a page, unless it is asked for fewer.
const PAGE: usize = 1000;

parameters! {
    pub struct Page {
        /// Go on behind this path: what the last page called next_after.
        after: Option<String>,
        /// Things of a page; 1,000, and no more.
        limit: Option<i64>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("last-use/{path+}", "When the things of a mount were last used, or one of them.", |p| {
        p.read(read).root_protected()
    })
}

/// Of a mount, what was noted of it in no order; of a path below it, that thing.
fn read(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Page) -> Result<Response> {
    let path = call.capture("path").trim_matches('/');
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let router = core.router_in(&open, tx.namespace())?;
    let as_mount = format!("{path}/");
    let (mount, name) = match router.mounts().find(|m| m.full_path == as_mount) {
        Some(mount) => (mount, ""),
        None => {
            let (mount, name) = router.find(path).ok_or_else(|| Error::bad_request("no mount is at this path"))?;
            (mount, path.get(name..).unwrap_or_default())
        }
    };
    // What is of identities is in a part of its own, wherever their mount is.
    let scope = match mount.handler {
        Handler::Identity(..) => IDENTITY.of(tx.namespace()),
        _ => mount.scope,
    };
    let full = |name: &str| format!("{}{name}", mount.full_path);
    let mut m = Map::new();
    if let Some(since) = last_use::since(tx)? {
        m.insert("last_uses_since".into(), since.rfc3339_secs().into());
    }
    if !name.is_empty() {
        let found = tx.within(scope, |tx| last_use::of_thing(tx, name))?;
        m.insert("path".into(), full(name).into());
        m.insert("last_used_time".into(), found.map_or(Value::Null, |t| t.rfc3339_secs().into()));
        return Ok(Response::data(m));
    }
    let limit = p.limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(PAGE).min(PAGE);
    let after = p.after.unwrap_or_default();
    let after = after.strip_prefix(&*mount.full_path).unwrap_or(&after);
    let found = tx.within(scope, |tx| last_use::of_things(tx, after, limit))?;
    if let Some(last) = found.last().filter(|_| found.len() == limit) {
        m.insert("next_after".into(), full(&last.name).into());
    }
    let uses: Map<String, Value> =
        found.iter().map(|used| (full(&used.name), used.at().rfc3339_secs().into())).collect();
    m.insert("last_used_times".into(), Value::Object(uses));
    Ok(Response::data(m))
}
