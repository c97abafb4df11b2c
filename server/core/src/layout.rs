//! Where the core's own records are. Every number here is part of the storage format.
//!
//! ```text
//! 0x00 | name                                        plain: what is read before the barrier is open
//! 0x01 | namespace 16 | mount 16 | table 1 | place   sealed by the barrier
//! ```
//!
//! A place is a name (encrypted segments, a zero length and more bytes), an id's HMAC, or plain ordered bytes.

use holdfast_sdk::Table;

/// The list of locks.
pub const LOCKS: &[u8] = b"\0locks";
/// The keyring, sealed under the root key.
pub const KEYRING: &[u8] = b"\0keyring";

/// Another number since every restore of a snapshot.
pub const RESTORES: &[u8] = b"\0restores";
/// There while what a snapshot has brought was not opened yet.
pub const RESTORED: &[u8] = b"\0restored";

pub const SEALED: u8 = 1;

/// A namespace's UUID.
pub type NamespaceId = [u8; 16];

/// The namespace that every other one is in.
pub const ROOT: NamespaceId = [0; 16];

/// A mount of a namespace: what a transaction sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: NamespaceId,
    pub mount: [u8; 16],
}

impl Scope {
    pub fn mount(namespace: NamespaceId, mount: [u8; 16]) -> Scope {
        Scope { namespace, mount }
    }

    /// The start of every key of the scope.
    pub fn prefix(&self) -> [u8; 33] {
        let mut out = [0; 33];
        out[0] = SEALED;
        out[1..17].copy_from_slice(&self.namespace);
        out[17..].copy_from_slice(&self.mount);
        out
    }
}

/// What each namespace keeps of the core's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part(u8);

impl Part {
    pub const fn of(self, namespace: NamespaceId) -> Scope {
        let mut mount = [0; 16];
        mount[15] = self.0;
        Scope { namespace, mount }
    }
}

/// Where a transaction can go: to a scope, or to a part of the namespace that it is in.
pub trait Destination {
    fn scope(self, here: NamespaceId) -> Scope;
}

impl Destination for Scope {
    fn scope(self, _: NamespaceId) -> Scope {
        self
    }
}

impl Destination for Part {
    fn scope(self, here: NamespaceId) -> Scope {
        self.of(here)
    }
}

/// Mounts, policies, leases.
pub const SYSTEM: Part = Part(1);
/// Tokens.
pub const TOKENS: Part = Part(2);
/// What tokens keep for themselves.
pub const CUBBYHOLE: Part = Part(3);
/// Entities and groups.
pub const IDENTITY: Part = Part(4);

/// What the whole store has once: namespaces, jobs, the expiry index, settings. It is the root namespace's own part.
pub const STORE: Scope = SYSTEM.of(ROOT);
pub const ROOT_TOKENS: Scope = TOKENS.of(ROOT);
/// What clients keep through `sys/raw`.
pub const RAW: Scope = Part(5).of(ROOT);

/// By mount UUID.
pub const MOUNTS: Table = Table(1);
/// By policy name.
pub const POLICIES: Table = Table(2);
/// By job id.
pub const JOBS: Table = Table(3);
/// By time (milliseconds, big-endian) and random id.
pub const EXPIRY: Table = Table(4);
/// By name: single records of the core.
pub const SETTINGS: Table = Table(5);
/// By mount UUID, then the intent's id: what is being made outside.
pub const INTENTS: Table = Table(6);
/// By a time-ordered UUID: moves of mounts.
pub const MOVES: Table = Table(7);
/// By version: when a version of the program first opened the store.
pub const VERSIONS: Table = Table(9);
/// By time and random id: when an intent is to be looked at, as in [`EXPIRY`].
pub const INTENTS_DUE: Table = Table(10);
/// One record: cluster time, in nanoseconds.
pub const CLUSTER_TIME: Table = Table(11);
/// By the name of a password policy.
pub const PASSWORD_POLICIES: Table = Table(12);
/// By name: headers of the web UI. (8 had their names in plain.)
pub const UI_HEADERS: Table = Table(15);
/// By lease id: what it is of.
pub const LEASES: Table = Table(14);

