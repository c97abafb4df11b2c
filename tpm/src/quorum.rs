//! Custodians: what is sealed opens when so many of them have signed the TPM's own nonce.
//!
//! The policy is TPM2_PolicySigned by each of so many, for every choice of them, joined by TPM2_PolicyOR. Each signs the
//! same message (Part 3, 23.3): `nonceTPM ‖ expiration ‖ cpHash ‖ reference`. The nonce is of one policy session, which
//! waits in the TPM: no signature is good in another one, nor twice. The TPM counts the expiration from the session's
//! start. cpHash is TPM2_Unseal of this very object, and the reference is its place in the store, so that a signature
//! is good for nothing else.

use crate::connection::{Connection, Tpm};
use crate::fault::Fault;
use crate::policy::{Branches, PolicyDigest, choices};
use crate::seal::{self, tampered};
use crate::sealed::{self, Header};
use crate::signer::{self, Signer, name_of};
use crate::{measured, trial};
use holdfast_hsm::device::{Challenge, Custodian, CustodianSignature, DeviceError, DeviceErrorClass as Class, KeyRef};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::{Custodians, TpmConfig};
use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::constants::tss::TPM2_CC_Unseal;
use tss_esapi::handles::SessionHandle;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{Digest, DigestList, Nonce};

/// How long a session may be kept for custodians, in seconds.
const LONGEST_SECS: u32 = 24 * 3600;

/// Who has to sign, as it stands with what was sealed.
#[derive(Debug, Clone, Encode, Decode)]
pub(crate) struct Quorum {
    #[n(0)]
    threshold: u8,
    #[n(1)]
    members: Vec<Member>,
}

#[derive(Debug, Clone, Encode, Decode)]
struct Member {
    #[n(0)]
    name: String,
    /// SubjectPublicKeyInfo.
    #[cbor(n(1), with = "minicbor::bytes")]
    spki: Vec<u8>,
}

/// A session that waits for custodians.
pub(crate) struct Pending {
    session: PolicySession,
    nonce: Vec<u8>,
    cp_hash: [u8; 32],
    reference: [u8; 32],
    valid: Duration,
    message: Vec<u8>,
    until: Instant,
}

impl Pending {
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    pub(crate) fn session(&self) -> SessionHandle {
        self.session.into()
    }
}

impl Quorum {
    /// Of the configuration, with the keys in its files.
    pub(crate) fn configured(config: &TpmConfig) -> Result<Option<Self>, DeviceError> {
        let Some(Custodians { threshold, public_keys }) = &config.custodians else { return Ok(None) };
        if !(1..=Custodians::MAX).contains(&public_keys.len())
            || !(1..=public_keys.len()).contains(&usize::from(*threshold))
        {
            return Err(DeviceError::config(format!(
                "{threshold} of {} custodians cannot be: name 1 to {}, and no more of them as threshold",
                public_keys.len(),
                Custodians::MAX
            )));
        }
        let mut members: Vec<Member> = Vec::with_capacity(public_keys.len());
        for file in public_keys {
            let spki = signer::spki_of_file(file, "custodians")?;
            let name = Path::new(file).file_stem().map_or(file.clone(), |stem| stem.to_string_lossy().into_owned());
            if Signer::of_spki(&spki).is_none() {
                return Err(DeviceError::config(format!(
                    "the key of custodian {file} is none that a TPM verifies with: use RSA, or EC on P-256 or P-384"
                )));
            }
            if let Some(same) = members.iter().find(|member| member.spki == spki || member.name == name) {
                let what = if same.spki == spki { "key" } else { "name" };
                return Err(DeviceError::config(format!(
                    "the custodians {} and {name} ({file}) have the same {what}: each signs with a key of their own, in a \
                     file of their own name",
                    same.name
                )));
            }
            members.push(Member { name, spki });
        }
        Ok(Some(Self { threshold: *threshold, members }))
    }

    /// Tries what an unseal will need of this TPM: it takes these keys, and its nonces can be signed.
    pub(crate) fn try_out(&self, connection: &mut Connection) -> Result<(), Fault> {
        for (member, signer) in self.members.iter().zip(self.signers()?) {
            let expected = signer.name()?;
            let name =
                signer.loaded(connection, |_, _, name| Ok(name.value().to_vec())).map_err(|fault| {
                    match fault.kind() {
                        Some(Kind::KeySize | Kind::Curve | Kind::Value | Kind::Scheme | Kind::Asymmetric) => {
                            DeviceError::config(format!(
                                "this TPM does not take the key of custodian {}: use RSA-2048 or EC P-256",
                                member.name
                            ))
                            .into()
                        }
                        _ => fault,
                    }
                })?;
            if name != expected {
                let text = format!("the TPM gives the key of custodian {} another Name than ours", member.name);
                return Err(DeviceError::new(Class::Failed, text).into());
            }
        }
        trial::signed_nonce(connection)
    }

