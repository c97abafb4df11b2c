//! `config`: connections, as they are stored, written, read and tried.

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{
    Call, Error, Map, Place, Preparation, Prepared, Response, Result, Tx, Value, parameters, record, uuid,
};
use minicbor::{Decode, Encode};

use std::sync::Arc;

use crate::details::Details;
use crate::plugin::{self, Kind, Plugin, Settings};
use crate::root::{self, Rotation};
use crate::rotation::Given;
use crate::statements_field::Statements;
use crate::template::{Names, Template};
use crate::{CONNECTIONS, DELETED, Database, name_of};

#[derive(Clone, Encode, Decode)]
pub struct Connection {
    /// Changes with every write: connections that are open belong to one of them.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub revision: [u8; 16],
    #[n(1)]
    pub plugin_name: String,
    #[n(2)]
    pub plugin_version: String,
    #[n(3)]
    pub allowed_roles: Vec<String>,
    /// As JSON, without the password.
    #[n(4)]
    details: String,
    #[n(5)]
    pub password: Option<String>,
    #[n(6)]
    pub password_policy: String,
    #[n(7)]
    pub root_rotation_statements: Vec<String>,
    /// What the password may be too: those that rotations were about to set, and those that they replaced.
    #[n(8)]
    pub other_passwords: Vec<String>,
    /// When the password is changed by itself.
    #[n(9)]
    pub rotation: Option<Rotation>,
}
holdfast_sdk::record!(Connection);

/// How a write is tried before it is kept.
struct Trial {
    verify: bool,
    /// Its password is one that a rotation replaced.
    brings_replaced: bool,
}

parameters! {
    pub struct Write {
        /// The plugin of the database.
        plugin_name: Option<String>,
        /// Accepted where it is empty: every plugin is part of the program.
        plugin_version: Option<String>,
        /// Whether the connection is tried before it is kept.
        verify_connection: Option<bool>,
        /// Names or globs of roles that may use it; none: no role may.
        allowed_roles: Option<Vec<String>>,
        /// How rotate-root changes the password.
        root_rotation_statements: Option<Statements>,
        /// The password policy of users' passwords.
        password_policy: Option<String>,
        /// How often the connection's own password is changed; 0: not by a period.
        rotation_period: Option<Seconds>,
        /// When it is changed: five fields of cron, in UTC; instead of a period.
        rotation_schedule: Option<String>,
        /// How long after its time a scheduled change may begin; at least an hour.
        rotation_window: Option<Seconds>,
        /// Whether it is not changed at present, whatever is configured.
        disable_automated_rotation: Option<bool>,
    }
}

/// Keys of a request that are not details of the connection.
const OWN_KEYS: &[&str] = &[
    "name",
    "plugin_name",
    "plugin_version",
    "verify_connection",
    "allowed_roles",
    "root_rotation_statements",
    "password_policy",
    "password",
    "rotation_period",
    "rotation_schedule",
    "rotation_window",
    "disable_automated_rotation",
];

/// How many passwords are tried beside the stored one.
const OTHERS: usize = 8;

impl Connection {
    pub fn load(tx: &mut Tx, name: &str) -> Result<Option<Connection>> {
        record::get(tx, Place::Name(CONNECTIONS, name))
    }

    /// One that a role names.
    pub fn of_role(tx: &mut Tx, name: &str) -> Result<Connection> {
        let absent = || Error::Internal(format!("failed to find entry for connection with name: {name:?}"));
        Connection::load(tx, name)?.ok_or_else(absent)
    }

    /// One that was deleted while there was something that it made.
    pub fn deleted(tx: &mut Tx, name: &str) -> Result<Option<Connection>> {
        record::get(tx, Place::Name(DELETED, name))
    }

    pub fn save(&self, tx: &mut Tx, name: &str) -> Result<()> {
        record::put(tx, Place::Name(CONNECTIONS, name), self)
    }

