//! `identity/entity/*`.

use holdfast_sdk::parameters::StringMap;
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Timestamp, Value, parameters};

use super::record::{Entity, ids_or_null, map, metadata, policies};
use super::{IdentityBackend, Mounts, aliases, merge, store};
use crate::namespaces;
use crate::random::uuid_text;
use crate::tx::Tx;

parameters! {
    pub struct Write {
        /// The id of the entity that is changed; made where none is given.
        id: Option<String>,
        /// Its name; made where none is given.
        name: Option<String>,
        /// Texts about it, for templates in policies.
        metadata: Option<StringMap>,
        /// Policies that its tokens have beside their own.
        policies: Option<Vec<String>>,
        /// Its tokens are refused while it is disabled.
        disabled: Option<bool>,
    }
}
parameters! {
    pub struct BatchDelete {
        /// The ids of the entities.
        entity_ids: Option<Vec<String>>,
    }
}

type R = Routes<IdentityBackend, Tx>;

pub fn routes(routes: R) -> R {
    routes
        .path("entity", "Create an entity, or change one.", |p| p.update(write))
        .path("entity/batch-delete", "Delete entities by their ids.", |p| p.update(batch_delete))
        .path("entity/merge", "Make several entities one.", |p| p.update(merge::merge))
        .path("entity/id", "List the entities by id.", |p| p.list(list_ids).reads_anywhere())
        .path("entity/id/{id}", "Read, change and delete an entity by its id.", |p| {
            p.read(read_id).update(write_id).delete(delete_id).reads_anywhere()
        })
        .path("entity/name", "List the entities by name.", |p| p.list(list_names).reads_anywhere())
        .path("entity/name/{name+}", "Read, write and delete an entity by its name.", |p| {
            p.read(read_name).update(write_name).delete(delete_name).reads_anywhere()
        })
}

/// An entity as the API shows it.
pub fn shown(tx: &mut Tx, e: &Entity) -> Result<Map<String, Value>> {
    let mounts = Mounts::load(tx)?;
    let texts = |ids: &[super::record::Id]| -> Value { ids.iter().map(uuid_text).collect::<Vec<_>>().into() };
    let direct = store::groups_of(tx, &e.id)?;
    let mut inherited = store::ancestors(tx, &direct)?;
    inherited.retain(|id| !direct.contains(id));
    let all: Vec<_> = direct.iter().chain(&inherited).copied().collect();
    Ok(map([
        ("aliases", e.aliases.iter().map(|a| Value::Object(aliases::shown(&mounts, e, a))).collect()),
        ("creation_time", Timestamp(e.created).rfc3339().into()),
        ("direct_group_ids", texts(&direct)),
        ("disabled", e.disabled.into()),
        ("group_ids", texts(&all)),
        ("id", uuid_text(&e.id).into()),
        ("inherited_group_ids", texts(&inherited)),
        ("last_update_time", Timestamp(e.updated).rfc3339().into()),
        ("merged_entity_ids", ids_or_null(&e.merged)),
        ("metadata", metadata(e.metadata.as_ref())),
        ("name", e.name.clone().into()),
        ("namespace_id", namespaces::id(tx)?.into()),
        ("policies", e.policies.clone().into()),
    ]))
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let before = match p.id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(by_id(tx, id)?.ok_or_else(|| Error::bad_request("entity not found from id"))?),
        None => match p.name.as_deref().filter(|n| !n.is_empty()) {
            Some(name) => store::entity_named(tx, name)?,
            None => None,
        },
    };
    save(tx, call, before, p)
}

fn write_id(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    write(backend, tx, call, Write { id: Some(call.capture("id").to_owned()), ..p })
}

fn write_name(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    write(backend, tx, call, Write { name: Some(call.capture("name").to_owned()), ..p })
}

fn save(tx: &mut Tx, call: &Call<'_>, before: Option<Entity>, p: Write) -> Result<Response> {
    let name = p.name.filter(|n| !n.is_empty());
    let mut entity = match &before {
        Some(b) => b.clone(),
        None => Entity::new(tx, name.clone(), call.now)?,
    };
    entity.name = name.unwrap_or(entity.name);
    entity.metadata = match p.metadata {
        Some(given) => Some(given.0),
        None => entity.metadata.filter(|m| !m.is_empty()),
    };
    if let Some(list) = p.policies {
        entity.policies = policies(list)?;
    }
    entity.disabled = p.disabled.unwrap_or(entity.disabled);
    entity.updated = call.now.0;
    store::save_entity(tx, before.as_ref(), &entity)?;
    if before.is_some() {
        return Ok(Response::empty());
    }
    Ok(Response::data(map([
        ("aliases", Value::Null),
        ("id", uuid_text(&entity.id).into()),
        ("name", entity.name.into()),
    ])))
}

fn by_id(tx: &mut Tx, id: &str) -> Result<Option<Entity>> {
    match store::parse(id) {
        Some(id) => store::entity(tx, &id),
        None => Ok(None),
    }
}

fn read_id(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let entity = by_id(tx, call.capture("id"))?.ok_or(Error::NotFound)?;
    Ok(Response::data(shown(tx, &entity)?))
}

fn read_name(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let entity = store::entity_named(tx, call.capture("name"))?.ok_or(Error::NotFound)?;
    Ok(Response::data(shown(tx, &entity)?))
}

fn delete_id(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    if let Some(entity) = by_id(tx, call.capture("id"))? {
        store::delete_entity(tx, &entity)?;
    }
    Ok(Response::empty())
}

fn delete_name(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    if let Some(entity) = store::entity_named(tx, call.capture("name"))? {
        store::delete_entity(tx, &entity)?;
    }
    Ok(Response::empty())
}

fn batch_delete(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, p: BatchDelete) -> Result<Response> {
    let ids = p.entity_ids.filter(|l| !l.is_empty());
    let ids = ids.ok_or_else(|| Error::bad_request("missing entity ids to delete"))?;
    for id in &ids {
        if let Some(entity) = by_id(tx, id)? {
            store::delete_entity(tx, &entity)?;
        }
    }
    Ok(Response::empty())
}

fn list_ids(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mounts = Mounts::load(tx)?;
    let all = store::entities(tx)?;
    let mut info = Map::new();
    for e in &all {
        let mut m = map([("name", e.name.clone().into())]);
        if !e.aliases.is_empty() {
            m.insert("aliases".into(), e.aliases.iter().map(|a| aliases::brief(&mounts, a)).collect());
        }
        info.insert(uuid_text(&e.id), Value::Object(m));
    }
    let mut response = Response::list(all.iter().map(|e| uuid_text(&e.id)).collect())?;
    if let holdfast_sdk::Body::Data(data) = &mut response.body {
        data.insert("key_info".into(), Value::Object(info));
    }
    Ok(response)
}

fn list_names(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mut names: Vec<String> = store::entities(tx)?.into_iter().map(|e| e.name).collect();
    names.sort();
    Response::list(names)
}
