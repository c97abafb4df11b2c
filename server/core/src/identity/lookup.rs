//! `identity/lookup/*`.

use holdfast_sdk::{Call, Error, Response, Result, Routes, parameters};

use super::{IdentityBackend, entities, groups, store};
use crate::tx::Tx;

parameters! {
    pub struct Asked {
        /// The id.
        id: Option<String>,
        /// The name.
        name: Option<String>,
        /// The id of an alias.
        alias_id: Option<String>,
        /// The name of an alias, with alias_mount_accessor.
        alias_name: Option<String>,
        /// The mount of an alias, with alias_name.
        alias_mount_accessor: Option<String>,
    }
}

type R = Routes<IdentityBackend, Tx>;

pub fn routes(routes: R) -> R {
    routes.path("lookup/entity", "Look an entity up by one of its properties.", |p| p.update(entity)).path(
        "lookup/group",
        "Look a group up by one of its properties.",
        |p| p.update(group),
    )
}

/// The one property that was asked by.
enum By {
    Id(String),
    Name(String),
    AliasId(String),
    Alias { name: String, accessor: String },
}

impl By {
    fn of(p: Asked) -> Result<By> {
        // One that is empty is asked by, too: nothing has it.
        let asked_by_any = [&p.id, &p.name, &p.alias_id, &p.alias_name].into_iter().any(Option::is_some);
        let given = |text: Option<String>| text.filter(|t| !t.is_empty());
        let alias = match (given(p.alias_name), given(p.alias_mount_accessor)) {
            (Some(name), Some(accessor)) => Some(By::Alias { name, accessor }),
            (None, None) => None,
            _ => return Err(Error::bad_request("both 'alias_name' and 'alias_mount_accessor' needs to be set")),
        };
        let asked = [given(p.id).map(By::Id), given(p.name).map(By::Name), given(p.alias_id).map(By::AliasId), alias];
        let mut asked = asked.into_iter().flatten();
        match (asked.next(), asked.next()) {
            (None, _) if asked_by_any => Ok(By::Id(String::new())),
            (None, _) => Err(Error::bad_request("query parameter not supplied")),
            (Some(by), None) => Ok(by),
            (Some(_), Some(_)) => {
                Err(Error::bad_request("query parameter conflict; please supply distinct set of query parameters"))
            }
        }
    }
}

fn entity(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, p: Asked) -> Result<Response> {
    let found = match By::of(p)? {
        By::Id(id) => store::parse(&id).map(|id| store::entity(tx, &id)).transpose()?.flatten(),
        By::Name(name) => store::entity_named(tx, &name)?,
        By::AliasId(id) => store::parse(&id).map(|id| store::entity_of_alias(tx, &id)).transpose()?.flatten(),
        By::Alias { name, accessor } => store::entity_by_factors(tx, &accessor, &name)?,
    };
    match found {
        Some(entity) => Ok(Response::data(entities::shown(tx, &entity)?)),
        None => Ok(Response::empty()),
    }
}

fn group(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, p: Asked) -> Result<Response> {
    let found = match By::of(p)? {
        By::Id(id) => store::parse(&id).map(|id| store::group(tx, &id)).transpose()?.flatten(),
        By::Name(name) => store::group_named(tx, &name)?,
        By::AliasId(id) => store::parse(&id).map(|id| store::group_of_alias(tx, &id)).transpose()?.flatten(),
        By::Alias { name, accessor } => store::group_by_factors(tx, &accessor, &name)?,
    };
    match found {
        Some(group) => Ok(Response::data(groups::shown(tx, &group)?)),
        None => Ok(Response::empty()),
    }
}
