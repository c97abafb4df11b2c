//! `rotate-root`: a password of the connection's own user that nobody knows.

use std::sync::Arc;

use holdfast_sdk::{Act, Call, Error, Response, Result, Tx};

use crate::acts::{Plan, TIME_OUT, Told, What, outside};
use crate::connections::Connection;
use crate::creds::password;
use crate::{Database, name_of};

/// The new password is stored beside the old one before it is set: whichever the database has, the connection opens.
pub fn intend(database: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Act>> {
    let name = name_of(call);
    let mut connection = Connection::of_role(tx, name)?;
    let missing =
        |what: &str| Error::Internal(format!("unable to rotate root credentials: no {what} in configuration"));
    let username = connection.username()?;
    let url = connection.detail("connection_url")?;
    if !url.is_empty() && !url.contains("{{password}}") {
        return Err(Error::Internal(
            "unable to rotate root credentials: the password is written into connection_url, where a new one cannot be \
             put; write {{username}} and {{password}} there, and both as parameters"
                .into(),
        ));
    }
    if username.is_empty() {
        return Err(missing("username"));
    }
    if connection.password.as_ref().is_none_or(String::is_empty) {
        return Err(missing("password"));
    }
    let next = password(tx, &[&connection.password_policy])?;
    connection.expect_password(&next)?;
    connection.save(tx, name)?;
    let plugin = database.opened.get(name, &connection)?;
    let statements = connection.root_rotation_statements;
    let plan = Plan::SetPassword {
        plugin,
        username: username.clone(),
        password: next,
        statements,
        told: Told::Root,
        _alone: database.alone.enter(&format!("config/{name}"))?,
    };
    let outside = outside(name, &username, &What::RootPassword)?;
    Ok(Some(Act { outside, means: Arc::new(plan), time_out: TIME_OUT }))
}

pub fn rotated(database: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name_of(call);
    let done = call.done.ok_or_else(|| Error::internal("a password was to be set and was not"))?;
    let Some(Plan::SetPassword { password, .. }) = done.means.downcast_ref() else {
        return Err(Error::internal("an act without its plan"));
    };
    let mut connection = Connection::of_role(tx, name)?;
    connection.replace_password(password)?;
    connection.save(tx, name)?;
    database.opened.close(name);
    Ok(Response::empty())
}
