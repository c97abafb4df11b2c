//! Leases of what engines made: stored, found by token and by mount, counted, ended.

use std::collections::BTreeMap;

use holdfast_sdk::{Caller, Error, Lease, NewLease, Outside, Place, Result, Timestamp, TokenId, Transaction, record};
use minicbor::{Decode, Encode};

use super::{BATCH, ENGINE, Of, find};
use crate::expiry::{self, Due};
use crate::layout::{
    IRREVOCABLE, LEASE_COUNTS, LEASES, LEASES_OF_MOUNT, LEASES_OF_TOKEN, NamespaceId, ROOT, SYSTEM, Scope,
};
use crate::namespaces::seal;
use crate::random::{self, uuid_text};
use crate::router::Mount;
use crate::tx::{Made, Tx};
use crate::{intents, jobs, namespaces};

/// Leases ended in the same commit as their token; more are left to a job.
const WITH_THE_TOKEN: usize = 32;

/// Irrevocable leases that are counted at most where it must be quick.
const COUNTED: usize = 10_000;

/// A lease as it is stored.
#[derive(Debug, Clone, Encode, Decode)]
pub struct EngineLease {
    #[n(0)]
    pub id: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub mount: [u8; 16],
    #[n(2)]
    mount_path: String,
    #[n(3)]
    target: String,
    #[n(4)]
    name: String,
    /// The engine's own.
    #[cbor(n(5), with = "minicbor::bytes")]
    record: Vec<u8>,
    #[n(6)]
    issued_ns: u64,
    #[n(7)]
    expires_ns: u64,
    /// 0: never.
    #[n(8)]
    last_renewal_ns: u64,
    #[n(9)]
    pub renewable: bool,
    #[n(10)]
    counted_as: String,
    /// Its part of the keys of indexes.
    #[cbor(n(11), with = "minicbor::bytes")]
    own: [u8; 16],
    /// The token that it ends with.
    #[cbor(n(12), with = "minicbor::bytes")]
    owner: Option<[u8; 32]>,
    /// That token's namespace; none: the root's.
    #[cbor(n(15), with = "minicbor::bytes")]
    #[cbor(default)]
    owner_namespace: Option<NamespaceId>,
    /// Its key in the expiry index, while it lives.
    #[cbor(n(13), with = "minicbor::bytes")]
    expiry_key: Option<Vec<u8>>,
    /// The key of the intent that ends it.
    #[n(14)]
    ending: Option<intents::Key>,
    /// It is counted by its target. Those of older versions are not.
    #[n(16)]
    #[cbor(default)]
    counted_at_target: bool,
}
holdfast_sdk::record!(EngineLease);

impl EngineLease {
    pub fn outside(&self) -> Outside {
        Outside { target: self.target.clone(), name: self.name.clone(), record: self.record.clone() }
    }

    pub fn issued(&self) -> Timestamp {
        Timestamp(self.issued_ns)
    }

    pub fn expires(&self) -> Timestamp {
        Timestamp(self.expires_ns)
    }

    pub fn last_renewal(&self) -> Option<Timestamp> {
        (self.last_renewal_ns > 0).then_some(Timestamp(self.last_renewal_ns))
    }

    /// Its time is not over, and nothing has begun to end it.
    pub fn lives(&self, now: Timestamp) -> bool {
        self.ending.is_none() && now < self.expires()
    }

    /// The intent that ends it.
    pub fn ending(&self) -> Option<&intents::Key> {
        self.ending.as_ref()
    }

    pub fn ttl_left_secs(&self, now: Timestamp) -> u64 {
        self.expires_ns.saturating_sub(now.0).div_ceil(1_000_000_000)
    }

    pub fn mount_path(&self) -> &str {
        &self.mount_path
    }

