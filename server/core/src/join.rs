//! Joining a cluster: the newcomer proves that it can unseal what the cluster holds, and each side learns the
//! other's key from somebody who can.
//!
//! The active node makes a random key for the newcomer (the *challenge*) and closes it with what closes the store:
//! the key that the shares make, or the device. The newcomer opens it with the shares that people give it, or with
//! its device, and answers with a MAC over what it is called, where it is and which key it has. The active node
//! adds it to the members, and says who they are under the same key.

mod challenges;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use holdfast_hsm::memory::{Key, Secret};
use holdfast_sdk::{Map, Value};
use holdfast_seal::locks::{LockKind, Scope};
use holdfast_seal::{Lock, locks, shares};
use holdfast_storage::level;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Sha256;

use crate::bare::{strict_bool, strict_object, strict_text};
use crate::cluster::{Change, ChangeError, Cluster, JoinFrom, JoinSecret, Member, Peer};
use crate::join_token::JoinToken;
use crate::seal_state::{Refusal, failed, refuse};
use crate::seals::Seal;
use crate::standing::REMOVED;
use crate::{Answer, Core, auto_join, clock, feature_level, random};

/// Challenges that wait for their answer at most, and for how long each counts.
const CHALLENGES: usize = 64;
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How long the first snapshot may take to come.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(120);
/// Waits between two tries to join.
const RETRY: Duration = Duration::from_secs(2);
/// Between two looks whether the nodes that are named for joining are of this node's cluster, at most.
const COMPARE_AGAIN: Duration = Duration::from_secs(60);
/// A node that has a store already waits for so long to be told of which cluster another one is.
const NAMED_WITHIN: Duration = Duration::from_secs(5);
/// Seals of a node at most.
const MOST_SEALS: usize = 3;
/// Bytes of a node's name at most.
const NAME_BYTES: usize = 128;

/// A challenge that waits for its answer.
struct Asked {
    key: Key,
    /// The boot time when it was made.
    made: Duration,
    /// The join token with whose key it is closed.
    token: Option<String>,
    /// The root key that was given for it.
    given: Option<Arc<Key>>,
}

/// By the newcomer's name.
type Challenges = HashMap<String, Asked>;

/// Both sides of joining.
#[derive(Default)]
pub(crate) struct Joins {
    challenges: Mutex<Challenges>,
    /// The cluster that this node is about to join.
    joining: Mutex<Option<Joining>>,
    /// A node that is named for joining is of another cluster: which.
    foreign: Mutex<Option<String>>,
}

/// A cluster that waits for proof from this node.
#[derive(Clone)]
pub(crate) struct Joining {
    from: JoinFrom,
    non_voter: bool,
    /// How the challenge is closed.
    pub kind: LockKind,
}

impl Joins {
    /// The keys were changed: who joins begins anew.
    pub fn forget_challenges(&self) {
        lock(&self.challenges).clear();
    }
}

#[derive(Serialize, Deserialize)]
struct Challenge {
    /// The lock whose root is the key, CBOR in base64.
    challenge: String,
    cluster_id: String,
}

#[derive(Serialize, Deserialize)]
struct Proof {
    server_id: String,
    peer: Peer,
    /// MAC of all else, in base64.
    answer: String,
    /// The lock of the newcomer's own device, CBOR in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lock: Option<String>,
    /// Those of its other seals, in the same form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more_locks: Vec<String>,
}

/// What a newcomer with a join token asks for before it has a lock.
#[derive(Serialize, Deserialize)]
struct WantsRoot {
    server_id: String,
    /// MAC of it, in base64.
    answer: String,
}

#[derive(Serialize, Deserialize)]
struct Root {
    /// The lock whose root is the root key, closed with the challenge's key: CBOR in base64.
    root: String,
}

#[derive(Serialize, Deserialize)]
struct Welcome {
    /// The members, JSON.
    members: String,
    /// MAC of them, in base64.
    mac: String,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn mac(key: &Key, what: &str, bytes: &[u8]) -> Result<Hmac<Sha256>, Refusal> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).map_err(failed)?;
    mac.update(what.as_bytes());
    mac.update(&[0]);
    mac.update(bytes);
    Ok(mac)
}

fn is_mac(key: &Key, what: &str, bytes: &[u8], given: &str) -> Result<bool, Refusal> {
    let given = STANDARD.decode(given).unwrap_or_default();
    Ok(mac(key, what, bytes)?.verify_slice(&given).is_ok())
}

