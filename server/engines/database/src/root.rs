//! `rotate-root`: a password of the connection's own user that nobody knows, when somebody asks, or on time.

use std::sync::Arc;

use holdfast_sdk::{Act, Call, Done, Error, Map, Place, Response, Result, Timestamp, Tx, Value, uuid};
use minicbor::{Decode, Encode};

use crate::acts::{Plan, TIME_OUT, Told, What, outside};
use crate::connections::Connection;
use crate::creds::password;
use crate::rotation::{Given, Times, pause_secs, shortened};
use crate::{Database, ROOTS_DUE, name_of};

const LEAST_PERIOD_SECS: u64 = 10;

/// When a connection's password is changed by itself.
#[derive(Clone, Default, Encode, Decode)]
pub struct Rotation {
    /// 0: by the schedule.
    #[n(0)]
    period_secs: u64,
    /// Empty: by the period.
    #[n(1)]
    schedule: String,
    #[n(2)]
    window_secs: u64,
    #[n(3)]
    is_disabled: bool,
    /// When it was changed last, or first to be changed.
    #[n(4)]
    last_ns: u64,
    /// Its key in the index of what is due; empty: in none.
    #[cbor(n(5), with = "minicbor::bytes")]
    due_key: Vec<u8>,
    /// Changes that failed since the last that did not, and the last error.
    #[n(6)]
    failures: u32,
    #[n(7)]
    last_error: Option<String>,
}

impl Rotation {
    /// What a request makes of it.
    pub fn change(
        rotation: &mut Option<Rotation>,
        call: &Call<'_>,
        given: Given,
        is_disabled: Option<bool>,
    ) -> Result<()> {
        let mut changed = rotation.clone().unwrap_or_default();
        let mut times = changed.times();
        times.change(call, given, LEAST_PERIOD_SECS, true)?;
        (changed.period_secs, changed.schedule, changed.window_secs) =
            (times.period_secs, times.schedule, times.window_secs);
        changed.is_disabled = is_disabled.unwrap_or(changed.is_disabled);
        if rotation.is_some() || changed.times().are_set() || changed.is_disabled {
            *rotation = Some(changed);
        }
        Ok(())
    }

    fn times(&self) -> Times {
        Times { period_secs: self.period_secs, schedule: self.schedule.clone(), window_secs: self.window_secs }
    }

    pub fn is_on(&self) -> bool {
        self.times().are_set() && !self.is_disabled
    }

    pub fn show(self, m: &mut Map<String, Value>) {
        m.insert("rotation_period".into(), self.period_secs.into());
        m.insert("rotation_schedule".into(), self.schedule.into());
        m.insert("rotation_window".into(), self.window_secs.into());
        m.insert("disable_automated_rotation".into(), self.is_disabled.into());
        if let Some(error) = self.last_error {
            m.insert("rotation_failures".into(), self.failures.into());
            m.insert("last_rotation_error".into(), error.into());
        }
    }
}

/// Keep a connection that was written, and change its password when it is time.
pub fn schedule(tx: &mut Tx, name: &str, connection: &mut Connection, now: Timestamp) -> Result<()> {
    let next = match &mut connection.rotation {
        Some(rotation) if rotation.is_on() => {
            if rotation.last_ns == 0 {
                rotation.last_ns = now.0;
            }
            Some(rotation.times().next(Timestamp(rotation.last_ns), now)?)
        }
        _ => None,
    };
    save_due(tx, name, connection, next)
}

/// Keep a connection, and look at its password again then.
fn save_due(tx: &mut Tx, name: &str, connection: &mut Connection, at: Option<Timestamp>) -> Result<()> {
    unschedule(tx, connection)?;
    if let Some(rotation) = &mut connection.rotation {
        rotation.due_key = match at {
            Some(at) => [&at.0.to_be_bytes()[..], &uuid::bytes::<16>()?].concat(),
            None => Vec::new(),
        };
        if at.is_some() {
            tx.put(Place::Ordered(ROOTS_DUE, &rotation.due_key), name.as_bytes().to_vec())?;
        }
    }
    connection.save(tx, name)
}

/// Nothing of a connection is due any more.
pub fn unschedule(tx: &mut Tx, connection: &Connection) -> Result<()> {
    match &connection.rotation {
        Some(rotation) if !rotation.due_key.is_empty() => tx.delete(Place::Ordered(ROOTS_DUE, &rotation.due_key)),
        _ => Ok(()),
    }
}

