//! The world as openraft's runtime, and as what runs a store's own work.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_core::clock::Clocks;
use holdfast_sdk::Timestamp;
use holdfast_storage::executor::{Executor, Running, Work};
use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::oneshot;

use super::world::{Sleep, World};

/// openraft's runtime: the world in which it is used.
pub struct Runtime(World);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a simulation")
    }
}

fn world() -> World {
    World::here().expect("a simulation").0
}

/// A time by a node's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl openraft::Instant for Instant {
    fn now() -> Instant {
        // Outside of a simulation nothing moves the time.
        Instant(World::here().map_or(Duration::ZERO, |(world, node)| world.clock(node)))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, time: Duration) -> Instant {
        Instant(self.0.saturating_add(time))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, time: Duration) -> Instant {
        Instant(self.0.saturating_sub(time))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, time: Duration) {
        *self = *self - time;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Waits for what was begun.
pub struct Joining<T>(oneshot::Receiver<T>);

/// What was begun has not ended by itself: its node has.
#[derive(Debug)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is gone")
    }
}

impl<T> Future for Joining<T> {
    type Output = Result<T, Gone>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, Gone>> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| Gone)
    }
}

/// Something that has to end by a time.
pub struct Within<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

#[derive(Debug)]
pub struct Late;

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it took too long")
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Result<F::Output, Late>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| Err(Late))
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = Gone;
    type JoinHandle<T: OptionalSend + 'static> = Joining<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Late;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Within<T>;
    type ThreadLocalRng = SmallRng;

    fn spawn<T>(future: T) -> Joining<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (world, node) = World::here().expect("a simulation");
        let (ended, joining) = oneshot::channel();
        world.spawn(node, async move {
            let _nobody_waits = ended.send(future.await);
        });
        Joining(joining)
    }

    fn sleep(time: Duration) -> Sleep {
        world().sleep(time)
    }

    fn sleep_until(until: Instant) -> Sleep {
        world().sleep_until(until.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(time: Duration, future: F) -> Within<F> {
        Within { future: Box::pin(future), sleep: world().sleep(time) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(until: Instant, future: F) -> Within<F> {
        Within { future: Box::pin(future), sleep: world().sleep_until(until.0) }
    }

    fn is_panic(_: &Gone) -> bool {
        false
    }

    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(world().random())
    }

    // These need no runtime: they wake whoever waits.
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn new(_threads: usize) -> Runtime {
        Runtime(World::new(0, 1))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.run(future)
    }
}

/// A node's clocks, as [`Clocks`] has them.
pub struct NodeClocks(pub World, pub usize);

impl Clocks for NodeClocks {
    fn wall(&self) -> Timestamp {
        Timestamp(u64::try_from(self.0.now().as_nanos()).unwrap_or(u64::MAX))
    }

    fn boot(&self) -> Duration {
        self.0.boot(self.1)
    }
}

type Slot = Arc<Mutex<Option<Work>>>;

fn take(slot: &Slot) -> Option<Work> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Runs what a node's store does by itself. Before each step the disk takes its time.
pub struct Works {
    pub world: World,
    pub node: usize,
    /// How long it takes at most.
    pub slowness: Arc<Mutex<Duration>>,
}

impl Works {
    /// A node's, on a disk that takes no time.
    pub fn of(world: World, node: usize) -> Works {
        Works { world, node, slowness: Arc::default() }
    }
}

struct InSteps {
    slot: Slot,
    world: World,
    slowness: Arc<Mutex<Duration>>,
    pause: Option<Sleep>,
}

impl Future for InSteps {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let world = self.world.clone();
        let most = *self.slowness.lock().unwrap_or_else(PoisonError::into_inner);
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).max(1);
        let pause = self.pause.get_or_insert_with(|| world.sleep(Duration::from_nanos(world.below(most))));
        if Pin::new(pause).poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.pause = None;
        let Some(mut work) = take(&self.slot) else { return Poll::Ready(()) };
        let done = work.as_mut().poll(cx);
        if done.is_pending() {
            *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        }
        done
    }
}

impl Drop for InSteps {
    fn drop(&mut self) {
        drop(take(&self.slot));
    }
}

impl Executor for Works {
    fn start(&self, _name: &'static str, work: Work) -> io::Result<Box<dyn Running>> {
        let slot = Arc::new(Mutex::new(Some(work)));
        let steps =
            InSteps { slot: slot.clone(), world: self.world.clone(), slowness: self.slowness.clone(), pause: None };
        self.world.spawn(Some(self.node), steps);
        Ok(Box::new(Begun(slot)))
    }

    fn sleep(&self, time: Duration) -> Work {
        Box::pin(self.world.sleep_of(Some(self.node), time))
    }

    fn now(&self) -> Duration {
        self.world.clock(Some(self.node))
    }

    fn has_threads(&self) -> bool {
        false
    }
}

struct Begun(Slot);

impl Running for Begun {
    /// Most of what is asked to end needs nobody else for it. What still waits for somebody is broken off, as where a
    /// process is killed while it ends: whoever waits for its word is told by nobody.
    fn join(self: Box<Self>) {
        const TRIES: usize = 1000;
        let Some(mut work) = take(&self.0) else { return };
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..TRIES {
            if work.as_mut().poll(&mut cx).is_ready() {
                return;
            }
        }
    }
}
