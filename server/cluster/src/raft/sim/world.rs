//! Time, chance, and what runs: one thread runs everything, one step at a time, in an order that follows from the seed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use holdfast_random::Random;

/// Something that runs.
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Id = u64;

/// What the one who runs the simulation waits for.
const MAIN: Id = 0;
/// A simulation that takes more steps than this comes to no end.
const MOST_STEPS: u64 = 20_000_000;
/// A step takes less than this.
const STEP_NS: u64 = 20_000;

/// A node's clock, which need not go as the world's does.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    /// When it was last set, and to what.
    at: u64,
    reads: u64,
    /// How much faster it goes, in millionths.
    faster: i64,
    /// The machine sleeps.
    stands: bool,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    fn read(&self, now: u64) -> u64 {
        match self.stands {
            true => self.reads,
            false => self.reads + (i128::from(now - self.at) * (MILLION + i128::from(self.faster)) / MILLION) as u64,
        }
    }

    fn set(&mut self, now: u64, change: impl FnOnce(&mut Clock)) {
        (self.reads, self.at) = (self.read(now), now);
        change(self);
    }

    /// How long the world takes until it has gone on by so much.
    fn until(&self, ns: u64) -> u64 {
        (i128::from(ns) * MILLION / (MILLION + i128::from(self.faster))) as u64 + 1
    }
}

#[derive(Default)]
struct Node {
    clock: Clock,
    /// As that one, but it goes on while the machine sleeps.
    boot: Clock,
    /// Its processes do not run.
    frozen: bool,
    /// What would run.
    held: BTreeSet<Id>,
}

struct Entry {
    /// `None` while it runs.
    task: Option<Task>,
    node: Option<usize>,
    waker: Waker,
    is_ready: bool,
}

struct Inner {
    now: u64,
    random: Random,
    next_id: Id,
    tasks: HashMap<Id, Entry>,
    /// In order of their numbers: in which they were woken may differ from run to run (tokio's `watch` has chance in it).
    ready: BTreeSet<Id>,
    timers: BTreeMap<(u64, u64), Waker>,
    next_timer: u64,
    nodes: Vec<Node>,
    /// Nodes that end with the present step.
    doomed: Vec<usize>,
    steps: u64,
    trace: u64,
}

/// A world of nodes. Clones are the same one.
#[derive(Clone)]
pub struct World(Arc<Mutex<Inner>>);

thread_local! {
    static HERE: RefCell<Option<(World, Option<usize>)>> = const { RefCell::new(None) };
}

struct Woken {
    world: Weak<Mutex<Inner>>,
    id: Id,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let Some(world) = self.world.upgrade() else { return };
        let mut inner = world.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = inner.tasks.get_mut(&self.id)
            && !std::mem::replace(&mut entry.is_ready, true)
        {
            inner.ready.insert(self.id);
        }
    }
}

