//! The databases: what each can do for the engine.

pub mod influxdb;
pub mod mysql;
mod pool;
pub mod postgres;
pub mod redis;
pub mod tls;

use std::sync::Arc;

use holdfast_sdk::{Failure, Map, Result, Timestamp, Value, Work};

use crate::details::Details;

/// A user that is to be made.
pub struct NewUser {
    pub name: String,
    pub password: String,
    /// When its lease ends.
    pub until: Timestamp,
    pub statements: Vec<String>,
}

/// A database that users are made in. Nothing is connected before the first call.
pub trait Plugin: Send + Sync {
    /// Connect and ask something harmless.
    fn verify(&self) -> Work<'_, Result<()>>;

    /// Whether the password that is stored, and none of the others, opens the connection.
    fn verify_stored(&self) -> Work<'_, Result<bool>>;

    fn create<'a>(&'a self, user: &'a NewUser) -> Work<'a, Result<(), Failure>>;

    /// Let a user log in until then. Where users have no end of their own, the lease is all that ends them.
    fn extend<'a>(&'a self, _name: &'a str, _until: Timestamp, _statements: &'a [String]) -> Work<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn set_password<'a>(
        &'a self,
        name: &'a str,
        password: &'a str,
        statements: &'a [String],
    ) -> Work<'a, Result<(), Failure>>;

    /// A user that is not there is dropped. With no statements in the database's own way.
    fn drop_user<'a>(&'a self, name: &'a str, statements: &'a [String]) -> Work<'a, Result<()>>;

    /// End idle connections; those in use end when they are given back.
    fn close(&self);
}

/// What is configured of a connection, for its plugin.
pub struct Settings<'a> {
    pub details: &'a Details<'a>,
    pub password: &'a str,
    /// Tried in turn where the password is refused, the last first: a rotation may have broken off.
    pub other_passwords: &'a [String],
}

/// Log in with the password that is stored, or else with one of the others. If none is accepted, what is told is what
/// became of the first.
async fn log_in<P, C, E, L>(
    stored: P,
    others: impl Iterator<Item = P>,
    is_refused_password: impl Fn(&E) -> bool,
    attempt: impl Fn(P) -> L,
) -> Result<C, E>
where
    L: Future<Output = Result<C, E>>,
{
    let first = match attempt(stored).await {
        Err(e) if is_refused_password(&e) => e,
        other => return other,
    };
    for other in others {
        if let Ok(connection) = attempt(other).await {
            return Ok(connection);
        }
    }
    Err(first)
}

/// A kind of database.
pub struct Kind {
    pub name: &'static str,
    /// Of user names, unless the connection has its own.
    pub username_template: &'static str,
    /// Whether a connection may have a template of its own.
    pub takes_template: bool,
    pub needs_statements: bool,
    /// Check what is configured, without connecting.
    pub open: fn(&Settings<'_>) -> Result<Arc<dyn Plugin>, String>,
    /// What a read shows instead of a detail; none: the detail itself.
    pub shown: fn(&str, &Value) -> Option<Value>,
    /// What a write warns about.
    pub warning: fn(&Map<String, Value>) -> Option<&'static str>,
}

/// All that this program has.
pub const KINDS: &[&Kind] = &[
    &postgres::POSTGRES,
    &mysql::MYSQL,
    &mysql::MYSQL_LEGACY,
    &mysql::MYSQL_AURORA,
    &mysql::MYSQL_RDS,
    &redis::REDIS,
    &redis::VALKEY,
    &influxdb::INFLUXDB,
];

/// Their names.
pub const NAMES: &[&str] = &{
    let mut names = [""; KINDS.len()];
    let mut n = 0;
    while n < names.len() {
        names[n] = KINDS[n].name;
        n += 1;
    }
    names
};

pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == name).copied()
}
