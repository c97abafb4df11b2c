//! Whether the devices of the seals would open the store now: they are asked from time to time, by the very act that an
//! unseal needs, so that one which has gone is known before the next start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_sdk::{Error, Map, Timestamp, Value};
use holdfast_seal::Lock;
use holdfast_seal::locks::{LockKind, LockList, Scope};

use crate::seals::{Seal, Seals};
use crate::seals_elsewhere::Elsewhere;
use crate::{Core, Open, random};

/// Between two checks of devices that are well, of one that is not, and until there is something to check.
const EVERY: Duration = Duration::from_secs(600);
const EVERY_IF_NOT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// When the next check is.
#[derive(Default)]
pub(crate) struct SealHealth {
    /// Check now.
    now: tokio::sync::Notify,
}

impl SealHealth {
    pub fn check_now(&self) {
        self.now.notify_one();
    }
}

impl Core {
    /// Check the devices again and again, while this node holds the root key. Runs for as long as the process.
    pub async fn watch_device(self: Arc<Self>) {
        while self.has_device() {
            let wait = match self.check_device().await {
                None => LOOK_AGAIN,
                Some(Ok(())) => EVERY,
                Some(Err(_)) => EVERY_IF_NOT,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.seal_health.now.notified() => {}
            }
        }
    }

    /// Let each seal's device open its lock, and hold what comes out against the root key. The first that does not, if one
    /// does not. None: there is nothing to check: no device, no lock of one, or the node is sealed.
    pub async fn check_device(&self) -> Option<Result<(), String>> {
        let seals = self.seals();
        let list = self.lock_list().ok()??.list;
        if self.seal_migration(&list).is_some() {
            // They are the locks of the device before.
            return None;
        }
        let mut outcome = None;
        for seal in &seals.present {
            let checked = self.check_seal(&seals, seal, &list).await;
            if !matches!(outcome, Some(Err(_))) {
                outcome = checked.or(outcome);
            }
        }
        outcome
    }

    async fn check_seal(&self, seals: &Seals, seal: &Seal, list: &LockList) -> Option<Result<(), String>> {
        let root = self.present_root().ok()??;
        let began = Instant::now();
        let mut refused = None;
        for lock in seals.locks_of(seal, list, self.node_id()) {
            let why = match seal.open(lock, &list.cluster_id).await {
                // One that holds a former root key is opened by its device all the same.
                Ok(found) if lock.stale_since.is_some() || found.ct_eq(root.expose()) => {
                    seal.note(Ok(lock.id), began);
                    self.note_opened(lock);
                    return Some(Ok(()));
                }
                // The root key may have changed meanwhile: the next check tells.
                Ok(_) if self.present_root().ok().flatten().is_none_or(|now| !now.ct_eq(root.expose())) => return None,
                Ok(_) => "its lock holds another root key".to_owned(),
                Err(refusal) if refusal.custodians => {
                    // More cannot be asked of it while it has opened nothing.
                    seal.note_answer(began);
                    return Some(Ok(()));
                }
                Err(refusal) => refusal.text,
            };
            refused.get_or_insert(why);
        }
        let why = refused?;
        if seals.present.len() > 1 && seals.known_lock(seal, list, self.node_id()).is_none() {
            // It has no lock yet, and was asked for those that may be another one's.
            return None;
        }
        seal.note(Err(why.clone()), began);
        Some(Err(why))
    }

    /// How many seals' devices did not open the store when they were asked last.
    pub(crate) fn failing_seals(&self) -> usize {
        self.seals().present.iter().filter(|seal| seal.seen().unhealthy.is_some()).count()
    }

    /// Whether each seal of the configuration has a lock around the present root key, and there are no others. None:
    /// nothing is locked by devices.
    pub(crate) fn is_fully_wrapped(&self) -> Option<bool> {
        let list = self.lock_list().ok()??.list;
        list.device_lock()?;
        Some(self.are_fully_wrapped(&self.seals(), &list))
    }

    fn are_fully_wrapped(&self, seals: &Seals, list: &LockList) -> bool {
        let node = self.node_id();
        let has_lock = |seal: &Arc<Seal>| seals.known_lock(seal, list, node).is_some();
        // A lock that was never opened by its device is not proved to open the store.
        let are_good = list.locks.iter().all(|l| (l.proved || l.needs_custodians()) && l.stale_since.is_none());
        are_good && seals.present.iter().all(has_lock) && self.strays(seals, list).is_empty()
    }

