//! `identity/mfa/login-enforcement/*`: which logins need a second factor.

use holdfast_sdk::parameters::Names;
use holdfast_sdk::{Call, Error, Map, Response, Result, Table, Value, parameters};
use minicbor::{Decode, Encode};

use super::{R, methods};
use crate::identity::named::{self as store, Named};
use crate::identity::{IdentityBackend, map, store as identity};
use crate::layout::{NamespaceId, SYSTEM, identity::MFA_ENFORCEMENT};
use crate::namespaces;
use crate::random::{self, uuid_text};
use crate::router::{self, MountEntry};
use crate::tx::Tx;

#[derive(Debug, Clone, Encode, Decode)]
pub struct Enforcement {
    #[cbor(n(0), with = "minicbor::bytes")]
    id: [u8; 16],
    #[n(1)]
    pub name: String,
    /// Ids of methods: one of them has to be satisfied.
    #[n(2)]
    pub method_ids: Vec<String>,
    #[n(3)]
    accessors: Vec<String>,
    /// Types of auth mounts.
    #[n(4)]
    types: Vec<String>,
    #[n(5)]
    group_ids: Vec<String>,
    #[n(6)]
    entity_ids: Vec<String>,
}
holdfast_sdk::record!(Enforcement);

impl Named for Enforcement {
    const TABLE: Table = MFA_ENFORCEMENT;
    const KIND: &'static str = "login enforcement";
    fn name(&self) -> &str {
        &self.name
    }
}

/// Who logs in, and where.
pub struct Who<'w> {
    pub mount: &'w MountEntry,
    /// None: it is not made yet.
    pub entity: Option<[u8; 16]>,
    /// With those above its own.
    pub groups: &'w [[u8; 16]],
}

impl Enforcement {
    pub fn counts_for(&self, who: &Who<'_>) -> bool {
        let has = |list: &[String], id: &[u8; 16]| list.contains(&uuid_text(id));
        self.accessors.contains(&who.mount.accessor)
            || self.types.contains(&who.mount.kind)
            || who.entity.is_some_and(|id| has(&self.entity_ids, &id))
            || who.groups.iter().any(|id| has(&self.group_ids, id))
    }

    fn shown(&self, tx: &mut Tx) -> Result<Map<String, Value>> {
        Ok(map([
            ("auth_method_accessors", self.accessors.clone().into()),
            ("auth_method_types", self.types.clone().into()),
            ("id", uuid_text(&self.id).into()),
            ("identity_entity_ids", self.entity_ids.clone().into()),
            ("identity_group_ids", self.group_ids.clone().into()),
            ("mfa_method_ids", self.method_ids.clone().into()),
            ("name", self.name.clone().into()),
            ("namespace_id", namespaces::id(tx)?.into()),
            ("namespace_path", namespaces::path_of(tx, tx.namespace())?.into()),
        ]))
    }
}

/// The enforcements that count in this namespace: its own, and those of namespaces above it.
pub fn here(tx: &mut Tx) -> Result<Vec<Enforcement>> {
    let mut found = Vec::new();
    for namespace in namespaces::upwards(tx)? {
        let all = tx.within(SYSTEM.of(namespace), store::all::<Enforcement>)?;
        found.extend(all);
    }
    Ok(found)
}

/// The id of an enforcement of this namespace, or of one below it, that uses a method.
pub fn using(tx: &mut Tx, method: &[u8; 16]) -> Result<Option<String>> {
    let path = namespaces::path_of(tx, tx.namespace())?;
    let below: Vec<NamespaceId> = namespaces::below(tx, &path)?.into_iter().map(|n| n.uuid).collect();
    let method = uuid_text(method);
    for namespace in [vec![tx.namespace()], below].concat() {
        if tx.is_sealed(&namespace) {
            continue;
        }
        let all = tx.within(SYSTEM.of(namespace), store::all::<Enforcement>)?;
        if let Some(user) = all.iter().find(|e| e.method_ids.contains(&method)) {
            return Ok(Some(uuid_text(&user.id)));
        }
    }
    Ok(None)
}

parameters! {
    pub struct Write {
        /// Ids of methods: a login needs one of them.
        mfa_method_ids: Option<Names>,
        /// Accessors of auth mounts whose logins need it.
        auth_method_accessors: Option<Names>,
        /// Types of auth mounts whose logins need it.
        auth_method_types: Option<Names>,
        /// Groups whose members need it.
        identity_group_ids: Option<Names>,
        /// Entities that need it.
        identity_entity_ids: Option<Names>,
    }
}

