//! The requests that are being handled, for `sys/in-flight-req`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base64::Engine;
use holdfast_sdk::{Caller, Map, Operation, Request, Timestamp, Value};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::Core;
use crate::tokens::Session;

/// Requests that come at the same time seldom meet in one shard.
const SHARDS: usize = 16;

/// All requests that are being handled; their number is bounded by the connections'.
pub(crate) struct InFlight {
    shards: [Mutex<HashMap<u64, Arc<Flight>>>; SHARDS],
    next: AtomicU64,
}

/// A request that is being handled.
pub(crate) struct Flight {
    pub request: Request,
    started: Timestamp,
    session: OnceLock<Arc<Session>>,
}

/// Takes the request out again when its handling ends, however it ends.
pub(crate) struct Entered {
    pub flight: Arc<Flight>,
    core: Arc<Core>,
    number: u64,
}

impl Default for InFlight {
    fn default() -> InFlight {
        InFlight { shards: std::array::from_fn(|_| Mutex::default()), next: AtomicU64::new(0) }
    }
}

impl InFlight {
    /// Each request by its id.
    pub fn shown(&self) -> Map<String, Value> {
        let mut shown = Map::new();
        for number in 0..SHARDS as u64 {
            let flights: Vec<Arc<Flight>> = self.shard(number).values().cloned().collect();
            shown.extend(flights.iter().map(|f| (f.request.id.clone(), f.shown())));
        }
        shown
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<Flight>>> {
        self.shards[number as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// From now on the request is being handled.
    pub(crate) fn enter(self: &Arc<Self>, request: Request) -> Entered {
        let flight = Arc::new(Flight { request, started: self.clock.now(), session: OnceLock::new() });
        let number = self.in_flight.next.fetch_add(1, Ordering::Relaxed);
        self.in_flight.shard(number).insert(number, flight.clone());
        self.metrics.in_flight.up();
        Entered { flight, core: self.clone(), number }
    }

    /// The answer of `sys/in-flight-req`.
    pub fn requests_in_flight(&self) -> Map<String, Value> {
        self.in_flight.shown()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.core.in_flight.shard(self.number).remove(&self.number);
        self.core.metrics.in_flight.down();
    }
}

impl Flight {
    /// It was found out who asks.
    pub fn asks(&self, session: &Arc<Session>) {
        let _same_caller_again = self.session.set(session.clone());
    }

    fn shown(&self) -> Value {
        let r = &self.request;
        json!({
            "start_time": self.started.rfc3339(),
            "client_remote_address": r.remote.map_or_else(String::new, |a| a.to_string()),
            "request_path": format!("/v1/{}", r.path),
            "request_method": method(r.operation),
            "client_id": self.session.get().map_or_else(String::new, |s| client_id(&s.caller)),
        })
    }
}

fn method(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "GET",
        Operation::Create | Operation::Update => "POST",
        Operation::Patch => "PATCH",
        Operation::Delete => "DELETE",
        Operation::List => "LIST",
        Operation::Scan => "SCAN",
    }
}

/// As Vault counts clients: an entity, or else all tokens with the same policies.
pub(crate) fn client_id(caller: &Caller) -> String {
    if !caller.entity_id.is_empty() {
        return caller.entity_id.clone();
    }
    let mut policies = caller.policies.to_vec();
    policies.sort_unstable();
    let hash = Sha256::digest(format!("{}\0root", policies.join("\u{7f}")));
    base64::engine::general_purpose::STANDARD.encode(hash)
}
