//! `config`.

use holdfast_sdk::parameters::Nanos;
use holdfast_sdk::{Call, Map, Response, Result, Tx, duration, parameters};

use super::{KvV2, MountConfig};

parameters! {
    pub struct Settings {
        /// Versions that are kept of a secret; 0 means 10.
        max_versions: Option<i64>,
        /// Every write must name the version that it replaces.
        cas_required: Option<bool>,
        /// How long a version lives; negative turns it off for the whole mount.
        delete_version_after: Option<Nanos>,
        /// Every write of metadata must name its version.
        metadata_cas_required: Option<bool>,
    }
}

pub fn read(_: &KvV2, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let c = MountConfig::load(tx)?;
    let mut m = Map::new();
    m.insert("cas_required".into(), c.cas_required.into());
    m.insert("delete_version_after".into(), duration::go_text(c.delete_version_after_ns.into()).into());
    m.insert("max_versions".into(), c.max_versions.into());
    m.insert("metadata_cas_required".into(), c.metadata_cas_required.into());
    Ok(Response::data(m))
}

pub fn write(_: &KvV2, tx: &mut Tx, _: &Call<'_>, p: Settings) -> Result<Response> {
    let mut c = MountConfig::load(tx)?;
    if let Some(n) = p.max_versions {
        // As in the reference, the number wraps to 32 bits.
        c.max_versions = n as u32;
    }
    if let Some(b) = p.cas_required {
        c.cas_required = b;
    }
    if let Some(b) = p.metadata_cas_required {
        c.metadata_cas_required = b;
    }
    if let Some(Nanos(n)) = p.delete_version_after {
        c.delete_version_after_ns = if n < 0 { -1_000_000_000 } else { i64::try_from(n).unwrap_or(i64::MAX) };
    }
    c.save(tx)?;
    Ok(Response::empty())
}
