#![forbid(unsafe_code)]
//! The key/value engine: version 1 (plain values) and version 2 (versions, check-and-set, soft delete).

mod v1;
pub mod v2;

pub use v1::KvV1;
pub use v2::KvV2;

use holdfast_sdk::{Error, Result, Table, Tx};

/// Entries that one scan shows at most.
const SCANNED: usize = 100_000;

/// Every secret below a folder, relative to it: a folder's own first, then the folders in it, the last first.
pub(crate) fn all_below(tx: &mut Tx, table: Table, base: &str) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(relative) = folders.pop() {
        for name in tx.names(table, &format!("{base}{relative}"), "", 0)? {
            let path = format!("{relative}{name}");
            if name.ends_with('/') {
                folders.push(path);
            } else {
                out.push(path);
            }
            if out.len() + folders.len() > SCANNED {
                return Err(Error::bad_request(format!("more than {SCANNED} entries: scan a folder below")));
            }
        }
    }
    Ok(out)
}
