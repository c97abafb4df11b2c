//! What is stored of a token.

use std::net::SocketAddr;

use holdfast_sdk::{AddressBlock, Timestamp, TokenId, TokenType};
use minicbor::{Decode, Encode};

use crate::clock;
use crate::layout::{NamespaceId, ROOT};

#[derive(Debug, Clone, Encode, Decode)]
pub struct TokenEntry {
    #[n(0)]
    pub accessor: String,
    /// Sorted, lower case.
    #[n(1)]
    pub policies: Vec<String>,
    /// Where it was made.
    #[n(2)]
    pub path: String,
    #[n(3)]
    pub metadata: Vec<(String, String)>,
    #[n(4)]
    pub display_name: String,
    /// As given; what is left of them is a counter of its own. 0: no limit.
    #[n(5)]
    pub num_uses: i64,
    /// As issued or last renewed. 0: never ends.
    #[n(6)]
    pub ttl_secs: u64,
    #[n(7)]
    pub creation_ttl_secs: u64,
    #[n(8)]
    pub period_secs: u64,
    #[n(9)]
    pub explicit_max_ttl_secs: u64,
    /// Unix time in nanoseconds.
    #[n(10)]
    pub issued_ns: u64,
    #[n(11)]
    expires_ns: Option<u64>,
    #[n(12)]
    pub renewable: bool,
    #[n(13)]
    pub last_renewal_ns: u64,
    #[cbor(n(14), with = "minicbor::bytes")]
    pub parent: Option<[u8; 32]>,
    /// Made without a parent, not just left without one.
    #[n(15)]
    pub orphan: bool,
    #[n(16)]
    pub entity_id: String,
    #[n(17)]
    pub role: String,
    /// Its key in the expiry index.
    #[cbor(n(18), with = "minicbor::bytes")]
    pub expiry_key: Option<Vec<u8>>,
    /// Networks that the token may be used from; empty: any.
    #[n(19)]
    #[cbor(default)]
    pub bound_cidrs: Vec<String>,
    /// Not stored: the token itself holds this entry.
    #[n(20)]
    #[cbor(default)]
    pub batch: bool,
    /// Revoked, and kept only until its children have no parent any more.
    #[n(21)]
    #[cbor(default)]
    pub orphaning: bool,
    /// The auth mount whose login gave it.
    #[cbor(n(22), with = "minicbor::bytes")]
    #[cbor(default)]
    pub auth_mount: Option<[u8; 16]>,
    /// What that mount wants to be told when the token is renewed.
    #[n(23)]
    #[cbor(default)]
    pub internal: Vec<(String, String)>,
    /// How often that mount had been moved.
    #[n(24)]
    #[cbor(default)]
    pub mount_moves: u32,
    /// The parent's namespace; none: the root's.
    #[cbor(n(25), with = "minicbor::bytes")]
    #[cbor(default)]
    parent_namespace: Option<NamespaceId>,
    /// The role of its login, by which live tokens are counted.
    #[n(26)]
    #[cbor(default)]
    pub counted_as: String,
    #[cbor(skip)]
    pub expires: Option<Timestamp>,
}

impl holdfast_sdk::Record for TokenEntry {
    /// 1 had no networks and no mark of a token that is leaving its children behind, 2 no auth mount, 3 did
    /// not know of its moves, 4 not of other namespaces, 5 was not counted by role.
    const VERSION: u8 = 6;
    fn encode_record(&self) -> holdfast_sdk::Result<Vec<u8>> {
        let mut copy = self.clone();
        copy.expires_ns = self.expires.map(|t| t.0);
        holdfast_sdk::record::encode(&copy)
    }
    fn decode_record(version: u8, bytes: &[u8]) -> holdfast_sdk::Result<Self> {
        let mut entry: TokenEntry = holdfast_sdk::record::decode(version, Self::VERSION, bytes)?;
        entry.expires = entry.expires_ns.map(Timestamp);
        Ok(entry)
    }
}

