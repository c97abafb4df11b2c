//! How secret ids are kept: under an HMAC, found again by their accessor and by their end.

use hmac::{Hmac, KeyInit, Mac};
use holdfast_sdk::{Error, Place, Result, Timestamp, Tx, record};
use minicbor::{Decode, Encode};
use sha2::Sha256;

use crate::roles::Role;
use crate::{ACCESSORS, ENDS, GONE_ROLES, SECRET_IDS};

/// Records that one step of a listing reads.
const STEP: usize = 256;
/// Secret ids that the deletion of their role removes at once; the rest waits for a sweep.
const WITH_THE_ROLE: usize = 256;

/// The role's internal id, then the HMAC.
pub type Key = [u8; 48];

#[derive(Clone, Encode, Decode)]
pub struct SecretId {
    #[n(0)]
    pub accessor: String,
    /// Uses that are left; 0: no limit.
    #[n(1)]
    pub num_uses: i64,
    #[n(2)]
    pub ttl_secs: u64,
    #[n(3)]
    pub created_ns: u64,
    #[n(4)]
    pub updated_ns: u64,
    /// None: it does not end by itself.
    #[n(5)]
    pub ends_ns: Option<u64>,
    #[n(6)]
    pub cidr_list: Vec<String>,
    #[n(7)]
    pub token_bound_cidrs: Vec<String>,
    #[n(8)]
    pub metadata: Vec<(String, String)>,
}
holdfast_sdk::record!(SecretId);

/// Where a role keeps a secret id.
pub fn key(role: &Role, secret_id: &str) -> Result<Key> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&role.hmac_key).map_err(Error::internal)?;
    mac.update(secret_id.as_bytes());
    let mut key = [0; 48];
    key[..16].copy_from_slice(&role.internal_id);
    key[16..].copy_from_slice(&mac.finalize().into_bytes());
    Ok(key)
}

/// A secret id that has not ended.
pub fn load(tx: &mut Tx, key: &Key, now: Timestamp) -> Result<Option<SecretId>> {
    let found: Option<SecretId> = record::get(tx, Place::Ordered(SECRET_IDS, key))?;
    Ok(found.filter(|s| s.lives(now)))
}

/// The key of an accessor of this role.
pub fn of_accessor(tx: &mut Tx, role: &Role, accessor: &str) -> Result<Option<Key>> {
    let Some(found) = tx.get(Place::Id(ACCESSORS, accessor))? else { return Ok(None) };
    let key: Key = found.try_into().map_err(|_| Error::internal("the record of an accessor is broken"))?;
    Ok(Some(key).filter(|k| k[..16] == role.internal_id))
}

/// Keep a new one.
pub fn insert(tx: &mut Tx, key: &Key, secret_id: &SecretId) -> Result<()> {
    if let Some(old) = record::get::<SecretId>(tx, Place::Ordered(SECRET_IDS, key))? {
        // It has ended, else it would be in use.
        remove(tx, key, &old)?;
    }
    tx.put(Place::Id(ACCESSORS, &secret_id.accessor), key.to_vec())?;
    if let Some(ends) = secret_id.ends_ns {
        tx.put(Place::Ordered(ENDS, &end_key(ends, key)), vec![1])?;
    }
    update(tx, key, secret_id)
}

pub fn update(tx: &mut Tx, key: &Key, secret_id: &SecretId) -> Result<()> {
    record::put(tx, Place::Ordered(SECRET_IDS, key), secret_id)
}

/// What the uses of a secret id are noted by.
pub fn use_of(accessor: &str) -> String {
    format!("secret-id-accessor/{accessor}")
}

pub fn remove(tx: &mut Tx, key: &Key, secret_id: &SecretId) -> Result<()> {
    tx.forget_use(&use_of(&secret_id.accessor))?;
    tx.delete(Place::Id(ACCESSORS, &secret_id.accessor))?;
    if let Some(ends) = secret_id.ends_ns {
        tx.delete(Place::Ordered(ENDS, &end_key(ends, key)))?;
    }
    tx.delete(Place::Ordered(SECRET_IDS, key))
}

/// All accessors of a role, sorted.
pub fn accessors(tx: &mut Tx, role: &Role, now: Timestamp) -> Result<Vec<String>> {
    let (mut start, end) = (role.internal_id.to_vec(), after_prefix(&role.internal_id));
    let mut out = Vec::new();
    loop {
        let step = tx.ordered(SECRET_IDS, &start, &end, STEP)?;
        for (_, bytes) in &step {
            let secret_id: SecretId = record::read(bytes)?;
            if secret_id.lives(now) {
                out.push(secret_id.accessor);
            }
        }
        match step.last() {
            Some((last, _)) if step.len() == STEP => start = [last.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// Remove what a deleted role leaves: nobody can use it any more, since the role's internal id is gone.
pub fn forget_role(tx: &mut Tx, role: &Role) -> Result<()> {
    if remove_of_role(tx, &role.internal_id, WITH_THE_ROLE)? == WITH_THE_ROLE {
        tx.put(Place::Ordered(GONE_ROLES, &role.internal_id), vec![1])?;
    }
    Ok(())
}

/// Remove secret ids that ended or whose role is gone, at most `limit`. Returns how many these were.
pub fn sweep(tx: &mut Tx, now: Timestamp, limit: usize) -> Result<usize> {
    let mut removed = 0;
    while removed < limit {
        let Some((role, _)) = tx.ordered(GONE_ROLES, &[], &[], 1)?.pop() else { break };
        let batch = remove_of_role(tx, &role, limit - removed)?;
        if batch < limit - removed {
            tx.delete(Place::Ordered(GONE_ROLES, &role))?;
        }
        removed += batch;
    }
    if removed == limit {
        return Ok(removed);
    }
    for (end, _) in tx.ordered(ENDS, &[], &now.0.saturating_add(1).to_be_bytes(), limit - removed)? {
        let key: Option<Key> = end.get(8..).and_then(|k| k.try_into().ok());
        match key.map(|k| Ok((k, record::get::<SecretId>(tx, Place::Ordered(SECRET_IDS, &k))?))).transpose()? {
            Some((key, Some(secret_id))) => remove(tx, &key, &secret_id)?,
            _ => tx.delete(Place::Ordered(ENDS, &end))?,
        }
        removed += 1;
    }
    Ok(removed)
}

fn remove_of_role(tx: &mut Tx, internal_id: &[u8], limit: usize) -> Result<usize> {
    let found = tx.ordered(SECRET_IDS, internal_id, &after_prefix(internal_id), limit)?;
    for (key, bytes) in &found {
        let key: &Key = key.as_slice().try_into().map_err(|_| Error::internal("the key of a secret id is broken"))?;
        remove(tx, key, &record::read(bytes)?)?;
    }
    Ok(found.len())
}

impl SecretId {
    fn lives(&self, now: Timestamp) -> bool {
        self.ends_ns.is_none_or(|end| now.0 < end)
    }
}

fn end_key(ends_ns: u64, key: &Key) -> Vec<u8> {
    [&ends_ns.to_be_bytes()[..], key].concat()
}

/// The first key behind all that start with a prefix. Empty: there is none.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}
