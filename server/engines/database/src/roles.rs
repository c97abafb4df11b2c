//! `roles`: which users are made, and how.

use holdfast_sdk::lease::Terms;
use holdfast_sdk::parameters::{Page, Seconds, StringMap};
use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Tx, Value, parameters, record};
use minicbor::{Decode, Encode};

use crate::credentials::Credentials;
use crate::statements_field::Statements;
use crate::{Database, ROLES, STATIC_ROLES, name_of};

#[derive(Clone, Default, Encode, Decode)]
pub struct Role {
    #[n(0)]
    pub db_name: String,
    #[n(1)]
    pub creation: Vec<String>,
    #[n(2)]
    pub revocation: Vec<String>,
    #[n(3)]
    rollback: Vec<String>,
    #[n(4)]
    pub renewal: Vec<String>,
    #[n(5)]
    default_ttl_secs: u64,
    #[n(6)]
    max_ttl_secs: u64,
    #[n(7)]
    pub credentials: Credentials,
}
holdfast_sdk::record!(Role);

parameters! {
    pub struct Write {
        /// The connection.
        db_name: Option<String>,
        /// How long leases live at first; 0: as the mount says.
        default_ttl: Option<Seconds>,
        /// How long leases live at most; 0: as the mount says.
        max_ttl: Option<Seconds>,
        /// Make a user: {{name}}, {{password}} and {{expiration}} are filled in.
        creation_statements: Option<Statements>,
        /// Remove a user; none: in the database's own way.
        revocation_statements: Option<Statements>,
        /// Kept, and not run: what fails is rolled back, or revoked.
        rollback_statements: Option<Statements>,
        /// Let a user log in for longer; none: in the database's own way.
        renew_statements: Option<Statements>,
        /// What users log in with: password, rsa_private_key or client_certificate.
        credential_type: Option<String>,
        /// For passwords password_policy, for keys key_bits and format, for certificates key_type and common_name_template.
        credential_config: Option<StringMap>,
    }
}

/// A duration in whole seconds that is not negative.
pub fn seconds(call: &Call<'_>, field: &str, given: Seconds) -> Result<u64> {
    if let Some(Value::Number(n)) = call.request.data.get(field)
        && n.as_i64().is_none()
    {
        return Err(Error::bad_request(format!("error converting input for field {field:?}: {n} has no unit")));
    }
    u64::try_from(given.0).map_err(|_| {
        Error::bad_request(format!(
            "error converting input for field {field:?}: cannot provide negative value '{}'",
            given.0
        ))
    })
}

impl Role {
    pub fn load(tx: &mut Tx, name: &str) -> Result<Option<Role>> {
        record::get(tx, Place::Name(ROLES, name))
    }

    pub fn terms(&self) -> Terms {
        Terms { default_secs: self.default_ttl_secs, max_secs: self.max_ttl_secs }
    }
}

pub fn exists(_: &Database, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    Ok(Some(Role::load(tx, name_of(call))?.is_some()))
}

pub fn write(_: &Database, tx: &mut Tx, call: &Call<'_>, p: Write) -> Result<Response> {
    let name = name_of(call);
    if tx.get(Place::Name(STATIC_ROLES, name))?.is_some() {
        return Err(Error::bad_request("Role and Static Role names must be unique"));
    }
    let mut role = Role::load(tx, name)?.unwrap_or_default();
    if let Some(db_name) = p.db_name {
        role.db_name = db_name;
    }
    if role.db_name.is_empty() {
        return Err(Error::bad_request("database name is required"));
    }
    if let Some(ttl) = p.default_ttl {
        role.default_ttl_secs = seconds(call, "default_ttl", ttl)?;
    }
    if let Some(ttl) = p.max_ttl {
        role.max_ttl_secs = seconds(call, "max_ttl", ttl)?;
    }
    if let Some(s) = p.creation_statements {
        role.creation = s.0;
    }
    if let Some(s) = p.revocation_statements {
        role.revocation = s.filled();
    }
    if let Some(s) = p.rollback_statements {
        role.rollback = s.0;
    }
    if let Some(s) = p.renew_statements {
        role.renewal = s.0;
    }
    role.credentials.change(p.credential_type.as_deref(), p.credential_config)?;
    record::put(tx, Place::Name(ROLES, name), &role)?;
    Ok(Response::empty())
}

pub fn read(_: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let role = Role::load(tx, name_of(call))?.ok_or(Error::NotFound)?;
    let mut m = Map::new();
    m.insert("db_name".into(), role.db_name.into());
    m.insert("creation_statements".into(), role.creation.into());
    m.insert("revocation_statements".into(), role.revocation.into());
    m.insert("rollback_statements".into(), role.rollback.into());
    m.insert("renew_statements".into(), role.renewal.into());
    m.insert("default_ttl".into(), role.default_ttl_secs.into());
    m.insert("max_ttl".into(), role.max_ttl_secs.into());
    role.credentials.show(&mut m);
    Ok(Response::data(m))
}

pub fn list(_: &Database, tx: &mut Tx, _: &Call<'_>, p: Page) -> Result<Response> {
    let (after, limit) = p.bounds();
    Response::list(tx.names(ROLES, "", after, limit)?)
}

/// What the uses of a role are noted by.
pub fn use_of(name: &str) -> String {
    format!("roles/{name}")
}

pub fn delete(_: &Database, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    tx.delete(Place::Name(ROLES, name_of(call)))?;
    tx.forget_use(&use_of(name_of(call)))?;
    Ok(Response::empty())
}
