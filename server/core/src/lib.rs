#![forbid(unsafe_code)]
//! The request pipeline, and everything that a server is beside its engines.
//!
//! A request goes through [`Core::handle`]: token → policy → audit request → route → prepare →
//! transaction → commit → audit response → answer. What answers in every state (health, seal
//! status, init, unseal) is in [`bare`].

mod answer;
pub mod audit;
pub mod auto_join;
mod auto_unseal;
mod autopilot;
mod background;
mod backups;
pub mod bare;
mod body;
mod cache;
mod calls;
mod caught;
pub mod ceremony;
mod chores;
pub mod clock;
pub mod cluster;
mod compaction;
mod cubbyhole;
mod custodians;
mod departure;
pub mod devices;
mod entropy;
mod expiry;
pub mod failpoint;
mod feature_level;
mod handle;
mod identity;
mod in_flight;
pub mod index;
mod init;
mod intents;
mod jobs;
mod join;
mod join_token;
mod last_opened;
mod last_use;
pub mod layout;
mod leases;
mod lock_owners;
mod lockout;
pub mod log;
mod logins;
pub mod managed_keys;
pub mod metrics;
mod mfa;
mod moves;
mod names;
mod namespaces;
mod new_keys;
mod old_routes;
mod open;
mod open_api;
mod outbound;
mod policies;
mod profile;
mod questions;
mod quotas;
pub mod random;
mod reading;
mod rollback;
mod router;
mod seal_health;
mod seal_migration;
mod seal_plan;
mod seal_state;
mod seals;
mod seals_elsewhere;
pub mod settings;
mod snapshot;
mod standing;
mod sync;
mod sys;
mod targets;
#[cfg(test)]
mod testing;
mod tokens;
mod tx;
mod undo;
mod unions;
mod usage;
mod wrapping;

pub use answer::Answer;
pub use body::parse_body;
pub use handle::{Begun, Here, is_of_root_alone};
pub use init::{InitRequest, Initialised};
pub use lockout::UserLockout;
pub use old_routes::OldRoutes;
pub use router::Lockout;
pub use router::{EngineTable, Factory, MountEntry};
pub use seal_state::Refusal;
pub use seals::{Seal, SealSource, Seals};
pub use snapshot::inspect as inspect_snapshot;
pub use standing::{Standing, free_bytes};
pub use sys::raft::ARCHIVE;
pub use tokens::{SYSTEM_TTL_SECS, TtlLimits};

pub(crate) use open::Open;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use holdfast_sdk::{Backend, Error, Map, Place, Result, Timestamp, Transaction, Value};
use holdfast_seal::Barrier;
use holdfast_storage::{CommitError, Proposal, Store, View, Write};

use crate::clock::{Clock, Clocks, SystemClocks};
use crate::router::{Mount, Router};
use crate::tx::Tx;

/// How often a transaction is run before the server gives up.
const ATTEMPTS: usize = 64;

/// What the server is made of and how it is set up.
pub struct Options {
    pub store: Store,
    pub engines: EngineTable,
    /// What opens the store, by the configuration.
    pub seals: Seals,
    /// Reads that part of the configuration again.
    pub seal_source: Option<Arc<dyn SealSource>>,
    /// Devices that hold keys, by name.
    pub devices: Vec<devices::Declared>,
    /// `inmem`, `file`, `raft`.
    pub storage_type: String,
    /// The cluster that the store is one of.
    pub cluster: Option<Arc<dyn cluster::Cluster>>,
    /// Devices that the configuration declares.
    pub audit: Vec<audit::DeviceConfig>,
    pub audit_rules: audit::Rules,
    pub limits: TtlLimits,
    /// From the configuration; else a random one is made at initialisation.
    pub cluster_name: Option<String>,
    pub max_entry_bytes: usize,
    pub endpoints: Endpoints,
    pub user_lockout: Vec<UserLockout>,
    pub log: Arc<log::Log>,
    /// The configuration as `sys/config/state/sanitized` shows it: without secrets.
    pub shown_config: Map<String, Value>,
    /// The server is there to repair its store, and for nothing else.
    pub recovery_mode: Option<RecoveryStore>,
}

/// What recovery mode may do with the store.
#[derive(Debug, Clone)]
pub enum RecoveryStore {
    Writable,
    /// Why nothing can be written.
    ReadOnly(String),
}

/// Routes that are there only where the configuration says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Endpoints {
    /// `introspection_endpoint`: `sys/internal/inspect`.
    pub introspection: bool,
    /// `raw_storage_endpoint`: `sys/raw`.
    pub raw_storage: bool,
}