    /// Move its end.
    pub fn renew(mut self, tx: &mut Tx, end: Timestamp, now: Timestamp) -> Result<()> {
        if let Some(key) = self.expiry_key.take() {
            expiry::remove(tx, &key)?;
        }
        self.expiry_key = Some(expiry::put(tx, end, &Due::Lease(tx.namespace(), self.id.clone()))?);
        self.expires_ns = end.0;
        self.last_renewal_ns = now.0;
        save(tx, &self)
    }

    fn owner(&self) -> Option<TokenId> {
        self.owner.map(|own| TokenId { namespace: self.owner_namespace.unwrap_or(ROOT), own })
    }

    /// Its place in the index of what ends with a token, which is in the token's namespace.
    fn token_key(&self) -> Option<(Scope, Vec<u8>)> {
        self.owner().map(|o| (SYSTEM.of(o.namespace), [&o.own[..], &self.own].concat()))
    }

    fn mount_key(&self) -> Vec<u8> {
        [&self.mount[..], &self.own].concat()
    }
}

fn save(tx: &mut Tx, lease: &EngineLease) -> Result<()> {
    let bytes = [&[ENGINE][..], &record::encode(lease)?].concat();
    tx.within(SYSTEM, |tx| tx.put(Place::Name(LEASES, &lease.id), bytes))
}

fn count(tx: &mut Tx, mount: &[u8; 16], counted_as: &str, by: i64) -> Result<()> {
    let mount = uuid_text(mount);
    tx.within(SYSTEM, |tx| {
        tx.add(Place::Name(LEASE_COUNTS, &format!("mount/{mount}")), by, None)?;
        match counted_as {
            "" => Ok(()),
            role => tx.add(Place::Name(LEASE_COUNTS, &format!("role/{mount}/{role}")), by, None),
        }
    })
}

/// What is beyond the live ones: leases whose end has begun.
fn count_one_ending(tx: &mut Tx, mount: &[u8; 16], by: i64) -> Result<()> {
    let name = format!("ending/{}", uuid_text(mount));
    tx.within(SYSTEM, |tx| tx.add(Place::Name(LEASE_COUNTS, &name), by, None))
}

fn count_at_target(tx: &mut Tx, lease: &EngineLease, by: i64) -> Result<()> {
    if !lease.counted_at_target {
        return Ok(());
    }
    let name = at_target(&lease.mount, &lease.target);
    tx.within(SYSTEM, |tx| tx.add(Place::Name(LEASE_COUNTS, &name), by, None))
}

fn at_target(mount: &[u8; 16], target: &str) -> String {
    format!("target/{}/{target}", uuid_text(mount))
}

/// Leases of what a mount made at a target, those that are ending among them.
pub fn count_of_target(tx: &mut Tx, mount: &[u8; 16], target: &str) -> Result<i64> {
    let name = at_target(mount, target);
    tx.within(SYSTEM, |tx| tx.count(Place::Name(LEASE_COUNTS, &name)))
}

/// Leases of a mount whose end has begun and is not done.
pub fn count_ending(tx: &mut Tx, mount: &[u8; 16]) -> Result<i64> {
    let name = format!("ending/{}", uuid_text(mount));
    // Those of older versions were not counted.
    tx.within(SYSTEM, |tx| tx.count(Place::Name(LEASE_COUNTS, &name))).map(|n| n.max(0))
}

/// Live leases of a mount.
pub fn count_live(tx: &mut Tx, mount: &[u8; 16]) -> Result<i64> {
    let name = format!("mount/{}", uuid_text(mount));
    tx.within(SYSTEM, |tx| tx.count(Place::Name(LEASE_COUNTS, &name)))
}

/// Mounts of the present namespace that have had leases.
pub fn counted_mounts(tx: &mut Tx, limit: usize) -> Result<Vec<[u8; 16]>> {
    let names = tx.within(SYSTEM, |tx| tx.names(LEASE_COUNTS, "mount/", "", limit))?;
    Ok(names.iter().filter_map(|name| random::parse_uuid(name)).collect())
}

