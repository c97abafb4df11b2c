//! Answers of a TPM as errors: what to do about them here, and what to tell the caller when nothing helps.

use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class};
use holdfast_hsm::tpm::TpmConfig;
use tss_esapi::Error;
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The TPM, or a library on the way to it, said so.
    Tpm(Error),
    /// We said so; final.
    Final(DeviceError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Tpm(error)
    }
}

impl From<DeviceError> for Fault {
    fn from(error: DeviceError) -> Self {
        Self::Final(error)
    }
}

impl Fault {
    /// What the TPM said, if it was the TPM.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Tpm(Error::Tss2Error(code)) if layer(*code) == Layer::Tpm => code.kind(),
            _ => None,
        }
    }

    /// Whether the TPM found fault with a parameter of the command, not with a handle or a session.
    pub(crate) fn is_of_a_parameter(&self) -> bool {
        const PARAMETER: u32 = 1 << 6;
        matches!(self, Self::Tpm(Error::Tss2Error(code @ Tss2ResponseCode::FormatOne(_))) if number(*code) & PARAMETER != 0)
    }

    /// Whether the answer was not the TPM's. It is not asked again, but its session is out of step.
    pub(crate) fn is_a_forged_answer(&self) -> bool {
        matches!(self, Self::Tpm(Error::Tss2Error(code)) if is_forged(*code))
    }

    /// Whether a new connection may help: the TPM was away or started anew, or its places for objects and sessions are
    /// taken by what an earlier connection has left behind.
    pub(crate) fn asks_for_a_new_connection(&self) -> bool {
        let Self::Tpm(Error::Tss2Error(code)) = self else { return false };
        match (layer(*code), code.kind()) {
            _ if is_forged(*code) => false,
            (Layer::Transport | Layer::Library, _) => true,
            (Layer::Tpm, Some(kind)) => match kind {
                Kind::Value | Kind::Handle => !self.is_of_a_parameter(),
                Kind::ReferenceH0
                | Kind::ReferenceH1
                | Kind::ReferenceS0
                | Kind::ReferenceS1
                | Kind::Initialize
                | Kind::BadContext
                | Kind::ContextGap
                | Kind::Memory
                | Kind::ObjectMemory
                | Kind::SessionMemory
                | Kind::ObjectHandles
                | Kind::SessionHandles => true,
                _ => false,
            },
            (Layer::Tpm, None) => false,
        }
    }
}

/// Who speaks in a response code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Tpm,
    /// The TCTI: the way to the TPM.
    Transport,
    /// ESAPI, SAPI and what they are made of.
    Library,
}

fn layer(code: Tss2ResponseCode) -> Layer {
    match (number(code) >> 16) & 0xFF {
        // A resource manager passes on what the TPM would have said.
        0 | 11 | 12 => Layer::Tpm,
        10 => Layer::Transport,
        _ => Layer::Library,
    }
}

