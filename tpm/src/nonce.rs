//! The nonce that a TPM gave to a session (nonceTPM): what custodians sign.
//!
//! ESAPI tells it by Esys_TRSess_GetNonceTPM. tss-esapi 7.7 has no call for that, and lets nobody at its ESYS_CONTEXT. So
//! the session is saved, and a second ESYS_CONTEXT, which has no TPM, is given the saved session to read: ESAPI keeps
//! what it knows of a session with it. The one command that this takes, TPM2_ContextLoad, is answered here. Then the
//! session is loaded again where it was.

use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class};
use std::ptr::{copy_nonoverlapping, null_mut};
use tss_esapi::tss2_esys::{
    ESYS_CONTEXT, ESYS_TR, Esys_ContextLoad, Esys_Finalize, Esys_Free, Esys_Initialize, Esys_TRSess_GetNonceTPM,
    TPM2B_NONCE, TPMS_CONTEXT, TSS2_RC, TSS2_TCTI_CONTEXT, TSS2_TCTI_CONTEXT_COMMON_V1, size_t,
};

/// Header and handle (Part 3, 28.3).
const ANSWER_BYTES: usize = 14;
const SUCCESS: TSS2_RC = 0;
/// TSS2_TCTI_RC_INSUFFICIENT_BUFFER.
const TOO_SHORT: TSS2_RC = (10 << 16) | 6;

/// The way to no TPM: whatever is asked, TPM2_ContextLoad is answered.
#[repr(C)]
struct Answering {
    common: TSS2_TCTI_CONTEXT_COMMON_V1,
    answer: [u8; ANSWER_BYTES],
}

/// The nonce of a session that was saved.
pub(crate) fn of_saved(session: &TPMS_CONTEXT) -> Result<Vec<u8>, DeviceError> {
    let mut answer = [0x80, 0x01, 0, 0, 0, ANSWER_BYTES as u8, 0, 0, 0, 0, 0, 0, 0, 0];
    answer[10..].copy_from_slice(&session.savedHandle.to_be_bytes());
    let mut way = Answering {
        common: TSS2_TCTI_CONTEXT_COMMON_V1 {
            magic: 0,
            version: 1,
            transmit: Some(transmit),
            receive: Some(receive),
            finalize: None,
            cancel: None,
            getPollHandles: None,
            setLocality: None,
        },
        answer,
    };
    let mut reader = Reader(null_mut());
    // SAFETY: `way` begins with the common part of a TCTI of version 1, as `repr(C)` says, and outlives `reader`, which
    // is declared after it and dropped before it. No ABI version is asked for.
    check(unsafe { Esys_Initialize(&mut reader.0, (&raw mut way).cast(), null_mut()) })?;
    let mut handle: ESYS_TR = 0;
    // SAFETY: `reader` was initialised; the other two are a valid context and a place for the handle.
    check(unsafe { Esys_ContextLoad(reader.0, session, &mut handle) })?;
    let mut nonce: *mut TPM2B_NONCE = null_mut();
    // SAFETY: as above, with the handle that it gave.
    check(unsafe { Esys_TRSess_GetNonceTPM(reader.0, handle, &mut nonce) })?;
    if nonce.is_null() {
        return Err(unreadable(0));
    }
    // SAFETY: ESAPI allocated it, and it is no longer used after Esys_Free.
    let found = unsafe {
        let found = *nonce;
        Esys_Free(nonce.cast());
        found
    };
    match found.buffer.get(..usize::from(found.size)) {
        Some(nonce) if nonce.len() >= 16 => Ok(nonce.to_vec()),
        _ => Err(unreadable(0)),
    }
}

/// The second context.
struct Reader(*mut ESYS_CONTEXT);

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was initialised, and ends here. A TCTI that was given to it is left alone.
            unsafe { Esys_Finalize(&mut self.0) };
        }
    }
}

extern "C" fn transmit(_: *mut TSS2_TCTI_CONTEXT, _: size_t, _: *const u8) -> TSS2_RC {
    SUCCESS
}

unsafe extern "C" fn receive(way: *mut TSS2_TCTI_CONTEXT, size: *mut size_t, response: *mut u8, _: i32) -> TSS2_RC {
    // SAFETY: SAPI hands back the TCTI that Esys_Initialize was given, which is an `Answering`, and a size that it may
    // be told; where `response` is there, it has that many bytes.
    unsafe {
        let room = *size as usize;
        *size = ANSWER_BYTES as size_t;
        if response.is_null() {
            return SUCCESS;
        }
        if room < ANSWER_BYTES {
            return TOO_SHORT;
        }
        copy_nonoverlapping((*way.cast::<Answering>()).answer.as_ptr(), response, ANSWER_BYTES);
    }
    SUCCESS
}

fn check(code: TSS2_RC) -> Result<(), DeviceError> {
    match code {
        SUCCESS => Ok(()),
        code => Err(unreadable(code)),
    }
}

fn unreadable(code: TSS2_RC) -> DeviceError {
    DeviceError::new(
        Class::Failed,
        format!(
            "the TPM's libraries do not tell the nonce of a session ({code:#x}): custodians cannot be asked with them"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A nonce that is right is seen where a TPM takes what was signed over it (`hsm/tests/devices/custodians.rs`).
    #[test]
    fn what_is_no_saved_session_is_an_error() {
        for size in [0, 1, 16, 200, u16::MAX] {
            for filler in [0x00, 0x5A, 0xFF] {
                let mut session =
                    TPMS_CONTEXT { savedHandle: 0x0300_0000, hierarchy: 0x4000_0007, ..Default::default() };
                session.contextBlob.size = size;
                session.contextBlob.buffer.fill(filler);
                let error = of_saved(&session).unwrap_err();
                assert_eq!(error.class, Class::Failed, "{size} bytes of {filler:#x}: {error}");
            }
        }
    }
}