const PROOF: &str = "holdfast join proof";
const WELCOME: &str = "holdfast join welcome";
const ROOT: &str = "holdfast join root";

fn proven(server_id: &str, peer: &Peer, lock: Option<&String>, more: &[String]) -> Result<Vec<u8>, Refusal> {
    match lock {
        None => serde_json::to_vec(&(server_id, peer)).map_err(failed),
        Some(lock) if more.is_empty() => serde_json::to_vec(&(server_id, peer, lock)).map_err(failed),
        Some(lock) => serde_json::to_vec(&(server_id, peer, lock, more)).map_err(failed),
    }
}

fn in_base64(lock: &Lock) -> Result<String, Refusal> {
    Ok(STANDARD.encode(minicbor::to_vec(lock).map_err(failed)?))
}

const NO_CHALLENGE: &str = "failed to join raft cluster: failed to get raft challenge";

fn not_joined() -> Refusal {
    Refusal(500, NO_CHALLENGE.into())
}

impl Core {
    /// How the challenge of the cluster that this node joins is closed.
    pub(crate) fn joining(&self) -> Option<Joining> {
        lock(&self.joins.joining).clone()
    }

    /// `sys/storage/raft/join`.
    pub(crate) async fn join_route(self: &Arc<Self>, body: &[u8]) -> Answer {
        match self.join_asked(body).await {
            Ok(joined) => {
                let mut m = Map::new();
                m.insert("joined".into(), joined.into());
                Answer::bare(200, &m)
            }
            Err(Refusal(status, text)) => Answer::error(status, &text),
        }
    }

    async fn join_asked(self: &Arc<Self>, body: &[u8]) -> Result<bool, Refusal> {
        let bad = |text| Refusal(400, text);
        let map = strict_object(body).map_err(bad)?;
        let text = |name| strict_text(&map, name).map_err(bad);
        let some = |name| text(name).map(|t| (!t.is_empty()).then_some(t));
        let found = text("auto_join")?;
        let addresses = match found.is_empty() {
            true => vec![text("leader_api_addr")?],
            false if !text("leader_api_addr")?.is_empty() => {
                return refuse("cannot provide both a leader_api_addr and auto_join");
            }
            false => {
                let port = map.get("auto_join_port").and_then(Value::as_u64);
                auto_join::addresses(&found, some("auto_join_scheme")?.as_deref(), port).map_err(bad)?
            }
        };
        let one = JoinFrom {
            api_addr: String::new(),
            tls_servername: some("leader_tls_servername")?,
            ca_cert: some("leader_ca_cert")?,
            client_cert: some("leader_client_cert")?,
            client_key: some("leader_client_key")?,
            join_token: some("join_token")?.map(|t| JoinSecret(Arc::new(Secret::new(t)))),
        };
        let retry = strict_bool(&map, "retry").map_err(bad)?;
        let non_voter = strict_bool(&map, "non_voter").map_err(bad)?;
        if self.is_removed() {
            return refuse(REMOVED);
        }
        if self.is_initialised().map_err(failed)? {
            // It is done, unless it is another cluster's store that is here.
            for api_addr in addresses.into_iter().filter(|a| !a.is_empty()) {
                if let Ok(Some(foreign)) = self.foreign_cluster(&JoinFrom { api_addr, ..one.clone() }).await {
                    return refuse(foreign);
                }
            }
            return Ok(true);
        }
        if addresses.iter().any(String::is_empty) {
            return Err(not_joined());
        }
        let all: Vec<JoinFrom> = addresses.into_iter().map(|api_addr| JoinFrom { api_addr, ..one.clone() }).collect();
        if retry {
            self.clone().join_in_background(all, non_voter);
            return Ok(false);
        }
        let mut joined = Err(not_joined());
        for from in all {
            joined = self.join(from, non_voter).await;
            if joined.is_ok() {
                break;
            }
        }
        joined.map(|()| true)
    }

