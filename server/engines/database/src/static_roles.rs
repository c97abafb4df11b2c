//! `static-roles`, `static-creds`, `rotate-role`: users that are there already, and whose passwords are changed.

use std::sync::Arc;
use std::time::Duration;

use holdfast_sdk::parameters::{Page, Seconds, StringMap};
use holdfast_sdk::{Act, Call, Done, Error, Map, Place, Response, Result, Timestamp, Tx, parameters, record, uuid};
use minicbor::{Decode, Encode};

use crate::acts::{Plan, TIME_OUT, Told, What, outside};
use crate::connections::Connection;
use crate::credentials::Credentials;
use crate::creds::password;
use crate::rotation::{Given, Times, pause_secs, shortened};
use crate::statements_field::Statements;
use crate::{DUE, Database, ROLES, STATIC_ROLES, name_of};

const LEAST_PERIOD_SECS: u64 = 5;

#[derive(Clone, Encode, Decode)]
pub struct StaticRole {
    #[n(0)]
    pub db_name: String,
    #[n(1)]
    username: String,
    /// 0: by the schedule.
    #[n(2)]
    rotation_period_secs: u64,
    #[n(3)]
    pub rotation: Vec<String>,
    #[n(4)]
    credentials: Credentials,
    #[n(5)]
    pub password: String,
    #[n(6)]
    last_rotation_ns: u64,
    /// Its key in the index of what is due.
    #[cbor(n(7), with = "minicbor::bytes")]
    due_key: Vec<u8>,
    /// Rotations that failed since the last that did not, and the last error.
    #[n(8)]
    failures: u32,
    #[n(9)]
    last_error: Option<String>,
    /// Empty: by the period.
    #[n(10)]
    rotation_schedule: String,
    /// How long after its time a scheduled rotation may begin; 0: any time.
    #[n(11)]
    rotation_window_secs: u64,
}
holdfast_sdk::record!(StaticRole);

parameters! {
    pub struct Write {
        /// The connection.
        db_name: Option<String>,
        /// The user, who is there already; it cannot be changed.
        username: Option<String>,
        /// How often the password is changed.
        rotation_period: Option<Seconds>,
        /// When the password is changed: five fields of cron, in UTC; instead of a period.
        rotation_schedule: Option<String>,
        /// How long after its time a scheduled change may begin; at least an hour.
        rotation_window: Option<Seconds>,
        /// Change the password; none: in the database's own way.
        rotation_statements: Option<Statements>,
        /// What the user logs in with: password is what every database here takes.
        credential_type: Option<String>,
        /// For passwords: password_policy.
        credential_config: Option<StringMap>,
    }
}

impl StaticRole {
    pub fn load(tx: &mut Tx, name: &str) -> Result<Option<StaticRole>> {
        record::get(tx, Place::Name(STATIC_ROLES, name))
    }

    /// Save it, and look at it again then.
    fn save_due(&mut self, tx: &mut Tx, name: &str, at: Timestamp) -> Result<()> {
        if !self.due_key.is_empty() {
            tx.delete(Place::Ordered(DUE, &self.due_key))?;
        }
        self.due_key = [&at.0.to_be_bytes()[..], &uuid::bytes::<16>()?].concat();
        tx.put(Place::Ordered(DUE, &self.due_key), name.as_bytes().to_vec())?;
        record::put(tx, Place::Name(STATIC_ROLES, name), self)
    }

    fn last_rotation(&self) -> Timestamp {
        Timestamp(self.last_rotation_ns)
    }

    /// When its password is to be changed, by what is configured.
    fn next_rotation(&self, now: Timestamp) -> Result<Timestamp> {
        self.times().next(self.last_rotation(), now)
    }

    fn times(&self) -> Times {
        Times {
            period_secs: self.rotation_period_secs,
            schedule: self.rotation_schedule.clone(),
            window_secs: self.rotation_window_secs,
        }
    }

