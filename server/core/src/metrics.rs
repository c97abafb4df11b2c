//! Figures of the server, with the names that public dashboards for Vault expect.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use holdfast_storage::{CompactionInfo, Phase};

/// A number that only rises.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is not known at first.
pub struct Unset(AtomicU64);

impl Default for Unset {
    fn default() -> Unset {
        Unset(AtomicU64::new(u64::MAX))
    }
}

impl std::ops::Deref for Unset {
    type Target = AtomicU64;

    fn deref(&self) -> &AtomicU64 {
        &self.0
    }
}

/// A number that rises and falls.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub struct Metrics {
    /// Requests that were handled, and their nanoseconds.
    pub requests: Counter,
    pub request_ns: Counter,
    pub in_flight: Gauge,
    /// Transactions that had to run again.
    pub conflicts: Counter,
    pub audit_failures: Counter,
    /// Audit lines of what the server did by itself: taken, refused by all devices (they are offered again), lost.
    pub own_lines: Counter,
    pub own_line_failures: Counter,
    pub own_lines_lost: Counter,
    pub tokens_created: Counter,
    pub tokens_expired: Counter,
    pub connections: Gauge,
    /// Of all plans for snapshots, when the oldest last proven one was made (nanoseconds of cluster time); 0: there
    /// is a plan without one; `u64::MAX`: there are no plans.
    pub oldest_backup: Unset,
    /// Acts outside that were done, and that failed.
    pub acts: Counter,
    pub act_failures: Counter,
    /// Intents that were undone, and tries of it that failed.
    pub intents_undone: Counter,
    pub undo_failures: Counter,
    /// Undoings that are under way, or wait for their target.
    pub undo_queue: Gauge,
    /// Leases of engines that were made, renewed, have reached their end, and were revoked.
    pub leases_created: Counter,
    pub quota_refusals: Counter,
    pub leases_renewed: Counter,
    pub leases_expired: Counter,
    pub leases_revoked: Counter,
}

/// Mounts that have a series of their own.
pub const MOUNTS_SHOWN: usize = 256;

/// Leases at this moment.
#[derive(Default)]
pub struct Leases {
    /// Of what engines made.
    pub live: i64,
    /// Of tokens.
    pub tokens: i64,
    /// Of engines, and their end has begun.
    pub ending: i64,
    /// Those of them that were given up.
    pub irrevocable: usize,
    pub by_mount: Vec<OfMount>,
}

/// Those of one mount.
#[derive(Default)]
pub struct OfMount {
    pub path: String,
    pub live: i64,
    pub ending: i64,
    pub irrevocable: usize,
}

impl OfMount {
    pub fn of(path: &str) -> OfMount {
        OfMount { path: path.to_owned(), ..OfMount::default() }
    }
}

impl Metrics {
    /// A request that began then was handled.
    pub fn handled(&self, start: Instant) {
        self.requests.add(1);
        self.request_ns.add(start.elapsed().as_nanos() as u64);
    }
}

/// Figures of other parts at this moment.
pub struct Now {
    pub unsealed: bool,
    /// The seal's device, once it was asked.
    pub seal_device: Option<crate::seal_health::Seen>,
    pub applied_index: u64,
    pub feature_level: u64,
    pub proposals_in_flight: usize,
    pub log_bytes: u64,
    pub file_bytes: u64,
    pub compaction: CompactionInfo,
    pub key_slots_used: usize,
    pub key_slots_total: usize,
    pub leases: Leases,
    /// Targets outside that do not answer.
    pub targets_shut: usize,
    /// While mass expiry is paused: seconds that the wall clock is ahead or behind.
    pub clock_apart_secs: Option<i64>,
    pub clock_pauses: u64,
}

