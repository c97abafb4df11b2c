//! `user_lockout`: how long a user stays out after wrong passwords.

use std::time::Duration;

use holdfast_hcl::Block;

use crate::listener::set;
use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, Warning};

/// `user_lockout "all"` or that of one auth method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserLockout {
    /// For whom it is.
    pub scope: LockoutScope,
    /// After how many failures.
    pub threshold: u64,
    /// For how long.
    pub duration: Duration,
    /// After how long without a failure the count begins again.
    pub counter_reset: Duration,
    /// Nobody is locked out.
    pub disabled: bool,
}

/// For which auth methods a lockout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockoutScope {
    /// All that have none of their own.
    All,
    /// `userpass`
    Userpass,
    /// `ldap`
    Ldap,
    /// `approle`
    Approle,
}

impl UserLockout {
    /// What counts where nothing is written.
    pub fn new(scope: LockoutScope) -> UserLockout {
        UserLockout {
            scope,
            threshold: 5,
            duration: Duration::from_secs(900),
            counter_reset: Duration::from_secs(900),
            disabled: false,
        }
    }
}

/// Reads one `user_lockout` block.
pub(crate) fn read(
    top: &Stanza<'_>,
    block: &Block<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<UserLockout, ConfigError> {
    let scope = match block.label(0) {
        "all" => LockoutScope::All,
        "userpass" => LockoutScope::Userpass,
        "ldap" => LockoutScope::Ldap,
        "approle" => LockoutScope::Approle,
        other => {
            let kind = ConfigErrorKind::NotOffered {
                what: "user_lockout",
                name: other.to_owned(),
                offered: "all, userpass, ldap, approle".to_owned(),
            };
            return Err(top.error(block.labels[0].position, kind));
        }
    };
    let mut s = top.inner("user_lockout", block);
    let mut lockout = UserLockout::new(scope);
    set(&mut lockout.threshold, s.number("lockout_threshold")?);
    set(&mut lockout.duration, s.duration("lockout_duration")?);
    set(&mut lockout.counter_reset, s.duration("lockout_counter_reset")?);
    set(&mut lockout.disabled, s.bool("disable_lockout")?);
    if lockout.threshold == 0 {
        return Err(s.wrong("lockout_threshold", "0", "at least 1; disable_lockout = true locks nobody out"));
    }
    s.finish(warnings);
    Ok(lockout)
}