impl World {
    pub fn new(seed: u64, nodes: usize) -> World {
        World(Arc::new(Mutex::new(Inner {
            now: 0,
            random: Random::new(seed),
            next_id: MAIN + 1,
            tasks: HashMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeMap::new(),
            next_timer: 0,
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            doomed: Vec::new(),
            steps: 0,
            trace: 0xcbf2_9ce4_8422_2325,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world in which this runs, and the node, if it is one's.
    pub fn here() -> Option<(World, Option<usize>)> {
        HERE.with_borrow(Clone::clone)
    }

    /// Run until this has ended. Everything else stays where it is.
    pub fn run<F: Future>(&self, main: F) -> F::Output {
        let before = HERE.replace(Some((self.clone(), None)));
        let waker = self.add(MAIN, None, None);
        let mut main = pin!(main);
        let output = loop {
            let id = self.next_ready();
            if id == MAIN {
                if let Some(entry) = self.inner().tasks.get_mut(&MAIN) {
                    entry.is_ready = false;
                }
                if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    break output;
                }
            } else {
                self.step(id);
            }
            let doomed = std::mem::take(&mut self.inner().doomed);
            for node in doomed {
                self.end(node);
            }
        };
        self.inner().tasks.remove(&MAIN);
        self.inner().ready.remove(&MAIN);
        HERE.set(before);
        output
    }

    fn add(&self, id: Id, node: Option<usize>, task: Option<Task>) -> Waker {
        let waker = Waker::from(Arc::new(Woken { world: Arc::downgrade(&self.0), id }));
        let mut inner = self.inner();
        inner.tasks.insert(id, Entry { task, node, waker: waker.clone(), is_ready: true });
        inner.ready.insert(id);
        waker
    }

    /// Let something run, as a node's or as the world's.
    pub fn spawn(&self, node: Option<usize>, task: impl Future<Output = ()> + Send + 'static) {
        let id = {
            let mut inner = self.inner();
            inner.next_id += 1;
            inner.next_id - 1
        };
        self.add(id, node, Some(Box::pin(task)));
    }

    /// Choose what runs next. Time goes on where nothing can.
    fn next_ready(&self) -> Id {
        loop {
            let mut inner = self.inner();
            inner.steps += 1;
            assert!(inner.steps < MOST_STEPS, "the simulation comes to no end");
            let took = inner.random.below(STEP_NS);
            inner.now += took;
            let due = |inner: &Inner| inner.timers.first_key_value().is_some_and(|((at, _), _)| *at <= inner.now);
            if inner.ready.is_empty() && !due(&inner) {
                let Some(((at, _), _)) = inner.timers.first_key_value() else {
                    panic!("nothing in the simulation can ever go on")
                };
                inner.now = *at;
            }
            let mut wakers = Vec::new();
            while due(&inner) {
                wakers.extend(inner.timers.pop_first().map(|(_, waker)| waker));
            }
            if !wakers.is_empty() {
                drop(inner);
                wakers.into_iter().for_each(Waker::wake);
                continue;
            }
            let count = inner.ready.len() as u64;
            let chosen = inner.random.below(count) as usize;
            let Some(id) = inner.ready.iter().nth(chosen).copied() else { continue };
            inner.ready.remove(&id);
            let node = inner.tasks.get(&id).map(|entry| entry.node);
            match node {
                None => continue,
                Some(Some(node)) if inner.nodes[node].frozen => {
                    inner.nodes[node].held.insert(id);
                    continue;
                }
                _ => {}
            }
            let seen = inner.now ^ id.rotate_left(48);
            inner.trace = (inner.trace ^ seen).wrapping_mul(0x0100_0000_01b3);
            return id;
        }
    }

    fn step(&self, id: Id) {
        let (mut task, node, waker) = {
            let mut inner = self.inner();
            let Some(entry) = inner.tasks.get_mut(&id) else { return };
            entry.is_ready = false;
            let Some(task) = entry.task.take() else { return };
            (task, entry.node, entry.waker.clone())
        };
        let outer = HERE.replace(Some((self.clone(), node)));
        let ended = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut over = Some(task);
        {
            let mut inner = self.inner();
            if ended {
                inner.tasks.remove(&id);
            } else if let Some(entry) = inner.tasks.get_mut(&id) {
                entry.task = over.take();
            }
        }
        drop(over);
        HERE.set(outer);
    }

    /// Everything that a node does ends where it is, now or with the present step.
    pub fn end_with_this_step(&self, node: usize) {
        self.inner().doomed.push(node);
    }

    /// Everything that a node does ends; called by the world's own.
    pub fn end_now(&self, node: usize) {
        self.end(node);
    }

    /// Whether anything of a node runs or waits.
    pub fn has_tasks(&self, node: usize) -> bool {
        self.inner().tasks.values().any(|entry| entry.node == Some(node))
    }

    fn end(&self, node: usize) {
        let gone: Vec<Entry> = {
            let mut inner = self.inner();
            let mut ids: Vec<Id> =
                inner.tasks.iter().filter(|(_, entry)| entry.node == Some(node)).map(|(id, _)| *id).collect();
            ids.sort_unstable();
            inner.nodes[node].held.clear();
            let gone: Vec<Entry> = ids.iter().filter_map(|id| inner.tasks.remove(id)).collect();
            inner.ready.retain(|id| !ids.contains(id));
            gone
        };
        drop(gone);
    }

    /// Let a node's processes stand still, or go on.
    pub fn freeze(&self, node: usize, frozen: bool) {
        let mut inner = self.inner();
        inner.nodes[node].frozen = frozen;
        if !frozen {
            let held = std::mem::take(&mut inner.nodes[node].held);
            inner.ready.extend(held);
        }
    }

    /// Whether a node's processes stand still.
    pub fn is_frozen(&self, node: usize) -> bool {
        self.inner().nodes[node].frozen
    }

    /// Let the clock stand still by which a node measures how long something takes, or go on.
    pub fn stop_clock(&self, node: usize, stands: bool) {
        let mut inner = self.inner();
        let now = inner.now;
        inner.nodes[node].clock.set(now, |clock| clock.stands = stands);
    }

    /// Let a node's clock go faster, by millionths, or slower.
    pub fn pace(&self, node: usize, faster: i64) {
        let mut inner = self.inner();
        let now = inner.now;
        let node = &mut inner.nodes[node];
        node.clock.set(now, |clock| clock.faster = faster);
        node.boot.set(now, |clock| clock.faster = faster);
    }

    /// The time.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.inner().now)
    }

    /// The time by a node's clock.
    pub fn clock(&self, node: Option<usize>) -> Duration {
        let inner = self.inner();
        Duration::from_nanos(node.map_or(inner.now, |node| inner.nodes[node].clock.read(inner.now)))
    }

    /// The time since a node's boot, sleep included.
    pub fn boot(&self, node: usize) -> Duration {
        let inner = self.inner();
        Duration::from_nanos(inner.nodes[node].boot.read(inner.now))
    }

    /// Less than `n`, by chance.
    pub fn below(&self, n: u64) -> u64 {
        self.inner().random.below(n)
    }

    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Something from so many milliseconds on to before so many.
    pub fn ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.below((to - from) * 1000))
    }

    pub fn random(&self) -> u64 {
        self.inner().random.next()
    }

    /// The way that it went, in one number.
    pub fn trace(&self) -> u64 {
        self.inner().trace
    }

    /// Look at something as a node does, by its clock.
    pub fn as_node<R>(&self, node: usize, look: impl FnOnce() -> R) -> R {
        let outer = HERE.replace(Some((self.clone(), Some(node))));
        let seen = look();
        HERE.set(outer);
        seen
    }

    /// Everything is over: whoever has something of the world lets it go.
    pub fn dissolve(&self) {
        loop {
            let mut gone: Vec<(Id, Entry)> = self.inner().tasks.drain().collect();
            if gone.is_empty() {
                break;
            }
            gone.sort_unstable_by_key(|(id, _)| *id);
            drop(gone);
        }
        self.inner().timers.clear();
    }

    /// Ends when the clock of the one who waits says so.
    pub fn sleep(&self, time: Duration) -> Sleep {
        let node = World::here().and_then(|(_, node)| node);
        self.sleep_of(node, time)
    }

    pub fn sleep_of(&self, node: Option<usize>, time: Duration) -> Sleep {
        Sleep { until: self.clock(node) + time, node, world: self.clone(), timer: None }
    }

    pub fn sleep_until(&self, until: Duration) -> Sleep {
        let node = World::here().and_then(|(_, node)| node);
        Sleep { until, node, world: self.clone(), timer: None }
    }
}

/// Waits for a time.
pub struct Sleep {
    until: Duration,
    node: Option<usize>,
    world: World,
    timer: Option<(u64, u64)>,
}

impl Sleep {
    fn forget(&mut self, inner: &mut Inner) {
        if let Some(timer) = self.timer.take() {
            inner.timers.remove(&timer);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let world = self.world.clone();
        let mut inner = world.inner();
        self.forget(&mut inner);
        let clock = match self.node {
            Some(node) => inner.nodes[node].clock,
            None => Clock::default(),
        };
        let until = u64::try_from(self.until.as_nanos()).unwrap_or(u64::MAX / 4);
        let left = until.saturating_sub(clock.read(inner.now));
        if left == 0 {
            return Poll::Ready(());
        }
        let timer = (inner.now.saturating_add(clock.until(left)), inner.next_timer);
        inner.next_timer += 1;
        inner.timers.insert(timer, cx.waker().clone());
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let world = self.world.clone();
        self.forget(&mut world.inner());
    }
}
