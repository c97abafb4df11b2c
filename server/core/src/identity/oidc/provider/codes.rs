//! Authorization codes: each serves once and for minutes, so they live in the memory of the active node alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use holdfast_sdk::{Error, Result, Timestamp};

use crate::layout::NamespaceId;

const LIFE_SECS: u64 = 5 * 60;
/// Codes at a time.
const MOST: usize = 10_000;
/// Codes at a time for one entity: nobody takes the room of all others.
const MOST_OF_ONE: usize = 16;

/// What a code stands for.
pub struct Granted {
    pub provider: String,
    pub client_id: String,
    /// The namespace and the id of whoever logged in.
    pub entity: (NamespaceId, String),
    pub redirect_uri: String,
    pub nonce: String,
    pub scopes: Vec<String>,
    /// When the person logged in to this server, if the client asked how long ago that is.
    pub logged_in: Option<u64>,
    pub challenge: Option<Challenge>,
}

/// What the verifier of RFC 7636 has to fit.
pub enum Challenge {
    Plain(String),
    S256(String),
}

/// By namespace and code.
#[derive(Default)]
pub struct Codes(Mutex<HashMap<(NamespaceId, String), (Timestamp, Granted)>>);

impl Codes {
    pub fn keep(&self, namespace: NamespaceId, code: String, granted: Granted, now: Timestamp) -> Result<()> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, (end, _)| *end > now);
        let own = codes.iter().filter(|(_, (_, g))| g.entity == granted.entity);
        let own: Vec<_> = own.map(|(key, (end, _))| (*end, key.clone())).collect();
        if own.len() >= MOST_OF_ONE
            && let Some((_, oldest)) = own.into_iter().min()
        {
            codes.remove(&oldest);
        }
        if codes.len() >= MOST {
            return Err(Error::Unavailable("too many logins wait for their clients; try again".into()));
        }
        codes.insert((namespace, code), (now.plus_secs(LIFE_SECS), granted));
        Ok(())
    }

    /// A code serves once, whatever comes of it.
    pub fn take(&self, namespace: NamespaceId, code: &str, now: Timestamp) -> Option<Granted> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, granted) = codes.remove(&(namespace, code.to_owned()))?;
        (end > now).then_some(granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(entity: &str) -> Granted {
        Granted {
            provider: "p".into(),
            client_id: "c".into(),
            entity: ([0; 16], entity.into()),
            redirect_uri: String::new(),
            nonce: String::new(),
            scopes: Vec::new(),
            logged_in: None,
            challenge: None,
        }
    }

    #[test]
    fn a_code_serves_once_in_its_namespace_and_for_a_while() {
        let (codes, now) = (Codes::default(), Timestamp(1_000_000_000));
        codes.keep([1; 16], "a".into(), granted("x"), now).unwrap();
        assert!(codes.take([2; 16], "a", now).is_none());
        assert!(codes.take([1; 16], "a", now).is_some());
        assert!(codes.take([1; 16], "a", now).is_none());
        codes.keep([1; 16], "b".into(), granted("x"), now).unwrap();
        assert!(codes.take([1; 16], "b", now.plus_secs(LIFE_SECS)).is_none());
    }

    #[test]
    fn nobody_takes_the_room_of_all_others() {
        let (codes, now) = (Codes::default(), Timestamp(1_000_000_000));
        codes.keep([0; 16], "other".into(), granted("y"), now).unwrap();
        for n in 0..3 * MOST_OF_ONE {
            codes.keep([0; 16], format!("{n}"), granted("x"), now.plus_secs(1 + n as u64)).unwrap();
        }
        assert_eq!(codes.0.lock().unwrap().len(), MOST_OF_ONE + 1);
        let later = now.plus_secs(100);
        assert!(codes.take([0; 16], "other", later).is_some());
        assert!(codes.take([0; 16], "0", later).is_none(), "the oldest go first");
        assert!(codes.take([0; 16], &format!("{}", 3 * MOST_OF_ONE - 1), later).is_some());
    }
}
