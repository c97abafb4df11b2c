//! Clients that write and read through all nodes while things go wrong, and remember what they were answered.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_linear::{Act, Answered, Asked, is_linearizable, is_stale_by};
use serde_json::json;

use holdfast_tests::{Client, Reply, until};

use crate::cluster::nodes::{Nodes, WITHIN};
use holdfast_random::Random;

/// Clients of keys.
const CLIENTS: u64 = 5;
/// Keys that are in use at a time, acts on one, and of these unknown ones, until another takes its place: a checker
/// has to find an order of all of them.
const KEYS: usize = 3;
const ACTS: usize = 100;
const UNKNOWN: usize = 8;
/// No answer takes longer than the server lets a request wait, and some.
const PATIENCE: Duration = Duration::from_secs(25);
/// How an answer says that nobody knows whether it was done.
const UNKNOWN_SAID: [&str; 2] = ["unknown", "not known"];
/// What is said where no audit device took the line.
const REFUSED: &str = "internal error";
/// Between two tokens, or mounts.
const PAUSE: Duration = Duration::from_millis(150);

/// What clients do, and what they saw.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

struct Shared {
    began: Instant,
    stop: AtomicBool,
    /// Whoever acts holds it.
    going: RwLock<()>,
    keys: Mutex<Vec<Arc<Key>>>,
    /// Those that are in use no longer.
    used: Mutex<Vec<Arc<Key>>>,
    values: AtomicU64,
    /// Writes that were acknowledged.
    written: AtomicU64,
    unknown: AtomicU64,
    /// Reads that nodes answered while they stood by, and how stale these may be.
    by_standbys: AtomicU64,
    stale: Option<Duration>,
    /// Good tokens, revoked ones, and mounts, as they were acknowledged.
    tokens: Mutex<Vec<String>>,
    revoked: Mutex<Vec<String>>,
    mounts: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
    /// An audit log cannot be synced somewhere, so that a request is refused, or done and not answered.
    audit_fails: AtomicBool,
}

struct Key {
    name: String,
    acts: Mutex<Vec<Act>>,
}

/// What became of a request.
enum Outcome {
    Answered(Reply),
    /// For sure.
    NotDone,
    Unknown,
}

