//! The variables of one device's library, which only its own helper sees.

/// Sets them. The helper has one thread so far.
#[allow(unsafe_code)]
pub(super) fn set(variables: &[(String, String)]) {
    for (name, value) in variables.iter().filter(|(name, value)| is_settable(name, value)) {
        // SAFETY: no other thread reads or writes the environment: workers and the vendor's library come later.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Whether the C library takes it; the configuration has refused others.
fn is_settable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_c_library_would_not_take_is_passed_over() {
        assert!(is_settable("TPM2_PKCS11_STORE", "/a=b"));
        for (name, value) in [("", "a"), ("A=B", "a"), ("A\0", "a"), ("A", "a\0b")] {
            assert!(!is_settable(name, value), "{name:?} {value:?}");
        }
    }
}