/// By the owner's stored token id, then a lease's own: leases that end with a token.
pub const LEASES_OF_TOKEN: Table = Table(16);
/// By mount UUID, then a lease's own.
pub const LEASES_OF_MOUNT: Table = Table(17);
/// Counters of live leases: `mount/UUID`, and `role/UUID/` with what the engine counts by; `ending/UUID` of those whose
/// end has begun; and `target/UUID/` with a target's name, of both.
pub const LEASE_COUNTS: Table = Table(18);
/// By the key of the intent that was given up: the id of the lease that it was to end.
pub const IRREVOCABLE: Table = Table(19);

/// By UUID: namespaces.
pub const NAMESPACES: Table = Table(20);
/// By the path of a namespace, without a slash at its end: its UUID.
pub const NAMESPACE_PATHS: Table = Table(21);
/// By the short id that tokens and leases of a namespace end in: its UUID.
pub const NAMESPACE_IDS: Table = Table(22);
/// By a namespace's UUID, then that of a mount of it which has something to do by itself.
pub const BUSY_MOUNTS: Table = Table(23);

/// By a namespace's UUID (not the root's), then the key of an intent of it that was given up.
pub const GIVEN_UP: Table = Table(24);

/// By name: rate limits.
pub const QUOTAS: Table = Table(25);

/// By time and random id: the namespace and the name of a key of identity tokens that is to be rotated.
pub const OIDC_KEYS_DUE: Table = Table(26);

/// By name: how many leases there may be.
pub const LEASE_QUOTAS: Table = Table(27);
/// By the UUID of a namespace that does not rest under the root's keyring, then the number of the one it rests under.
pub const OWN_RINGS: Table = Table(28);
/// By the number of a namespace's own keyring: how often it was sealed. Who applies a change forgets its keys.
pub const SEALINGS: Table = Table(29);
/// By the number of the keyring of a sealed namespace, a table and a place in it: what is to be put there when it is
/// unsealed.
pub const PARKED: Table = Table(30);
/// By node and device of the audit: the last checkpoint of its log.
pub const AUDIT_CHECKPOINTS: Table = Table(40);

/// By name: keys that mounts use, in devices or in software.
pub const MANAGED_KEYS: Table = Table(41);

/// By the time of an unsealing, eight random bytes and a number: what the server did by itself and no audit device has taken yet.
pub const OWN_ACTS: Table = Table(42);

/// By token id.
pub const TOKEN: Table = Table(1);
/// By accessor.
pub const ACCESSOR: Table = Table(2);
/// By the parent's id, then the child's.
pub const CHILDREN: Table = Table(3);
/// Remaining uses, a counter, by token id.
pub const USES: Table = Table(4);
/// By the name of a token role.
pub const ROLES: Table = Table(5);
/// How many tokens have a lease, by the UUID of the auth mount that gave them; zeros for all others.
pub const TOKEN_COUNTS: Table = Table(6);
/// By token id, then another namespace's UUID: the token keeps something in the cubbyhole there.
pub const KEPT_ELSEWHERE: Table = Table(7);
/// How many tokens have a lease, by the UUID of the auth mount that gave them and the role that they were given for.
pub const TOKEN_ROLE_COUNTS: Table = Table(8);

/// Tables of identity. Ids are the bytes of UUIDs.
pub mod identity {
    use holdfast_sdk::Table;

    /// By id.
    pub const ENTITY: Table = Table(1);
    /// By the name in lower case: the entity's id.
    pub const ENTITY_NAME: Table = Table(2);
    /// By the alias's id: the entity's id.
    pub const ALIAS: Table = Table(3);
    /// By mount accessor and name in lower case: the entity's id.
    pub const ALIAS_OF: Table = Table(4);
    /// By id.
    pub const GROUP: Table = Table(5);
    /// By the name in lower case: the group's id.
    pub const GROUP_NAME: Table = Table(6);
    /// By the alias's id: the group's id.
    pub const GROUP_ALIAS: Table = Table(7);
    /// By mount accessor and name in lower case: the group's id.
    pub const GROUP_ALIAS_OF: Table = Table(8);
    /// By the group's id, then the entity's.
    pub const MEMBER: Table = Table(9);
    /// By the entity's id, then the group's.
    pub const MEMBER_OF: Table = Table(10);
    /// By the group's id, then that of a group in it.
    pub const SUBGROUP: Table = Table(11);
    /// By the group's id, then that of a group above it.
    pub const PARENT: Table = Table(12);
    /// One record, which changes with every group.
    pub const GROUPS: Table = Table(13);

