//! Figures of the server, with the names that public dashboards for Vault expect.

mod page;
mod process;
mod times;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use holdfast_storage::{CompactionInfo, Phase};

pub use self::times::Times;

use self::page::Page;
use crate::audit;
use crate::seals::Seal;
use crate::usage::{Counts, Usage};

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
    pub requests: Times,
    /// Those that are logins.
    pub logins: Times,
    /// By the first digit of their status, less one.
    by_status: [Counter; 5],
    /// Those that policies or tokens refused.
    pub denied: Counter,
    /// Requests with a token of the policy `root`.
    pub by_root: Counter,
    pub reads: Counter,
    pub writes: Counter,
    pub in_flight: Gauge,
    /// Reads that this node answered while it stood by, and those that it tried to and passed on.
    pub standby_reads: Counter,
    pub standby_reads_passed_on: Counter,
    /// Commits that failed for good, or whose outcome is unknown.
    pub commit_failures: Counter,
    /// Times that this node was sealed, and became active.
    pub seals: Counter,
    pub activations: Counter,
    /// Transactions that had to run again.
    pub conflicts: Counter,
    pub audit_failures: Counter,
    /// The same for responses.
    pub audit_response_failures: Counter,
    pub audit: Arc<audit::Totals>,
    /// Audit lines of what the server did by itself: taken, refused by all devices (they are offered again), lost.
    pub own_lines: Counter,
    pub own_line_failures: Counter,
    pub own_lines_lost: Counter,
    pub own_lines_recovered: Counter,
    /// Tokens that were looked up for requests.
    pub token_lookups: Counter,
    /// Policies that were read and written by routes.
    pub policies_read: Counter,
    pub policies_written: Counter,
    pub tokens_created: Counter,
    pub tokens_expired: Counter,
    pub connections: Gauge,
    /// Of all plans for snapshots, when the oldest last proven one was made (nanoseconds of cluster time); 0: there
    /// is a plan without one; `u64::MAX`: there are no plans.
    pub oldest_backup: Unset,
    /// Tries in a row that made no snapshot, of the plan where these are most.
    pub backup_failed_tries: Gauge,
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
    pub fn handled(&self, start: Instant, status: u16, writes: bool) {
        self.requests.since(start);
        if let Some(count) = usize::from(status / 100).checked_sub(1).and_then(|class| self.by_status.get(class)) {
            count.add(1);
        }
        if status == 403 {
            self.denied.add(1);
        }
        if writes { self.writes.add(1) } else { self.reads.add(1) }
    }
}

/// An audit device at this moment.
pub struct AuditDevice {
    pub path: String,
    pub kind: &'static str,
    pub figures: Arc<audit::Figures>,
    /// Writes that wait to be sent, and their bytes.
    pub waiting: (usize, usize),
    /// What a spool has for the peer.
    pub spool: Option<audit::Spooled>,
}

/// A device of the configuration.
pub struct Device<'d> {
    pub name: &'d str,
    pub kind: &'static str,
    pub healthy: bool,
    pub calls: &'d Times,
    pub failures: u64,
    pub refused: u64,
}

/// The cluster as this node sees it.
pub struct Members {
    pub committed: u64,
    pub applied: u64,
    /// Names of the members, and whether each is healthy; where this node leads.
    pub healthy: Vec<(String, bool)>,
    pub tolerance: usize,
}

/// Figures of other parts at this moment.
pub struct Now {
    pub unsealed: bool,
    /// The seals whose devices were asked.
    pub(crate) seals: Vec<Arc<Seal>>,
    /// Whether each seal has a lock around the present root key.
    pub(crate) fully_wrapped: Option<bool>,
    pub devices: Arc<Vec<Arc<crate::devices::Device>>>,
    pub applied_index: u64,
    pub feature_level: u64,
    pub proposals_in_flight: usize,
    pub log_bytes: u64,
    pub file_bytes: u64,
    pub(crate) unreadable: bool,
    pub(crate) scrubs: u64,
    pub compaction: CompactionInfo,
    pub key_slots_used: usize,
    pub key_slots_total: usize,
    pub leases: Leases,
    /// Targets outside that do not answer.
    pub targets_shut: usize,
    /// While mass expiry is paused: seconds that the wall clock is ahead or behind.
    pub clock_apart_secs: Option<i64>,
    pub clock_pauses: u64,
    pub active: bool,
    pub audit: Vec<AuditDevice>,
    pub own_lines_kept: usize,
    pub members: Option<Members>,
    pub usage: Option<Arc<Usage>>,
}

