//! `identity/entity-alias/*`, and the older names of these routes.

use holdfast_sdk::parameters::StringMap;
use holdfast_sdk::{Call, Error, Map, Response, Result, Routes, Timestamp, Value, parameters};

use super::record::{Alias, Entity, check_custom_metadata, ids_or_null, map, metadata, object};
use super::{IdentityBackend, Mounts, mounted, store};
use crate::namespaces;
use crate::random::uuid_text;
use crate::tx::Tx;

parameters! {
    pub struct Write {
        /// The id of the alias that is changed.
        id: Option<String>,
        /// The entity that it belongs to; made where none is given.
        canonical_id: Option<String>,
        /// The old name of canonical_id.
        entity_id: Option<String>,
        /// The accessor of the auth mount.
        mount_accessor: Option<String>,
        /// The name by which the auth mount knows the caller.
        name: Option<String>,
        /// Texts about it, for templates in policies.
        custom_metadata: Option<StringMap>,
    }
}

type R = Routes<IdentityBackend, Tx>;

pub fn routes(mut routes: R) -> R {
    for base in ["entity-alias", "alias", "persona"] {
        routes = routes
            .path(base, "Create an alias of an entity, or change one.", |p| p.update(write))
            .path(&format!("{base}/id"), "List the aliases of entities.", |p| p.list(list).reads_anywhere())
            .path(&format!("{base}/id/{{id}}"), "Read, change and delete an alias by its id.", |p| {
                p.read(read).update(write_id).delete(delete).reads_anywhere()
            });
    }
    routes
}

/// An alias as it is shown with its entity.
pub fn shown(mounts: &Mounts, entity: &Entity, a: &Alias) -> Map<String, Value> {
    let mut m = map([
        ("canonical_id", uuid_text(&entity.id).into()),
        ("creation_time", Timestamp(a.created).rfc3339().into()),
        ("custom_metadata", metadata(a.custom_metadata.as_ref())),
        ("id", uuid_text(&a.id).into()),
        ("last_update_time", Timestamp(a.updated).rfc3339().into()),
        ("local", false.into()),
        ("merged_from_canonical_ids", ids_or_null(&a.merged_from)),
        ("metadata", if a.metadata.is_empty() { Value::Null } else { object(&a.metadata) }),
        ("name", a.name.clone().into()),
    ]);
    m.extend(map(mounts.shown(&a.mount_accessor)));
    m
}

/// An alias as lists of entities show it.
pub fn brief(mounts: &Mounts, a: &Alias) -> Value {
    let mut m = map([("id", uuid_text(&a.id).into()), ("name", a.name.clone().into())]);
    m.extend(map(mounts.shown(&a.mount_accessor)));
    Value::Object(m)
}

/// An entity with one of its aliases.
fn found(tx: &mut Tx, alias: &str) -> Result<Option<(Entity, Alias)>> {
    let Some(id) = store::parse(alias) else { return Ok(None) };
    let Some(entity) = store::entity_of_alias(tx, &id)? else { return Ok(None) };
    let alias = entity.aliases.iter().find(|a| a.id == id).cloned();
    Ok(alias.map(|alias| (entity, alias)))
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    if let Some(StringMap(pairs)) = &p.custom_metadata {
        check_custom_metadata(pairs)?;
    }
    let by_id = match p.id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(found(tx, id)?.ok_or_else(|| Error::bad_request("invalid alias ID provided"))?),
        None => None,
    };
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let name = given(p.name).or_else(|| by_id.as_ref().map(|(_, a)| a.name.clone()));
    let accessor = given(p.mount_accessor).or_else(|| by_id.as_ref().map(|(_, a)| a.mount_accessor.clone()));
    let (Some(name), Some(accessor)) = (name, accessor) else {
        return Err(Error::bad_request("'id' or 'mount_accessor' and 'name' must be provided"));
    };
    mounted(tx, &accessor)?;
    let owner = match given(p.canonical_id).or(given(p.entity_id)) {
        None => None,
        Some(id) => {
            let entity = match store::parse(&id) {
                Some(id) => store::entity(tx, &id)?,
                None => None,
            };
            Some(entity.ok_or_else(|| Error::bad_request("given 'canonical_id' is not associated with an entity"))?)
        }
    };
    let before = match by_id {
        Some(found) => Some(found),
        None => store::entity_by_factors(tx, &accessor, &name)?.and_then(|e| {
            let alias = e.aliases.iter().find(|a| a.is(&accessor, &name)).cloned();
            alias.map(|a| (e, a))
        }),
    };
    match before {
        Some((entity, alias)) => change(tx, call, (entity, alias), owner, (name, accessor), p.custom_metadata),
        None => create(tx, call, owner, (name, accessor), p.custom_metadata),
    }
}

/// The mount knows nobody else by the name, and the entity has no other alias there.
fn check_free(tx: &mut Tx, owner: &Entity, alias: &Alias) -> Result<()> {
    if owner.aliases.iter().any(|a| a.id != alias.id && a.mount_accessor == alias.mount_accessor) {
        return Err(Error::bad_request("Alias already exists for requested entity and mount accessor"));
    }
    match store::entity_by_factors(tx, &alias.mount_accessor, &alias.name)? {
        Some(e) if e.aliases.iter().any(|a| a.id != alias.id && a.is(&alias.mount_accessor, &alias.name)) => {
            Err(Error::bad_request("alias with combination of mount accessor and name already exists"))
        }
        _ => Ok(()),
    }
}

