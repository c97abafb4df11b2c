//! `identity/group/*`.

use holdfast_sdk::parameters::StringMap;
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Timestamp, Value, parameters};

use super::record::{Group, Id, ids_or_null, map, metadata, policies};
use super::{IdentityBackend, Mounts, store};
use crate::namespaces;
use crate::random::uuid_text;
use crate::tx::Tx;

parameters! {
    pub struct Write {
        /// The id of the group that is changed; made where none is given.
        id: Option<String>,
        /// Its name; made where none is given.
        name: Option<String>,
        /// internal (the members are named here) or external (logins say who is a member).
        r#type: Option<String>,
        /// Texts about it, for templates in policies.
        metadata: Option<StringMap>,
        /// Policies of its members.
        policies: Option<Vec<String>>,
        /// Its groups: their members are its members too.
        member_group_ids: Option<Vec<String>>,
        /// Its entities.
        member_entity_ids: Option<Vec<String>>,
    }
}

type R = Routes<IdentityBackend, Tx>;

pub fn routes(routes: R) -> R {
    routes
        .path("group", "Create a group, or change one.", |p| p.update(write))
        .path("group/id", "List the groups by id.", |p| p.list(list_ids).reads_anywhere())
        .path("group/id/{id}", "Read, change and delete a group by its id.", |p| {
            p.read(read_id).update(write_id).delete(delete_id).reads_anywhere()
        })
        .path("group/name", "List the groups by name.", |p| p.list(list_names).reads_anywhere())
        .path("group/name/{name+}", "Read, write and delete a group by its name.", |p| {
            p.read(read_name).update(write_name).delete(delete_name).reads_anywhere()
        })
}

/// A group as the API shows it.
pub fn shown(tx: &mut Tx, g: &Group) -> Result<Map<String, Value>> {
    let mounts = Mounts::load(tx)?;
    let texts = |ids: Vec<Id>| match ids.is_empty() {
        true => Value::Null,
        false => ids.iter().map(uuid_text).collect::<Vec<_>>().into(),
    };
    let members = match texts(store::members(tx, &g.id)?) {
        Value::Null if g.members_changed => Value::Array(Vec::new()),
        other => other,
    };
    let alias = g.alias.as_ref().map_or_else(Map::new, |a| {
        let mut m = map([
            ("canonical_id", uuid_text(&g.id).into()),
            ("creation_time", Timestamp(a.created).rfc3339().into()),
            ("id", uuid_text(&a.id).into()),
            ("last_update_time", Timestamp(a.updated).rfc3339().into()),
            ("merged_from_canonical_ids", ids_or_null(&a.merged_from)),
            ("metadata", Value::Null),
            ("name", a.name.clone().into()),
        ]);
        m.extend(map(mounts.shown(&a.mount_accessor)));
        m
    });
    Ok(map([
        ("alias", Value::Object(alias)),
        ("creation_time", Timestamp(g.created).rfc3339().into()),
        ("id", uuid_text(&g.id).into()),
        ("last_update_time", Timestamp(g.updated).rfc3339().into()),
        ("member_entity_ids", members),
        ("member_group_ids", texts(store::subgroups(tx, &g.id)?)),
        ("metadata", metadata(g.metadata.as_ref())),
        ("modify_index", g.modify_index.into()),
        ("name", g.name.clone().into()),
        ("namespace_id", namespaces::id(tx)?.into()),
        ("parent_group_ids", texts(store::parents(tx, &g.id)?)),
        ("policies", g.policies.clone().map_or(Value::Null, Value::from)),
        ("type", if g.external { "external" } else { "internal" }.into()),
    ]))
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let before = match p.id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(by_id(tx, id)?.ok_or_else(|| Error::bad_request("invalid group ID"))?),
        None => match p.name.as_deref() {
            Some("") => return Err(Error::bad_request("empty group name")),
            Some(name) => store::group_named(tx, name)?,
            None => None,
        },
    };
    save(tx, call, before, p)
}

fn write_id(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    write(backend, tx, call, Write { id: Some(call.capture("id").to_owned()), ..p })
}

fn write_name(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    // The path says which; an id beside it means nothing.
    write(backend, tx, call, Write { id: None, name: Some(call.capture("name").to_owned()), ..p })
}

