#![forbid(unsafe_code)]
//! The secrets engine `database`: users of databases that exist as long as a lease, and passwords of users that are
//! there already, changed on time.
//!
//! What is made outside goes the way of [`holdfast_sdk::Outside`]: named in the store before it is made, and
//! taken back if anything breaks off ([`acts`]). Databases are [`plugin`]s.

mod acts;
mod alone;
mod chores;
mod connections;
mod credentials;
mod creds;
mod details;
mod go_time;
mod opened;
mod plugin;
mod random;
mod roles;
mod root;
mod rotation;
mod schedule;
mod statements;
mod statements_field;
mod static_roles;
mod template;

pub use plugin::NAMES as PLUGINS;

use holdfast_sdk::lease::{Limits, Terms};
use holdfast_sdk::{
    Act, Backend, Call, Class, Done, Failure, Found, Means, Operation, Outside, Result, Route, Routes, Table,
    Timestamp, Tx, Work,
};

/// Connections by name.
const CONNECTIONS: Table = Table(1);
/// Roles by name.
const ROLES: Table = Table(2);
/// Static roles by name.
const STATIC_ROLES: Table = Table(3);
/// Names of static roles by when their passwords are to be changed.
const DUE: Table = Table(4);
/// Names of connections by when their own passwords are to be changed.
const ROOTS_DUE: Table = Table(5);
/// Connections by name that were deleted while there was something that they made, for taking that back.
const DELETED: Table = Table(6);

pub struct Database {
    routes: Routes<Database>,
    limits: Limits,
    opened: opened::Opened,
    alone: alone::Changes,
}

impl Database {
    /// An engine for a mount with these TTLs.
    pub fn new(limits: Limits) -> Database {
        use Operation::{Read, Update};
        let routes = Routes::new()
            .path("config", "List the connections.", |p| p.list(connections::list))
            .path("config/{name}", "Configure a connection to a database.", |p| {
                p.read(connections::read)
                    .write(connections::exists, connections::write)
                    .delete(connections::delete)
                    .prepared(Update, connections::verify)
            })
            .path("reset/{name}", "Close a connection and open it again.", |p| {
                p.update(connections::reset).prepared(Update, connections::reconnect)
            })
            .path("rotate-root/{name}", "Change the password of the connection's own user.", |p| {
                p.update(root::rotated).acts(Update, root::intend)
            })
            .path("roles", "List the roles.", |p| p.list(roles::list))
            .path("roles/{name}", "Say which users are made, and how.", |p| {
                p.read(roles::read).write(roles::exists, roles::write).delete(roles::delete)
            })
            .path("creds/{name}", "Make a user.", |p| p.read(creds::made).acts(Read, creds::intend))
            .path("static-roles", "List the static roles.", |p| p.list(static_roles::list))
            .path("static-roles/{name}", "Say whose password is changed, and when.", |p| {
                p.read(static_roles::read)
                    .write(static_roles::exists, static_roles::write)
                    .delete(static_roles::delete)
                    .acts(Update, static_roles::intend_write)
            })
            .path("static-creds/{name}", "The password of a static role's user.", |p| p.read(static_roles::creds))
            .path("rotate-role/{name}", "Change the password of a static role's user now.", |p| {
                p.update(static_roles::rotate).acts(Update, static_roles::intend_rotation)
            });
        Database { routes, limits, opened: opened::Opened::default(), alone: alone::Changes::default() }
    }
}

/// The connection or role that a path names.
fn name_of<'c>(call: &'c Call<'_>) -> &'c str {
    call.capture("name")
}

/// `\w(([\w-.]+)?\w)?`
fn is_name(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(is_word) && text.ends_with(is_word) && text.chars().all(|c| is_word(c) || matches!(c, '-' | '.'))
}

impl Backend for Database {
    fn kind(&self) -> &'static str {
        "database"
    }
    fn class(&self) -> Class {
        Class::Secret
    }
    fn routes(&self) -> Vec<Route<'_>> {
        self.routes.describe()
    }
    fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        self.routes.find(operation, path).filter(|f| f.captures.get("name").is_none_or(is_name))
    }
    holdfast_sdk::handled_by!(routes);
    fn effect<'a>(&'a self, outside: &'a Outside, means: &'a Means) -> Work<'a, Result<Means, Failure>> {
        Box::pin(acts::effect(outside, means))
    }
    fn reach(&self, tx: &mut Tx, outside: &Outside) -> Result<Means> {
        acts::reach(self, tx, outside)
    }
    fn undo<'a>(&'a self, outside: &'a Outside, means: &'a Means) -> Work<'a, Result<()>> {
        Box::pin(acts::undo(outside, means))
    }
    fn lease_terms(&self, tx: &mut Tx, outside: &Outside) -> Result<Terms> {
        creds::terms(tx, outside)
    }
    fn extend<'a>(&'a self, outside: &'a Outside, means: &'a Means, until: Timestamp) -> Work<'a, Result<()>> {
        Box::pin(acts::extend(outside, means, until))
    }
    fn chores(&self, tx: &mut Tx, now: Timestamp, limit: usize) -> Result<Vec<String>> {
        chores::due(tx, now, limit)
    }
    fn begin_chore(&self, tx: &mut Tx, name: &str, now: Timestamp) -> Result<Option<Act>> {
        chores::begin(self, tx, name, now)
    }
    fn end_chore(&self, tx: &mut Tx, name: &str, now: Timestamp, end: Result<&Done, &str>) -> Result<()> {
        chores::end(self, tx, name, now, end)
    }
}
