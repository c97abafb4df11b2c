//! A server in memory, asked as the HTTP layer asks it.

// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod by_hand;
pub mod outside;
pub mod told_groups;

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_core::audit::{DeviceConfig, Rules};
use holdfast_core::clock::{Clocks, SystemClocks};
use holdfast_core::log::{Format, Level, Log};
use holdfast_core::{
    Core, Endpoints, EngineTable, InitRequest, MountEntry, Options, SYSTEM_TTL_SECS, TtlLimits, random,
};
use holdfast_hsm::memory::{Secret, allow_unlocked};
use holdfast_kv::{KvV1, KvV2};
use holdfast_sdk::{Backend, Map, Operation, Presented, Request, Value};
use holdfast_storage::Store;

pub struct Server {
    pub core: Arc<Core>,
    pub root: String,
    share: Secret<Vec<u8>>,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
}

impl Reply {
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

pub fn kv(mount: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    match mount.option("version") {
        Some("2") => Ok(Arc::new(KvV2::default())),
        _ => Ok(Arc::new(KvV1::new(mount.default_ttl_secs))),
    }
}

/// Ask as the HTTP layer does.
pub async fn ask(core: &Arc<Core>, token: &str, operation: Operation, path: &str, data: Value) -> Reply {
    ask_from(None, core, token, operation, path, data).await
}

/// Ask as a client at an address.
pub async fn ask_from(
    remote: Option<SocketAddr>,
    core: &Arc<Core>,
    token: &str,
    operation: Operation,
    path: &str,
    data: Value,
) -> Reply {
    ask_presenting(Presented::default(), remote, core, token, operation, path, data).await
}

/// Ask with more than a token.
pub async fn ask_presenting(
    presented: Presented,
    remote: Option<SocketAddr>,
    core: &Arc<Core>,
    token: &str,
    operation: Operation,
    path: &str,
    data: Value,
) -> Reply {
    let request = Request {
        id: random::uuid_text(&random::uuid().unwrap()),
        operation,
        path: path.into(),
        data: data.as_object().cloned().unwrap_or_else(Map::new),
        token: (!token.is_empty()).then(|| Secret::new(token.to_owned())),
        namespace: String::new(),
        wrap_ttl: None,
        remote,
        headers: Vec::new(),
        merge_patch: operation == Operation::Patch,
        policy_override: false,
        forwarded_from: None,
        client_certificate_serial: None,
        presented,
    };
    let answer = core.handle(request).await;
    Reply { status: answer.status, body: serde_json::from_slice(&answer.body).unwrap_or(Value::Null) }
}

/// A core that is still sealed.
pub fn core(store: Store, engines: EngineTable, clocks: Arc<dyn Clocks>, audit: Vec<DeviceConfig>) -> Arc<Core> {
    Core::with_clocks(Options { engines, audit, ..options(store) }, clocks)
}

/// Without engines and audit, in memory.
pub fn options(store: Store) -> Options {
    allow_unlocked();
    Options {
        store,
        engines: EngineTable { secrets: &[], auth: &[], databases: &[] },
        seals: holdfast_core::Seals::default(),
        seal_source: None,
        devices: Vec::new(),
        storage_type: "inmem".into(),
        cluster: None,
        audit: Vec::new(),
        audit_rules: Rules::default(),
        limits: TtlLimits { default_secs: SYSTEM_TTL_SECS, max_secs: SYSTEM_TTL_SECS },
        user_lockout: Vec::new(),
        cluster_name: None,
        max_entry_bytes: 1 << 20,
        endpoints: Endpoints { introspection: true, raw_storage: true },
        log: Log::new(Level::Info, Format::Standard),
        shown_config: Map::new(),
        recovery_mode: None,
    }
}

impl Server {
    pub async fn start() -> Server {
        let engines = EngineTable { secrets: &[("kv", kv)], auth: &[], databases: &[] };
        let core = core(Store::open_on(None, 1 << 20).unwrap(), engines, Arc::new(SystemClocks), Vec::new());
        Server::initialise(core).await
    }

    /// A new store's server.
    pub async fn initialise(core: Arc<Core>) -> Server {
        let request = InitRequest { secret_shares: 1, secret_threshold: 1, ..InitRequest::default() };
        let mut made = core.initialise(&request).await.unwrap();
        let share = made.keys.pop().unwrap();
        core.unseal_share(Secret::new(share.expose().clone())).await.unwrap();
        Server { core, root: made.root_token.expose().clone(), share }
    }

    /// A fresh process on the same store.
    pub async fn again(&self, core: Arc<Core>) -> Server {
        let share = Secret::new(self.share.expose().clone());
        core.unseal_share(Secret::new(self.share.expose().clone())).await.unwrap();
        Server { core, root: self.root.clone(), share }
    }

    /// Forget everything that is not stored, as a restart does.
    pub async fn seal_and_unseal(&self) {
        self.core.seal_now().await;
        self.unseal().await;
    }

    pub async fn unseal(&self) {
        self.core.unseal_share(Secret::new(self.share.expose().clone())).await.unwrap();
    }

    /// Ask with a token that comes as `Authorization: Bearer`.
    pub async fn bearer(&self, token: &str, operation: Operation, path: &str, data: Value) -> Reply {
        let presented = Presented { bearer: true, ..Presented::default() };
        ask_presenting(presented, None, &self.core, token, operation, path, data).await
    }

    pub async fn ask(&self, token: &str, operation: Operation, path: &str, data: Value) -> Reply {
        self.ask_from(None, token, operation, path, data).await
    }

    /// As a client at an address asks.
    pub async fn ask_from(
        &self,
        remote: Option<SocketAddr>,
        token: &str,
        operation: Operation,
        path: &str,
        data: Value,
    ) -> Reply {
        ask_from(remote, &self.core, token, operation, path, data).await
    }

    pub async fn write(&self, path: &str, data: Value) -> Reply {
        self.ask(&self.root, Operation::Update, path, data).await
    }

    pub async fn read(&self, path: &str) -> Reply {
        self.ask(&self.root, Operation::Read, path, Value::Null).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.ask(&self.root, Operation::Delete, path, Value::Null).await
    }

    pub async fn list(&self, path: &str) -> Reply {
        self.ask(&self.root, Operation::List, path, Value::Null).await
    }

    /// A new token's id.
    pub async fn token(&self, by: &str, path: &str, data: Value) -> String {
        let made = self.ask(by, Operation::Update, path, data).await.expect(200);
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// Whether a token is good for anything.
    pub async fn is_good(&self, token: &str) -> bool {
        match self.ask(token, Operation::Read, "auth/token/lookup-self", Value::Null).await.status {
            200 => true,
            403 => false,
            other => panic!("lookup-self answers {other}"),
        }
    }

    /// Wait until no job is left.
    pub async fn until_no_jobs(&self) {
        for _ in 0..600 {
            if self.read("sys/jobs").await.expect(200)["data"]["jobs"].as_array().unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("jobs go on for half a minute");
    }
}
