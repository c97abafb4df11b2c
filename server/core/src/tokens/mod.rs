//! Tokens: what is stored of them, how they are made, found, renewed and ended.
//!
//! A token is stored under the HMAC of its id. With it, in the same commit: its accessor, its place
//! under its parent, its remaining uses, and its end in the expiry index. A token whose parent is
//! gone counts as gone itself, so that revoking a tree is one small commit and a job that sweeps.

mod batch;
mod create;
mod entry;
mod policies_of;
mod roles;
mod routes;
mod session;
mod tidy;

pub use create::{issue, lesser};
pub use entry::{Issue, Parent, TokenEntry};
pub use routes::{TokenBackend, capped, shown_auth, start_tidy};
pub use session::Session;
pub use tidy::{FIRST as TIDIED_FIRST, tidy};

use std::sync::{Arc, Weak};

use holdfast_sdk::{Error, Place, Result, Routes, Timestamp, TokenId, Transaction, record};

use crate::Core;
use crate::expiry::{self, Due};
use crate::layout::{ACCESSOR, CHILDREN, NamespaceId, ROOT, TOKEN, TOKEN_USES, TOKENS, USES};
use crate::namespaces::seal;
use crate::router::Handler;
use crate::tx::{Effect, Made, Tx};
use crate::{cubbyhole, jobs, leases, namespaces, random, router};

/// The system's default and maximum TTL, in seconds, unless configured.
pub const SYSTEM_TTL_SECS: u64 = 768 * 3600;
/// Children revoked in the same commit as their parent; more are left to a job.
const INLINE_CHILDREN: usize = 128;
/// Cubbyhole entries deleted in the same commit as their token; more are left to a job.
const INLINE_ENTRIES: usize = 32;
/// The only policy of a wrapping token, and of no other.
pub const RESPONSE_WRAPPING: &str = "response-wrapping";

/// Limits that a new token obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlLimits {
    pub default_secs: u64,
    pub max_secs: u64,
}

/// What answers at `auth/token/`; with routes that were made already, if there are any.
pub fn handler(core: Weak<Core>, limits: TtlLimits, routes: Option<Arc<Routes<TokenBackend, Tx>>>) -> Handler {
    let routes = routes.unwrap_or_else(|| Arc::new(TokenBackend::routes()));
    Handler::Token(Arc::new(TokenBackend { core, limits }), routes)
}

/// Where a token's text says that it is stored. None: it names a namespace that is not there.
pub fn id_of(tx: &mut Tx, token: &str) -> Result<Option<TokenId>> {
    let namespace = match namespaces::suffix_of_token(token) {
        None => ROOT,
        Some(suffix) => match namespaces::by_id(tx, suffix)? {
            Some(uuid) => uuid,
            None => return Ok(None),
        },
    };
    Ok(Some(TokenId { namespace, own: tx.within(TOKENS.of(namespace), |tx| tx.id(TOKEN, token))? }))
}

/// Store a new token of the present namespace.
pub fn store(tx: &mut Tx, token: &str, entry: &mut TokenEntry) -> Result<TokenId> {
    let namespace = tx.namespace();
    let id = TokenId { namespace, own: tx.within(TOKENS.of(namespace), |tx| tx.id(TOKEN, token))? };
    if let Some(end) = entry.expires {
        entry.expiry_key = Some(expiry::put(tx, tx.by_cluster_time(end), &Due::Token(id))?);
    }
    leases::put_token(tx, &id, entry)?;
    tx.within(TOKENS.of(namespace), |tx| {
        record::put(tx, Place::Ordered(TOKEN, &id.own), entry)?;
        tx.put(Place::Id(ACCESSOR, &entry.accessor), id.own.to_vec())?;
        if entry.num_uses > 0 {
            tx.put(Place::Ordered(USES, &id.own), entry.num_uses.to_be_bytes().to_vec())?;
        }
        Ok::<_, Error>(())
    })?;
    if let Some(parent) = entry.parent() {
        add_child(tx, &parent, &id)?;
    }
    tx.begins(Made::Token(id));
    Ok(id)
}

/// The entry of a token by its stored id, whether or not it has ended.
pub fn load(tx: &mut Tx, id: &TokenId) -> Result<Option<TokenEntry>> {
    tx.within(TOKENS.of(id.namespace), |tx| record::get(tx, Place::Ordered(TOKEN, &id.own)))
}

