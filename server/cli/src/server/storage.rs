//! The store, as the configuration describes it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_cluster::recover::Recovery;
use holdfast_cluster::{KeyKept, Node, Set};
use holdfast_config::{Config, Listener, MinFreeDisk, RaftStorage, Storage};
use holdfast_core::auto_join;
use holdfast_core::cluster::{JoinFrom, JoinSecret};
use holdfast_core::{Node as Addresses, RecoveryStore};
use holdfast_hsm::memory::Secret;
use holdfast_http::Address;
use holdfast_storage::{KeepFree, Options, Store};

use super::listeners::Planned;

/// Where members listen if nothing says so: at the port behind the API's.
const CLUSTER_PORT: u16 = 8201;

/// An open store.
pub struct Opened {
    pub store: Store,
    pub storage_type: &'static str,
    pub max_entry_bytes: usize,
    /// The cluster that it is one of.
    pub member: Option<Arc<Node>>,
}

pub async fn open(config: &Config, planned: &[Planned], addresses: &Addresses, key: KeyKept) -> Result<Opened, String> {
    let limit = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let single = |folder, storage_type, max_entry_bytes| {
        let store =
            Store::open(&Options { folder, max_entry_bytes, keep_free: KeepFree::Usual }).map_err(|e| e.to_string())?;
        Ok(Opened { store, storage_type, max_entry_bytes, member: None })
    };
    match &config.storage {
        Some(Storage::Raft(raft)) => member(config, raft, planned, (addresses, key)).await,
        Some(Storage::File { path }) => single(Some(path.clone()), "file", limit(config.max_entry_size_bytes)),
        // In memory the request's size is the limit.
        _ => single(None, "inmem", usize::MAX),
    }
}

/// A store that is to be repaired, and whether it can be written. Of a cluster's members none is asked: where there are
/// others, what one of them alone writes is not the cluster's.
pub async fn open_to_repair(
    config: &Config,
    planned: &[Planned],
    addresses: &Addresses,
    key: KeyKept,
) -> Result<(Opened, RecoveryStore), String> {
    let Some(Storage::Raft(raft)) = &config.storage else {
        return Ok((open(config, planned, addresses, key).await?, RecoveryStore::Writable));
    };
    let found = Recovery::open(&raft.path)?;
    let others: Vec<String> = found.others().map(|m| m.id.clone()).collect();
    drop(found);
    let set = member_set(config, raft, addresses, key);
    let max_entry_bytes = set.max_entry_bytes;
    if others.is_empty() {
        // Nobody else can hear it, and it listens for nobody.
        let (store, node) = Node::open(set).await?;
        return Ok((
            Opened { store, storage_type: "raft", max_entry_bytes, member: Some(node) },
            RecoveryStore::Writable,
        ));
    }
    let options =
        Options { folder: Some(raft.path.clone()), max_entry_bytes, keep_free: keep_free(raft.min_free_disk) };
    let (store, _) = Store::open_member(&options).map_err(|e| e.to_string())?;
    let why = format!(
        "this node is one of several ({}), and what it writes alone would not be theirs: its store can be read. To write, \
         stop all nodes and let this one go on alone first (operator raft recover -alone); the others join anew after it",
        others.join(", ")
    );
    tracing::warn!("{why}");
    Ok((Opened { store, storage_type: "raft", max_entry_bytes, member: None }, RecoveryStore::ReadOnly(why)))
}

fn member_set(config: &Config, raft: &RaftStorage, addresses: &Addresses, key: KeyKept) -> Set {
    let bytes = raft.max_entry_size_bytes.unwrap_or(config.max_entry_size_bytes);
    Set {
        path: raft.path.clone(),
        node_id: raft.node_id.clone(),
        cluster_addr: host_and_port(&addresses.cluster_addr),
        api_addr: addresses.api_addr.clone(),
        max_entry_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        performance_multiplier: raft.performance_multiplier,
        snapshot_threshold: raft.snapshot_threshold,
        trailing_logs: raft.trailing_logs,
        trailing_log_bytes: raft.trailing_log_bytes,
        keep_free: keep_free(raft.min_free_disk),
        autopilot_every: raft.autopilot_reconcile_interval,
        standby_reads: raft.standby_reads,
        stale_reads: raft.stale_reads,
        key,
    }
}