/// What a new token is made of.
#[derive(Debug, Clone, Default)]
pub struct Issue {
    pub policies: Vec<String>,
    pub path: String,
    pub metadata: Vec<(String, String)>,
    pub display_name: String,
    pub num_uses: i64,
    pub ttl_secs: u64,
    pub period_secs: u64,
    pub explicit_max_ttl_secs: u64,
    pub renewable: bool,
    pub parent: Option<TokenId>,
    pub role: String,
    pub bound_cidrs: Vec<String>,
    pub batch: bool,
    pub entity_id: String,
    pub auth_mount: Option<[u8; 16]>,
    pub mount_moves: u32,
    pub internal: Vec<(String, String)>,
    pub counted_as: String,
}

/// What a token is to its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// They end with it.
    Lives,
    /// It is revoked and they live on, although their records still name it.
    LetsGo,
    /// They have ended with it.
    HasEnded,
}

impl TokenEntry {
    pub fn new(issue: Issue, accessor: String, now: Timestamp) -> TokenEntry {
        let expires = (issue.ttl_secs > 0).then(|| now.plus_secs(issue.ttl_secs));
        let renewable = issue.renewable && issue.ttl_secs > 0 && !issue.batch;
        TokenEntry {
            accessor,
            policies: issue.policies,
            path: issue.path,
            metadata: issue.metadata,
            display_name: issue.display_name,
            num_uses: issue.num_uses,
            ttl_secs: issue.ttl_secs,
            creation_ttl_secs: issue.ttl_secs,
            period_secs: issue.period_secs,
            explicit_max_ttl_secs: issue.explicit_max_ttl_secs,
            issued_ns: now.0,
            expires_ns: None,
            renewable,
            last_renewal_ns: 0,
            orphan: issue.parent.is_none(),
            parent: issue.parent.map(|p| p.own),
            parent_namespace: issue.parent.map(|p| p.namespace).filter(|n| *n != ROOT),
            entity_id: issue.entity_id,
            role: issue.role,
            expiry_key: None,
            bound_cidrs: issue.bound_cidrs,
            batch: issue.batch,
            orphaning: false,
            auth_mount: issue.auth_mount,
            internal: issue.internal,
            counted_as: issue.counted_as,
            mount_moves: issue.mount_moves,
            expires,
        }
    }

    /// The token that it ends with.
    pub fn parent(&self) -> Option<TokenId> {
        self.parent.map(|own| TokenId { namespace: self.parent_namespace.unwrap_or(ROOT), own })
    }

    /// It lives on by itself.
    pub fn leave_parent(&mut self) {
        (self.parent, self.parent_namespace) = (None, None);
    }

    pub fn issued(&self) -> Timestamp {
        Timestamp(self.issued_ns)
    }

    /// One that was issued or renewed by a clock that was ahead, and was put right since, has an end that
    /// is too late: it counts as ended.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        let begun = Timestamp(self.issued_ns.max(self.last_renewal_ns));
        self.orphaning || self.expires.is_some_and(|end| end <= now || clock::is_ahead(begun, now))
    }

    /// What this token is to its children.
    pub fn as_parent(&self, now: Timestamp) -> Parent {
        match () {
            () if self.orphaning => Parent::LetsGo,
            () if self.has_ended(now) => Parent::HasEnded,
            () => Parent::Lives,
        }
    }

    /// Whole seconds left; 0 for a token that never ends.
    pub fn ttl_left_secs(&self, now: Timestamp) -> u64 {
        self.expires.map_or(0, |end| end.0.saturating_sub(now.0).div_ceil(1_000_000_000))
    }

    pub fn is_root(&self) -> bool {
        self.policies.iter().any(|p| p == "root")
    }

    /// Whether an answer waits in its cubbyhole.
    pub fn is_wrapping(&self) -> bool {
        self.policies == [super::RESPONSE_WRAPPING]
    }

    pub fn token_type(&self) -> TokenType {
        if self.batch { TokenType::Batch } else { TokenType::Service }
    }

    /// Whether the token may be used from an address. Without a network between, as over a socket
    /// file, a bound token is refused.
    pub fn admits(&self, remote: Option<SocketAddr>) -> bool {
        self.bound_cidrs.is_empty()
            || remote.is_some_and(|r| {
                let blocks = self.bound_cidrs.iter().filter_map(|b| b.parse::<AddressBlock>().ok());
                blocks.into_iter().any(|b| b.holds(r.ip()))
            })
    }
}
