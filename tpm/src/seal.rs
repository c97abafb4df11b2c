//! Sealing: a fresh AES-256 key encrypts what is given, and the TPM seals that key.

use crate::connection::{Connection, Tpm};
use crate::fault::{Fault, LOCKOUT};
use crate::policy::PolicyDigest;
use crate::quorum::Quorum;
use crate::sealed::{self, Header, Parts};
use crate::{approval, measured, pcr, root};
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
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Auth, CapabilityData, Digest, KeyedHashScheme, Private, Public, PublicBuilder, PublicKeyedHashParameters,
    SensitiveData,
};
use tss_esapi::traits::{Marshall, UnMarshall};
use zeroize::Zeroizing;

pub(crate) fn encrypt(tpm: &Tpm, key: &KeyRef, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, DeviceError> {
    tpm.run(&format!("seal under {key}"), |connection| {
        the_root(connection, key)?;
        let once = Key::random(gcm::KEY_BYTES).map_err(|error| DeviceError::new(Class::Failed, error.to_string()))?;
        let header = seal(connection, &tpm.config, &once, aad)?.to_bytes()?;
        // The key is used once, so the IV may be constant.
        let sealed = gcm::seal(array(once.expose())?, [0; gcm::IV_BYTES], plaintext, &[&header[..], aad].concat());
        Ok([header, sealed].concat())
    })
}

pub(crate) fn decrypt(tpm: &Tpm, key: &KeyRef, bytes: &[u8], aad: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    let parts = sealed::parse(bytes).ok_or_else(|| tampered(key))?;
    tpm.run(&format!("unseal what {key} protects"), |connection| {
        is_of_this_root(connection, key, &parts.header)?;
        if let Some(quorum) = &parts.header.quorum {
            return Err(quorum.is_needed(&tpm.config).into());
        }
        let once = unseal(connection, &tpm.config, &parts.header, key)?;
        Ok(opened(&once, &parts, key, aad)?)
    })
}

/// What the TPM had sealed opens the rest.
pub(crate) fn opened(once: &[u8], parts: &Parts<'_>, key: &KeyRef, aad: &[u8]) -> Result<Secret<Vec<u8>>, DeviceError> {
    let aad = [parts.header_bytes, aad].concat();
    let opened = gcm::open(array(once)?, [0; gcm::IV_BYTES], parts.ciphertext, &aad);
    Ok(Secret::new(opened.ok_or_else(|| tampered(key))?))
}

/// Whether this TPM can have sealed it, by what it says.
pub(crate) fn is_of_this_root(connection: &mut Connection, key: &KeyRef, header: &Header) -> Result<(), Fault> {
    the_root(connection, key)?;
    if header.root != connection.root.name {
        return Err(tampered(key).into());
    }
    Ok(())
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
fn seal(connection: &mut Connection, config: &TpmConfig, secret: &Key, aad: &[u8]) -> Result<Header, Fault> {
    let measured = pcr::read(connection, &config.pcrs)?;
    let approver = config.approval.as_ref().map(approval::configured_key).transpose()?;
    let quorum = Quorum::configured(config)?;
    if let Some(quorum) = &quorum {
        quorum.try_out(connection)?;
    }
    let policy = policy(config, &measured, approver.as_deref(), quorum.as_ref(), aad)?;

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
        quorum,
    })
}

/// What the object asks for; `None`: its authorisation value alone.
fn policy(
    config: &TpmConfig,
    measured: &[pcr::Measurement],
    approver: Option<&[u8]>,
    quorum: Option<&Quorum>,
    aad: &[u8],
) -> Result<Option<PolicyDigest>, Fault> {
    let policy = match quorum {
        Some(quorum) => quorum.branches(measurements(measured, approver)?, aad)?.joined(),
        None if measured.is_empty() && approver.is_none() => return Ok(None),
        None => measurements(measured, approver)?,
    };
    Ok(Some(if config.pin.is_some() { policy.and_auth_value() } else { policy }))
}

/// What it asks for of the machine's measurements.
pub(crate) fn measurements(measured: &[pcr::Measurement], approver: Option<&[u8]>) -> Result<PolicyDigest, Fault> {
    Ok(match approver {
        Some(spki) => PolicyDigest::approved_by(&approval::approver(spki)?.name()?),
        None if measured.is_empty() => PolicyDigest::EMPTY,
        None => PolicyDigest::EMPTY.and_pcrs(measured),
    })
}

/// Has the TPM give back what it sealed.
fn unseal(
    connection: &mut Connection,
    config: &TpmConfig,
    header: &Header,
    key: &KeyRef,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    ask_for_the_pin(connection, config, header)?;
    let object = load(connection, header, key)?;
    let result = unseal_object(connection, config, header, object);
    connection.flush(object.into(), result)
}

/// Whether the PIN is there and may be tried, if one is wanted.
pub(crate) fn ask_for_the_pin(connection: &mut Connection, config: &TpmConfig, header: &Header) -> Result<(), Fault> {
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
    Ok(())
}

/// The sealed object in the TPM. Whoever asks for it takes it out again.
pub(crate) fn load(connection: &mut Connection, header: &Header, key: &KeyRef) -> Result<KeyHandle, Fault> {
    let changed = |_| tampered(key);
    let public = Public::unmarshall(&header.public).map_err(changed)?;
    let private = Private::try_from(header.private.clone()).map_err(changed)?;
    let root = connection.root.handle;
    connection.protected(|context| context.load(root, private, public)).map_err(|error| {
        let fault = Fault::from(error);
        match fault.kind() {
            Some(Kind::Integrity | Kind::Size | Kind::Value | Kind::Type | Kind::Attributes | Kind::Hash)
                if fault.is_of_a_parameter() =>
            {
                tampered(key).into()
            }
            _ => fault,
        }
    })
}

fn unseal_object(
    connection: &mut Connection,
    config: &TpmConfig,
    header: &Header,
    object: KeyHandle,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    if header.measured.is_empty() && header.approver.is_none() {
        let session = connection.session;
        return unseal_with(connection, config, header, object, session);
    }
    connection.with_policy(|connection, session| {
        measured::show(connection, config, header, session)?;
        pin_too(connection, header, session)?;
        unseal_with(connection, config, header, object, session.into())
    })
}

/// Has the TPM give it back in a session that has satisfied its policy.
pub(crate) fn unseal_with(
    connection: &mut Connection,
    config: &TpmConfig,
    header: &Header,
    object: KeyHandle,
    session: AuthSession,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let object = ObjectHandle::from(object);
    if header.pin
        && let Some(auth) = auth(config)?
    {
        connection.context.tr_set_auth(object, auth)?;
    }
    match connection.context.execute_with_session(Some(session), |context| context.unseal(object)) {
        Ok(secret) => Ok(Zeroizing::new(secret.value().to_vec())),
        Err(error) => {
            let fault = Fault::from(error);
            Err(match fault.kind() {
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
            })
        }
    }
}

/// The policy asks for the PIN, where one was set.
pub(crate) fn pin_too(connection: &mut Connection, header: &Header, session: PolicySession) -> Result<(), Fault> {
    if header.pin {
        connection.context.execute_without_session(|context| context.policy_auth_value(session))?;
    }
    Ok(())
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

pub(crate) fn tampered(key: &KeyRef) -> DeviceError {
    DeviceError::new(
        Class::Tampered,
        format!(
            "what was to be unsealed with {key} was changed, or belongs to another key or place: restore it from a backup"
        ),
    )
}
