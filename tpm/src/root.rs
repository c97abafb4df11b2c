//! The storage root key: below it rests all that the TPM made for us.

use crate::fault::Fault;
use holdfast_hsm::device::{DeviceError, KeyInfo, KeyKind, KeyRef};
use holdfast_hsm::tpm::{self, TpmConfig};
use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::structures::{
    Auth, EccParameter, EccPoint, Public, PublicBuilder, PublicEccParametersBuilder, SymmetricDefinition,
    SymmetricDefinitionObject,
};

/// The key, loaded.
pub(crate) struct Root {
    pub(crate) handle: KeyHandle,
    /// Its Name: the hash of its public part. Another TPM, or this one after TPM2_Clear, makes a key of another Name.
    pub(crate) name: Vec<u8>,
}

impl Root {
    /// Looks that the key is in the TPM still. A TPM that was started anew, or is another one, answers much as before; what
    /// is said of the key must be true now.
    pub(crate) fn is_there(&self, context: &mut Context) -> Result<(), Fault> {
        context.execute_without_session(|context| context.read_public(self.handle))?;
        Ok(())
    }

    pub(crate) fn info(&self) -> KeyInfo {
        KeyInfo {
            label: TpmConfig::ROOT_LABEL.to_owned(),
            id: self.name.clone(),
            kind: KeyKind::TpmStorage,
            private: true,
            public: true,
            extractable: false,
        }
    }
}

/// Whether a name names this key, or any key.
pub(crate) fn is_meant(key: &KeyRef, info: &KeyInfo) -> bool {
    key.label.as_ref().is_none_or(|label| *label == info.label) && key.id.as_ref().is_none_or(|id| *id == info.id)
}

/// Finds the key under its persistent handle, or makes it from the template, which gives the same key each time.
pub(crate) fn root(context: &mut Context, config: &TpmConfig) -> Result<Root, Fault> {
    let handle = match config.root_handle {
        Some(handle) => persistent(context, handle)?,
        None => primary(context, config)?,
    };
    let name = context.tr_get_name(ObjectHandle::from(handle))?.value().to_vec();
    Ok(Root { handle, name })
}

fn persistent(context: &mut Context, handle: u32) -> Result<KeyHandle, Fault> {
    let wrong = |why: &str| {
        DeviceError::config(format!(
            "root_handle {handle:#x} {why}: make a storage key and give it a handle with 'tpm2_createprimary' and \
             'tpm2_evictcontrol', or leave root_handle out"
        ))
    };
    let place = PersistentTpmHandle::new(handle).map_err(|_| wrong("is no persistent handle"))?;
    context.tr_from_tpm_public(TpmHandle::Persistent(place)).map(KeyHandle::from).map_err(|error| {
        let fault = Fault::from(error);
        match fault.kind() {
            Some(Kind::Handle | Kind::ReferenceH0) => wrong("holds no key").into(),
            _ => fault,
        }
    })
}

/// The hierarchy of the configuration.
pub(crate) fn hierarchy(config: &TpmConfig) -> (Hierarchy, ObjectHandle) {
    match config.hierarchy {
        tpm::Hierarchy::Owner => (Hierarchy::Owner, ObjectHandle::Owner),
        tpm::Hierarchy::Endorsement => (Hierarchy::Endorsement, ObjectHandle::Endorsement),
    }
}

fn primary(context: &mut Context, config: &TpmConfig) -> Result<KeyHandle, Fault> {
    let (hierarchy, place) = hierarchy(config);
    if let Some(auth) = &config.hierarchy_auth {
        context.tr_set_auth(place, Auth::try_from(auth.expose().as_bytes().to_vec())?)?;
    }
    // Not a password: the authorisation must not pass the bus in the clear.
    let session = context.start_auth_session(
        None,
        None,
        None,
        SessionType::Hmac,
        SymmetricDefinition::AES_128_CFB,
        HashingAlgorithm::Sha256,
    )?;
    let session = session.ok_or_else(|| DeviceError::config("the TPM gave no session"))?;
    let (attributes, mask) = SessionAttributesBuilder::new().with_continue_session(true).build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    let template = template()?;
    let made = context.execute_with_session(Some(session), |context| {
        context.create_primary(hierarchy, template, None, None, None, None)
    });
    let flushed = context.flush_context(SessionHandle::from(session).into());
    let made = made.map_err(|error| {
        let fault = Fault::from(error);
        match fault.kind() {
            Some(Kind::BadAuth | Kind::AuthFail) => DeviceError::config(format!(
                "{} does not let its storage root key be made, since its {} hierarchy has another authorisation: set \
                 'hierarchy_auth_file', or 'root_handle' of a key that is there",
                config.name(),
                match config.hierarchy {
                    tpm::Hierarchy::Owner => "owner",
                    tpm::Hierarchy::Endorsement => "endorsement",
                }
            ))
            .into(),
            _ => fault,
        }
    })?;
    flushed?;
    Ok(made.key_handle)
}

/// The storage root key on P-256 of TCG's 'TPM v2.0 Provisioning Guidance', 7.5.1.
fn template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    );
    let zeros = || EccParameter::try_from(vec![0; 32]);
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters.build()?)
        .with_ecc_unique_identifier(EccPoint::new(zeros()?, zeros()?))
        .build()
}
