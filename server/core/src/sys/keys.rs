//! `sys/key-status`, `sys/rotate*`: the keyring's terms, and when a new one is made by itself.

use std::sync::Arc;

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    Call, Error, Map, Operation, Place, Preparation, Prepared, Response, Result, Routes, Timestamp, Transaction, Value,
    duration, parameters, record,
};
use holdfast_seal::{Barrier, Keyring, OwnRing};
use minicbor::{Decode, Encode};

use super::System;
use crate::audit::Act;
use crate::layout::{NamespaceId, ROOT, SETTINGS, SYSTEM};
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

/// A keyring that is open: the root's, or that of a namespace with a seal of its own.
struct Ring {
    keyring: Arc<Keyring>,
    own: Option<OwnRing>,
    barrier: Barrier,
}

impl Ring {
    fn of_root(barrier: &Barrier) -> Ring {
        Ring { keyring: barrier.keyring().clone(), own: None, barrier: barrier.clone() }
    }

    fn own(barrier: &Barrier, own: OwnRing) -> Ring {
        Ring { keyring: own.keyring.clone(), own: Some(own), barrier: barrier.clone() }
    }

    /// That of the present namespace, which is refused if it has none.
    fn of(tx: &mut Tx) -> Result<Ring> {
        let barrier = tx.barrier().clone();
        let Some(namespace) = seal::own(tx)? else { return Ok(Ring::of_root(&barrier)) };
        let ring = barrier.ring(seal::sealable(&namespace)?.number).ok_or_else(seal::is_sealed)?;
        Ok(Ring::own(&barrier, ring))
    }

    fn uncounted(&self) -> u64 {
        self.own.as_ref().map_or_else(|| self.barrier.uncounted(), OwnRing::uncounted)
    }

    fn take_uncounted(&self) -> u64 {
        self.own.as_ref().map_or_else(|| self.barrier.take_uncounted(), OwnRing::take_uncounted)
    }

    fn give_back_uncounted(&self, n: u64) {
        match &self.own {
            Some(own) => own.give_back_uncounted(n),
            None => self.barrier.give_back_uncounted(n),
        }
    }

    /// Entries that the active term has sealed, but for those that a crash left uncounted. The transaction is in the
    /// ring's namespace.
    fn sealed(&self, tx: &mut Tx) -> Result<u64> {
        let (term, _) = self.keyring.active();
        let stored = tx.within(SYSTEM, |tx| tx.count(Place::Ordered(SETTINGS, &counter(term))))?;
        Ok(stored.unsigned_abs() + self.uncounted())
    }
}

fn key_status(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let ring = Ring::of(tx)?;
    let sealed = ring.sealed(tx)?;
    let (term, active) = ring.keyring.active();
    let mut m = Map::new();
    m.insert("term".into(), term.into());
    m.insert("install_time".into(), Timestamp::from_secs(active.installed).rfc3339().into());
    m.insert("encryptions".into(), sealed.into());
    Ok(Response::both(m))
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
    Ok(tx.within(SYSTEM, |tx| record::get(tx, Place::Ordered(SETTINGS, ROTATION)))?.unwrap_or_default())
}

fn config(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    // A namespace without a keyring of its own has nothing to rotate.
    Ring::of(tx)?;
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
    Ring::of(tx)?;
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
    tx.within(SYSTEM, |tx| record::put(tx, Place::Ordered(SETTINGS, ROTATION), &rotation))?;
    Ok(Response::empty())
}

/// Store what was counted, and make new terms where the settings of the root, or of namespaces with a keyring of their
/// own, ask for them.
pub(crate) async fn rotate_when_due(core: &Arc<Core>, open: &Arc<Open>) -> Result<()> {
    let barrier = open.barrier.load_full();
    let mut outcome = rotate_one_when_due(core, open, ROOT, Ring::of_root(&barrier)).await;
    if barrier.no_ring_is_open() {
        return outcome;
    }
    for (namespace, own) in seal::unsealed(&mut core.reader(open))? {
        // One that cannot does not keep the others from it.
        outcome = outcome.and(rotate_one_when_due(core, open, namespace, Ring::own(&barrier, own)).await);
    }
    outcome
}

async fn rotate_one_when_due(core: &Arc<Core>, open: &Arc<Open>, namespace: NamespaceId, ring: Ring) -> Result<()> {
    let (term, active) = ring.keyring.active();
    let here = SYSTEM.of(namespace);
    if ring.uncounted() >= UNSAVED {
        let uncounted = ring.take_uncounted();
        let delta = i64::try_from(uncounted).unwrap_or(i64::MAX);
        let count = |tx: &mut Tx| tx.within(here, |tx| tx.add(Place::Ordered(SETTINGS, &counter(term)), delta, None));
        if let Err(e) = core.transact(open, count).await {
            ring.give_back_uncounted(uncounted);
            return Err(e);
        }
    }
    let mut tx = core.reader(open);
    tx.enter(here);
    let rotation = load(&mut tx)?;
    let age_secs = clock::now().secs().saturating_sub(active.installed);
    let too_old = rotation.interval_secs > 0 && age_secs >= rotation.interval_secs.unsigned_abs();
    if rotation.enabled && (too_old || ring.sealed(&mut tx)? >= rotation.max_operations.unsigned_abs()) {
        let cause = if too_old { "the term is as old as" } else { "the term has sealed as much as" };
        let act = Act::new("rotate", "sys/rotate", format!("{cause} sys/rotate/config allows")).within(namespace);
        let act = act.number("term", u64::from(term) + 1);
        let begun = core.begins(open, &act).await;
        let rotated = match namespace {
            ROOT => core.rotate_keyring(open).await,
            uuid => seal::rotate_keyring(core, open, &uuid).await,
        };
        if let Err(e) = rotated {
            open.audit.was_not(&begun);
            return Err(e);
        }
        core.ended(open, begun, act);
        tracing::info!(term = term + 1, "a new key term was made, as sys/rotate/config asks");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
