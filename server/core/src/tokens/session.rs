//! A token in use: what each of its requests needs, computed once and kept until the token changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_hsm::memory::Secret;
use holdfast_sdk::Caller;

use super::{Held, TokenEntry};
use crate::audit::{Broker, KnownToken, TokenFacts};
use crate::in_flight::client_id;
use crate::unions::Names;

pub struct Session {
    pub entry: TokenEntry,
    pub caller: Caller,
    /// The token's own policies.
    pub policies: Names,
    /// The token in audit lines, for each device.
    pub audit: Arc<KnownToken>,
    /// The hour of the last use that was noted.
    noted: AtomicU32,
}

impl Session {
    pub fn new(held: Held, token: &str, broker: &Broker) -> Session {
        let Held { namespace, id, entry } = held;
        let caller = Caller {
            display_name: entry.display_name.clone(),
            entity_id: entry.entity_id.clone(),
            policies: entry.policies.clone().into(),
            token_id: id,
            namespace,
            root: entry.is_root(),
            sudo: false,
            lease_owner: id.or(entry.parent()),
            batch_end: entry.expires.filter(|_| entry.batch),
        };
        let audit = Arc::new(broker.known(TokenFacts {
            token: Secret::new(token.to_owned()),
            accessor: entry.accessor.clone(),
            display_name: entry.display_name.clone(),
            policies: entry.policies.clone(),
            metadata: entry.metadata.clone(),
            entity_id: entry.entity_id.clone(),
            token_type: entry.token_type().word(),
            ttl_secs: entry.ttl_secs,
            issue_time: entry.issued().rfc3339_secs(),
            client_id: client_id(&caller),
        }));
        Session { policies: caller.policies.clone().into(), entry, caller, audit, noted: AtomicU32::new(0) }
    }

    /// Whether a use in this hour was noted already; from now on it is.
    #[inline]
    pub fn is_noted_in(&self, hour: u32) -> bool {
        self.noted.load(Ordering::Relaxed) == hour || self.noted.swap(hour, Ordering::Relaxed) == hour
    }

    /// There was no room for the note.
    pub fn forget_noted(&self) {
        self.noted.store(0, Ordering::Relaxed);
    }
}
