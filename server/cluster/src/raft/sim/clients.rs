//! Clients that write and read through all nodes, and remember what they were answered.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, select};
use holdfast_linear::{Act, Answered, Asked, is_linearizable};
use holdfast_storage::{CommitError, Key, Latch, Proposal, Store, View, Write};
use tokio::sync::oneshot;

use super::node::{Cluster, Flaw, Running, lock};
use crate::read_index::READ_WITHIN;

const CLIENTS: usize = 4;
/// Keys that are in use at a time, acts on one, and of these unknown ones, until another takes its place.
const KEYS: usize = 3;
const ACTS: usize = 60;
const UNKNOWN: usize = 6;
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often what came in between lets a write be judged anew.
const TRIES: u32 = 30;
/// Bytes beside a value, at most, so that entries and snapshots are of some size.
const PADDING: u64 = 400;

/// What became of a request.
enum Outcome {
    Answered(Answered),
    /// For sure.
    NotDone,
    Unknown,
}

struct Used {
    key: Key,
    acts: Mutex<Vec<Act>>,
}

/// What clients do, and what they saw.
pub struct Clients {
    cluster: Arc<Cluster>,
    stop: AtomicBool,
    keys: Mutex<Vec<Arc<Used>>>,
    /// Those that are in use no longer.
    used: Mutex<Vec<Arc<Used>>>,
    values: AtomicU64,
    pub written: AtomicU64,
    pub read: AtomicU64,
    /// Reads that were answered by nodes that stood by.
    pub read_standing_by: AtomicU64,
    /// Any node is asked for reads, and answers them though it stands by.
    anywhere: bool,
    running: AtomicU64,
}

