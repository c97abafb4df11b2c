//! Where `sys/raw` shows a stored entry:
//!
//! ```text
//! core/keyring, core/locks                   never shown: they open everything
//! sys/TABLE/…, sys/token/TABLE/…             the core's own records
//! logical/UUID/N/…                           table N of a mount
//! anything else                              free for the client's own entries
//! ```
//!
//! Behind a table stands `names/PATH` where its records are at names that people chose, else `keys/HEX`;
//! a table's only record is at `keys/_`.

use holdfast_sdk::{Error, Place, Result, Table, Transaction};

use crate::layout::{self, RAW, RAW_ENTRIES, ROOT, ROOT_TOKENS, STORE, Scope};
use crate::random::{parse_uuid, uuid_text};
use crate::router::Router;
use crate::tx::Tx;

/// Paths that nobody reads or writes.
const PROTECTED: [&str; 2] = ["core/keyring", "core/locks"];

/// Tables of the core by the names that paths have for them.
const SYSTEM_TABLES: &[(&str, Table)] = &[
    ("cluster-time", layout::CLUSTER_TIME),
    ("expire", layout::EXPIRY),
    ("intents", layout::INTENTS),
    ("intents-due", layout::INTENTS_DUE),
    ("jobs", layout::JOBS),
    ("leases", layout::LEASES),
    ("mounts", layout::MOUNTS),
    ("moves", layout::MOVES),
    ("password-policy", layout::PASSWORD_POLICIES),
    ("policy", layout::POLICIES),
    ("settings", layout::SETTINGS),
    ("ui-headers", layout::UI_HEADERS),
    ("versions", layout::VERSIONS),
];
const TOKEN_TABLES: &[(&str, Table)] = &[
    ("accessor", layout::ACCESSOR),
    ("id", layout::TOKEN),
    ("parent", layout::CHILDREN),
    ("roles", layout::ROLES),
    ("uses", layout::USES),
];

/// A path that is looked at.
enum At<'p> {
    /// Tables of a scope.
    Tables(Scope, Option<&'static [(&'static str, Table)]>),
    /// What stands behind a table.
    Table(Scope, Table, &'p str),
    /// All mounts that keep something.
    Mounts,
    Free(&'p str),
    Nothing,
}

fn at<'p>(router: &Router, path: &'p str) -> At<'p> {
    let named = |scope, tables: &'static [(&'static str, Table)], rest: &'p str| {
        let (name, behind) = rest.split_once('/').unwrap_or((rest, ""));
        match tables.iter().find(|(n, _)| *n == name) {
            Some((_, table)) => At::Table(scope, *table, behind),
            None if name.is_empty() => At::Tables(scope, Some(tables)),
            None => At::Nothing,
        }
    };
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match first {
        "sys" => {
            match rest.strip_prefix("token").and_then(|r| if r.is_empty() { Some("") } else { r.strip_prefix('/') }) {
                Some(rest) => named(ROOT_TOKENS, TOKEN_TABLES, rest),
                None => named(STORE, SYSTEM_TABLES, rest),
            }
        }
        "logical" if rest.is_empty() => At::Mounts,
        "logical" => {
            let (uuid, rest) = rest.split_once('/').unwrap_or((rest, ""));
            let Some(uuid) = parse_uuid(uuid) else { return At::Nothing };
            let mount = router.mounts().find(|m| m.entry.uuid == uuid);
            let scope = mount.map_or(Scope::mount(ROOT, uuid), |m| m.scope);
            let (table, behind) = rest.split_once('/').unwrap_or((rest, ""));
            match table.parse() {
                Ok(n) => At::Table(scope, Table(n), behind),
                Err(_) if table.is_empty() => At::Tables(scope, None),
                Err(_) => At::Nothing,
            }
        }
        _ => At::Free(path),
    }
}

