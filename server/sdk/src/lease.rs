//! How long leases live: the role's word, within what the mount and the caller's token allow.

use crate::{Caller, Timestamp};

/// Ceilings of a mount, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub default_secs: u64,
    pub max_secs: u64,
}

/// What counts for one kind of lease, in seconds; 0 is the mount's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    pub default_secs: u64,
    pub max_secs: u64,
}

/// A lifetime, and what the caller is told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub ttl_secs: u64,
    pub warning: Option<String>,
}

impl Limits {
    /// The longest that a lease may live, counted from its issue.
    pub fn max(&self, terms: Terms) -> u64 {
        if terms.max_secs == 0 { self.max_secs } else { self.max_secs.min(terms.max_secs) }
    }

    fn default(&self, terms: Terms) -> u64 {
        if terms.default_secs == 0 { self.default_secs } else { terms.default_secs }
    }

    /// The lifetime of a new lease.
    pub fn first(&self, terms: Terms, caller: &Caller, now: Timestamp) -> Granted {
        let (wanted, max) = (self.default(terms), self.max(terms));
        let warning = (wanted > max).then(|| capped(wanted, max));
        let mut ttl_secs = wanted.min(max);
        if let Some(end) = caller.batch_end {
            ttl_secs = ttl_secs.min(end.0.saturating_sub(now.0) / 1_000_000_000);
        }
        Granted { ttl_secs, warning }
    }

    /// The lifetime of a renewed one; an increment of 0 asks for the default. 0: it is at its end.
    pub fn renewed(&self, terms: Terms, increment_secs: u64, issued: Timestamp, now: Timestamp) -> Granted {
        let (wanted, max) = (if increment_secs == 0 { self.default(terms) } else { increment_secs }, self.max(terms));
        let left = issued.plus_secs(max).0.saturating_sub(now.0).div_ceil(1_000_000_000);
        let said = increment_secs > 0 || terms.default_secs > 0;
        Granted { ttl_secs: wanted.min(left), warning: (said && wanted > left).then(|| capped(wanted, max)) }
    }
}

fn capped(wanted: u64, max: u64) -> String {
    format!(
        "TTL of {:?} exceeded the effective max_ttl of {:?}; TTL value is capped accordingly",
        crate::duration::short_text(wanted),
        crate::duration::short_text(max)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNT: Limits = Limits { default_secs: 1200, max_secs: 2400 };
    const NOW: Timestamp = Timestamp(1_000_000_000_000_000);

    fn first(default_secs: u64, max_secs: u64) -> (u64, bool) {
        let granted = MOUNT.first(Terms { default_secs, max_secs }, &Caller::default(), NOW);
        (granted.ttl_secs, granted.warning.is_some())
    }

    #[test]
    fn the_smallest_ceiling_counts_and_is_told_where_more_was_asked_for() {
        assert_eq!(first(0, 0), (1200, false));
        assert_eq!(first(36_000, 0), (2400, true));
        assert_eq!(first(1500, 900), (900, true));
        assert_eq!(first(0, 900), (900, true), "the mount's default is capped as well");
        let batch = Caller { batch_end: Some(NOW.plus_secs(7)), ..Caller::default() };
        assert_eq!(MOUNT.first(Terms::default(), &batch, NOW).ttl_secs, 7);
    }

    #[test]
    fn a_renewal_is_counted_from_now_and_its_maximum_from_the_issue() {
        let terms = Terms { default_secs: 600, max_secs: 0 };
        let renewed = |increment, after: u64| {
            let granted = MOUNT.renewed(terms, increment, NOW, NOW.plus_secs(after));
            (granted.ttl_secs, granted.warning.is_some())
        };
        assert_eq!(renewed(0, 60), (600, false));
        assert_eq!(renewed(90, 60), (90, false), "a shorter one shortens");
        assert_eq!(renewed(18_000, 400), (2000, true));
        assert_eq!(renewed(0, 2000), (400, true));
        assert_eq!(renewed(60, 2400), (0, true));
    }
}
