//! Logins that wait for their second factor: each serves once and for minutes, so they live in the memory of the
//! active node alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_sdk::{Error, Login, Result, Timestamp};

use super::SecondFactors;
use crate::layout::NamespaceId;
use crate::random;

const LIFE_SECS: u64 = 5 * 60;
/// Logins at a time.
const MOST: usize = 10_000;
/// Logins at a time of one user: nobody takes the room of all others.
const MOST_OF_ONE: usize = 16;

type Id = [u8; 16];

/// A login that has shown its first factor.
pub struct Waiting {
    pub id: Id,
    pub namespace: NamespaceId,
    /// The auth mount, and how often it had been moved.
    pub mount: ([u8; 16], u32),
    /// Where it asked.
    pub path: String,
    pub login: Login,
}

impl Waiting {
    fn user(&self) -> ([u8; 16], &str) {
        (self.mount.0, self.login.alias.as_ref().map_or("", |a| a.name.as_str()))
    }
}

struct Kept {
    waiting: Arc<Waiting>,
    end: Timestamp,
    /// A request is validating it.
    claimed: bool,
}

/// By what the client was given.
#[derive(Default)]
pub struct WaitingLogins(Mutex<HashMap<Id, Kept>>);

impl WaitingLogins {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forget those of some namespaces.
    pub fn forget_of(&self, is_one: impl Fn(&NamespaceId) -> bool) {
        self.all().retain(|_, kept| !is_one(&kept.waiting.namespace));
    }

    pub fn keep(&self, waiting: Waiting, now: Timestamp) -> Result<()> {
        let mut all = self.all();
        all.retain(|_, kept| kept.end > now || kept.claimed);
        let own = all.values().filter(|kept| kept.waiting.user() == waiting.user());
        let own: Vec<(Timestamp, Id)> = own.map(|kept| (kept.end, kept.waiting.id)).collect();
        if own.len() >= MOST_OF_ONE
            && let Some((_, oldest)) = own.into_iter().min()
        {
            all.remove(&oldest);
        }
        if all.len() >= MOST {
            return Err(Error::Unavailable("too many logins wait for their second factor; try again".into()));
        }
        all.insert(waiting.id, Kept { waiting: Arc::new(waiting), end: now.plus_secs(LIFE_SECS), claimed: false });
        Ok(())
    }
}

/// A waiting login that one request validates. If that fails it waits on.
pub struct Claim {
    factors: Arc<SecondFactors>,
    pub waiting: Arc<Waiting>,
    succeeded: std::sync::atomic::AtomicBool,
}

impl Claim {
    /// The login of an id in a namespace. None: there is no such one.
    pub fn new(
        factors: &Arc<SecondFactors>,
        namespace: NamespaceId,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<Claim>> {
        let mut all = factors.waiting.all();
        let found = random::parse_uuid(id).and_then(|id| all.get_mut(&id));
        let Some(kept) = found.filter(|k| k.waiting.namespace == namespace && k.end > now) else { return Ok(None) };
        if std::mem::replace(&mut kept.claimed, true) {
            return Err(Error::Unavailable("another request validates this login".into()));
        }
        let waiting = kept.waiting.clone();
        Ok(Some(Claim { factors: factors.clone(), waiting, succeeded: false.into() }))
    }

    /// Its token is about to be committed: it waits no more.
    pub fn succeeded(&self) {
        self.succeeded.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.factors.waiting.all();
        match self.succeeded.load(std::sync::atomic::Ordering::SeqCst) {
            true => {
                all.remove(&self.waiting.id);
            }
            false => {
                if let Some(kept) = all.get_mut(&self.waiting.id) {
                    kept.claimed = false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(user: &str) -> Waiting {
        let alias = holdfast_sdk::Alias { name: user.into(), metadata: Vec::new() };
        let login = Login { alias: Some(alias), ..Login::default() };
        Waiting { id: random::uuid().unwrap(), namespace: [0; 16], mount: ([1; 16], 0), path: String::new(), login }
    }

    #[test]
    fn a_login_waits_for_one_request_at_a_time_and_serves_once() {
        let (factors, now) = (Arc::new(SecondFactors::default()), Timestamp(1_000_000_000));
        let one = waiting("ann");
        let id = random::uuid_text(&one.id);
        factors.waiting.keep(one, now).unwrap();
        let claim = |namespace, now| Claim::new(&factors, namespace, &id, now);
        assert!(claim([7; 16], now).unwrap().is_none(), "it is its namespace's");
        let held = claim([0; 16], now).unwrap().unwrap();
        assert!(claim([0; 16], now).is_err(), "one at a time");
        drop(held);
        let held = claim([0; 16], now).unwrap().expect("it waits on after a failure");
        held.succeeded();
        drop(held);
        assert!(claim([0; 16], now).unwrap().is_none());
    }

    #[test]
    fn logins_do_not_wait_for_long_and_nobody_takes_all_the_room() {
        let (factors, now) = (Arc::new(SecondFactors::default()), Timestamp(1_000_000_000));
        let other = waiting("bob");
        let id = random::uuid_text(&other.id);
        factors.waiting.keep(other, now).unwrap();
        for n in 0..3 * MOST_OF_ONE as u64 {
            factors.waiting.keep(waiting("ann"), now.plus_secs(n)).unwrap();
        }
        assert_eq!(factors.waiting.all().len(), MOST_OF_ONE + 1);
        assert!(Claim::new(&factors, [0; 16], &id, now.plus_secs(LIFE_SECS - 1)).unwrap().is_some());
        assert!(Claim::new(&factors, [0; 16], &id, now.plus_secs(LIFE_SECS)).unwrap().is_none());
        factors.waiting.keep(waiting("eve"), now.plus_secs(2 * LIFE_SECS)).unwrap();
        assert_eq!(factors.waiting.all().len(), 1);
    }
}