impl Shared {
    fn new_key(&self) -> Arc<Key> {
        let n = self.values.fetch_add(1, Ordering::SeqCst);
        Arc::new(Key { name: format!("secret/data/k{n}"), acts: Mutex::default() })
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn is_wrong(&self, what: String) {
        eprintln!("{:8.3} WRONG: {what}", self.began.elapsed().as_secs_f64());
        self.wrong.lock().unwrap().push(what);
    }

    fn judge(&self, what: &str, reply: io::Result<Reply>) -> Outcome {
        let reply = match reply {
            Ok(reply) => reply,
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Outcome::NotDone,
            Err(_) => return Outcome::Unknown,
        };
        match reply.status {
            500 | 503 if UNKNOWN_SAID.iter().any(|said| reply.text().contains(said)) => Outcome::Unknown,
            500 if self.audit_fails.load(Ordering::SeqCst) && reply.text().contains(REFUSED) => Outcome::Unknown,
            // 507: a full disk, which was noticed before anything was written.
            503 | 507 => Outcome::NotDone,
            200 | 204 | 400 | 403 | 404 => Outcome::Answered(reply),
            status => {
                self.is_wrong(format!("{what}: {status}: {}", reply.text()));
                Outcome::Unknown
            }
        }
    }

    /// Do something with a key and remember it.
    fn act(&self, client: &Client, node: usize, key: &Key, asked: Asked) -> Option<Answered> {
        let begin = self.began.elapsed();
        let reply = match asked {
            Asked::Read => client.try_call("GET", &key.name, None),
            Asked::Delete => client.try_call("DELETE", &key.name, None),
            Asked::Put { value, cas } => {
                let options = cas.map_or(json!({}), |cas| json!({ "cas": cas }));
                client.try_call("POST", &key.name, Some(&json!({"data": {"v": value}, "options": options})))
            }
        };
        let standing_by = reply.as_ref().is_ok_and(|r| asked == Asked::Read && is_by_standby(r));
        let answered = match self.judge(&key.name, reply) {
            Outcome::NotDone => return None,
            Outcome::Unknown => {
                self.unknown.fetch_add(1, Ordering::SeqCst);
                Answered::Unknown
            }
            Outcome::Answered(reply) => self.answered(asked, &reply),
        };
        // A read that was not answered says nothing.
        if asked == Asked::Read && answered == Answered::Unknown {
            return None;
        }
        if matches!(answered, Answered::Written { .. }) {
            self.written.fetch_add(1, Ordering::SeqCst);
        }
        let end = self.began.elapsed();
        self.by_standbys.fetch_add(standing_by.into(), Ordering::SeqCst);
        key.acts.lock().unwrap().push(Act { begin, end, asked, answered, node, standing_by });
        Some(answered)
    }

    fn answered(&self, asked: Asked, reply: &Reply) -> Answered {
        let number = |pointer| reply.json().pointer(pointer).and_then(serde_json::Value::as_u64);
        match (asked, reply.status) {
            (Asked::Read, 200 | 404) => {
                let version = number("/data/metadata/version").unwrap_or(0);
                Answered::Found { version, value: number("/data/data/v") }
            }
            (Asked::Put { .. }, 200) => Answered::Written { version: number("/data/version").unwrap_or(0) },
            (Asked::Put { cas: Some(_), .. }, 400) if reply.text().contains("check-and-set") => Answered::Refused,
            (Asked::Delete, 204) => Answered::Deleted,
            (_, status) => {
                self.is_wrong(format!("{asked:?}: {status}: {}", reply.text()));
                Answered::Unknown
            }
        }
    }

    fn use_keys(&self, clients: &[Client], random: &mut Random) {
        let mut seen: HashMap<String, u64> = HashMap::new();
        while !self.is_over() {
            let _going = self.going.read().unwrap_or_else(PoisonError::into_inner);
            let at = random.index(KEYS);
            let key = self.keys.lock().unwrap()[at].clone();
            let value = self.values.fetch_add(1, Ordering::SeqCst);
            let asked = match random.index(20) {
                0 => Asked::Delete,
                1..8 => Asked::Put { value, cas: None },
                8..12 => Asked::Put { value, cas: Some(seen.get(&key.name).copied().unwrap_or(0)) },
                _ => Asked::Read,
            };
            let node = random.index(clients.len());
            match self.act(&clients[node], node, &key, asked) {
                Some(Answered::Found { version, .. } | Answered::Written { version }) => {
                    seen.insert(key.name.clone(), version);
                }
                Some(_) => {}
                None => thread::sleep(Duration::from_millis(20)),
            }
            let (all, unknown) = {
                let acts = key.acts.lock().unwrap();
                (acts.len(), acts.iter().filter(|a| a.answered == Answered::Unknown).count())
            };
            if all >= ACTS || unknown >= UNKNOWN {
                let mut keys = self.keys.lock().unwrap();
                if Arc::ptr_eq(&keys[at], &key) {
                    keys[at] = self.new_key();
                    self.used.lock().unwrap().push(key);
                }
            }
        }
    }

    /// Make tokens and revoke some: good everywhere as long as they are, and nowhere afterwards.
    fn use_tokens(&self, clients: &[Client], random: &mut Random) {
        while !self.is_over() {
            thread::sleep(PAUSE);
            let _going = self.going.read().unwrap_or_else(PoisonError::into_inner);
            // One without an end: clocks jump here.
            let made = clients[random.index(clients.len())].try_call("POST", "auth/token/create", Some(&json!({})));
            let Outcome::Answered(made) = self.judge("auth/token/create", made) else { continue };
            let token = made.text_at("/auth/client_token");
            for node in [random.index(clients.len()), random.index(clients.len())] {
                let reply = clients[node].with_token(&token).try_call("GET", "auth/token/lookup-self", None);
                if let Outcome::Answered(reply) = self.judge("auth/token/lookup-self", reply)
                    && reply.status != 200
                {
                    self.is_wrong(format!("node {node} does not know a token: {}: {}", reply.status, reply.text()));
                }
            }
            if random.index(3) == 0 {
                self.tokens.lock().unwrap().push(token);
                continue;
            }
            let revoked = clients[random.index(clients.len())].try_call(
                "POST",
                "auth/token/revoke",
                Some(&json!({ "token": token })),
            );
            match self.judge("auth/token/revoke", revoked) {
                Outcome::Answered(reply) if reply.status == 204 => {}
                Outcome::Answered(reply) => {
                    self.is_wrong(format!("a good token is not revoked: {}: {}", reply.status, reply.text()));
                    continue;
                }
                _ => continue,
            }
            // Where reads may be stale, it is looked at in the end.
            let at_once = clients.iter().enumerate().filter(|_| self.stale.is_none());
            for (node, client) in at_once {
                let reply = client.with_token(&token).try_call("GET", "auth/token/lookup-self", None);
                if let Outcome::Answered(reply) = self.judge("auth/token/lookup-self", reply)
                    && reply.status != 403
                {
                    self.is_wrong(format!("node {node} takes a revoked token: {}", reply.status));
                }
            }
            self.revoked.lock().unwrap().push(token);
        }
    }

    fn make_mounts(&self, clients: &[Client], random: &mut Random) {
        while !self.is_over() {
            thread::sleep(PAUSE * 5);
            let _going = self.going.read().unwrap_or_else(PoisonError::into_inner);
            let name = format!("m{}", self.values.fetch_add(1, Ordering::SeqCst));
            let client = &clients[random.index(clients.len())];
            let made = client.try_call("POST", &format!("sys/mounts/{name}"), Some(&json!({"type": "kv"})));
            match self.judge(&name, made) {
                Outcome::Answered(reply) if reply.status == 204 => self.mounts.lock().unwrap().push(name),
                Outcome::Answered(reply) => self.is_wrong(format!("{name}: {}: {}", reply.status, reply.text())),
                _ => {}
            }
        }
    }
}

/// Only reads of nodes that stand by name the state that they have read.
fn is_by_standby(reply: &Reply) -> bool {
    reply.status == 200 && reply.header("x-vault-index").is_some()
}

impl Clients {
    /// Let them begin. `stale`: by how much nodes that stand by may be behind.
    pub fn start(nodes: &Nodes, seed: u64, stale: Option<Duration>) -> Clients {
        nodes.put(0, "sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}}));
        let root = nodes.root(0);
        until(WITHIN, "version 2", || root.try_call("GET", "secret/data/none", None).ok().filter(|r| r.status == 404));
        let shared = Arc::new(Shared {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            going: RwLock::default(),
            keys: Mutex::default(),
            used: Mutex::default(),
            values: AtomicU64::new(1),
            written: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            by_standbys: AtomicU64::new(0),
            stale,
            tokens: Mutex::default(),
            revoked: Mutex::default(),
            mounts: Mutex::default(),
            wrong: Mutex::default(),
            audit_fails: AtomicBool::new(false),
        });
        *shared.keys.lock().unwrap() = (0..KEYS).map(|_| shared.new_key()).collect();
        let threads = (0..CLIENTS + 2).map(|n| {
            let shared = shared.clone();
            let clients: Vec<Client> = nodes.roots().into_iter().map(|c| c.patient_for(PATIENCE)).collect();
            let mut random = Random::new(seed.wrapping_mul(31).wrapping_add(n));
            thread::spawn(move || match n {
                0 => shared.use_tokens(&clients, &mut random),
                1 => shared.make_mounts(&clients, &mut random),
                _ => shared.use_keys(&clients, &mut random),
            })
        });
        let threads = threads.collect();
        Clients { shared, threads }
    }

    /// Nobody acts for as long as what is returned lives. What was not answered may still be carried out.
    pub fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared.going.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an audit log cannot be synced somewhere.
    pub fn audit_fails(&self, fails: bool) {
        self.shared.audit_fails.store(fails, Ordering::SeqCst);
    }

    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::SeqCst)
    }

