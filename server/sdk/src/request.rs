//! A request as it reaches a handler.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_hsm::memory::Secret;
use serde_json::{Map, Value};

use crate::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Create,
    Update,
    Patch,
    Delete,
    List,
    Scan,
}

impl Operation {
    /// The word that policies, the audit log and OpenAPI use.
    pub fn word(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Patch => "patch",
            Operation::Delete => "delete",
            Operation::List => "list",
            Operation::Scan => "scan",
        }
    }

    /// Whether the operation may change something.
    pub fn writes(self) -> bool {
        !matches!(self, Operation::Read | Operation::List | Operation::Scan)
    }
}

/// Request headers, names in lower case, in the order they came.
pub type Headers = Vec<(String, String)>;

/// One request, independent of HTTP.
pub struct Request {
    /// A UUID, shown in the answer and in the audit log.
    pub id: String,
    pub operation: Operation,
    /// Below `/v1/` and the namespace, without a leading slash.
    pub path: String,
    /// The body's object, or the query's parameters.
    pub data: Map<String, Value>,
    pub token: Option<Secret<String>>,
    /// The path of the namespace, with a slash at its end unless it is the root.
    pub namespace: String,
    pub wrap_ttl: Option<Duration>,
    pub remote: Option<SocketAddr>,
    pub headers: Headers,
    /// The content type was that of a merge patch.
    pub merge_patch: bool,
    /// The client asked to override policies that may be overridden.
    pub policy_override: bool,
    /// `host:port` of the member of the cluster that passed it on; none: it came from its client.
    pub forwarded_from: Option<String>,
    /// Serial number of the TLS client certificate.
    pub client_certificate_serial: Option<String>,
    pub presented: Presented,
}

/// What headers show of who asks, beside a token. None of it is ever shown.
#[derive(Default)]
pub struct Presented {
    /// `Authorization: Basic`, as it was sent.
    pub basic: Option<Secret<String>>,
    /// The token came as `Authorization: Bearer`.
    pub bearer: bool,
    /// `X-Vault-MFA`: `METHOD`, or `METHOD:CODE`.
    pub mfa: Vec<Secret<String>>,
}

/// The parts of a path that its route names.
#[derive(Debug, Clone, Default)]
pub struct Captures(pub(crate) Vec<(Arc<str>, String)>);

impl Captures {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| &**n == name).map(|(_, v)| v.as_str())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(n, _)| &**n)
    }
}

/// Where a token is stored: nothing that a client could present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId {
    /// The UUID of the token's namespace; the root's is nothing but zeros.
    pub namespace: [u8; 16],
    /// The stored form of its text.
    pub own: [u8; 32],
}

/// Who asks, as the core found it.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    pub display_name: String,
    pub entity_id: String,
    pub policies: Arc<[String]>,
    /// Where the caller's token is stored; a batch token is nowhere.
    pub token_id: Option<TokenId>,
    /// The UUID of the token's namespace.
    pub namespace: [u8; 16],
    /// The token's policies include root.
    pub root: bool,
    /// The policy grants `sudo` on the path.
    pub sudo: bool,
    /// What ends takes the caller's leases with it: its token, or the parent of its batch token.
    pub lease_owner: Option<TokenId>,
    /// When a batch token ends; its leases end no later.
    pub batch_end: Option<Timestamp>,
}

/// What a handler is given beside its parameters.
pub struct Call<'a> {
    pub operation: Operation,
    /// Relative to the mount.
    pub path: &'a str,
    /// With a slash at its end.
    pub mount_point: &'a str,
    pub mount_accessor: &'a str,
    pub request: &'a Request,
    pub caller: &'a Caller,
    /// What ends is judged by this; it is ahead of cluster time while the machine's clock is.
    pub now: Timestamp,
    /// Cluster time: for what is written down and must count as past for whoever looks next, on any node.
    pub cluster_now: Timestamp,
    pub captures: &'a Captures,
    /// What `prepare` computed.
    pub prepared: Option<&'a (dyn std::any::Any + Send + Sync)>,
    /// What was done outside, if the request acts there and this is its second transaction.
    pub done: Option<&'a crate::Done>,
}

impl Call<'_> {
    /// A part of the path that the route names.
    pub fn capture(&self, name: &str) -> &str {
        self.captures.get(name).unwrap_or("")
    }
}