fn save(tx: &mut Tx, id: &TokenId, entry: &TokenEntry) -> Result<()> {
    tx.within(TOKENS.of(id.namespace), |tx| record::put(tx, Place::Ordered(TOKEN, &id.own), entry))
}

/// The stored id that belongs to an accessor of the present namespace.
pub fn by_accessor(tx: &mut Tx, accessor: &str) -> Result<Option<TokenId>> {
    let namespace = tx.namespace();
    let found = tx.within(TOKENS, |tx| tx.get(Place::Id(ACCESSOR, accessor)))?;
    let own = found.map(|b| b.try_into().map_err(|_| Error::Internal("an accessor's record is broken".into())));
    Ok(own.transpose()?.map(|own| TokenId { namespace, own }))
}

/// A token that was presented or named.
pub struct Held {
    pub namespace: NamespaceId,
    /// Where it is stored; a batch token is nowhere.
    pub id: Option<TokenId>,
    pub entry: TokenEntry,
}

/// What a token's text stands for, whether or not it has ended.
pub fn read(tx: &mut Tx, token: &str) -> Result<Option<Held>> {
    if batch::is(token) {
        return batch::open(tx, token);
    }
    let Some(id) = id_of(tx, token)? else { return Ok(None) };
    Ok(load(tx, &id)?.map(|entry| Held { namespace: id.namespace, id: Some(id), entry }))
}

/// The token of a text, if it is still good.
pub fn find_valid(tx: &mut Tx, token: &str, now: Timestamp) -> Result<Option<Held>> {
    match read(tx, token)? {
        Some(held) if is_valid(tx, held.namespace, &held.entry, now)? => Ok(Some(held)),
        _ => Ok(None),
    }
}

/// The entry of a stored token that is still good.
pub fn load_valid(tx: &mut Tx, id: &TokenId, now: Timestamp) -> Result<Option<TokenEntry>> {
    match load(tx, id)? {
        Some(entry) if is_valid(tx, id.namespace, &entry, now)? => Ok(Some(entry)),
        _ => Ok(None),
    }
}

/// Whether the auth mount that gave a token is still there, where it was: its tokens end with it, and
/// when it is moved.
pub fn has_its_mount(tx: &mut Tx, namespace: NamespaceId, entry: &TokenEntry) -> Result<bool> {
    match &entry.auth_mount {
        Some(uuid) => Ok(router::moves_of(tx, namespace, uuid)? == Some(entry.mount_moves)),
        None => Ok(true),
    }
}