    pub fn kind(&self) -> Result<&'static Kind> {
        let absent = || Error::Internal(format!("plugin not found in the catalog: {}", self.plugin_name));
        plugin::kind(&self.plugin_name).ok_or_else(absent)
    }

    pub fn details(&self) -> Result<Map<String, Value>> {
        serde_json::from_str(&self.details).map_err(Error::internal)
    }

    pub fn open(&self) -> Result<Arc<dyn Plugin>> {
        let details = self.details()?;
        let settings = Settings {
            details: &Details(&details),
            password: self.password.as_deref().unwrap_or(""),
            other_passwords: &self.other_passwords,
        };
        (self.kind()?.open)(&settings).map_err(Error::Internal)
    }

    /// Whether a role may use it.
    pub fn require_allowed(&self, role: &str) -> Result<()> {
        match self.allowed_roles.iter().any(|pattern| matches_glob(pattern, role)) {
            true => Ok(()),
            false => Err(Error::Internal(format!("{role:?} is not an allowed role"))),
        }
    }

    /// The name of the user that the connection logs in as.
    pub fn username(&self) -> Result<String> {
        let details = self.details()?;
        Details(&details).lenient_text("username").map_err(Error::Internal)
    }

    pub fn detail(&self, key: &str) -> Result<String> {
        let details = self.details()?;
        Details(&details).text(key).map(str::to_owned).map_err(Error::Internal)
    }

    /// A rotation is about to set this password.
    pub fn expect_password(&mut self, password: &str) -> Result<()> {
        self.other_passwords.retain(|p| p != password);
        self.other_passwords.push(password.to_owned());
        let too_many = self.other_passwords.len().saturating_sub(OTHERS);
        self.other_passwords.drain(..too_many);
        self.revision = uuid::bytes()?;
        Ok(())
    }

    /// A rotation is done.
    pub fn replace_password(&mut self, password: &str) -> Result<()> {
        if let Some(old) = self.password.replace(password.to_owned()) {
            self.expect_password(&old)?;
        }
        self.other_passwords.retain(|p| p != password);
        self.revision = uuid::bytes()?;
        Ok(())
    }

    /// What a write makes of it, and how that is to be tried.
    fn changed(existing: Option<Connection>, call: &Call<'_>, p: &Write) -> Result<(Connection, Trial)> {
        let mut c = match existing {
            Some(c) => c,
            None => Connection {
                revision: [0; 16],
                plugin_name: String::new(),
                plugin_version: String::new(),
                allowed_roles: Vec::new(),
                details: "{}".into(),
                password: None,
                password_policy: String::new(),
                root_rotation_statements: Vec::new(),
                other_passwords: Vec::new(),
                rotation: None,
            },
        };
        c.revision = uuid::bytes()?;
        if let Some(name) = &p.plugin_name {
            c.plugin_name.clone_from(name);
        }
        if c.plugin_name.is_empty() {
            return Err(Error::bad_request("empty plugin name"));
        }
        if let Some(version) = &p.plugin_version {
            require_version(&c.plugin_name, version)?;
        }
        if let Some(roles) = &p.allowed_roles {
            c.allowed_roles = roles.iter().map(|r| r.trim().to_owned()).filter(|r| !r.is_empty()).collect();
        }
        if let Some(statements) = &p.root_rotation_statements {
            c.root_rotation_statements.clone_from(&statements.0);
        }
        if let Some(policy) = &p.password_policy {
            c.password_policy.clone_from(policy);
        }
        let given =
            Given { period: p.rotation_period, schedule: p.rotation_schedule.clone(), window: p.rotation_window };
        Rotation::change(&mut c.rotation, call, given, p.disable_automated_rotation)?;
        let mut details = c.details()?;
        for (key, value) in &call.request.data {
            if !OWN_KEYS.contains(&key.as_str()) {
                details.insert(key.clone(), value.clone());
            }
        }
        let mut trial = Trial { verify: p.verify_connection.unwrap_or(true), brings_replaced: false };
        match call.request.data.get("password") {
            None | Some(Value::Null) => {}
            Some(Value::String(password)) => {
                trial.brings_replaced = c.other_passwords.contains(password);
                if trial.brings_replaced && !trial.verify {
                    return Err(Error::bad_request(REPLACED));
                }
                c.password = Some(password.clone());
                c.other_passwords.clear();
            }
            Some(Value::Number(n)) => c.password = Some(n.to_string()),
            Some(_) => return Err(creating("'password' expected type 'string'")),
        }
        c.details = Value::Object(details).to_string();
        Ok((c, trial))
    }

    fn check(&self) -> Result<()> {
        let name = &self.plugin_name;
        let kind = plugin::kind(name)
            .ok_or_else(|| creating(&format!("invalid database version: plugin not found in the catalog: {name}")))?;
        let details = self.details()?;
        if kind.takes_template {
            let details = Details(&details);
            let template = details.text("username_template");
            let template =
                template.map_err(|_| creating("failed to retrieve username_template: it must be a string"))?;
            let parsed = Template::parse(template)
                .map_err(|e| creating(&format!("unable to initialize username template: {e}")))?;
            let names = Names { display_name: "", role_name: "" };
            let tried = parsed.run(names, holdfast_sdk::Timestamp(0));
            tried.map_err(|e| creating(&format!("invalid username template: {e}")))?;
        }
        match &self.rotation {
            Some(rotation) if rotation.is_on() => root::require_rotatable(self).map(drop).map_err(|e| match e {
                Error::Internal(text) => Error::bad_request(text),
                other => other,
            }),
            _ => Ok(()),
        }
    }
}

const REPLACED: &str = "this password was replaced by rotate-root, and opens nothing any more: leave `password` out to keep \
                        the one in use, which nobody knows";

fn creating(text: &str) -> Error {
    Error::bad_request(format!("error creating database object: {text}"))
}

fn require_version(plugin: &str, version: &str) -> Result<()> {
    if version.is_empty() {
        return Ok(());
    }
    let number = version.strip_prefix('v').unwrap_or(version);
    let core = number.split(['-', '+']).next().unwrap_or("");
    if core.is_empty() || !core.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Error::bad_request(format!("version {version:?} is not a valid semantic version")));
    }
    Err(creating(&format!(
        "invalid database version: plugin not found in the catalog: {plugin}, version={version}; every plugin is part of \
         the program: leave plugin_version out"
    )))
}

