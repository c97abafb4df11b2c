//! The whole configuration.

use std::path::PathBuf;
use std::time::Duration;

use crate::{
    AuditDevice, AuditSigning, Confinement, Device, Listener, LogSettings, Seal, Storage, Telemetry, UserLockout,
};

/// All that the files say, merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the server listens, in the order of the files.
    pub listeners: Vec<Listener>,
    /// Where it keeps its data; `None`: no file says so.
    pub storage: Option<Storage>,
    /// What opens the root key, in the order of the files; none: Shamir's
    /// shares.
    pub seals: Vec<Seal>,
    /// Whether there may be several seals at once; `None`: as many as there are.
    pub enable_multiseal: Option<bool>,
    /// Devices that hold keys, by name, in the order of the files.
    pub devices: Vec<Device>,
    /// Audit devices.
    pub audit: Vec<AuditDevice>,
    /// The key in a device that signs the checkpoints of audit logs; `None`: the server's own signs.
    pub audit_signing: Option<AuditSigning>,
    /// Lockouts; of two for one scope the later counts.
    pub user_lockouts: Vec<UserLockout>,
    /// Mix the random bytes of a seal's device into the keys that the server makes.
    pub entropy_of_seals: bool,
    /// The files that the server's process may use.
    pub confinement: Confinement,
    /// Metrics.
    pub telemetry: Telemetry,
    /// The server's own log.
    pub log: LogSettings,
    /// The address that clients and other nodes reach this node's API at.
    pub api_addr: Option<String>,
    /// The address that other nodes reach this node at.
    pub cluster_addr: Option<String>,
    /// The cluster's name; `None`: one is made.
    pub cluster_name: Option<String>,
    /// How long a lease lasts where nobody says.
    pub default_lease_ttl: Duration,
    /// How long a lease may last.
    pub max_lease_ttl: Duration,
    /// Offer the web UI.
    pub ui: bool,
    /// Do not lock memory.
    pub disable_mlock: bool,
    /// A file for the process id.
    pub pid_file: Option<PathBuf>,
    /// The largest body in bytes, where a listener does not say.
    pub max_request_size_bytes: u64,
    /// How long a request may take, where a listener does not say.
    pub max_request_duration: Duration,
    /// The largest stored entry in bytes.
    pub max_entry_size_bytes: u64,
    /// Offer `sys/raw`.
    pub raw_storage_endpoint: bool,
    /// Offer `sys/internal/inspect`.
    pub introspection_endpoint: bool,
    /// Say the host's name in a header of answers.
    pub enable_response_header_hostname: bool,
    /// Say the Raft node's id in a header of answers.
    pub enable_response_header_raft_node_id: bool,
    /// Do not cache what is read from storage.
    pub disable_cache: bool,
    /// How many entries are cached; `None`: as many as is good.
    pub cache_size: Option<u64>,
    /// Do not speak with other nodes.
    pub disable_clustering: bool,
    /// The API may make audit devices of every kind (`true`), or none (`false`); `None`: files in
    /// `audit_directories` alone, and what is no file.
    pub unsafe_allow_api_audit_creation: Option<bool>,
    /// Where the API may make audit files; `None`: where servers that speak this API have theirs.
    pub audit_directories: Option<Vec<PathBuf>>,
    /// Audit devices may have a `prefix`.
    pub allow_audit_log_prefixing: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listeners: Vec::new(),
            storage: None,
            seals: Vec::new(),
            enable_multiseal: None,
            devices: Vec::new(),
            audit: Vec::new(),
            audit_signing: None,
            user_lockouts: Vec::new(),
            entropy_of_seals: false,
            confinement: Confinement::default(),
            telemetry: Telemetry::default(),
            log: LogSettings::default(),
            api_addr: None,
            cluster_addr: None,
            cluster_name: None,
            default_lease_ttl: Duration::from_secs(768 * 3600),
            max_lease_ttl: Duration::from_secs(768 * 3600),
            ui: false,
            disable_mlock: false,
            pid_file: None,
            max_request_size_bytes: 32 * 1024 * 1024,
            max_request_duration: Duration::from_secs(90),
            max_entry_size_bytes: 1024 * 1024,
            raw_storage_endpoint: false,
            introspection_endpoint: false,
            enable_response_header_hostname: false,
            enable_response_header_raft_node_id: false,
            disable_cache: false,
            cache_size: None,
            disable_clustering: false,
            unsafe_allow_api_audit_creation: None,
            audit_directories: None,
            allow_audit_log_prefixing: false,
        }
    }
}