/// The name of the user whose password can be changed.
pub fn require_rotatable(connection: &Connection) -> Result<String> {
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
    Ok(username)
}

/// The new password is stored beside the old one before it is set: whichever the database has, the connection opens.
fn act(database: &Database, tx: &mut Tx, name: &str, connection: &mut Connection) -> Result<Act> {
    let username = require_rotatable(connection)?;
    let next = password(tx, &[&connection.password_policy])?;
    connection.expect_password(&next)?;
    connection.save(tx, name)?;
    let plan = Plan::SetPassword {
        plugin: database.opened.get(name, connection)?,
        username: username.clone(),
        password: next,
        statements: connection.root_rotation_statements.clone(),
        told: Told::Root,
        _alone: database.alone.enter(&format!("config/{name}"))?,
    };
    let outside = outside(name, &username, &What::RootPassword)?;
    Ok(Act { outside, means: Arc::new(plan), time_out: TIME_OUT })
}

fn finish(database: &Database, tx: &mut Tx, name: &str, done: &Done, now: Timestamp) -> Result<()> {
    let Some(Plan::SetPassword { password, .. }) = done.means.downcast_ref() else {
        return Err(Error::internal("an act without its plan"));
    };
    let mut connection = Connection::of_role(tx, name)?;
    connection.replace_password(password)?;
    if let Some(rotation) = &mut connection.rotation {
        (rotation.last_ns, rotation.failures, rotation.last_error) = (now.0, 0, None);
    }
    schedule(tx, name, &mut connection, now)?;
    database.opened.close(name);
    Ok(())
}

pub fn intend(database: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Act>> {
    let mut connection = Connection::of_role(tx, name_of(call))?;
    act(database, tx, name_of(call), &mut connection).map(Some)
}

pub fn rotated(database: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let done = call.done.ok_or_else(|| Error::internal("a password was to be set and was not"))?;
    finish(database, tx, name_of(call), done, call.cluster_now)?;
    Ok(Response::empty())
}

/// It may be time. Should the change not come to its end, it is due again.
pub fn begin(database: &Database, tx: &mut Tx, name: &str, now: Timestamp) -> Result<Option<Act>> {
    let Some(mut connection) = Connection::load(tx, name)? else { return Ok(None) };
    let Some(rotation) = connection.rotation.clone().filter(Rotation::is_on) else {
        save_due(tx, name, &mut connection, None)?;
        return Ok(None);
    };
    let due = rotation.due_key.first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
    if due > now.0 {
        return Ok(None);
    }
    let next = rotation.times().next(Timestamp(rotation.last_ns), now)?;
    if rotation.failures == 0 && next > now {
        save_due(tx, name, &mut connection, Some(next))?;
        return Ok(None);
    }
    let again = now.plus_secs(pause_secs(rotation.failures).max(TIME_OUT.as_secs()));
    match act(database, tx, name, &mut connection) {
        Ok(act) => {
            save_due(tx, name, &mut connection, Some(again))?;
            Ok(Some(act))
        }
        Err(e) => {
            failed(&mut connection, name, &e.to_string());
            save_due(tx, name, &mut connection, Some(again))?;
            Ok(None)
        }
    }
}

pub fn end(database: &Database, tx: &mut Tx, name: &str, now: Timestamp, end: Result<&Done, &str>) -> Result<()> {
    let Some(mut connection) = Connection::load(tx, name)? else { return Ok(()) };
    match end {
        Ok(done) => finish(database, tx, name, done, now),
        Err(error) => {
            failed(&mut connection, name, error);
            let again = connection.rotation.as_ref().map(|r| now.plus_secs(pause_secs(r.failures)));
            save_due(tx, name, &mut connection, again)
        }
    }
}

fn failed(connection: &mut Connection, name: &str, error: &str) {
    let Some(rotation) = &mut connection.rotation else { return };
    rotation.failures = rotation.failures.saturating_add(1);
    rotation.last_error = Some(shortened(error));
    let failures = rotation.failures;
    tracing::warn!(
        connection = name,
        failures,
        error,
        "a connection's password could not be changed; it is tried again"
    );
}