    /// One record: what counts for all identity tokens.
    pub const OIDC_CONFIG: Table = Table(14);
    /// By name: keys that sign identity tokens.
    pub const OIDC_KEY: Table = Table(15);
    /// By name: what identity tokens say, and to whom.
    pub const OIDC_ROLE: Table = Table(16);
    /// By name: who may log in to a client.
    pub const OIDC_ASSIGNMENT: Table = Table(17);
    /// By name.
    pub const OIDC_SCOPE: Table = Table(18);
    /// By name.
    pub const OIDC_CLIENT: Table = Table(19);
    /// By a client's id: its name.
    pub const OIDC_CLIENT_ID: Table = Table(20);
    /// By name.
    pub const OIDC_PROVIDER: Table = Table(21);

    /// By id: second factors.
    pub const MFA_METHOD: Table = Table(22);
    /// By name: which logins need a second factor.
    pub const MFA_ENFORCEMENT: Table = Table(23);
    /// By the entity's id, then the method's: what codes are made from.
    pub const MFA_SECRET: Table = Table(24);
}

/// By token id: the hour of its last use, as four bytes. (Those of roles are in [`LAST_USES`](holdfast_sdk::LAST_USES).)
pub const TOKEN_USES: Table = Table(9);

/// By the token's stored id in hex, then a name of its own.
pub const SPACES: Table = Table(1);

/// By the path that the client chose.
pub const RAW_ENTRIES: Table = Table(1);

/// The scope of a storage key, and its table.
pub fn place_of(key: &[u8]) -> Option<(Scope, Table)> {
    let (&SEALED, rest) = key.split_first()? else { return None };
    let (namespace, rest) = rest.split_first_chunk::<16>()?;
    let (mount, rest) = rest.split_first_chunk::<16>()?;
    Some((Scope { namespace: *namespace, mount: *mount }, Table(*rest.first()?)))
}

/// The table of a storage key in `scope`, if it is one of its keys.
pub fn table_of(key: &[u8], scope: &Scope) -> Option<Table> {
    let rest = key.strip_prefix(&scope.prefix()[..])?;
    rest.first().map(|t| Table(*t))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two branches that each add one are merged without a conflict.
    #[test]
    fn no_two_scopes_and_no_two_tables_of_the_system_are_the_same() {
        let scopes = [STORE, ROOT_TOKENS, CUBBYHOLE.of(ROOT), RAW, IDENTITY.of(ROOT), SYSTEM.of([1; 16])];
        let tables = [
            MOUNTS,
            POLICIES,
            JOBS,
            EXPIRY,
            SETTINGS,
            INTENTS,
            MOVES,
            VERSIONS,
            INTENTS_DUE,
            CLUSTER_TIME,
            PASSWORD_POLICIES,
            LEASES,
            UI_HEADERS,
            LEASES_OF_TOKEN,
            LEASES_OF_MOUNT,
            LEASE_COUNTS,
            IRREVOCABLE,
            NAMESPACES,
            NAMESPACE_PATHS,
            NAMESPACE_IDS,
            BUSY_MOUNTS,
            GIVEN_UP,
            QUOTAS,
            OIDC_KEYS_DUE,
            LEASE_QUOTAS,
            OWN_RINGS,
            SEALINGS,
            PARKED,
            AUDIT_CHECKPOINTS,
            MANAGED_KEYS,
        ];
        assert_eq!(scopes.iter().collect::<std::collections::HashSet<_>>().len(), scopes.len());
        assert_eq!(tables.iter().collect::<std::collections::BTreeSet<_>>().len(), tables.len());
    }
}
