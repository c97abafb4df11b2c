//! Sealing: a fresh AES-256 key encrypts what is given, and the TPM seals that key.

use crate::connection::{Connection, Tpm};
use crate::fault::{Fault, LOCKOUT};
use crate::pcr;
use crate::policy::PolicyDigest;
use crate::sealed::{self, Header, Parts};
use crate::{approval, root};
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, KeyRef};
use holdfast_hsm::gcm;
use holdfast_hsm::memory::{Key, Secret};
use holdfast_hsm::tpm::TpmConfig;
use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::CapabilityType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::constants::tss::{TPM2_PT_LOCKOUT_COUNTER, TPM2_PT_MAX_AUTH_FAIL};
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{
    Auth, CapabilityData, Digest, KeyedHashScheme, Nonce, Private, Public, PublicBuilder, PublicKeyedHashParameters,
    SensitiveData,
};
use tss_esapi::traits::{Marshall, UnMarshall};
use zeroize::Zeroizing;

pub(crate) fn encrypt(tpm: &Tpm, key: &KeyRef, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, DeviceError> {
    tpm.run(&format!("seal under {key}"), |connection| {
        the_root(connection, key)?;
        let once = Key::random(gcm::KEY_BYTES).map_err(|error| DeviceError::new(Class::Failed, error.to_string()))?;
        let header = seal(connection, &tpm.config, &once)?.to_bytes()?;
        // The key is used once, so the IV may be constant.
        let sealed = gcm::seal(array(once.expose())?, [0; gcm::IV_BYTES], plaintext, &[&header[..], aad].concat());
        Ok([header, sealed].concat())
    })
}

pub(crate) fn decrypt(tpm: &Tpm, key: &KeyRef, bytes: &[u8], aad: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    let Parts { header, header_bytes, ciphertext } = sealed::parse(bytes).ok_or_else(|| tampered(key))?;
    tpm.run(&format!("unseal what {key} protects"), |connection| {
        the_root(connection, key)?;
        if header.root != connection.root.name {
            return Err(tampered(key).into());
        }
        let once = unseal(connection, &tpm.config, &header, key)?;
        let opened = gcm::open(array(&once)?, [0; gcm::IV_BYTES], ciphertext, &[header_bytes, aad].concat());
        Ok(Secret::new(opened.ok_or_else(|| tampered(key))?))
    })
}

/// The one key that seals, or why it is not this.
fn the_root(connection: &mut Connection, key: &KeyRef) -> Result<(), Fault> {
    let root = connection.root.info();
    if root::is_meant(key, &root) {
        return Ok(());
    }
    connection.root.is_there(&mut connection.context)?;
    if key.label.as_ref().is_none_or(|label| *label == root.label)
        && let Some(id) = &key.id
    {
        return Err(DeviceError::new(
            Class::KeyMissing,
            format!(
                "the TPM's storage root key is another than the one that sealed this (Name {}, and it was {}): the TPM was \
                 cleared or replaced, the disk is in another machine, or 'hierarchy' or 'root_handle' was changed",
                hex::encode(&root.id),
                hex::encode(id)
            ),
        )
        .into());
    }
    Err(DeviceError::new(
        Class::KeyMissing,
        format!("{key} seals nothing: a TPM seals with its storage root key alone"),
    )
    .into())
}

/// Has the TPM make an object that holds `secret`.
fn seal(connection: &mut Connection, config: &TpmConfig, secret: &Key) -> Result<Header, Fault> {
    let measured = pcr::read(connection, &config.pcrs)?;
    let approver = config.approval.as_ref().map(approval::configured_key).transpose()?;
    let policy = policy(connection, config, &measured, approver.as_deref())?;

    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        // With a policy, the policy alone; without one, the authorisation value, which may be empty.
        .with_user_with_auth(policy.is_none())
        .with_admin_with_policy(policy.is_some())
        // A PIN can be guessed, so tries are counted; nothing else can, and must not be locked out by others' tries.
        .with_no_da(config.pin.is_none())
        .build()?;
    let mut public = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default());
    if let Some(policy) = policy {
        public = public.with_auth_policy(Digest::try_from(policy.0.to_vec())?);
    }
    let (public, auth, root) = (public.build()?, auth(config)?, connection.root.handle);
    let data = SensitiveData::try_from(secret.expose().to_vec())?;
    let made = connection.protected(|context| context.create(root, public, auth, Some(data), None, None))?;
    Ok(Header {
        root: connection.root.name.clone(),
        public: made.out_public.marshall()?,
        private: made.out_private.value().to_vec(),
        measured,
        approver,
        pin: config.pin.is_some(),
    })
}