/// A server.
pub struct Core {
    pub(crate) store: Store,
    pub(crate) options: Settings,
    node: std::sync::OnceLock<Node>,
    /// Set while the server is unsealed.
    open: ArcSwapOption<Open>,
    /// What a node that stands by reads with.
    pub(crate) readers: reading::Readers,
    pub(crate) seal: seal_state::SealState,
    /// The seals that the configuration names now.
    seals: ArcSwap<Seals>,
    pub(crate) seal_health: seal_health::SealHealth,
    pub devices: Arc<devices::Devices>,
    pub(crate) recovery_mode: Option<ceremony::RecoveryMode>,
    pub(crate) standings: standing::Standings,
    pub(crate) watched: autopilot::Watched,
    pub(crate) joins: join::Joins,
    pub metrics: metrics::Metrics,
    pub log: Arc<log::Log>,
    pub(crate) in_flight: in_flight::InFlight,
    pub(crate) rollback: rollback::Rollback,
    pub(crate) last_opened: last_opened::LastOpened,
    pub(crate) clock: Clock,
    /// Acts outside that are under way.
    pub(crate) targets: Arc<targets::Targets>,
    pub(crate) lockouts: lockout::Lockouts,
    /// New keys have the bytes of a seal's device in them.
    pub(crate) mixes_entropy: std::sync::atomic::AtomicBool,
    /// The key in a device that signs checkpoints of audit files, if the configuration names one.
    pub(crate) audit_key: ArcSwapOption<audit::signing::InDevice>,
    /// Woken when enough lines wait for its signature.
    pub(crate) audit_waits: Arc<tokio::sync::Notify>,
    /// Woken when an intent is to be undone.
    pub(crate) intent_due: Arc<tokio::sync::Notify>,
    #[cfg(feature = "failpoints")]
    pub failpoints: failpoint::Failpoints,
    /// Woken when a job was stored.
    pub(crate) job_stored: Arc<tokio::sync::Notify>,
    /// Tells those who wait for a job that one is done.
    pub(crate) job_done: tokio::sync::Notify,
    /// Woken when the server was sealed: connections end after their answer.
    pub sealed: tokio::sync::Notify,
    /// Raised at every seal.
    pub seal_count: AtomicU64,
}

/// Where others reach this node, as the configuration says.
#[derive(Debug, Default)]
pub struct Node {
    pub api_addr: String,
    pub cluster_addr: String,
}

/// [`Options`] without the store.
pub struct Settings {
    pub engines: EngineTable,
    pub seal_source: Option<Arc<dyn SealSource>>,
    pub storage_type: String,
    pub cluster: Option<Arc<dyn cluster::Cluster>>,
    /// Devices that the configuration declares now.
    pub audit: ArcSwap<Vec<audit::DeviceConfig>>,
    pub audit_rules: audit::Rules,
    pub limits: TtlLimits,
    pub cluster_name: Option<String>,
    pub max_entry_bytes: usize,
    pub endpoints: Endpoints,
    pub shown_config: Map<String, Value>,
}

impl Core {
    pub fn new(options: Options) -> Arc<Core> {
        Core::with_clocks(options, Arc::new(SystemClocks))
    }

