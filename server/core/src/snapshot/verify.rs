//! Looking at an archive without restoring it: what it is of, whether it is whole, and whether the keys of this store
//! open it, each entry. Nothing of it is kept.

use std::io;
use std::path::Path;
use std::sync::Arc;

use holdfast_hsm::memory::Key;
use holdfast_sdk::{Error, Map, Result, Value};
use holdfast_seal::locks::LockList;
use holdfast_seal::{Barrier, Keyring};

use super::restore::{Checked, archive, broken, check, read_entries};
use super::{Meta, SEALED_AT, STATE, tar};
use crate::Open;
use crate::layout::SEALED;

/// What an archive is of, if it is whole and its checksums are right. Nobody's keys are needed for it.
pub fn inspect(path: &Path) -> io::Result<Map<String, Value>> {
    Ok(shown(&check(path)?.meta))
}

fn shown(meta: &Meta) -> Map<String, Value> {
    match serde_json::to_value(meta) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// What an archive is of, and whether the present keys open all of it. One that is not whole is an error.
pub(crate) async fn verify(open: &Arc<Open>, file: &Path) -> Result<Map<String, Value>> {
    let (path, root, barrier) = (file.to_owned(), open.root.load_full(), open.barrier.load_full());
    let verified = tokio::task::spawn_blocking(move || {
        let checked = check(&path)?;
        let opened = opens(&checked, &path, &root, &barrier);
        io::Result::Ok((checked.meta, opened))
    });
    let verified = verified.await.map_err(Error::internal)?;
    let (meta, opened) = verified.map_err(|e| Error::bad_request(format!("the snapshot is not whole: {e}")))?;
    let mut m = shown(&meta);
    m.insert("complete".into(), true.into());
    m.insert("opens".into(), opened.is_ok().into());
    m.insert("reason".into(), opened.err().unwrap_or_default().into());
    Ok(m)
}

/// Open every entry with the keys that the archive holds, and these with the present root key.
fn opens(checked: &Checked, path: &Path, root: &Key, barrier: &Barrier) -> std::result::Result<(), String> {
    let (Some(locks), Some(keyring)) = (&checked.locks, &checked.keyring) else {
        return Err("it holds no keys".into());
    };
    let locks = LockList::decode(locks).map_err(|e| format!("its locks: {e}"))?;
    locks.verify(root).map_err(|_| {
        format!("the present keys do not open it: it needs those of the cluster {:?}", checked.meta.cluster_name)
    })?;
    let keyring = Keyring::open(keyring, root, locks.list.cluster_id).map_err(|e| format!("its keyring: {e}"))?;
    let own = Barrier::new(Arc::new(keyring));
    let sums = own.open(SEALED_AT, &checked.sealed_sums).or_else(|_| barrier.open(SEALED_AT, &checked.sealed_sums));
    if sums.map_err(|_| "its sums are sealed by other keys")? != checked.sums {
        return Err("its checksums are not those that were sealed with it".into());
    }
    let mut last: Vec<u8> = Vec::new();
    let all = tar::read(archive(path).map_err(|e| e.to_string())?, |name, content, _| match name {
        STATE => read_entries(content, |entries| {
            for (key, value) in entries {
                if key <= last {
                    return Err(broken("its entries are not in order"));
                }
                if key.first() == Some(&SEALED) {
                    own.open(&key, &value).map_err(|_| broken("an entry does not open"))?;
                }
                last = key;
            }
            Ok(())
        }),
        _ => Ok(()),
    });
    all.map_err(|e| e.to_string())
}