pub fn routes(routes: R) -> R {
    routes.path("mfa/login-enforcement", "List which logins need a second factor.", |p| p.list(list)).path(
        "mfa/login-enforcement/{name}",
        "Read, write and delete which logins need a second factor.",
        |p| p.read(read).update(write).delete(delete),
    )
}

fn name_of<'c>(call: &'c Call<'_>) -> Result<&'c str> {
    let name = call.capture("name");
    if holdfast_sdk::names::is_plain(name) { Ok(name) } else { Err(Error::UnsupportedPath) }
}

fn list(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let all = store::all::<Enforcement>(tx)?;
    let mut info = Map::new();
    for enforcement in &all {
        info.insert(enforcement.name.clone(), Value::Object(enforcement.shown(tx)?));
    }
    let mut response = Response::list(all.into_iter().map(|e| e.name).collect())?;
    if let holdfast_sdk::Body::Data(data) = &mut response.body {
        data.insert("key_info".into(), Value::Object(info));
    }
    Ok(response)
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let enforcement = store::load::<Enforcement>(tx, name_of(call)?)?.ok_or(Error::NotFound)?;
    Ok(Response::data(enforcement.shown(tx)?))
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let refuse = |why: &str| Err(Error::bad_request(why));
    let name = name_of(call)?;
    // Each write says by which methods.
    let method_ids = p.mfa_method_ids.map(|n| n.0).unwrap_or_default();
    if method_ids.is_empty() {
        return refuse("missing method ids");
    }
    let before = store::load::<Enforcement>(tx, name)?;
    let mut enforcement = match before {
        Some(before) => Enforcement { method_ids, ..before },
        None => Enforcement {
            id: random::uuid()?,
            name: name.to_owned(),
            method_ids,
            accessors: Vec::new(),
            types: Vec::new(),
            group_ids: Vec::new(),
            entity_ids: Vec::new(),
        },
    };
    let kept = |list: &mut Vec<String>, given: Option<Names>| {
        if let Some(given) = given {
            *list = given.0;
        }
    };
    kept(&mut enforcement.accessors, p.auth_method_accessors);
    kept(&mut enforcement.types, p.auth_method_types);
    kept(&mut enforcement.group_ids, p.identity_group_ids);
    kept(&mut enforcement.entity_ids, p.identity_entity_ids);
    check(tx, &enforcement)?;
    store::save(tx, &enforcement)?;
    Ok(Response::empty())
}

/// Refuse one that names what is not there: it would look as if it counted.
fn check(tx: &mut Tx, e: &Enforcement) -> Result<()> {
    let refuse = |why: &str| Err(Error::bad_request(why));
    for id in &e.method_ids {
        let found = match random::parse_uuid(id) {
            Some(id) => methods::find(tx, &id)?,
            None => None,
        };
        if found.is_none() {
            return refuse("one of the provided method ids doesn't exist");
        }
    }
    let mounts: Vec<MountEntry> = router::load(tx)?.into_iter().filter(|m| m.auth).collect();
    if e.accessors.iter().any(|a| !mounts.iter().any(|m| m.accessor == *a)) {
        return refuse("one of the auth method accessors provided is invalid");
    }
    if e.types.iter().any(|t| !mounts.iter().any(|m| m.kind == *t)) {
        return refuse("one of the auth method types provided is invalid");
    }
    for id in &e.group_ids {
        let there = match identity::parse(id) {
            Some(id) => identity::group(tx, &id)?.is_some(),
            None => false,
        };
        if !there {
            return refuse("one of the provided group ids doesn't exist");
        }
    }
    for id in &e.entity_ids {
        let there = match identity::parse(id) {
            Some(id) => identity::entity(tx, &id)?.is_some(),
            None => false,
        };
        if !there {
            return refuse("one of the provided entity ids doesn't exist");
        }
    }
    if [&e.accessors, &e.types, &e.group_ids, &e.entity_ids].iter().all(|list| list.is_empty()) {
        return refuse(
            "One of auth_method_accessors, auth_method_types, identity_group_ids, identity_entity_ids must be specified",
        );
    }
    Ok(())
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    store::delete::<Enforcement>(tx, name_of(call)?)?;
    Ok(Response::empty())
}
