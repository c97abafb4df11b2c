//! `identity/entity/merge`: several entities become one.

use holdfast_sdk::{Call, Error, Response, Result, parameters};

use super::record::{Alias, Entity, Id};
use super::{IdentityBackend, store};
use crate::mfa;
use crate::random::uuid_text;
use crate::tx::Tx;

parameters! {
    pub struct Merge {
        /// The entities that are merged away.
        from_entity_ids: Option<Vec<String>>,
        /// The entity that they become.
        to_entity_id: Option<String>,
        /// Understood, as aliases of one mount are settled by conflicting_alias_ids_to_keep.
        force: Option<bool>,
        /// Where both have an alias of one mount: the alias that stays.
        conflicting_alias_ids_to_keep: Option<Vec<String>>,
    }
}

pub fn merge(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Merge) -> Result<Response> {
    let to_id = p.to_entity_id.filter(|t| !t.is_empty());
    let to_id = to_id.ok_or_else(|| Error::bad_request("missing entity id to merge to"))?;
    let mut from_ids = p.from_entity_ids.unwrap_or_default();
    from_ids.retain(|id| !id.is_empty());
    if from_ids.is_empty() {
        return Err(Error::bad_request("missing entity ids to merge from"));
    }
    if from_ids.contains(&to_id) {
        return Err(Error::bad_request("to_entity_id should not be present in from_entity_ids"));
    }
    let found = |tx: &mut Tx, id: &str| match store::parse(id) {
        Some(id) => store::entity(tx, &id),
        None => Ok(None),
    };
    let before = found(tx, &to_id)?.ok_or_else(|| Error::bad_request("entity id to merge to is invalid"))?;
    let mut from: Vec<Entity> = Vec::with_capacity(from_ids.len());
    for id in &from_ids {
        let entity = found(tx, id)?.ok_or_else(|| Error::bad_request("entity id to merge from is invalid"))?;
        // One that is named twice is merged once.
        if !from.iter().any(|e| e.id == entity.id) {
            from.push(entity);
        }
    }
    let keep: Vec<Id> = p.conflicting_alias_ids_to_keep.iter().flatten().filter_map(|id| store::parse(id)).collect();
    let asked_to_keep = p.conflicting_alias_ids_to_keep.is_some_and(|l| !l.is_empty());
    let mut to = before.clone();
    for entity in &from {
        take_over(&mut to, entity, &keep, asked_to_keep, from.len())?;
    }
    to.updated = call.now.0;
    for alias in &mut to.aliases {
        alias.custom_metadata = alias.custom_metadata.take().filter(|m| !m.is_empty());
    }
    for entity in &from {
        for group in store::groups_of(tx, &entity.id)? {
            if let Some(before) = store::group(tx, &group)? {
                let mut group = before.clone();
                store::set_member(tx, &mut group, &to.id, true)?;
                group.modify_index += 1;
                group.updated = call.now.0;
                store::save_group(tx, Some(&before), &group)?;
            }
        }
        mfa::take_over(tx, &entity.id, &to.id)?;
        store::delete_entity(tx, entity)?;
    }
    store::save_entity(tx, Some(&before), &to)?;
    Ok(Response::empty())
}

/// The aliases of `from` become those of `to`. Policies and metadata of `to` stay as they are.
fn take_over(to: &mut Entity, from: &Entity, keep: &[Id], asked_to_keep: bool, many: usize) -> Result<()> {
    for alias in &from.aliases {
        let mut moved = alias.clone();
        moved.merged_from.extend_from_slice(&from.id);
        let Some(at) = to.aliases.iter().position(|a| a.mount_accessor == alias.mount_accessor) else {
            to.aliases.push(moved);
            continue;
        };
        let ours = &to.aliases[at];
        match (asked_to_keep && many == 1, keep.contains(&ours.id), keep.contains(&alias.id)) {
            (false, ..) => return Err(clash(to, ours, from, alias)),
            (true, true, false) => {}
            (true, false, true) => to.aliases[at] = moved,
            (true, false, false) => {
                return Err(Error::bad_request(format!(
                    "conflicting mount accessors in following alias IDs and neither were present in \
                     conflicting_alias_ids_to_keep: {}, {}",
                    uuid_text(&alias.id),
                    uuid_text(&ours.id)
                )));
            }
            (true, true, true) => {
                return Err(Error::bad_request(format!(
                    "conflicting mount accessors in following alias IDs and both were present in \
                     conflicting_alias_ids_to_keep: {}, {}",
                    uuid_text(&alias.id),
                    uuid_text(&ours.id)
                )));
            }
        }
    }
    to.merged.extend_from_slice(&from.id);
    to.merged.extend_from_slice(&from.merged);
    Ok(())
}

fn clash(to: &Entity, ours: &Alias, from: &Entity, theirs: &Alias) -> Error {
    Error::bad_request(format!(
        "toEntity and at least one fromEntity have aliases with the same mount accessor, repeat the merge request \
         specifying exactly one fromEntity and the alias to keep in conflicting_alias_ids_to_keep, clashes: \
         mountAccessor: {}, toEntity ID: {}, fromEntity ID: {}, conflicting toEntity alias ID: {}, conflicting \
         fromEntity alias ID: {}",
        ours.mount_accessor,
        uuid_text(&to.id),
        uuid_text(&from.id),
        uuid_text(&ours.id),
        uuid_text(&theirs.id)
    ))
}
