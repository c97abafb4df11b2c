//! How many leases there may be: in a namespace, of a mount, or for a role of it. They are counted as they are made
//! and ended, so that a limit holds exactly, whoever asks at the same time.

use holdfast_sdk::{Error, Place, Result, Transaction, record};
use minicbor::{Decode, Encode};

use super::Rule;
use crate::layout::{LEASE_QUOTAS, STORE, SYSTEM};
use crate::router::Mount;
use crate::tx::Tx;
use crate::{Core, Open, leases, namespaces, router};

/// A limit as it is stored.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct LeaseRule {
    /// What it is on; no rate.
    #[n(0)]
    pub on: Rule,
    #[n(1)]
    pub most: u64,
}
holdfast_sdk::record!(LeaseRule);

pub fn all(tx: &mut Tx) -> Result<Vec<LeaseRule>> {
    let (mut found, mut cursor) = (Vec::new(), Vec::new());
    loop {
        let batch = tx.within(STORE, |tx| tx.below(LEASE_QUOTAS, "", &cursor, 256))?;
        for (_, bytes) in &batch.entries {
            found.push(record::read(bytes)?);
        }
        match batch.after {
            Some(after) => cursor = after,
            None => return Ok(found),
        }
    }
}

pub fn load(tx: &mut Tx, name: &str) -> Result<Option<LeaseRule>> {
    tx.within(STORE, |tx| record::get(tx, Place::Name(LEASE_QUOTAS, name)))
}

pub fn save(tx: &mut Tx, rule: &LeaseRule) -> Result<()> {
    tx.within(STORE, |tx| record::put(tx, Place::Name(LEASE_QUOTAS, &rule.on.name), rule))
}

pub fn forget(tx: &mut Tx, name: &str) -> Result<()> {
    tx.within(STORE, |tx| tx.delete(Place::Name(LEASE_QUOTAS, name)))
}

pub fn names(tx: &mut Tx) -> Result<Vec<String>> {
    tx.within(STORE, |tx| tx.names(LEASE_QUOTAS, "", "", 0))
}

impl LeaseRule {
    /// The leases that it is on, those of the present transaction too.
    pub fn counted(&self, tx: &mut Tx) -> Result<i64> {
        let home = match self.on.namespace.as_str() {
            "" => crate::layout::ROOT,
            path => match namespaces::at(tx, path)? {
                Some(namespace) => namespace.uuid,
                None => return Ok(0),
            },
        };
        if tx.is_sealed(&home) {
            return Ok(0);
        }
        if !self.on.mount.is_empty() {
            return tx.within(SYSTEM.of(home), |tx| self.of_mount(tx));
        }
        let mut spaces = vec![home];
        if self.on.inheritable {
            spaces.extend(namespaces::below(tx, &self.on.namespace)?.into_iter().map(|n| n.uuid));
        }
        let mut sum = 0;
        spaces.retain(|namespace| !tx.is_sealed(namespace));
        for namespace in spaces {
            let counts = tx.within(SYSTEM.of(namespace), leases::counts)?;
            sum += counts.values().map(|c| c.tokens + c.live).sum::<i64>();
        }
        Ok(sum)
    }

    fn of_mount(&self, tx: &mut Tx) -> Result<i64> {
        let found = router::load(tx)?.into_iter().find(|m| m.full_path() == self.on.mount);
        let Some(mount) = found else { return Ok(0) };
        let role = self.on.role.as_str();
        match (mount.auth, mount.kind.as_str(), role) {
            (true, "token", _) => leases::count_tokens(tx, None),
            (true, _, "") => leases::count_tokens(tx, Some(mount.uuid)),
            (true, _, role) => leases::count_tokens_of_role(tx, &mount.uuid, role),
            (false, _, "") => leases::count_live(tx, &mount.uuid),
            (false, _, role) => leases::count_live_of_role(tx, &mount.uuid, role),
        }
    }
}

impl Core {
    /// Refuse a lease that was made in this transaction, if it is one too many.
    pub(crate) fn allow_lease(
        &self,
        open: &Open,
        tx: &mut Tx,
        (namespace, path): (&str, &str),
        mount: &Mount,
        role: &str,
    ) -> Result<()> {
        if open.quotas.are_none() {
            return Ok(());
        }
        let in_force = open.quotas.in_force(self, open)?;
        let role = Some(role).filter(|r| !r.is_empty());
        let fitting = in_force.leases.iter().filter_map(|rule| {
            let closeness = rule.on.fits(namespace, Some(mount), path, role)?;
            Some((closeness, rule))
        });
        let Some((_, rule)) = fitting.max_by_key(|(closeness, _)| *closeness) else { return Ok(()) };
        let most = i64::try_from(rule.most).unwrap_or(i64::MAX);
        if rule.counted(tx)? <= most {
            return Ok(());
        }
        self.metrics.quota_refusals.add(1);
        let path = format!("{namespace}{path}");
        Err(Error::Status(429, vec![format!("request path {path:?}: lease count quota exceeded")]))
    }
}
