//! Which process counts as a member, where a copied folder or a cloned machine has made two with one key.
//!
//! Each process shows a serial number of its own in the handshake ([`crate::identity`]). Whoever calls with a member's key
//! and is not the process that counted until now counts from now on if no other one answers where the member is: so a
//! restart is taken at once. A second process is refused while the first one is there, and from then on until it is
//! started again: it shall not slip in while the first one is restarted. Where the member is is what the members' list
//! says, which is the same everywhere, and then where the one that counted said it was.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A process that does not answer within this is gone.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// A copy that has not called for so long is not spoken of any more. One that runs calls every few seconds.
const IS_NEWS: Duration = Duration::from_secs(30);
/// It is logged so often while it goes on.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Processes that were refused are remembered, so many of each member.
const REFUSED: usize = 64;

/// The processes that count, by the hash of a member's key.
#[derive(Default)]
pub struct Incarnations(Mutex<HashMap<String, Known>>);

#[derive(Default)]
struct Known {
    counts: Option<String>,
    /// It is found out once, whoever waits for it.
    finding: Arc<tokio::sync::Mutex<()>>,
    copy: Option<Second>,
    /// Processes that were refused, the last one first.
    refused: VecDeque<String>,
}

/// A process that was refused.
struct Second {
    calls_from: String,
    other_at: String,
    called: Instant,
    said: Instant,
}

impl Incarnations {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process is the one that counts.
    pub fn counts(&self, key_hash: &str, incarnation: &str) -> bool {
        self.known().get(key_hash).is_some_and(|k| k.counts.as_deref() == Some(incarnation))
    }

    /// Let the process that calls count as the member, unless another one answers at one of `places`. `Err`: where.
    ///
    /// One that was refused before is let in only where it answers itself at the first of these that answers.
    pub async fn admit<F: Future<Output = io::Result<String>>>(
        &self,
        key_hash: &str,
        caller: &str,
        places: Vec<String>,
        ask: impl Fn(String) -> F,
    ) -> Result<(), String> {
        let finding = self.known().entry(key_hash.to_owned()).or_default().finding.clone();
        let _one = finding.lock().await;
        if self.counts(key_hash, caller) {
            return Ok(());
        }
        for place in places {
            // Who does not answer is gone, or is cut off: members need one that they reach.
            if let Ok(Ok(answers)) = tokio::time::timeout(ANSWERS_WITHIN, ask(place.clone())).await {
                let is_caller = answers == caller;
                let mut known = self.known();
                let known = known.entry(key_hash.to_owned()).or_default();
                known.counts = Some(answers);
                if is_caller {
                    known.refused.retain(|refused| refused != caller);
                    return Ok(());
                }
                if !known.refused.iter().any(|refused| refused == caller) {
                    known.refused.truncate(REFUSED - 1);
                    known.refused.push_front(caller.to_owned());
                }
                return Err(place);
            }
        }
        let mut known = self.known();
        let known = known.entry(key_hash.to_owned()).or_default();
        if known.refused.iter().any(|refused| refused == caller) {
            return Err(known.copy.as_ref().map_or_else(String::new, |copy| copy.other_at.clone()));
        }
        known.counts = Some(caller.to_owned());
        Ok(())
    }

    /// A process was refused. True: it is time to say so.
    pub fn refused(&self, key_hash: &str, calls_from: String, other_at: String) -> bool {
        let now = Instant::now();
        let mut known = self.known();
        let known = known.entry(key_hash.to_owned()).or_default();
        let said = known.copy.as_ref().map(|c| c.said).filter(|said| said.elapsed() < SAY_AGAIN);
        known.copy = Some(Second { calls_from, other_at, called: now, said: said.unwrap_or(now) });
        said.is_none()
    }

    /// A member of which a copy has called lately: the hash of its key, where the one that counts is, and where the other
    /// one calls from.
    pub fn copied(&self) -> Option<(String, String, String)> {
        let known = self.known();
        let mut copies = known.iter().filter_map(|(key, k)| Some((key, k.copy.as_ref()?)));
        let (key, copy) = copies.find(|(_, copy)| copy.called.elapsed() < IS_NEWS)?;
        Some((key.clone(), copy.other_at.clone(), copy.calls_from.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What answers where.
    async fn calls(known: &Incarnations, caller: &str, there: &[(&str, &str)]) -> Result<(), String> {
        let places = vec!["listed".to_owned(), "said".to_owned()];
        let answer = |place: String| {
            let answer = there.iter().find(|(at, _)| *at == place).map(|(_, who)| (*who).to_owned());
            std::future::ready(answer.ok_or(io::ErrorKind::ConnectionRefused.into()))
        };
        known.admit("key", caller, places, answer).await
    }

    #[tokio::test]
    async fn a_second_process_is_refused_while_the_first_is_there_and_a_restart_never() {
        let known = Incarnations::default();
        assert_eq!(calls(&known, "one", &[("listed", "one")]).await, Ok(()));
        assert!(known.counts("key", "one"));
        assert_eq!(calls(&known, "two", &[("listed", "one")]).await, Err("listed".into()));
        assert!(known.counts("key", "one") && !known.counts("key", "two"));
        // Started again at the same address, before and after it listens.
        assert_eq!(calls(&known, "one again", &[]).await, Ok(()));
        assert_eq!(calls(&known, "one once more", &[("listed", "one once more")]).await, Ok(()));
        // It has moved, and the list does not say so yet.
        assert_eq!(calls(&known, "moved", &[]).await, Ok(()));
        assert_eq!(calls(&known, "two", &[("said", "moved")]).await, Err("said".into()));
        // The first is gone, or is just being started again: the other one has to be started again to count.
        known.refused("key", String::new(), "said".into());
        assert_eq!(calls(&known, "two", &[]).await, Err("said".into()));
        assert_eq!(calls(&known, "two again", &[]).await, Ok(()));
    }

    #[tokio::test]
    async fn the_one_at_the_listed_address_counts_whoever_was_heard_first() {
        let known = Incarnations::default();
        assert_eq!(calls(&known, "copy", &[("listed", "one")]).await, Err("listed".into()));
        assert!(known.counts("key", "one"), "it has not called yet, and counts");
        // The first was cut off for a while.
        assert_eq!(calls(&known, "copy again", &[]).await, Ok(()));
        assert_eq!(calls(&known, "one", &[("listed", "one"), ("said", "copy again")]).await, Ok(()));
        assert!(!known.counts("key", "copy again"));
        // It was refused where it could not be reached, and is not the copy.
        assert_eq!(calls(&known, "one more", &[("listed", "copy again")]).await, Err("listed".into()));
        assert_eq!(calls(&known, "one more", &[("listed", "one more")]).await, Ok(()));
    }

    #[test]
    fn a_copy_is_said_once_in_a_while_and_known_while_it_calls() {
        let known = Incarnations::default();
        assert_eq!(known.copied(), None);
        assert!(known.refused("key", "10.0.0.9:4000".into(), "10.0.0.1:8201".into()));
        assert!(!known.refused("key", "10.0.0.9:4001".into(), "10.0.0.1:8201".into()));
        assert_eq!(known.copied(), Some(("key".into(), "10.0.0.1:8201".into(), "10.0.0.9:4001".into())));
    }
}
