//! A core in memory, for tests that look inside it.

use std::sync::Arc;

use holdfast_hsm::memory::allow_unlocked;

use holdfast_sdk::Map;

use crate::log::{Format, Level, Log};
use crate::{Core, Endpoints, EngineTable, InitRequest, Open, Options, SYSTEM_TTL_SECS, TtlLimits};

pub(crate) fn new_core() -> Arc<Core> {
    allow_unlocked();
    Core::new(Options {
        store: holdfast_storage::Store::open_on(None, 1 << 20).unwrap(),
        engines: EngineTable { secrets: &[], auth: &[], databases: &[] },
        seals: crate::Seals::default(),
        seal_source: None,
        devices: Vec::new(),
        storage_type: "inmem".into(),
        cluster: None,
        audit: Vec::new(),
        audit_rules: crate::audit::Rules::default(),
        limits: TtlLimits { default_secs: SYSTEM_TTL_SECS, max_secs: SYSTEM_TTL_SECS },
        user_lockout: Vec::new(),
        cluster_name: None,
        max_entry_bytes: 1 << 20,
        endpoints: Endpoints { introspection: true, raw_storage: true },
        log: Log::new(Level::Info, Format::Standard),
        shown_config: Map::new(),
        recovery_mode: None,
    })
}

pub(crate) async fn unsealed() -> (Arc<Core>, Arc<Open>) {
    let core = new_core();
    let request = InitRequest { secret_shares: 1, secret_threshold: 1, ..InitRequest::default() };
    let key = core.initialise(&request).await.unwrap().keys.pop().unwrap();
    core.unseal_share(key).await.unwrap();
    let open = core.open().unwrap();
    (core, open)
}