/// Live leases of a mount of one that its engine counts by.
pub fn count_live_of_role(tx: &mut Tx, mount: &[u8; 16], role: &str) -> Result<i64> {
    let name = format!("role/{}/{role}", uuid_text(mount));
    tx.within(SYSTEM, |tx| tx.count(Place::Name(LEASE_COUNTS, &name)))
}

/// Live leases of a mount by what its engine counts by, at most `limit`.
pub fn live_by_role(tx: &mut Tx, mount: &[u8; 16], limit: usize) -> Result<Vec<(String, i64)>> {
    let folder = format!("role/{}/", uuid_text(mount));
    tx.within(SYSTEM, |tx| {
        let names = tx.names(LEASE_COUNTS, &folder, "", limit)?;
        names
            .into_iter()
            .map(|name| Ok((name.clone(), tx.count(Place::Name(LEASE_COUNTS, &format!("{folder}{name}")))?)))
            .filter(|found| !matches!(found, Ok((_, 0))))
            .collect()
    })
}

/// Make the lease of an answer. `now` is cluster time: a wall clock that is wrong for an hour moves no lease's end.
pub fn issue(tx: &mut Tx, mount: &Mount, path: &str, new: NewLease, caller: &Caller, now: Timestamp) -> Result<Lease> {
    let id = format!("{path}/{}{}", random::alphanumeric(24)?, namespaces::suffix(tx)?);
    let end = now.plus_secs(new.ttl_secs);
    let lease = EngineLease {
        mount: mount.entry.uuid,
        mount_path: mount.full_path.clone(),
        counted_at_target: !new.outside.target.is_empty(),
        target: new.outside.target,
        name: new.outside.name,
        record: new.outside.record,
        issued_ns: now.0,
        expires_ns: end.0,
        last_renewal_ns: 0,
        renewable: new.renewable,
        counted_as: new.counted_as,
        own: random::uuid()?,
        owner: caller.lease_owner.map(|o| o.own),
        owner_namespace: caller.lease_owner.map(|o| o.namespace).filter(|n| *n != ROOT),
        expiry_key: Some(expiry::put(tx, end, &Due::Lease(tx.namespace(), id.clone()))?),
        ending: None,
        id,
    };
    if let Some((scope, key)) = lease.token_key() {
        let named = Named { namespace: tx.namespace(), id: lease.id.clone() }.encode(scope.namespace);
        tx.within(scope, |tx| tx.put(Place::Ordered(LEASES_OF_TOKEN, &key), named))?;
    }
    tx.within(SYSTEM, |tx| tx.put(Place::Ordered(LEASES_OF_MOUNT, &lease.mount_key()), lease.id.clone().into_bytes()))?;
    count(tx, &lease.mount, &lease.counted_as, 1)?;
    count_at_target(tx, &lease, 1)?;
    save(tx, &lease)?;
    tx.begins(Made::Lease(tx.namespace(), lease.id.clone()));
    Ok(Lease { id: lease.id, ttl_secs: new.ttl_secs, renewable: new.renewable })
}

/// Take a lease out of service: what it stands for is undone behind, however long that takes.
pub(super) fn begin_end(tx: &mut Tx, lease: EngineLease) -> Result<()> {
    match lease.ending {
        Some(_) => Ok(()),
        None => {
            let intent = intents::end_lease(tx, &lease)?;
            end_by(tx, lease, intent)
        }
    }
}

/// An intent takes a lease out of service, unless it is gone or another does. True: it does.
pub fn ends_by(tx: &mut Tx, id: &str, intent: &intents::Key) -> Result<bool> {
    match find(tx, id)? {
        Some(Of::Engine(lease)) if lease.ending.is_none() => end_by(tx, *lease, *intent).map(|()| true),
        _ => Ok(false),
    }
}

fn end_by(tx: &mut Tx, mut lease: EngineLease, intent: intents::Key) -> Result<()> {
    if let Some(key) = lease.expiry_key.take() {
        expiry::remove(tx, &key)?;
    }
    lease.ending = Some(intent);
    leave_its_token(tx, &mut lease)?;
    count(tx, &lease.mount, &lease.counted_as, -1)?;
    count_one_ending(tx, &lease.mount, 1)?;
    save(tx, &lease)
}