impl Metrics {
    /// Prometheus text format.
    pub fn prometheus(&self, now: &Now) -> String {
        let mut page = Page::default();
        let mut one = |name: &str, kind: &str, help: &str, value: f64| page.one(name, kind, help, value);
        one("vault_core_unsealed", "gauge", "1 while the server is unsealed.", f64::from(u8::from(now.unsealed)));
        one("vault_core_active", "gauge", "1 while the server is active.", f64::from(u8::from(now.active)));
        if let Some(wrapped) = now.fully_wrapped {
            one(
                "holdfast_seal_fully_wrapped",
                "gauge",
                "1 if each seal has a lock around the present root key, and no lock is without its seal.",
                f64::from(u8::from(wrapped)),
            );
        }
        one("vault_core_in_flight_requests", "gauge", "Requests being handled.", self.in_flight.get() as f64);
        one("holdfast_requests_denied", "counter", "Requests that were answered 403.", self.denied.get() as f64);
        let by_root = self.by_root.get() as f64;
        one("holdfast_requests_by_root", "counter", "Requests with a root token.", by_root);
        one("holdfast_requests_read", "counter", "Requests that read.", self.reads.get() as f64);
        one("holdfast_requests_write", "counter", "Requests that write.", self.writes.get() as f64);
        let failed = self.commit_failures.get() as f64;
        one("holdfast_commit_failures", "counter", "Commits that failed, or whose outcome is unknown.", failed);
        one("holdfast_seals", "counter", "Times that this node was sealed.", self.seals.get() as f64);
        one("holdfast_activations", "counter", "Times that this node became active.", self.activations.get() as f64);
        one(
            "vault_audit_log_request_failure",
            "counter",
            "Lines that no audit device took.",
            self.audit_failures.get() as f64,
        );
        let failed = self.audit_response_failures.get() as f64;
        one("vault_audit_log_response_failure", "counter", "Those of responses.", failed);
        let kept = now.own_lines_kept as f64;
        one("holdfast_audit_own_lines_kept", "gauge", "Acts of the server that no audit device has taken yet.", kept);
        let own = self.own_lines.get() as f64;
        one("holdfast_audit_own_lines", "counter", "Lines of what the server did by itself.", own);
        let refused = self.own_line_failures.get() as f64;
        one("holdfast_audit_own_line_failures", "counter", "Those that no device took at first.", refused);
        let lost = self.own_lines_lost.get() as f64;
        one("holdfast_audit_own_lines_lost", "counter", "Those that no device ever took.", lost);
        let recovered = self.own_lines_recovered.get() as f64;
        let help = "Acts of before the last unseal that were told after it.";
        one("holdfast_audit_own_lines_recovered", "counter", help, recovered);
        let made = self.tokens_created.get() as f64;
        one("vault_token_creation", "counter", "Tokens made.", made);
        // A token is stored in the commit that makes it: none is ever pending.
        one("vault_token_create_count", "counter", "Tokens made.", made);
        one("vault_token_store_count", "counter", "Tokens made.", made);
        let looked_up = self.token_lookups.get() as f64;
        one("vault_token_lookup_count", "counter", "Tokens looked up for requests.", looked_up);
        let (read, written) = (self.policies_read.get() as f64, self.policies_written.get() as f64);
        one("vault_policy_get_policy_count", "counter", "Policies read by sys/policies/acl and sys/policy.", read);
        one("vault_policy_set_policy_count", "counter", "Policies written there.", written);
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
        let unreadable = f64::from(u8::from(now.unreadable));
        one("holdfast_storage_unreadable", "gauge", "1 if the state machine's file was found damaged.", unreadable);
        one("holdfast_storage_scrubs", "counter", "Times that the whole state machine was read.", now.scrubs as f64);
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
        let (here, passed_on) = (self.standby_reads.get() as f64, self.standby_reads_passed_on.get() as f64);
        one("holdfast_standby_reads", "counter", "Reads that this node answered while it stood by.", here);
        let help = "Reads that this node could have answered while it stood by, and passed on.";
        one("holdfast_standby_reads_passed_on", "counter", help, passed_on);
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
            let tries = self.backup_failed_tries.get() as f64;
            let help = "Tries in a row that made no proven snapshot, of the plan where these are most.";
            one("holdfast_backup_failed_tries", "gauge", help, tries);
        }
        let paused = f64::from(u8::from(now.clock_apart_secs.is_some()));
        one("holdfast_expiry_paused", "gauge", "1 while mass expiry waits for the clock.", paused);
        let apart = now.clock_apart_secs.unwrap_or(0) as f64;
        one("holdfast_clock_apart_seconds", "gauge", "How far the wall clock jumped ahead or back.", apart);
        one("holdfast_clock_pauses", "counter", "Times that the wall clock jumped.", now.clock_pauses as f64);
        one("holdfast_key_slots_total", "gauge", "Slots of locked key memory.", now.key_slots_total as f64);
        let mut by_mount = |name: &str, help: &str, value: fn(&OfMount) -> i64| {
            let shown = now.leases.by_mount.iter().filter(|of| value(of) > 0);
            page.series((name, "gauge", help), shown.map(|of| (vec![("mount", of.path.as_str())], value(of) as f64)));
        };
        by_mount("holdfast_leases", "Live leases of a mount.", |of| of.live);
        by_mount("holdfast_leases_ending_by_mount", "Those whose end has begun.", |of| of.ending);
        by_mount("holdfast_leases_irrevocable_by_mount", "Those that were given up: see sys/leases.", |of| {
            i64::try_from(of.irrevocable).unwrap_or(i64::MAX)
        });
        self.request_times(&mut page);
        audit_devices(&mut page, &now.audit);
        seals(&mut page, &now.seals);
        devices(&mut page, &now.devices.iter().map(|device| device.figures()).collect::<Vec<_>>());
        if let Some(members) = &now.members {
            cluster(&mut page, members);
        }
        if let Some(usage) = &now.usage {
            counted(&mut page, usage);
        }
        process::write(&mut page);
        page.0
    }

    fn request_times(&self, page: &mut Page) {
        page.times("vault_core_handle_request", "Milliseconds of requests.", &self.requests);
        page.times("vault_core_handle_login_request", "Milliseconds of logins.", &self.logins);
        page.times(
            "vault_audit_log_request",
            "Milliseconds until lines of requests are written.",
            &self.audit.requests,
        );
        page.times("vault_audit_log_response", "The same for responses.", &self.audit.responses);
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let results = classes.iter().zip(&self.by_status).map(|(class, n)| (vec![("class", *class)], n.get() as f64));
        page.series(("holdfast_request_results", "counter", "Requests by the status of their answers."), results);
    }
}

