//! Keys that are not whole, not keys, or changed on the way: refused, and nothing panics.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_pgp::{MAX_TEXT_BYTES, PgpError, PublicKey};
use proptest::prelude::*;

/// The keys of the recorded dialogue (shared/conformance, core_init_pgp).
const ONE: &str = include_str!("keys/one.b64");
const TWO: &str = include_str!("keys/two.b64");

/// A version 6 key: RFC 9580, appendix A.3.
const VERSION_6: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----

xioGY4d/4xsAAAAg+U2nu0jWCmHlZ3BqZYfQMxmZu52JGggkLq2EVD34laPCsQYf
GwoAAABCBYJjh3/jAwsJBwUVCg4IDAIWAAKbAwIeCSIhBssYbE8GCaaX5NUt+mxy
KwwfHifBilZwj2Ul7Ce62azJBScJAgcCAAAAAK0oIBA+LX0ifsDm185Ecds2v8lw
gyU2kCcUmKfvBXbAf6rhRYWzuQOwEn7E/aLwIwRaLsdry0+VcallHhSu4RN6HWaE
QsiPlR4zxP/TP7mhfVEe7XWPxtnMUMtf15OyA51YBM4qBmOHf+MZAAAAIIaTJINn
+eUBXbki+PSAld2nhJh/LVmFsS+60WyvXkQ1wpsGGBsKAAAALAWCY4d/4wKbDCIh
BssYbE8GCaaX5NUt+mxyKwwfHifBilZwj2Ul7Ce62azJAAAAAAQBIKbpGG2dWTX8
j+VjFM21J0hqWlEg+bdiojWnKfA5AQpWUWtnNwDEM0g12vYxoWM8Y81W+bHBw805
I8kWVkXU6vFOi+HWvv/ira7ofJu16NnoUkhclkUrk0mXubZvyl4GBg==
-----END PGP PUBLIC KEY BLOCK-----";

fn binary(text: &str) -> Vec<u8> {
    STANDARD.decode(text.trim()).unwrap()
}

fn parse(bytes: &[u8]) -> Result<PublicKey, PgpError> {
    PublicKey::parse(&STANDARD.encode(bytes))
}

#[test]
fn the_recorded_keys_are_read_and_messages_have_the_recorded_size() {
    for (text, fingerprint) in
        [(ONE, "a1901faa1b5257b6eeacee4c13dd3a9d8d1184e1"), (TWO, "1acbe73eba349f22ab5c4e65cf6db323c78b22b0")]
    {
        let key = PublicKey::parse(text).unwrap();
        assert_eq!(key.fingerprint(), fingerprint);
        // 776 hex digits for a share, 464 of base64 for a token. An RSA number that starts with zero
        // bits is written shorter (1 of 256 by a byte), by the reference too.
        let sizes = |plain: &[u8]| (0..8).map(|_| key.encrypt(plain).unwrap().len()).max().unwrap();
        assert_eq!(sizes(&[b'a'; 66]), 776 / 2);
        assert_eq!(sizes(b"s.0123456789abcdefghijklmn").div_ceil(3) * 4, 464);
    }
}

#[test]
fn a_message_is_different_every_time() {
    let key = PublicKey::parse(ONE).unwrap();
    assert_ne!(key.encrypt(b"x").unwrap(), key.encrypt(b"x").unwrap());
}

#[test]
fn what_is_no_key_is_refused_with_the_reason() {
    let signature_only = {
        // The self-signature of the first key, without the key.
        let b = binary(ONE);
        b[3 + 269 + 5..3 + 269 + 5 + 337].to_vec()
    };
    assert_eq!(PublicKey::parse("").unwrap_err(), PgpError::Empty);
    assert_eq!(PublicKey::parse(" \n").unwrap_err(), PgpError::Empty);
    assert_eq!(PublicKey::parse("keybase:nobody").unwrap_err(), PgpError::Keybase);
    assert_eq!(PublicKey::parse("mQEN*").unwrap_err(), PgpError::NotBase64(4));
    assert_eq!(PublicKey::parse("mQEN\n\n*").unwrap_err(), PgpError::NotBase64(6));
    assert!(matches!(PublicKey::parse("abcde").unwrap_err(), PgpError::NotBase64(_)));
    assert!(matches!(PublicKey::parse("aGVsbG8=").unwrap_err(), PgpError::NotAKey(_)), "'hello'");
    assert!(matches!(parse(&signature_only).unwrap_err(), PgpError::NotAKey(_)));
    assert_eq!(parse(&[binary(ONE), binary(TWO)].concat()).unwrap_err(), PgpError::SeveralKeys);
    let long = "A".repeat(MAX_TEXT_BYTES + 1);
    assert_eq!(PublicKey::parse(&long).unwrap_err(), PgpError::TooLong(MAX_TEXT_BYTES + 1));
    for armour in ["-----BEGIN", "-----BEGIN PGP MESSAGE-----\n\nyDgB\n-----END PGP MESSAGE-----\n"] {
        assert!(PublicKey::parse(armour).is_err());
    }
    let refused = PublicKey::parse(VERSION_6).unwrap_err();
    assert!(matches!(refused, PgpError::Version { version: 6, .. }), "{refused}");
}

#[test]
fn half_a_key_says_that_it_was_cut_off() {
    // As the recorded dialogue sends it.
    let half = &ONE[..268];
    assert_eq!(PublicKey::parse(half).unwrap_err(), PgpError::Truncated);
}

#[test]
fn a_key_cut_off_anywhere_is_refused() {
    let whole = binary(ONE);
    for length in 0..whole.len() {
        assert!(parse(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn a_subkey_of_another_key_is_refused() {
    // Whoever can change a key on its way would swap in a subkey of his own.
    let (one, two) = (binary(ONE), binary(TWO));
    let subkey = |b: &[u8]| b.windows(3).rposition(|w| w == [0xb9, 0x01, 0x0d]).unwrap();
    let swapped = [&one[..subkey(&one)], &two[subkey(&two)..]].concat();
    let refused = parse(&swapped).unwrap_err();
    assert!(
        matches!(&refused, PgpError::CannotEncrypt { reason, .. } if reason.contains("no valid signature")),
        "{refused}"
    );
}

#[test]
fn a_changed_byte_never_changes_whom_it_is_for() {
    // The recipient's key id stands behind the packet's header and version.
    let whom = |key: &PublicKey| (key.fingerprint(), key.encrypt(b"x").unwrap()[4..12].to_vec());
    let (whole, honest) = (binary(ONE), whom(&PublicKey::parse(ONE).unwrap()));
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        match parse(&changed) {
            Err(_) => {}
            // Bytes that nothing signs (a hint in an unhashed area, a user id's length form).
            Ok(key) => assert_eq!(whom(&key), honest, "byte {at}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_that_is_sent_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..1200, armour: bool) {
        let _refused = parse(&bytes);
        let mut spliced = binary(TWO);
        let at = at.min(spliced.len());
        let end = (at + bytes.len()).min(spliced.len());
        spliced[at..end].copy_from_slice(&bytes[..end - at]);
        let _refused = parse(&spliced);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _refused = PublicKey::parse(&if armour { format!("-----BEGIN PGP PUBLIC KEY BLOCK-----\n{text}") } else { text });
    }
}
