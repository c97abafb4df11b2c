//! Stored policies, and the compiled union of a token's policies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_policy::{Acl, DEFAULT_POLICY, Policy, RESPONSE_WRAPPING_POLICY};
use holdfast_sdk::{Error, Place, Result, Timestamp, record};
use minicbor::{Decode, Encode};

use crate::layout::{POLICIES, SYSTEM};
use crate::tx::Tx;

/// Policies that no token may be given by name.
pub const NOT_ASSIGNABLE: &[&str] = &["response-wrapping"];
/// Compiled unions kept at most.
const CACHED: usize = 4096;

#[derive(Debug, Clone, Encode, Decode)]
pub struct StoredPolicy {
    #[n(0)]
    pub text: String,
    /// Unix time in seconds.
    #[n(1)]
    pub modified: u64,
    #[n(2)]
    pub expires: Option<u64>,
    #[n(3)]
    pub cas: u64,
}
holdfast_sdk::record!(StoredPolicy);

/// A union of policies with the records that it stands on.
pub struct Compiled {
    pub acl: Acl,
    /// Storage keys of the policies, present or not.
    pub keys: Vec<Vec<u8>>,
    epoch: u64,
}

/// Compiled unions by the list of their names. A change of any policy makes all of them anew.
#[derive(Default)]
pub struct PolicyCache {
    epoch: AtomicU64,
    unions: RwLock<HashMap<Vec<String>, Arc<Compiled>>>,
}

pub fn system_time(t: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(t.0)
}

impl PolicyCache {
    /// A batch that is about to be published changed a policy.
    pub fn invalidate(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The union of these policies; names that do not exist grant nothing.
    pub fn union(&self, tx: &mut Tx, names: &[String], now: Timestamp) -> Result<Arc<Compiled>> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        if let Some(found) = self.unions.read().unwrap_or_else(PoisonError::into_inner).get(names)
            && found.epoch == epoch
            && found.acl.valid_until().is_none_or(|end| end > system_time(now))
        {
            return Ok(found.clone());
        }
        let mut policies = Vec::with_capacity(names.len());
        let mut keys = Vec::with_capacity(names.len());
        for name in names {
            match name.as_str() {
                "root" => policies.push(Arc::new(Policy::root())),
                "response-wrapping" => policies.push(Arc::new(Policy::response_wrapping())),
                _ => {
                    keys.push(tx.within(SYSTEM, |tx| tx.key(Place::Name(POLICIES, name)))?);
                    policies.extend(read(tx, name)?.map(|p| compile(name, &p)).transpose()?.map(Arc::new));
                }
            }
        }
        let acl = Acl::new(&policies, None, system_time(now)).map_err(|e| Error::Status(400, vec![e.to_string()]))?;
        let compiled = Arc::new(Compiled { acl, keys, epoch });
        let mut unions = self.unions.write().unwrap_or_else(PoisonError::into_inner);
        if unions.len() >= CACHED {
            unions.clear();
        }
        unions.insert(names.to_vec(), compiled.clone());
        Ok(compiled)
    }
}

fn compile(name: &str, stored: &StoredPolicy) -> Result<Policy> {
    let policy = Policy::parse(name, &stored.text)
        .map_err(|e| Error::Internal(format!("the stored policy {name:?} cannot be read: {e}")))?;
    Ok(policy.expiring_at(stored.expires.map(|s| UNIX_EPOCH + Duration::from_secs(s))))
}

pub fn read(tx: &mut Tx, name: &str) -> Result<Option<StoredPolicy>> {
    tx.within(SYSTEM, |tx| record::get(tx, Place::Name(POLICIES, name)))
}

pub fn write(tx: &mut Tx, name: &str, policy: &StoredPolicy) -> Result<()> {
    tx.within(SYSTEM, |tx| record::put(tx, Place::Name(POLICIES, name), policy))
}

/// What a fresh store starts with.
pub fn first(tx: &mut Tx, now: Timestamp) -> Result<()> {
    let stored = |text: &str| StoredPolicy { text: text.to_owned(), modified: now.secs(), expires: None, cas: 1 };
    write(tx, "default", &stored(DEFAULT_POLICY))?;
    write(tx, "response-wrapping", &stored(RESPONSE_WRAPPING_POLICY))
}
