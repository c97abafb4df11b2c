//! What goes wrong with a YubiHSM: what to do about it here, and what to tell the caller when nothing helps.

use super::config::YubiHsmConfig;
use super::protocol::Refusal;
use crate::device::{DeviceError, DeviceErrorClass as Class};
use std::io;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connector cannot be reached: nothing was asked.
    Unreachable(io::Error),
    /// It may have been done, but no answer came.
    Unanswered(io::Error),
    /// The connector answered for the device, with this status of HTTP.
    Connector(u16),
    /// The device refused it, inside the channel or of a command that needs none.
    Refused(Refusal),
    /// Somebody refused it outside the channel.
    Outside(Refusal),
    /// An answer is not the device's.
    Forged,
    /// An answer has no form.
    Garbled,
    /// We said so; final.
    Final(DeviceError),
}

impl From<DeviceError> for Fault {
    fn from(error: DeviceError) -> Self {
        Self::Final(error)
    }
}

impl Fault {
    /// Whether a new session may help: the connector or the device was away, or the device has ended the session.
    pub(super) fn asks_for_a_new_session(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Unanswered(_) | Self::Outside(_) => true,
            Self::Refused(refusal) => matches!(refusal, Refusal::InvalidSession | Refusal::SessionFailed),
            Self::Connector(_) | Self::Forged | Self::Garbled | Self::Final(_) => false,
        }
    }

    /// Whether the session is of no use any more. The chain of MACs goes on with commands that were answered alone.
    pub(super) fn spoils_the_session(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Final(_)) || self.asks_for_a_new_session()
    }

    /// Whether the device has certainly not done it.
    pub(super) fn was_not_carried_out(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Refused(_)
                | Self::Outside(Refusal::InvalidSession | Refusal::SessionFailed | Refusal::SessionsFull)
        )
    }
}

/// The error for the caller. `what` says what was tried.
pub(super) fn explain(config: &YubiHsmConfig, what: &str, fault: Fault) -> DeviceError {
    let name = config.name();
    let (class, said, step) = match fault {
        Fault::Final(error) => return error,
        Fault::Unreachable(error) => (
            Class::Gone,
            format!("its connector does not answer ({error})"),
            "start yubihsm-connector, and see that 'connector' is its address; it is asked again by itself",
        ),
        Fault::Unanswered(error) if error.kind() == io::ErrorKind::InvalidData => {
            (Class::Gone, error.to_string(), "see that 'connector' is the address of a yubihsm-connector")
        }
        Fault::Unanswered(error) => (
            Class::Gone,
            format!("no answer came ({error})"),
            "see that the connector runs and the device is plugged in; it is asked again by itself",
        ),
        Fault::Connector(status) => (
            Class::Gone,
            format!("its connector says status {status}"),
            "see that the device is plugged in and nobody else has its USB interface; it is asked again by itself",
        ),
        Fault::Forged => (
            Class::Tampered,
            "an answer's MAC is wrong".to_owned(),
            "something between this machine and the YubiHSM changes what passes",
        ),
        Fault::Garbled => (
            Class::Failed,
            "an answer is none of a YubiHSM".to_owned(),
            "see that 'connector' is the address of a yubihsm-connector",
        ),
        Fault::Refused(refusal) | Fault::Outside(refusal) => {
            let (class, step) = classify(refusal);
            (class, said(refusal), step)
        }
    };
    DeviceError::new(class, format!("cannot {what} with {name}: {said}: {step}"))
}

fn said(refusal: Refusal) -> String {
    match refusal {
        Refusal::SessionsFull => "all 16 sessions of the device are open".to_owned(),
        Refusal::LogFull => "its audit log is full, and it was told to do nothing that it cannot log".to_owned(),
        Refusal::StorageFailed => "it cannot store it".to_owned(),
        Refusal::InsufficientPermissions => "a capability or domain is missing".to_owned(),
        Refusal::Other(code) => format!("error 0x{code:02x}"),
        other => format!("{other:?}"),
    }
}

fn classify(refusal: Refusal) -> (Class, &'static str) {
    match refusal {
        Refusal::SessionsFull => {
            (Class::Busy, "sessions that others left behind end 30 s after their last use; it is tried again by itself")
        }
        Refusal::LogFull => (
            Class::Busy,
            "set 'log_file' so that the log is kept and made room in, or read and acknowledge it with yubihsm-shell",
        ),
        Refusal::AuthenticationFailed | Refusal::InvalidSession | Refusal::SessionFailed => {
            (Class::Busy, "the session has ended; it is tried again by itself")
        }
        Refusal::StorageFailed => (
            Class::Failed,
            "it is full (256 objects, 126 KB), or its storage is worn out: delete objects, or use another",
        ),
        Refusal::InsufficientPermissions => {
            (Class::PolicyRefused, "compare the authentication key's and the object's capabilities and domains")
        }
        Refusal::ObjectNotFound => (Class::KeyMissing, "it was deleted meanwhile, or is in other domains"),
        Refusal::ObjectExists | Refusal::InvalidId => (Class::Invalid, "choose another id"),
        Refusal::AlgorithmDisabled | Refusal::InvalidCommand => {
            (Class::Unsupported, "this device, or its firmware, does not do it; algorithms may be switched off in it")
        }
        Refusal::InvalidData | Refusal::WrongLength => (Class::Invalid, "the device does not take what it was given"),
        Refusal::CommandUnexecuted | Refusal::Other(_) => (Class::Failed, "this is not expected of a YubiHSM"),
    }
}
