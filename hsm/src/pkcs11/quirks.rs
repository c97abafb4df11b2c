//! What each known module needs differently: one table.
//!
//! A module is known by what it and its token say of themselves (manufacturer, description of the library), never
//! by its file's name. What can be found out by trying is found out by trying, and has no entry here: which mechanisms
//! are listed and refused ([`abilities`](super::abilities)), which hash OAEP takes ([`encrypt`](super::encrypt)), which
//! form of a point ECDH takes ([`derive`](super::derive)).

use super::session::MAX_SESSIONS;
use super::token::TokenInfo;
use cryptoki::context::Info;

/// How a module differs from the standard. The default is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quirks {
    /// Sessions at once.
    pub(super) sessions: usize,
    /// An error of C_Verify is a signature that does not fit, whatever it is called, while the session is well.
    pub(super) bad_signatures_have_any_name: bool,
    /// C_WrapKey wraps keys that are not extractable. So no secret key is made there: it would be one in name only. Pairs are, for
    /// trial, and it is said what they are worth.
    pub(super) lets_keys_out: bool,
    /// A key that was used stays loaded in the device until C_Logout, and one with which something failed is in use until
    /// C_Finalize: it cannot be destroyed. So C_Logout comes before the last session is closed, C_Finalize before a key is
    /// destroyed, and CKR_GENERAL_ERROR may be no more than a device without room, which did nothing.
    pub(super) keys_stay_in_use: bool,
    /// C_CreateObject wants CKA_VALUE_LEN beside CKA_VALUE, which the standard forbids.
    pub(super) import_tells_the_length: bool,
    /// Keys on P-521 are made, and C_Sign fails with them where it is asked for the length of the signature first. So none is made.
    pub(super) cannot_use_p521: bool,
}

impl Quirks {
    const NONE: Self = Self {
        sessions: MAX_SESSIONS,
        bad_signatures_have_any_name: false,
        lets_keys_out: false,
        keys_stay_in_use: false,
        import_tells_the_length: false,
        cannot_use_p521: false,
    };

    /// Of a module, by what it says.
    pub(super) fn of(library: &Info, token: &TokenInfo) -> Self {
        find(library.manufacturer_id(), library.library_description(), &token.manufacturer)
    }
}

impl Default for Quirks {
    fn default() -> Self {
        Self::NONE
    }
}

fn find(maker: &str, library: &str, token_maker: &str) -> Quirks {
    let said = Said { maker, library, token_maker };
    TABLE.iter().find(|entry| (entry.is)(&said)).map_or(Quirks::NONE, |entry| entry.quirks)
}

/// What library and token say of themselves.
struct Said<'a> {
    maker: &'a str,
    library: &'a str,
    token_maker: &'a str,
}

struct Entry {
    is: fn(&Said<'_>) -> bool,
    quirks: Quirks,
}

const TABLE: &[Entry] = &[
    // opencryptoki 3.8: an imported key without a length has the length 0 from then on.
    Entry {
        is: |said| said.library == "Meta PKCS11 LIBRARY" && said.token_maker.starts_with("IBM"),
        quirks: Quirks { import_tells_the_length: true, ..Quirks::NONE },
    },
    // NSS 3.87, softokn: C_Verify with CKM_RSA_PKCS says of a signature over something else what the library remembers of
    // an earlier error (CKR_DEVICE_ERROR, CKR_DATA_LEN_RANGE, …). Its C_WrapKey does not look at CKA_EXTRACTABLE.
    Entry {
        is: |said| said.maker == "Mozilla Foundation",
        quirks: Quirks { bad_signatures_have_any_name: true, lets_keys_out: true, ..Quirks::NONE },
    },
    // tpm2-pkcs11 1.9: a TPM and the kernel's resource manager have room for three keys in use, and neither the end of the last
    // session nor a failed C_Decrypt lets go of one. It does one thing at a time in any case, so one session will do. It writes the length of
    // a point on P-521 (133 bytes) into one byte of DER and does not read that itself: C_Sign without a buffer, which is to tell the length of
    // the signature and how `cryptoki` begins, fails (CKR_HOST_MEMORY). With a buffer it signs.
    Entry {
        is: |said| said.maker.starts_with("tpm2-software") || said.library.starts_with("TPM2.0 Cryptoki"),
        quirks: Quirks { sessions: 1, keys_stay_in_use: true, cannot_use_p521: true, ..Quirks::NONE },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_what_it_says_and_others_have_no_quirks() {
        assert_eq!(find("SoftHSM", "Implementation of PKCS11", "SoftHSM project"), Quirks::NONE);
        assert_eq!(find("", "", ""), Quirks::NONE);
        assert!(find("IBM", "Meta PKCS11 LIBRARY", "IBM Corp.").import_tells_the_length);
        assert!(!find("IBM", "Meta PKCS11 LIBRARY", "Another").import_tells_the_length);
        assert_eq!(find("tpm2-software.github.io", "TPM2.0 Cryptoki", "IBM").sessions, 1);
    }
}