    /// What a write makes of it. True: it is new, and its password is to be taken over.
    fn changed(tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<(StaticRole, bool)> {
        let name = name_of(call);
        if tx.get(Place::Name(ROLES, name))?.is_some() {
            return Err(Error::bad_request("Role and Static Role names must be unique"));
        }
        let existing = StaticRole::load(tx, name)?;
        let is_new = existing.is_none();
        let username = p.username.unwrap_or_default();
        let mut role = match existing {
            Some(role) if role.username != username => {
                return Err(Error::bad_request("cannot update static account username"));
            }
            Some(role) => role,
            None => StaticRole {
                db_name: String::new(),
                username,
                rotation_period_secs: 0,
                rotation: Vec::new(),
                credentials: Credentials::default(),
                password: String::new(),
                last_rotation_ns: 0,
                due_key: Vec::new(),
                failures: 0,
                last_error: None,
                rotation_schedule: String::new(),
                rotation_window_secs: 0,
            },
        };
        if let Some(db_name) = p.db_name {
            role.db_name = db_name;
        }
        if role.db_name.is_empty() {
            return Err(Error::bad_request("database name is a required field"));
        }
        if role.username.is_empty() {
            return Err(Error::bad_request("username is a required field to create a static account"));
        }
        let given = Given { period: p.rotation_period, schedule: p.rotation_schedule, window: p.rotation_window };
        role.change_times(call, given)?;
        if let Some(s) = p.rotation_statements {
            role.rotation = s.0;
        }
        role.credentials.change(p.credential_type.as_deref(), p.credential_config)?;
        Ok((role, is_new))
    }

    fn change_times(&mut self, call: &Call<'_>, given: Given) -> Result<()> {
        let mut times = self.times();
        times.change(call, given, LEAST_PERIOD_SECS, false)?;
        if !times.are_set() {
            return Err(Error::bad_request("rotation_period is required to create static accounts"));
        }
        (self.rotation_period_secs, self.rotation_schedule) = (times.period_secs, times.schedule);
        self.rotation_window_secs = times.window_secs;
        Ok(())
    }

    /// Change the password, by a new one each time: what a database has refused once it may refuse for ever.
    fn act(&self, database: &Database, tx: &mut Tx, name: &str, told: Told) -> Result<Act> {
        let connection = Connection::of_role(tx, &self.db_name)?;
        connection.require_allowed(name)?;
        self.credentials.require_password().map_err(Error::Internal)?;
        let next = password(tx, &[&self.credentials.password_policy, &connection.password_policy])?;
        let plan = Plan::SetPassword {
            plugin: database.opened.get(&self.db_name, &connection)?,
            username: self.username.clone(),
            password: next,
            statements: self.rotation.clone(),
            told,
            _alone: database.alone.enter(&format!("static/{name}"))?,
        };
        let what = What::StaticPassword { role: name.to_owned() };
        Ok(Act { outside: outside(&self.db_name, &self.username, &what)?, means: Arc::new(plan), time_out: TIME_OUT })
    }

    fn rotated(&mut self, tx: &mut Tx, name: &str, done: &Done, now: Timestamp) -> Result<()> {
        let Some(Plan::SetPassword { password, .. }) = done.means.downcast_ref() else {
            return Err(Error::internal("an act without its plan"));
        };
        self.password.clone_from(password);
        self.last_rotation_ns = now.0;
        (self.failures, self.last_error) = (0, None);
        let next = self.next_rotation(now)?;
        self.save_due(tx, name, next)
    }

    fn show(&self, m: &mut Map<String, holdfast_sdk::Value>) {
        m.insert("username".into(), self.username.clone().into());
        m.insert("last_vault_rotation".into(), self.last_rotation().rfc3339().into());
        match self.rotation_schedule.as_str() {
            "" => {
                m.insert("rotation_period".into(), self.rotation_period_secs.into());
            }
            schedule => {
                m.insert("rotation_schedule".into(), schedule.into());
                if self.rotation_window_secs > 0 {
                    m.insert("rotation_window".into(), self.rotation_window_secs.into());
                }
            }
        }
    }
}

pub fn exists(_: &Database, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(StaticRole::load(tx, name_of(call))?.is_some()))
}