fn create(
    tx: &mut Tx,
    call: &Call<'_>,
    owner: Option<Entity>,
    (name, accessor): (String, String),
    custom: Option<StringMap>,
) -> Result<Response> {
    let before = owner.clone();
    let mut entity = match owner {
        Some(e) => e,
        None => Entity::new(tx, None, call.now)?,
    };
    let mut alias = Alias::new(name, accessor, call.now)?;
    alias.custom_metadata = Some(custom.unwrap_or_default().0);
    check_free(tx, &entity, &alias)?;
    let answer = named(&entity, &alias);
    settle(&mut entity);
    entity.aliases.push(alias);
    entity.updated = call.now.0;
    store::save_entity(tx, before.as_ref(), &entity)?;
    Ok(answer)
}

fn change(
    tx: &mut Tx,
    call: &Call<'_>,
    (entity, before): (Entity, Alias),
    owner: Option<Entity>,
    (name, accessor): (String, String),
    custom: Option<StringMap>,
) -> Result<Response> {
    let mut alias = Alias { name, mount_accessor: accessor, ..before.clone() };
    let moves = owner.as_ref().is_some_and(|o| o.id != entity.id);
    alias.custom_metadata = match custom {
        Some(given) => Some(given.0),
        None => alias.custom_metadata.filter(|m| moves || !m.is_empty()),
    };
    let same = alias.name == before.name
        && alias.mount_accessor == before.mount_accessor
        && alias.custom_metadata.as_deref().unwrap_or_default()
            == before.custom_metadata.as_deref().unwrap_or_default();
    if same && !moves {
        return Ok(Response::empty());
    }
    alias.updated = call.now.0;
    let owner = owner.filter(|_| moves);
    check_free(tx, owner.as_ref().unwrap_or(&entity), &alias)?;
    match owner {
        None => {
            let mut changed = entity.clone();
            settle(&mut changed);
            changed.aliases.iter_mut().filter(|a| a.id == alias.id).for_each(|a| *a = alias.clone());
            store::save_entity(tx, Some(&entity), &changed)?;
            Ok(named(&changed, &alias))
        }
        Some(before) => {
            let mut left = entity.clone();
            left.aliases.retain(|a| a.id != alias.id);
            settle(&mut left);
            store::save_entity(tx, Some(&entity), &left)?;
            let mut owner = before.clone();
            settle(&mut owner);
            owner.aliases.push(alias.clone());
            store::save_entity(tx, Some(&before), &owner)?;
            Ok(named(&owner, &alias))
        }
    }
}

/// Custom metadata that were given and are empty are shown as such only until the entity is stored again.
fn settle(entity: &mut Entity) {
    for alias in &mut entity.aliases {
        alias.custom_metadata = alias.custom_metadata.take().filter(|m| !m.is_empty());
    }
}

fn named(entity: &Entity, alias: &Alias) -> Response {
    Response::data(map([("canonical_id", uuid_text(&entity.id).into()), ("id", uuid_text(&alias.id).into())]))
}

fn write_id(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    write(backend, tx, call, Write { id: Some(call.capture("id").to_owned()), ..p })
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let (entity, alias) = found(tx, call.capture("id"))?.ok_or(Error::NotFound)?;
    let mut m = shown(&Mounts::load(tx)?, &entity, &alias);
    m.insert("namespace_id".into(), namespaces::id(tx)?.into());
    Ok(Response::data(m))
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    if let Some((entity, alias)) = found(tx, call.capture("id"))? {
        let mut left = entity.clone();
        left.aliases.retain(|a| a.id != alias.id);
        left.updated = call.now.0;
        store::save_entity(tx, Some(&entity), &left)?;
    }
    Ok(Response::empty())
}

/// Aliases by id, as lists show them.
pub fn listed(mounts: &Mounts, owned: Vec<(super::record::Id, Alias)>) -> Result<Response> {
    let mut info = Map::new();
    let mut keys = Vec::with_capacity(owned.len());
    for (owner, a) in owned {
        let mut m = map([
            ("canonical_id", uuid_text(&owner).into()),
            ("custom_metadata", metadata(a.custom_metadata.as_ref())),
            ("local", false.into()),
            ("metadata", if a.metadata.is_empty() { Value::Null } else { object(&a.metadata) }),
            ("name", a.name.into()),
        ]);
        m.extend(map(mounts.shown(&a.mount_accessor)));
        keys.push(uuid_text(&a.id));
        info.insert(uuid_text(&a.id), Value::Object(m));
    }
    keys.sort();
    let mut response = Response::list(keys)?;
    if let holdfast_sdk::Body::Data(data) = &mut response.body {
        data.insert("key_info".into(), Value::Object(info));
    }
    Ok(response)
}

fn list(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mounts = Mounts::load(tx)?;
    let all = store::entities(tx)?;
    listed(&mounts, all.into_iter().flat_map(|e| e.aliases.into_iter().map(move |a| (e.id, a))).collect())
}
