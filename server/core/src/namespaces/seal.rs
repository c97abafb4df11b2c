//! Namespaces with a seal of their own: what is in them rests under a keyring that only their shares open.
//!
//! The root's barrier keeps where they are, what ends when, and the keyring as the shares sealed it; never its keys.
//! Such a namespace starts sealed. Sealing it is a commit, so that every node forgets its keys where the log says so;
//! what they are is told from node to node, and rests in memory alone. What became due while it was sealed is parked,
//! and ends when it is unsealed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_hsm::memory::{Key, Secret};
use holdfast_sdk::{Error, Map, Place, Result, Table, Timestamp, Transaction, Value};
use holdfast_seal::{Barrier, Keyring, Lock, OwnRing, SealError, locks, shares};
use holdfast_storage::level;
use minicbor::{Decode, Encode};

use super::{Namespace, below, load};
use crate::layout::{EXPIRY, GIVEN_UP, INTENTS_DUE, NamespaceId, OIDC_KEYS_DUE, OWN_RINGS, PARKED, SEALINGS, STORE};
use crate::tx::{Effect, Tx};
use crate::{Core, Open, ceremony, intents, jobs, random};

/// Bytes of the key that the shares make.
const KEY_BYTES: usize = 32;
/// Parked entries that are moved in one commit.
const BATCH: usize = 256;
/// Namespaces with shares that are not enough yet, at most: then the one that waits longest starts over.
const MOST_UNSEALING: usize = 1024;

/// A namespace's own seal, as its record holds it.
#[derive(Debug, Clone, Encode, Decode)]
pub struct OwnSeal {
    /// That of its keyring: its entries carry it.
    #[n(0)]
    pub number: u32,
    #[n(1)]
    pub shares: u8,
    #[n(2)]
    pub threshold: u8,
    /// The keyring, sealed under the namespace's root key.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub keyring: Vec<u8>,
    /// The root key, wrapped with the key that the shares make. Before feature level 3 that was the root key itself.
    #[n(4)]
    root: Option<Lock>,
}

impl OwnSeal {
    /// A new root key around a keyring, under a key that `counts.0` shares make, `counts.1` of them together.
    pub fn new(
        number: u32,
        counts: (u8, u8),
        keyring: &Keyring,
        key: &Key,
        now: Timestamp,
    ) -> Result<OwnSeal, SealError> {
        let root = Key::random(KEY_BYTES)?;
        let lock = locks::lock_with_key(&root, key, &keyring.cluster_id(), counts, 0, now.secs())?;
        Ok(OwnSeal { number, shares: counts.0, threshold: counts.1, keyring: keyring.seal(&root)?, root: Some(lock) })
    }

    fn with_root<R>(
        &self,
        key: &Key,
        cluster_id: [u8; 16],
        act: impl FnOnce(&Key) -> Result<R, SealError>,
    ) -> Result<R, SealError> {
        match &self.root {
            Some(lock) => act(&locks::open_with_key(lock, &cluster_id, key)?),
            None => act(key),
        }
    }

    /// The keyring, opened with the key that the shares make.
    pub fn open(&self, key: &Key, cluster_id: [u8; 16]) -> Result<Keyring, SealError> {
        self.with_root(key, cluster_id, |root| Keyring::open(&self.keyring, root, cluster_id))
    }

    /// Another keyring in its place, under the same root key.
    fn hold(&mut self, keyring: &Keyring, key: &Key) -> Result<(), SealError> {
        self.keyring = self.with_root(key, keyring.cluster_id(), |root| keyring.seal(root))?;
        Ok(())
    }
}

/// What is said of a sealed namespace.
pub fn is_sealed() -> Error {
    Error::Unavailable("namespace is sealed".into())
}

/// The key that opens a namespace's keyring at present, if this node knows it.
pub fn present_key(core: &Core, seal: &OwnSeal, cluster_id: [u8; 16]) -> Result<Option<Key>> {
    let known = core.standings.own_keys.known(seal.number).map_err(Error::internal)?;
    Ok(known.into_iter().find(|key| seal.open(key, cluster_id).is_ok()))
}