pub fn intend_write(database: &Database, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Option<Act>> {
    match StaticRole::changed(tx, call, p)? {
        (role, true) => role.act(database, tx, name_of(call), Told::NewStaticRole).map(Some),
        (_, false) => Ok(None),
    }
}

pub fn write(_: &Database, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = name_of(call);
    let (mut role, is_new) = StaticRole::changed(tx, call, p)?;
    match (is_new, call.done) {
        (true, Some(done)) => role.rotated(tx, name, done, call.cluster_now)?,
        (false, None) => {
            let next = role.next_rotation(call.cluster_now)?;
            role.save_due(tx, name, next)?;
        }
        _ => return Err(Error::Unavailable("the role was made or deleted meanwhile; try again".into())),
    }
    Ok(Response::empty())
}

pub fn read(_: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let role = StaticRole::load(tx, name_of(call))?.ok_or(Error::NotFound)?;
    let mut m = Map::new();
    role.show(&mut m);
    m.insert("db_name".into(), role.db_name.into());
    m.insert("rotation_statements".into(), role.rotation.into());
    role.credentials.show(&mut m);
    if let Some(error) = role.last_error {
        m.insert("rotation_failures".into(), role.failures.into());
        m.insert("last_rotation_error".into(), error.into());
    }
    Ok(Response::data(m))
}

pub fn list(_: &Database, tx: &mut Tx, _: &Call<'_>, p: Page) -> Result<Response> {
    let (after, limit) = p.bounds();
    Response::list(tx.names(STATIC_ROLES, "", after, limit)?)
}

pub fn delete(_: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name_of(call);
    if let Some(role) = StaticRole::load(tx, name)? {
        tx.delete(Place::Ordered(DUE, &role.due_key))?;
        tx.delete(Place::Name(STATIC_ROLES, name))?;
        tx.forget_use(&use_of(name))?;
    }
    Ok(Response::empty())
}

/// What the reads of a static role's credentials are noted by.
fn use_of(name: &str) -> String {
    format!("static-roles/{name}")
}

pub fn creds(_: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name_of(call);
    let role = StaticRole::load(tx, name)?.ok_or_else(|| Error::bad_request(format!("unknown role: {name}")))?;
    Connection::of_role(tx, &role.db_name)?.require_allowed(name)?;
    tx.note_use(&use_of(name), Place::Name(STATIC_ROLES, name));
    let next = role.next_rotation(call.cluster_now)?;
    let mut m = Map::new();
    role.show(&mut m);
    m.insert("password".into(), role.password.into());
    m.insert("ttl".into(), next.0.saturating_sub(call.cluster_now.0).div_ceil(1_000_000_000).into());
    Ok(Response::data(m))
}

fn to_rotate(tx: &mut Tx, call: &Call<'_>) -> Result<StaticRole> {
    let found = StaticRole::load(tx, name_of(call))?;
    found.ok_or_else(|| Error::bad_request("no static role found for role name"))
}

/// The role is due again soon, should this not come to its end.
pub fn intend_rotation(database: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Act>> {
    let name = name_of(call);
    let mut role = to_rotate(tx, call)?;
    let act = role.act(database, tx, name, Told::Rotation).map_err(|e| match e {
        Error::Internal(text) => Error::Internal(format!(
            "unable to finish rotating credentials; retries will continue in the background but it is also safe to retry \
             manually: {text}"
        )),
        other => other,
    })?;
    let again = call.cluster_now.plus_secs(TIME_OUT.as_secs() + pause_secs(role.failures));
    role.save_due(tx, name, again)?;
    Ok(Some(act))
}

pub fn rotate(_: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let done = call.done.ok_or_else(|| Error::internal("a password was to be set and was not"))?;
    to_rotate(tx, call)?.rotated(tx, name_of(call), done, call.cluster_now)?;
    Ok(Response::empty())
}

pub fn begin(database: &Database, tx: &mut Tx, name: &str, now: Timestamp) -> Result<Option<Act>> {
    let Some(mut role) = StaticRole::load(tx, name)? else { return Ok(None) };
    let due = role.due_key.first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
    if due > now.0 {
        return Ok(None);
    }
    let next = role.next_rotation(now)?;
    if role.failures == 0 && next > now {
        role.save_due(tx, name, next)?;
        return Ok(None);
    }
    let again = now.plus_secs(Duration::from_secs(pause_secs(role.failures)).max(TIME_OUT).as_secs());
    match role.act(database, tx, name, Told::Rotation) {
        Ok(act) => {
            role.save_due(tx, name, again)?;
            Ok(Some(act))
        }
        Err(e) => {
            role.failed(&e.to_string());
            role.save_due(tx, name, again)?;
            Ok(None)
        }
    }
}

pub fn end(tx: &mut Tx, name: &str, now: Timestamp, end: Result<&Done, &str>) -> Result<()> {
    let Some(mut role) = StaticRole::load(tx, name)? else { return Ok(()) };
    match end {
        Ok(done) => role.rotated(tx, name, done, now),
        Err(error) => {
            role.failed(error);
            let again = now.plus_secs(pause_secs(role.failures));
            role.save_due(tx, name, again)
        }
    }
}

impl StaticRole {
    fn failed(&mut self, error: &str) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(shortened(error));
        tracing::warn!(user = %self.username, failures = self.failures, error, "a password could not be changed; it is tried again");
    }
}
