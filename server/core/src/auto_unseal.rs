//! Unsealing by devices: they are asked by their priority, and one that is away does not hold up the others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_hsm::memory::Key;
use holdfast_seal::locks::{LockList, ReadList};
use holdfast_seal::{DeviceRefusal, Lock};
use tokio::task::JoinSet;

use crate::Core;
use crate::seal_migration::Migration;
use crate::seal_state::{Refusal, lock};
use crate::seals::{Seal, Seals};

/// Waits between two rounds of devices that do not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a seal's device has before the next one is asked too.
const HEAD_START: Duration = Duration::from_secs(3);

/// Why no device opens the store.
struct Trouble {
    text: String,
    /// Asking again by itself may help.
    retry: bool,
}

impl Trouble {
    fn once_more(text: impl Into<String>) -> Trouble {
        Trouble { text: text.into(), retry: true }
    }
}

/// Seals that are not asked again until somebody says so, and what they said: a wrong PIN is not tried twice.
type GivenUp = Vec<(Arc<Seal>, String)>;

/// Seals with the locks that they may open, and seals whose locks are of no use.
type Candidates = (Vec<(Arc<Seal>, Vec<Lock>)>, Vec<Arc<Seal>>);

/// What is said of a lock that was not made anew with the others.
const STALE: &str = "its lock holds a former root key, since its device was away when that was made anew: let another seal open \
                     the store, then run operator seal rewrap";

/// What a device made of the locks that it may open.
struct Asked {
    seal: Arc<Seal>,
    began: Instant,
    opened: Result<(Key, [u8; 16]), DeviceRefusal>,
}