    /// A server whose clocks are these: tests move them.
    pub fn with_clocks(options: Options, clocks: Arc<dyn Clocks>) -> Arc<Core> {
        let settings = Settings {
            engines: options.engines,
            seal_source: options.seal_source,
            storage_type: options.storage_type,
            cluster: options.cluster,
            audit: ArcSwap::from_pointee(options.audit),
            audit_rules: options.audit_rules,
            limits: options.limits,
            cluster_name: options.cluster_name,
            max_entry_bytes: options.max_entry_bytes,
            endpoints: options.endpoints,
            shown_config: options.shown_config,
        };
        let node = settings.cluster.as_ref().map(|cluster| cluster.node_id().to_owned());
        let core = Arc::new(Core {
            rollback: rollback::Rollback::of(&options.store),
            last_opened: last_opened::LastOpened::of(&options.store),
            store: options.store,
            options: settings,
            node: std::sync::OnceLock::new(),
            open: ArcSwapOption::empty(),
            readers: reading::Readers::default(),
            seal: seal_state::SealState::default(),
            seals: ArcSwap::from_pointee(options.seals),
            seal_health: seal_health::SealHealth::default(),
            devices: Arc::new(devices::Devices::new(options.devices, node.as_deref())),
            recovery_mode: options.recovery_mode.map(ceremony::RecoveryMode::new),
            standings: standing::Standings::default(),
            watched: autopilot::Watched::default(),
            joins: join::Joins::default(),
            metrics: metrics::Metrics::default(),
            log: options.log,
            in_flight: in_flight::InFlight::default(),
            clock: Clock::new(clocks),
            targets: Arc::default(),
            lockouts: lockout::Lockouts::new(options.user_lockout),
            audit_key: ArcSwapOption::empty(),
            audit_waits: Arc::default(),
            mixes_entropy: false.into(),
            intent_due: Arc::default(),
            #[cfg(feature = "failpoints")]
            failpoints: failpoint::Failpoints::default(),
            job_stored: Arc::default(),
            job_done: tokio::sync::Notify::new(),
            sealed: tokio::sync::Notify::new(),
            seal_count: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&core);
        core.store.on_applied(Box::new(move |keys, index| {
            let Some(core) = weak.upgrade() else { return };
            core.locks_may_have_changed(keys, index);
            core.namespaces_may_be_sealed(keys, index);
            core.readers.hear(keys, index);
            if let Some(open) = &*core.open.load() {
                open.invalidate(keys, index);
            }
        }));
        core
    }

    /// The seals that the configuration names now.
    pub fn seals(&self) -> Arc<Seals> {
        self.seals.load_full()
    }

    /// The configuration names these seals by now. From shares to a device or back goes by a restart alone.
    pub fn declare_seals(&self, seals: Seals) {
        let present = self.seals();
        let same = |a: &Option<Arc<Seal>>, b: &Option<Arc<Seal>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let is_same = seals.present.len() == present.present.len()
            && seals.present.iter().zip(&present.present).all(|(a, b)| Arc::ptr_eq(a, b))
            && same(&seals.former, &present.former);
        if is_same {
            return;
        }
        if present.present.is_empty() || seals.present.is_empty() {
            tracing::warn!(
                "whether shares or a device open the store is another in the configuration: it counts at a restart"
            );
            return;
        }
        let names: Vec<&str> = seals.present.iter().map(|seal| seal.shown()).collect();
        tracing::info!(
            seals = names.join(", "),
            "the configuration names other seals: operator seal rewrap brings the locks in line"
        );
        self.seals.store(Arc::new(seals));
    }

    /// Whether a device opens the store, by the configuration.
    pub(crate) fn has_device(&self) -> bool {
        self.seals.load().have_a_device()
    }

    /// Say where this node is reached; the first word counts.
    pub fn set_node(&self, node: Node) {
        let _first_counts = self.node.set(node);
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.get_or_init(Node::default)
    }

    /// What there is while this node is unsealed and active.
    pub(crate) fn open(&self) -> Option<Arc<Open>> {
        self.open.load_full()
    }

    /// Run a transaction to its commit; `run` may be called several times.
    pub(crate) async fn transact<R>(&self, open: &Open, mut run: impl FnMut(&mut Tx) -> Result<R>) -> Result<R> {
        let mut contended: Vec<holdfast_storage::Key> = Vec::new();
        // Nobody took the last try, for want of room.
        let mut crowded = None;
        for attempt in 0..ATTEMPTS {
            let latch = if contended.is_empty() { None } else { Some(self.store.latch(&contended).await) };
            let view = if latch.is_some() { self.store.view_in_flight() } else { self.store.view() };
            match self.attempt(open, view, &mut run) {
                Ok((result, ticket, wakes)) => {
                    // The next one may go on: it reads what this one proposed.
                    drop(latch);
                    failpoint::failpoint!(self, "proposed");
                    match ticket {
                        None => return result,
                        Some(t) => match t.committed().await {
                            Ok(_) => {
                                failpoint::failpoint!(self, "committed");
                                self.wake(&wakes);
                                return result;
                            }
                            Err(CommitError::Retry | CommitError::Conflict(_)) => {}
                            Err(e) => return Err(self.not_committed(e)),
                        },
                    }
                }
                Err(CommitError::Conflict(keys)) => {
                    self.metrics.conflicts.add(1);
                    if keys.iter().any(|k| contended.contains(k)) {
                        // In spite of the latch: the caller's rights stand on what is applied.
                        drop(latch);
                        self.what_is_in_flight().await;
                    }
                    for key in keys {
                        if !contended.contains(&key) {
                            contended.push(key);
                        }
                    }
                }
                Err(e @ (CommitError::Retry | CommitError::Crowded(_))) => {
                    drop(latch);
                    crowded = Some(e).filter(|e| matches!(e, CommitError::Crowded(_)));
                    tokio::time::sleep(std::time::Duration::from_millis(1 << attempt.min(6))).await;
                }
                Err(e) => return Err(self.not_committed(e)),
            }
        }
        Err(crowded.map_or(Error::Conflict, |e| self.not_committed(e)))
    }

    fn not_committed(&self, e: CommitError) -> Error {
        if matches!(e, CommitError::Full(_) | CommitError::Failed(_) | CommitError::Unknown(_)) {
            self.metrics.commit_failures.add(1);
        }
        commit_failure(e)
    }

    /// Wait until all that is in flight now is applied, or has failed.
    async fn what_is_in_flight(&self) {
        let nothing = Proposal { view_index: self.store.view_in_flight().index(), ..Proposal::default() };
        if let Ok(ticket) = self.store.propose(nothing) {
            let _either = ticket.committed().await;
        }
    }

    /// One run: the handler's result, and the ticket to wait for before it may be answered.
    fn attempt<R>(
        &self,
        open: &Open,
        view: View,
        run: &mut impl FnMut(&mut Tx) -> Result<R>,
    ) -> Result<(Result<R>, Option<holdfast_storage::Ticket>, Vec<tx::Effect>), CommitError> {
        let in_flight = view.sees_in_flight();
        let mut tx = Tx::new(view, Barrier::clone(&open.barrier.load()))
            .cached(&open.opened)
            .with_devices(&self.devices)
            .with_wall_ahead(self.clock.wall_ahead());
        let result = run(&mut tx);
        let effects = tx.take_effects();
        let failed = result.is_err();
        if (failed || !tx.writes_anything()) && !in_flight {
            return Ok((result, None, Vec::new()));
        }
        let mut proposal = match tx.into_proposal() {
            Ok(proposal) => proposal,
            // Its namespace was sealed meanwhile: nothing is written.
            Err(e @ Error::Unavailable(_)) => return Ok((Err(e), None, Vec::new())),
            Err(e) => return Err(CommitError::Failed(e.to_string())),
        };
        if failed {
            // What it read must still be true before anybody is told about the failure.
            proposal.writes.clear();
        }
        if !proposal.writes.is_empty()
            && let Some(now) = self.clock.stamp()
        {
            proposal.writes.push(stamp(open, now)?);
        }
        let ticket = self.store.propose(proposal)?;
        let wakes = if failed { Vec::new() } else { effects };
        Ok((result, Some(ticket), wakes))
    }

    /// Those who wait for what was committed.
    fn wake(&self, effects: &[tx::Effect]) {
        if effects.contains(&tx::Effect::RunJobs) {
            self.job_stored.notify_one();
        }
        if effects.contains(&tx::Effect::Undo) {
            self.intent_due.notify_one();
        }
    }

    /// A mount of a namespace. What did not change since `before` is kept, and what all namespaces have is `shared`.
    pub(crate) fn mount_of(
        self: &Arc<Self>,
        namespace: layout::NamespaceId,
        entry: MountEntry,
        before: &Router,
        shared: Option<&Router>,
    ) -> Result<Mount> {
        let full_path = entry.full_path();
        let made = || {
            let of_kind = |m: &&Arc<Mount>| m.entry.is_built_in() && m.entry.kind == entry.kind;
            before.mounts().chain(shared.into_iter().flat_map(Router::mounts)).find(of_kind).map(|m| &m.handler)
        };
        let handler = match (entry.kind.as_str(), entry.auth) {
            ("system", false) => match made() {
                Some(router::Handler::System(b, routes)) => router::Handler::System(b.clone(), routes.clone()),
                _ => sys::handler(Arc::downgrade(self), self.options.cluster.is_some()),
            },
            ("token", true) => {
                let routes = match made() {
                    Some(router::Handler::Token(_, routes)) => Some(routes.clone()),
                    _ => None,
                };
                tokens::handler(Arc::downgrade(self), entry.limits(self.options.limits), routes)
            }
            ("identity", false) => match made() {
                Some(router::Handler::Identity(b, routes)) => router::Handler::Identity(b.clone(), routes.clone()),
                _ => identity::handler(Arc::downgrade(self)),
            },
            ("cubbyhole", false) => match made() {
                Some(router::Handler::Engine(e)) => router::Handler::Engine(e.clone()),
                _ => router::Handler::Engine(Arc::new(cubbyhole::Cubbyhole::default())),
            },
            (kind, auth) => {
                let unchanged = |m: &&Arc<Mount>| {
                    m.entry.uuid == entry.uuid
                        && m.entry.options == entry.options
                        && m.entry.limits(self.options.limits) == entry.limits(self.options.limits)
                };
                let same = before.mounts().find(unchanged);
                match same.map(|m| &m.handler) {
                    Some(router::Handler::Engine(e)) => router::Handler::Engine(e.clone()),
                    _ => {
                        let factory = self.options.engines.factory(auth, kind).ok_or_else(|| {
                            Error::Internal(format!(
                                "the mount {full_path} is of type {kind:?}, which this program does not have"
                            ))
                        })?;
                        let effective = self.with_effective_limits(&entry);
                        router::Handler::Engine(factory(&effective).map_err(Error::Internal)?)
                    }
                }
            }
        };
        let scope = match entry.kind.as_str() {
            "system" if !entry.auth => layout::SYSTEM.of(namespace),
            "token" if entry.auth => layout::TOKENS.of(namespace),
            "cubbyhole" if !entry.auth => layout::CUBBYHOLE.of(namespace),
            _ => layout::Scope::mount(namespace, entry.uuid),
        };
        Ok(Mount {
            full_path,
            key: entry.key(namespace).into(),
            scope,
            handler,
            kind: entry.shown_kind(namespace),
            entry,
        })
    }

    /// The entry as an engine is made from it.
    pub(crate) fn with_effective_limits(&self, entry: &MountEntry) -> MountEntry {
        let limits = entry.limits(self.options.limits);
        MountEntry { default_ttl_secs: limits.default_secs, max_ttl_secs: limits.max_secs, ..entry.clone() }
    }

    /// An engine for a mount.
    pub(crate) fn backend(&self, entry: &MountEntry) -> Result<Arc<dyn Backend>> {
        let factory = self.options.engines.factory(entry.auth, &entry.kind).ok_or_else(|| {
            let (path, kind) = (entry.full_path(), &entry.kind);
            Error::Internal(format!("the mount {path} is of type {kind:?}, which this program does not have"))
        })?;
        factory(&self.with_effective_limits(entry)).map_err(Error::Internal)
    }

    /// Ends when the server is sealed or gone. It holds nothing of it.
    pub(crate) fn closing(&self, open: &Open) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = open.closed.subscribe();
        async move {
            let _sealed_or_gone = closed.wait_for(|is| *is).await;
        }
    }

