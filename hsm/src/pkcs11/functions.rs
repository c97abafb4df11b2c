//! The few functions of a module that are called past `cryptoki`, which asks of them what not every module keeps:
//!
//! - `C_GetTokenInfo`: a token that says that it has a clock, and tells the time in a form of its own (opencryptoki), is
//!   no token to `cryptoki`. The time is of no use here.
//! - `C_Encrypt`, `C_Decrypt`: `cryptoki` asks for the length first, and believes it. NSS forgets the tag of AES-GCM.
//!   The length is known here; so it is one call instead of two, which counts where the HSM is at the end of a network.

use super::token::TokenInfo;
use cryptoki::context::Function;
use cryptoki::error::{Error, Rv};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CK_SESSION_HANDLE, CK_ULONG};

/// The functions of version 2.40, which every module has.
pub(super) struct Functions {
    list: CK_FUNCTION_LIST,
    /// Loaded a second time, which is the same library: it counts who uses it.
    _library: cryptoki_sys::Pkcs11,
}

/// `C_Encrypt` and its like.
type Transform = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut u8, CK_ULONG, *mut u8, *mut CK_ULONG) -> CK_RV;

#[allow(unsafe_code)]
impl Functions {
    /// Of a library that has been loaded.
    pub(super) fn of(lib: &str) -> Result<Self, Error> {
        // SAFETY: whatever the library does when it is loaded it has done; the names are looked up as the standard has them.
        let library = unsafe { cryptoki_sys::Pkcs11::new(lib) }.map_err(Error::LibraryLoading)?;
        if library.C_GetFunctionList.is_err() {
            return Err(Error::MissingSymbol("C_GetFunctionList"));
        }
        let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
        // SAFETY: the function is there, and `list` is a place for its answer.
        Rv::from(unsafe { library.C_GetFunctionList(&raw mut list) }).into_result(Function::GetFunctionList)?;
        if list.is_null() {
            return Err(Error::NullFunctionPointer);
        }
        // SAFETY: the module says that its list is there; it is copied, and the library stays loaded.
        let list = unsafe { list.read_unaligned() };
        Ok(Self { list, _library: library })
    }

    /// What a token says of itself.
    pub(super) fn token_info(&self, slot: Slot) -> Result<TokenInfo, Error> {
        let ask = self.list.C_GetTokenInfo.ok_or(Error::NullFunctionPointer)?;
        let mut info = cryptoki_sys::CK_TOKEN_INFO::default();
        // SAFETY: `info` is a place for the answer.
        Rv::from(unsafe { ask(slot.id(), &raw mut info) }).into_result(Function::GetTokenInfo)?;
        Ok(TokenInfo::from(&info))
    }

    /// Ends an encryption that was begun on this session. The answer has at most so many bytes.
    pub(super) fn encrypt(&self, session: &Session, data: &[u8], at_most: usize) -> Result<Vec<u8>, Error> {
        transform(self.list.C_Encrypt, Function::Encrypt, session, data, at_most)
    }

    /// Ends a decryption that was begun on this session. The answer has at most so many bytes.
    pub(super) fn decrypt(&self, session: &Session, data: &[u8], at_most: usize) -> Result<Vec<u8>, Error> {
        transform(self.list.C_Decrypt, Function::Decrypt, session, data, at_most)
    }
}

#[allow(unsafe_code)]
fn transform(
    function: Option<Transform>,
    name: Function,
    session: &Session,
    data: &[u8],
    at_most: usize,
) -> Result<Vec<u8>, Error> {
    let transform = function.ok_or(Error::NullFunctionPointer)?;
    // Not empty: a null pointer would be a question for the length.
    let mut out = vec![0; at_most.max(1)];
    let mut out_bytes = CK_ULONG::try_from(out.len())?;
    let data_bytes = CK_ULONG::try_from(data.len())?;
    // SAFETY: both buffers are as long as said, the input is not written by the standard's word, and nothing of them is
    // kept beyond the call.
    let rv = unsafe {
        transform(session.handle(), data.as_ptr().cast_mut(), data_bytes, out.as_mut_ptr(), &raw mut out_bytes)
    };
    Rv::from(rv).into_result(name)?;
    let written = usize::try_from(out_bytes)?;
    if written > out.len() {
        return Err(Error::InvalidValue);
    }
    out.truncate(written);
    Ok(out)
}