impl Core {
    /// Ask the devices until one opens the store. Runs for as long as the process.
    pub async fn unseal_with_device(self: Arc<Self>) {
        if !self.has_device() {
            if let Some(migration) = self.waits_for_migration() {
                tracing::warn!("{migration}");
            }
            return;
        }
        let (mut wait, mut said) = (RETRY.0, None);
        let mut given_up = GivenUp::new();
        loop {
            if let Some(migration) = self.waits_for_migration() {
                // Holders have to agree first; the new device is asked when they have.
                if said.as_ref() != Some(&migration) {
                    tracing::warn!("{migration}");
                    *lock(&self.seal.device_trouble) = None;
                    said = Some(migration);
                }
            } else if !self.is_unsealed() && !self.seal.sealed_by_hand.load(Ordering::SeqCst) {
                match self.try_devices(&mut given_up).await {
                    Ok(()) => wait = RETRY.0,
                    Err(Trouble { text, retry }) => {
                        if lock(&self.seal.device_trouble).as_deref() != Some(text.as_str()) {
                            tracing::error!("{text}");
                        }
                        *lock(&self.seal.device_trouble) = Some(text);
                        if !retry {
                            // A wrong PIN is not tried again by itself: tokens lock.
                            self.seal.retry.notified().await;
                            given_up.clear();
                            continue;
                        }
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.seal.retry.notified() => {
                    given_up.clear();
                    wait = RETRY.0;
                }
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// The devices may be asked again (a share route or SIGHUP says so).
    pub fn retry_device(&self) {
        self.seal.sealed_by_hand.store(false, Ordering::SeqCst);
        self.seal.retry.notify_one();
        self.seal_health.check_now();
    }

    /// The change of seal that a sealed node waits for.
    fn waits_for_migration(&self) -> Option<Migration> {
        let read = self.lock_list().ok().flatten().filter(|_| !self.is_unsealed())?;
        self.seal_migration(&read.list)
    }

    async fn try_devices(self: &Arc<Self>, given_up: &mut GivenUp) -> Result<(), Trouble> {
        let Some(read) = self.lock_list().map_err(Trouble::once_more)? else { return Ok(()) };
        let seals = self.seals();
        let (candidates, stale) = self.candidates(&seals, &read.list)?;
        given_up.retain(|(seal, _)| seals.present.iter().any(|s| Arc::ptr_eq(s, seal)));
        let fresh: VecDeque<(Arc<Seal>, Vec<Lock>)> = candidates
            .into_iter()
            .filter(|(seal, _)| !given_up.iter().any(|(other, _)| Arc::ptr_eq(other, seal)))
            .collect();
        let several = seals.present.len() > 1;
        let opened = first_to_open(fresh, &read, given_up).await;
        let (root, by) = match opened {
            Ok(opened) => opened,
            Err(refusals) => {
                if self.former_opens_one(&read.list).await {
                    // It is looked at as a migration from here on.
                    return Ok(());
                }
                let retry = refusals.iter().any(|(_, refusal)| refusal.retry);
                let named = |seal: &Seal, text: &str| format!("seal {:?}: {text}", seal.shown());
                let text = match (several, &refusals[..], &given_up[..]) {
                    (false, [(_, refusal)], _) => refusal.text.clone(),
                    (false, [], [(_, text)]) => text.clone(),
                    _ if several => {
                        let stale = stale.iter().map(|seal| named(seal, STALE));
                        let now = refusals.iter().filter(|(_, r)| r.retry).map(|(s, r)| named(s, &r.text));
                        let before = given_up.iter().map(|(s, text)| named(s, text));
                        now.chain(before).chain(stale).collect::<Vec<_>>().join("; ")
                    }
                    _ => "no device was asked".to_owned(),
                };
                return Err(Trouble { text, retry });
            }
        };
        let _one = self.seal.act.lock().await;
        if self.is_unsealed() {
            return Ok(());
        }
        let cause = match &by.name {
            Some(name) => format!("the device of the seal {name:?} opened the store"),
            None => "the device of the seal opened the store".to_owned(),
        };
        self.unlock(root, None, &cause).await.map_err(|Refusal(_, text)| Trouble::once_more(text))?;
        let opened = by.seen().lock;
        if let Some(lock) = read.list.locks.iter().find(|lock| opened == Some(lock.id)) {
            self.note_opened(lock);
        }
        self.tell_strays(&seals, &read.list);
        // Those that were not asked, or did not answer, are looked at now.
        if several {
            self.seal_health.check_now();
        }
        Ok(())
    }

    /// Whom to ask, in order, for which locks; and seals whose locks are of no use at present.
    fn candidates(&self, seals: &Seals, list: &LockList) -> Result<Candidates, Trouble> {
        let node = self.node_id();
        let locks = list.device_locks_of(node);
        let Some(first) = locks.first() else {
            return Err(Trouble::once_more(
                "the store has no lock of a device: unseal it with its shares, or configure seal \"shamir\"",
            ));
        };
        let own = |seal: &Arc<Seal>| {
            let locks = seals.locks_of(seal, list, node).into_iter().filter(|lock| lock.stale_since.is_none());
            (seal.clone(), locks.cloned().collect::<Vec<Lock>>())
        };
        let all: Vec<_> = seals.present.iter().map(own).filter(|(_, locks)| !locks.is_empty()).collect();
        let has_locks = |seal: &&Arc<Seal>| !seals.locks_of(seal, list, node).is_empty();
        let is_asked = |seal: &&Arc<Seal>| all.iter().any(|(asked, _)| Arc::ptr_eq(asked, seal));
        let stale: Vec<Arc<Seal>> =
            seals.present.iter().filter(has_locks).filter(|seal| !is_asked(seal)).cloned().collect();
        match (all.is_empty(), stale.first()) {
            (false, _) => return Ok((all, stale)),
            (true, Some(seal)) => return Err(Trouble::once_more(format!("seal {:?}: {STALE}", seal.shown()))),
            (true, None) => {}
        }
        let configured: Vec<String> = seals.present.iter().map(|s| format!("{:?}", s.device.backend())).collect();
        Err(Trouble::once_more(format!(
            "the store is sealed by {:?}, the configuration says {}: correct the seal stanza, or keep the former one too, \
             with disabled = \"true\", to move the store",
            first.backend().unwrap_or_default(),
            configured.join(", ")
        )))
    }

    /// Say which ways to the store are left whose seal the configuration does not name: an operator who took a stanza
    /// away may believe them gone.
    fn tell_strays(&self, seals: &Seals, list: &LockList) {
        for lock in self.strays(seals, list) {
            tracing::warn!(
                lock = %lock.shown(),
                "the store still opens by a lock that no seal stanza names: operator seal rewrap takes it away, with a new \
                 root key"
            );
        }
        for seal in seals.present.iter().filter(|seal| seals.known_lock(seal, list, self.node_id()).is_none()) {
            tracing::warn!(seal = seal.shown(), "this seal has no lock yet: operator seal rewrap makes it");
        }
    }
}

/// Ask one after the other, the next one as soon as one fails or takes long. Whoever must not be asked again by itself is
/// given up.
async fn first_to_open(
    mut rest: VecDeque<(Arc<Seal>, Vec<Lock>)>,
    read: &ReadList,
    given_up: &mut GivenUp,
) -> Result<(Key, Arc<Seal>), Vec<(Arc<Seal>, DeviceRefusal)>> {
    let cluster_id = read.list.cluster_id;
    let (mut asked, mut refusals) = (JoinSet::new(), Vec::new());
    let mut waits: Vec<(Arc<Seal>, Instant)> = Vec::new();
    loop {
        if asked.len() <= waits.iter().filter(|(_, began)| began.elapsed() >= HEAD_START).count()
            && let Some((seal, locks)) = rest.pop_front()
        {
            waits.push((seal.clone(), Instant::now()));
            asked.spawn(ask(seal, locks, cluster_id));
        }
        let next = waits.last().map_or(HEAD_START, |(_, began)| HEAD_START.saturating_sub(began.elapsed()));
        let ended = tokio::select! {
            ended = asked.join_next() => ended,
            () = tokio::time::sleep(next), if !rest.is_empty() => continue,
        };
        let Asked { seal, began, opened } = match ended {
            None => return Err(refusals),
            // The task gave up with a panic, which is said where it was.
            Some(Err(_)) => continue,
            Some(Ok(asked)) => asked,
        };
        waits.retain(|(other, _)| !Arc::ptr_eq(other, &seal));
        let opened = opened.and_then(|(root, lock)| match read.verify(&root) {
            Ok(()) => Ok((root, lock)),
            Err(e) => Err(DeviceRefusal::new(e.to_string(), true)),
        });
        match &opened {
            Err(refusal) if refusal.custodians => seal.note_answer(began),
            opened => seal.note(opened.as_ref().map(|(_, lock)| *lock).map_err(|e| e.text.clone()), began),
        }
        match opened {
            Ok((root, _)) => {
                for (slow, began) in waits {
                    slow.note(Err("the device has not answered when another one opened the store".into()), began);
                }
                return Ok((root, seal));
            }
            Err(refusal) => {
                if !refusal.retry {
                    given_up.push((seal.clone(), refusal.text.clone()));
                }
                refusals.push((seal, refusal));
            }
        }
    }
}

/// Let a device open one of these locks; else what it said of the likeliest.
async fn ask(seal: Arc<Seal>, locks: Vec<Lock>, cluster_id: [u8; 16]) -> Asked {
    let began = Instant::now();
    let mut refused = None;
    for lock in &locks {
        match seal.open(lock, &cluster_id).await {
            Ok(root) => return Asked { opened: Ok((root, lock.id)), seal, began },
            Err(refusal) => drop(refused.get_or_insert(refusal)),
        }
    }
    let none = || DeviceRefusal::new("it has no lock", true);
    Asked { opened: Err(refused.unwrap_or_else(none)), seal, began }
}
