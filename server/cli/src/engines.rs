//! The one table of engines and auth methods: adding one is a line here.

use std::sync::Arc;

use holdfast_approle::Approle;
use holdfast_core::{EngineTable, MountEntry};
use holdfast_database::{Database, PLUGINS};
use holdfast_kv::{KvV1, KvV2};
use holdfast_sdk::Backend;
use holdfast_sdk::lease::Limits;
use holdfast_userpass::Userpass;

pub const ENGINES: EngineTable = EngineTable {
    secrets: &[("kv", kv), ("generic", generic), ("database", database)],
    auth: &[("approle", approle), ("userpass", userpass)],
    databases: PLUGINS,
};

fn kv(mount: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    match mount.option("version").unwrap_or("1") {
        "1" | "" => Ok(Arc::new(KvV1::new(mount.default_ttl_secs))),
        "2" => Ok(Arc::new(KvV2::default())),
        other => Err(format!("kv has the versions 1 and 2, not {other:?}")),
    }
}

/// What version 1 of kv was called at first.
fn generic(mount: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(KvV1::new(mount.default_ttl_secs)))
}

fn database(mount: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Database::new(Limits { default_secs: mount.default_ttl_secs, max_secs: mount.max_ttl_secs })))
}

fn approle(mount: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Approle::new(mount.max_ttl_secs)))
}

fn userpass(_: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Userpass::default()))
}
