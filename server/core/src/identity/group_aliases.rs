//! `identity/group-alias/*`: under which name an auth mount knows an external group.

use holdfast_sdk::{Call, Error, Response, Result, Routes, Timestamp, Value, parameters};

use super::record::{Alias, Group, ids_or_null, map, metadata};
use super::{IdentityBackend, Mounts, aliases, mounted, store};
use crate::namespaces;
use crate::random::uuid_text;
use crate::tx::Tx;

parameters! {
    pub struct Write {
        /// The id of the alias that is changed.
        id: Option<String>,
        /// The group that it belongs to; made where none is given.
        canonical_id: Option<String>,
        /// The accessor of the auth mount.
        mount_accessor: Option<String>,
        /// The name by which the auth mount knows the group.
        name: Option<String>,
    }
}

type R = Routes<IdentityBackend, Tx>;

pub fn routes(routes: R) -> R {
    routes
        .path("group-alias", "Create an alias of a group, or change one.", |p| p.update(write))
        .path("group-alias/id", "List the aliases of groups.", |p| p.list(list).reads_anywhere())
        .path("group-alias/id/{id}", "Read, change and delete an alias of a group by its id.", |p| {
            p.read(read).update(write_id).delete(delete).reads_anywhere()
        })
}

fn found(tx: &mut Tx, alias: &str) -> Result<Option<(Group, Alias)>> {
    let Some(id) = store::parse(alias) else { return Ok(None) };
    let Some(group) = store::group_of_alias(tx, &id)? else { return Ok(None) };
    let alias = group.alias.clone();
    Ok(alias.map(|alias| (group, alias)))
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let before = match given(p.id) {
        Some(id) => Some(found(tx, &id)?.ok_or_else(|| Error::bad_request("invalid group alias ID"))?),
        None => None,
    };
    let name = given(p.name).ok_or_else(|| Error::bad_request("missing alias name"))?;
    let accessor = given(p.mount_accessor).ok_or_else(|| Error::bad_request("missing mount_accessor"))?;
    mounted(tx, &accessor)?;
    let owner = match given(p.canonical_id) {
        None => None,
        Some(id) => {
            let group = match store::parse(&id) {
                Some(id) => store::group(tx, &id)?,
                None => None,
            };
            let group = group.ok_or_else(|| Error::bad_request("invalid group ID given in 'canonical_id'"))?;
            if !group.external {
                return Err(Error::bad_request("alias can't be set on an internal group"));
            }
            Some(group)
        }
    };
    let taken = store::group_by_factors(tx, &accessor, &name)?;
    if taken.is_some_and(|g| before.as_ref().is_none_or(|(b, _)| b.id != g.id)) {
        return Err(Error::bad_request("combination of mount and group alias name is already in use"));
    }
    let mut alias = match &before {
        Some((_, alias)) => Alias { name, mount_accessor: accessor, ..alias.clone() },
        None => Alias::new(name, accessor, call.now)?,
    };
    alias.updated = call.now.0;
    if let Some((left, _)) = before.as_ref().filter(|(b, _)| owner.as_ref().is_some_and(|o| o.id != b.id)) {
        save(tx, Some(left.clone()), None, call.now)?;
    }
    let owner = match owner.or(before.map(|(group, _)| group)) {
        Some(group) => save(tx, Some(group), Some(alias.clone()), call.now)?,
        None => save(tx, None, Some(alias.clone()), call.now)?,
    };
    Ok(Response::data(map([("canonical_id", uuid_text(&owner.id).into()), ("id", uuid_text(&alias.id).into())])))
}

/// Give a group its alias, or take it away.
fn save(tx: &mut Tx, before: Option<Group>, alias: Option<Alias>, now: Timestamp) -> Result<Group> {
    let mut group = match &before {
        Some(b) => b.clone(),
        None => Group::new(tx, None, true, now)?,
    };
    group.alias = alias;
    group.members_changed = false;
    group.modify_index += 1;
    group.updated = now.0;
    store::save_group(tx, before.as_ref(), &group)?;
    Ok(group)
}

fn write_id(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    write(backend, tx, call, Write { id: Some(call.capture("id").to_owned()), ..p })
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let (group, a) = found(tx, call.capture("id"))?.ok_or(Error::NotFound)?;
    let mut m = map([
        ("canonical_id", uuid_text(&group.id).into()),
        ("creation_time", Timestamp(a.created).rfc3339().into()),
        ("custom_metadata", metadata(a.custom_metadata.as_ref())),
        ("id", uuid_text(&a.id).into()),
        ("last_update_time", Timestamp(a.updated).rfc3339().into()),
        ("local", false.into()),
        ("merged_from_canonical_ids", ids_or_null(&a.merged_from)),
        ("metadata", Value::Null),
        ("name", a.name.into()),
        ("namespace_id", namespaces::id(tx)?.into()),
    ]);
    m.extend(map(Mounts::load(tx)?.shown(&a.mount_accessor)));
    Ok(Response::data(m))
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    if let Some((group, _)) = found(tx, call.capture("id"))? {
        save(tx, Some(group), None, call.now)?;
    }
    Ok(Response::empty())
}

fn list(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mounts = Mounts::load(tx)?;
    let all = store::groups(tx)?;
    aliases::listed(&mounts, all.into_iter().filter_map(|g| g.alias.map(|a| (g.id, a))).collect())
}