pub fn keep_free(min_free: Option<MinFreeDisk>) -> KeepFree {
    match min_free {
        None => KeepFree::Usual,
        Some(MinFreeDisk::Bytes(bytes)) => KeepFree::Bytes(bytes),
        Some(MinFreeDisk::Percent(percent)) => KeepFree::Percent(percent),
    }
}

async fn member(
    config: &Config,
    raft: &RaftStorage,
    planned: &[Planned],
    (addresses, key): (&Addresses, KeyKept),
) -> Result<Opened, String> {
    let set = member_set(config, raft, addresses, key);
    let max_entry_bytes = set.max_entry_bytes;
    let (store, node) = Node::open(set).await?;
    if let Some(address) = listens_at(config, planned).filter(|_| !config.disable_clustering) {
        // Clients are served meanwhile: a node that is alone needs nobody to hear it.
        if let Err(e) = node.listen(address).await {
            tracing::error!("{e}; it is tried again");
            tokio::spawn(listen_later(Arc::downgrade(&node), address));
        }
    }
    Ok(Opened { store, storage_type: "raft", max_entry_bytes, member: Some(node) })
}

pub fn host_and_port(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port || rest.is_empty() { rest.to_owned() } else { format!("{rest}:{CLUSTER_PORT}") }
}

/// The nodes that a new node asks to be let in, and whether it stays without a vote.
pub fn joins(config: &Config) -> Result<(Vec<JoinFrom>, bool), String> {
    let Some(Storage::Raft(raft)) = &config.storage else { return Ok((Vec::new(), false)) };
    let text = |path: &Option<PathBuf>| -> Result<Option<String>, String> {
        let read = |p: &PathBuf| std::fs::read_to_string(p).map_err(|e| format!("retry_join: {}: {e}", p.display()));
        path.as_ref().map(read).transpose()
    };
    let mut all = Vec::new();
    for join in &raft.retry_join {
        let found = match &join.auto_join {
            Some((text, scheme, port)) => {
                auto_join::addresses(text, scheme.as_deref(), *port).map_err(|e| format!("retry_join: {e}"))?
            }
            None => vec![join.leader_api_addr.clone()],
        };
        let one = JoinFrom {
            api_addr: String::new(),
            tls_servername: join.leader_tls_servername.clone(),
            ca_cert: match &join.leader_ca_cert {
                Some(pem) => Some(pem.clone()),
                None => text(&join.leader_ca_cert_file)?,
            },
            client_cert: text(&join.leader_client_cert_file)?,
            client_key: text(&join.leader_client_key_file)?,
            join_token: join.join_token_file.as_deref().and_then(join_token),
        };
        all.extend(found.into_iter().map(|api_addr| JoinFrom { api_addr, ..one.clone() }));
    }
    Ok((all, raft.retry_join_as_non_voter))
}

/// A token that was used is of no use any more: its file may be gone.
fn join_token(path: &std::path::Path) -> Option<JoinSecret> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(JoinSecret(Arc::new(Secret::new(text))))
}

/// The URL at which other members reach this node; empty where there are no others.
pub fn cluster_url(config: &Config, planned: &[Planned]) -> String {
    if let Some(url) = &config.cluster_addr {
        // Whatever is written, members speak TLS.
        return format!("https://{}", host_and_port(url));
    }
    match (&config.storage, listens_at(config, planned)) {
        (Some(Storage::Raft(_)), Some(address)) => format!("https://{address}"),
        _ => String::new(),
    }
}

/// Where this node listens for other members: `cluster_address` of the first listener, or the port behind its own.
pub fn listens_at(config: &Config, planned: &[Planned]) -> Option<SocketAddr> {
    let said = config.listeners.iter().find_map(|l| match l {
        Listener::Tcp(t) => t.cluster_address.as_deref(),
        Listener::Unix(_) => None,
    });
    let own = planned.iter().find_map(|p| match p.address {
        Address::Tcp(address) => Some(address),
        Address::Unix { .. } => None,
    });
    match (said.and_then(|s| s.parse().ok()), own) {
        (Some(said), _) => Some(said),
        (None, Some(own)) => Some(SocketAddr::new(own.ip(), own.port().checked_add(1).unwrap_or(CLUSTER_PORT))),
        (None, None) => None,
    }
}

async fn listen_later(node: std::sync::Weak<Node>, address: std::net::SocketAddr) {
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let Some(node) = node.upgrade() else { return };
        if node.listen(address).await.is_ok() {
            return;
        }
    }
}