impl Core {
    /// Refuse what earlier programs of the cluster would misread.
    pub(crate) fn allows_own_seals(&self) -> Result<()> {
        match self.feature_level() >= level::OWN_SEALS {
            true => Ok(()),
            false => Err(Error::Unavailable(
                "seals of namespaces are possible when all nodes of the cluster run a version that knows them".into(),
            )),
        }
    }
}

/// The shares that were given of each sealed namespace, which are not enough yet.
#[derive(Default)]
pub struct Unseals(Mutex<HashMap<u32, Progress>>);

struct Progress {
    nonce: String,
    shares: Vec<Secret<Vec<u8>>>,
    /// Boot time of the first share.
    since: std::time::Duration,
}

impl Unseals {
    fn all(&self) -> MutexGuard<'_, HashMap<u32, Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn forget(&self, number: u32) {
        self.all().remove(&number);
    }

    /// Take a share: those that were given, if they are enough now.
    fn give(
        &self,
        seal: &OwnSeal,
        share: Secret<Vec<u8>>,
        now: std::time::Duration,
    ) -> Result<Option<Vec<Secret<Vec<u8>>>>> {
        let nonce = random::uuid_text(&random::uuid()?);
        let mut all = self.all();
        if all.len() >= MOST_UNSEALING
            && !all.contains_key(&seal.number)
            && let Some(oldest) = all.iter().min_by_key(|(_, p)| p.since).map(|(n, _)| *n)
        {
            all.remove(&oldest);
        }
        let progress = all.entry(seal.number).or_insert_with(|| Progress { nonce, shares: Vec::new(), since: now });
        if progress.shares.iter().any(|s| s.ct_eq(share.expose())) {
            return Ok(None);
        }
        progress.shares.push(share);
        if progress.shares.len() < usize::from(seal.threshold) {
            return Ok(None);
        }
        Ok(all.remove(&seal.number).map(|p| p.shares))
    }
}

/// `seal "shamir" { shares = 5 threshold = 3 }`: how many shares, and how many of them open it.
pub fn counts_of(text: &str) -> Result<(u8, u8)> {
    let unreadable = |e: String| Error::bad_request(format!("unable to parse seal config: {e}"));
    let document = holdfast_hcl::parse(text).map_err(|e| unreadable(e.to_string()))?;
    let blocks = document.blocks("seal", 1).unwrap_or_default();
    let [block] = blocks.as_slice() else {
        return Err(Error::bad_request(match document.blocks("seal", 0) {
            Ok(bare) if bare.len() == 1 => "namespaces currently only support shamir seals",
            _ => "seal config must contain exactly one seal stanza",
        }));
    };
    if block.label(0) != "shamir" {
        return Err(Error::bad_request("namespaces currently only support shamir seals"));
    }
    let number = |name: &str| match block.body.attribute(name) {
        None => Ok(0),
        Some(item) => {
            let node = &item.node;
            let number = node.as_number().and_then(|n| n.as_i64()).or_else(|| node.as_str()?.trim().parse().ok());
            number.ok_or_else(|| Error::bad_request(format!("value of {name} parameter must be integer")))
        }
    };
    crate::init::counts(number("shares")?, number("threshold")?)
        .map_err(|text| Error::bad_request(format!("invalid seal config: {text}")))
}

/// A seal and the shares that open it.
pub type Sealed = (OwnSeal, Vec<Secret<Vec<u8>>>);

