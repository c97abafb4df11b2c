//! `sys/*`: what operators see and change. One file for each subject.

mod audit;
pub(crate) mod audited_headers;
mod capabilities;
pub(crate) mod cors;
mod counters;
mod devices;
mod explain;
mod generate_root;
pub(crate) mod host;
mod inspect;
pub(crate) mod keys;
mod last_use;
mod leases;
mod locked_users;
mod log;
mod machine;
mod managed_keys;
mod mfa;
mod mounts;
mod namespaces;
pub(crate) mod password;
mod plugins;
mod policy;
mod pprof;
mod quotas;
pub(crate) mod raft;
pub(crate) mod raw;
mod remount;
pub(crate) mod rotate;
mod seal;
mod snapshot_auto;
mod snapshot_auto_s3;
mod status;
mod storage;
mod token_report;
mod tools;
mod tune;
mod ui_headers;
mod upkeep;
mod wrapping;

use std::sync::{Arc, Weak};

use holdfast_sdk::{Error, Result, Routes};

use crate::Core;
use crate::router::Handler;
use crate::tx::Tx;

/// The system backend, mounted at `sys/`.
pub struct System {
    core: Weak<Core>,
    /// Turns of work that takes a processor for a while.
    slow: Arc<tokio::sync::Semaphore>,
}

/// What answers at `sys/`.
pub fn handler(core: Weak<Core>, clustered: bool) -> Handler {
    Handler::System(
        Arc::new(System { core, slow: Arc::new(tokio::sync::Semaphore::new(1)) }),
        Arc::new(routes(clustered)),
    )
}

fn routes(clustered: bool) -> Routes<System, Tx> {
    let routes = Routes::new();
    let routes = if clustered { snapshot_auto::routes(raft::routes(routes)) } else { routes };
    let routes = mounts::routes(routes);
    let routes = namespaces::routes(routes);
    let routes = remount::routes(routes);
    let routes = quotas::routes(routes);
    let routes = leases::routes(routes);
    let routes = locked_users::routes(routes);
    let routes = mfa::routes(routes);
    let routes = password::routes(routes);
    let routes = policy::routes(routes);
    let routes = pprof::routes(routes);
    let routes = capabilities::routes(routes);
    let routes = explain::routes(routes);
    let routes = token_report::routes(routes);
    let routes = last_use::routes(routes);
    let routes = wrapping::routes(routes);
    let routes = tools::routes(routes);
    let routes = upkeep::routes(routes);
    let routes = storage::routes(routes);
    let routes = keys::routes(routes);
    let routes = rotate::routes(routes);
    let routes = generate_root::routes(routes);
    let routes = cors::routes(routes);
    let routes = audit::routes(routes);
    let routes = audited_headers::routes(routes);
    let routes = counters::routes(routes);
    let routes = devices::routes(routes);
    let routes = managed_keys::routes(routes);
    let routes = seal::routes(routes);
    let routes = host::routes(routes);
    let routes = inspect::routes(routes);
    let routes = log::routes(routes);
    let routes = raw::routes(routes);
    let routes = machine::routes(routes);
    let routes = plugins::routes(routes);
    let routes = ui_headers::routes(routes);
    status::routes(routes, clustered)
}

impl System {
    fn core(&self) -> Result<Arc<Core>> {
        self.core.upgrade().ok_or_else(|| Error::Unavailable("the server is shutting down".into()))
    }
}