    /// Locks of this node that no seal of the configuration can open.
    pub(crate) fn strays<'l>(&self, seals: &Seals, list: &'l LockList) -> Vec<&'l Lock> {
        let node = self.node_id();
        let known: Vec<_> =
            seals.present.iter().filter_map(|s| seals.known_lock(s, list, node)).map(|l| l.id).collect();
        let mut locks = list.device_locks_of(node);
        locks.retain(|lock| {
            let may_be_ours = seals.present.iter().any(|seal| {
                let has_another = seals.known_lock(seal, list, node).is_some_and(|own| own.id != lock.id);
                seals.may_open(seal, lock, node) && !has_another
            });
            self.is_surely_own(&lock.scope) && !known.contains(&lock.id) && !may_be_ours
        });
        locks
    }

    /// Each lock of the store, and how the seals of this node are.
    pub(crate) async fn seal_backends(&self, open: &Open) -> Result<Map<String, Value>, Error> {
        let (list, seals, node) = (self.own_locks(open)?, self.seals(), self.node_id());
        let elsewhere = self.seals_elsewhere(&list, open).await?;
        let seal_of = |lock: &Lock| {
            let is_its = |seal: &&Arc<Seal>| seals.known_lock(seal, &list, node).is_some_and(|own| own.id == lock.id);
            seals.present.iter().find(is_its)
        };
        let strays: Vec<[u8; 16]> = self.strays(&seals, &list).iter().map(|lock| lock.id).collect();
        let mut backends: Vec<Value> = Vec::new();
        for lock in &list.locks {
            let mut m = shown(lock);
            match seal_of(lock) {
                // Shares are with people, and other nodes' devices are theirs.
                None => drop(m.insert("checked_here".into(), false.into())),
                Some(seal) => add_health(&mut m, seal),
            }
            if strays.contains(&lock.id) {
                m.insert("configured".into(), false.into());
            }
            let is_known = m.get("last_opened").is_some_and(|at| !at.is_null());
            if !is_known
                && lock.may_be_of(node)
                && let Some(hour) = self.last_opened.at(lock)
            {
                // Before this start, or by people.
                m.insert("last_opened".into(), hour.rfc3339().into());
            }
            let told = elsewhere.as_ref().map(|others| others.of_lock(&lock.id)).filter(|told| !told.is_empty());
            if let Some(told) = told {
                m.insert("nodes".into(), told.into());
            }
            backends.push(Value::Object(m));
        }
        for seal in &seals.present {
            if seals.known_lock(seal, &list, node).is_none() {
                let mut m = Map::new();
                m.insert("name".into(), seal.shown().into());
                m.insert("type".into(), seal.device.backend().into());
                m.insert("priority".into(), seal.priority.into());
                m.insert("wrapped".into(), false.into());
                add_health(&mut m, seal);
                backends.push(Value::Object(m));
            }
        }
        backends.extend(elsewhere.iter().flat_map(Elsewhere::without_lock));
        let mut unhealthy: Vec<Timestamp> =
            seals.present.iter().filter_map(|seal| seal.seen().unhealthy).map(|(since, _)| since).collect();
        unhealthy.sort();
        let mut m = Map::new();
        m.insert("healthy".into(), unhealthy.is_empty().into());
        if let Some(since) = unhealthy.first() {
            m.insert("unhealthy_since".into(), since.rfc3339().into());
        }
        if let Some(others) = &elsewhere {
            m.insert("healthy_elsewhere".into(), others.is_healthy().into());
            m.insert("silent_nodes".into(), Value::Object(others.silent()));
        }
        m.insert("fully_wrapped".into(), self.are_fully_wrapped(&seals, &list).into());
        m.insert("minimum_lock".into(), list.minimum.word().into());
        m.insert("backends".into(), backends.into());
        Ok(m)
    }
}

fn shown(lock: &Lock) -> Map<String, Value> {
    let mut m = Map::new();
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    let kind = match &lock.kind {
        LockKind::Device { backend } => backend.as_str(),
        LockKind::Shares { shares, threshold } => {
            set("shares", (*shares).into());
            set("threshold", (*threshold).into());
            "shamir"
        }
    };
    let name = lock.name.as_deref().unwrap_or(if lock.key_label.is_empty() { kind } else { &lock.key_label });
    set("name", name.into());
    set("type", kind.into());
    set("id", random::uuid_text(&lock.id).into());
    set("priority", lock.priority.into());
    set("mechanism", lock.mechanism.clone().into());
    if !lock.key_label.is_empty() || !lock.key_id.is_empty() {
        set("key_label", lock.key_label.clone().into());
        set("key_id", lock.key_id.clone().into());
    }
    set("created", Timestamp::from_secs(lock.created).rfc3339().into());
    set("proved", lock.proved.into());
    if lock.needs_custodians() {
        set("needs_custodians", true.into());
    }
    set("wrapped", lock.stale_since.is_none().into());
    if let Some(since) = lock.stale_since {
        set("stale_since", Timestamp::from_secs(since).rfc3339().into());
    }
    if let Scope::Node(node) = &lock.scope {
        set("node", node.clone().into());
    }
    m
}

/// How a seal of this node's configuration is.
fn add_health(m: &mut Map<String, Value>, seal: &Seal) {
    let seen = seal.seen();
    let time = |t: Option<Timestamp>| t.map_or(Value::Null, |t| t.rfc3339().into());
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    set("checked_here", true.into());
    set("configured", true.into());
    set("disabled", false.into());
    set("healthy", seen.unhealthy.is_none().into());
    set("last_opened", time(seen.opened));
    set("last_checked", time(seen.checked));
    set("last_check_ms", (seen.took.as_micros() as f64 / 1000.0).into());
    let place = seal.device.place();
    if !place.is_empty() {
        set("place", place.into());
    }
    if let Some((since, why)) = &seen.unhealthy {
        set("unhealthy_since", since.rfc3339().into());
        set("last_error", why.clone().into());
    }
}
