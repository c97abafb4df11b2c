//! `storage`: where the server keeps what it keeps.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_hcl::Block;

use crate::listener::{positive, set};
use crate::size::size;
use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, NodeKey, Offer, Warning, node_key};

/// Where the server keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In memory, and nowhere after the end of the process.
    Inmem,
    /// In a folder, on one node.
    File {
        /// The folder.
        path: PathBuf,
    },
    /// In a folder of each node of a cluster.
    Raft(Box<RaftStorage>),
}

/// `storage "raft"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStorage {
    /// The folder of this node.
    pub path: PathBuf,
    /// The name of this node; `None`: one is made at the first start.
    pub node_id: Option<String>,
    /// 1 to 10: the larger, the longer a silent leader is waited for.
    pub performance_multiplier: u64,
    /// How many entries are kept behind a snapshot.
    pub trailing_logs: u64,
    /// The log is shortened where it has more bytes than this, whatever `trailing_logs` says; half of it stays.
    pub trailing_log_bytes: u64,
    /// After how many entries a snapshot is made.
    pub snapshot_threshold: u64,
    /// How often the cluster's members are looked after; `None`: as the server does it by itself.
    pub autopilot_reconcile_interval: Option<Duration>,
    /// What stays free of the disk; `None`: a twentieth, at most 1 GiB.
    pub min_free_disk: Option<MinFreeDisk>,
    /// The largest entry in bytes; `None`: the server's `max_entry_size`.
    pub max_entry_size_bytes: Option<u64>,
    /// Whether this node answers reads while it stands by.
    pub standby_reads: bool,
    /// For how long it may answer them from what it knows; zero: from what the active node says that it has to know.
    pub stale_reads: Duration,
    /// Join as a member that does not vote.
    pub retry_join_as_non_voter: bool,
    /// Nodes to join.
    pub retry_join: Vec<RetryJoin>,
    /// The key in a device that closes this node's; `None`: it lies in a file.
    pub node_key: Option<NodeKey>,
}

/// How much of the disk stays free: writes stop below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFreeDisk {
    /// `"2GiB"`
    Bytes(u64),
    /// `"5%"`, of the whole disk.
    Percent(u8),
}

/// `retry_join`: a node whose cluster is to be joined.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RetryJoin {
    /// Its API address; empty where `auto_join` names several.
    pub leader_api_addr: String,
    /// A text that names nodes, with the scheme and the port that they have in common.
    pub auto_join: Option<(String, Option<String>, Option<u64>)>,
    /// The name that its certificate must have.
    pub leader_tls_servername: Option<String>,
    /// The CA of its certificate, PEM.
    pub leader_ca_cert: Option<String>,
    /// A file with the CA.
    pub leader_ca_cert_file: Option<PathBuf>,
    /// A file with our client certificate.
    pub leader_client_cert_file: Option<PathBuf>,
    /// A file with its key.
    pub leader_client_key_file: Option<PathBuf>,
    /// A file with a join token, for a node with a device of its own.
    pub join_token_file: Option<PathBuf>,
}

impl Default for RaftStorage {
    fn default() -> RaftStorage {
        RaftStorage {
            path: PathBuf::new(),
            node_id: None,
            performance_multiplier: 5,
            trailing_logs: 10_000,
            trailing_log_bytes: 256 << 20,
            snapshot_threshold: 8192,
            autopilot_reconcile_interval: None,
            min_free_disk: None,
            max_entry_size_bytes: None,
            standby_reads: true,
            stale_reads: Duration::ZERO,
            retry_join_as_non_voter: false,
            retry_join: Vec::new(),
            node_key: None,
        }
    }
}

/// Two segments of the log.
const LEAST_LOG_BYTES: u64 = 32 << 20;

