//! Nodes: the real store and the real member on a simulated disk, started, killed and started again.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::cluster::{Change, Peer};
use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::{Replica, Store};

use super::network::{Network, Ways};
use super::runtime::{NodeClocks, Works};
use super::world::World;
use crate::raft::{Group, Settings};

const MAX_ENTRY_BYTES: usize = 1 << 20;
/// What a disk takes for a step at most, if nothing is wrong with it.
const DISK: Duration = Duration::from_millis(2);
/// Where a node looks whether it leads, at least this often.
const LOOK: Duration = Duration::from_millis(500);

/// What is broken on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flaw {
    #[default]
    None,
    /// Disks say that they have synced, and have not.
    DisksLie,
    /// Who lost power or was killed has forgotten for whom it voted.
    VotesAreNotKept,
    /// Whoever believes to lead answers reads, without asking whether a majority still hears it.
    ReadsAreNotSure,
    /// Whoever believes to lead names an index to those that stand by, without asking whether a majority still hears it.
    IndexesAreNotSure,
    /// Whoever stands by answers reads with what it has, and asks nobody for an index.
    StandbysAskNobody,
}

/// A node that runs.
pub struct Running {
    pub store: Store,
    pub replica: Replica,
    pub group: Group,
    /// The term in which it has taken over.
    pub active: Mutex<Option<u64>>,
    pub flaw: Flaw,
}

impl Running {
    /// Whether it may answer clients now.
    pub fn is_active(&self) -> bool {
        let lead = self.group.lead();
        let active = *lock(&self.active);
        match self.flaw {
            Flaw::ReadsAreNotSure => active.is_some(),
            _ => lead.sure && active == Some(lead.term),
        }
    }

    /// Up to where another node must have applied the log that answers a read while it stands by.
    pub async fn index_for_readers(&self, has: u64) -> Option<u64> {
        if self.flaw == Flaw::IndexesAreNotSure {
            return lock(&self.active).is_some().then(|| self.group.applied().0);
        }
        let index = self.group.read_index(Some(has)).await?;
        lock(&self.active).is_some().then_some(index)
    }
}

/// A node's place, whether it runs or not.
struct Place {
    name: String,
    /// Which key it has, as others know it: that is on the disk, and gone with it.
    key: u64,
    disk: SimDisk,
    slowness: Arc<Mutex<Duration>>,
    running: Option<Arc<Running>>,
    /// It is started again by itself.
    is_looked_after: bool,
    /// Its disk refuses what it is asked for.
    fails: bool,
    /// What the disk holds when the power is cut within a step.
    cut: Arc<Mutex<Option<SimDisk>>>,
    /// Which start of it runs, or ran.
    life: u64,
}

/// All nodes.
pub struct Cluster {
    pub world: World,
    pub network: Network,
    pub flaw: Flaw,
    /// Whether that is among what goes wrong.
    pub disks_fill_up: AtomicBool,
    settings: Settings,
    places: Mutex<Vec<Place>>,
    wrong: Mutex<Vec<String>>,
    /// What was agreed on at each index, as the first one who applied it has it.
    pub agreed: Mutex<BTreeMap<u64, (u64, u32)>>,
    said: Mutex<Vec<String>>,
}

pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    pub fn new(world: World, count: usize, flaw: Flaw, settings: Settings) -> Arc<Cluster> {
        let place = |n| Place {
            name: format!("n{n}"),
            key: 1,
            disk: SimDisk::default(),
            slowness: Arc::new(Mutex::new(DISK)),
            running: None,
            is_looked_after: true,
            fails: false,
            cut: Arc::default(),
            life: 0,
        };
        Arc::new(Cluster {
            network: Network::new(world.clone()),
            world,
            flaw,
            disks_fill_up: AtomicBool::new(false),
            settings,
            places: Mutex::new((0..count).map(place).collect()),
            wrong: Mutex::default(),
            agreed: Mutex::default(),
            said: Mutex::default(),
        })
    }

    pub fn count(&self) -> usize {
        lock(&self.places).len()
    }

    pub fn running(&self, node: usize) -> Option<Arc<Running>> {
        lock(&self.places)[node].running.clone()
    }

    /// Who is active, as it believes itself.
    pub fn active(&self) -> Option<usize> {
        let is_active = |n| self.running(n).is_some_and(|r| self.world.as_node(n, || r.is_active()));
        (0..self.count()).find(|n| is_active(*n))
    }

    pub fn name(&self, node: usize) -> String {
        lock(&self.places)[node].name.clone()
    }

    pub fn peer(&self, node: usize) -> Peer {
        Peer { cluster_addr: node.to_string(), key_hash: self.key_hash(node), ..Peer::default() }
    }

    /// By what others know a node.
    pub fn key_hash(&self, node: usize) -> String {
        let places = lock(&self.places);
        format!("{}.{}", places[node].name, places[node].key)
    }

    /// Something that must not be.
    pub fn is_wrong(&self, what: String) {
        self.say(format!("WRONG: {what}"));
        lock(&self.wrong).push(what);
    }

    pub fn wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    /// Something that is told about a run that failed.
    pub fn say(&self, what: String) {
        tracing::info!("{what}");
        lock(&self.said).push(format!("{:9.4} {what}", self.world.now().as_secs_f64()));
    }

    pub fn said(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.said))
    }

    /// How long a node's disk takes at most.
    pub fn disk_takes(&self, node: usize, most: Option<Duration>) {
        *lock(&lock(&self.places)[node].slowness) = most.unwrap_or(DISK);
    }

    pub fn disk(&self, node: usize) -> SimDisk {
        lock(&self.places)[node].disk.clone()
    }

    /// Make a cluster of all of them.
    pub async fn found(self: &Arc<Self>) {
        for node in 0..self.count() {
            self.start(node, node == 0);
        }
        for node in 1..self.count() {
            self.let_in(node, true).await;
        }
        for node in 0..self.count() {
            let cluster = self.clone();
            self.world.spawn(None, async move { cluster.look_after(node).await });
        }
    }

    /// Add a node to the members, with a vote or without one.
    pub async fn let_in(&self, node: usize, votes: bool) {
        self.change(Change::Add(self.name(node), self.peer(node))).await;
        if votes {
            self.change(Change::Promote(self.name(node))).await;
        }
    }

    /// Change the members, if somebody leads soon. It may be refused, and then nothing is changed.
    pub async fn change(&self, change: Change) -> bool {
        const TRIES: u32 = 60;
        for _ in 0..TRIES {
            let leader = self.active().and_then(|n| Some((n, self.running(n)?)));
            if let Some((n, node)) = leader {
                let (done, waits) = tokio::sync::oneshot::channel();
                let asked = change.clone();
                self.world.spawn(Some(n), async move {
                    let _nobody_waits = done.send(node.group.change(asked).await);
                });
                let late = self.world.sleep_of(None, Duration::from_secs(10));
                if let futures_util::future::Either::Left((Ok(Ok(())), _)) =
                    futures_util::future::select(waits, late).await
                {
                    self.say(format!("{change:?} is done"));
                    return true;
                }
            }
            self.world.sleep_of(None, Duration::from_millis(200)).await;
        }
        false
    }

    /// Start a node that does not run.
    pub fn start(self: &Arc<Self>, node: usize, founds: bool) {
        let life = {
            let mut places = lock(&self.places);
            places[node].life += 1;
            places[node].life
        };
        let cluster = self.clone();
        self.world.spawn(Some(node), async move { cluster.live(node, life, founds).await });
    }

    async fn live(self: Arc<Self>, node: usize, life: u64, founds: bool) {
        let (disk, slowness, name) = {
            let places = lock(&self.places);
            let place = &places[node];
            (place.disk.clone(), place.slowness.clone(), place.name.clone())
        };
        let works = Works { world: self.world.clone(), node, slowness };
        let opened = Store::open_member_run_by(Some(Arc::new(disk)), MAX_ENTRY_BYTES, Arc::new(works));
        let (store, replica) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                match lock(&self.places)[node].fails {
                    true => self.say(format!("node {node} does not open: {e}")),
                    false => self.is_wrong(format!("node {node} does not open: {e}")),
                }
                return self.will_be_killed(node, life);
            }
        };
        if founds && replica.state().is_none() {
            let founded = replica.found(Group::first_members(&name, self.peer(node))).await;
            if let Err(e) = founded {
                return self.is_wrong(format!("node {node} founds nothing: {e}"));
            }
        }
        let ways = Arc::new(Ways { cluster: self.clone(), from: node });
        let clocks = Arc::new(NodeClocks(self.world.clone(), node));
        let settings = Settings { node_id: name, joined_with: Some(self.key_hash(node)), ..self.settings.clone() };
        let group = match Group::start(&settings, replica.clone(), ways, clocks).await {
            Ok(group) => group,
            Err(e) => {
                self.say(format!("node {node} does not start: {e}"));
                return self.will_be_killed(node, life);
            }
        };
        replica.agree(group.agreement(None));
        if replica.state().is_some()
            && let Err(e) = group.knows_its_members().await
        {
            return self.is_wrong(format!("node {node}: {e}"));
        }
        group.may_lead(true);
        group.lead_if_alone().await;
        let active = Mutex::default();
        let running = Arc::new(Running { store, replica, group, active, flaw: self.flaw });
        {
            let mut places = lock(&self.places);
            if places[node].life != life {
                return;
            }
            places[node].running = Some(running.clone());
        }
        self.say(format!("node {node} runs"));
        self.follow_the_lead(node, &running).await;
    }

    /// Be active while the node leads, as the core does.
    async fn follow_the_lead(&self, node: usize, running: &Running) {
        loop {
            let lead = running.group.lead();
            let active = *lock(&running.active);
            let is_out_of_step = match active {
                Some(term) => !lead.here || lead.term != term || running.store.is_standing_by(),
                None => lead.here,
            };
            if is_out_of_step {
                if active.is_some() {
                    running.store.stand_by();
                    *lock(&running.active) = None;
                    self.say(format!("node {node} stands by"));
                }
                if lead.here && running.store.take_over(lead.term).await.is_ok() {
                    *lock(&running.active) = Some(lead.term);
                    self.say(format!("node {node} is active in term {}", lead.term));
                    continue;
                }
            }
            let late = self.world.sleep(LOOK);
            futures_util::future::select(Box::pin(running.group.changed()), late).await;
        }
    }

    /// What runs a service starts it again.
    async fn look_after(self: Arc<Self>, node: usize) {
        loop {
            let pause = self.world.ms(10, 1500);
            self.world.sleep_of(None, pause).await;
            let (is_looked_after, running) = {
                let places = lock(&self.places);
                (places[node].is_looked_after, places[node].running.clone())
            };
            let broken = running.as_ref().and_then(|r| r.group.lead().broken);
            if let Some(broken) = broken {
                self.say(format!("node {node} takes no part any more: {broken}"));
                drop(running);
                self.kill(node, Death::Kill);
            } else if running.is_none() && is_looked_after && !self.is_starting(node) {
                self.start(node, false);
            }
        }
    }

    fn is_starting(&self, node: usize) -> bool {
        self.world.has_tasks(node)
    }

    /// Whether a node is started again when it does not run.
    pub fn look_after_it(&self, node: usize, is_looked_after: bool) {
        lock(&self.places)[node].is_looked_after = is_looked_after;
    }

    /// End a node in the middle of whatever it does.
    pub fn kill(&self, node: usize, death: Death) {
        self.say(format!("node {node}: {death:?}"));
        let disk = self.disk(node);
        let left = disk.power_cut(self.keeps(death));
        self.bury(node, left);
    }

    /// What stays of what was not synced.
    fn keeps(&self, death: Death) -> impl FnMut() -> bool + Send + use<> {
        let world = self.world.clone();
        let of_a_hundred = match death {
            // The system has what a process wrote.
            Death::Kill => 100,
            Death::PowerCut => [0, 50, 90][world.below(3) as usize],
        };
        move || of_a_hundred == 100 || of_a_hundred > 0 && world.chance(of_a_hundred)
    }

    /// End a node within one of the next changes of its disk.
    pub fn kill_at_a_step(self: &Arc<Self>, node: usize, death: Death, steps: u64) {
        let disk = self.disk(node);
        let (cut, life) = {
            let places = lock(&self.places);
            (places[node].cut.clone(), places[node].life)
        };
        let (world, cluster) = (self.world.clone(), self.clone());
        let keeps = self.keeps(death);
        disk.before_step(disk.steps() + steps, move |disk| {
            // What a dead one's files are closed with does no harm.
            if lock(&cluster.places)[node].life != life {
                return;
            }
            *lock(&cut) = Some(disk.power_cut(keeps));
            cluster.say(format!("node {node}: {death:?} within a change of its disk"));
            world.end_with_this_step(node);
            let buries = cluster.clone();
            world.spawn(None, async move { buries.bury_if(node, life) });
        });
    }

    fn will_be_killed(self: &Arc<Self>, node: usize, life: u64) {
        let cluster = self.clone();
        self.world.spawn(None, async move { cluster.kill_if(node, life) });
    }

    fn kill_if(&self, node: usize, life: u64) {
        let still_lives = lock(&self.places)[node].life == life;
        if still_lives {
            self.kill(node, Death::Kill);
        }
    }

    fn bury_if(&self, node: usize, life: u64) {
        let left = {
            let places = lock(&self.places);
            (places[node].life == life).then(|| lock(&places[node].cut).take()).flatten()
        };
        if let Some(left) = left {
            self.bury(node, left);
        }
    }

    fn bury(&self, node: usize, left: SimDisk) {
        if self.flaw == Flaw::VotesAreNotKept && left.list().is_ok_and(|names| names.iter().any(|n| n == "vote")) {
            left.remove("vote").and_then(|()| left.sync_folder()).expect("a simulated disk");
        }
        left.lie(self.flaw == Flaw::DisksLie);
        let running = {
            let mut places = lock(&self.places);
            let place = &mut places[node];
            // Whatever the dead one still does reaches nothing.
            place.disk.fail_write(true);
            place.disk.fail_sync(true);
            place.fails = false;
            place.disk = left;
            place.life += 1;
            place.running.take()
        };
        self.world.freeze(node, false);
        self.world.stop_clock(node, false);
        self.world.end_now(node);
        drop(running);
    }

    /// Let a node end as it should, if it runs.
    pub async fn stop(&self, node: usize) {
        let Some(running) = self.running(node) else { return };
        let (done, waits) = tokio::sync::oneshot::channel();
        self.world.spawn(Some(node), async move {
            running.group.stop().await;
            running.store.close();
            let _nobody_waits = done.send(());
        });
        let late = self.world.sleep_of(None, Duration::from_secs(5));
        futures_util::future::select(waits, late).await;
        self.kill(node, Death::Kill);
    }

    /// From now on what is broken on purpose is.
    pub fn begin_flaw(&self) {
        for place in &*lock(&self.places) {
            place.disk.lie(self.flaw == Flaw::DisksLie);
        }
    }

    /// Let go of all nodes.
    pub fn forget(&self) {
        let gone: Vec<_> = lock(&self.places).iter_mut().filter_map(|p| p.running.take()).collect();
        drop(gone);
    }

    /// Let a node's disk refuse syncs, or everything that is written, until the node ends or it is to work again.
    pub fn disk_fails(&self, node: usize, syncs: bool, writes: bool) {
        let mut places = lock(&self.places);
        places[node].fails = syncs || writes;
        places[node].disk.fail_sync(syncs);
        places[node].disk.fail_write(writes);
    }

    /// Let a node's disk take only so many bytes more, until the node ends; or all that comes.
    pub fn has_room_for(&self, node: usize, bytes: Option<u64>) {
        let mut places = lock(&self.places);
        places[node].fails = bytes.is_some();
        places[node].disk.limit_room(bytes);
    }

    /// A node's disk is another one, with nothing on it: whoever knows the node by its former key reaches it no longer.
    pub fn lose_disk(&self, node: usize) {
        self.kill(node, Death::Kill);
        let fresh = SimDisk::default();
        fresh.lie(self.flaw == Flaw::DisksLie);
        let mut places = lock(&self.places);
        places[node].disk = fresh;
        places[node].key += 1;
    }
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    Kill,
    PowerCut,
}