fn leave_its_token(tx: &mut Tx, lease: &mut EngineLease) -> Result<()> {
    match lease.token_key() {
        Some((scope, key)) => {
            lease.owner = None;
            tx.within(scope, |tx| tx.delete(Place::Ordered(LEASES_OF_TOKEN, &key)))
        }
        None => Ok(()),
    }
}

/// Take a lease out of service, as [`begin_end`]. Returns it as it was, if its end begins now.
pub fn take_out(tx: &mut Tx, id: &str) -> Result<Option<Box<EngineLease>>> {
    let Some(Of::Engine(lease)) = find(tx, id)? else { return Ok(None) };
    if lease.ending.is_some() {
        return Ok(None);
    }
    begin_end(tx, (*lease).clone())?;
    Ok(Some(lease))
}

/// What a lease stands for is undone: it goes.
pub fn undone(tx: &mut Tx, id: &str) -> Result<()> {
    match find(tx, id)? {
        Some(Of::Engine(lease)) => remove(tx, *lease),
        _ => Ok(()),
    }
}

/// A lease goes though what it stands for could not be taken back, or was not tried to be.
pub fn forget_by_force(tx: &mut Tx, lease: &EngineLease) -> Result<()> {
    if !lease.target.is_empty() {
        tracing::warn!(
            lease = %lease.id, target = %lease.target, name = %lease.name,
            "a lease is forgotten by force; what it stands for may still be there"
        );
    }
    forget(tx, lease)
}

/// A lease goes, and with it the intent to end it.
pub fn forget(tx: &mut Tx, lease: &EngineLease) -> Result<()> {
    if let Some(key) = &lease.ending {
        intents::drop_ending(tx, key)?;
    }
    remove(tx, lease.clone())
}

fn remove(tx: &mut Tx, mut lease: EngineLease) -> Result<()> {
    match lease.ending {
        None => count(tx, &lease.mount, &lease.counted_as, -1)?,
        Some(_) => count_one_ending(tx, &lease.mount, -1)?,
    }
    count_at_target(tx, &lease, -1)?;
    if let Some(key) = lease.expiry_key.take() {
        expiry::remove(tx, &key)?;
    }
    leave_its_token(tx, &mut lease)?;
    tx.within(SYSTEM, |tx| {
        tx.delete(Place::Ordered(LEASES_OF_MOUNT, &lease.mount_key()))?;
        tx.delete(Place::Name(LEASES, &lease.id))
    })
}

/// A token is gone: its leases end, a few at once, the rest by a job.
pub fn end_of_token(tx: &mut Tx, token: &TokenId) -> Result<()> {
    if end_some(tx, token, WITH_THE_TOKEN)? {
        jobs::add_in(tx, token.namespace, jobs::Kind::EndLeasesOfToken { token: token.own })?;
    }
    Ok(())
}

/// A batch of the job behind [`end_of_token`]. True: there is more.
pub fn end_rest_of_token(tx: &mut Tx, token: &TokenId) -> Result<bool> {
    end_some(tx, token, BATCH)
}

fn end_some(tx: &mut Tx, token: &TokenId, limit: usize) -> Result<bool> {
    let scope = SYSTEM.of(token.namespace);
    let end = holdfast_storage::prefix_end(&token.own).unwrap_or_default();
    let found = tx.within(scope, |tx| tx.ordered(LEASES_OF_TOKEN, &token.own, &end, limit + 1))?;
    for (key, value) in found.iter().take(limit) {
        let Named { namespace, id } = Named::decode(value, token.namespace)?;
        if tx.is_sealed(&namespace) {
            // It ends when that is unsealed.
            seal::park_due(tx, &namespace, &Due::Lease(namespace, id))?;
            tx.within(scope, |tx| tx.delete(Place::Ordered(LEASES_OF_TOKEN, key)))?;
            continue;
        }
        match tx.within(SYSTEM.of(namespace), |tx| find(tx, &id))? {
            Some(Of::Engine(lease)) => tx.within(SYSTEM.of(namespace), |tx| begin_end(tx, *lease))?,
            _ => tx.within(scope, |tx| tx.delete(Place::Ordered(LEASES_OF_TOKEN, key)))?,
        }
    }
    Ok(found.len() > limit)
}