/// Reads one `storage` block.
pub(crate) fn read(
    top: &Stanza<'_>,
    block: &Block<'_>,
    offer: &Offer<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Storage, ConfigError> {
    let kind = block.label(0);
    let mut s = top.inner("storage", block);
    if !offer.storages.contains(&kind) {
        return Err(not_offered(&s, block, offer));
    }
    let storage = match kind {
        "inmem" => Storage::Inmem,
        "file" => Storage::File { path: folder(&mut s, None)? },
        "raft" => Storage::Raft(Box::new(raft(&mut s, offer, warnings)?)),
        _ => return Err(not_offered(&s, block, offer)),
    };
    s.finish(warnings);
    Ok(storage)
}

fn not_offered(s: &Stanza<'_>, block: &Block<'_>, offer: &Offer<'_>) -> ConfigError {
    let kind = ConfigErrorKind::NotOffered {
        what: "storage",
        name: block.label(0).to_owned(),
        offered: offer.storages.join(", "),
    };
    s.error(block.labels[0].position, kind)
}

fn raft(s: &mut Stanza<'_>, offer: &Offer<'_>, warnings: &mut Vec<Warning>) -> Result<RaftStorage, ConfigError> {
    let mut raft =
        RaftStorage { path: folder(s, offer.variable("RAFT_PATH").map(|(_, path)| path))?, ..RaftStorage::default() };
    let node_id = s.text("node_id")?;
    raft.node_id = offer.variable("RAFT_NODE_ID").map(|(_, id)| id).or(node_id);
    if let Some(multiplier) = s.number("performance_multiplier")? {
        if multiplier > 10 {
            return Err(s.wrong("performance_multiplier", &multiplier.to_string(), "a number from 1 to 10"));
        }
        // Zero stands for the default.
        set(&mut raft.performance_multiplier, (multiplier > 0).then_some(multiplier));
    }
    set(&mut raft.trailing_logs, s.number("trailing_logs")?);
    if let Some(bytes) = s.size("trailing_log_bytes")? {
        if bytes < LEAST_LOG_BYTES {
            return Err(s.wrong("trailing_log_bytes", &bytes.to_string(), "33554432 (32 MiB) or more"));
        }
        raft.trailing_log_bytes = bytes;
    }
    set(&mut raft.snapshot_threshold, s.number("snapshot_threshold")?);
    raft.autopilot_reconcile_interval = positive(s, "autopilot_reconcile_interval")?;
    raft.min_free_disk = min_free_disk(s)?;
    raft.max_entry_size_bytes = s.size("max_entry_size")?;
    set(&mut raft.standby_reads, s.bool("standby_reads")?);
    set(&mut raft.stale_reads, s.duration("stale_reads")?);
    set(&mut raft.retry_join_as_non_voter, s.bool("retry_join_as_non_voter")?);
    for block in s.blocks("retry_join", 0)? {
        let mut join = s.inner("retry_join", &block);
        raft.retry_join.push(retry_join(&mut join, warnings)?);
        join.finish(warnings);
    }
    raft.node_key = s.block("node_key")?.map(node_key::read).transpose()?;
    s.ignored(
        &[
            "autopilot_update_interval",
            "max_batch_entries",
            "max_batch_size",
            "max_mount_and_namespace_table_entry_size",
            "max_transaction_size",
            "disable_raft_freelist_sync",
            "snapshot_interval",
        ],
        "this server's Raft log is built otherwise",
        warnings,
    );
    Ok(raft)
}

fn min_free_disk(s: &mut Stanza<'_>) -> Result<Option<MinFreeDisk>, ConfigError> {
    const EXPECTED: &str = "a size as \"2GiB\", or a part of the disk from \"1%\" to \"50%\"";
    let Some(text) = s.text("min_free_disk")? else { return Ok(None) };
    let read = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().ok().filter(|p| (1..=50).contains(p)).map(MinFreeDisk::Percent),
        None => size(&text).map(MinFreeDisk::Bytes),
    };
    read.map(Some).ok_or_else(|| s.wrong("min_free_disk", &text, EXPECTED))
}

fn retry_join(s: &mut Stanza<'_>, warnings: &mut Vec<Warning>) -> Result<RetryJoin, ConfigError> {
    s.ignored(
        &["leader_client_cert", "leader_client_key"],
        "name files with leader_client_cert_file and leader_client_key_file",
        warnings,
    );
    let address = s.text("leader_api_addr")?;
    let (found, scheme, port) = (s.text("auto_join")?, s.text("auto_join_scheme")?, s.number("auto_join_port")?);
    if address.is_some() && found.is_some() {
        let (first, second) = ("leader_api_addr", "auto_join");
        return Err(s.error(s.position, ConfigErrorKind::Both { stanza: s.name.clone(), first, second }));
    }
    let next = "set it to the api_addr of a node of the cluster, or auto_join to a list of nodes";
    if address.is_none() && found.is_none() {
        return Err(s.missing("leader_api_addr", next));
    }
    Ok(RetryJoin {
        leader_api_addr: address.unwrap_or_default(),
        auto_join: found.map(|found| (found, scheme, port)),
        leader_tls_servername: s.text("leader_tls_servername")?,
        leader_ca_cert: s.text("leader_ca_cert")?,
        leader_ca_cert_file: s.path("leader_ca_cert_file")?,
        leader_client_cert_file: s.path("leader_client_cert_file")?,
        leader_client_key_file: s.path("leader_client_key_file")?,
        join_token_file: s.path("join_token_file")?,
    })
}

/// The `path`; one of the environment counts more than one of the file.
fn folder(s: &mut Stanza<'_>, environment: Option<String>) -> Result<PathBuf, ConfigError> {
    let written = s.path("path")?;
    environment
        .map(PathBuf::from)
        .or(written)
        .ok_or_else(|| s.missing("path", "set it to a folder that only the server's user may read"))
}