fn save(tx: &mut Tx, call: &Call<'_>, before: Option<Group>, p: Write) -> Result<Response> {
    let external = match p.r#type.as_deref() {
        None | Some("") => before.as_ref().is_some_and(|b| b.external),
        Some("internal") => false,
        Some("external") => true,
        Some(other) => return Err(Error::bad_request(format!("invalid group type {other:?}"))),
    };
    if before.as_ref().is_some_and(|b| b.external != external) {
        return Err(Error::bad_request("group type cannot be changed"));
    }
    let name = p.name.filter(|n| !n.is_empty());
    let mut group = match &before {
        Some(b) => b.clone(),
        None => Group::new(tx, name.clone(), external, call.now)?,
    };
    group.name = name.unwrap_or(group.name);
    if let Some(list) = p.policies {
        group.policies = Some(policies(list)?);
    }
    group.metadata = match p.metadata {
        Some(given) => Some(given.0),
        None => group.metadata.filter(|m| !m.is_empty()),
    };
    group.members_changed = false;
    if let Some(members) = p.member_entity_ids {
        if external {
            return Err(Error::bad_request("member entities can't be set manually for external groups"));
        }
        set_members(tx, &mut group, &members)?;
    }
    if let Some(subgroups) = p.member_group_ids {
        if external {
            return Err(Error::bad_request("member groups can't be set for external groups"));
        }
        set_subgroups(tx, &group, &subgroups, call.now)?;
    }
    group.modify_index += 1;
    group.updated = call.now.0;
    store::save_group(tx, before.as_ref(), &group)?;
    if before.is_some() {
        return Ok(Response::empty());
    }
    Ok(Response::data(map([("id", uuid_text(&group.id).into()), ("name", group.name.into())])))
}

fn set_members(tx: &mut Tx, group: &mut Group, given: &[String]) -> Result<()> {
    let mut wanted = Vec::with_capacity(given.len());
    for text in given.iter().filter(|t| !t.is_empty()) {
        let id = store::parse(text);
        let there = match &id {
            Some(id) => store::entity(tx, id)?.is_some(),
            None => false,
        };
        match id.filter(|_| there) {
            Some(id) => wanted.push(id),
            None => return Err(Error::bad_request(format!("invalid entity ID {text:?}"))),
        }
    }
    let present = store::members(tx, &group.id)?;
    group.members_changed = true;
    for id in present.iter().filter(|id| !wanted.contains(id)) {
        store::set_member(tx, group, id, false)?;
    }
    for id in wanted.iter().filter(|id| !present.contains(id)) {
        store::set_member(tx, group, id, true)?;
    }
    Ok(())
}

fn set_subgroups(tx: &mut Tx, group: &Group, given: &[String], now: Timestamp) -> Result<()> {
    let above = store::ancestors(tx, &[group.id])?;
    let mut wanted = Vec::with_capacity(given.len());
    for text in given.iter().filter(|t| !t.is_empty()) {
        let found = by_id(tx, text)?.ok_or_else(|| Error::bad_request(format!("invalid member group ID {text:?}")))?;
        if found.id == group.id {
            return Err(Error::bad_request(format!("member group ID {text:?} is same as the ID of the group")));
        }
        if above.contains(&found.id) {
            return Err(Error::bad_request(format!("cyclic relationship detected for member group ID {text:?}")));
        }
        wanted.push(found.id);
    }
    let present = store::subgroups(tx, &group.id)?;
    let changed = present.iter().filter(|id| !wanted.contains(id)).map(|id| (*id, false));
    let changed: Vec<(Id, bool)> =
        changed.chain(wanted.iter().filter(|id| !present.contains(id)).map(|id| (*id, true))).collect();
    for (child, is) in changed {
        store::set_subgroup(tx, &group.id, &child, is)?;
        if let Some(before) = store::group(tx, &child)? {
            let modify_index = before.modify_index + 1;
            let after = Group { modify_index, updated: now.0, members_changed: false, ..before.clone() };
            store::save_group(tx, Some(&before), &after)?;
        }
    }
    Ok(())
}

fn by_id(tx: &mut Tx, id: &str) -> Result<Option<Group>> {
    match store::parse(id) {
        Some(id) => store::group(tx, &id),
        None => Ok(None),
    }
}

fn read_id(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let group = by_id(tx, call.capture("id"))?.ok_or(Error::NotFound)?;
    Ok(Response::data(shown(tx, &group)?))
}

fn read_name(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let group = store::group_named(tx, call.capture("name"))?.ok_or(Error::NotFound)?;
    Ok(Response::data(shown(tx, &group)?))
}

fn delete_id(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    if let Some(group) = by_id(tx, call.capture("id"))? {
        store::delete_group(tx, &group)?;
    }
    Ok(Response::empty())
}

fn delete_name(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    if let Some(group) = store::group_named(tx, call.capture("name"))? {
        store::delete_group(tx, &group)?;
    }
    Ok(Response::empty())
}

fn list_ids(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let all = store::groups(tx)?;
    let mut info = Map::new();
    for g in &all {
        let m = map([
            ("name", g.name.clone().into()),
            ("num_member_entities", store::members(tx, &g.id)?.len().into()),
            ("num_parent_groups", store::parents(tx, &g.id)?.len().into()),
        ]);
        info.insert(uuid_text(&g.id), Value::Object(m));
    }
    let mut response = Response::list(all.iter().map(|g| uuid_text(&g.id)).collect())?;
    if let holdfast_sdk::Body::Data(data) = &mut response.body {
        data.insert("key_info".into(), Value::Object(info));
    }
    Ok(response)
}

fn list_names(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mut names: Vec<String> = store::groups(tx)?.into_iter().map(|g| g.name).collect();
    names.sort();
    Response::list(names)
}