    /// The policy's branches, one for each choice of custodians, upon what is asked of the machine.
    pub(crate) fn branches(&self, base: PolicyDigest, aad: &[u8]) -> Result<Branches, Fault> {
        let reference = reference(aad);
        let names = self.signers()?.iter().map(Signer::name).collect::<tss_esapi::Result<Vec<_>>>()?;
        let branch =
            |choice: Vec<usize>| choice.iter().fold(base, |so_far, i| so_far.and_signed(&names[*i], &reference));
        Ok(Branches::of(self.choices().into_iter().map(branch).collect()))
    }

    /// Why this does not open by itself.
    pub(crate) fn is_needed(&self, config: &TpmConfig) -> DeviceError {
        let names: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
        DeviceError::new(
            Class::NeedsCustodians,
            format!(
                "{} opens the store when {} of its {} custodians ({}) have signed: 'holdfast operator custodians challenge' \
                 shows what",
                config.name(),
                self.threshold,
                names.len(),
                names.join(", ")
            ),
        )
    }

    fn choices(&self) -> Vec<Vec<usize>> {
        choices(self.members.len(), usize::from(self.threshold))
    }

    fn signers(&self) -> Result<Vec<Signer>, DeviceError> {
        let read = |member: &Member| {
            Signer::of_spki(&member.spki)
                .ok_or_else(|| DeviceError::new(Class::Tampered, format!("the key of {} cannot be read", member.name)))
        };
        self.members.iter().map(read).collect()
    }

    fn custodians(&self) -> Result<Vec<Custodian>, DeviceError> {
        let custodian = |(member, signer): (&Member, Signer)| Custodian {
            name: member.name.clone(),
            public_key: member.spki.clone(),
            mechanism: signer.mechanism,
        };
        Ok(self.members.iter().zip(self.signers()?).map(custodian).collect())
    }
}

/// Begins to wait for custodians.
pub(crate) fn challenge(
    tpm: &Tpm,
    key: &KeyRef,
    bytes: &[u8],
    aad: &[u8],
    valid_secs: u32,
) -> Result<Challenge, DeviceError> {
    let parts = sealed::parse(bytes).ok_or_else(|| tampered(key))?;
    let header = &parts.header;
    let quorum = header.quorum.as_ref().ok_or_else(|| tampered(key))?;
    if !(1..=LONGEST_SECS).contains(&valid_secs) {
        return Err(DeviceError::invalid(format!("a challenge is good for 1 to {LONGEST_SECS} seconds")));
    }
    tpm.run("make a challenge for custodians", |connection| {
        connection.end_challenge()?;
        seal::is_of_this_root(connection, key, header)?;
        // Nobody is asked in vain.
        seal::ask_for_the_pin(connection, &tpm.config, header)?;
        connection.with_policy(|connection, session| measured::show(connection, &tpm.config, header, session))?;
        let (session, nonce) = connection.session_with_nonce()?;
        let (cp_hash, reference) = (unseal_of(header), reference(aad));
        let message = message(&nonce, valid_secs, &cp_hash, &reference);
        let valid = Duration::from_secs(valid_secs.into());
        let until = Instant::now() + valid;
        connection.pending =
            Some(Pending { session, nonce, cp_hash, reference, valid, message: message.clone(), until });
        let (threshold, custodians) = (quorum.threshold, quorum.custodians()?);
        Ok(Challenge { message, threshold, custodians, valid_secs })
    })
}

/// Opens what they have signed for. The session ends with it.
pub(crate) fn decrypt(
    tpm: &Tpm,
    key: &KeyRef,
    (bytes, aad): (&[u8], &[u8]),
    message: &[u8],
    signatures: &[CustodianSignature],
) -> Result<Secret<Vec<u8>>, DeviceError> {
    let parts = sealed::parse(bytes).ok_or_else(|| tampered(key))?;
    let header = &parts.header;
    let quorum = header.quorum.as_ref().ok_or_else(|| tampered(key))?;
    tpm.run("unseal what custodians have signed for", |connection| {
        seal::is_of_this_root(connection, key, header)?;
        let pending = connection.pending.take_if(|pending| pending.message == message);
        let Some(pending) = pending else {
            return Err(refused("there is no such challenge any more: begin a new one").into());
        };
        let once = unseal(connection, tpm, header, quorum, (&pending, aad), key, signatures);
        // ESAPI knows the session by another handle than the crate, since it was saved: both begin anew.
        connection.is_spent = true;
        let once = connection.flush(pending.session().into(), once)?;
        Ok(seal::opened(&once, &parts, key, aad)?)
    })
}

