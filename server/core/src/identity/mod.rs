//! `identity/`: who is behind the tokens. Entities with their aliases in auth mounts, and groups of them.
//!
//! Policies of an entity and of its groups count at every request. What a request was judged by are
//! two records: the entity's, and one that changes with every group.

mod aliases;
mod entities;
mod group_aliases;
mod groups;
mod lookup;
mod merge;
pub mod named;
mod oidc;
mod record;
mod resolve;
pub mod store;

pub use record::{Alias, Entity, map};
pub use resolve::{Resolutions, Resolved, resolve};

use std::sync::{Arc, Weak};

use holdfast_sdk::{Error, Result, Routes, Timestamp, Transaction, Value, record as records};
use tokio::sync::Semaphore;

use crate::layout::{MOUNTS, SYSTEM};
use crate::router::{self, Handler, MountEntry};
use crate::tx::Tx;
use crate::{Core, mfa};

pub(crate) use oidc::rotation;

/// Keys that are made, and signatures that take long, at a time.
const SLOW_AT_ONCE: usize = 2;

/// What answers at `identity/`, in every namespace.
pub struct IdentityBackend {
    core: Weak<Core>,
    /// Turns for what takes long.
    slow: Arc<Semaphore>,
    codes: oidc::Codes,
}

pub fn handler(core: Weak<Core>) -> Handler {
    let slow = Arc::new(Semaphore::new(SLOW_AT_ONCE));
    let backend = IdentityBackend { core, slow, codes: oidc::Codes::default() };
    Handler::Identity(Arc::new(backend), Arc::new(routes()))
}

impl IdentityBackend {
    fn core(&self) -> Result<Arc<Core>> {
        self.core.upgrade().ok_or_else(|| Error::Unavailable("the server is shutting down".into()))
    }
}

fn routes() -> Routes<IdentityBackend, Tx> {
    let routes = entities::routes(Routes::new());
    let routes = aliases::routes(routes);
    let routes = groups::routes(routes);
    let routes = group_aliases::routes(routes);
    let routes = lookup::routes(routes);
    let routes = oidc::routes(routes);
    mfa::routes(routes)
}

/// The auth mount of an accessor.
fn mount(tx: &mut Tx, accessor: &str) -> Result<Option<MountEntry>> {
    Ok(router::load(tx)?.into_iter().find(|m| m.auth && m.accessor == accessor))
}

/// The accessor of a mount that is there.
fn mounted(tx: &mut Tx, accessor: &str) -> Result<()> {
    match mount(tx, accessor)? {
        Some(_) => Ok(()),
        None => Err(Error::bad_request(format!("invalid mount accessor {accessor:?}"))),
    }
}

/// Path and type of the mounts that aliases are shown with.
struct Mounts(Vec<MountEntry>);

impl Mounts {
    fn load(tx: &mut Tx) -> Result<Mounts> {
        let found = tx.within(SYSTEM, |tx| tx.ordered(MOUNTS, &[], &[], 100_000))?;
        let entries: Result<Vec<MountEntry>> = found.iter().map(|(_, bytes)| records::read(bytes)).collect();
        Ok(Mounts(entries?))
    }

    /// Empty where the mount is gone.
    fn shown(&self, accessor: &str) -> [(&'static str, Value); 3] {
        let found = self.0.iter().find(|m| m.accessor == accessor);
        [
            ("mount_accessor", accessor.into()),
            ("mount_path", found.map_or(String::new(), MountEntry::full_path).into()),
            ("mount_type", found.map_or("", |m| m.kind.as_str()).into()),
        ]
    }
}

/// The entity of a login or of a token's alias, made if it is new. What the login says of it is kept with the alias.
pub fn entity_of_login(
    tx: &mut Tx,
    accessor: &str,
    name: &str,
    metadata: &[(String, String)],
    now: Timestamp,
) -> Result<Entity> {
    if let Some(before) = store::entity_by_factors(tx, accessor, name)? {
        let mut entity = before.clone();
        let known = entity.aliases.iter_mut().find(|a| a.is(accessor, name));
        if let Some(alias) = known.filter(|a| a.metadata != metadata) {
            alias.metadata = metadata.to_vec();
            alias.updated = now.0;
            store::save_entity(tx, Some(&before), &entity)?;
        }
        return Ok(entity);
    }
    let mut entity = Entity::new(tx, None, now)?;
    let mut alias = Alias::new(name.to_owned(), accessor.to_owned(), now)?;
    alias.metadata = metadata.to_vec();
    entity.aliases.push(alias);
    store::save_entity(tx, None, &entity)?;
    Ok(entity)
}

/// Make the external groups of a mount hold an entity exactly where the login's source says so.
pub fn groups_of_login(tx: &mut Tx, entity: &Entity, accessor: &str, names: &[String], now: Timestamp) -> Result<()> {
    let mut wanted = Vec::new();
    for name in names {
        wanted.extend(store::group_by_factors(tx, accessor, name)?.map(|g| g.id));
    }
    let present = store::groups_of(tx, &entity.id)?;
    let mut touched = wanted.clone();
    touched.extend(present.iter().copied());
    touched.sort_unstable();
    touched.dedup();
    for id in touched {
        let Some(before) = store::group(tx, &id)? else { continue };
        // Memberships that other mounts or operators gave stay as they are.
        if !before.external || before.alias.as_ref().is_none_or(|a| a.mount_accessor != accessor) {
            continue;
        }
        let (is, shall) = (present.contains(&id), wanted.contains(&id));
        if is != shall {
            let mut group = before.clone();
            store::set_member(tx, &mut group, &entity.id, shall)?;
            group.modify_index += 1;
            group.updated = now.0;
            store::save_group(tx, Some(&before), &group)?;
        }
    }
    Ok(())
}

/// The groups that an entity is in when a login has said which external ones it is in, with those above them.
pub fn groups_at_login(
    tx: &mut Tx,
    entity: Option<&Entity>,
    accessor: &str,
    names: Option<&[String]>,
) -> Result<Vec<record::Id>> {
    let mut groups = match entity {
        Some(entity) => store::groups_of(tx, &entity.id)?,
        None => Vec::new(),
    };
    if let Some(names) = names {
        let mut kept = Vec::with_capacity(groups.len());
        for id in groups {
            let of_mount =
                store::group(tx, &id)?.is_some_and(|g| g.alias.is_some_and(|a| a.mount_accessor == accessor));
            kept.extend((!of_mount).then_some(id));
        }
        for name in names {
            kept.extend(store::group_by_factors(tx, accessor, name)?.map(|g| g.id));
        }
        groups = kept;
    }
    let above = store::ancestors(tx, &groups)?;
    groups.extend(above);
    Ok(groups)
}
