//! Stored policies, and the compiled union of a token's policies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_policy::{Acl, DEFAULT_POLICY, Policy, RESPONSE_WRAPPING_POLICY, TemplateValues};
use holdfast_sdk::{Error, Place, Result, Timestamp, record};
use holdfast_storage::Key;
use minicbor::{Decode, Encode};

use crate::Core;
use crate::identity::Resolved;
use crate::layout::{NamespaceId, POLICIES, ROOT, SYSTEM};
use crate::namespaces;
use crate::tx::Tx;
use crate::unions::{Names, Unions};

/// Policies that no token may be given by name.
pub const NOT_ASSIGNABLE: &[&str] = &["response-wrapping"];
/// Whether it is there whatever is stored.
pub fn is_built_in(name: &str) -> bool {
    matches!(name, "root" | "response-wrapping")
}

/// Compiled unions of the root namespace kept at most,
const CACHED: usize = 4096;
/// those of each other one,
const CACHED_EACH: usize = 256;
/// and of so many others.
const CACHED_NAMESPACES: usize = 1024;

#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct StoredPolicy {
    #[n(0)]
    pub text: String,
    /// Unix time in seconds.
    #[n(1)]
    pub modified: u64,
    #[n(2)]
    pub expires: Option<u64>,
    /// The version: how often it was written.
    #[n(3)]
    pub cas: u64,
    #[n(4)]
    #[cbor(default)]
    pub cas_required: bool,
    /// Values of templates may bring a slash into a path.
    #[n(5)]
    #[cbor(default)]
    pub allow_slashes: bool,
    /// Values of templates may bring `*` and `+` into a path.
    #[n(6)]
    #[cbor(default)]
    pub allow_wildcards: bool,
}

impl holdfast_sdk::Record for StoredPolicy {
    /// 1 had only text, times and version.
    const VERSION: u8 = 2;
    fn encode_record(&self) -> Result<Vec<u8>> {
        record::encode(self)
    }
    fn decode_record(version: u8, bytes: &[u8]) -> Result<Self> {
        record::decode(version, Self::VERSION, bytes)
    }
}

impl StoredPolicy {
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now.secs())
    }
}

/// A union of policies with the records that it stands on.
pub struct Compiled {
    pub acl: Acl,
    /// Storage keys of the policies, present or not.
    pub keys: Vec<Key>,
    /// Whether what it allows depends on who asks.
    is_templated: bool,
}

/// Compiled unions by the list of their names. A change of any policy makes all of its namespace's anew.
pub struct PolicyCache {
    root: PolicyUnions,
    others: RwLock<HashMap<NamespaceId, Arc<PolicyUnions>>>,
    /// The last batch that changed a policy of any namespace but the root.
    others_changed_at: AtomicU64,
}

type PolicyUnions = Unions<Compiled, Resolved>;

impl Default for PolicyCache {
    fn default() -> PolicyCache {
        PolicyCache { root: Unions::new(CACHED), others: RwLock::default(), others_changed_at: AtomicU64::new(0) }
    }
}

pub fn system_time(t: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(t.0)
}

impl Core {
    /// The time by which policies and their rules end: cluster time. It does not go back, so that a union
    /// which was compiled without what had ended is never used when that has not ended yet; and a wall
    /// clock that jumped ends neither a right nor a ban.
    pub(crate) fn policy_time(&self) -> Timestamp {
        self.clock.cluster()
    }
}

impl PolicyCache {
    /// The batch of `index`, which is about to be published, changed a policy.
    pub fn invalidate(&self, namespace: NamespaceId, index: u64) {
        if namespace == ROOT {
            return self.root.invalidate(index);
        }
        // Before it is looked for: who makes it meanwhile looks here afterwards.
        self.others_changed_at.fetch_max(index, Ordering::SeqCst);
        if let Some(unions) = self.others.read().unwrap_or_else(PoisonError::into_inner).get(&namespace) {
            unions.invalidate(index);
        }
    }

    /// The union of a token's policies and those of its entity, both of the namespace that `tx` is in; names that
    /// do not exist grant nothing.
    pub fn union(
        &self,
        tx: &mut Tx,
        names: &Names,
        who: Option<&Arc<Resolved>>,
        now: Timestamp,
    ) -> Result<Arc<Compiled>> {
        match tx.namespace() {
            ROOT => union_in(&self.root, tx, names, who, now),
            other => union_in(&self.unions_of(other), tx, names, who, now),
        }
    }

