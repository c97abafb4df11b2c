//! Where entities, aliases and groups are, and how they are found.

use holdfast_sdk::{Error, Place, Result, Table, Transaction, record};

use super::record::{Alias, Entity, Group, Id};
use crate::layout::{Part, identity as at};
use crate::tx::Tx;
use crate::{mfa, random};

const SCOPE: Part = crate::layout::IDENTITY;

/// Members or groups that are read of one at most.
const MANY: usize = 100_000;

pub fn parse(id: &str) -> Option<Id> {
    random::parse_uuid(id)
}

fn within<R>(tx: &mut Tx, f: impl FnOnce(&mut Tx) -> R) -> R {
    tx.within(SCOPE, f)
}

/// What aliases are found by.
fn factors(accessor: &str, name: &str) -> String {
    format!("{accessor}\0{}", name.to_lowercase())
}

fn id_at(tx: &mut Tx, place: Place<'_>) -> Result<Option<Id>> {
    let found = within(tx, |tx| tx.get(place))?;
    found.map(|b| b.try_into().map_err(|_| Error::Internal("a name's record in identity is broken".into()))).transpose()
}

pub fn entity(tx: &mut Tx, id: &Id) -> Result<Option<Entity>> {
    within(tx, |tx| record::get(tx, Place::Ordered(at::ENTITY, id)))
}

/// The storage key of an entity.
pub fn entity_key(tx: &mut Tx, id: &Id) -> Result<Vec<u8>> {
    within(tx, |tx| tx.key(Place::Ordered(at::ENTITY, id)))
}

/// The storage key of the record that changes with every group.
pub fn groups_key(tx: &mut Tx) -> Result<Vec<u8>> {
    within(tx, |tx| tx.key(Place::Ordered(at::GROUPS, b"")))
}

pub fn entity_named(tx: &mut Tx, name: &str) -> Result<Option<Entity>> {
    match id_at(tx, Place::Id(at::ENTITY_NAME, &name.to_lowercase()))? {
        Some(id) => entity(tx, &id),
        None => Ok(None),
    }
}

pub fn entity_of_alias(tx: &mut Tx, alias: &Id) -> Result<Option<Entity>> {
    match id_at(tx, Place::Ordered(at::ALIAS, alias))? {
        Some(id) => entity(tx, &id),
        None => Ok(None),
    }
}

pub fn entity_by_factors(tx: &mut Tx, accessor: &str, name: &str) -> Result<Option<Entity>> {
    match id_at(tx, Place::Id(at::ALIAS_OF, &factors(accessor, name)))? {
        Some(id) => entity(tx, &id),
        None => Ok(None),
    }
}

/// All entities, in the order of their ids.
pub fn entities(tx: &mut Tx) -> Result<Vec<Entity>> {
    let found = within(tx, |tx| tx.ordered(at::ENTITY, &[], &[], MANY))?;
    found.iter().map(|(_, bytes)| record::read(bytes)).collect()
}

/// Store an entity in place of what it was before (none: it is new).
pub fn save_entity(tx: &mut Tx, before: Option<&Entity>, after: &Entity) -> Result<()> {
    if before.is_none_or(|b| b.name.to_lowercase() != after.name.to_lowercase()) {
        if entity_named(tx, &after.name)?.is_some_and(|e| e.id != after.id) {
            return Err(Error::bad_request("entity name is already in use"));
        }
        if let Some(b) = before {
            within(tx, |tx| tx.delete(Place::Id(at::ENTITY_NAME, &b.name.to_lowercase())))?;
        }
        let place = Place::Id(at::ENTITY_NAME, &after.name.to_lowercase());
        within(tx, |tx| tx.put(place, after.id.to_vec()))?;
    }
    for alias in before.iter().flat_map(|b| &b.aliases) {
        // One that moved on to another entity is that one's.
        if !after.aliases.iter().any(|a| a.id == alias.id && a.is(&alias.mount_accessor, &alias.name)) {
            forget_alias(tx, &after.id, alias)?;
        }
    }
    for alias in &after.aliases {
        within(tx, |tx| {
            tx.put(Place::Ordered(at::ALIAS, &alias.id), after.id.to_vec())?;
            tx.put(Place::Id(at::ALIAS_OF, &factors(&alias.mount_accessor, &alias.name)), after.id.to_vec())
        })?;
    }
    within(tx, |tx| record::put(tx, Place::Ordered(at::ENTITY, &after.id), after))
}