fn unseal(
    connection: &mut Connection,
    tpm: &Tpm,
    header: &Header,
    quorum: &Quorum,
    (pending, aad): (&Pending, &[u8]),
    key: &KeyRef,
    signatures: &[CustodianSignature],
) -> Result<zeroize::Zeroizing<Vec<u8>>, Fault> {
    let chosen = chosen(quorum, signatures)?;
    seal::ask_for_the_pin(connection, &tpm.config, header)?;
    let session = pending.session;
    measured::show(connection, &tpm.config, header, session)?;
    let signers = quorum.signers()?;
    for given in &chosen {
        let place = usize::from(given.custodian);
        let name = &quorum.members[place].name;
        let not_theirs = || refused(format!("the signature of {name} is not one of their key over this challenge"));
        let signature = signers[place].signature(&given.signature).ok_or_else(not_theirs)?;
        signers[place].loaded(connection, |connection, loaded, _| {
            let signed = connection.protected(|context| {
                context.policy_signed(
                    session,
                    loaded.into(),
                    Nonce::try_from(pending.nonce.clone())?,
                    Digest::try_from(pending.cp_hash.to_vec())?,
                    Nonce::try_from(pending.reference.to_vec())?,
                    Some(pending.valid),
                    signature,
                )
            });
            signed.map_err(|error| {
                let fault = Fault::from(error);
                match fault.kind() {
                    Some(Kind::Signature) => not_theirs().into(),
                    Some(Kind::Expired) => too_late().into(),
                    _ => fault,
                }
            })?;
            Ok(())
        })?;
    }
    let places: Vec<usize> = chosen.iter().map(|given| usize::from(given.custodian)).collect();
    let branch = quorum.choices().iter().position(|choice| *choice == places);
    let branch = branch.ok_or_else(|| refused("these custodians are no choice of the policy"))?;
    let branches = quorum.branches(seal::measurements(&header.measured, header.approver.as_deref())?, aad)?;
    for group in branches.way_from(branch) {
        let mut digests = DigestList::new();
        for policy in group {
            digests.add(Digest::try_from(policy.0.to_vec())?)?;
        }
        connection.context.execute_without_session(|context| context.policy_or(session, digests))?;
    }
    seal::pin_too(connection, header, session)?;
    let object = seal::load(connection, header, key)?;
    let once = seal::unseal_with(connection, &tpm.config, header, object, session.into());
    let once = once.map_err(|fault| if fault.kind() == Some(Kind::Expired) { too_late().into() } else { fault });
    connection.flush(object.into(), once)
}

/// As many as are wanted, of different custodians, in their order.
fn chosen<'s>(
    quorum: &Quorum,
    signatures: &'s [CustodianSignature],
) -> Result<Vec<&'s CustodianSignature>, DeviceError> {
    let mut chosen: Vec<&CustodianSignature> = signatures.iter().collect();
    chosen.sort_by_key(|given| given.custodian);
    chosen.dedup_by_key(|given| given.custodian);
    chosen.retain(|given| usize::from(given.custodian) < quorum.members.len());
    let wanted = usize::from(quorum.threshold);
    if chosen.len() < wanted {
        return Err(refused(format!("{} custodians have signed, and {wanted} have to", chosen.len())));
    }
    chosen.truncate(wanted);
    Ok(chosen)
}

/// What each of them signs.
fn message(nonce: &[u8], valid_secs: u32, cp_hash: &[u8; 32], reference: &[u8; 32]) -> Vec<u8> {
    [nonce, &valid_secs.to_be_bytes(), cp_hash, reference].concat()
}

/// cpHash of TPM2_Unseal of an object (Part 1, 16.7): nothing else is signed for.
fn unseal_of(header: &Header) -> [u8; 32] {
    Sha256::new().chain_update(TPM2_CC_Unseal.to_be_bytes()).chain_update(name_of(&header.public)).finalize().into()
}

/// policyRef: the purpose, and what the sealed secret is bound to.
fn reference(aad: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(b"holdfast custodians").chain_update(aad).finalize().into()
}

fn too_late() -> DeviceError {
    refused("the custodians' time is over: begin a new challenge")
}

fn refused(why: impl Into<String>) -> DeviceError {
    DeviceError::new(Class::PolicyRefused, why)
}
