//! `sys/storage/raft/snapshot-auto/*`: snapshots that are made by themselves.

use holdfast_sdk::parameters::Nanos;
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Timestamp, Value, parameters};
use serde_json::json;

use super::System;
use crate::backups::{self, Plan};
use crate::tx::Tx;

parameters! {
    pub struct Nothing {}
}
parameters! {
    pub struct Wanted {
        /// The time between two snapshots.
        interval: Option<Nanos>,
        /// How many are kept.
        retain: Option<i64>,
        /// The folder that they go to.
        path_prefix: Option<String>,
        /// How their names begin.
        file_prefix: Option<String>,
        /// Where they go: local.
        storage_type: Option<String>,
        /// Bytes that they may take together.
        local_max_space: Option<i64>,
    }
}

const SECOND: u64 = 1_000_000_000;
const NAME_BYTES: usize = 64;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("storage/raft/snapshot-auto/config", "List the plans for snapshots.", |p| p.list(list).root_protected())
        .path("storage/raft/snapshot-auto/config/{name}", "Snapshots that are made by themselves.", |p| {
            p.read(read).update(write).delete(delete).root_protected().describe(
                "The active node makes a snapshot each interval, reads it back, and opens every entry of it before it \
                 counts and before an older one is removed.",
            )
        })
        .path("storage/raft/snapshot-auto/status/{name}", "How the snapshots of a plan went.", |p| {
            p.read(status).root_protected()
        })
}

fn name<'c>(call: &'c Call<'_>) -> Result<&'c str> {
    let name = call.capture("name");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    match !name.is_empty() && name.len() <= NAME_BYTES && name.bytes().all(plain) {
        true => Ok(name),
        false => Err(Error::bad_request("a plan's name has letters, digits, '-', '_' and '.', at most 64")),
    }
}

fn in_a_cluster(sys: &System) -> Result<()> {
    match sys.core()?.options.cluster {
        Some(_) => Ok(()),
        None => Err(Error::bad_request("raft storage is not in use")),
    }
}

fn list(sys: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    in_a_cluster(sys)?;
    Response::list(backups::plans(tx)?.into_iter().map(|(name, _)| name).collect())
}

fn read(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let plan = backups::plan(tx, name(call)?)?.ok_or(Error::NotFound)?;
    let mut m = Map::new();
    m.insert("interval".into(), (plan.interval / SECOND).into());
    m.insert("retain".into(), plan.retain.into());
    m.insert("path_prefix".into(), plan.path_prefix.into());
    m.insert("file_prefix".into(), plan.file_prefix.into());
    m.insert("storage_type".into(), "local".into());
    m.insert("local_max_space".into(), plan.local_max_space.into());
    Ok(Response::data(m))
}

/// What is absent stays as it is.
fn write(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Wanted) -> Result<Response> {
    in_a_cluster(sys)?;
    let name = name(call)?;
    let before = backups::plan(tx, name)?;
    let missing = |what: &str| Error::bad_request(format!("{what} is required"));
    match p.storage_type.as_deref() {
        Some("local") => {}
        None if before.is_some() => {}
        None => return Err(missing("storage_type")),
        Some(other) => return Err(Error::bad_request(format!("storage_type {other:?} is not offered: use local"))),
    }
    let positive = |what: &str, n: Option<i64>| {
        let wrong = || Error::bad_request(format!("{what} must be more than zero"));
        n.map(|n| u64::try_from(n).ok().filter(|n| *n > 0).ok_or_else(wrong)).transpose()
    };
    let interval = match p.interval {
        None => None,
        Some(Nanos(n)) => Some(
            u64::try_from(n)
                .ok()
                .filter(|n| *n >= SECOND)
                .ok_or_else(|| Error::bad_request("interval must be at least a second"))?,
        ),
    };
    let path_prefix = p.path_prefix.or_else(|| before.as_ref().map(|b| b.path_prefix.clone()));
    let path_prefix = path_prefix.ok_or_else(|| missing("path_prefix"))?;
    if !path_prefix.starts_with('/') {
        return Err(Error::bad_request("path_prefix must be the absolute path of a folder"));
    }
    let file_prefix = p.file_prefix.or_else(|| before.as_ref().map(|b| b.file_prefix.clone()));
    let file_prefix = file_prefix.unwrap_or_else(|| "vault-snapshot".into());
    if file_prefix.is_empty() || file_prefix.contains(['/', '\0']) || file_prefix.starts_with('.') {
        return Err(Error::bad_request("file_prefix must be the begin of a file's name"));
    }
    let plan = Plan {
        interval: interval.or(before.as_ref().map(|b| b.interval)).ok_or_else(|| missing("interval"))?,
        retain: positive("retain", p.retain)?.or(before.as_ref().map(|b| b.retain)).unwrap_or(1),
        path_prefix,
        file_prefix,
        local_max_space: positive("local_max_space", p.local_max_space)?
            .or(before.as_ref().map(|b| b.local_max_space))
            .ok_or_else(|| missing("local_max_space"))?,
        since: before.as_ref().map_or(call.cluster_now.0, |b| b.since),
    };
    backups::save_plan(tx, name, &plan)?;
    Ok(Response::empty())
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: Nothing) -> Result<Response> {
    backups::forget_plan(tx, name(call)?)?;
    Ok(Response::empty())
}

fn status(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name(call)?;
    let plan = backups::plan(tx, name)?.ok_or(Error::NotFound)?;
    let status = backups::status(tx, name)?;
    let time = |ns: u64| if ns == 0 { Value::from("") } else { Timestamp(ns).rfc3339().into() };
    let age = call.cluster_now.0.saturating_sub(status.proven) / SECOND;
    let shown = json!({
        "consecutive_errors": status.consecutive_errors,
        "last_snapshot_start": time(status.start),
        "last_snapshot_end": time(status.end),
        "last_snapshot_error": status.error,
        "last_snapshot_url": status.url,
        "next_snapshot_start": time(plan.next(&status)),
        "snapshot_start": "",
        "snapshot_url": "",
        "last_proven": time(status.proven),
        "last_proven_age_seconds": if status.proven == 0 { Value::Null } else { age.into() },
        "last_proven_entries": status.entries,
    });
    let Value::Object(m) = shown else { return Ok(Response::empty()) };
    Ok(Response::data(m))
}