    /// Try to join one of these until it goes well. Where this node has a store by other means, see that they are of its
    /// cluster.
    pub fn join_in_background(self: Arc<Self>, from: Vec<JoinFrom>, non_voter: bool) {
        tokio::spawn(async move {
            let mut said = String::new();
            loop {
                for one in &from {
                    if self.is_initialised().unwrap_or(false) {
                        return self.compare_clusters(&from).await;
                    }
                    match self.join(one.clone(), non_voter).await {
                        Ok(()) => return,
                        Err(Refusal(_, text)) if text != said => {
                            tracing::warn!(leader = %one.api_addr, "this node has not joined yet: {text}");
                            said = text;
                        }
                        Err(_) => {}
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// What is wrong if a node is of another cluster than this one, whose store is there; an error: it is not known of
    /// which it is.
    async fn foreign_cluster(&self, from: &JoinFrom) -> Result<Option<String>, String> {
        let cluster = self.own_cluster().map_err(|Refusal(_, text)| text)?;
        let asked = cluster.ask_leader(from.clone(), "sys/seal-status", None);
        let said = tokio::time::timeout(NAMED_WITHIN, asked).await.map_err(|e| e.to_string())??;
        let text = |name: &str| said.get(name).and_then(Value::as_str);
        let id = text("cluster_id").ok_or("it is sealed, or does not say it")?;
        // Read behind the answer: a snapshot that is restored brings its own name.
        let own = self.lock_list()?.ok_or("this node has no store yet")?.list;
        let own_id = random::uuid_text(&own.cluster_id);
        Ok((id != own_id).then(|| {
            format!(
                "this store is of the cluster {:?} ({own_id}), and {} is of {:?} ({id}): correct retry_join, or stop \
                 this node and start it with an empty folder to let it join",
                own.cluster_name,
                from.api_addr,
                text("cluster_name").unwrap_or_default()
            )
        }))
    }

    /// Look until each of these nodes has said that it is of this node's cluster.
    async fn compare_clusters(&self, with: &[JoinFrom]) {
        let (mut wait, mut seen) = (RETRY, None);
        loop {
            let (mut all_agree, mut foreign) = (true, None);
            for one in with {
                match self.foreign_cluster(one).await {
                    Ok(None) => {}
                    Ok(Some(text)) => drop(foreign.get_or_insert(text)),
                    Err(_) => all_agree = false,
                }
            }
            if all_agree && foreign.is_none() {
                *lock(&self.joins.foreign) = None;
                return;
            }
            // Twice: while a snapshot is restored, members have two names for a moment.
            if foreign.is_none() || foreign == seen {
                let before = std::mem::replace(&mut *lock(&self.joins.foreign), foreign.clone());
                if let Some(text) = foreign.as_ref().filter(|text| before.as_ref() != Some(*text)) {
                    tracing::error!("{text}");
                }
                wait = (wait * 2).min(COMPARE_AGAIN);
            }
            seen = foreign;
            tokio::time::sleep(wait).await;
        }
    }

    /// What is wrong between this node and its cluster, for people.
    pub(crate) fn cluster_trouble(&self) -> Option<String> {
        let removed = self.is_removed().then(|| REMOVED.to_owned());
        let broken = || self.options.cluster.as_ref().and_then(|cluster| cluster.lead().broken);
        let broken = || {
            broken().map(|reason| {
                format!("this node takes part in the cluster no longer ({reason}): look at its disk, then restart it")
            })
        };
        let others = || self.options.cluster.as_ref().and_then(|cluster| cluster.trouble_with_others());
        removed
            .or_else(broken)
            .or_else(|| self.is_a_copy())
            .or_else(|| lock(&self.joins.foreign).clone())
            .or_else(others)
    }

    /// Join the cluster of a node. With a device that is all; else it waits for shares.
    async fn join(self: &Arc<Self>, from: JoinFrom, non_voter: bool) -> Result<(), Refusal> {
        if let Some(token) = &from.join_token {
            let token = JoinToken::of(token)?;
            return self.join_with_own_device(&from, &token, non_voter).await;
        }
        let challenge = self.challenge(&from, None).await?;
        let joining = Joining { from, non_voter, kind: challenge.0.kind };
        let seals = self.seals();
        match (&joining.kind, seals.present.first()) {
            (LockKind::Device { backend }, _) if seals.present.iter().any(|s| s.device.backend() == backend) => {
                *lock(&self.joins.joining) = Some(joining);
                let joined = self.prove(None).await;
                *lock(&self.joins.joining) = None;
                self.retry_device();
                joined
            }
            (LockKind::Device { backend }, _) => Err(Refusal(
                400,
                format!(
                    "the cluster is sealed by {backend:?}, and this node has no such device: correct the seal stanza"
                ),
            )),
            (_, Some(seal)) => Err(Refusal(
                400,
                format!(
                    "the cluster is sealed by shares, and this node by {:?}: correct the seal stanza",
                    seal.device.backend()
                ),
            )),
            _ => {
                *lock(&self.joins.joining) = Some(joining);
                tracing::info!("this node joins a cluster when its shares were given");
                Ok(())
            }
        }
    }

    /// Join as an operator allowed with a token: lock the root key with this node's own device.
    async fn join_with_own_device(
        self: &Arc<Self>,
        from: &JoinFrom,
        token: &JoinToken,
        non_voter: bool,
    ) -> Result<(), Refusal> {
        if !self.has_device() {
            return refuse("a join token is for a node with a device of its own: this one has no seal stanza for it");
        }
        let cluster = self.own_cluster()?;
        let server_id = cluster.node_id().to_owned();
        let (closed, cluster_id) = self.challenge(from, Some(token)).await?;
        let other = |_| Refusal(403, "the cluster has another token by this name".into());
        let key = locks::open_with_key(&closed, &cluster_id, &token.key).map_err(other)?;
        let answer = STANDARD.encode(mac(&key, ROOT, server_id.as_bytes())?.finalize().into_bytes());
        let body = serde_json::to_value(WantsRoot { server_id: server_id.clone(), answer }).map_err(failed)?;
        let answer = cluster.ask_leader(from.clone(), "sys/storage/raft/bootstrap/root", Some(body)).await;
        let answer: Root =
            serde_json::from_value(answer.map_err(|e| Refusal(500, format!("failed to join raft cluster: {e}")))?)
                .map_err(failed)?;
        let root = minicbor::decode(&STANDARD.decode(&answer.root).map_err(failed)?).map_err(failed)?;
        let root = locks::open_with_key(&root, &cluster_id, &key).map_err(failed)?;
        let mut made = Vec::new();
        let mut refused = None;
        for seal in &self.seals().present {
            match self.device_lock(seal, &root, cluster_id, clock::now()).await {
                Ok(lock) => made.push(in_base64(&Lock { scope: Scope::Node(server_id.clone()), ..lock })?),
                Err(refusal) => {
                    // One is enough to open the store alone.
                    tracing::warn!(
                        seal = seal.shown(),
                        "this seal has no lock yet, operator seal rewrap makes it: {}",
                        refusal.1
                    );
                    refused.get_or_insert(refusal);
                }
            }
        }
        let mut made = made.into_iter();
        let Some(lock) = made.next() else { return Err(refused.unwrap_or_else(|| failed("there is no seal"))) };
        self.introduce(from, non_voter, &key, Some((lock, made.collect()))).await?;
        self.retry_device();
        Ok(())
    }

    async fn challenge(&self, from: &JoinFrom, token: Option<&JoinToken>) -> Result<(Lock, [u8; 16]), Refusal> {
        let cluster = self.own_cluster()?;
        let mut body = json!({"server_id": cluster.node_id()});
        if let Some(token) = token {
            body["join_token_id"] = token.id.as_str().into();
        }
        let answer = cluster.ask_leader(from.clone(), "sys/storage/raft/bootstrap/challenge", Some(body)).await;
        let answer = answer.map_err(|e| match token {
            Some(_) => Refusal(500, format!("failed to join raft cluster: {e}")),
            None => Refusal(500, format!("{NO_CHALLENGE}: {e}")),
        })?;
        let challenge: Challenge = serde_json::from_value(answer).map_err(|_| not_joined())?;
        let lock = STANDARD.decode(&challenge.challenge).map_err(|_| not_joined())?;
        let lock = minicbor::decode(&lock).map_err(|_| not_joined())?;
        Ok((lock, random::parse_uuid(&challenge.cluster_id).ok_or_else(not_joined)?))
    }

    fn own_cluster(&self) -> Result<Arc<dyn Cluster>, Refusal> {
        self.options.cluster.clone().ok_or_else(|| Refusal(400, "raft storage is not in use".into()))
    }

    /// Answer the challenge of the cluster that this node joins, with the key that the shares make or with the
    /// device, and wait for what the cluster holds.
    pub(crate) async fn prove(self: &Arc<Self>, shares_key: Option<&Key>) -> Result<(), Refusal> {
        let Some(joining) = self.joining() else { return refuse("Vault is not initialized") };
        // A fresh one: people may have taken their time.
        let (closed, cluster_id) = self.challenge(&joining.from, None).await?;
        let key = match shares_key {
            Some(key) => locks::open_with_key(&closed, &cluster_id, key)
                .map_err(|e| Refusal(400, format!("unable to retrieve stored keys: invalid key: {e}")))?,
            None => self.open_challenge(&closed, &cluster_id).await?,
        };
        self.introduce(&joining.from, joining.non_voter, &key, None).await
    }

    /// Open a challenge with the device that it was closed with, which is one of the cluster's.
    async fn open_challenge(&self, closed: &Lock, cluster_id: &[u8; 16]) -> Result<Key, Refusal> {
        let (seals, mut refused) = (self.seals(), None);
        let is_named = |seal: &&Arc<Seal>| closed.name.is_some() && seal.name == closed.name;
        let named = seals.present.iter().filter(is_named);
        for seal in named.chain(seals.present.iter().filter(|seal| !is_named(seal))) {
            if closed.backend() != Some(seal.device.backend()) {
                continue;
            }
            match seal.open(closed, cluster_id).await {
                Ok(key) => return Ok(key),
                Err(refusal) => drop(refused.get_or_insert(Refusal(500, refusal.text))),
            }
        }
        Err(refused.unwrap_or_else(|| failed("neither shares nor a device")))
    }

    /// Close a challenge's key with a device of the cluster's.
    async fn close_challenge(&self, key: &Key, cluster_id: [u8; 16]) -> Result<Lock, Refusal> {
        let mut refused = None;
        for seal in &self.seals().present {
            match self.device_lock(seal, key, cluster_id, clock::now()).await {
                Ok(lock) => return Ok(lock),
                Err(refusal) => drop(refused.get_or_insert(refusal)),
            }
        }
        Err(refused.unwrap_or_else(|| failed("this node has no key with which it could ask for proof")))
    }

    /// Say who this node is, under the challenge's key, and wait for what the cluster holds.
    async fn introduce(
        self: &Arc<Self>,
        from: &JoinFrom,
        non_voter: bool,
        key: &Key,
        locks: Option<(String, Vec<String>)>,
    ) -> Result<(), Refusal> {
        let cluster = self.own_cluster()?;
        let server_id = cluster.node_id().to_owned();
        let peer = Peer { never_votes: non_voter, ..cluster.own_peer() };
        let (lock, more_locks) = locks.map_or((None, Vec::new()), |(lock, more)| (Some(lock), more));
        let answer = mac(key, PROOF, &proven(&server_id, &peer, lock.as_ref(), &more_locks)?)?.finalize().into_bytes();
        let proof = Proof { server_id, peer, answer: STANDARD.encode(answer), lock, more_locks };
        let body = serde_json::to_value(&proof).map_err(failed)?;
        let answer = cluster.ask_leader(from.clone(), "sys/storage/raft/bootstrap/answer", Some(body)).await;
        let answer = answer.map_err(|e| Refusal(500, format!("failed to join raft cluster: {e}")))?;
        let welcome: Welcome = serde_json::from_value(answer).map_err(failed)?;
        if !is_mac(key, WELCOME, welcome.members.as_bytes(), &welcome.mac)? {
            return Err(Refusal(
                500,
                "failed to join raft cluster: the leader does not know the challenge's key".into(),
            ));
        }
        let members: Vec<(String, Peer)> = serde_json::from_str(&welcome.members).map_err(failed)?;
        cluster.enrol(members).await.map_err(failed)?;
        let came = async {
            while !matches!(self.lock_list(), Ok(Some(_))) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(SNAPSHOT_WITHIN, came).await {
            Ok(()) => {
                tracing::info!("this node has joined the cluster");
                Ok(())
            }
            Err(_) => {
                Err(Refusal(503, "the cluster has let this node in, and sends nothing: look at cluster_addr".into()))
            }
        }
    }

    /// Shares that open a challenge instead of a store: prove it, then open the store that came.
    pub(crate) async fn unseal_joining(
        self: &Arc<Self>,
        given: &[Secret<Vec<u8>>],
        threshold: u8,
    ) -> Result<(), Refusal> {
        let wrong = |e| Refusal(400, format!("unable to retrieve stored keys: invalid key: {e}"));
        let key = shares::join(given, threshold).map_err(wrong)?;
        if let Err(refusal) = self.prove(Some(&key)).await {
            tracing::warn!("this node has not joined yet: {}", refusal.1);
            return Err(refusal);
        }
        *lock(&self.joins.joining) = None;
        let Some(read) = self.lock_list().map_err(failed)? else { return Err(failed("the locks have not come")) };
        let own = read.list.shares_lock().ok_or_else(|| failed("the cluster has no lock of shares"))?;
        let root = locks::open_with_key(own, &read.list.cluster_id, &key).map_err(wrong)?;
        self.unlock(root, Some(key), "enough shares were given").await?;
        self.note_opened(own);
        Ok(())
    }
}