/// `*` stands for anything.
fn matches_glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

pub fn exists(_: &Database, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(Connection::load(tx, name_of(call))?.is_some()))
}

/// Try the connection before it is kept.
pub fn verify(_: &Database, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Option<Preparation>> {
    let (changed, trial) = Connection::changed(Connection::load(tx, name_of(call))?, call, &p)?;
    changed.check()?;
    let opened = changed.open();
    if !trial.verify {
        // What is malformed is refused all the same, but for the address itself.
        return match opened {
            Err(e) if !e.to_string().starts_with("cannot parse connection url") => Err(creating(&e.to_string())),
            _ => Ok(None),
        };
    }
    let plugin = opened.map_err(|e| creating(&e.to_string()))?;
    Ok(Some(Box::pin(async move {
        let verified = plugin.verify().await;
        plugin.close();
        verified.map_err(|e| match trial.brings_replaced {
            true => creating(&format!("{e}; {REPLACED}")),
            false => creating(&e.to_string()),
        })?;
        Ok(Arc::new(()) as Prepared)
    })))
}

pub fn write(database: &Database, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = name_of(call);
    let (mut changed, _) = Connection::changed(Connection::load(tx, name)?, call, &p)?;
    changed.check()?;
    root::schedule(tx, name, &mut changed, call.cluster_now)?;
    // What an earlier one of this name made is taken back by this one.
    tx.delete(Place::Name(DELETED, name))?;
    database.opened.close(name);
    let warning = changed.kind().ok().and_then(|k| (k.warning)(&call.request.data));
    Ok(match warning {
        Some(text) => Response::empty().warn(text),
        None => Response::empty(),
    })
}

pub fn read(_: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let c = Connection::load(tx, name_of(call))?.ok_or(Error::NotFound)?;
    let mut details = c.details()?;
    details.remove("private_key");
    let kind = plugin::kind(&c.plugin_name);
    for (key, value) in &mut details {
        if let Some(shown) = kind.and_then(|k| (k.shown)(key, value)) {
            *value = shown;
        }
    }
    let mut m = Map::new();
    m.insert("allowed_roles".into(), c.allowed_roles.into());
    m.insert("connection_details".into(), details.into());
    m.insert("password_policy".into(), c.password_policy.into());
    m.insert("plugin_name".into(), c.plugin_name.into());
    m.insert("plugin_version".into(), c.plugin_version.into());
    m.insert("root_credentials_rotate_statements".into(), c.root_rotation_statements.into());
    if let Some(rotation) = c.rotation {
        rotation.show(&mut m);
    }
    Ok(Response::data(m))
}

pub fn list(_: &Database, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Response::list(tx.names(CONNECTIONS, "", "", 0)?)
}

/// Nobody gets a user by it any more; what it made can be taken back all the same.
pub fn delete(database: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = name_of(call);
    if let Some(connection) = Connection::load(tx, name)? {
        root::unschedule(tx, &connection)?;
        if tx.has_outside(name)? {
            tracing::warn!(
                connection = name,
                "a connection is deleted while there are users that it made: what revoking them needs is kept until they \
                 have ended"
            );
            record::put(tx, Place::Name(DELETED, name), &connection)?;
        }
        tx.delete(Place::Name(CONNECTIONS, name))?;
    }
    database.opened.close(name);
    Ok(Response::empty())
}

/// Deleted connections of which nothing is left outside, at most `limit`.
pub fn to_forget(tx: &mut Tx, limit: usize) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in tx.names(DELETED, "", "", 0)? {
        if found.len() < limit && !tx.has_outside(&name)? {
            found.push(name);
        }
    }
    Ok(found)
}

/// Forget a deleted connection, if nothing is left of what it made.
pub fn forget(database: &Database, tx: &mut Tx, name: &str) -> Result<()> {
    if tx.get(Place::Name(DELETED, name))?.is_some() && !tx.has_outside(name)? {
        tx.delete(Place::Name(DELETED, name))?;
        database.opened.close(name);
        tracing::info!(connection = name, "nothing is left of what a deleted connection made: it is forgotten");
    }
    Ok(())
}

/// Close and open the connection.
pub fn reconnect(database: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let name = name_of(call);
    let connection = Connection::of_role(tx, name)?;
    database.opened.close(name);
    let plugin = database.opened.get(name, &connection)?;
    Ok(Some(Box::pin(async move {
        plugin.verify().await?;
        Ok(Arc::new(()) as Prepared)
    })))
}

pub fn reset(_: &Database, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_roles_are_allowed() {
        for (pattern, name, fits) in [
            ("*", "anything", true),
            ("app-*", "app-x", true),
            ("app-*", "xapp-", false),
            ("*-ro", "app-ro", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches_glob(pattern, name), fits, "{pattern} {name}");
        }
    }
}
