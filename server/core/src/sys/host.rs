//! `sys/ha-status`, `sys/version-history`: the nodes, and the versions of the program that opened the store.

use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Timestamp, Transaction, Value};
use serde_json::json;

use super::System;
use crate::bare::{BUILD_DATE, VERSION, cluster_url};
use crate::clock;
use crate::layout::{STORE, VERSIONS};
use crate::tx::Tx;

/// Versions that are shown.
const MOST: usize = 1000;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("ha-status", "The nodes that are known, and which is active.", |p| p.read(ha_status)).path(
        "version-history",
        "The versions of the program that opened the store.",
        |p| p.list(version_history),
    )
}

fn ha_status(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let core = sys.core()?;
    let mut m = Map::new();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut node = json!({
        "hostname": hostname.trim(),
        "api_address": core.node().api_addr,
        "cluster_address": core.node().cluster_addr,
        "active_node": true,
        "last_echo": null,
        "version": VERSION,
    });
    let Some(cluster) = &core.options.cluster else {
        m.insert("nodes".into(), Value::Array(vec![node]));
        return Ok(Response::both(m));
    };
    let progress = cluster.progress();
    let mut nodes = Vec::new();
    for member in cluster.members().0 {
        let own = member.id == cluster.node_id();
        let echo = progress.get(&member.id).and_then(|p| p.silent);
        let echo = echo.map(|s| Timestamp(core.clock.wall().0.saturating_sub(s.as_nanos() as u64)).rfc3339());
        // What only another node knows of itself is not made up here.
        node["hostname"] = if own { hostname.trim() } else { "" }.into();
        node["api_address"] = member.peer.api_addr.into();
        node["cluster_address"] = cluster_url(&member.peer.cluster_addr).into();
        node["active_node"] = own.into();
        node["last_echo"] = if own { Value::Null } else { echo.into() };
        node["version"] = if own { VERSION } else { "" }.into();
        node["upgrade_version"] = node["version"].clone();
        nodes.push(node.clone());
    }
    m.insert("nodes".into(), Value::Array(nodes));
    Ok(Response::both(m))
}

/// Keep when this version of the program first opened the store.
pub(crate) fn note_version(tx: &mut Tx) -> Result<()> {
    tx.within(STORE, |tx| {
        let place = Place::Ordered(VERSIONS, VERSION.as_bytes());
        match tx.get(place)? {
            Some(_) => Ok(()),
            None => tx.put(place, clock::now().0.to_be_bytes().to_vec()),
        }
    })
}

fn version_history(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let found = tx.within(STORE, |tx| tx.ordered(VERSIONS, &[], &[], MOST))?;
    let mut versions = Vec::with_capacity(found.len());
    for (version, at) in found {
        let at = at.try_into().map_err(|_| Error::Internal("a version's record is broken".into()))?;
        versions.push((u64::from_be_bytes(at), String::from_utf8_lossy(&version).into_owned()));
    }
    versions.sort_unstable();
    let mut info = Map::new();
    let mut previous = Value::Null;
    for (at, version) in &versions {
        // Only of itself a program knows when it was made.
        let built = if version == VERSION { BUILD_DATE } else { "" };
        let one = json!({
            "timestamp_installed": Timestamp(*at).rfc3339(),
            "previous_version": previous,
            "build_date": built,
            "commit_date": built,
        });
        info.insert(version.clone(), one);
        previous = version.clone().into();
    }
    let mut m = Map::new();
    m.insert("keys".into(), versions.into_iter().map(|(_, v)| v).collect::<Vec<_>>().into());
    m.insert("key_info".into(), Value::Object(info));
    Ok(Response::data(m))
}