/// The response code. The crate tells it in a text alone: "Response code value: 0xa000a".
fn number(code: Tss2ResponseCode) -> u32 {
    let text = match code {
        Tss2ResponseCode::Success => return 0,
        Tss2ResponseCode::FormatZero(code) => code.to_string(),
        Tss2ResponseCode::FormatOne(code) => code.to_string(),
    };
    text.rsplit("0x").next().and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

/// The error for the caller. `what` says what was tried.
pub(crate) fn explain(config: &TpmConfig, what: &str, fault: Fault) -> DeviceError {
    let error = match fault {
        Fault::Final(error) => return error,
        Fault::Tpm(error) => error,
    };
    let (class, step) = classify(&error);
    let said = error.to_string().replace('\n', " ");
    DeviceError::new(class, format!("cannot {what} with {}: {said}: {step}", config.name()))
}

fn is_forged(code: Tss2ResponseCode) -> bool {
    /// Of the error codes that all layers share (tss2_common.h).
    const TSS2_BASE_RC_RSP_AUTH_FAILED: u32 = 27;
    layer(code) == Layer::Library && number(code) & 0xFFFF == TSS2_BASE_RC_RSP_AUTH_FAILED
}

fn classify(error: &Error) -> (Class, &'static str) {
    const LIBRARY: &str = "the TPM's libraries refuse it; TSS2_LOG=all+debug in the server's environment tells more";
    let Error::Tss2Error(code) = error else { return (Class::Failed, LIBRARY) };
    let kind = match (layer(*code), code.kind()) {
        (Layer::Transport, _) => {
            return (
                Class::Gone,
                "it does not answer, or not as a TPM does; see that 'tcti' is right and the server's user may use it; it is opened again \
                 when it returns",
            );
        }
        _ if is_forged(*code) => {
            return (
                Class::Tampered,
                "an answer's authentication is wrong: something between this machine and its TPM changes what passes",
            );
        }
        (Layer::Library, _) => return (Class::Failed, LIBRARY),
        (Layer::Tpm, Some(kind)) => kind,
        (Layer::Tpm, None) => return (Class::Failed, "the TPM has no known name for it"),
    };
    match kind {
        Kind::AuthFail | Kind::BadAuth => {
            (Class::PinWrong, "the authorisation is wrong: it was tried once and is not tried again")
        }
        Kind::Lockout => (Class::PinLocked, LOCKOUT),
        Kind::PolicyFail | Kind::Policy | Kind::PcrChanged => {
            (Class::PolicyRefused, "the measurements changed while it looked at them, or its policy wants more")
        }
        Kind::Integrity | Kind::Sensitive => {
            (Class::Tampered, "what it was given was changed, or made by another TPM: restore it from a backup")
        }
        Kind::Retry
        | Kind::Yielded
        | Kind::Testing
        | Kind::Canceled
        | Kind::NvRate
        | Kind::NvUnavailable
        | Kind::Memory
        | Kind::ObjectMemory
        | Kind::SessionMemory
        | Kind::ObjectHandles
        | Kind::SessionHandles => (Class::Busy, "tried again later; close other users of it, or use /dev/tpmrm0"),
        Kind::Initialize => (Class::Gone, "it was not started (TPM2_Startup), which the firmware or the kernel does"),
        Kind::Failure => (Class::Failed, "it is in failure mode: restart the machine; if it stays, replace it"),
        Kind::Disabled | Kind::Hierarchy => {
            (Class::Config, "that hierarchy is switched off in this TPM: set 'hierarchy', or enable it in the firmware")
        }
        Kind::CommandCode | Kind::Curve | Kind::KeySize | Kind::Hash | Kind::Symmetric | Kind::Asymmetric => {
            (Class::Unsupported, "this TPM does not do it")
        }
        _ => {
            (Class::Failed, "this is not expected of a TPM; TSS2_LOG=all+debug in the server's environment tells more")
        }
    }
}

/// What to do about a lockout (Part 1, 19.8).
pub(crate) const LOCKOUT: &str = "it is locked out, since wrong authorisations were tried on this machine: it lets \
    one more try through each time that its recovery interval has passed, or at once after \
    'tpm2_dictionarylockout --clear-lockout'; nothing is tried until the server is restarted";

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;
    use tss_esapi::{Context, TctiNameConf};

    #[test]
    fn a_lockout_is_a_locked_pin_and_says_how_it_ends() {
        /// TPM_RC_LOCKOUT (Part 2, 6.6.3), as a TPM gives it that was locked between a look and a use.
        const LOCKED: u32 = 0x921;
        let error =
            explain(&TpmConfig::new("swtpm"), "unseal", Fault::from(Error::Tss2Error(Tss2ResponseCode::from(LOCKED))));
        assert_eq!(error.class, Class::PinLocked, "{error}");
        assert!(error.text.contains("locked out") && error.text.contains("--clear-lockout"), "{error}");
    }

    #[test]
    fn a_tpm_that_is_not_there_is_gone_and_worth_another_connection() {
        // Nobody listens on port 1.
        let tcti = "swtpm:host=127.0.0.1,port=1";
        let fault = Fault::from(Context::new(TctiNameConf::from_str(tcti).unwrap()).unwrap_err());
        assert!(fault.asks_for_a_new_connection(), "{fault:?}");
        assert_eq!(fault.kind(), None);
        let error = explain(&TpmConfig::new(tcti), "try", fault);
        assert_eq!(error.class, Class::Gone, "{error}");
        assert!(error.text.contains(tcti) && !error.text.contains('\n'), "{error}");
    }
}