impl Clients {
    /// Let them begin.
    pub fn start(cluster: &Arc<Cluster>, anywhere: bool) -> Arc<Clients> {
        let clients = Arc::new(Clients {
            cluster: cluster.clone(),
            stop: AtomicBool::new(false),
            keys: Mutex::default(),
            used: Mutex::default(),
            values: AtomicU64::new(1),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            read_standing_by: AtomicU64::new(0),
            anywhere,
            running: AtomicU64::new(CLIENTS as u64),
        });
        *lock(&clients.keys) = (0..KEYS).map(|_| clients.new_key()).collect();
        for _ in 0..CLIENTS {
            let client = clients.clone();
            cluster.world.spawn(None, async move {
                client.use_keys().await;
                client.running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        clients
    }

    fn new_key(&self) -> Arc<Used> {
        let n = self.values.fetch_add(1, Ordering::SeqCst);
        Arc::new(Used { key: format!("\x01k{n}").into_bytes().into(), acts: Mutex::default() })
    }

    async fn use_keys(&self) {
        let world = &self.cluster.world;
        let mut seen: HashMap<Key, u64> = HashMap::new();
        while !self.stop.load(Ordering::SeqCst) {
            let pause = world.ms(1, 120);
            world.sleep(pause).await;
            let at = world.below(KEYS as u64) as usize;
            let used = lock(&self.keys)[at].clone();
            let value = self.values.fetch_add(1, Ordering::SeqCst);
            let asked = match world.below(20) {
                0 => Asked::Delete,
                1..8 => Asked::Put { value, cas: None },
                8..12 => Asked::Put { value, cas: Some(seen.get(&used.key).copied().unwrap_or(0)) },
                _ => Asked::Read,
            };
            let any = world.below(self.cluster.count() as u64) as usize;
            let strays = world.chance(30) || (self.anywhere && asked == Asked::Read);
            let node = if strays { any } else { self.cluster.active().unwrap_or(any) };
            match self.act(node, &used, asked).await {
                Some(Answered::Found { version, .. } | Answered::Written { version }) => {
                    seen.insert(used.key.clone(), version);
                }
                Some(_) => {}
                None => world.sleep(Duration::from_millis(50)).await,
            }
            let (all, unknown) = {
                let acts = lock(&used.acts);
                (acts.len(), acts.iter().filter(|a| a.answered == Answered::Unknown).count())
            };
            if all >= ACTS || unknown >= UNKNOWN {
                let mut keys = lock(&self.keys);
                if Arc::ptr_eq(&keys[at], &used) {
                    keys[at] = self.new_key();
                    lock(&self.used).push(used);
                }
            }
        }
    }

    /// Do something with a key and remember it.
    async fn act(&self, node: usize, used: &Used, asked: Asked) -> Option<Answered> {
        let world = &self.cluster.world;
        let begin = world.now();
        let (outcome, standing_by) = self.ask(node, used.key.clone(), asked).await;
        let answered = match outcome {
            Outcome::NotDone => return None,
            Outcome::Unknown => Answered::Unknown,
            Outcome::Answered(answered) => answered,
        };
        // A read that was not answered says nothing.
        if asked == Asked::Read && answered == Answered::Unknown {
            return None;
        }
        match answered {
            Answered::Written { .. } => self.written.fetch_add(1, Ordering::SeqCst),
            _ => self.read.fetch_add(1, Ordering::SeqCst),
        };
        self.read_standing_by.fetch_add(standing_by.into(), Ordering::SeqCst);
        let act = Act { begin, end: world.now(), asked, answered, node, standing_by };
        lock(&used.acts).push(act);
        Some(answered)
    }

    /// Ask a node, which may die meanwhile. True: it stood by.
    async fn ask(&self, node: usize, key: Key, asked: Asked) -> (Outcome, bool) {
        let world = &self.cluster.world;
        let way = world.ms(0, 3);
        world.sleep(way).await;
        let Some(running) = self.cluster.running(node) else { return (Outcome::NotDone, false) };
        let (answered, answer) = oneshot::channel();
        let padding = world.below(PADDING) as usize;
        let here = (self.anywhere && asked == Asked::Read).then(|| self.cluster.clone());
        world.spawn(Some(node), async move {
            let outcome = match here {
                Some(cluster) if !running.is_active() => (read_standing_by(&cluster, node, &running, &key).await, true),
                _ => (serve(&running, key, asked, padding).await, false),
            };
            let _nobody_waits = answered.send(outcome);
        });
        let back = world.ms(0, 3);
        let outcome = match select(answer, world.sleep(PATIENCE)).await {
            Either::Left((Ok(outcome), _)) => outcome,
            Either::Left((Err(_), _)) | Either::Right(_) => (Outcome::Unknown, false),
        };
        world.sleep(back).await;
        outcome
    }

    /// Let them end, look at everything once more, and see whether all of it was right.
    pub async fn end(&self) {
        let world = &self.cluster.world;
        self.stop.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) > 0 {
            world.sleep(Duration::from_millis(50)).await;
        }
        let mut keys = std::mem::take(&mut *lock(&self.used));
        keys.append(&mut lock(&self.keys));
        for used in &keys {
            let mut tries = 0;
            loop {
                let active = self.cluster.active();
                if let Some(node) = active
                    && self.act(node, used, Asked::Read).await.is_some()
                {
                    break;
                }
                tries += 1;
                if tries > 200 {
                    return self.cluster.is_wrong("nothing is answered though all is well again".into());
                }
                world.sleep(Duration::from_millis(100)).await;
            }
        }
        for used in keys {
            let mut acts = lock(&used.acts);
            if !is_linearizable(&acts) {
                acts.sort_by_key(|a| a.begin);
                let lines: Vec<String> = acts.iter().map(ToString::to_string).collect();
                let key = String::from_utf8_lossy(&used.key[1..]).into_owned();
                self.cluster.is_wrong(format!("{key} is no register:\n{}", lines.join("\n")));
            }
        }
    }
}

/// A register as it is stored: version, whether there is a value, the value, and something beside.
fn register(bytes: Option<&[u8]>) -> (u64, Option<u64>) {
    let number = |at: usize| bytes.and_then(|b| b.get(at..at + 8)?.try_into().ok()).map_or(0, u64::from_be_bytes);
    (number(0), bytes.filter(|b| b[8] == 1).map(|_| number(9)))
}

fn stored(version: u64, value: Option<u64>, padding: usize) -> Vec<u8> {
    let mut bytes = version.to_be_bytes().to_vec();
    bytes.push(u8::from(value.is_some()));
    bytes.extend_from_slice(&value.unwrap_or(0).to_be_bytes());
    bytes.resize(bytes.len() + padding, 7);
    bytes
}

/// What is written and answered, from what is there.
fn judge(asked: Asked, (version, value): (u64, Option<u64>)) -> (Option<(u64, Option<u64>)>, Answered) {
    match asked {
        Asked::Read => (None, Answered::Found { version, value }),
        Asked::Put { cas: Some(cas), .. } if cas != version => (None, Answered::Refused),
        Asked::Put { value, .. } => (Some((version + 1, Some(value))), Answered::Written { version: version + 1 }),
        Asked::Delete => (Some((version, None)), Answered::Deleted),
    }
}

/// Answer a read at a node that stands by, as `read_index` does it.
async fn read_standing_by(cluster: &Arc<Cluster>, node: usize, running: &Running, key: &Key) -> Outcome {
    let read = async {
        let (leader, _) = running.group.lead().leader?;
        let leader = (0..cluster.count()).find(|n| cluster.name(*n) == leader && *n != node)?;
        let (_, has) = running.group.applied();
        let index = match running.flaw {
            Flaw::StandbysAskNobody => has,
            _ => index_of(cluster.clone(), (node, leader), has).await?,
        };
        running.group.is_applied(index).await.then_some(())?;
        let found = running.store.view().get(key).ok()?;
        Some(judge(Asked::Read, register(found.as_deref())).1)
    };
    match select(pin!(read), cluster.world.sleep(READ_WITHIN)).await {
        Either::Left((Some(answered), _)) => Outcome::Answered(answered),
        // It would be passed on.
        Either::Left((None, _)) | Either::Right(_) => Outcome::NotDone,
    }
}

/// What the leader names, if its answer comes.
async fn index_of(cluster: Arc<Cluster>, (from, to): (usize, usize), has: u64) -> Option<u64> {
    let (answered, answer) = oneshot::channel();
    let world = cluster.world.clone();
    world.spawn(None, async move {
        if !cluster.network.carry(from, to).await {
            return;
        }
        let Some(leader) = cluster.running(to) else { return };
        let (said, heard) = oneshot::channel();
        cluster.world.spawn(Some(to), async move {
            let _nobody_waits = said.send(leader.index_for_readers(has).await);
        });
        let Ok(index) = heard.await else { return };
        if cluster.network.carry(to, from).await {
            let _nobody_waits = answered.send(index);
        }
    });
    answer.await.ok().flatten()
}

/// Answer a client, with transactions as the core runs them: again after a conflict, then with a latch and through
/// what is in flight.
async fn serve(running: &Running, key: Key, asked: Asked, padding: usize) -> Outcome {
    if !running.is_active() {
        return Outcome::NotDone;
    }
    let store = &running.store;
    let mut contended = false;
    for _ in 0..TRIES {
        let latch = if contended { Some(store.latch(std::slice::from_ref(&key)).await) } else { None };
        let view = if latch.is_some() { store.view_in_flight() } else { store.view() };
        match once(store, view, latch, &key, asked, padding).await {
            Ok(answered) => return Outcome::Answered(answered),
            Err(CommitError::Conflict(_)) => contended = true,
            Err(CommitError::Retry) => {}
            Err(CommitError::Unknown(_)) => return Outcome::Unknown,
            Err(e) => {
                tracing::debug!("{asked:?} is not done: {e}");
                return Outcome::NotDone;
            }
        }
    }
    Outcome::NotDone
}

async fn once(
    store: &Store,
    view: View,
    latch: Option<Latch>,
    key: &Key,
    asked: Asked,
    padding: usize,
) -> Result<Answered, CommitError> {
    let at = view.index();
    let found = view.get(key).map_err(|e| CommitError::Failed(e.to_string()))?;
    let (written, answered) = judge(asked, register(found.as_deref()));
    if written.is_none() && !view.sees_in_flight() {
        return Ok(answered);
    }
    let put = |(version, value)| Write::Put(key.clone(), stored(version, value, padding).into());
    let proposal = Proposal {
        view_index: at,
        reads: vec![(key.clone(), at)],
        writes: written.into_iter().map(put).collect(),
        ..Proposal::default()
    };
    let ticket = store.propose(proposal)?;
    drop(latch);
    ticket.committed().await?;
    Ok(answered)
}