/// Not ended, and neither are its ancestors.
fn is_valid(tx: &mut Tx, namespace: NamespaceId, entry: &TokenEntry, now: Timestamp) -> Result<bool> {
    if entry.has_ended(now) || !has_its_mount(tx, namespace, entry)? {
        return Ok(false);
    }
    let mut parent = entry.parent();
    while let Some(id) = parent {
        match load(tx, &id)? {
            Some(above) => match above.as_parent(now) {
                Parent::Lives if !has_its_mount(tx, id.namespace, &above)? => return Ok(false),
                Parent::Lives => parent = above.parent(),
                Parent::LetsGo => break,
                Parent::HasEnded => return Ok(false),
            },
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Move a token's end.
pub fn set_end(tx: &mut Tx, id: &TokenId, entry: &mut TokenEntry, end: Option<Timestamp>) -> Result<()> {
    if let Some(key) = entry.expiry_key.take() {
        expiry::remove(tx, &key)?;
    }
    entry.expires = end;
    if let Some(end) = end {
        entry.expiry_key = Some(expiry::put(tx, tx.by_cluster_time(end), &Due::Token(*id))?);
    }
    save(tx, id, entry)
}

/// What is due by the expiry index has a later end all the same: it was issued while the wall clock was ahead of cluster
/// time, which has followed it since. True: the token is looked at again then.
pub fn lives_on(tx: &mut Tx, id: &TokenId, now: Timestamp) -> Result<bool> {
    let Some(mut entry) = load(tx, id)? else { return Ok(false) };
    // The index knows whole milliseconds.
    let Some(end) = entry.expires.filter(|_| !entry.has_ended(Timestamp(now.0 + 1_000_000))) else { return Ok(false) };
    entry.expiry_key = Some(expiry::put(tx, end, &Due::Token(*id))?);
    save(tx, id, &entry).map(|()| true)
}

/// Remove one token and all its records, its cubbyhole too, leaving its children as they are.
fn remove(tx: &mut Tx, id: &TokenId, entry: &TokenEntry) -> Result<()> {
    strip(tx, id, entry)?;
    forget(tx, id)
}

fn forget(tx: &mut Tx, id: &TokenId) -> Result<()> {
    tx.within(TOKENS.of(id.namespace), |tx| tx.delete(Place::Ordered(TOKEN, &id.own)))
}

/// Remove what belongs to a token, but for its own record.
fn strip(tx: &mut Tx, id: &TokenId, entry: &TokenEntry) -> Result<()> {
    if cubbyhole::clean(tx, id, INLINE_ENTRIES)? {
        jobs::add_in(tx, id.namespace, jobs::Kind::CleanCubbyhole { token: id.own })?;
    }
    if let Some(key) = &entry.expiry_key {
        expiry::remove(tx, key)?;
    }
    leases::remove_token(tx, id, entry)?;
    leases::end_of_token(tx, id)?;
    tx.within(TOKENS.of(id.namespace), |tx| {
        tx.delete(Place::Id(ACCESSOR, &entry.accessor))?;
        tx.delete(Place::Ordered(TOKEN_USES, &id.own))?;
        if entry.num_uses > 0 {
            tx.delete(Place::Ordered(USES, &id.own))?;
        }
        Ok::<_, Error>(())
    })?;
    match entry.parent() {
        Some(parent) => remove_child(tx, &parent, id),
        None => Ok(()),
    }
}

fn child_place(parent: &TokenId, child: &TokenId) -> Vec<u8> {
    [parent.own, child.own].concat()
}

/// The place of a child is its parent's, wherever the child is.
fn add_child(tx: &mut Tx, parent: &TokenId, child: &TokenId) -> Result<()> {
    let elsewhere = if child.namespace == parent.namespace { Vec::new() } else { child.namespace.to_vec() };
    tx.within(TOKENS.of(parent.namespace), |tx| {
        tx.put(Place::Ordered(CHILDREN, &child_place(parent, child)), elsewhere)
    })
}

fn remove_child(tx: &mut Tx, parent: &TokenId, child: &TokenId) -> Result<()> {
    tx.within(TOKENS.of(parent.namespace), |tx| tx.delete(Place::Ordered(CHILDREN, &child_place(parent, child))))
}

/// A token of a sealed namespace whose parent is gone ends when that is unsealed.
fn park_child(tx: &mut Tx, parent: &TokenId, child: &TokenId) -> Result<()> {
    remove_child(tx, parent, child)?;
    seal::park_due(tx, &child.namespace, &Due::Token(*child))
}

/// The children of a token, at most `limit`.
pub fn children(tx: &mut Tx, id: &TokenId, limit: usize) -> Result<Vec<TokenId>> {
    let end = holdfast_storage::prefix_end(&id.own).unwrap_or_default();
    let found = tx.within(TOKENS.of(id.namespace), |tx| tx.ordered(CHILDREN, &id.own, &end, limit))?;
    let child = |(key, elsewhere): (Vec<u8>, Vec<u8>)| {
        let namespace = elsewhere.try_into().unwrap_or(id.namespace);
        Some(TokenId { namespace, own: key.get(32..64)?.try_into().ok()? })
    };
    Ok(found.into_iter().filter_map(child).collect())
}

/// Revoke a token with its tree: a small tree at once, the rest of a large one by a job. From this
/// commit on none of them is good any more.
pub fn revoke_tree(tx: &mut Tx, id: &TokenId) -> Result<()> {
    let mut queue = vec![*id];
    let mut budget = INLINE_CHILDREN;
    let mut at = 0;
    while at < queue.len() {
        let current = queue[at];
        at += 1;
        let found = children(tx, &current, budget + 1)?;
        if found.len() > budget {
            jobs::add_in(tx, current.namespace, jobs::Kind::RevokeChildren { parent: current.own })?;
        } else {
            budget -= found.len();
            // One of a sealed namespace is no good without its parent, and goes when that is unsealed.
            let (sealed, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|c| tx.is_sealed(&c.namespace));
            for child in &sealed {
                park_child(tx, &current, child)?;
            }
            queue.extend(rest);
        }
    }
    for id in queue.iter().rev() {
        if let Some(entry) = load(tx, id)? {
            remove(tx, id, &entry)?;
        }
    }
    Ok(())
}

/// Revoke a token; its children live on without a parent. With many of them the token's record stays,
/// as one that lets its children go, until a job has been through them; nobody can use it any more.
pub fn revoke_orphaning(tx: &mut Tx, id: &TokenId) -> Result<()> {
    let Some(mut entry) = load(tx, id)? else { return Ok(()) };
    if !orphan_children(tx, id)? {
        return remove(tx, id, &entry);
    }
    strip(tx, id, &entry)?;
    // Whatever ends its ancestors must not reach the children through it.
    (entry.orphaning, entry.expires, entry.expiry_key) = (true, None, None);
    entry.leave_parent();
    save(tx, id, &entry)?;
    jobs::add_in(tx, id.namespace, jobs::Kind::OrphanChildren { parent: id.own })?;
    Ok(())
}

/// Take the parent from a batch of a token's children. True: there are more.
fn orphan_children(tx: &mut Tx, id: &TokenId) -> Result<bool> {
    let found = children(tx, id, INLINE_CHILDREN + 1)?;
    for child in found.iter().take(INLINE_CHILDREN) {
        if tx.is_sealed(&child.namespace) {
            return Err(Error::Unavailable("one of its children is in a sealed namespace: unseal that first".into()));
        }
        if let Some(mut entry) = load(tx, child)? {
            entry.leave_parent();
            save(tx, child, &entry)?;
        }
        remove_child(tx, id, child)?;
    }
    Ok(found.len() > INLINE_CHILDREN)
}

/// A batch of the job behind [`revoke_orphaning`]. True: there is more to do.
pub fn let_children_go(tx: &mut Tx, id: &TokenId) -> Result<bool> {
    if orphan_children(tx, id)? {
        return Ok(true);
    }
    forget(tx, id)?;
    Ok(false)
}

/// Revoke a batch of children of a token that is gone. True: there are more.
pub fn revoke_children(tx: &mut Tx, parent: &TokenId) -> Result<bool> {
    let found = children(tx, parent, INLINE_CHILDREN)?;
    let more = found.len() == INLINE_CHILDREN;
    for child in found {
        if tx.is_sealed(&child.namespace) {
            park_child(tx, parent, &child)?;
        } else if load(tx, &child)?.is_some() {
            revoke_tree(tx, &child)?;
        } else {
            remove_child(tx, parent, &child)?;
        }
    }
    Ok(more)
}

/// Count one use of a token, unless it has ended already.
pub fn count_use_if_there(tx: &mut Tx, id: &TokenId) -> Result<()> {
    if load(tx, id)?.is_some() { count_use(tx, id) } else { Ok(()) }
}

/// Count one use. The last one ends the token in the same commit.
pub fn count_use(tx: &mut Tx, id: &TokenId) -> Result<()> {
    let tokens = TOKENS.of(id.namespace);
    let left = tx.within(tokens, |tx| tx.count(Place::Ordered(USES, &id.own)))?;
    if left <= 1 {
        tx.effect(Effect::RunJobs);
        return revoke_tree(tx, id);
    }
    tx.within(tokens, |tx| tx.add(Place::Ordered(USES, &id.own), -1, Some((1, "permission denied"))))
}

/// How many uses a token with a limited number of them has left.
pub fn uses_left(tx: &mut Tx, id: &TokenId) -> Result<i64> {
    tx.within(TOKENS.of(id.namespace), |tx| tx.count(Place::Ordered(USES, &id.own)))
}

/// A new service token of the root namespace.
pub fn new_root_service_id() -> Result<String> {
    Ok(format!("hvs.{}", random::alphanumeric(26)?))
}

/// A new service token of the present namespace.
pub fn new_service_id(tx: &mut Tx) -> Result<String> {
    Ok(format!("{}{}", new_root_service_id()?, namespaces::suffix(tx)?))
}

/// A new accessor of the present namespace.
pub fn new_accessor(tx: &mut Tx) -> Result<String> {
    Ok(format!("{}{}", random::alphanumeric(24)?, namespaces::suffix(tx)?))
}
