//! A root token, when enough shares agree. It leaves the server covered: by a one-time password, or encrypted
//! to an OpenPGP key.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use holdfast_hsm::memory::Secret;
use holdfast_pgp::PublicKey;

use super::{Gathering, unsealed};
use crate::layout::NamespaceId;
use crate::seal_state::{Refusal, failed, refuse};
use crate::{Core, random, tokens};

/// An attempt that is under way.
pub(super) struct Generation {
    pub gathering: Gathering,
    pub cover: Cover,
}

pub(super) enum Cover {
    Password(Secret<String>),
    Key(Box<PublicKey>),
}

impl Cover {
    /// The cover that was asked for; and a password that was made, to be shown once.
    pub fn of(otp: &str, pgp_key: &str, length: usize) -> Result<(Cover, Option<Secret<String>>), Refusal> {
        if !pgp_key.is_empty() {
            let key = PublicKey::parse(pgp_key);
            let key =
                key.map_err(|e| Refusal(400, format!("error parsing PGP key: error decoding given PGP key: {e}")))?;
            return Ok((Cover::Key(Box::new(key)), None));
        }
        if otp.is_empty() {
            let made = random::alphanumeric(length).map_err(failed)?;
            return Ok((Cover::Password(Secret::new(made.clone())), Some(Secret::new(made))));
        }
        if otp.len() != length {
            return refuse("OTP string has incorrect length");
        }
        Ok((Cover::Password(Secret::new(otp.to_owned())), None))
    }

    /// A token under it.
    pub fn over(&self, token: &Secret<String>) -> Result<String, Refusal> {
        let token = token.expose().as_bytes();
        Ok(match self {
            Cover::Password(otp) => STANDARD_NO_PAD.encode(covered(token, otp.expose().as_bytes())),
            Cover::Key(key) => STANDARD.encode(key.encrypt(token).map_err(failed)?),
        })
    }
}

/// How far an attempt is.
#[derive(Default)]
pub struct Attempt {
    pub started: bool,
    pub nonce: String,
    pub given: usize,
    pub required: u8,
    /// Bytes of the token, which a one-time password must have too.
    pub token_bytes: usize,
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

/// A new root token's id. `suffix`: what tokens of its namespace end in.
fn new_token(suffix: &str) -> Result<Secret<String>, Refusal> {
    let mut id = tokens::new_root_service_id().map_err(failed)?;
    id.push_str(suffix);
    Ok(Secret::new(id))
}

impl Generation {
    pub fn attempt(&self, required: u8, token_bytes: usize) -> Attempt {
        let fingerprint = match &self.cover {
            Cover::Password(_) => String::new(),
            Cover::Key(key) => key.fingerprint(),
        };
        let (nonce, given) = (self.gathering.nonce.clone(), self.gathering.shares.len());
        Attempt { started: true, nonce, given, required, token_bytes, fingerprint, ..Attempt::default() }
    }
}

impl Core {
    pub fn root_generation(&self, of: NamespaceId) -> Result<Attempt, Refusal> {
        let open = unsealed(self)?;
        let holders = self.holders(&open, of)?;
        let (required, token_bytes) = (holders.required(), new_token(&holders.suffix())?.expose().len());
        let mut state = open.ceremonies.state();
        Ok(match state.generation(of) {
            Some(g) => g.attempt(required, token_bytes),
            None => Attempt { required, token_bytes, ..Attempt::default() },
        })
    }

    pub async fn begin_root_generation(&self, of: NamespaceId, otp: &str, pgp_key: &str) -> Result<Attempt, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        let holders = self.holders(&open, of)?;
        let (required, length) = (holders.required(), new_token(&holders.suffix())?.expose().len());
        let (cover, shown) = Cover::of(otp, pgp_key, length)?;
        if required == 0 {
            return refuse("the store was initialised without shares that could authorise this");
        }
        let mut state = open.ceremonies.state();
        let under_way = state.generation(of);
        if under_way.is_some() {
            return refuse("root generation already in progress for this namespace");
        }
        let generation = Generation { gathering: Gathering::new()?, cover };
        let attempt = Attempt { otp: shown, ..generation.attempt(required, length) };
        *under_way = Some(generation);
        Ok(attempt)
    }

    pub async fn cancel_root_generation(&self, of: NamespaceId) -> Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        *unsealed(self)?.ceremonies.state().generation(of) = None;
        Ok(())
    }

    /// Take a share. When enough agree, a token comes out that the caller must store.
    pub async fn give_generation_share(
        &self,
        of: NamespaceId,
        nonce: &str,
        share: Secret<Vec<u8>>,
    ) -> Result<Attempt, Refusal> {
        let _one = self.seal.act.lock().await;
        let open = unsealed(self)?;
        let holders = self.holders(&open, of)?;
        let required = holders.required();
        let token = new_token(&holders.suffix())?;
        let token_bytes = token.expose().len();
        let given = {
            let mut state = open.ceremonies.state();
            let Some(generation) = state.generation(of) else { return refuse("no root generation in progress") };
            if generation.gathering.nonce != nonce {
                let right = &generation.gathering.nonce;
                return refuse(format!(
                    "incorrect nonce supplied; nonce for this root generation operation is {right:?}"
                ));
            }
            match generation.gathering.add(share, required, "generation operation")? {
                None => return Ok(generation.attempt(required, token_bytes)),
                Some(given) => given,
            }
        };
        self.authorise(&open, &holders, &given)
            .map_err(|Refusal(status, text)| Refusal(status, format!("root generation aborted: {text}")))?;
        let generation = open.ceremonies.state().generation(of).take();
        let Some(generation) = generation else { return refuse("no root generation in progress") };
        let encoded = generation.cover.over(&token)?;
        let made = Made { token: Arc::new(token), encoded };
        Ok(Attempt { given: usize::from(required), made: Some(made), ..generation.attempt(required, token_bytes) })
    }
}

/// One covers the other, and uncovers it again.
pub fn covered(text: &[u8], otp: &[u8]) -> Vec<u8> {
    text.iter().zip(otp).map(|(a, b)| a ^ b).collect()
}
