//! `C_GetTokenInfo` past `cryptoki`, for a token that says that it has a clock and tells the time in a form of its own
//! (opencryptoki): to `cryptoki` that is no token. The time is of no use here.
//!
//! Only for that: some modules (p11-kit's) give each who asks a list of functions with a state of its own, so what was opened by
//! one list is unknown to another.

use super::token::TokenInfo;
use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error, Rv};
use cryptoki::slot::Slot;
use cryptoki_sys::CK_FUNCTION_LIST;

/// What the token in a slot says of itself.
pub(super) fn token_info(context: &Pkcs11, lib: &str, slot: Slot) -> Result<TokenInfo, Error> {
    match context.get_token_info(slot) {
        Ok(info) => Ok(TokenInfo::from(&info)),
        Err(error @ Error::Pkcs11(..)) => Err(error),
        Err(_) => ask(lib, slot),
    }
}

#[allow(unsafe_code)]
fn ask(lib: &str, slot: Slot) -> Result<TokenInfo, Error> {
    // SAFETY: whatever the library does when it is loaded it has done, since it is loaded; the names are looked up as the
    // standard has them.
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
    // SAFETY: the module says that its list is there, and the library is loaded until the end of this call.
    let ask = unsafe { list.read_unaligned() }.C_GetTokenInfo.ok_or(Error::NullFunctionPointer)?;
    let mut info = cryptoki_sys::CK_TOKEN_INFO::default();
    // SAFETY: `info` is a place for the answer.
    Rv::from(unsafe { ask(slot.id(), &raw mut info) }).into_result(Function::GetTokenInfo)?;
    Ok(TokenInfo::from(&info))
}