    pub fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Let them end, look at everything once more through all nodes, and say what was wrong.
    pub fn end(self, nodes: &Nodes) -> Vec<String> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        let shared = self.shared;
        let clients: Vec<Client> = nodes.roots().into_iter().map(|c| c.patient_for(PATIENCE)).collect();
        let mut keys = std::mem::take(&mut *shared.used.lock().unwrap());
        keys.append(&mut shared.keys.lock().unwrap());
        for key in &keys {
            for (node, client) in clients.iter().enumerate() {
                until(WITHIN, "a last read", || shared.act(client, node, key, Asked::Read));
            }
        }
        for key in &keys {
            let mut acts = key.acts.lock().unwrap();
            let is_right = match shared.stale {
                None => is_linearizable(&acts),
                Some(bound) => is_stale_by(&acts, bound),
            };
            if !is_right {
                acts.sort_by_key(|a| a.begin);
                let lines: Vec<String> = acts.iter().map(ToString::to_string).collect();
                shared.is_wrong(format!("{} is no register:\n{}", key.name, lines.join("\n")));
            }
        }
        shared.look_again(&clients);
        let count = |list: &Mutex<Vec<String>>| list.lock().unwrap().len();
        let by_standbys = shared.by_standbys.load(Ordering::SeqCst);
        if by_standbys == 0 {
            shared.is_wrong("no node that stood by has answered a read".into());
        }
        eprintln!(
            "{} keys, {by_standbys} reads by nodes that stood by, {} writes acknowledged, {} unknown; {} tokens good, \
             {} revoked; {} mounts",
            keys.len(),
            shared.written.load(Ordering::SeqCst),
            shared.unknown.load(Ordering::SeqCst),
            count(&shared.tokens),
            count(&shared.revoked),
            count(&shared.mounts)
        );
        std::mem::take(&mut *shared.wrong.lock().unwrap())
    }
}

