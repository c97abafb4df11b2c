//! Text for C_Initialize. The standard reserves the place; NSS softokn takes its whole configuration there
//! (`LibraryParameters`).

use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use std::ffi::{CString, c_void};
use std::ptr::NonNull;

/// The text, which stays where it is for as long as the module may look at it.
pub(super) struct Parameters(CString);

impl Parameters {
    /// Up to its first NUL, where the library would stop reading too.
    pub(super) fn new(text: &str) -> Self {
        let text = text.split('\0').next().unwrap_or_default();
        Self(CString::new(text).unwrap_or_default())
    }

    #[allow(unsafe_code)]
    pub(super) fn arguments(&self, flags: CInitializeFlags) -> CInitializeArgs {
        let Some(text) = NonNull::new(self.0.as_ptr().cast_mut().cast::<c_void>()) else {
            return CInitializeArgs::new(flags);
        };
        // SAFETY: a C string, as a library that takes its parameters here expects it. It is read only, and lives as long
        // as the module, which owns it and is finalised before.
        unsafe { CInitializeArgs::new_with_reserved(flags, text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki_sys::CK_C_INITIALIZE_ARGS;

    #[test]
    fn a_library_reads_the_text_up_to_its_first_nul() {
        for (given, read) in [("configdir='sql:/a'", "configdir='sql:/a'"), ("a\0b", "a"), ("", "")] {
            let parameters = Parameters::new(given);
            assert_eq!(parameters.0.to_str().unwrap(), read);
            // It points there, and nowhere else, for as long as it lives.
            let arguments = CK_C_INITIALIZE_ARGS::from(parameters.arguments(CInitializeFlags::OS_LOCKING_OK));
            assert_eq!(arguments.pReserved.cast_const().cast(), parameters.0.as_ptr());
        }
    }
}
