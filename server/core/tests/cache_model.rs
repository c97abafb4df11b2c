//! The caches of tokens and of policies, tried in every order in which threads can run (loom): no request
//! that starts after a revocation's answer succeeds, and what was granted counts as soon as it is answered.
//!
//! The caches are the server's own files, compiled with loom's locks. What is a model is around them: a
//! store of snapshots, a commit that invalidates before it publishes, and a request that reads as
//! `core/handle/judge` does.

#[allow(dead_code)]
#[path = "../src/cache.rs"]
mod cache;
#[allow(dead_code)]
#[path = "../src/unions.rs"]
mod unions;

/// What the files above are compiled with here.
mod sync {
    pub use loom::sync::RwLock;
    pub use loom::sync::atomic::{AtomicU64, Ordering};
    pub use std::sync::{Arc, PoisonError};

    /// The same shards in every run: loom repeats what it has tried.
    pub type RandomState = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;
}

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::Cache;
use loom::sync::Mutex;
use loom::thread;
use unions::{Names, Unions};

const TOKEN: &[u8] = b"token/t";
const OTHER_TOKEN: &[u8] = b"token/u";
const POLICY: &[u8] = b"policy/p";

/// What a key holds: a token's record names its entity's state, a policy says whether it grants.
type State = BTreeMap<&'static [u8], u64>;

/// A snapshot and its index.
type View = (u64, Arc<State>);

struct Server {
    view: Mutex<View>,
    sessions: Cache<u64>,
    policies: Unions<bool, u64>,
}

impl Server {
    fn new(state: &[(&'static [u8], u64)]) -> Arc<Server> {
        let state: State = state.iter().copied().collect();
        Arc::new(Server {
            view: Mutex::new((1, Arc::new(state))),
            sessions: Cache::new(1 << 10),
            policies: Unions::new(1 << 10),
        })
    }

    /// One batch after the other is applied: the caches are told before the new state can be seen.
    fn commit(&self, change: impl FnOnce(&mut State)) {
        let (index, before) = self.snapshot();
        let mut after = State::clone(&before);
        change(&mut after);
        let index = index + 1;
        let changed = |key: &[u8]| before.get(key) != after.get(key);
        for key in [TOKEN, OTHER_TOKEN] {
            if changed(key) {
                self.sessions.invalidate(key, index);
            }
        }
        if changed(POLICY) {
            self.policies.invalidate(index);
        }
        *self.view.lock().unwrap() = (index, Arc::new(after));
    }

    fn snapshot(&self) -> View {
        self.view.lock().unwrap().clone()
    }

    /// Whether a request with that token is allowed.
    fn allows(&self, token: &'static [u8]) -> bool {
        let (index, state) = self.snapshot();
        let session = match self.sessions.get(token) {
            Some(session) => session,
            None => {
                let Some(read) = state.get(token) else { return false };
                let session = Arc::new(*read);
                self.sessions.insert(token, session.clone(), index);
                session
            }
        };
        let names = Names::from(Arc::from(["p".to_owned()]));
        let made_for = (*session > 0).then_some((&[7; 16], &session));
        let grants = state.get(POLICY) == Some(&1);
        if let Some(union) = self.policies.get(index, &names, made_for) {
            // What the request commits stands on the policies as of its snapshot.
            assert_eq!(*union, grants);
            return *union;
        }
        let union = Arc::new(grants);
        self.policies.insert(index, &names, made_for, union.clone());
        *union
    }
}

/// Threads that are switched more often than this find nothing new, and take hours.
fn every_order(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(run);
}

#[test]
fn what_was_read_before_a_change_is_not_kept_after_it() {
    every_order(|| {
        let cache = Cache::new(100);
        cache.insert(b"k", Arc::new(1), 5);
        assert_eq!(cache.get(b"k").as_deref(), Some(&1));
        cache.invalidate(b"k", 6);
        assert!(cache.get(b"k").is_none());
        cache.insert(b"k", Arc::new(1), 5);
        assert!(cache.get(b"k").is_none());
        cache.insert(b"k", Arc::new(2), 6);
        assert_eq!(cache.get(b"k").as_deref(), Some(&2));
        assert!(cache.get_at(b"k", 5).is_none(), "an older snapshot does not see it");
        assert_eq!(cache.get_at(b"k", 7).as_deref(), Some(&2));
    });
}

#[test]
fn no_request_after_a_tokens_revocation_succeeds() {
    every_order(|| {
        let server = Server::new(&[(TOKEN, 0), (POLICY, 1)]);
        let slow = {
            let server = server.clone();
            thread::spawn(move || server.allows(TOKEN))
        };
        let revoker = {
            let server = server.clone();
            thread::spawn(move || {
                server.commit(|state| {
                    state.remove(TOKEN);
                });
                // Its answer is here; what starts now is refused, whoever is under way.
                assert!(!server.allows(TOKEN));
            })
        };
        let _either_is_right = slow.join().unwrap();
        revoker.join().unwrap();
        assert!(!server.allows(TOKEN));
    });
}

#[test]
fn no_request_after_a_rights_withdrawal_succeeds() {
    every_order(|| {
        let server = Server::new(&[(TOKEN, 1), (POLICY, 1)]);
        let slow = {
            let server = server.clone();
            thread::spawn(move || server.allows(TOKEN))
        };
        let withdrawer = {
            let server = server.clone();
            thread::spawn(move || {
                server.commit(|state| {
                    state.insert(POLICY, 0);
                });
                assert!(!server.allows(TOKEN));
            })
        };
        let _either_is_right = slow.join().unwrap();
        withdrawer.join().unwrap();
        assert!(!server.allows(TOKEN));
    });
}

#[test]
fn what_is_granted_again_counts_at_once() {
    every_order(|| {
        let server = Server::new(&[(TOKEN, 0), (POLICY, 1)]);
        let slow = {
            let server = server.clone();
            thread::spawn(move || server.allows(TOKEN))
        };
        server.commit(|state| {
            state.insert(POLICY, 0);
        });
        assert!(!server.allows(TOKEN));
        server.commit(|state| {
            state.insert(POLICY, 1);
        });
        assert!(server.allows(TOKEN));
        let _either_is_right = slow.join().unwrap();
        assert!(server.allows(TOKEN));
    });
}

/// Two requests that are under way, one of a token in the same cache, while a token is revoked.
#[test]
fn requests_of_others_bring_no_revoked_token_back() {
    every_order(|| {
        let server = Server::new(&[(TOKEN, 0), (OTHER_TOKEN, 0), (POLICY, 1)]);
        let under_way: Vec<_> = [TOKEN, OTHER_TOKEN]
            .into_iter()
            .map(|token| {
                let server = server.clone();
                thread::spawn(move || server.allows(token))
            })
            .collect();
        server.commit(|state| {
            state.remove(TOKEN);
        });
        assert!(!server.allows(TOKEN));
        let outcomes: Vec<bool> = under_way.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(outcomes[1], "the other's token was good all the time");
        assert!(!server.allows(TOKEN) && server.allows(OTHER_TOKEN));
    });
}
