//! Names of a table without their folders.

use holdfast_sdk::{Result, Table, Transaction};

use crate::tx::Tx;

/// All names below a folder (empty, or with a slash at its end) in full: its own first, then those
/// of each folder in it.
pub fn below(tx: &mut Tx, table: Table, folder: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut inner = Vec::new();
        for name in tx.names(table, &folder, "", 0)? {
            let full = format!("{folder}{name}");
            if name.ends_with('/') { inner.push(full) } else { found.push(full) }
        }
        folders.extend(inner.into_iter().rev());
    }
    Ok(found)
}
