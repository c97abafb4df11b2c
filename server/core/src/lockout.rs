//! Users that failed to log in too often stay out for a while.
//!
//! Kept in memory only: a restart forgets it, and with it every lock. What is counted is bounded; when there
//! is no room, the oldest count that is not a lock makes way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use holdfast_sdk::Timestamp;

use crate::router::{Lockout, MountEntry};

/// Users that are counted at most.
const MAX_USERS: usize = 100_000;

/// Methods that lock users out, as in the reference.
const METHODS: &[&str] = &["userpass", "ldap", "approle"];

#[derive(Debug, Clone, Copy)]
struct Count {
    failures: u64,
    last: Timestamp,
    /// Stays out until then, by the settings of the moment it was locked.
    locked_until: Option<Timestamp>,
}

/// What a failed login does to its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// One more that counts, if the mount locks users out.
    Counts,
    /// It was one too many: the user stays out until then.
    Locks(Timestamp),
    /// The user was locked out before it, so that it does not count.
    WasLocked,
}

/// When somebody is locked out, with the defaults filled in.
#[derive(Debug, Clone, Copy)]
struct Limits {
    threshold: u64,
    duration_secs: u64,
    reset_secs: u64,
}

/// `user_lockout` of the configuration.
#[derive(Debug, Clone)]
pub struct UserLockout {
    /// `userpass`, …; none: all methods that have none of their own.
    pub method: Option<&'static str>,
    pub lockout: Lockout,
}

/// By the mount's accessor and the name in lower case.
pub struct Lockouts {
    configured: Vec<UserLockout>,
    users: Mutex<HashMap<(String, String), Count>>,
}

fn key(mount: &MountEntry, name: &str) -> (String, String) {
    (mount.accessor.clone(), name.to_lowercase())
}

impl Lockouts {
    pub fn new(configured: Vec<UserLockout>) -> Lockouts {
        Lockouts { configured, users: Mutex::default() }
    }

    /// What counts for a mount: its own tune, else the configuration. None: it locks nobody out.
    fn limits(&self, mount: &MountEntry) -> Option<Limits> {
        if !METHODS.contains(&mount.kind.as_str()) {
            return None;
        }
        let of = |method: Option<&str>| self.configured.iter().find(|c| c.method == method).map(|c| c.lockout.clone());
        let configured = of(Some(&mount.kind)).or_else(|| of(None)).unwrap_or_default();
        let own = mount.lockout.clone().unwrap_or_else(|| configured.clone());
        let pick = |own: u64, configured: u64, usual: u64| [own, configured, usual].into_iter().find(|n| *n > 0);
        (!own.disabled).then_some(())?;
        Some(Limits {
            threshold: pick(own.threshold, configured.threshold, 5)?,
            duration_secs: pick(own.duration_secs, configured.duration_secs, 900)?,
            reset_secs: pick(own.counter_reset_secs, configured.counter_reset_secs, 900)?,
        })
    }

