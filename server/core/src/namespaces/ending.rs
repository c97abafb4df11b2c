//! Deleting a namespace: in one commit nobody finds it any more, and a job ends what is in it.

use super::seal::forget_record;
use super::{Namespace, has_children, save};
use crate::layout::{NAMESPACE_IDS, NAMESPACE_PATHS, NamespaceId, SEALED, STORE, SYSTEM, TOKEN, TOKENS};
use crate::tx::Tx;
use crate::{jobs, moves, quotas, router, tokens};
use holdfast_sdk::{Error, Place, Result, TokenId, Transaction};

/// Mounts that are taken out of service in one commit.
const MOUNTS_AT_ONCE: usize = 64;
/// Tokens that are ended in one commit.
const TOKENS_AT_ONCE: usize = 64;
/// Keys that are deleted in one commit.
const KEYS_AT_ONCE: usize = 256;

/// Nobody finds the namespace from this commit on; its name is free.
pub fn begin_to_end(tx: &mut Tx, namespace: Namespace) -> Result<()> {
    if tx.is_sealed(&namespace.uuid) {
        return Err(super::seal::is_sealed());
    }
    if has_children(tx, &namespace.path)? {
        return Err(Error::bad_request("unable to delete namespace containing child namespaces"));
    }
    if moves::touches(tx, &namespace.uuid)? {
        return Err(Error::bad_request(
            "unable to delete namespace: a mount is being moved out of it or into it (sys/jobs)",
        ));
    }
    let (uuid, path) = (namespace.uuid, namespace.path.clone());
    take_out_of_service(tx, namespace)?;
    jobs::add_in(tx, uuid, jobs::Kind::EndNamespace { path })?;
    Ok(())
}

/// Nobody finds the namespace any more, and nothing limits what has its name after it.
pub(super) fn take_out_of_service(tx: &mut Tx, mut namespace: Namespace) -> Result<()> {
    // One that was on its way out has neither, and somebody else may have its name.
    if !namespace.ending {
        tx.within(STORE, |tx| {
            tx.delete(Place::Name(NAMESPACE_PATHS, namespace.path.trim_end_matches('/')))?;
            tx.delete(Place::Id(NAMESPACE_IDS, &namespace.id))
        })?;
        quotas::forget_in(tx, &namespace.path)?;
    }
    namespace.ending = true;
    save(tx, &namespace)
}

/// How far a batch has come.
pub enum Ended {
    All,
    Some,
    /// Other jobs of the namespace have to be done first.
    Waits,
}

/// One batch of what ends with a namespace: its mounts with what they made outside, its tokens, all its records.
pub fn end_some(tx: &mut Tx, uuid: NamespaceId) -> Result<Ended> {
    tx.enter(SYSTEM.of(uuid));
    let mounts: Vec<_> = router::load(tx)?.into_iter().filter(|m| !m.is_built_in()).collect();
    for mount in mounts.iter().take(MOUNTS_AT_ONCE) {
        router::forget(tx, mount)?;
        jobs::add(tx, jobs::Kind::clean_mount(mount))?;
    }
    if !mounts.is_empty() {
        return Ok(Ended::Some);
    }
    let is_other = |job: &jobs::Job| job.namespace() == uuid && !matches!(job.kind, jobs::Kind::EndNamespace { .. });
    if jobs::list(tx)?.iter().any(|(_, job)| is_other(job)) {
        return Ok(Ended::Waits);
    }
    let found = tx.within(TOKENS, |tx| tx.ordered(TOKEN, &[], &[], TOKENS_AT_ONCE))?;
    for (own, _) in &found {
        match own.as_slice().try_into() {
            Ok(own) => tokens::revoke_tree(tx, &TokenId { namespace: uuid, own })?,
            Err(_) => tx.within(TOKENS, |tx| tx.delete(Place::Ordered(TOKEN, own)))?,
        }
    }
    if !found.is_empty() {
        return Ok(Ended::Some);
    }
    if tx.delete_prefix(&[&[SEALED][..], &uuid].concat(), KEYS_AT_ONCE)? {
        return Ok(Ended::Some);
    }
    forget_record(tx, &uuid)?;
    Ok(Ended::All)
}
