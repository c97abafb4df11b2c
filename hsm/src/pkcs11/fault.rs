//! Return values of PKCS#11 as errors: what to do about them here, and what to tell the
//! caller when nothing helps.

use super::Pkcs11Config;
use super::quirks::Quirks;
use crate::device::{DeviceError, DeviceErrorClass as Class};
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use std::fmt::Display;

/// Why an attempt failed.
pub(super) enum Fault {
    /// The module said so.
    Module(Error),
    /// The token is not there (yet): worth a look with the module initialised anew.
    Absent(DeviceError),
    /// We said so; final.
    Final(DeviceError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl From<DeviceError> for Fault {
    fn from(error: DeviceError) -> Self {
        Self::Final(error)
    }
}

/// Whether the module said that it does not do this at all.
pub(super) fn is_refusal(fault: &Fault) -> bool {
    matches!(fault, Fault::Module(error) if classify(error).0 == Class::Unsupported)
}

/// What brings the device back after a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing: tell the caller.
    None,
    /// New sessions, a new login, handles looked up anew. The call was not carried out.
    Sessions,
    /// The same, but the call may have been carried out.
    SessionsUnsure,
    /// Finalise and initialise the module. The call may have been carried out.
    Module,
}

pub(super) fn remedy(fault: &Fault, quirks: Quirks) -> Remedy {
    let Fault::Module(Error::Pkcs11(rv, _)) = fault else {
        return match fault {
            Fault::Absent(_) => Remedy::Module,
            _ => Remedy::None,
        };
    };
    match rv {
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::UserNotLoggedIn
        | RvError::ObjectHandleInvalid
        | RvError::KeyHandleInvalid
        | RvError::OperationActive
        | RvError::OperationNotInitialized => Remedy::Sessions,
        RvError::GeneralError if quirks.keys_stay_in_use => Remedy::Sessions,
        RvError::GeneralError | RvError::FunctionFailed => Remedy::SessionsUnsure,
        RvError::CryptokiNotInitialized
        | RvError::DeviceRemoved
        | RvError::DeviceError
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid => Remedy::Module,
        _ => Remedy::None,
    }
}

/// The error for the caller. `what` says what was tried and with which key.
pub(super) fn explain(config: &Pkcs11Config, what: &dyn Display, fault: Fault) -> DeviceError {
    let error = match fault {
        Fault::Absent(error) | Fault::Final(error) => return error,
        Fault::Module(error) => error,
    };
    let (class, step) = classify(&error);
    let said = match &error {
        Error::Pkcs11(rv, function) => format!("C_{function:?}: {rv:?}"),
        other => other.to_string(),
    };
    DeviceError::new(class, format!("cannot {what} on {}: {said}: {step}", config.token_name()))
}

fn classify(error: &Error) -> (Class, &'static str) {
    let Error::Pkcs11(rv, function) = error else {
        return match error {
            Error::NullFunctionPointer | Error::NotSupported => {
                (Class::Unsupported, "the module does not have this function")
            }
            _ => (Class::Failed, "the module answered what the standard does not allow; see its own log"),
        };
    };
    if matches!(function, Function::GenerateKey | Function::GenerateKeyPair | Function::CreateObject) {
        match rv {
            RvError::DeviceMemory => {
                return (Class::Failed, "the token is full: destroy keys that are not used, or use another token");
            }
            // What modules say whose keys are in files, when nothing more can be written.
            RvError::GeneralError | RvError::FunctionFailed | RvError::DeviceError => {
                return (
                    Class::Failed,
                    "if its other keys can be used, the token or the disk that it is on is full, or may not be written: make room; \
                     else see the module's own log",
                );
            }
            _ => {}
        }
    }
    match rv {
        RvError::SessionCount => (Class::Busy, "all sessions of the token are taken; close other users of it"),
        RvError::HostMemory
        | RvError::DeviceMemory
        | RvError::CantLock
        | RvError::GeneralError
        | RvError::FunctionFailed
        | RvError::OperationActive
        | RvError::FunctionCanceled => (Class::Busy, "tried again later; if it stays, see the module's own log"),
        RvError::UserNotLoggedIn => (Class::NeedsLogin, "set 'pin', 'pin_file' or 'pin_env'"),
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => (Class::PinWrong, "correct the PIN"),
        RvError::PinLocked => (Class::PinLocked, "unlock it with the security officer's PIN"),
        RvError::DeviceRemoved
        | RvError::DeviceError
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid
        | RvError::CryptokiNotInitialized
        | RvError::SessionHandleInvalid
        | RvError::SessionClosed => (Class::Gone, "connect the device; it is opened again when it returns"),
        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid => {
            (Class::KeyMissing, "check 'key_label' and 'key_id'")
        }
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::FunctionNotSupported
        | RvError::CurveNotSupported
        | RvError::KeySizeRange
        | RvError::RandomNoRng => (Class::Unsupported, "the token does not do this; see 'mechanisms' of the device"),
        RvError::KeyFunctionNotPermitted | RvError::KeyTypeInconsistent | RvError::ActionProhibited => {
            (Class::Invalid, "the key's attributes forbid this use; use another key")
        }
        RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::ArgumentsBad
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::AttributeReadOnly
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::PublicKeyInvalid => (Class::Invalid, "the token does not accept this input"),
        RvError::TokenWriteProtected | RvError::SessionReadOnly => {
            (Class::Config, "the token is write protected; make the key with the vendor's tool")
        }
        RvError::UserPinNotInitialized => {
            (Class::Config, "the token has no user PIN yet; set one with the vendor's tool")
        }
        RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange => {
            (Class::Tampered, "the ciphertext was changed or belongs to another key")
        }
        _ => (Class::Failed, "see the module's own log"),
    }
}