/// What the object asks for; `None`: its authorisation value alone.
fn policy(
    connection: &mut Connection,
    config: &TpmConfig,
    measured: &[pcr::Measurement],
    approver: Option<&[u8]>,
) -> Result<Option<PolicyDigest>, Fault> {
    let policy = match approver {
        Some(spki) => {
            let name = with_approver(connection, spki, |_, _, name| Ok(name.value().to_vec()))?;
            PolicyDigest::approved_by(&name)
        }
        None if measured.is_empty() => return Ok(None),
        None => PolicyDigest::EMPTY.and_pcrs(measured),
    };
    Ok(Some(if config.pin.is_some() { policy.and_auth_value() } else { policy }))
}

/// Has the TPM give back what it sealed.
fn unseal(
    connection: &mut Connection,
    config: &TpmConfig,
    header: &Header,
    key: &KeyRef,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    if header.pin && config.pin.is_none() {
        return Err(DeviceError::new(
            Class::NeedsLogin,
            format!("{} wants a PIN for this: set 'pin_file', 'pin_env' or 'pin'", config.name()),
        )
        .into());
    }
    if header.pin {
        refuse_the_last_try(connection, config)?;
    }
    let changed = |_| tampered(key);
    let public = Public::unmarshall(&header.public).map_err(changed)?;
    let private = Private::try_from(header.private.clone()).map_err(changed)?;
    let root = connection.root.handle;
    let object = connection.protected(|context| context.load(root, private, public)).map_err(|error| {
        let fault = Fault::from(error);
        match fault.kind() {
            Some(Kind::Integrity | Kind::Size | Kind::Value | Kind::Type | Kind::Attributes | Kind::Hash)
                if fault.is_of_a_parameter() =>
            {
                tampered(key).into()
            }
            _ => fault,
        }
    })?;
    let result = unseal_object(connection, config, header, object);
    connection.flush(object.into(), result)
}

fn unseal_object(
    connection: &mut Connection,
    config: &TpmConfig,
    header: &Header,
    object: KeyHandle,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let object = ObjectHandle::from(object);
    if header.pin
        && let Some(auth) = auth(config)?
    {
        connection.context.tr_set_auth(object, auth)?;
    }
    let opened = if header.measured.is_empty() && header.approver.is_none() {
        connection.protected(|context| context.unseal(object)).map_err(Fault::from)
    } else {
        connection.with_policy(|connection, session| {
            satisfy(connection, config, header, session)?;
            let opened =
                connection.context.execute_with_session(Some(session.into()), |context| context.unseal(object));
            Ok(opened?)
        })
    };
    match opened {
        Ok(secret) => Ok(Zeroizing::new(secret.value().to_vec())),
        Err(fault) => Err(match fault.kind() {
            Some(Kind::AuthFail | Kind::BadAuth) if header.pin => DeviceError::new(
                Class::PinWrong,
                format!(
                    "the PIN for {} is wrong: it was tried once and is not tried again; correct 'pin', 'pin_file' or \
                     'pin_env' and reload",
                    config.name()
                ),
            )
            .into(),
            _ => fault,
        }),
    }
}

/// Shows the TPM what it wants to see.
fn satisfy(
    connection: &mut Connection,
    config: &TpmConfig,
    header: &Header,
    session: PolicySession,
) -> Result<(), Fault> {
    let banks = pcr::banks(&header.measured);
    let selection = pcr::selection(&banks)?;
    let now = pcr::read(connection, &banks)?;
    let refused = |why: String| DeviceError::new(Class::PolicyRefused, why);
    let Some(spki) = &header.approver else {
        if now != header.measured {
            return Err(refused(format!(
                "the machine is not measured as it was when this was sealed: {} changed. If that was meant, open the store \
                 with its recovery shares or another seal and seal it anew (docs/tpm.md, 'Firmware updates'); if not, somebody \
                 has changed how this machine starts",
                pcr::changed(&header.measured, &now)
            ))
            .into());
        }
        let digest = Digest::try_from(pcr::digest(&now).to_vec())?;
        connection.context.execute_without_session(|context| context.policy_pcr(session, digest, selection))?;
        return pin_too(connection, header, session);
    };
    let policy = if now.is_empty() { PolicyDigest::EMPTY } else { PolicyDigest::EMPTY.and_pcrs(&now) };
    let Some(approval) = &config.approval else {
        return Err(DeviceError::config(
            "this was sealed for measurements that somebody approves: set 'pcr_public_key' and 'pcr_signatures'",
        )
        .into());
    };
    let [bank] = &banks[..] else { return Err(DeviceError::config(ONE_BANK).into()) };
    let public = approval::public_area(spki)?;
    let Some(signature) = approval::find(approval, &public, bank, policy)? else {
        let changed = pcr::changed(&header.measured, &now);
        let since =
            if changed.is_empty() { String::new() } else { format!(" (since it was sealed, {changed} changed)") };
        return Err(refused(format!(
            "nobody has approved how this machine is measured now{since}: put a signature over policy {} into {}",
            hex::encode(policy.0),
            approval.signatures
        ))
        .into());
    };
    let digest = Digest::try_from(pcr::digest(&now).to_vec())?;
    connection.context.execute_without_session(|context| context.policy_pcr(session, digest, selection))?;
    // What is signed is the policy and the (empty) reference (Part 3, 23.16).
    let approved = Digest::try_from(policy.0.to_vec())?;
    let signed = Digest::try_from(Sha256::digest(policy.0).to_vec())?;
    with_approver(connection, spki, |connection, approver, name| {
        connection.context.execute_without_session(|context| {
            let ticket = context.verify_signature(approver, signed.clone(), signature.clone()).map_err(|error| {
                let fault = Fault::from(error);
                match fault.kind() {
                    Some(Kind::Signature | Kind::Size | Kind::Value | Kind::EccPoint) => refused(format!(
                        "the signature over policy {} in {} is not by the key that this was sealed for",
                        hex::encode(policy.0),
                        approval.signatures
                    ))
                    .into(),
                    _ => fault,
                }
            })?;
            Ok(context.policy_authorize(session, approved.clone(), Nonce::default(), name, ticket)?)
        })
    })?;
    pin_too(connection, header, session)
}

