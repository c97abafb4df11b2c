//! Custodians: people whose signatures a seal's device wants to see before it opens the store.
//!
//! The device makes a challenge, which all of them sign, each with a key of their own. Signatures are gathered here, each
//! checked by the public key that stands in the challenge, so that who gives a wrong one hears it at once. The device
//! judges when there are enough. There is one challenge at a time; it ends with its time, with an unseal, or when it is
//! used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_hsm::device::{
    Challenge, Custodian, CustodianSignature, Hash, KeyKind, SignInput, SignMechanism, signature_to_der,
};
use holdfast_hsm::verify::verify;
use holdfast_sdk::{Map, Timestamp, Value};
use holdfast_seal::Lock;
use holdfast_seal::locks::wrap_context;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::bare::{strict_bool, strict_object, strict_text};
use crate::seal_state::{Refusal, failed, lock, refuse};
use crate::seals::Seal;
use crate::{Answer, Core, clock};

/// How long custodians have. They may have to go to a safe first.
const VALID: Duration = Duration::from_secs(30 * 60);
/// The longest signature in base64: of RSA-8192, more than any TPM verifies.
const LONGEST_SIGNATURE: usize = 2048;

/// Custodians who were asked.
pub(crate) struct Asked {
    seal: Arc<Seal>,
    lock: Lock,
    cluster_id: [u8; 16],
    challenge: Challenge,
    given: Vec<CustodianSignature>,
    expires: Timestamp,
    until: Instant,
}

impl Asked {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn has_signed(&self, place: usize) -> bool {
        self.given.iter().any(|given| usize::from(given.custodian) == place)
    }

