//! `sys/key-status`, `sys/rotate*`: the keyring's terms, and when a new one is made by itself.

use std::sync::Arc;

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    Call, Error, Map, Operation, Place, Preparation, Prepared, Response, Result, Routes, Timestamp, Transaction, Value,
    duration, parameters, record,
};
use holdfast_seal::OwnRing;
use minicbor::{Decode, Encode};

use super::System;
use crate::layout::{SETTINGS, STORE};
use crate::namespaces::seal;
use crate::tx::Tx;
use crate::{Core, Open, clock};

/// Where the settings are.
const ROTATION: &[u8] = b"rotation";
/// Bounds of the entries that one term seals. XAES draws its nonces from 192 bits, so that the upper one
/// is the API's and not the cipher's.
const OPERATIONS: std::ops::RangeInclusive<i64> = 1_000_000..=3_865_470_566;
const SHORTEST_INTERVAL_SECS: i64 = 24 * 3600;
/// Sealed entries that are counted in memory before they are stored.
const UNSAVED: u64 = 1000;

/// When a new term is made by itself.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Rotation {
    #[n(0)]
    max_operations: i64,
    /// 0: never because of its age.
    #[n(1)]
    interval_secs: i64,
    #[n(2)]
    enabled: bool,
}
holdfast_sdk::record!(Rotation);

impl Default for Rotation {
    fn default() -> Self {
        Rotation { max_operations: *OPERATIONS.end(), interval_secs: 0, enabled: true }
    }
}

parameters! {
    pub struct Settings {
        /// Entries that one term seals at most.
        max_operations: Option<i64>,
        /// How old a term becomes at most; 0 is any age, else at least 24 hours.
        interval: Option<Seconds>,
        /// Whether new terms are made by themselves.
        enabled: Option<bool>,
    }
}

pub fn routes(mut routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes = routes.path("key-status", "The key term that seals new entries.", |p| p.read(key_status));
    for pattern in ["rotate/config", "rotate/keyring/config"] {
        routes = routes.path(pattern, "When a new key term is made by itself.", |p| p.read(config).update(configure));
    }
    for pattern in ["rotate", "rotate/keyring"] {
        routes = routes.path(pattern, "Make a new key term.", |p| {
            p.update(rotated).prepared(Operation::Update, rotate).root_protected()
        });
    }
    routes
}

/// Where the sealed entries of a term are counted.
fn counter(term: u32) -> Vec<u8> {
    format!("sealed/{term}").into_bytes()
}

/// Entries that the active term has sealed, but for those that a crash left uncounted.
fn sealed(tx: &mut Tx) -> Result<u64> {
    let barrier = tx.barrier().clone();
    let (term, _) = barrier.keyring().active();
    let stored = tx.within(STORE, |tx| tx.count(Place::Ordered(SETTINGS, &counter(term))))?;
    Ok(stored.unsigned_abs() + barrier.uncounted())
}

fn key_status(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    if let Some(ring) = own_ring(tx)? {
        let (term, active) = ring.keyring.active();
        return Ok(shown(term, active.installed, ring.sealed()));
    }
    let sealed = sealed(tx)?;
    let barrier = tx.barrier().clone();
    let (term, active) = barrier.keyring().active();
    Ok(shown(term, active.installed, sealed))
}

fn shown(term: u32, installed: u64, sealed: u64) -> Response {
    let mut m = Map::new();
    m.insert("term".into(), term.into());
    m.insert("install_time".into(), Timestamp::from_secs(installed).rfc3339().into());
    m.insert("encryptions".into(), sealed.into());
    Response::both(m)
}

/// The keyring of a namespace with a seal of its own, if the request is for one; another has none. None: the root.
fn own_ring(tx: &mut Tx) -> Result<Option<OwnRing>> {
    let Some(namespace) = seal::own(tx)? else { return Ok(None) };
    let ring = tx.barrier().ring(seal::sealable(&namespace)?.number);
    ring.map(Some).ok_or_else(|| Error::Unavailable("namespace is sealed".into()))
}

fn rotate(sys: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    let namespace = seal::own(tx)?;
    Ok(Some(Box::pin(async move {
        let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
        match namespace {
            None => core.rotate_keyring(&open).await?,
            Some(namespace) => seal::rotate_keyring(&core, &open, &namespace.uuid).await?,
        }
        let nothing: Prepared = Arc::new(());
        Ok(nothing)
    })))
}

fn rotated(_: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::empty())
}

fn load(tx: &mut Tx) -> Result<Rotation> {
    Ok(tx.within(STORE, |tx| record::get(tx, Place::Ordered(SETTINGS, ROTATION)))?.unwrap_or_default())
}

fn config(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let rotation = load(tx)?;
    let interval = match rotation.interval_secs {
        0 => Value::from(0),
        secs => duration::go_text(i128::from(secs) * 1_000_000_000).into(),
    };
    let mut m = Map::new();
    m.insert("max_operations".into(), rotation.max_operations.into());
    m.insert("enabled".into(), rotation.enabled.into());
    m.insert("interval".into(), interval);
    Ok(Response::both(m))
}

fn configure(_: &System, tx: &mut Tx, _: &Call<'_>, p: Settings) -> Result<Response> {
    let mut rotation = load(tx)?;
    if let Some(n) = p.max_operations {
        if !OPERATIONS.contains(&n) {
            let (from, to) = OPERATIONS.into_inner();
            return Err(Error::bad_request(format!("max_operations must be in the range [{from},{to}]")));
        }
        rotation.max_operations = n;
    }
    if let Some(Seconds(secs)) = p.interval {
        if secs != 0 && secs < SHORTEST_INTERVAL_SECS {
            return Err(Error::bad_request("interval must be greater or equal to 24h0m0s"));
        }
        rotation.interval_secs = secs;
    }
    rotation.enabled = p.enabled.unwrap_or(rotation.enabled);
    tx.within(STORE, |tx| record::put(tx, Place::Ordered(SETTINGS, ROTATION), &rotation))?;
    Ok(Response::empty())
}

/// Store what was counted, and make a new term where the settings ask for one.
pub(crate) async fn rotate_when_due(core: &Arc<Core>, open: &Arc<Open>) -> Result<()> {
    let barrier = open.barrier.load_full();
    let (term, active) = barrier.keyring().active();
    if barrier.uncounted() >= UNSAVED {
        let uncounted = barrier.take_uncounted();
        let delta = i64::try_from(uncounted).unwrap_or(i64::MAX);
        let count = |tx: &mut Tx| tx.within(STORE, |tx| tx.add(Place::Ordered(SETTINGS, &counter(term)), delta, None));
        if let Err(e) = core.transact(open, count).await {
            barrier.give_back_uncounted(uncounted);
            return Err(e);
        }
    }
    let mut tx = Tx::read_only(core.store.view(), holdfast_seal::Barrier::clone(&barrier)).cached(&open.opened);
    let rotation = load(&mut tx)?;
    let age_secs = clock::now().secs().saturating_sub(active.installed);
    let too_old = rotation.interval_secs > 0 && age_secs >= rotation.interval_secs.unsigned_abs();
    if rotation.enabled && (too_old || sealed(&mut tx)? >= rotation.max_operations.unsigned_abs()) {
        core.rotate_keyring(open).await?;
        tracing::info!(term = term + 1, "a new key term was made, as sys/rotate/config asks");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