/// Make the keyring of a new namespace, which its first records are written under.
pub fn new_seal(tx: &mut Tx, uuid: NamespaceId, (n, threshold): (u8, u8), now: Timestamp) -> Result<Sealed> {
    let key = Key::random(KEY_BYTES).map_err(Error::internal)?;
    let keyring = Keyring::generate(tx.barrier().keyring().cluster_id(), now.secs()).map_err(Error::internal)?;
    let shares = shares::split(&key, n, threshold).map_err(Error::internal)?;
    let number = new_number(tx)?;
    let own = OwnSeal::new(number, (n, threshold), &keyring, &key, now).map_err(Error::internal)?;
    adopt(tx, uuid, OwnRing::new(number, Arc::new(keyring)))?;
    Ok((own, shares))
}

fn new_number(tx: &mut Tx) -> Result<u32> {
    for _ in 0..64 {
        let drawn = u32::from_be_bytes(random::bytes()?);
        // 0 is the root's.
        let place = drawn.to_be_bytes();
        if drawn != 0 && tx.within(STORE, |tx| tx.get(Place::Ordered(SEALINGS, &place)))?.is_none() {
            tx.within(STORE, |tx| tx.put(Place::Ordered(SEALINGS, &place), 0u64.to_be_bytes().to_vec()))?;
            return Ok(drawn);
        }
    }
    Err(Error::Internal("no free number was found for a keyring".into()))
}

fn ring_place(uuid: &NamespaceId, number: u32) -> Vec<u8> {
    [&uuid[..], &number.to_be_bytes()].concat()
}

/// A new namespace rests under a keyring from its first record on.
pub fn adopt(tx: &mut Tx, uuid: NamespaceId, ring: OwnRing) -> Result<()> {
    let place = ring_place(&uuid, ring.number);
    tx.use_ring(uuid, ring);
    tx.within(STORE, |tx| tx.put(Place::Ordered(OWN_RINGS, &place), Vec::new()))
}

/// What a place of [`OWN_RINGS`] says.
pub fn read_ring_place(place: &[u8]) -> Option<(NamespaceId, u32)> {
    let (uuid, number) = place.split_first_chunk::<16>()?;
    Some((*uuid, u32::from_be_bytes(number.try_into().ok()?)))
}

/// The namespaces that rest under another keyring than the root's, and its number.
pub fn own_rings(tx: &mut Tx) -> Result<Vec<(NamespaceId, u32)>> {
    let found = tx.within(STORE, |tx| tx.ordered(OWN_RINGS, &[], &[], usize::MAX))?;
    Ok(found.into_iter().filter_map(|(place, _)| read_ring_place(&place)).collect())
}

/// The namespaces with a seal of their own that are unsealed, and their keyrings.
pub fn unsealed(tx: &mut Tx) -> Result<Vec<(NamespaceId, OwnRing)>> {
    let mut found = Vec::new();
    for (uuid, number) in own_rings(tx)? {
        let Some(ring) = tx.barrier().ring(number) else { continue };
        // Those in it that have no seal rest under its keyring.
        if load(tx, &uuid)?.is_some_and(|n| n.seal.is_some()) {
            found.push((uuid, ring));
        }
    }
    Ok(found)
}

/// Something that is due in a sealed namespace waits, at its place in its index, until that is unsealed; or goes, if
/// the namespace is gone.
pub fn park(tx: &mut Tx, namespace: &NamespaceId, table: Table, place: &[u8], value: Vec<u8>) -> Result<()> {
    if let (Some(number), Some(_)) = (tx.barrier().number_of(namespace), load(tx, namespace)?) {
        let parked = [&number.to_be_bytes()[..], &[table.0], place].concat();
        tx.within(STORE, |tx| tx.put(Place::Ordered(PARKED, &parked), value))?;
    }
    tx.within(STORE, |tx| tx.delete(Place::Ordered(table, place)))
}

/// Let something end as soon as its namespace is unsealed.
pub fn park_due(tx: &mut Tx, namespace: &NamespaceId, due: &crate::expiry::Due) -> Result<()> {
    let place = [&[0; 8][..], &random::bytes::<16>()?].concat();
    park(tx, namespace, EXPIRY, &place, due.encode())
}

