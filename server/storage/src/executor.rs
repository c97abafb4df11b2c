//! Who runs what a store does by itself: threads, or whoever runs it step by step.
//!
//! Each work is a future that does its reading and writing of files inside of its steps, and waits between them only.
//! On [`Threads`] each has a thread of its own, which parks where the work waits. A simulation runs the same works on
//! one thread, in an order and at times that it chooses.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Something that goes on until it ends by itself.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs works.
pub trait Executor: Send + Sync + 'static {
    /// Begin a work, which goes on beside everything else.
    fn start(&self, name: &'static str, work: Work) -> io::Result<Box<dyn Running>>;
    /// Ends after this time; awaited by works only.
    fn sleep(&self, time: Duration) -> Work;
    /// Time that has passed since some moment.
    fn now(&self) -> Duration;
    /// Whether what reads or copies a whole file may have a thread beside.
    fn has_threads(&self) -> bool;
}

/// A work that was begun.
pub trait Running: Send {
    /// Wait until it has ended, which was asked of it.
    fn join(self: Box<Self>);
}

/// Each work has a thread of its own.
#[derive(Debug, Clone)]
pub struct Threads {
    began: Instant,
}

impl Default for Threads {
    fn default() -> Threads {
        Threads { began: Instant::now() }
    }
}

const STACK_BYTES: usize = 512 << 10;

impl Executor for Threads {
    fn start(&self, name: &'static str, work: Work) -> io::Result<Box<dyn Running>> {
        let thread = thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
        Ok(Box::new(thread.spawn(move || run(work))?))
    }

    fn sleep(&self, time: Duration) -> Work {
        let until = Instant::now() + time;
        Box::pin(poll_fn(move |_| {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            // Whoever runs the work looks again at this time.
            LOOK_AGAIN.set(Some(LOOK_AGAIN.get().map_or(until, |at| at.min(until))));
            Poll::Pending
        }))
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn has_threads(&self) -> bool {
        true
    }
}

impl Running for thread::JoinHandle<()> {
    fn join(self: Box<Self>) {
        let _panicked = (*self).join();
    }
}

thread_local! {
    static LOOK_AGAIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

struct Woken {
    thread: thread::Thread,
    is: AtomicBool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is.swap(true, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

/// Run a work on this thread, to its end.
fn run(work: Work) {
    let woken = Arc::new(Woken { thread: thread::current(), is: AtomicBool::new(false) });
    let waker = Waker::from(woken.clone());
    let mut work = pin!(work);
    loop {
        LOOK_AGAIN.set(None);
        if work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return;
        }
        let until = LOOK_AGAIN.get();
        while !woken.is.swap(false, Ordering::SeqCst) {
            match until.map(|at| at.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(Duration::ZERO) => break,
                Some(left) => thread::park_timeout(left),
            }
        }
    }
}

/// Wakes a work. Rung while nobody waits, it wakes the next one who does.
#[derive(Default)]
pub(crate) struct Bell(Notify);

impl Bell {
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Until it is rung.
    pub async fn rung(&self) {
        self.0.notified().await;
    }

    /// Until it is rung, or so long.
    pub async fn rung_or(&self, executor: &dyn Executor, most: Duration) {
        let mut rung = pin!(self.0.notified());
        let mut late = executor.sleep(most);
        poll_fn(|cx| match rung.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => late.as_mut().poll(cx),
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_work_on_a_thread_is_woken_by_its_bell_and_by_the_time() {
        let threads = Threads::default();
        let bell = Arc::new(Bell::default());
        let (said, heard) = channel();
        let (rings, on) = (bell.clone(), threads.clone());
        let work = async move {
            rings.rung().await;
            said.send("rung").unwrap();
            rings.rung_or(&on, Duration::from_millis(1)).await;
            said.send("late").unwrap();
        };
        let running = threads.start("work", Box::pin(work)).unwrap();
        assert!(heard.try_recv().is_err());
        bell.ring();
        assert_eq!(heard.recv().unwrap(), "rung");
        assert_eq!(heard.recv().unwrap(), "late");
        running.join();
    }
}
