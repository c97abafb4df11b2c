//! `X-Vault-Index`: a state of the store, as clients carry it from a write to a later read, perhaps of
//! another node. An answer to a write names a state that holds what was written; a request that names one is
//! answered by nobody who has not reached it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use holdfast_storage::{Snapshot, StoreError};

use crate::layout::RESTORES;
use crate::{Answer, Core, Open, random};

/// The header's name.
pub const HEADER: &str = "X-Vault-Index";
/// Our own name for it.
pub const OWN_HEADER: &str = "X-Holdfast-Index";

const FORMAT: u8 = 1;

/// A state that a client has seen.
#[derive(Debug, PartialEq)]
struct State {
    cluster: [u8; 16],
    /// Another one since every restore of a snapshot, which takes states back.
    restores: u64,
    index: u64,
}

/// What [`State::restores`] is, as a store has it.
pub(crate) fn restores(snapshot: &Snapshot) -> Result<u64, StoreError> {
    let of = |value: &[u8]| value.try_into().map_or(u64::MAX, u64::from_be_bytes);
    snapshot.with(RESTORES, |value| value.map_or(0, of))
}

impl State {
    fn encode(&self) -> String {
        let parts = [&[FORMAT][..], &self.cluster, &self.restores.to_be_bytes(), &self.index.to_be_bytes()];
        STANDARD.encode(parts.concat())
    }

    fn decode(text: &str) -> Option<State> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        let (format, rest) = bytes.split_first()?;
        let (cluster, rest) = rest.split_first_chunk::<16>()?;
        let (restores, rest) = rest.split_first_chunk::<8>()?;
        let index = rest.try_into().ok()?;
        (*format == FORMAT).then_some(State {
            cluster: *cluster,
            restores: u64::from_be_bytes(*restores),
            index: u64::from_be_bytes(index),
        })
    }
}

impl Core {
    fn state(&self, open: &Open) -> State {
        let cluster = random::parse_uuid(&open.cluster_id).unwrap_or_default();
        State { cluster, restores: open.restores, index: self.store.view().index() }
    }

    /// The present state, which holds all that was answered so far, under both names.
    pub(crate) fn index_headers(&self, open: &Open) -> [(String, String); 2] {
        let state = self.state(open).encode();
        [(HEADER.to_owned(), state.clone()), (OWN_HEADER.to_owned(), state)]
    }

    /// Whether the states that a request names are reached, each of them: 400 what cannot be read, 412
    /// what is of another store or not there yet.
    pub fn check_index<'h>(&self, given: impl Iterator<Item = &'h str>) -> Result<(), Answer> {
        let Some(open) = self.open() else { return Err(self.sealed_answer()) };
        self.check_index_in(&open, given)
    }

    pub(crate) fn check_index_in<'h>(&self, open: &Open, given: impl Iterator<Item = &'h str>) -> Result<(), Answer> {
        let now = self.state(open);
        for text in given.flat_map(|g| g.split(',')).filter(|t| !t.trim().is_empty()) {
            let wanted =
                State::decode(text).ok_or_else(|| Answer::error(400, &format!("failed to decode {HEADER:?}")))?;
            let reached = (wanted.cluster, wanted.restores) == (now.cluster, now.restores) && wanted.index <= now.index;
            if !reached {
                return Err(Answer::error(412, "required index state not present"));
            }
        }
        Ok(())
    }

    /// Whether one of these states is never reached here: it is another store's, or from before a restore.
    pub(crate) fn names_another_store(&self, open: &Open, given: &[&str]) -> bool {
        let now = self.state(open);
        let states = given.iter().flat_map(|g| g.split(',')).filter_map(State::decode);
        states.into_iter().any(|wanted| (wanted.cluster, wanted.restores) != (now.cluster, now.restores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unsealed;

    #[tokio::test]
    async fn a_state_of_another_store_or_of_later_is_not_reached() {
        let (core, open) = unsealed().await;
        let [(name, own), (own_name, same)] = core.index_headers(&open);
        assert_eq!((name.as_str(), own_name.as_str()), ("X-Vault-Index", "X-Holdfast-Index"));
        assert_eq!(own, same);
        let check = |given: &[&str]| core.check_index(given.iter().copied()).map_err(|a| a.status);
        let now = core.state(&open);
        let later = State { index: now.index + 1, ..core.state(&open) }.encode();
        let foreign = State { cluster: [7; 16], ..core.state(&open) }.encode();
        assert_eq!(now.restores, 0);
        let restored = State { restores: 1, ..core.state(&open) }.encode();
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[&own, ""]), Ok(()));
        assert_eq!(check(&[&format!("{own}, {own}")]), Ok(()));
        for refused in [&later, &foreign, &restored] {
            assert_eq!(check(&[&own, refused]), Err(412));
        }
        for broken in ["x", "AAAA", &own[..40], &format!("{own}A")] {
            assert_eq!(check(&[broken]), Err(400), "{broken}");
        }
        drop(open);
        core.seal_now().await;
        assert_eq!(core.check_index([own.as_str()].into_iter()).map_err(|a| a.status), Err(503));
    }
}