/// A batch of the job that puts back what waited. True: there may be more.
pub fn take_up_parked(tx: &mut Tx, number: u32) -> Result<bool> {
    tx.enter(STORE);
    let (start, end) = (number.to_be_bytes(), number.checked_add(1).map(u32::to_be_bytes));
    let found = tx.ordered(PARKED, &start, end.as_ref().map_or(&[], |e| &e[..]), BATCH)?;
    for (parked, value) in &found {
        tx.delete(Place::Ordered(PARKED, parked))?;
        let Some((table, place)) = parked.get(4..).and_then(|rest| rest.split_first()) else { continue };
        if let Some(table) = [EXPIRY, INTENTS_DUE, OIDC_KEYS_DUE, GIVEN_UP].into_iter().find(|t| t.0 == *table) {
            tx.put(Place::Ordered(table, place), value.clone())?;
        }
    }
    let more = found.len() == BATCH;
    if !more {
        while intents::take_up_again_elsewhere(tx, crate::clock::now())? {}
    }
    tx.effect(Effect::RunJobs);
    tx.effect(Effect::Undo);
    Ok(more)
}

/// How sealed a namespace is, for `seal-status`.
pub fn status(open: &Open, namespace: &Namespace) -> Result<Map<String, Value>> {
    let seal = sealable(namespace)?;
    let sealed = open.barrier.load().is_sealed(&namespace.uuid);
    let (nonce, progress) = match open.unseals.all().get(&seal.number) {
        Some(p) => (p.nonce.clone(), p.shares.len()),
        None => (String::new(), 0),
    };
    let mut m = Map::new();
    m.insert("initialized".into(), true.into());
    m.insert("n".into(), seal.shares.into());
    m.insert("nonce".into(), nonce.into());
    m.insert("progress".into(), progress.into());
    m.insert("sealed".into(), sealed.into());
    m.insert("t".into(), seal.threshold.into());
    m.insert("type".into(), "shamir".into());
    Ok(m)
}

pub fn sealable(namespace: &Namespace) -> Result<&OwnSeal> {
    namespace.seal.as_ref().ok_or_else(|| Error::bad_request("namespace is not sealable"))
}

/// The key that shares make, if it opens a namespace's keyring; and that.
pub fn join(seal: &OwnSeal, given: &[Secret<Vec<u8>>], cluster_id: [u8; 16]) -> Result<(Key, Keyring)> {
    let wrong =
        || Error::bad_request("unable to retrieve stored keys: invalid key: the shares do not open the namespace");
    let key = shares::join(given, seal.threshold).map_err(|_| wrong())?;
    let keyring = seal.open(&key, cluster_id).map_err(|e| match e {
        SealError::Memory(_) => Error::internal(e),
        _ => wrong(),
    })?;
    Ok((key, keyring))
}

/// A share as a client wrote it.
pub fn share(seal: &OwnSeal, text: &str) -> Result<Secret<Vec<u8>>> {
    let unreadable = || Error::bad_request("illegal base64 data at input byte 0");
    let share = ceremony::bytes_of(text).ok_or_else(unreadable)?;
    let (given, right) = (share.expose().len(), shares::share_bytes(KEY_BYTES, seal.shares));
    match given {
        _ if given < right.min(16) => Err(Error::bad_request("invalid key: key is shorter than minimum 16 bytes")),
        _ if given != right => {
            Err(Error::bad_request(format!("invalid key: a share of this namespace has {right} bytes, not {given}")))
        }
        _ => Ok(share),
    }
}