fn audit_devices(page: &mut Page, all: &[AuditDevice]) {
    let labels = |d: &'_ AuditDevice| -> Vec<(&'static str, String)> {
        vec![("device", d.path.clone()), ("type", d.kind.to_owned())]
    };
    let named: Vec<(Vec<(&'static str, String)>, &AuditDevice)> = all.iter().map(|d| (labels(d), d)).collect();
    let mut of = |name: &str, kind: &str, help: &str, value: fn(&AuditDevice) -> Option<f64>| {
        let shown = named.iter().filter_map(|(labels, d)| Some((borrowed(labels), value(d)?)));
        page.series((name, kind, help), shown);
    };
    of("holdfast_audit_device_lines", "counter", "Lines that a device took.", |d| Some(d.figures.lines.get() as f64));
    of("holdfast_audit_device_failures", "counter", "Times that a device refused.", |d| {
        Some(d.figures.refused.get() as f64)
    });
    of("holdfast_audit_device_failing", "gauge", "1 while a device refuses lines.", |d| {
        Some(f64::from(u8::from(d.figures.is_failing())))
    });
    of("holdfast_audit_device_queue", "gauge", "Writes that wait to be sent.", |d| Some(d.waiting.0 as f64));
    of("holdfast_audit_device_queue_bytes", "gauge", "Their bytes.", |d| Some(d.waiting.1 as f64));
    of("holdfast_audit_disk_used_percent", "gauge", "Of the disk of a file or a spool, what is in use.", |d| {
        Some(d.figures.disk()?.used_percent as f64)
    });
    of("holdfast_audit_disk_free_bytes", "gauge", "What is left of it for the server.", |d| {
        Some(d.figures.disk()?.free_bytes as f64)
    });
    of("holdfast_audit_unsealed_lines", "gauge", "Lines of a file that no checkpoint seals yet.", |d| {
        Some(d.figures.unsealed()? as f64)
    });
    of("holdfast_audit_spool_lines", "gauge", "Lines in a spool that may not have arrived at the peer.", |d| {
        Some(d.spool?.lines as f64)
    });
    of("holdfast_audit_spool_bytes", "gauge", "Their bytes.", |d| Some(d.spool?.bytes as f64));
    of("holdfast_audit_spool_max_bytes", "gauge", "Bytes that a spool has room for.", |d| {
        Some(d.spool?.max_bytes as f64)
    });
    of("holdfast_audit_spool_used_percent", "gauge", "Of a spool's room, what is in use.", |d| {
        Some(d.spool?.used_percent as f64)
    });
    of("holdfast_audit_spool_oldest_seconds", "gauge", "Age of the oldest line that the peer was not handed.", |d| {
        Some(d.spool?.oldest_secs as f64)
    });
    of("holdfast_audit_spool_peer_failures", "counter", "Times that a peer did not take a line of the spool.", |d| {
        d.spool.map(|_| d.figures.peer_failures.get() as f64)
    });
    let help = "Milliseconds until a file or a spool has a write, or a peer.";
    let writes = named.iter().map(|(labels, d)| (borrowed(labels), &d.figures.writes));
    page.times_of(("holdfast_audit_device_write", help), writes);
    let syncs = named.iter().map(|(labels, d)| (borrowed(labels), &d.figures.syncs));
    let syncs = syncs.filter(|(_, times)| times.count.get() > 0);
    page.times_of(("holdfast_audit_device_sync", "Milliseconds until the disk has what was written."), syncs);
}

/// How the seals' devices are. The only seal's has no label where it has no name.
fn seals(page: &mut Page, all: &[Arc<Seal>]) {
    let labels = |seal: &Seal| seal.name.iter().map(|name| ("seal", name.clone())).collect::<Vec<_>>();
    let named: Vec<(Vec<(&'static str, String)>, &Seal)> = all.iter().map(|seal| (labels(seal), &**seal)).collect();
    let mut of = |name: &str, kind: &str, help: &str, value: fn(&Seal) -> f64| {
        page.series((name, kind, help), named.iter().map(|(labels, seal)| (borrowed(labels), value(seal))));
    };
    of("holdfast_seal_device_healthy", "gauge", "1 if the seal's device opened its lock when asked last.", |seal| {
        f64::from(u8::from(seal.seen().unhealthy.is_none()))
    });
    of("holdfast_seal_device_check_seconds", "gauge", "How long the last check of the seal's device took.", |seal| {
        seal.seen().took.as_secs_f64()
    });
    of("holdfast_seal_device_failures", "counter", "Calls of the seal's device that failed.", |seal| {
        seal.figures().failures.get() as f64
    });
    let help = "Calls that did not get to the seal's device: it was away, or too busy.";
    of("holdfast_seal_device_refused", "counter", help, |seal| seal.figures().refused.get() as f64);
    let calls = named.iter().map(|(labels, seal)| (borrowed(labels), &seal.figures().calls));
    page.times_of(("holdfast_seal_device_calls", "Milliseconds of calls to the seal's device."), calls);
}

fn devices(page: &mut Page, all: &[Device<'_>]) {
    let labels = |d: &Device<'_>| vec![("device", d.name.to_owned()), ("type", d.kind.to_owned())];
    let named: Vec<(Vec<(&'static str, String)>, &Device<'_>)> = all.iter().map(|d| (labels(d), d)).collect();
    let mut of = |name: &str, kind: &str, help: &str, value: fn(&Device<'_>) -> f64| {
        page.series((name, kind, help), named.iter().map(|(labels, d)| (borrowed(labels), value(d))));
    };
    of("holdfast_device_healthy", "gauge", "1 if the device did what it was asked last.", |d| {
        f64::from(u8::from(d.healthy))
    });
    of(
        "holdfast_device_failures",
        "counter",
        "Calls that failed since the device did not answer, or refused all.",
        |d| d.failures as f64,
    );
    of("holdfast_device_refused", "counter", "Calls that did not get to the device: it was away, or too busy.", |d| {
        d.refused as f64
    });
    let calls = named.iter().map(|(labels, d)| (borrowed(labels), d.calls));
    page.times_of(("holdfast_device_calls", "Milliseconds of calls to a device."), calls);
}

fn borrowed<'l>(labels: &'l [(&'static str, String)]) -> Vec<(&'l str, &'l str)> {
    labels.iter().map(|(k, v)| (*k, v.as_str())).collect()
}

fn cluster(page: &mut Page, members: &Members) {
    page.one("holdfast_raft_committed_index", "gauge", "Last committed log index.", members.committed as f64);
    let behind = members.committed.saturating_sub(members.applied) as f64;
    page.one("holdfast_raft_entries_behind", "gauge", "Committed entries that this node has not applied.", behind);
    if members.healthy.is_empty() {
        return;
    }
    let all = members.healthy.iter().all(|(_, healthy)| *healthy);
    page.one("vault_autopilot_healthy", "gauge", "1 while all members are healthy.", f64::from(u8::from(all)));
    let tolerance = members.tolerance as f64;
    page.one("vault_autopilot_failure_tolerance", "gauge", "Voters that may fail.", tolerance);
    page.one("vault_raft_peers", "gauge", "Members of the cluster.", members.healthy.len() as f64);
    let each = members.healthy.iter().map(|(id, h)| (vec![("node_id", id.as_str())], f64::from(u8::from(*h))));
    page.series(("vault_autopilot_node_healthy", "gauge", "1 while a member is healthy."), each);
}

/// A namespace as labels name it.
fn shown(path: &str) -> &str {
    if path.is_empty() { "root" } else { path }
}

fn counted(page: &mut Page, usage: &Usage) {
    let entities = usage.entities as f64;
    page.one("vault_identity_num_entities", "gauge", "Entities, as of the last count.", entities);
    let aliases = usage.entity_aliases as f64;
    page.one("vault_identity_entity_alias_count", "gauge", "Aliases of entities.", aliases);
    let mut all = |name: &str, help: &str, label: &'static str, counts: &Counts| {
        let each =
            counts.iter().map(|((path, of), n)| (vec![("namespace", shown(path)), (label, of.as_str())], *n as f64));
        page.series((name, "gauge", help), each);
    };
    all("vault_secret_kv_count", "Secrets of kv mounts.", "mount_point", &usage.secrets);
    if let Some(tokens) = &usage.tokens {
        all("vault_token_count_by_policy", "Tokens that have a policy.", "policy", &tokens.by_policy);
        all("vault_token_count_by_auth", "Tokens by the method that gave them.", "auth_method", &tokens.by_auth);
        all("vault_token_count_by_ttl", "Tokens by their TTL when they were made.", "creation_ttl", &tokens.by_ttl);
    }
}
