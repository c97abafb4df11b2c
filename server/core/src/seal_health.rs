//! Whether the seal's device would open the store now: it is asked from time to time, by the very act that an unseal
//! needs, so that one which has gone is known before the next start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_sdk::{Error, Map, Timestamp, Value};
use holdfast_seal::Lock;
use holdfast_seal::locks::{self, LockKind, Scope};

use crate::{Core, Open, clock, random};

/// Between two checks of a device that is well, of one that is not, and until there is something to check.
const EVERY: Duration = Duration::from_secs(600);
const EVERY_IF_NOT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is known of this node's device.
#[derive(Default)]
pub(crate) struct SealHealth {
    seen: Mutex<Seen>,
    /// Check now.
    now: tokio::sync::Notify,
}

/// The last check of the device.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// When it opened its lock last.
    pub opened: Option<Timestamp>,
    pub checked: Option<Timestamp>,
    /// How long it took.
    pub took: Duration,
    /// Since when it does not, and why.
    pub unhealthy: Option<(Timestamp, String)>,
}

impl SealHealth {
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn check_now(&self) {
        self.now.notify_one();
    }

    /// What came of asking the device.
    pub fn note(&self, outcome: Result<(), String>, took: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        (seen.checked, seen.took) = (Some(now), took);
        match outcome {
            Ok(()) => {
                if seen.unhealthy.take().is_some() {
                    tracing::info!("the seal's device is well again");
                }
                seen.opened = Some(now);
            }
            Err(why) => {
                if seen.unhealthy.as_ref().is_none_or(|(_, before)| *before != why) {
                    tracing::error!("the seal's device would not open the store: {why}");
                }
                let since = seen.unhealthy.as_ref().map_or(now, |(since, _)| *since);
                seen.unhealthy = Some((since, why));
            }
        }
    }
}

impl Core {
    /// Check the device again and again, while this node holds the root key. Runs for as long as the process.
    pub async fn watch_device(self: Arc<Self>) {
        while self.options.device.is_some() {
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

    /// Let the device open its lock, and hold what comes out against the root key. None: there is nothing to check:
    /// no device, no lock of it, or the node is sealed.
    pub async fn check_device(&self) -> Option<Result<(), String>> {
        let device = self.options.device.clone()?;
        let list = self.lock_list().ok()??.list;
        let wanted = list.device_lock_of(self.node_id())?.clone();
        if self.seal_migration(&list).is_some() {
            // It is the lock of the device before.
            return None;
        }
        let root = self.present_root().ok()??;
        let cluster_id = list.cluster_id;
        let began = Instant::now();
        let opened =
            tokio::task::spawn_blocking(move || device.unwrap(&wanted, &locks::wrap_context(&cluster_id, &wanted.id)));
        let outcome = match opened.await {
            Ok(Ok(found)) if found.ct_eq(root.expose()) => Ok(()),
            // The root key may have changed meanwhile: the next check tells.
            Ok(Ok(_)) if self.present_root().ok().flatten().is_some_and(|now| !now.ct_eq(root.expose())) => {
                return None;
            }
            Ok(Ok(_)) => Err("its lock holds another root key".to_owned()),
            Ok(Err(refusal)) => Err(refusal.text),
            Err(e) => Err(e.to_string()),
        };
        self.seal_health.note(outcome.clone(), began.elapsed());
        Some(outcome)
    }

    /// Each lock of the store, and how the one of this node's device is.
    pub(crate) fn seal_backends(&self, open: &Open) -> Result<Map<String, Value>, Error> {
        let list = self.own_locks(open)?;
        let own = list.device_lock_of(self.node_id()).map(|lock| lock.id);
        let seen = self.seal_health.seen();
        let backends: Vec<Value> =
            list.locks.iter().map(|lock| Value::Object(shown(lock, (own == Some(lock.id)).then_some(&seen)))).collect();
        let mut m = Map::new();
        m.insert("healthy".into(), seen.unhealthy.is_none().into());
        if let Some((since, _)) = &seen.unhealthy {
            m.insert("unhealthy_since".into(), since.rfc3339().into());
        }
        // A lock that was never opened by its device is not proved to open the store.
        m.insert("fully_wrapped".into(), list.locks.iter().all(|lock| lock.proved).into());
        m.insert("backends".into(), backends.into());
        Ok(m)
    }
}

fn shown(lock: &Lock, seen: Option<&Seen>) -> Map<String, Value> {
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
    set("name", if lock.key_label.is_empty() { kind.into() } else { lock.key_label.clone().into() });
    set("type", kind.into());
    set("id", random::uuid_text(&lock.id).into());
    set("priority", lock.priority.into());
    set("mechanism", lock.mechanism.clone().into());
    set("created", Timestamp::from_secs(lock.created).rfc3339().into());
    set("proved", lock.proved.into());
    if let Scope::Node(node) = &lock.scope {
        set("node", node.clone().into());
    }
    match seen {
        // Shares are with people, and other nodes' devices are theirs: nothing is known of them here.
        None => set("checked_here", false.into()),
        Some(seen) => {
            let time = |t: Option<Timestamp>| t.map_or(Value::Null, |t| t.rfc3339().into());
            set("checked_here", true.into());
            set("healthy", seen.unhealthy.is_none().into());
            set("last_opened", time(seen.opened));
            set("last_checked", time(seen.checked));
            set("last_check_ms", (seen.took.as_micros() as f64 / 1000.0).into());
            if let Some((since, why)) = &seen.unhealthy {
                set("unhealthy_since", since.rfc3339().into());
                set("last_error", why.clone().into());
            }
        }
    }
    m
}