/// Forget where an alias is, if it is still this entity's.
fn forget_alias(tx: &mut Tx, entity: &Id, alias: &Alias) -> Result<()> {
    let factors = factors(&alias.mount_accessor, &alias.name);
    for place in [Place::Ordered(at::ALIAS, &alias.id), Place::Id(at::ALIAS_OF, &factors)] {
        if id_at(tx, place)?.as_ref() == Some(entity) {
            within(tx, |tx| tx.delete(place))?;
        }
    }
    Ok(())
}

/// Delete an entity with its aliases and memberships.
pub fn delete_entity(tx: &mut Tx, entity: &Entity) -> Result<()> {
    for alias in &entity.aliases {
        forget_alias(tx, &entity.id, alias)?;
    }
    for group in groups_of(tx, &entity.id)? {
        if let Some(mut group) = self::group(tx, &group)? {
            set_member(tx, &mut group, &entity.id, false)?;
            group.modify_index += 1;
            save_group(tx, Some(&group.clone()), &group)?;
        }
    }
    mfa::forget_of_entity(tx, &entity.id)?;
    within(tx, |tx| {
        tx.delete(Place::Id(at::ENTITY_NAME, &entity.name.to_lowercase()))?;
        tx.delete(Place::Ordered(at::ENTITY, &entity.id))
    })
}

pub fn group(tx: &mut Tx, id: &Id) -> Result<Option<Group>> {
    within(tx, |tx| record::get(tx, Place::Ordered(at::GROUP, id)))
}

pub fn group_named(tx: &mut Tx, name: &str) -> Result<Option<Group>> {
    match id_at(tx, Place::Id(at::GROUP_NAME, &name.to_lowercase()))? {
        Some(id) => group(tx, &id),
        None => Ok(None),
    }
}

pub fn group_of_alias(tx: &mut Tx, alias: &Id) -> Result<Option<Group>> {
    match id_at(tx, Place::Ordered(at::GROUP_ALIAS, alias))? {
        Some(id) => group(tx, &id),
        None => Ok(None),
    }
}

pub fn group_by_factors(tx: &mut Tx, accessor: &str, name: &str) -> Result<Option<Group>> {
    match id_at(tx, Place::Id(at::GROUP_ALIAS_OF, &factors(accessor, name)))? {
        Some(id) => group(tx, &id),
        None => Ok(None),
    }
}

/// All groups, in the order of their ids.
pub fn groups(tx: &mut Tx) -> Result<Vec<Group>> {
    let found = within(tx, |tx| tx.ordered(at::GROUP, &[], &[], MANY))?;
    found.iter().map(|(_, bytes)| record::read(bytes)).collect()
}

/// Store a group in place of what it was before (none: it is new).
pub fn save_group(tx: &mut Tx, before: Option<&Group>, after: &Group) -> Result<()> {
    if before.is_none_or(|b| b.name.to_lowercase() != after.name.to_lowercase()) {
        if group_named(tx, &after.name)?.is_some_and(|g| g.id != after.id) {
            return Err(Error::bad_request("group name is already in use"));
        }
        if let Some(b) = before {
            within(tx, |tx| tx.delete(Place::Id(at::GROUP_NAME, &b.name.to_lowercase())))?;
        }
        let place = Place::Id(at::GROUP_NAME, &after.name.to_lowercase());
        within(tx, |tx| tx.put(place, after.id.to_vec()))?;
    }
    if let Some(alias) = before.and_then(|b| b.alias.as_ref()) {
        forget_group_alias(tx, &after.id, alias)?;
    }
    if let Some(alias) = &after.alias {
        within(tx, |tx| {
            tx.put(Place::Ordered(at::GROUP_ALIAS, &alias.id), after.id.to_vec())?;
            tx.put(Place::Id(at::GROUP_ALIAS_OF, &factors(&alias.mount_accessor, &alias.name)), after.id.to_vec())
        })?;
    }
    touch_groups(tx)?;
    within(tx, |tx| record::put(tx, Place::Ordered(at::GROUP, &after.id), after))
}

fn forget_group_alias(tx: &mut Tx, group: &Id, alias: &Alias) -> Result<()> {
    let factors = factors(&alias.mount_accessor, &alias.name);
    for place in [Place::Ordered(at::GROUP_ALIAS, &alias.id), Place::Id(at::GROUP_ALIAS_OF, &factors)] {
        if id_at(tx, place)?.as_ref() == Some(group) {
            within(tx, |tx| tx.delete(place))?;
        }
    }
    Ok(())
}

