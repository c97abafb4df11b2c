//! `sys/storage/raft/snapshot-auto/*`: snapshots that are made by themselves.

use std::path::Path;

use holdfast_hsm::memory::Secret;
use holdfast_hsm::{FileUse, outside_rules};
use holdfast_sdk::parameters::Nanos;
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Timestamp, Value, parameters};
use serde_json::json;

use super::System;
use super::snapshot_auto_s3::{self, Given};
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
        /// The folder that they go to; of a bucket, what their keys begin with.
        path_prefix: Option<String>,
        /// How their names begin.
        file_prefix: Option<String>,
        /// Where they go: local, aws-s3.
        storage_type: Option<String>,
        /// Bytes that they may take together (local).
        local_max_space: Option<i64>,
        /// The bucket.
        aws_s3_bucket: Option<String>,
        /// The bucket's region; other servers than Amazon's have a name for it too.
        aws_s3_region: Option<String>,
        /// Who signs.
        aws_access_key_id: Option<String>,
        /// What it signs with. It is never shown.
        aws_secret_access_key: Option<String>,
        /// What belongs to keys that end. It is never shown.
        aws_session_token: Option<String>,
        /// The server, as host or host:port; empty: Amazon's of the region.
        aws_s3_endpoint: Option<String>,
        /// Whether the server is spoken to without TLS.
        aws_s3_disable_tls: Option<bool>,
        /// Whether the bucket's name is in the path in place of the host.
        aws_s3_force_path_style: Option<bool>,
        /// Whether the server is asked to encrypt with AES-256.
        aws_s3_server_side_encryption: Option<bool>,
        /// Whether the server is asked to encrypt with a key of its KMS.
        aws_s3_enable_kms: Option<bool>,
        /// Which key of its KMS; empty: the bucket's.
        aws_s3_kms_key: Option<String>,
        /// How long the server may take for a part of 8 MiB; what else it is asked has its share of that.
        aws_s3_timeout: Option<Nanos>,
    }
}

const SECOND: u64 = 1_000_000_000;
const NAME_BYTES: usize = 64;
const LOCAL: &str = "local";
const AWS_S3: &str = "aws-s3";

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
    match plan.s3 {
        None => {
            m.insert("storage_type".into(), LOCAL.into());
            m.insert("local_max_space".into(), plan.local_max_space.into());
        }
        Some(s3) => {
            m.insert("storage_type".into(), AWS_S3.into());
            snapshot_auto_s3::show(s3, &mut m);
        }
    }
    Ok(Response::data(m))
}

/// What is absent stays as it is. A plan that changes its kind of target keeps nothing of the other.
fn write(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Wanted) -> Result<Response> {
    in_a_cluster(sys)?;
    let name = name(call)?;
    let before = backups::plan(tx, name)?;
    let kind = match (p.storage_type.as_deref(), &before) {
        (Some(LOCAL), _) => LOCAL,
        (Some(AWS_S3), _) => AWS_S3,
        (None, Some(before)) => kind_of(before),
        (None, None) => return Err(missing("storage_type")),
        (Some(other), _) => {
            return Err(Error::bad_request(format!("storage_type {other:?} is not offered: use local or aws-s3")));
        }
    };
    let interval = p.interval.map(interval).transpose()?;
    let retain = positive("retain", p.retain)?;
    let local_max_space = positive("local_max_space", p.local_max_space)?;
    let given = Given {
        bucket: p.aws_s3_bucket,
        region: p.aws_s3_region,
        access_key_id: p.aws_access_key_id,
        secret_access_key: p.aws_secret_access_key.map(Secret::new),
        session_token: p.aws_session_token.map(Secret::new),
        endpoint: p.aws_s3_endpoint,
        disable_tls: p.aws_s3_disable_tls,
        force_path_style: p.aws_s3_force_path_style,
        server_side_encryption: p.aws_s3_server_side_encryption,
        enable_kms: p.aws_s3_enable_kms,
        kms_key: p.aws_s3_kms_key,
        timeout: p.aws_s3_timeout,
    };
    let since = before.as_ref().map_or(call.cluster_now.0, |b| b.since);
    let (interval_before, retain_before) = before.as_ref().map(|b| (b.interval, b.retain)).unzip();
    let file_prefix = p.file_prefix.or_else(|| before.as_ref().map(|b| b.file_prefix.clone()));
    let file_prefix = file_prefix.unwrap_or_else(|| "vault-snapshot".into());
    if file_prefix.is_empty() || file_prefix.contains(['/', '\0']) || file_prefix.starts_with('.') {
        return Err(Error::bad_request("file_prefix must be the begin of a file's name"));
    }
    // From here on of the same kind.
    let before = before.filter(|before| kind_of(before) == kind);
    let path_prefix = p.path_prefix.or_else(|| before.as_ref().map(|b| b.path_prefix.clone()));
    let path_prefix = path_prefix.ok_or_else(|| missing("path_prefix"))?;
    let (local_max_space, s3) = if kind == LOCAL {
        if let Some(name) = given.any() {
            return Err(Error::bad_request(format!("{name} is for storage_type {AWS_S3}")));
        }
        if !path_prefix.starts_with('/') {
            return Err(Error::bad_request("path_prefix must be the absolute path of a folder"));
        }
        let space = local_max_space.or(before.map(|b| b.local_max_space));
        (space.ok_or_else(|| missing("local_max_space"))?, None)
    } else {
        if local_max_space.is_some() {
            return Err(Error::bad_request(format!("local_max_space is for storage_type {LOCAL}")));
        }
        snapshot_auto_s3::is_prefix(&path_prefix, &file_prefix)?;
        (0, Some(given.over(before.and_then(|b| b.s3).unwrap_or_default())?))
    };
    let plan = Plan {
        interval: interval.or(interval_before).ok_or_else(|| missing("interval"))?,
        retain: retain.or(retain_before).unwrap_or(1),
        path_prefix,
        file_prefix,
        local_max_space,
        since,
        s3,
    };
    backups::save_plan(tx, name, &plan)?;
    // The plan is kept, as clients know it: what it lacks is mended in the configuration, and may be on another node.
    let outside = outside_rules(Path::new(&plan.path_prefix), FileUse::Write).filter(|_| plan.s3.is_none());
    Ok(match outside {
        Some(reason) => Response::empty()
            .warn(format!("path_prefix {:?}: until this is mended each snapshot fails: {reason}", plan.path_prefix)),
        None => Response::empty(),
    })
}

fn kind_of(plan: &Plan) -> &'static str {
    if plan.s3.is_some() { AWS_S3 } else { LOCAL }
}

fn missing(what: &str) -> Error {
    Error::bad_request(format!("{what} is required"))
}

fn positive(what: &str, n: Option<i64>) -> Result<Option<u64>> {
    let wrong = || Error::bad_request(format!("{what} must be more than zero"));
    n.map(|n| u64::try_from(n).ok().filter(|n| *n > 0).ok_or_else(wrong)).transpose()
}

fn interval(given: Nanos) -> Result<u64> {
    let nanos = u64::try_from(given.0).ok().filter(|n| *n >= SECOND);
    nanos.ok_or_else(|| Error::bad_request("interval must be at least a second"))
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