/// Approvals are for registers of one bank, as the field's tools make them.
pub(crate) const ONE_BANK: &str = "with 'pcr_public_key', 'pcrs' names registers of one bank";

fn pin_too(connection: &mut Connection, header: &Header, session: PolicySession) -> Result<(), Fault> {
    if header.pin {
        connection.context.execute_without_session(|context| context.policy_auth_value(session))?;
    }
    Ok(())
}

/// With the approver's key in the TPM, and its Name.
fn with_approver<T>(
    connection: &mut Connection,
    spki: &[u8],
    act: impl FnOnce(&mut Connection, KeyHandle, &tss_esapi::structures::Name) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let public = approval::public_area(spki)?;
    // A ticket of the null hierarchy proves nothing.
    let key =
        connection.context.execute_without_session(|context| context.load_external_public(public, Hierarchy::Owner))?;
    let result = match connection.context.tr_get_name(key.into()) {
        Ok(name) => act(connection, key, &name),
        Err(error) => Err(error.into()),
    };
    connection.flush(key.into(), result)
}

/// The PIN as the TPM takes it: as long as its hash, and without a last byte of zero, which a TPM would cut off.
fn auth(config: &TpmConfig) -> Result<Option<Auth>, Fault> {
    let Some(pin) = &config.pin else { return Ok(None) };
    let mut hash = Zeroizing::new(Sha256::digest(pin.expose()).to_vec());
    if let Some(last) = hash.last_mut() {
        *last |= 1;
    }
    Ok(Some(Auth::try_from(hash.to_vec())?))
}

/// A TPM counts wrong tries of everybody. The last one before it locks is not risked.
fn refuse_the_last_try(connection: &mut Connection, config: &TpmConfig) -> Result<(), Fault> {
    let mut property = |which: u32| {
        let (data, _) = connection
            .context
            .execute_without_session(|context| context.get_capability(CapabilityType::TpmProperties, which, 1))?;
        Ok::<_, Fault>(match data {
            CapabilityData::TpmProperties(list) => {
                list.iter().find(|property| u32::from(property.property()) == which).map_or(0, |found| found.value())
            }
            _ => 0,
        })
    };
    let (failed, most) = (property(TPM2_PT_LOCKOUT_COUNTER)?, property(TPM2_PT_MAX_AUTH_FAIL)?);
    let locked = |text: String| Err(DeviceError::new(Class::PinLocked, text).into());
    match most {
        most if failed >= most && most > 0 => locked(format!("{}: {LOCKOUT}", config.name())),
        most if failed + 1 >= most && most > 1 => locked(format!(
            "{} has counted {failed} wrong tries of {most}, and the last one is not risked: find out who tries, then wait for \
             its recovery interval or run 'tpm2_dictionarylockout --clear-lockout', and restart the server",
            config.name()
        )),
        _ => Ok(()),
    }
}

fn array(key: &[u8]) -> Result<&[u8; gcm::KEY_BYTES], DeviceError> {
    key.try_into().map_err(|_| DeviceError::new(Class::Tampered, "what the TPM had sealed is no AES-256 key"))
}

fn tampered(key: &KeyRef) -> DeviceError {
    DeviceError::new(
        Class::Tampered,
        format!(
            "what was to be unsealed with {key} was changed, or belongs to another key or place: restore it from a backup"
        ),
    )
}
