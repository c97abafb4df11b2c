//! `creds`: a user of the database, made when somebody asks, gone with its lease.

use std::sync::Arc;

use holdfast_sdk::lease::Terms;
use holdfast_sdk::{Act, Call, Error, Map, NewLease, Outside, Place, Response, Result, Tx, record};

use crate::acts::{Plan, TIME_OUT, What, outside};
use crate::connections::Connection;
use crate::plugin::{Kind, NewUser};
use crate::roles::{self, Role};
use crate::template::{Names, Template};
use crate::{Database, ROLES, name_of, random};

pub fn intend(database: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Act>> {
    let name = name_of(call);
    let role = Role::load(tx, name)?.ok_or_else(|| Error::bad_request(format!("unknown role: {name}")))?;
    let connection = Connection::of_role(tx, &role.db_name)?;
    connection.require_allowed(name)?;
    role.credentials.require_password().map_err(Error::bad_request)?;
    let kind = connection.kind()?;
    if kind.needs_statements && role.creation.iter().all(String::is_empty) {
        return Err(Error::Internal("empty creation statements".into()));
    }
    let granted = database.limits.first(role.terms(), call.caller, call.now);
    let username = username(kind, &connection, call, name)?;
    let password = password(tx, &[&role.credentials.password_policy, &connection.password_policy])?;
    let what = What::User { role: name.to_owned(), revocation: role.revocation };
    let user = NewUser {
        name: username.clone(),
        password,
        until: call.cluster_now.plus_secs(granted.ttl_secs),
        statements: role.creation,
    };
    let plugin = database.opened.get(&role.db_name, &connection)?;
    let plan = Plan::Make { plugin, user, ttl_secs: granted.ttl_secs, warning: granted.warning };
    Ok(Some(Act { outside: outside(&role.db_name, &username, &what)?, means: Arc::new(plan), time_out: TIME_OUT }))
}

fn username(kind: &Kind, connection: &Connection, call: &Call<'_>, role: &str) -> Result<String> {
    let own = if kind.takes_template { connection.detail("username_template")? } else { String::new() };
    let template = if own.is_empty() { kind.username_template } else { &own };
    let names = Names { display_name: &call.caller.display_name, role_name: role };
    let made = Template::parse(template).and_then(|t| t.run(names, call.now));
    made.map_err(|e| Error::Internal(format!("unable to generate username: {e}")))
}

/// By the first policy that is named; without one by the engine's own rule.
pub fn password(tx: &mut Tx, policies: &[&str]) -> Result<String> {
    match policies.iter().find(|p| !p.is_empty()) {
        Some(policy) => {
            let none = || Error::Internal("failed to generate password: no password policy found".into());
            tx.generate_password(policy)?.ok_or_else(none)
        }
        None => random::password(),
    }
}

pub fn made(_: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let done = call.done.ok_or_else(|| Error::internal("a user was to be made and was not"))?;
    let Some(Plan::Make { user, ttl_secs, warning, .. }) = done.means.downcast_ref() else {
        return Err(Error::internal("an act without its plan"));
    };
    let mut m = Map::new();
    m.insert("username".into(), user.name.clone().into());
    m.insert("password".into(), user.password.clone().into());
    let lease = NewLease {
        ttl_secs: *ttl_secs,
        renewable: true,
        outside: done.outside.clone(),
        counted_as: name_of(call).to_owned(),
    };
    tx.note_use(&roles::use_of(name_of(call)), Place::Name(ROLES, name_of(call)));
    let warnings = warning.iter().cloned().collect();
    Ok(Response { new_lease: Some(Box::new(lease)), warnings, ..Response::data(m) })
}

/// What counts for a lease when it is renewed.
pub fn terms(tx: &mut Tx, outside: &Outside) -> Result<Terms> {
    let What::User { role, .. } = record::read(&outside.record)? else {
        return Err(Error::internal("a lease on no user"));
    };
    let found = Role::load(tx, &role)?;
    let gone = || Error::bad_request(format!("error during renew: could not find role with name {role:?}"));
    Ok(found.ok_or_else(gone)?.terms())
}
