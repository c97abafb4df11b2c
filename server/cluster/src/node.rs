//! This node: its store, its identity, and the cluster that it belongs to, once it does.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use holdfast_core::clock::SystemClocks;
use holdfast_core::cluster::{
    self, Change, ChangeError, Cluster, Forwarded, ForwardedAnswer, Front, JoinFrom, Later, Lead, Member, NotForwarded,
    Peer, Progress, ReadPoint,
};
use holdfast_sdk::Value;
use holdfast_storage::{KeepFree, Options, Replica, Store, level};
use tokio::runtime::{Handle, Runtime};

use crate::frame::NotAMember;
use crate::heard::Heard;
use crate::identity::{self, Identity, KeyKept};
use crate::incarnations::Incarnations;
use crate::links::{KEYS_WITHIN, Links};
use crate::places::Places;
use crate::raft::{Group, Settings};
use crate::read_index::Rounds;
use crate::{api, forward, listener, places};

/// Threads of the cluster's own: what members say to each other does not wait behind requests.
const THREADS: usize = 2;
/// How often it is looked whether members are where they are known to be.
const LOOK: Duration = Duration::from_secs(2);
/// Members are not asked again sooner who the members are.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// A member without a vote, which nobody misses, asks so often whether it still is one.
const STILL_A_MEMBER: Duration = Duration::from_secs(10);

/// What a member has said of itself, and where it was by the members' list at that time.
struct Said {
    peer: Peer,
    listed: String,
}

/// How to open a node.
pub struct Set {
    /// The folder of its store.
    pub path: PathBuf,
    pub node_id: Option<String>,
    /// Where others reach it, `host:port`.
    pub cluster_addr: String,
    pub api_addr: String,
    pub max_entry_bytes: usize,
    /// What stays free of its disk.
    pub keep_free: KeepFree,
    pub performance_multiplier: u64,
    pub snapshot_threshold: u64,
    pub trailing_logs: u64,
    /// The log has no more bytes than this for long.
    pub trailing_log_bytes: u64,
    /// How often members are looked after while this node is active.
    pub autopilot_every: Option<Duration>,
    /// Whether this node answers reads while it stands by,
    pub standby_reads: bool,
    /// and for how long it does so from what it knows, without asking the active node.
    pub stale_reads: Duration,
    /// How this node's key is kept.
    pub key: KeyKept,
}

