//! What we encrypt, the installed GnuPG decrypts; keys that it would not use are refused.

mod gpg;

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gpg::Gpg;
use holdfast_pgp::{PgpError, PublicKey};

const SHARE: &[u8] = b"64fa6a4d7f1e39bb4a6f8c1dca3efc8e6df1cf9ae2f2a9f13b3d9c3d2c8f41aa01";

fn days(n: u64) -> Duration {
    Duration::from_secs(n * 24 * 60 * 60)
}

/// Parse the key, encrypt to it, and compare what GnuPG makes of it.
fn round_trip(gpg: &Gpg, uid: &str) -> gpg::Decrypted {
    let key = PublicKey::parse(&STANDARD.encode(gpg.export(uid))).unwrap();
    assert_eq!(key.fingerprint(), gpg.fingerprint(uid));
    let decrypted = gpg.decrypt(&key.encrypt(SHARE).unwrap());
    assert_eq!(decrypted.plaintext, SHARE);
    decrypted
}

#[test]
fn gnupg_decrypts_for_rsa_and_the_curves() {
    let gpg = Gpg::new();
    for algorithms in
        [["rsa2048", "rsa2048"], ["ed25519", "cv25519"], ["nistp256"; 2], ["nistp384"; 2], ["nistp521"; 2]]
    {
        let uid = algorithms[1];
        gpg.make(uid, algorithms[0], "cert,sign", "never");
        gpg.add_subkey(uid, algorithms[1], "encr", "never");
        let decrypted = round_trip(&gpg, uid);
        assert_eq!(decrypted.cipher, 9, "AES-256 for {uid}");
    }
}

#[test]
fn a_primary_key_that_encrypts_is_used_where_there_is_no_subkey() {
    let gpg = Gpg::new();
    gpg.make("alone", "rsa2048", "cert,sign,encr", "never");
    round_trip(&gpg, "alone");
}

#[test]
fn a_share_of_every_length_comes_back() {
    let gpg = Gpg::new();
    gpg.make("x", "ed25519", "cert,sign", "never");
    gpg.add_subkey("x", "cv25519", "encr", "never");
    let key = PublicKey::parse(&STANDARD.encode(gpg.export("x"))).unwrap();
    for length in [0, 1, 26, 66, 191, 192, 8383, 100_000] {
        let plaintext = vec![b'a'; length];
        assert_eq!(gpg.decrypt(&key.encrypt(&plaintext).unwrap()).plaintext, plaintext, "{length} bytes");
    }
}

#[test]
fn a_key_that_prefers_a_shorter_cipher_gets_it() {
    let gpg = Gpg::new();
    gpg.with(
        "short",
        &[
            "--default-preference-list",
            "AES SHA256",
            "--quick-generate-key",
            "short",
            "rsa2048",
            "cert,sign,encr",
            "never",
        ],
    );
    assert_eq!(round_trip(&gpg, "short").cipher, 7, "AES-128");
}

#[test]
fn armour_and_folded_base64_are_read_too() {
    let gpg = Gpg::new();
    gpg.make("x", "rsa2048", "cert,sign,encr", "never");
    let armour = gpg.export_armoured("x");
    let folded: Vec<String> = STANDARD
        .encode(gpg.export("x"))
        .as_bytes()
        .chunks(64)
        .map(|l| String::from_utf8(l.to_vec()).unwrap())
        .collect();
    for text in [armour.clone(), STANDARD.encode(&armour), folded.join("\n"), folded.join("\r\n") + "\r\n"] {
        assert_eq!(PublicKey::parse(&text).unwrap().fingerprint(), gpg.fingerprint("x"));
    }
    let cut = &armour[..armour.len() / 2];
    assert!(PublicKey::parse(cut).is_err());
    assert!(PublicKey::parse(&STANDARD.encode(cut)).is_err());
}

#[test]
fn a_private_key_is_refused_in_every_form() {
    let gpg = Gpg::new();
    gpg.make("x", "rsa2048", "cert,sign,encr", "never");
    let binary = gpg.with("x", &["--export-secret-keys", "x"]);
    let armour = String::from_utf8(gpg.with("x", &["--armor", "--export-secret-keys", "x"])).unwrap();
    for text in [STANDARD.encode(binary), STANDARD.encode(&armour), armour] {
        assert_eq!(PublicKey::parse(&text).unwrap_err(), PgpError::PrivateKey);
    }
}

#[test]
fn an_expired_key_is_refused_and_a_renewed_one_is_not() {
    let gpg = Gpg::new();
    gpg.make("x", "rsa2048", "cert,sign,encr", "10d");
    let text = STANDARD.encode(gpg.export("x"));
    let fingerprint = gpg.fingerprint("x");
    let at = |days_on| PublicKey::parse_at(&text, SystemTime::now() + days(days_on));
    assert!(at(0).is_ok());
    assert!(at(9).is_ok());
    assert_eq!(at(11).unwrap_err(), PgpError::Expired(fingerprint.clone()));
    let early = PublicKey::parse_at(&text, SystemTime::now() - days(1));
    assert_eq!(early.unwrap_err(), PgpError::FromTheFuture(fingerprint.clone()));

    // The newer signature speaks for the key.
    gpg.with("x", &["--faked-system-time", &gpg::seconds_from_now(days(1)), "--quick-set-expire", &fingerprint, "30d"]);
    let renewed = STANDARD.encode(gpg.export("x"));
    assert!(PublicKey::parse_at(&renewed, SystemTime::now() + days(15)).is_ok());
    assert!(PublicKey::parse_at(&renewed, SystemTime::now() + days(40)).is_err());
}

