//! A counter in the TPM's NV memory (Part 1, 37.2.5), by which old copies of a store are told. It goes up and is never taken back: one that is
//! made in the place of one that was taken away begins above every counter that this TPM has had.
//!
//! Who may use the TPM may raise it, and the TPM's owner may take it away: either makes that a store is refused, never that an
//! old one is opened. So it has no authorisation of its own.

use crate::connection::{Connection, Tpm};
use crate::fault::Fault;
use holdfast_hsm::device::{CounterAct, DeviceError, DeviceErrorClass as Class};
use holdfast_hsm::tpm;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::constants::NvIndexType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{Auth, NvPublicBuilder};

/// Bytes of a counter.
const SIZE: u16 = 8;

pub(crate) fn counter(tpm: &Tpm, act: CounterAct) -> Result<Option<u64>, DeviceError> {
    let place = tpm.config.rollback_counter.ok_or_else(|| DeviceError::config("no rollback_counter is configured"))?;
    tpm.run("use the rollback counter", |connection| {
        let index = match (find(connection, place)?, act) {
            (Some(index), _) => index,
            (None, CounterAct::Make) => make(connection, tpm, place)?,
            (None, CounterAct::Read) => return Ok(None),
            (None, CounterAct::RaiseTo(_)) => {
                return Err(DeviceError::new(Class::KeyMissing, format!("the counter {place:#x} is gone")).into());
            }
        };
        match (read(connection, index)?, act) {
            // It was made and not raised when something came in between: it has no value before it is.
            (None, CounterAct::Make) => raise(connection, index).map(Some),
            (found, CounterAct::Read | CounterAct::Make) => Ok(found),
            (Some(value), CounterAct::RaiseTo(wanted)) if value == wanted => Ok(Some(value)),
            (Some(value), CounterAct::RaiseTo(wanted)) if Some(wanted) == value.checked_add(1) => {
                raise(connection, index).map(Some)
            }
            (found, CounterAct::RaiseTo(wanted)) => Err(DeviceError::new(
                Class::Failed,
                format!(
                    "the counter {place:#x} is at {}, and {wanted} was to be next: somebody else raises it",
                    found.unwrap_or(0)
                ),
            )
            .into()),
        }
    })
}

fn find(connection: &mut Connection, place: u32) -> Result<Option<NvIndexHandle>, Fault> {
    let handle = TpmHandle::NvIndex(NvIndexTpmHandle::new(place)?);
    let found = connection.context.execute_without_session(|context| context.tr_from_tpm_public(handle));
    let index = match found.map_err(Fault::from) {
        Ok(object) => NvIndexHandle::from(object),
        Err(fault) => match fault.kind() {
            Some(Kind::Handle | Kind::ReferenceH0) => return Ok(None),
            _ => return Err(fault),
        },
    };
    let (public, _) = connection.context.execute_without_session(|context| context.nv_read_public(index))?;
    let attributes = public.attributes();
    let fits = matches!(attributes.index_type(), Ok(NvIndexType::Counter))
        && attributes.auth_read()
        && attributes.auth_write()
        // Such a one jumps when the power goes.
        && !attributes.orderly();
    if !fits {
        return Err(DeviceError::config(format!(
            "the NV index {place:#x} is none that the server can count with: give rollback_counter an index that is free, or one \
             made by tpm2_nvdefine -a 'nt=counter|authread|authwrite|ownerread|no_da'"
        ))
        .into());
    }
    Ok(Some(index))
}

fn make(connection: &mut Connection, tpm: &Tpm, place: u32) -> Result<NvIndexHandle, Fault> {
    let attributes = NvIndexAttributesBuilder::new()
        .with_nv_index_type(NvIndexType::Counter)
        .with_auth_read(true)
        .with_auth_write(true)
        .with_owner_read(true)
        .with_no_da(true)
        .build()?;
    let public = NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(place)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(SIZE.into())
        .build()?;
    if let (tpm::Hierarchy::Owner, Some(auth)) = (tpm.config.hierarchy, &tpm.config.hierarchy_auth) {
        let auth = Auth::try_from(auth.expose().as_bytes().to_vec())?;
        connection.context.tr_set_auth(ObjectHandle::Owner, auth)?;
    }
    let made = connection.protected(|context| context.nv_define_space(Provision::Owner, Some(Auth::default()), public));
    made.map_err(|error| {
        let fault = Fault::from(error);
        match fault.kind() {
            Some(Kind::BadAuth | Kind::AuthFail) => DeviceError::config(format!(
                "the counter {place:#x} cannot be made, since the TPM's owner has an authorisation of their own: make it with \
                 tpm2_nvdefine {place:#x} -C o -P AUTHORISATION -s 8 -a 'nt=counter|authread|authwrite|ownerread|no_da'"
            ))
            .into(),
            Some(Kind::NvSpace) => DeviceError::config("the TPM's NV memory is full: tpm2_getcap handles-nv-index").into(),
            _ => fault,
        }
    })
}

/// `None`: it was never raised.
fn read(connection: &mut Connection, index: NvIndexHandle) -> Result<Option<u64>, Fault> {
    let read = connection.protected(|context| context.nv_read(NvAuth::NvIndex(index), index, SIZE, 0));
    let bytes = match read.map_err(Fault::from) {
        Ok(bytes) => bytes,
        Err(fault) if fault.kind() == Some(Kind::NvUninitialized) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let odd = || DeviceError::new(Class::Failed, "the TPM gave a counter of another length than asked for");
    Ok(Some(u64::from_be_bytes(bytes.value().try_into().map_err(|_| odd())?)))
}

fn raise(connection: &mut Connection, index: NvIndexHandle) -> Result<u64, Fault> {
    connection.protected(|context| context.nv_increment(NvAuth::NvIndex(index), index))?;
    let odd = || DeviceError::new(Class::Failed, "the TPM's counter has no value after it was raised");
    Ok(read(connection, index)?.ok_or_else(odd)?)
}