/// The storage key that a path names; `None`: nothing can be there.
pub fn key(tx: &mut Tx, router: &Router, path: &str) -> Result<Option<Vec<u8>>> {
    if PROTECTED.contains(&path) {
        return Err(Error::bad_request(format!("cannot access {path:?}")));
    }
    match at(router, path) {
        At::Table(scope, table, behind) => tx.within(scope, |tx| match behind.split_once('/') {
            Some(("names", name)) if !name.is_empty() => tx.key(Place::Name(table, name)).map(Some),
            Some(("keys", "_")) => tx.key(Place::Ordered(table, &[])).map(Some),
            Some(("keys", text)) => match hex::decode(text) {
                Ok(bytes) if !bytes.is_empty() => tx.key(Place::Ordered(table, &bytes)).map(Some),
                _ => Ok(None),
            },
            _ => Ok(None),
        }),
        At::Free(path) if !path.is_empty() => tx.within(RAW, |tx| tx.key(Place::Name(RAW_ENTRIES, path))).map(Some),
        _ => Ok(None),
    }
}

/// What a folder (without a slash at its end; the empty one is the top) holds, sorted, behind `after`.
pub fn list(tx: &mut Tx, router: &Router, folder: &str, after: &str, limit: usize) -> Result<Vec<String>> {
    let mut names = match at(router, folder) {
        At::Nothing => Vec::new(),
        At::Mounts => mounts(tx, router)?,
        At::Tables(scope, tables) => {
            let found = tx.within(scope, |tx| tx.tables())?;
            let name = |t: &Table| match tables {
                None => Some(format!("{}/", t.0)),
                Some(tables) => tables.iter().find(|(_, table)| table == t).map(|(name, _)| format!("{name}/")),
            };
            let mut names: Vec<String> = found.iter().filter_map(name).collect();
            if scope == STORE {
                names.push("token/".into());
            }
            names
        }
        At::Table(scope, table, behind) => {
            return tx.within(scope, |tx| records(tx, table, behind, after, limit));
        }
        At::Free(folder) => {
            let inside = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            let mut names = tx.within(RAW, |tx| tx.names(RAW_ENTRIES, &inside, "", 0))?;
            let own: &[&str] = match folder {
                "" => &["core/", "logical/", "sys/"],
                "core" => &["keyring", "locks"],
                _ => &[],
            };
            names.extend(own.iter().map(|n| (*n).to_owned()));
            names
        }
    };
    names.sort_unstable();
    names.dedup();
    names.retain(|n| n.as_str() > after);
    if limit > 0 {
        names.truncate(limit);
    }
    Ok(names)
}

/// The mounts that keep something, those that are being removed too.
fn mounts(tx: &mut Tx, router: &Router) -> Result<Vec<String>> {
    let uuid = |scope: &Scope| match *scope {
        STORE | ROOT_TOKENS | RAW => None,
        other => Some(router.mounts().find(|m| m.scope == other).map_or(other.mount, |m| m.entry.uuid)),
    };
    Ok(tx
        .scopes()?
        .iter()
        .filter(|s| s.namespace == ROOT)
        .filter_map(uuid)
        .map(|u| format!("{}/", uuid_text(&u)))
        .collect())
}

fn records(tx: &mut Tx, table: Table, behind: &str, after: &str, limit: usize) -> Result<Vec<String>> {
    let of_names = tx.is_of_names(table)?;
    let (kind, inside) = behind.split_once('/').unwrap_or((behind, ""));
    match (kind, of_names) {
        ("", Some(true)) => Ok(vec!["names/".into()]),
        ("", Some(false)) => Ok(vec!["keys/".into()]),
        ("names", Some(true)) => {
            let folder = if inside.is_empty() { String::new() } else { format!("{inside}/") };
            tx.names(table, &folder, after, limit)
        }
        ("keys", Some(false)) if inside.is_empty() => {
            let behind =
                if after == "_" { Some(Vec::new()) } else { hex::decode(after).ok().filter(|a| !a.is_empty()) };
            let places = tx.places(table, behind.as_deref(), limit)?;
            Ok(places.iter().map(|p| if p.is_empty() { "_".into() } else { hex::encode(p) }).collect())
        }
        _ => Ok(Vec::new()),
    }
}