    fn users(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Count>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a user may not even try.
    pub fn holds(&self, mount: &MountEntry, name: &str, now: Timestamp) -> bool {
        let count = self.users().get(&key(mount, name)).copied();
        self.limits(mount).is_some() && count.and_then(|c| c.locked_until).is_some_and(|end| end > now)
    }

    /// A login failed.
    pub fn failed(&self, mount: &MountEntry, name: &str, now: Timestamp) -> Failed {
        let Some(limits) = self.limits(mount) else { return Failed::Counts };
        let mut users = self.users();
        if users.get(&key(mount, name)).and_then(|c| c.locked_until).is_some_and(|end| end > now) {
            return Failed::WasLocked;
        }
        if users.len() >= MAX_USERS && !users.contains_key(&key(mount, name)) {
            let oldest = users.iter().filter(|(_, c)| c.locked_until.is_none_or(|end| end <= now));
            let oldest = oldest.min_by_key(|(_, c)| c.last).map(|(k, _)| k.clone());
            // All are locks: then nobody new is counted, and no lock is lost.
            let Some(oldest) = oldest else { return Failed::Counts };
            users.remove(&oldest);
        }
        let count = users.entry(key(mount, name)).or_insert(Count { failures: 0, last: now, locked_until: None });
        let over = count.last.plus_secs(limits.reset_secs) <= now || count.locked_until.is_some_and(|end| end <= now);
        if over {
            *count = Count { failures: 0, last: now, locked_until: None };
        }
        count.failures += 1;
        count.last = now;
        if count.failures < limits.threshold {
            return Failed::Counts;
        }
        let until = now.plus_secs(limits.duration_secs);
        count.locked_until = Some(until);
        Failed::Locks(until)
    }

    /// A login succeeded, or an operator lets the user in again.
    pub fn forget(&self, accessor: &str, name: &str) {
        self.users().remove(&(accessor.to_owned(), name.to_lowercase()));
    }

    /// The users that are locked out: by mount accessor, sorted.
    pub fn locked(&self, now: Timestamp) -> Vec<(String, String)> {
        let users = self.users();
        let locked = users.iter().filter(|(_, c)| c.locked_until.is_some_and(|end| end > now));
        let mut found: Vec<(String, String)> = locked.map(|(k, _)| k.clone()).collect();
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(threshold: u64, disabled: bool) -> MountEntry {
        let mut mount = MountEntry::new("up/", true, "userpass").unwrap();
        mount.lockout = Some(Lockout { threshold, duration_secs: 60, counter_reset_secs: 30, disabled });
        mount
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1000 + secs)
    }

    #[test]
    fn a_lock_holds_for_its_time_and_counts_wear_off() {
        let (lockouts, mount) = (Lockouts::new(Vec::new()), mount(3, false));
        lockouts.failed(&mount, "Bob", at(0));
        lockouts.failed(&mount, "bob", at(29));
        lockouts.failed(&mount, "bob", at(59));
        assert!(!lockouts.holds(&mount, "bob", at(60)), "the first two have worn off");
        lockouts.failed(&mount, "bob", at(61));
        assert_eq!(lockouts.failed(&mount, "BOB", at(62)), Failed::Locks(at(122)));
        assert_eq!(
            lockouts.failed(&mount, "bob", at(70)),
            Failed::WasLocked,
            "what fails meanwhile does not make it longer"
        );
        assert!(lockouts.holds(&mount, "bob", at(63)) && lockouts.holds(&mount, "Bob", at(121)));
        assert!(!lockouts.holds(&mount, "ann", at(63)));
        assert!(!lockouts.holds(&mount, "bob", at(122)));
        lockouts.failed(&mount, "bob", at(123));
        assert!(!lockouts.holds(&mount, "bob", at(124)), "the count starts anew after a lock");
    }

    #[test]
    fn a_success_or_an_operator_ends_it() {
        let (lockouts, mount) = (Lockouts::new(Vec::new()), mount(1, false));
        lockouts.failed(&mount, "bob", at(0));
        assert_eq!(lockouts.locked(at(1)), [(mount.accessor.clone(), "bob".to_owned())]);
        lockouts.forget(&mount.accessor, "Bob");
        assert!(lockouts.locked(at(1)).is_empty());
    }

    #[test]
    fn the_configuration_counts_where_a_mount_says_nothing() {
        let of = |method, threshold| UserLockout { method, lockout: Lockout { threshold, ..Lockout::default() } };
        let lockouts = Lockouts::new(vec![of(None, 7), of(Some("userpass"), 2)]);
        let silent = |kind: &str| MountEntry { kind: kind.into(), lockout: None, ..mount(9, false) };
        let threshold = |mount: &MountEntry| lockouts.limits(mount).unwrap().threshold;
        assert_eq!(threshold(&silent("userpass")), 2);
        assert_eq!(threshold(&silent("ldap")), 7);
        assert_eq!(threshold(&mount(9, false)), 9);
        assert_eq!(lockouts.limits(&silent("userpass")).unwrap().duration_secs, 900);
    }

    #[test]
    fn a_mount_may_lock_nobody_out() {
        let (lockouts, off) = (Lockouts::new(Vec::new()), mount(1, true));
        lockouts.failed(&off, "bob", at(0));
        assert!(!lockouts.holds(&off, "bob", at(1)));
        let on = MountEntry { lockout: None, ..off };
        lockouts.failed(&MountEntry { kind: "jwt".into(), ..on.clone() }, "bob", at(0));
        assert!(lockouts.locked(at(1)).is_empty());
    }
}