    /// Let something go on until the server is sealed or gone; then it ends wherever it waits.
    pub(crate) fn while_open<F>(self: &Arc<Self>, open: &Arc<Open>, run: impl FnOnce(Weak<Core>, Weak<Open>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let closing = self.closing(open);
        let going_on = run(Arc::downgrade(self), Arc::downgrade(open));
        tokio::spawn(async move {
            tokio::select! {
                () = closing => {}
                () = going_on => {}
            }
        });
    }

    /// Finish what is in flight and close the store.
    pub fn shut_down(&self) {
        self.store.close();
    }

    /// Open audit files again, after a rotation.
    pub async fn reopen_audit(&self) {
        if let Some(open) = self.open() {
            open.audit.reopen().await;
        }
        self.readers.reopen_audit().await;
    }
}

/// The write that keeps cluster time.
fn stamp(open: &Open, now: Timestamp) -> Result<Write, CommitError> {
    let barrier = open.barrier.load();
    let mut key = layout::STORE.prefix().to_vec();
    key.push(layout::CLUSTER_TIME.0);
    let sealed = barrier.seal(&key, &now.0.to_be_bytes()).map_err(|e| CommitError::Failed(e.to_string()))?;
    Ok(Write::Put(key.into(), sealed.into()))
}

/// The cluster time that a store holds, if it ever did.
pub(crate) fn stored_time(tx: &mut Tx) -> Result<Option<Timestamp>> {
    let found = tx.within(layout::STORE, |tx| tx.get(Place::Ordered(layout::CLUSTER_TIME, &[])))?;
    Ok(found.and_then(|b| b.try_into().ok()).map(|b| Timestamp(u64::from_be_bytes(b))))
}

/// A commit that failed for good, as the client is told.
fn commit_failure(e: CommitError) -> Error {
    match e {
        CommitError::TooLarge { .. } => Error::Status(413, vec![e.to_string()]),
        CommitError::Refused(text) if text == "permission denied" => Error::PermissionDenied,
        CommitError::Refused(text) if text == "namespace is sealed" => Error::Unavailable(text),
        CommitError::Refused(text) => Error::bad_request(text),
        CommitError::Full(_) => Error::Status(507, vec![e.to_string()]),
        // Nothing was written; the one that leads now does it.
        CommitError::NotActive => Error::Status(503, vec!["this node is no longer the active one; try again".into()]),
        CommitError::Closed => Error::Unavailable("the server is shutting down".into()),
        CommitError::Conflict(_) | CommitError::Retry => Error::Conflict,
        CommitError::Unknown(_) | CommitError::Crowded(_) => Error::Status(503, vec![e.to_string()]),
        CommitError::Failed(_) => Error::Internal(e.to_string()),
    }
}
