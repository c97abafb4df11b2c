//! `delete`, `undelete`, `destroy`: named versions.

use holdfast_sdk::{Call, Error, Response, Result, Tx, parameters};

use super::KvV2;
use super::data::path_or_answer;
use super::record::{Metadata, MountConfig};

parameters! {
    pub struct Versions {
        /// The versions, as a list or with commas.
        versions: Option<Vec<i64>>,
    }
}

/// Change the named versions that exist.
fn change(
    tx: &mut Tx,
    path: &str,
    p: Versions,
    f: impl Fn(&mut Tx, &mut Metadata, u64) -> Result<()>,
) -> Result<Response> {
    let versions =
        p.versions.filter(|v| !v.is_empty()).ok_or_else(|| Error::bad_request("No version number provided"))?;
    let Some(mut metadata) = Metadata::load(tx, path)? else { return Ok(Response::empty()) };
    for n in versions {
        if let Ok(n) = u64::try_from(n)
            && metadata.version(n).is_some()
        {
            f(tx, &mut metadata, n)?;
        }
    }
    metadata.save(tx, path)?;
    Ok(Response::empty())
}

pub fn delete(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Versions) -> Result<Response> {
    let path = path_or_answer!(call);
    change(tx, path, p, |_, m, n| {
        if let Some(v) = m.version_mut(n).filter(|v| !v.destroyed && !v.is_deleted(call.now)) {
            v.deletion = Some(call.cluster_now.0);
        }
        Ok(())
    })
}

pub fn undelete(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Versions) -> Result<Response> {
    let path = path_or_answer!(call);
    let config = MountConfig::load(tx)?;
    change(tx, path, p, |_, m, n| {
        // It lives as long again as a new one would.
        let end = m.end_of_version(&config, call.now);
        if let Some(v) = m.version_mut(n).filter(|v| !v.destroyed && v.is_deleted(call.now)) {
            v.deletion = end;
        }
        Ok(())
    })
}

pub fn destroy(_: &KvV2, tx: &mut Tx, call: &Call<'_>, p: Versions) -> Result<Response> {
    let path = path_or_answer!(call);
    change(tx, path, p, |tx, m, n| {
        if let Some(key) = m.version(n).filter(|v| !v.destroyed).map(|v| m.data_key(v)) {
            tx.delete(key.place())?;
            m.version_mut(n).into_iter().for_each(|v| v.destroyed = true);
        }
        Ok(())
    })
}
