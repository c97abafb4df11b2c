//! What is done when it is time: passwords of static roles, and of the connections' own users, and deleted connections
//! that nothing needs any more.

use holdfast_sdk::{Act, Done, Result, Table, Timestamp, Tx};

use crate::{DUE, Database, ROOTS_DUE, connections, root, static_roles};

/// In front of a connection's name; a static role's stands for itself.
const ROOT: &str = "config/";
/// In front of a deleted connection's name.
const DELETED: &str = "deleted/";

/// What is due by now.
pub fn due(tx: &mut Tx, now: Timestamp, limit: usize) -> Result<Vec<String>> {
    let mut names = due_in(tx, ROOTS_DUE, now, limit)?.iter().map(|name| format!("{ROOT}{name}")).collect::<Vec<_>>();
    names.extend(due_in(tx, DUE, now, limit)?);
    names.extend(connections::to_forget(tx, limit)?.iter().map(|name| format!("{DELETED}{name}")));
    Ok(names)
}

fn due_in(tx: &mut Tx, table: Table, now: Timestamp, limit: usize) -> Result<Vec<String>> {
    let found = tx.ordered(table, &[], &now.0.saturating_add(1).to_be_bytes(), limit)?;
    Ok(found.into_iter().filter_map(|(_, name)| String::from_utf8(name).ok()).collect())
}

pub fn begin(database: &Database, tx: &mut Tx, name: &str, now: Timestamp) -> Result<Option<Act>> {
    if let Some(connection) = name.strip_prefix(DELETED) {
        return connections::forget(database, tx, connection).map(|()| None);
    }
    match name.strip_prefix(ROOT) {
        Some(connection) => root::begin(database, tx, connection, now),
        None => static_roles::begin(database, tx, name, now),
    }
}

pub fn end(database: &Database, tx: &mut Tx, name: &str, now: Timestamp, end: Result<&Done, &str>) -> Result<()> {
    match name.strip_prefix(ROOT) {
        Some(connection) => root::end(database, tx, connection, now, end),
        None => static_roles::end(tx, name, now, end),
    }
}