/// Take a share. With enough of them the namespace is open, here and on all nodes that are unsealed.
pub async fn unseal(core: &Arc<Core>, open: &Arc<Open>, namespace: &Namespace, text: &str) -> Result<()> {
    // One at a time, and none while new shares are made.
    let _one = core.seal.act.lock().await;
    let Some(namespace) = load(&mut core.reader(open), &namespace.uuid)? else { return Err(super::gone()) };
    let seal = sealable(&namespace)?;
    let barrier = open.barrier.load_full();
    if barrier.ring(seal.number).is_some() {
        return Ok(());
    }
    let share = share(seal, text)?;
    let Some(given) = open.unseals.give(seal, share, core.clock.boot())? else { return Ok(()) };
    let (key, keyring) = join(seal, &given, barrier.keyring().cluster_id())?;
    let index = core.store.view().index();
    core.standings.own_keys.keep(seal.number, key, index);
    barrier.open_ring(OwnRing::new(seal.number, Arc::new(keyring)));
    if core.standings.own_keys.was_sealed_since(seal.number, index) {
        barrier.close_ring(seal.number);
        return Err(is_sealed());
    }
    tracing::info!(namespace = %namespace.path, "a namespace is unsealed");
    let number = seal.number;
    core.transact(open, |tx| jobs::add(tx, jobs::Kind::TakeUpParked { number }).map(drop)).await?;
    core.tell_namespace_keys(open).await;
    Ok(())
}

/// The present namespace, which has to have a seal of its own; none: it is the root.
pub fn own(tx: &mut Tx) -> Result<Option<Namespace>> {
    let uuid = tx.namespace();
    if uuid == crate::layout::ROOT {
        return Ok(None);
    }
    let namespace = load(tx, &uuid)?.ok_or_else(super::gone)?;
    sealable(&namespace)?;
    Ok(Some(namespace))
}

/// A new term seals what is written in a namespace from now on.
pub async fn rotate_keyring(core: &Core, open: &Open, uuid: &NamespaceId) -> Result<()> {
    let _one = core.seal.act.lock().await;
    let namespace = load(&mut core.reader(open), uuid)?.ok_or_else(super::gone)?;
    let (barrier, own) = (open.barrier.load_full(), sealable(&namespace)?);
    let number = own.number;
    let ring = barrier.ring(number).ok_or_else(is_sealed)?;
    let key = present_key(core, own, barrier.keyring().cluster_id())?.ok_or_else(is_sealed)?;
    let fresh = ring.keyring.rotated(&core.entropy().await?, crate::clock::now().secs()).map_err(Error::internal)?;
    let index = core
        .transact(open, |tx| {
            let mut now = load(tx, uuid)?.ok_or_else(super::gone)?;
            let own = now.seal.as_mut().ok_or_else(super::gone)?;
            own.hold(&fresh, &key).map_err(Error::internal)?;
            super::save(tx, &now)?;
            Ok(tx.index())
        })
        .await?;
    barrier.open_ring(OwnRing::new(number, Arc::new(fresh)));
    if core.standings.own_keys.was_sealed_since(number, index) {
        barrier.close_ring(number);
    }
    Ok(())
}

/// Let everybody forget a namespace's keys, and those of the namespaces in it, when this is committed. One without a
/// seal of its own stays as it is.
pub fn seal(tx: &mut Tx, namespace: &Namespace) -> Result<()> {
    if namespace.seal.is_none() {
        return Ok(());
    }
    let inside = below(tx, &namespace.path)?;
    for own in inside.iter().chain([namespace]).filter_map(|n| n.seal.as_ref()) {
        tx.within(STORE, |tx| tx.add(Place::Ordered(SEALINGS, &own.number.to_be_bytes()), 1, None))?;
    }
    tx.effect(Effect::NamespaceSealed);
    tracing::info!(namespace = %namespace.path, "a namespace is being sealed");
    Ok(())
}