/// This node.
pub struct Node {
    identity: Arc<Identity>,
    own: Peer,
    settings: Settings,
    replica: Replica,
    group: ArcSwapOption<Group>,
    /// One member is started at a time.
    starting: tokio::sync::Mutex<()>,
    may_lead: AtomicBool,
    links: Links,
    front: OnceLock<Arc<dyn Front>>,
    /// What members have said of themselves, by the hash of their keys.
    places: Mutex<HashMap<String, Said>>,
    /// When members were last asked who the members are.
    asked: Mutex<Option<Instant>>,
    heard: Heard,
    /// Which processes count as members.
    incarnations: Incarnations,
    /// Members count another process as this node: where it is.
    copy_of: Mutex<Option<String>>,
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    own_handle: Weak<Node>,
    folder: PathBuf,
    store_folder: PathBuf,
    /// Where other members are, as an operator said.
    said: Mutex<Places>,
    /// The term whose leader was told where this node is, and when.
    introduced: Mutex<(u64, Option<Instant>)>,
    /// The members know this node no longer.
    removed: AtomicBool,
    autopilot_every: Option<Duration>,
    standby_reads: bool,
    pub(crate) rounds: Rounds,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Node {
    /// Also where a start has failed, which is no place to wait for threads.
    fn drop(&mut self) {
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

impl Node {
    /// Open the store in its folder and take part in the cluster that it belongs to, if it does. A store that was
    /// nobody's member until now, and is not empty, becomes the first member of a cluster.
    pub async fn open(set: Set) -> Result<(Store, Arc<Node>), String> {
        let options =
            Options { folder: Some(set.path.clone()), max_entry_bytes: set.max_entry_bytes, keep_free: set.keep_free };
        let (store, replica) = Store::open_member(&options).map_err(|e| e.to_string())?;
        let (folder, name, kept) = (set.path.clone(), set.node_id.clone(), set.key);
        // A device may take its time, or be waited for.
        let identity = tokio::task::spawn_blocking(move || Identity::of(&folder, name.as_deref(), &kept));
        let identity = Arc::new(identity.await.map_err(|e| e.to_string())??);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("cluster")
            .thread_stack_size(1 << 20)
            .enable_all()
            .build()
            .map_err(|e| format!("the cluster's threads cannot be started: {e}"))?;
        let own = Peer {
            cluster_addr: set.cluster_addr,
            api_addr: set.api_addr,
            key_hash: identity.key_hash.clone(),
            never_votes: false,
            level: level::known(),
            version: holdfast_core::bare::VERSION.into(),
        };
        let links = Links::new(identity.clone(), own.clone());
        let said = places::said(&set.path)?;
        let node = Arc::new_cyclic(|own_handle| Node {
            own_handle: own_handle.clone(),
            folder: set.path.join("node"),
            said: Mutex::new(said),
            introduced: Mutex::default(),
            removed: AtomicBool::new(false),
            autopilot_every: set.autopilot_every,
            standby_reads: set.standby_reads,
            rounds: Rounds::new(set.stale_reads),
            store_folder: set.path,
            own,
            settings: Settings {
                node_id: identity.id.clone(),
                // As it is when the member is started.
                joined_with: None,
                performance_multiplier: set.performance_multiplier,
                snapshot_threshold: set.snapshot_threshold,
                trailing_logs: set.trailing_logs,
                trailing_log_bytes: set.trailing_log_bytes,
            },
            identity,
            replica,
            group: ArcSwapOption::empty(),
            starting: tokio::sync::Mutex::new(()),
            may_lead: AtomicBool::new(false),
            links,
            front: OnceLock::new(),
            places: Mutex::default(),
            asked: Mutex::default(),
            heard: Heard::default(),
            incarnations: Incarnations::default(),
            copy_of: Mutex::default(),
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
        });
        if node.replica.state().is_none() && !node.replica.is_empty() {
            node.clone().found_now().await?;
        } else if node.replica.state().is_some() {
            node.start().await?;
        }
        Ok((store, node))
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn group(&self) -> Option<Arc<Group>> {
        self.group.load_full()
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn front(&self) -> Option<&Arc<dyn Front>> {
        self.front.get()
    }

    /// Who answers requests that other nodes pass on. The first word counts.
    pub fn set_front(&self, front: Arc<dyn Front>) {
        let _first_counts = self.front.set(front);
    }

    /// Whether a key is a member's, as this node knows or was told by a member.
    pub(crate) fn knows(&self, key_hash: &str) -> bool {
        let Some(group) = self.group() else { return false };
        self.heard.knows(key_hash, &group.members().0, group.lead().sure)
    }

    /// Where the member with a key is, as this node knows.
    pub(crate) fn cluster_addr_of(&self, key_hash: &str) -> Option<String> {
        let members = self.group()?.members().0;
        members.into_iter().find(|m| m.peer.key_hash == key_hash).map(|m| m.peer.cluster_addr)
    }

    /// The name of the member that has this key.
    pub(crate) fn name_of(&self, key_hash: &str) -> Option<String> {
        let members = self.group()?.members().0;
        members.into_iter().find(|m| m.peer.key_hash == key_hash).map(|m| m.id)
    }

    /// A node that was off while others joined asks those that it knows. Once in a while only.
    pub(crate) async fn learns_of(&self, key_hash: &str) -> bool {
        let Some(group) = self.group() else { return false };
        if group.lead().sure {
            // Nobody knows later members; one that lags behind may know one that was removed.
            return false;
        }
        {
            let mut asked = lock(&self.asked);
            if asked.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
                return false;
            }
            *asked = Some(Instant::now());
        }
        for member in group.members().0.into_iter().filter(|m| m.id != self.identity.id) {
            if let Ok(peers) = self.links.members(&member.peer).await
                && !peers.is_empty()
            {
                self.heard.is_told(peers);
                return self.knows(key_hash);
            }
        }
        false
    }

    /// What one is told that is no member.
    pub(crate) fn refusal(&self) -> NotAMember {
        let group = self.group();
        let since = group.as_ref().and_then(|g| g.agreed_since());
        let leads = since.is_some() && group.is_some_and(|g| g.lead().sure);
        NotAMember { since: since.unwrap_or(0), leads, copy_of: None }
    }

    /// Whether the process that calls with a member's key counts as that member. See [`crate::incarnations`].
    pub(crate) async fn is_no_copy(
        &self,
        key_hash: &str,
        incarnation: &str,
        from: SocketAddr,
    ) -> Result<(), NotAMember> {
        if self.incarnations.counts(key_hash, incarnation) {
            return Ok(());
        }
        let said = lock(&self.places).get(key_hash).map(|said| said.peer.cluster_addr.clone());
        let mut places: Vec<String> = self.cluster_addr_of(key_hash).into_iter().chain(said).collect();
        places.dedup();
        let ask = |place: String| async move { self.links.incarnation_at(key_hash, &place).await };
        let Err(other) = self.incarnations.admit(key_hash, incarnation, places, ask).await else { return Ok(()) };
        if self.incarnations.refused(key_hash, from.to_string(), other.clone()) {
            let node = self.name_of(key_hash).unwrap_or_default();
            tracing::error!(
                %node, %from, counts = %other,
                "a second process has the key of this member (a copied folder, a cloned machine) and was refused: stop it"
            );
        }
        Err(NotAMember { copy_of: Some(other), ..NotAMember::default() })
    }

    /// Notice that the members know this node no longer. One of them may be wrong, or be alone with what it says: it is
    /// believed to the one that leads as far as this node knows, to anyone where none does, and to a majority.
    fn notice_a_removal(&self) {
        let Some(group) = self.group() else { return };
        let lead = group.lead();
        if lead.sure || self.removed.load(Ordering::SeqCst) {
            return;
        }
        let (members, since) = group.members();
        // By its key: an earlier node may have had its name.
        let is_listed = members.iter().any(|m| m.peer.key_hash == self.identity.key_hash);
        let knows = |said: &NotAMember| said.leads || (is_listed && said.since > since);
        let is_believed = self.is_believed(&lead, &members, knows).is_some();
        if is_believed || group.was_removed_while_it_led() {
            self.removed.store(true, Ordering::SeqCst);
        }
    }

    /// What members say with their refusals, where it is said by the one that leads as far as this node knows, by anyone
    /// where none does, or by a majority.
    fn is_believed(&self, lead: &Lead, members: &[Member], counts: impl Fn(&NotAMember) -> bool) -> Option<NotAMember> {
        let refuses = |m: &Member| self.links.refuses(&m.peer.key_hash).filter(&counts);
        let all: Vec<(&Member, NotAMember)> = members.iter().filter_map(|m| Some((m, refuses(m)?))).collect();
        let voters = members.iter().filter(|m| m.votes).count();
        let is_said_by_a_majority = all.iter().filter(|(m, _)| m.votes).count() > voters / 2;
        let is_said_by_the_leader =
            lead.leader.as_ref().is_none_or(|(leader, _)| all.iter().any(|(m, _)| m.id == *leader));
        all.into_iter().next().map(|(_, said)| said).filter(|_| is_said_by_the_leader || is_said_by_a_majority)
    }

    /// Notice that the members count another process as this node, or do so no longer.
    fn notice_a_copy(&self) {
        let Some(group) = self.group() else { return };
        let lead = group.lead();
        let said = match lead.sure {
            true => None,
            false => self.is_believed(&lead, &group.members().0, |said| said.copy_of.is_some()),
        };
        let other = said.and_then(|said| said.copy_of);
        let before = std::mem::replace(&mut *lock(&self.copy_of), other.clone());
        match (before, other) {
            (None, Some(other)) => tracing::error!(%other, "{}", cluster::COPY),
            (Some(_), None) => tracing::warn!("the members count this process as the node {} again", self.identity.id),
            _ => {}
        }
    }

    /// Whether this node is unsealed and has room.
    pub(crate) fn could_lead(&self) -> bool {
        self.may_lead.load(Ordering::SeqCst) && !self.replica.is_short_of_room()
    }

    /// Listen to other members until the node ends.
    pub async fn listen(self: &Arc<Self>, address: SocketAddr) -> Result<(), String> {
        listener::listen(self.clone(), address).await
    }

    async fn found_now(self: Arc<Self>) -> Result<(), String> {
        if self.replica.state().is_none() {
            let members = Group::first_members(&self.identity.id, self.own.clone());
            self.replica.found(members).await.map_err(|e| e.to_string())?;
        }
        self.start().await
    }

    /// Take part.
    async fn start(self: &Arc<Self>) -> Result<(), String> {
        let _one = self.starting.lock().await;
        if self.group().is_some() {
            return Ok(());
        }
        let own = self.own.key_hash.clone();
        let joined_with = identity::has_joined(&self.store_folder, &own).then_some(own);
        let settings = Settings { joined_with, ..self.settings.clone() };
        let (replica, links) = (self.replica.clone(), self.links.clone());
        let started = self
            .handle
            .spawn(async move { Group::start(&settings, replica, Arc::new(links), Arc::new(SystemClocks)).await });
        let group = started.await.map_err(|e| e.to_string())??;
        self.replica.agree(group.agreement(Some(self.handle.clone())));
        if self.replica.state().is_some() {
            group.knows_its_members().await?;
        }
        group.may_lead(self.may_lead.load(Ordering::SeqCst));
        self.look_where_said(&group);
        group.lead_if_alone().await;
        let group = Arc::new(group);
        self.group.store(Some(group.clone()));
        // Who was unsealed meanwhile has found no group to tell.
        group.may_lead(self.may_lead.load(Ordering::SeqCst));
        self.handle.spawn(keep_places(Arc::downgrade(self)));
        Ok(())
    }

    /// Look for others where an operator said that they are, until the members know it.
    fn look_where_said(&self, group: &Group) {
        let said = lock(&self.said);
        for member in group.members().0 {
            if let Some(address) = said.get(&member.id) {
                self.links.heard(&member.peer.key_hash, address.clone());
            }
        }
    }

    fn forget_what_is_known(&self) {
        let mut said = lock(&self.said);
        let Some(group) = self.group().filter(|g| !said.is_empty() && g.lead().leader.is_some()) else { return };
        let members = group.members().0;
        let is_known = |(id, address): (&String, &String)| {
            members.iter().find(|m| m.id == *id).is_none_or(|m| m.peer.cluster_addr == *address)
        };
        if said.iter().all(is_known) {
            said.clear();
            places::forget(&self.store_folder);
        }
    }

    /// A member said where it is.
    pub(crate) fn heard(&self, key_hash: &str, said: &[u8]) {
        let Ok(said) = serde_json::from_slice::<Peer>(said) else { return };
        self.links.heard(key_hash, said.cluster_addr.clone());
        let listed = self.cluster_addr_of(key_hash).unwrap_or_default();
        lock(&self.places).insert(key_hash.to_owned(), Said { peer: said, listed });
    }

    /// The members, each where it is as this node knows: by the list, or by what the member has said since.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let members = self.group().map(|g| g.members().0).unwrap_or_default();
        let places = lock(&self.places);
        let now = |listed: Peer| match places.get(&listed.key_hash).filter(|said| said.listed == listed.cluster_addr) {
            Some(said) => Peer { cluster_addr: said.peer.cluster_addr.clone(), ..listed },
            None => listed,
        };
        members.into_iter().map(|m| now(m.peer)).collect()
    }

    /// Look for members where another one says that they are: whoever it has heard of them, the key tells.
    fn look_where_others_say(&self, peers: Vec<Peer>) {
        let Some(group) = self.group() else { return };
        for member in group.members().0.into_iter().filter(|m| m.id != self.identity.id) {
            let moved = peers.iter().find(|p| p.key_hash == member.peer.key_hash);
            if let Some(moved) = moved.filter(|p| p.cluster_addr != member.peer.cluster_addr) {
                self.links.heard(&member.peer.key_hash, moved.cluster_addr.clone());
            }
        }
    }

    /// As the leader, let the members know where each of them is now.
    async fn correct_places(&self) {
        let Some(group) = self.group().filter(|g| g.lead().sure) else { return };
        for member in group.members().0 {
            let said = match member.id == self.identity.id {
                true => Some(self.own.clone()),
                false => lock(&self.places).get(&member.peer.key_hash).map(|said| said.peer.clone()),
            };
            let Some(said) = said else { continue };
            let peer = Peer {
                cluster_addr: said.cluster_addr,
                api_addr: said.api_addr,
                level: said.level,
                version: said.version,
                ..member.peer.clone()
            };
            if peer == member.peer {
                continue;
            }
            tracing::info!(
                node = %member.id, address = %peer.cluster_addr, level = peer.level, version = %peer.version,
                "a member has another address, or another program"
            );
            if let Err(e) = group.change(Change::Correct(member.id, peer)).await {
                tracing::warn!(error = %e, "the members could not be told where one of them is");
            }
        }
    }

    /// Tell whoever leads where this node is and what its program can, once in its term. A member that has no vote says
    /// it from time to time: it would not notice otherwise that it is none any more. Where no leader is known all are
    /// told, and asked where the others are: the one that leads may be elsewhere by now, as others have heard.
    async fn say_who_it_is(&self) {
        let Some(group) = self.group() else { return };
        let lead = group.lead();
        let members = group.members().0;
        let votes = members.iter().any(|m| m.votes && m.id == self.identity.id);
        let (term, at) = *lock(&self.introduced);
        let is_lost = lead.leader.is_none();
        let is_due = (!votes || is_lost) && at.is_none_or(|at| at.elapsed() >= STILL_A_MEMBER);
        if lead.here || (term == lead.term && !is_due) {
            return;
        }
        let to: Vec<Peer> = match lead.leader {
            Some((_, leader)) => vec![leader],
            None if is_due => members.into_iter().filter(|m| m.id != self.identity.id).map(|m| m.peer).collect(),
            None => return,
        };
        for peer in to {
            // Whoever connects says it first; an answer shows that it was heard.
            match self.links.members(&peer).await {
                Ok(peers) => {
                    let mut introduced = lock(&self.introduced);
                    introduced.1 = Some(Instant::now());
                    if is_lost {
                        drop(introduced);
                        self.look_where_others_say(peers);
                    } else {
                        introduced.0 = lead.term;
                    }
                }
                Err(e) => tracing::debug!(error = %e, "a member was not told where this node is; it is tried again"),
            }
        }
    }

    /// Take part no longer. Call it before the store is closed.
    pub async fn stop(&self) {
        if let Some(group) = self.group() {
            group.stop().await;
        }
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

async fn keep_places(node: Weak<Node>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(node) = node.upgrade() else { return };
        node.say_who_it_is().await;
        node.notice_a_removal();
        node.notice_a_copy();
        node.correct_places().await;
        node.forget_what_is_known();
        if node.lead().leader.is_some() {
            node.heard.forget();
        }
    }
}

impl Cluster for Node {
    fn node_id(&self) -> &str {
        &self.identity.id
    }

    fn is_member(&self) -> bool {
        self.replica.state().is_some()
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn own_peer(&self) -> Peer {
        self.own.clone()
    }

    fn ask_leader(&self, from: JoinFrom, path: &str, body: Option<Value>) -> Later<Result<Value, String>> {
        Box::pin(api::ask(from, path.to_owned(), body))
    }

    fn enrol(&self, members: Vec<(String, Peer)>) -> Later<Result<(), String>> {
        self.links.is_let_in();
        self.heard.is_told(members.into_iter().map(|(_, peer)| peer).collect());
        if let Err(e) = identity::joins(&self.store_folder, &self.own.key_hash) {
            return Box::pin(std::future::ready(Err(format!("the node cannot note that it joins: {e}"))));
        }
        match self.own_handle.upgrade() {
            Some(node) => Box::pin(async move { node.start().await }),
            None => Box::pin(std::future::ready(Err("the server is shutting down".into()))),
        }
    }

    fn found(&self) -> Later<Result<(), String>> {
        match self.own_handle.upgrade() {
            Some(node) => Box::pin(node.found_now()),
            None => Box::pin(std::future::ready(Err("the server is shutting down".into()))),
        }
    }

    fn lead(&self) -> Lead {
        let lead = self.group().map(|g| g.lead()).unwrap_or_default();
        Lead { removed: self.removed.load(Ordering::SeqCst), copy_of: lock(&self.copy_of).clone(), ..lead }
    }

    fn trouble_with_others(&self) -> Option<String> {
        let earlier = self.group().map(|g| g.earlier_copies()).unwrap_or_default();
        if let Some(node) = earlier.first() {
            return Some(format!(
                "the node {node:?} runs on an earlier copy of its store (an image or a copy that was put in its place): it lacks \
                 what it has confirmed, and is not counted on. Give it its own store again, or operator raft remove-peer \
                 {node}, and operator raft recover -rejoin on it"
            ));
        }
        let (key_hash, counts, from) = self.incarnations.copied()?;
        let node = self.name_of(&key_hash)?;
        Some(format!(
            "two processes run with the key of the node {node:?} (a copied folder, a cloned machine): the one at {counts} \
             counts, one that calls from {from} is refused: stop that one"
        ))
    }

    fn changed(&self) -> Later<()> {
        match self.group() {
            Some(group) => Box::pin(async move { group.changed().await }),
            None => Box::pin(tokio::time::sleep(Duration::from_millis(100))),
        }
    }

    fn may_lead(&self, may: bool) {
        self.may_lead.store(may, Ordering::SeqCst);
        if let Some(group) = self.group() {
            group.may_lead(may);
        }
    }

    fn members(&self) -> (Vec<Member>, u64) {
        self.group().map(|g| g.members()).unwrap_or_default()
    }

    fn progress(&self) -> BTreeMap<String, Progress> {
        self.group().map(|g| g.progress()).unwrap_or_default()
    }

    fn looked_after_every(&self) -> Option<Duration> {
        self.autopilot_every
    }

    fn change(&self, change: Change) -> Later<Result<(), ChangeError>> {
        match self.group() {
            Some(group) => Box::pin(async move { group.change(change).await }),
            None => Box::pin(std::future::ready(Err(ChangeError::NotLeader))),
        }
    }

    fn forward(&self, request: Forwarded, body: Vec<u8>) -> Later<Result<ForwardedAnswer, NotForwarded>> {
        let leader = self.lead().leader.filter(|(id, _)| *id != self.identity.id);
        let links = self.links.clone();
        Box::pin(async move {
            match leader {
                Some((_, leader)) => forward::ask(links, leader, request, body).await,
                None => Err(NotForwarded::NotSent("no node leads at present".into())),
            }
        })
    }

    fn offer_keys(&self, offer: Vec<u8>) -> Later<BTreeMap<String, Result<Vec<u8>, String>>> {
        self.ask_members(offer, KEYS_WITHIN)
    }

    fn ask_members(&self, question: Vec<u8>, within: Duration) -> Later<BTreeMap<String, Result<Vec<u8>, String>>> {
        let (links, own_id) = (self.links.clone(), self.identity.id.clone());
        let members = self.members().0;
        Box::pin(async move {
            let others = members.into_iter().filter(|m| m.id != own_id);
            let offers = others.map(|m| {
                let (links, question) = (&links, &question);
                async move { (m.id, links.offer_keys(&m.peer, question, within).await.map_err(|e| e.to_string())) }
            });
            futures_util::future::join_all(offers).await.into_iter().collect()
        })
    }

    fn answers_reads(&self) -> bool {
        self.standby_reads
    }

    fn point_of_read(&self) -> Later<Option<ReadPoint>> {
        match self.own_handle.upgrade() {
            Some(node) => node.wait_for_point(),
            None => Box::pin(std::future::ready(None)),
        }
    }

    fn pass_seals_on(&self, seals: Vec<u8>) -> Later<Result<(), String>> {
        let leader = self.lead().leader.filter(|(id, _)| *id != self.identity.id);
        let links = self.links.clone();
        Box::pin(async move {
            let (_, leader) = leader.ok_or("no other node leads")?;
            match links.pass_seals_on(&leader, &seals).await {
                Ok(true) => Ok(()),
                Ok(false) => Err("the active node does not keep it: its log says why".into()),
                Err(e) => Err(e.to_string()),
            }
        })
    }

    fn applied(&self) -> (u64, u64) {
        self.group().map_or((0, 0), |group| group.applied())
    }

    fn hand_over(&self) -> Later<bool> {
        let Some(group) = self.group() else { return Box::pin(std::future::ready(false)) };
        let links = self.links.clone();
        Box::pin(async move {
            let heirs = group.heirs();
            let members = group.members().0.into_iter().filter(|m| heirs.contains(&m.id));
            let asked = members.map(|m| {
                let links = &links;
                async move { links.could_lead(&m.peer).await.is_ok_and(|could| could).then_some(m.id) }
            });
            let able: Vec<String> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
            group.hand_over(|id| able.iter().any(|a| a == id)).await
        })
    }

    fn is_short_of_room(&self) -> bool {
        self.replica.is_short_of_room()
    }
}