/// Something about groups changed: whoever was judged by them is judged anew.
fn touch_groups(tx: &mut Tx) -> Result<()> {
    within(tx, |tx| {
        let place = Place::Ordered(at::GROUPS, b"");
        let changes = tx.get(place)?.and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        tx.put(place, (changes + 1).to_be_bytes().to_vec())
    })
}

/// Delete a group with its alias and all that ties it to others.
pub fn delete_group(tx: &mut Tx, group: &Group) -> Result<()> {
    if let Some(alias) = &group.alias {
        forget_group_alias(tx, &group.id, alias)?;
    }
    for entity in members(tx, &group.id)? {
        untie(tx, at::MEMBER, at::MEMBER_OF, &group.id, &entity)?;
    }
    for child in subgroups(tx, &group.id)? {
        untie(tx, at::SUBGROUP, at::PARENT, &group.id, &child)?;
    }
    for parent in parents(tx, &group.id)? {
        untie(tx, at::SUBGROUP, at::PARENT, &parent, &group.id)?;
    }
    touch_groups(tx)?;
    within(tx, |tx| {
        tx.delete(Place::Id(at::GROUP_NAME, &group.name.to_lowercase()))?;
        tx.delete(Place::Ordered(at::GROUP, &group.id))
    })
}

fn tie(tx: &mut Tx, down: Table, up: Table, above: &Id, below: &Id) -> Result<()> {
    within(tx, |tx| {
        tx.put(Place::Ordered(down, &[&above[..], below].concat()), Vec::new())?;
        tx.put(Place::Ordered(up, &[&below[..], above].concat()), Vec::new())
    })
}

fn untie(tx: &mut Tx, down: Table, up: Table, above: &Id, below: &Id) -> Result<()> {
    within(tx, |tx| {
        tx.delete(Place::Ordered(down, &[&above[..], below].concat()))?;
        tx.delete(Place::Ordered(up, &[&below[..], above].concat()))
    })
}

fn tied(tx: &mut Tx, table: Table, id: &Id) -> Result<Vec<Id>> {
    let end = holdfast_storage::prefix_end(id).unwrap_or_default();
    let found = within(tx, |tx| tx.ordered(table, id, &end, MANY))?;
    Ok(found.iter().filter_map(|(key, _)| key.get(16..32)?.try_into().ok()).collect())
}

/// The entities of a group itself.
pub fn members(tx: &mut Tx, group: &Id) -> Result<Vec<Id>> {
    tied(tx, at::MEMBER, group)
}

/// The groups that an entity is in by itself.
pub fn groups_of(tx: &mut Tx, entity: &Id) -> Result<Vec<Id>> {
    tied(tx, at::MEMBER_OF, entity)
}

pub fn subgroups(tx: &mut Tx, group: &Id) -> Result<Vec<Id>> {
    tied(tx, at::SUBGROUP, group)
}

pub fn parents(tx: &mut Tx, group: &Id) -> Result<Vec<Id>> {
    tied(tx, at::PARENT, group)
}

/// Make an entity a member or not. The caller stores the group.
pub fn set_member(tx: &mut Tx, group: &mut Group, entity: &Id, member: bool) -> Result<()> {
    group.members_changed = true;
    if member {
        tie(tx, at::MEMBER, at::MEMBER_OF, &group.id, entity)
    } else {
        untie(tx, at::MEMBER, at::MEMBER_OF, &group.id, entity)
    }
}

/// Make a group a subgroup or not. The caller stores both.
pub fn set_subgroup(tx: &mut Tx, parent: &Id, child: &Id, is: bool) -> Result<()> {
    if is {
        tie(tx, at::SUBGROUP, at::PARENT, parent, child)
    } else {
        untie(tx, at::SUBGROUP, at::PARENT, parent, child)
    }
}

/// All groups above some groups, themselves not among them unless one is above another.
pub fn ancestors(tx: &mut Tx, groups: &[Id]) -> Result<Vec<Id>> {
    let mut found: Vec<Id> = Vec::new();
    let mut queue = groups.to_vec();
    while let Some(group) = queue.pop() {
        for parent in parents(tx, &group)? {
            if !found.contains(&parent) {
                found.push(parent);
                queue.push(parent);
            }
        }
    }
    Ok(found)
}