/// Take a sealed namespace, with those in it, out of service for good. What its leases stand for outside stays there;
/// returned is how many there were, by the UUIDs of their mounts.
pub fn begin_to_wipe(tx: &mut Tx, namespace: &Namespace, force: bool) -> Result<Map<String, Value>> {
    if namespace.seal.is_none() || !tx.is_sealed(&namespace.uuid) {
        return Err(Error::bad_request("namespace is not sealed"));
    }
    let mut inside = below(tx, &namespace.path)?;
    if !inside.is_empty() && !force {
        return Err(Error::bad_request(
            "sealed namespace has leftover child namespaces; pass force=true to delete the entire tree, or unseal the \
             namespace and delete children individually",
        ));
    }
    // Those that were being deleted when it was sealed are found by no path any more.
    for (id, job) in jobs::list(tx)? {
        if job.ends_namespace_in(&namespace.path) {
            jobs::forget(tx, &id)?;
            inside.extend(load(tx, &job.namespace())?.filter(|n| n.uuid != namespace.uuid));
        }
    }
    let mut left = Map::new();
    for one in inside.iter().chain([namespace]) {
        count_left(tx, one, &mut left)?;
        super::ending::take_out_of_service(tx, one.clone())?;
        jobs::add_in(tx, one.uuid, jobs::Kind::WipeNamespace { path: one.path.clone() })?;
    }
    Ok(left)
}

/// Leases of engines by their mounts, counted by their places alone.
fn count_left(tx: &mut Tx, namespace: &Namespace, left: &mut Map<String, Value>) -> Result<()> {
    const STEP: usize = 1024;
    let scope = crate::layout::SYSTEM.of(namespace.uuid);
    let prefix = [&scope.prefix()[..], &[crate::layout::LEASES_OF_MOUNT.0]].concat();
    let mut counts: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    let mut after = Vec::new();
    loop {
        let keys = tx.keys(&prefix, &after, STEP)?;
        for key in &keys {
            let mount = key.get(prefix.len()..).and_then(|place| place.first_chunk::<16>());
            *counts.entry(mount.map_or_else(String::new, random::uuid_text)).or_default() += 1;
        }
        match keys.last() {
            Some(last) if keys.len() >= STEP => after.clone_from(last),
            _ => break,
        }
    }
    left.extend(counts.into_iter().map(|(mount, count)| (mount, count.into())));
    Ok(())
}

/// A batch of what goes unread. True: there is more.
pub fn wipe_some(tx: &mut Tx, uuid: &NamespaceId, limit: usize) -> Result<bool> {
    if tx.delete_prefix(&[&[crate::layout::SEALED][..], uuid].concat(), limit)? {
        return Ok(true);
    }
    if let Some(own) = load(tx, uuid)?.and_then(|n| n.seal) {
        let parked = [&STORE.prefix()[..], &[PARKED.0], &own.number.to_be_bytes()].concat();
        if tx.delete_prefix(&parked, limit)? {
            return Ok(true);
        }
    }
    forget_record(tx, uuid)?;
    Ok(false)
}

/// The last that goes of a namespace; its keys go with it.
pub fn forget_record(tx: &mut Tx, uuid: &NamespaceId) -> Result<()> {
    let own = load(tx, uuid)?.and_then(|n| n.seal);
    let number = tx.barrier().number_of(uuid);
    tx.within(STORE, |tx| {
        if let Some(number) = number {
            tx.delete(Place::Ordered(OWN_RINGS, &ring_place(uuid, number)))?;
        }
        if let Some(own) = own {
            tx.delete(Place::Ordered(SEALINGS, &own.number.to_be_bytes()))?;
        }
        tx.delete(Place::Ordered(crate::layout::NAMESPACES, uuid))
    })
}

/// What the store says of keyrings when a node becomes active: which namespaces rest under which, and those open of
/// which it knows the keys.
pub fn resume(core: &Core, tx: &mut Tx, barrier: &Barrier) -> Result<()> {
    for (namespace, number) in own_rings(tx)? {
        barrier.adopt(namespace, number);
        let Some(own) = load(tx, &namespace)?.and_then(|n| n.seal) else { continue };
        let cluster_id = barrier.keyring().cluster_id();
        match present_key(core, &own, cluster_id)?.and_then(|key| own.open(&key, cluster_id).ok()) {
            Some(keyring) => barrier.open_ring(OwnRing::new(own.number, Arc::new(keyring))),
            None => core.standings.own_keys.forget(own.number, 0),
        }
    }
    Ok(())
}