impl Metrics {
    /// Prometheus text format.
    pub fn prometheus(&self, now: &Now) -> String {
        let mut out = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: f64| {
            let _cannot_fail = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        one("vault_core_unsealed", "gauge", "1 while the server is unsealed.", f64::from(u8::from(now.unsealed)));
        one("vault_core_active", "gauge", "1 while the server is active.", f64::from(u8::from(now.unsealed)));
        if let Some(device) = &now.seal_device {
            let healthy = f64::from(u8::from(device.unhealthy.is_none()));
            one(
                "holdfast_seal_device_healthy",
                "gauge",
                "1 if the seal's device opened its lock when asked last.",
                healthy,
            );
            let took = device.took.as_secs_f64();
            one(
                "holdfast_seal_device_check_seconds",
                "gauge",
                "How long the last check of the seal's device took.",
                took,
            );
        }
        one("vault_core_in_flight_requests", "gauge", "Requests being handled.", self.in_flight.get() as f64);
        one("vault_core_handle_request_count", "counter", "Requests that were handled.", self.requests.get() as f64);
        one(
            "vault_core_handle_request_sum",
            "counter",
            "Milliseconds spent on requests.",
            self.request_ns.get() as f64 / 1e6,
        );
        one(
            "vault_audit_log_request_failure",
            "counter",
            "Lines that no audit device took.",
            self.audit_failures.get() as f64,
        );
        let own = self.own_lines.get() as f64;
        one("holdfast_audit_own_lines", "counter", "Lines of what the server did by itself.", own);
        let refused = self.own_line_failures.get() as f64;
        one("holdfast_audit_own_line_failures", "counter", "Those that no device took at first.", refused);
        let lost = self.own_lines_lost.get() as f64;
        one("holdfast_audit_own_lines_lost", "counter", "Those that no device ever took.", lost);
        one("vault_token_creation", "counter", "Tokens made.", self.tokens_created.get() as f64);
        one(
            "holdfast_tokens_expired",
            "counter",
            "Tokens ended because their time was over.",
            self.tokens_expired.get() as f64,
        );
        one("holdfast_transaction_conflicts", "counter", "Transactions that ran again.", self.conflicts.get() as f64);
        one("holdfast_connections", "gauge", "Open client connections.", self.connections.get() as f64);
        one("holdfast_storage_applied_index", "gauge", "Last applied log index.", now.applied_index as f64);
        one("holdfast_feature_level", "gauge", "What a program must know to read the store.", now.feature_level as f64);
        one(
            "holdfast_storage_proposals_in_flight",
            "gauge",
            "Commits waiting for the disk.",
            now.proposals_in_flight as f64,
        );
        one("holdfast_storage_log_bytes", "gauge", "Size of the log.", now.log_bytes as f64);
        one("holdfast_storage_file_bytes", "gauge", "Size of the store's file, free room too.", now.file_bytes as f64);
        let c = &now.compaction;
        let running = matches!(c.phase, Phase::Copying | Phase::Finishing);
        one("holdfast_storage_compaction_running", "gauge", "1 during a compaction.", f64::from(u8::from(running)));
        one("holdfast_storage_compactions", "counter", "Compactions that ended well.", c.times_done as f64);
        one(
            "holdfast_storage_compaction_failures",
            "counter",
            "Compactions that were given up.",
            c.times_failed as f64,
        );
        let saved = if c.phase == Phase::Done { c.bytes_before.saturating_sub(c.bytes_after) } else { 0 };
        one("holdfast_storage_compaction_saved_bytes", "gauge", "What the last compaction gave back.", saved as f64);
        let took = c.took.as_secs_f64();
        one("holdfast_storage_compaction_seconds", "gauge", "How long the last compaction took.", took);
        one("holdfast_key_slots_used", "gauge", "Slots of locked key memory in use.", now.key_slots_used as f64);
        one("holdfast_outside_acts", "counter", "Acts outside that were done.", self.acts.get() as f64);
        one("holdfast_outside_act_failures", "counter", "Acts outside that failed.", self.act_failures.get() as f64);
        one("holdfast_intents_undone", "counter", "Undoings of acts outside.", self.intents_undone.get() as f64);
        one("holdfast_intent_undo_failures", "counter", "Undoings that failed.", self.undo_failures.get() as f64);
        one("holdfast_intent_undo_queue", "gauge", "Undoings under way or queued.", self.undo_queue.get() as f64);
        let shut = now.targets_shut as f64;
        one("holdfast_outside_targets_shut", "gauge", "Targets outside that do not answer at present.", shut);
        let all = now.leases.live.saturating_add(now.leases.tokens) as f64;
        one("vault_expire_num_leases", "gauge", "Live leases, those of tokens too.", all);
        one("vault_token_count", "gauge", "Tokens that have a lease.", now.leases.tokens as f64);
        let ending = now.leases.ending as f64;
        one("holdfast_leases_ending", "gauge", "Leases whose end has begun and is not done.", ending);
        one(
            "vault_expire_num_irrevocable_leases",
            "gauge",
            "Leases whose end failed too often: see sys/leases.",
            now.leases.irrevocable as f64,
        );
        one("holdfast_quota_refusals", "counter", "Requests that a quota refused.", self.quota_refusals.get() as f64);
        one("holdfast_leases_created", "counter", "Leases made.", self.leases_created.get() as f64);
        one("holdfast_leases_renewed", "counter", "Leases renewed.", self.leases_renewed.get() as f64);
        one("holdfast_leases_expired", "counter", "Leases that reached their end.", self.leases_expired.get() as f64);
        one("holdfast_leases_revoked", "counter", "Leases whose end is done.", self.leases_revoked.get() as f64);
        let oldest = self.oldest_backup.load(Ordering::Relaxed);
        if oldest != u64::MAX {
            let secs = (oldest / 1_000_000_000) as f64;
            let help = "When the last proven snapshot was made, of the plan where that is longest ago; 0: never.";
            one("holdfast_backup_last_proven_timestamp_seconds", "gauge", help, secs);
        }
        let paused = f64::from(u8::from(now.clock_apart_secs.is_some()));
        one("holdfast_expiry_paused", "gauge", "1 while mass expiry waits for the clock.", paused);
        let apart = now.clock_apart_secs.unwrap_or(0) as f64;
        one("holdfast_clock_apart_seconds", "gauge", "How far the wall clock jumped ahead or back.", apart);
        one("holdfast_clock_pauses", "counter", "Times that the wall clock jumped.", now.clock_pauses as f64);
        one("holdfast_key_slots_total", "gauge", "Slots of locked key memory.", now.key_slots_total as f64);
        let mut by_mount = |name: &str, help: &str, value: fn(&OfMount) -> i64| {
            let shown: Vec<&OfMount> = now.leases.by_mount.iter().filter(|of| value(of) > 0).collect();
            if !shown.is_empty() {
                let _cannot_fail = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
            }
            for of in shown {
                let mount = of.path.replace('\\', "\\\\").replace('"', "\\\"");
                let _cannot_fail = writeln!(out, "{name}{{mount=\"{mount}\"}} {}", value(of));
            }
        };
        by_mount("holdfast_leases", "Live leases of a mount.", |of| of.live);
        by_mount("holdfast_leases_ending_by_mount", "Those whose end has begun.", |of| of.ending);
        by_mount("holdfast_leases_irrevocable_by_mount", "Those that were given up: see sys/leases.", |of| {
            i64::try_from(of.irrevocable).unwrap_or(i64::MAX)
        });
        out
    }
}
