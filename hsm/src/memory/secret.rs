//! `Secret`: a value on the ordinary heap that is wiped on drop and never shown by
//! accident.

use std::fmt;
use std::mem::ManuallyDrop;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A secret that passes through: a token, a PIN, request data. Wiped on drop. It has no
/// `Display`, `Serialize` or `Clone`, and its `Debug` shows nothing;
/// [`Secret::expose`] is a named act.
#[derive(Default)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the value over.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The value, no longer wiped by this type: wiping it is the caller's now.
    pub fn into_inner(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so the value is moved out once.
        unsafe { std::ptr::read(&this.0) }
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Whether the bytes equal `other`, in time that depends on the lengths only.
    pub fn ct_eq(&self, other: impl AsRef<[u8]>) -> bool {
        self.0.as_ref().ct_eq(other.as_ref()).into()
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Clone)]
    struct Counted(Arc<AtomicUsize>);

    impl Zeroize for Counted {
        fn zeroize(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_secret_is_wiped_on_drop_and_not_when_taken_out() {
        let wiped = Counted(Arc::default());
        drop(Secret::new(wiped.clone()));
        assert_eq!(wiped.0.load(Ordering::Relaxed), 1);
        drop(Secret::new(wiped.clone()).into_inner());
        assert_eq!(wiped.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn secrets_compare_and_show_nothing() {
        let text = Secret::new(String::from("hvs.abc"));
        assert!(text.ct_eq("hvs.abc"));
        assert!(!text.ct_eq("hvs.abd"));
        assert!(!text.ct_eq("hvs.ab"));
        let bytes = Secret::new(vec![1_u8, 2, 3]);
        assert!(bytes.ct_eq([1, 2, 3]));
        assert_eq!(format!("{text:?} {bytes:?}"), "Secret(..) Secret(..)");
    }
}