    fn names(&self, which: impl Fn(usize) -> bool) -> String {
        let chosen = self.challenge.custodians.iter().enumerate().filter(|(place, _)| which(*place));
        chosen.map(|(_, custodian)| custodian.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn shown(&self) -> Map<String, Value> {
        let custodian = |(place, custodian): (usize, &Custodian)| {
            json!({
                "name": custodian.name,
                "fingerprint": hex::encode(Sha256::digest(&custodian.public_key)),
                "mechanism": custodian.mechanism.to_string(),
                "signed": self.has_signed(place),
            })
        };
        let mut m = Map::new();
        let mut set = |name: &str, value: Value| {
            m.insert(name.into(), value);
        };
        set("sealed", true.into());
        set("waiting", true.into());
        set("seal", self.seal.shown().into());
        set("message", STANDARD.encode(&self.challenge.message).into());
        set("message_sha256", hex::encode(Sha256::digest(&self.challenge.message)).into());
        set("threshold", self.challenge.threshold.into());
        set("given", self.given.len().into());
        set("expires", self.expires.rfc3339().into());
        set("custodians", self.challenge.custodians.iter().enumerate().map(custodian).collect());
        m
    }

    /// Whose signature it is, as the device takes it.
    fn owner(&self, signature: &[u8], name: &str) -> Result<CustodianSignature, Refusal> {
        let custodians = &self.challenge.custodians;
        if !name.is_empty() && !custodians.iter().any(|custodian| custodian.name == name) {
            return refuse(format!("there is no custodian {name:?}: there are {}", self.names(|_| true)));
        }
        for (place, custodian) in (0..).zip(custodians) {
            if (name.is_empty() || custodian.name == name)
                && let Some(signature) = checked(custodian, &self.challenge.message, signature)
            {
                return Ok(CustodianSignature { custodian: place, signature });
            }
        }
        let whose = if name.is_empty() { format!("any custodian ({})", self.names(|_| true)) } else { name.to_owned() };
        refuse(format!(
            "the signature is not one of {whose} over the present challenge: sign the message that the challenge shows now, as \
             it is, with the mechanism that stands with the key"
        ))
    }
}

/// The signature, if it is the custodian's; of ECDSA also where the token has given its two numbers alone.
fn checked(custodian: &Custodian, message: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    let (kind, half_bytes) = match custodian.mechanism {
        SignMechanism::Ecdsa(Hash::Sha256) => (KeyKind::EcP256, Some(32)),
        SignMechanism::Ecdsa(Hash::Sha384) => (KeyKind::EcP384, Some(48)),
        SignMechanism::RsaPkcs1(_) => (KeyKind::Rsa(2048), None),
        _ => return None,
    };
    let input = SignInput::Message(message.to_vec());
    let is_theirs = |signature: &Vec<u8>| {
        verify(kind, &custodian.public_key, custodian.mechanism, &input, signature).unwrap_or(false)
    };
    let as_it_is = Some(signature.to_vec()).filter(is_theirs);
    as_it_is.or_else(|| {
        let raw = half_bytes.is_some_and(|half| signature.len() == 2 * half);
        raw.then(|| signature_to_der(signature)).filter(is_theirs)
    })
}

impl Core {
    /// `sys/unseal/custodians`, read: who is asked for what.
    pub(crate) fn custodians(&self) -> Answer {
        let mut present = lock(&self.seal.custodians);
        present.take_if(|asked| asked.is_over());
        let shown = match &*present {
            Some(asked) => asked.shown(),
            None => {
                let sealed = ("sealed".to_owned(), Value::from(!self.is_unsealed()));
                Map::from_iter([sealed, ("waiting".to_owned(), false.into())])
            }
        };
        Answer::bare(200, &shown)
    }

    /// `sys/unseal/custodians`, written: begin to ask, or show what was begun.
    pub(crate) async fn ask_custodians(self: &Arc<Self>, body: &[u8]) -> Answer {
        let reset = match strict_object(body).and_then(|body| strict_bool(&body, "reset")) {
            Ok(reset) => reset,
            Err(text) => return Answer::error(400, &text),
        };
        match self.begin_to_ask(reset).await {
            Ok(()) => self.custodians(),
            Err(Refusal(status, text)) => Answer::error(status, &text),
        }
    }

    async fn begin_to_ask(self: &Arc<Self>, reset: bool) -> Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        if self.is_unsealed() {
            return Ok(());
        }
        if lock(&self.seal.custodians).as_ref().is_some_and(|asked| !asked.is_over()) && !reset {
            return Ok(());
        }
        *lock(&self.seal.custodians) = None;
        let Some(read) = self.lock_list().map_err(failed)? else { return refuse("Vault is not initialized") };
        if let Some(migration) = self.seal_migration(&read.list) {
            return refuse(migration.to_string());
        }
        let (seals, node) = (self.seals(), self.node_id());
        let of_custodians = seals.present.iter().find_map(|seal| {
            let mut locks = seals.locks_of(seal, &read.list, node).into_iter();
            let of_seal = locks.find(|lock| lock.needs_custodians() && lock.stale_since.is_none())?;
            Some((seal.clone(), of_seal.clone()))
        });
        let Some((seal, of_seal)) = of_custodians else {
            return refuse("no seal of the configuration waits for custodians");
        };
        let (cluster_id, asked_for) = (read.list.cluster_id, of_seal.clone());
        let challenge = seal
            .ask(move |device| device.challenge(&asked_for, &wrap_context(&cluster_id, &asked_for.id), VALID))
            .await
            .map_err(|refusal| Refusal(503, refusal.text))?;
        tracing::info!(seal = seal.shown(), "custodians are asked to sign");
        let valid = u64::from(challenge.valid_secs);
        let expires = Timestamp::from_secs(clock::now().secs() + valid);
        let until = Instant::now() + Duration::from_secs(valid);
        *lock(&self.seal.custodians) =
            Some(Asked { seal, lock: of_seal, cluster_id, challenge, given: Vec::new(), expires, until });
        Ok(())
    }

    /// `sys/unseal/custodians/sign`: take the signature of one of them.
    pub(crate) async fn custodian_signs(self: &Arc<Self>, body: &[u8]) -> Answer {
        let given = strict_object(body)
            .and_then(|body| Ok((strict_text(&body, "signature")?, strict_text(&body, "custodian")?)));
        let (signature, name) = match given {
            Ok(given) => given,
            Err(text) => return Answer::error(400, &text),
        };
        if signature.is_empty() || signature.len() > LONGEST_SIGNATURE {
            return Answer::error(400, "'signature' is to be the signature over the challenge's message, in base64");
        }
        let Ok(signature) = STANDARD.decode(signature.trim()) else {
            return Answer::error(400, "'signature' must be base64");
        };
        match self.take_signature(&signature, &name).await {
            Ok(()) => self.custodians(),
            Err(Refusal(status, text)) => Answer::error(status, &text),
        }
    }

    async fn take_signature(self: &Arc<Self>, signature: &[u8], name: &str) -> Result<(), Refusal> {
        let _one = self.seal.act.lock().await;
        if self.is_unsealed() {
            return Ok(());
        }
        let enough = {
            let mut present = lock(&self.seal.custodians);
            present.take_if(|asked| asked.is_over());
            let Some(asked) = present.as_mut() else {
                return refuse(
                    "no custodian is asked at present: begin a challenge first (POST sys/unseal/custodians)",
                );
            };
            let given = asked.owner(signature, name)?;
            // Who gives theirs twice has signed once.
            if !asked.has_signed(usize::from(given.custodian)) {
                asked.given.push(given);
            }
            present.take_if(|asked| asked.given.len() >= usize::from(asked.challenge.threshold))
        };
        match enough {
            Some(asked) => self.unseal_signed(asked).await,
            None => Ok(()),
        }
    }

    /// The device judges.
    async fn unseal_signed(self: &Arc<Self>, asked: Asked) -> Result<(), Refusal> {
        let cause = format!(
            "{} of {} custodians ({}) signed, and the device of the seal {:?} opened the store",
            asked.given.len(),
            asked.challenge.custodians.len(),
            asked.names(|place| asked.has_signed(place)),
            asked.seal.shown()
        );
        let Asked { seal, lock: of_seal, cluster_id, challenge, given, .. } = asked;
        let (began, id) = (Instant::now(), of_seal.id);
        let opened = seal
            .ask(move |device| {
                let context = wrap_context(&cluster_id, &of_seal.id);
                device.unwrap_signed(&of_seal, &context, &challenge.message, given)
            })
            .await;
        let again = |text: String| Refusal(400, format!("{text}. The challenge is used up: begin a new one"));
        let root = opened.map_err(|refusal| again(refusal.text))?;
        let Some(read) = self.lock_list().map_err(failed)? else { return refuse("Vault is not initialized") };
        read.verify(&root).map_err(|e| again(e.to_string()))?;
        seal.note(Ok(id), began);
        self.unlock(root, None, &cause).await?;
        if let Some(lock) = read.list.locks.iter().find(|lock| lock.id == id) {
            self.note_opened(lock);
        }
        if let Some(open) = self.open()
            && let Err(Refusal(_, why)) = self.note_proved(&open, id).await
        {
            tracing::warn!("it is not noted that the lock of the custodians was opened: {why}");
        }
        Ok(())
    }
}