impl Shared {
    /// Tokens and mounts, through all nodes.
    fn look_again(&self, clients: &[Client]) {
        let over = Instant::now() + self.stale.unwrap_or_default();
        for (node, client) in clients.iter().enumerate() {
            let answer = |token: &str| {
                until(WITHIN, "an answer", || {
                    let reply = client.with_token(token).try_call("GET", "auth/token/lookup-self", None);
                    match self.judge("auth/token/lookup-self", reply) {
                        Outcome::Answered(reply) => Some(reply.status),
                        _ => None,
                    }
                })
            };
            for token in self.tokens.lock().unwrap().iter() {
                if answer(token) != 200 {
                    self.is_wrong(format!("node {node} has lost a token"));
                }
            }
            for token in self.revoked.lock().unwrap().iter() {
                while answer(token) != 403 {
                    if Instant::now() > over {
                        self.is_wrong(format!("node {node} takes a token that was revoked long ago"));
                        break;
                    }
                }
            }
            let mounts = until(WITHIN, "the mounts", || {
                client.try_call("GET", "sys/mounts", None).ok().filter(|r| r.status == 200)
            });
            for name in self.mounts.lock().unwrap().iter() {
                if mounts.json().pointer(&format!("/data/{name}~1")).is_none() {
                    self.is_wrong(format!("node {node} has lost the mount {name}"));
                }
            }
        }
    }
}