/// A lease as the index of a token's leases names it.
struct Named {
    namespace: NamespaceId,
    id: String,
}

impl Named {
    /// Only that of another namespace than the token's is written down; no lease's id begins with a zero.
    fn encode(&self, of_token: NamespaceId) -> Vec<u8> {
        match self.namespace == of_token {
            true => self.id.clone().into_bytes(),
            false => [&[0][..], &self.namespace, self.id.as_bytes()].concat(),
        }
    }

    fn decode(bytes: &[u8], of_token: NamespaceId) -> Result<Named> {
        match bytes.split_first() {
            Some((0, rest)) => {
                let broken = || Error::Internal("an index of leases is broken".into());
                let (namespace, id) = rest.split_first_chunk::<16>().ok_or_else(broken)?;
                Ok(Named { namespace: *namespace, id: text(id)? })
            }
            _ => Ok(Named { namespace: of_token, id: text(bytes)? }),
        }
    }
}

/// Begin to end a batch of a mount's leases, from a place in its index on. True: there may be more.
pub fn end_of_mount(tx: &mut Tx, mount: &[u8; 16], cursor: &mut Vec<u8>) -> Result<bool> {
    let start = if cursor.is_empty() { mount.to_vec() } else { [&cursor[..], &[0]].concat() };
    let end = holdfast_storage::prefix_end(mount).unwrap_or_default();
    let found = tx.within(SYSTEM, |tx| tx.ordered(LEASES_OF_MOUNT, &start, &end, BATCH))?;
    for (key, id) in &found {
        take_out(tx, &text(id)?)?;
        cursor.clone_from(key);
    }
    Ok(found.len() == BATCH)
}

/// Leases of a mount, at most `limit`.
pub fn of_mount(tx: &mut Tx, mount: &[u8; 16], limit: usize) -> Result<Vec<EngineLease>> {
    let end = holdfast_storage::prefix_end(mount).unwrap_or_default();
    let found = tx.within(SYSTEM, |tx| tx.ordered(LEASES_OF_MOUNT, mount, &end, limit))?;
    let mut leases = Vec::with_capacity(found.len());
    for (_, id) in found {
        if let Some(Of::Engine(lease)) = find(tx, &text(&id)?)? {
            leases.push(*lease);
        }
    }
    Ok(leases)
}

/// Leases that could not be ended, behind a key of their index, with the intents that gave up.
pub fn irrevocable(tx: &mut Tx, after: &[u8], limit: usize) -> Result<Vec<(intents::Key, EngineLease)>> {
    let start = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
    let found = tx.within(SYSTEM, |tx| tx.ordered(IRREVOCABLE, &start, &[], limit))?;
    let mut leases = Vec::with_capacity(found.len());
    for (key, id) in found {
        if let Some(Of::Engine(lease)) = find(tx, &text(&id)?)? {
            leases.push((intents::Key::read(&key)?, *lease));
        }
    }
    Ok(leases)
}

/// How many leases of each mount could not be ended, up to a bound for all.
pub fn count_irrevocable(tx: &mut Tx) -> Result<BTreeMap<[u8; 16], usize>> {
    let mut counts = BTreeMap::new();
    for (key, _) in tx.within(SYSTEM, |tx| tx.ordered(IRREVOCABLE, &[], &[], COUNTED))? {
        *counts.entry(intents::Key::read(&key)?.mount()).or_insert(0) += 1;
    }
    Ok(counts)
}

fn text(id: &[u8]) -> Result<String> {
    String::from_utf8(id.to_vec()).map_err(|_| Error::Internal("an index of leases is broken".into()))
}