#[test]
fn a_key_whose_subkey_has_expired_is_refused() {
    let gpg = Gpg::new();
    gpg.make("x", "ed25519", "cert,sign", "never");
    gpg.add_subkey("x", "cv25519", "encr", "5d");
    let text = STANDARD.encode(gpg.export("x"));
    assert!(PublicKey::parse(&text).is_ok());
    let refused = PublicKey::parse_at(&text, SystemTime::now() + days(6)).unwrap_err();
    assert!(matches!(&refused, PgpError::CannotEncrypt { reason, .. } if reason.contains("has expired")), "{refused}");
}

#[test]
fn a_revoked_key_is_refused() {
    let gpg = Gpg::new();
    gpg.make("x", "rsa2048", "cert,sign,encr", "never");
    assert!(PublicKey::parse(&STANDARD.encode(gpg.export("x"))).is_ok());
    gpg.revoke("x");
    let refused = PublicKey::parse(&STANDARD.encode(gpg.export("x"))).unwrap_err();
    assert_eq!(refused, PgpError::Revoked(gpg.fingerprint("x")));
}

#[test]
fn a_key_whose_user_ids_are_all_revoked_is_refused() {
    let gpg = Gpg::new();
    gpg.make("x", "rsa2048", "cert,sign,encr", "never");
    // GnuPG keeps the last user id, so both are revoked only by leaving the second one out.
    gpg.with("x", &["--quick-add-uid", "x", "other"]);
    gpg.with("x", &["--quick-revoke-uid", "x", "x"]);
    let only_revoked = gpg.with("x", &["--export-filter", "keep-uid=uid = x", "--export", "other"]);
    let refused = PublicKey::parse(&STANDARD.encode(only_revoked)).unwrap_err();
    assert!(matches!(refused, PgpError::NoSelfSignature(_)), "{refused}");
    assert!(PublicKey::parse(&STANDARD.encode(gpg.export("other"))).is_ok());
}

#[test]
fn the_newest_subkey_is_used_and_a_revoked_one_is_not() {
    let gpg = Gpg::new();
    gpg.make("x", "ed25519", "cert,sign", "never");
    gpg.add_subkey("x", "cv25519", "encr", "never");
    gpg.with(
        "x",
        &[
            "--faked-system-time",
            &gpg::seconds_from_now(days(1)),
            "--quick-add-key",
            &gpg.fingerprint("x"),
            "nistp256",
            "encr",
            "never",
        ],
    );
    let later = SystemTime::now() + days(2);
    let [_, old, new]: [String; 3] = gpg.key_ids("x").try_into().unwrap();
    let recipient = |now| {
        let key = PublicKey::parse_at(&STANDARD.encode(gpg.export("x")), now).unwrap();
        gpg.decrypt(&key.encrypt(SHARE).unwrap()).recipient
    };
    assert_eq!(recipient(later), new);
    assert_eq!(recipient(SystemTime::now()), old, "the new one is not made yet");
    gpg.revoke_subkey("x", 2);
    assert_eq!(recipient(later), old);
    gpg.revoke_subkey("x", 1);
    let refused = PublicKey::parse_at(&STANDARD.encode(gpg.export("x")), later).unwrap_err();
    assert!(
        matches!(&refused, PgpError::CannotEncrypt { reason, .. } if reason.matches("is revoked").count() == 2),
        "{refused}"
    );
}

#[test]
fn keys_that_cannot_encrypt_are_refused_with_the_reason() {
    let gpg = Gpg::new();
    gpg.make("signs", "ed25519", "cert,sign", "never");
    gpg.make("brainpool", "ed25519", "cert,sign", "never");
    gpg.add_subkey("brainpool", "brainpoolP256r1", "encr", "never");
    gpg.make("weak", "rsa1024", "cert,sign,encr", "never");
    for (uid, expected) in
        [("signs", "no part of it is meant for encryption"), ("brainpool", "not supported"), ("weak", "1024 bits")]
    {
        let refused = PublicKey::parse(&STANDARD.encode(gpg.export(uid))).unwrap_err();
        assert!(
            matches!(&refused, PgpError::CannotEncrypt { reason, .. } if reason.contains(expected)),
            "{uid}: {refused}"
        );
    }
}

#[test]
fn two_keys_in_one_text_are_refused() {
    let gpg = Gpg::new();
    gpg.make("a", "ed25519", "cert,sign", "never");
    gpg.make("b", "ed25519", "cert,sign", "never");
    let both = [gpg.export("a"), gpg.export("b")].concat();
    assert_eq!(PublicKey::parse(&STANDARD.encode(both)).unwrap_err(), PgpError::SeveralKeys);
}
