//! `identity/oidc/assignment/*`: which entities and groups may log in to a client.

use holdfast_sdk::{Call, Error, Response, Result, Table, parameters};
use minicbor::{Decode, Encode};

use super::clients::Client;
use super::{R, map, plain, store};
use crate::identity::IdentityBackend;
use crate::layout::identity::OIDC_ASSIGNMENT;
use crate::tx::Tx;

/// The assignment of everybody, which every namespace has.
pub const ALLOW_ALL: &str = "allow_all";

#[derive(Debug, Clone, Encode, Decode)]
pub struct Assignment {
    #[n(0)]
    name: String,
    #[n(1)]
    pub entity_ids: Vec<String>,
    #[n(2)]
    pub group_ids: Vec<String>,
}
holdfast_sdk::record!(Assignment);

impl store::Named for Assignment {
    const TABLE: Table = OIDC_ASSIGNMENT;
    const KIND: &'static str = "assignment";
    fn name(&self) -> &str {
        &self.name
    }
}

parameters! {
    pub struct Write {
        /// Ids of entities.
        entity_ids: Option<Vec<String>>,
        /// Ids of groups.
        group_ids: Option<Vec<String>>,
    }
}

pub fn routes(routes: R) -> R {
    routes.path("oidc/assignment", "List who may log in to clients.", |p| p.list(list)).path(
        "oidc/assignment/{name}",
        "Read, write and delete who may log in to clients.",
        |p| p.read(read).write(exists, write).delete(delete),
    )
}

pub fn is_there(tx: &mut Tx, name: &str) -> Result<bool> {
    Ok(name == ALLOW_ALL || store::is_there::<Assignment>(tx, name)?)
}

fn exists(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    is_there(tx, call.capture("name")).map(Some)
}

fn list(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mut names = store::names::<Assignment>(tx)?;
    names.push(ALLOW_ALL.into());
    names.sort_unstable();
    Response::list(names)
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    let (entities, groups) = match name {
        ALLOW_ALL => (vec!["*".to_owned()], vec!["*".to_owned()]),
        _ => {
            let found = store::load::<Assignment>(tx, name)?.ok_or(Error::NotFound)?;
            (found.entity_ids, found.group_ids)
        }
    };
    Ok(Response::data(map([("entity_ids", entities.into()), ("group_ids", groups.into())])))
}

fn write(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    if name == ALLOW_ALL {
        return Err(Error::bad_request(format!("modification of assignment {name:?} not allowed")));
    }
    let before = store::load::<Assignment>(tx, name)?;
    let (entities, groups) = before.map(|b| (b.entity_ids, b.group_ids)).unwrap_or_default();
    let entity_ids = p.entity_ids.map_or(entities, once_each);
    let group_ids = p.group_ids.map_or(groups, once_each);
    store::save(tx, &Assignment { name: name.to_owned(), entity_ids, group_ids })?;
    Ok(Response::empty())
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = plain(call.capture("name"))?;
    if name == ALLOW_ALL {
        return Err(Error::bad_request(format!("deletion of assignment {name:?} not allowed")));
    }
    let refers = |c: &Client| c.assignments.iter().any(|a| a == name);
    let clients = store::all::<Client>(tx)?.into_iter().filter(refers).map(|c| c.name).collect();
    store::in_use("assignment", name, "clients", clients)?;
    store::delete::<Assignment>(tx, name)?;
    Ok(Response::empty())
}

/// A list as it was given, without what is there already.
pub fn once_each(list: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    list.into_iter().filter(|item| !item.is_empty() && seen.insert(item.clone())).collect()
}