    /// Forget the unions of all namespaces but the root.
    pub fn forget_others(&self) {
        self.others.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn unions_of(&self, namespace: NamespaceId) -> Arc<PolicyUnions> {
        if let Some(found) = self.others.read().unwrap_or_else(PoisonError::into_inner).get(&namespace) {
            return found.clone();
        }
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        if others.len() >= CACHED_NAMESPACES {
            others.clear();
        }
        let unions = others.entry(namespace).or_insert_with(|| Arc::new(Unions::new(CACHED_EACH))).clone();
        unions.invalidate(self.others_changed_at.load(Ordering::SeqCst));
        unions
    }
}

fn union_in(
    unions: &PolicyUnions,
    tx: &mut Tx,
    names: &Names,
    who: Option<&Arc<Resolved>>,
    now: Timestamp,
) -> Result<Arc<Compiled>> {
    let (view, time) = (tx.index(), system_time(now));
    let made_for = who.map(|who| (&who.entity.id, who));
    let lives = |union: &Arc<Compiled>| union.acl.valid_until().is_none_or(|end| end > time);
    if let Some(found) = unions.get(view, names, made_for).filter(lives) {
        return Ok(found);
    }
    let compiled = match who {
        None => Arc::new(united(tx, names.list(), None, now)?),
        Some(who) => {
            let mine = names.list();
            let all: Arc<[String]> =
                mine.iter().chain(who.policies.iter().filter(|n| !mine.contains(n))).cloned().collect();
            // What says nothing about who asks is the same for all who have these policies.
            let shared = union_in(unions, tx, &all.clone().into(), None, now)?;
            match shared.is_templated {
                false => shared,
                true => Arc::new(united(tx, &all, Some(who), now)?),
            }
        }
    };
    unions.insert(view, names, made_for, compiled.clone());
    Ok(compiled)
}

fn united(tx: &mut Tx, names: &[String], who: Option<&Arc<Resolved>>, now: Timestamp) -> Result<Compiled> {
    let (mut policies, mut keys) = (Vec::new(), Vec::new());
    let namespace = namespaces::path_of(tx, tx.namespace())?;
    for name in names {
        match name.as_str() {
            "root" => policies.push(Arc::new(Policy::root().in_namespace(&namespace))),
            "response-wrapping" => policies.push(Arc::new(Policy::response_wrapping().in_namespace(&namespace))),
            _ => {
                keys.push(tx.within(SYSTEM, |tx| tx.key(Place::Name(POLICIES, name)))?.into());
                let compiled = read(tx, name)?.map(|p| compile(name, &p)).transpose()?;
                policies.extend(compiled.map(|p| Arc::new(p.in_namespace(&namespace))));
            }
        }
    }
    let values = who.map(|w| &**w as &dyn TemplateValues);
    let acl = Acl::new(&policies, values, system_time(now)).map_err(|e| Error::Status(400, vec![e.to_string()]))?;
    let is_templated = policies.iter().any(|p| p.is_templated());
    Ok(Compiled { acl, keys, is_templated })
}

fn compile(name: &str, stored: &StoredPolicy) -> Result<Policy> {
    let policy = Policy::parse(name, &stored.text)
        .map_err(|e| Error::Internal(format!("the stored policy {name:?} cannot be read: {e}")))?;
    Ok(policy
        .expiring_at(stored.expires.map(|s| UNIX_EPOCH + Duration::from_secs(s)))
        .allow_slashes_in_templates(stored.allow_slashes)
        .allow_wildcards_in_templates(stored.allow_wildcards))
}

pub fn read(tx: &mut Tx, name: &str) -> Result<Option<StoredPolicy>> {
    tx.within(SYSTEM, |tx| record::get(tx, Place::Name(POLICIES, name)))
}

pub fn write(tx: &mut Tx, name: &str, policy: &StoredPolicy) -> Result<()> {
    tx.within(SYSTEM, |tx| record::put(tx, Place::Name(POLICIES, name), policy))
}

/// What a fresh store starts with.
pub fn first(tx: &mut Tx, now: Timestamp) -> Result<()> {
    let stored =
        |text: &str| StoredPolicy { text: text.to_owned(), modified: now.secs(), cas: 1, ..StoredPolicy::default() };
    write(tx, "default", &stored(DEFAULT_POLICY))?;
    write(tx, "response-wrapping", &stored(RESPONSE_WRAPPING_POLICY))
}

#[cfg(test)]
mod tests {
    use holdfast_policy::{Check, Operation};
    use holdfast_seal::Barrier;

    use super::*;
    use crate::testing::unsealed;
    use crate::{Open, clock};

    fn reader(core: &Core, open: &Open) -> Tx {
        Tx::read_only(core.store.view(), Barrier::clone(&open.barrier.load())).cached(&open.opened)
    }

    fn app() -> Names {
        Arc::<[String]>::from(["app".to_owned()]).into()
    }

    fn allows(open: &Open, tx: &mut Tx) -> bool {
        let now = clock::now();
        let union = open.policies.union(tx, &app(), None, now).unwrap();
        let check = Check {
            operation: Operation::Read,
            path: "kv/a",
            parameters: None,
            wrap_ttl: None,
            root_protected: false,
            now: system_time(now),
        };
        union.acl.check(&check).allowed
    }

    async fn store(core: &Arc<Core>, open: &Arc<Open>, text: &str) {
        let policy = StoredPolicy { text: text.into(), cas: 1, ..StoredPolicy::default() };
        core.transact(open, |tx| write(tx, "app", &policy)).await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_of_an_older_snapshot_does_not_bring_back_a_withdrawn_right() {
        let (core, open) = unsealed().await;
        store(&core, &open, r#"path "kv/*" { capabilities = ["read"] }"#).await;
        let mut before = reader(&core, &open);
        store(&core, &open, r#"path "kv/*" { capabilities = ["deny"] }"#).await;
        // The slow one sees what its snapshot held; whoever comes after the change does not.
        assert!(allows(&open, &mut before));
        assert!(!allows(&open, &mut reader(&core, &open)));
        // Nor is the new union used for the old snapshot.
        assert!(allows(&open, &mut before));
        assert!(!allows(&open, &mut reader(&core, &open)));
    }

    #[tokio::test]
    async fn an_unchanged_union_is_made_once() {
        let (core, open) = unsealed().await;
        store(&core, &open, r#"path "kv/*" { capabilities = ["read"] }"#).await;
        let made = |tx: &mut Tx| open.policies.union(tx, &app(), None, clock::now()).unwrap();
        let first = made(&mut reader(&core, &open));
        store_unrelated(&core, &open).await;
        assert!(Arc::ptr_eq(&first, &made(&mut reader(&core, &open))));
    }

    async fn store_unrelated(core: &Arc<Core>, open: &Arc<Open>) {
        let place = Place::Name(crate::layout::UI_HEADERS, "x");
        core.transact(open, |tx| tx.within(SYSTEM, |tx| holdfast_sdk::Transaction::put(tx, place, vec![1])))
            .await
            .unwrap();
    }
}
