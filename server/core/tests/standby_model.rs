//! A node that stands by, tried in every order in which threads can run (loom): a reader that is made while a token's
//! revocation is applied takes the token never again, and who has read something there finds it at the active node.
//!
//! The cache is the server's own file, compiled with loom's locks. What is a model is around it, as `core/reading`,
//! `storage/member_writer` and `cluster/raft/network` do it. Each model is tried without what it is about as well, and
//! then has to fail.

#[allow(dead_code)]
#[path = "../src/cache.rs"]
mod cache;

/// What the file above is compiled with here.
mod sync {
    pub use loom::sync::RwLock;
    pub use std::sync::{Arc, PoisonError};

    /// The same shards in every run: loom repeats what it has tried.
    pub type RandomState = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;
}

use std::sync::Arc;

use cache::Cache;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

const TOKEN: &[u8] = b"token/t";

struct Reading {
    sessions: Cache<u64>,
    ready: AtomicBool,
}

/// A member that stands by: an index, and whether the token is there.
struct Member {
    view: Mutex<(u64, bool)>,
    /// Up to where it is being applied, and up to where that is seen.
    applying: Mutex<u64>,
    published: AtomicU64,
    reading: Mutex<Option<Arc<Reading>>>,
}

impl Member {
    fn new() -> Arc<Member> {
        Arc::new(Member {
            view: Mutex::new((1, true)),
            applying: Mutex::new(1),
            published: AtomicU64::new(1),
            reading: Mutex::new(None),
        })
    }

    /// The log thread applies the revocation.
    fn revoke(&self) {
        *self.applying.lock().unwrap() = 2;
        if let Some(reading) = &*self.reading.lock().unwrap() {
            reading.sessions.invalidate(TOKEN, 2);
        }
        *self.view.lock().unwrap() = (2, false);
        self.published.store(2, Ordering::SeqCst);
    }

    fn make_reader(&self, waits: bool) {
        let reading = Arc::new(Reading { sessions: Cache::new(1 << 10), ready: AtomicBool::new(false) });
        *self.reading.lock().unwrap() = Some(reading.clone());
        let heard_from = *self.applying.lock().unwrap();
        while waits && self.published.load(Ordering::SeqCst) < heard_from {
            thread::yield_now();
        }
        reading.ready.store(true, Ordering::SeqCst);
    }

    /// Whether a request with the token is allowed; `None`: it is passed on.
    fn allows(&self) -> Option<bool> {
        let reading = self.reading.lock().unwrap().clone().filter(|r| r.ready.load(Ordering::SeqCst))?;
        let (index, is_there) = *self.view.lock().unwrap();
        if reading.sessions.get(TOKEN).is_some() {
            return Some(true);
        }
        if is_there {
            reading.sessions.insert(TOKEN, Arc::new(0), index);
        }
        Some(is_there)
    }
}

/// Threads that are switched more often than this find nothing new, and take hours.
fn every_order(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(run);
}

fn a_reader_made_meanwhile(waits: bool) {
    every_order(move || {
        let member = Member::new();
        let log = {
            let member = member.clone();
            thread::spawn(move || member.revoke())
        };
        let maker = {
            let member = member.clone();
            thread::spawn(move || {
                member.make_reader(waits);
                let _either_is_right = member.allows();
            })
        };
        log.join().unwrap();
        maker.join().unwrap();
        // The revocation is applied: what is asked from here on is refused, or passed on.
        assert_ne!(member.allows(), Some(true));
    });
}

#[test]
fn a_reader_that_is_made_while_a_token_is_revoked_does_not_keep_it() {
    a_reader_made_meanwhile(true);
}

#[test]
#[should_panic(expected = "left != right")]
fn one_that_does_not_wait_for_what_it_has_not_heard_of_would() {
    a_reader_made_meanwhile(false);
}

/// The leader and one that follows: what each shows, and up to where the other was told to apply.
#[derive(Default)]
struct Pair {
    committed: AtomicU64,
    leader_shows: AtomicU64,
    told: AtomicU64,
    follower_shows: AtomicU64,
}

fn reads_here_and_there(tells_what_it_shows: bool) {
    every_order(move || {
        let pair = Arc::new(Pair::default());
        let leader = {
            let pair = pair.clone();
            thread::spawn(move || {
                pair.committed.store(1, Ordering::SeqCst);
                pair.leader_shows.store(1, Ordering::SeqCst);
            })
        };
        let follower = {
            let pair = pair.clone();
            thread::spawn(move || {
                let committed = pair.committed.load(Ordering::SeqCst);
                let shown = pair.leader_shows.load(Ordering::SeqCst);
                let told = if tells_what_it_shows { committed.min(shown) } else { committed };
                pair.told.store(told, Ordering::SeqCst);
                pair.follower_shows.store(told, Ordering::SeqCst);
            })
        };
        let here = pair.follower_shows.load(Ordering::SeqCst);
        let there = pair.leader_shows.load(Ordering::SeqCst);
        assert!(there >= here, "time went back");
        leader.join().unwrap();
        follower.join().unwrap();
    });
}

#[test]
fn what_was_read_at_a_node_that_stands_by_is_there_at_the_active_one() {
    reads_here_and_there(true);
}

#[test]
#[should_panic(expected = "time went back")]
fn it_would_not_be_if_others_applied_what_is_not_shown_yet() {
    reads_here_and_there(false);
}
