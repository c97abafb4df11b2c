//! A root token, when enough shares agree. It leaves the server covered: by a one-time password, or encrypted
//! to an OpenPGP key.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use holdfast_hsm::memory::Secret;
use holdfast_pgp::PublicKey;

use super::authority::required;
use super::{Gathering, unsealed};
use crate::seal_state::{Refusal, failed, refuse};
use crate::{Core, random, tokens};

/// An attempt that is under way.
pub(super) struct Generation {
    gathering: Gathering,
    cover: Cover,
}

enum Cover {
    Password(Secret<String>),
    Key(Box<PublicKey>),
}

/// How far an attempt is.
#[derive(Default)]
pub struct Attempt {
    pub started: bool,
    pub nonce: String,
    pub given: usize,
    pub required: u8,
    pub fingerprint: String,
    /// Shown when the attempt begins, and never again.
    pub otp: Option<Secret<String>>,
    /// The token that is to be stored, and how it is handed out.
    pub made: Option<Made>,
}

/// A token that enough shares agreed to.
#[derive(Clone)]
pub struct Made {
    pub token: Arc<Secret<String>>,
    pub encoded: String,
}

/// Bytes of a root token, which a one-time password must have too.
pub fn token_bytes() -> Result<usize, Refusal> {
    Ok(Secret::new(tokens::new_root_service_id().map_err(failed)?).expose().len())
}

impl Generation {
    fn attempt(&self, required: u8) -> Attempt {
        let fingerprint = match &self.cover {
            Cover::Password(_) => String::new(),
            Cover::Key(key) => key.fingerprint(),
        };
        let (nonce, given) = (self.gathering.nonce.clone(), self.gathering.shares.len());
        Attempt { started: true, nonce, given, required, fingerprint, ..Attempt::default() }
    }
}

impl Core {
    pub fn root_generation(&self) -> Result<Attempt, Refusal> {
        let open = unsealed(self)?;
        let required = required(&self.own_locks(&open)?);
        let state = open.ceremonies.state();
        Ok(state.generation.as_ref().map_or(Attempt { required, ..Attempt::default() }, |g| g.attempt(required)))
    }

    pub async fn begin_root_generation(&self, otp: &str, pgp_key: &str) -> Result<Attempt, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        let required = required(&self.own_locks(&open)?);
        let length = token_bytes()?;
        let mut shown = None;
        let cover = if !pgp_key.is_empty() {
            let key = PublicKey::parse(pgp_key);
            let key =
                key.map_err(|e| Refusal(400, format!("error parsing PGP key: error decoding given PGP key: {e}")))?;
            Cover::Key(Box::new(key))
        } else if !otp.is_empty() {
            if otp.len() != length {
                return refuse("OTP string has incorrect length");
            }
            Cover::Password(Secret::new(otp.to_owned()))
        } else {
            let made = random::alphanumeric(length).map_err(failed)?;
            shown = Some(Secret::new(made.clone()));
            Cover::Password(Secret::new(made))
        };
        if required == 0 {
            return refuse("the store was initialised without shares that could authorise this");
        }
        let mut state = open.ceremonies.state();
        if state.generation.is_some() {
            return refuse("root generation already in progress for this namespace");
        }
        let generation = Generation { gathering: Gathering::new()?, cover };
        let attempt = Attempt { otp: shown, ..generation.attempt(required) };
        state.generation = Some(generation);
        Ok(attempt)
    }

    pub async fn cancel_root_generation(&self) -> Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        unsealed(self)?.ceremonies.state().generation = None;
        Ok(())
    }

    /// Take a share. When enough agree, a token comes out that the caller must store.
    pub async fn give_generation_share(&self, nonce: &str, share: Secret<Vec<u8>>) -> Result<Attempt, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        let list = self.own_locks(&open)?;
        let required = required(&list);
        let given = {
            let mut state = open.ceremonies.state();
            let Some(generation) = &mut state.generation else { return refuse("no root generation in progress") };
            if generation.gathering.nonce != nonce {
                let right = &generation.gathering.nonce;
                return refuse(format!(
                    "incorrect nonce supplied; nonce for this root generation operation is {right:?}"
                ));
            }
            match generation.gathering.add(share, required, "generation operation")? {
                None => return Ok(generation.attempt(required)),
                Some(given) => given,
            }
        };
        self.authorise(&open, &list, &given)
            .map_err(|Refusal(status, text)| Refusal(status, format!("root generation aborted: {text}")))?;
        let generation = open.ceremonies.state().generation.take();
        let Some(generation) = generation else { return refuse("no root generation in progress") };
        let token = Secret::new(tokens::new_root_service_id().map_err(failed)?);
        let encoded = match &generation.cover {
            Cover::Password(otp) => STANDARD_NO_PAD.encode(covered(token.expose().as_bytes(), otp.expose().as_bytes())),
            Cover::Key(key) => STANDARD.encode(key.encrypt(token.expose().as_bytes()).map_err(failed)?),
        };
        let made = Made { token: Arc::new(token), encoded };
        Ok(Attempt { given: usize::from(required), made: Some(made), ..generation.attempt(required) })
    }
}

/// One covers the other, and uncovers it again.
pub fn covered(text: &[u8], otp: &[u8]) -> Vec<u8> {
    text.iter().zip(otp).map(|(a, b)| a ^ b).collect()
}
