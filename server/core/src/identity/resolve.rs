//! Who a token's entity is at this moment: its policies, and the values of templates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_policy::{AliasField, EntityField, GroupField, GroupSelector, TemplateKey, TemplateValues};
use holdfast_sdk::Result;
use holdfast_storage::Key;

use super::record::{Entity, Group};
use super::store;
use crate::cache::Cache;
use crate::random::uuid_text;
use crate::tx::Tx;

/// Entities kept at most.
const CACHED: usize = 4096;

/// An entity with all that its groups give it.
pub struct Resolved {
    pub entity: Entity,
    /// Its own policies and those of its groups, sorted.
    pub policies: Arc<[String]>,
    /// The groups it is in, those above its own too.
    groups: Vec<Group>,
    /// Records that this stands on.
    pub keys: [Key; 2],
    read_at: u64,
}

impl Resolved {
    /// The groups it is in, those above its own too.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }
}

impl TemplateValues for Resolved {
    fn value(&self, key: &TemplateKey) -> Option<String> {
        match key {
            TemplateKey::Entity(field) => match field {
                EntityField::Id => Some(uuid_text(&self.entity.id)),
                EntityField::Name => Some(self.entity.name.clone()),
                EntityField::Metadata(key) => of(self.entity.metadata.as_deref(), key),
            },
            TemplateKey::Alias { accessor, field } => {
                let alias = self.entity.aliases.iter().find(|a| a.mount_accessor == *accessor)?;
                match field {
                    AliasField::Id => Some(uuid_text(&alias.id)),
                    AliasField::Name => Some(alias.name.clone()),
                    AliasField::Metadata(key) => of(Some(&alias.metadata), key),
                    AliasField::CustomMetadata(key) => of(alias.custom_metadata.as_deref(), key),
                }
            }
            TemplateKey::Group { group, field } => {
                let group = self.groups.iter().find(|g| match group {
                    GroupSelector::Id(id) => uuid_text(&g.id) == *id,
                    GroupSelector::Name(name) => g.name.to_lowercase() == name.to_lowercase(),
                })?;
                match field {
                    GroupField::Id => Some(uuid_text(&group.id)),
                    GroupField::Name => Some(group.name.clone()),
                    GroupField::Metadata(key) => of(group.metadata.as_deref(), key),
                }
            }
        }
    }
}

fn of(pairs: Option<&[(String, String)]>, key: &str) -> Option<String> {
    pairs?.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
}

/// The entity of an id's text, and what its groups give it. None: it is gone.
pub fn resolve(tx: &mut Tx, entity_id: &str) -> Result<Option<Resolved>> {
    let Some(id) = store::parse(entity_id) else { return Ok(None) };
    let Some(entity) = store::entity(tx, &id)? else { return Ok(None) };
    let mut ids = store::groups_of(tx, &id)?;
    for above in store::ancestors(tx, &ids)? {
        if !ids.contains(&above) {
            ids.push(above);
        }
    }
    let mut groups = Vec::with_capacity(ids.len());
    for id in &ids {
        groups.extend(store::group(tx, id)?);
    }
    let mut policies = entity.policies.clone();
    policies.extend(groups.iter().flat_map(|g| g.policies.iter().flatten().cloned()));
    policies.sort();
    policies.dedup();
    let keys = [store::entity_key(tx, &id)?.into(), store::groups_key(tx)?.into()];
    Ok(Some(Resolved { entity, policies: policies.into(), groups, keys, read_at: tx.index() }))
}

/// Entities that were resolved. One is forgotten when its record changes, all are when a group does.
pub struct Resolutions {
    by_key: Cache<Resolved>,
    /// The index of the last batch that changed a group.
    groups_changed_at: AtomicU64,
}

impl Default for Resolutions {
    fn default() -> Resolutions {
        Resolutions { by_key: Cache::new(CACHED), groups_changed_at: AtomicU64::new(0) }
    }
}

impl Resolutions {
    /// The batch of `index`, which is about to be published, changed an entity's record.
    pub fn entity_changed(&self, key: &[u8], index: u64) {
        self.by_key.invalidate(key, index);
    }

    /// Forget all that were resolved before the batch of `index`.
    pub fn forget_before(&self, index: u64) {
        self.by_key.forget_before(index);
    }

    /// The batch of `index`, which is about to be published, changed a group.
    pub fn groups_changed(&self, index: u64) {
        self.groups_changed_at.fetch_max(index, Ordering::SeqCst);
    }

    /// As [`resolve`], through the cache.
    pub fn get(&self, tx: &mut Tx, entity_id: &str) -> Result<Option<Arc<Resolved>>> {
        let Some(id) = store::parse(entity_id) else { return Ok(None) };
        let key = store::entity_key(tx, &id)?;
        let view = tx.index();
        let current = |r: &Resolved| self.groups_changed_at.load(Ordering::SeqCst) <= r.read_at;
        if let Some(found) = self.by_key.get_at(&key, view).filter(|r| current(r)) {
            return Ok(Some(found));
        }
        let Some(resolved) = resolve(tx, entity_id)?.map(Arc::new) else { return Ok(None) };
        if current(&resolved) {
            self.by_key.insert(&key, resolved.clone(), view);
        }
        Ok(Some(resolved))
    }
}
