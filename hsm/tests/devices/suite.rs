//! The conformance suite: what every device does alike, as far as it says that it can.

use holdfast_hsm::device::{
    CipherMechanism, DeviceError, DeviceErrorClass as Class, DeviceInfo, Hash, KeyInfo, KeyKind, KeyRef, KeySpec,
    KeyUsage, SignInput, SignMechanism, ec_point_of_spki,
};
use holdfast_hsm::health;
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::TpmConfig;
use holdfast_hsm::{DeviceClient, WrapKeyConfig};
use std::fmt;
use std::fs;

use super::softhsm::run;
use super::speed;

/// What came of an operation. What works was tried, and what is not supported was refused as such when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Works,
    NotSupported,
    NotTestable,
}

/// The words of the page.
const WORDS: [(Outcome, &str); 3] = [
    (Outcome::Works, "works"),
    (Outcome::NotSupported, "not supported by the device"),
    (Outcome::NotTestable, "not testable here"),
];

/// An outcome, and what there is to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub outcome: Outcome,
    pub note: Option<String>,
}

impl Cell {
    pub const WORKS: Self = Self { outcome: Outcome::Works, note: None };
    /// The device does not list it, or refused it itself.
    pub const NOT_SUPPORTED: Self = Self { outcome: Outcome::NotSupported, note: None };

    pub fn not_supported(why: &str) -> Self {
        Self { outcome: Outcome::NotSupported, note: Some(why.to_owned()) }
    }

    pub fn not_testable(why: &str) -> Self {
        Self { outcome: Outcome::NotTestable, note: Some(why.to_owned()) }
    }

    pub fn words(&self) -> &'static str {
        WORDS.iter().find(|(outcome, _)| *outcome == self.outcome).expect("each outcome has words").1
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())?;
        self.note.iter().try_for_each(|note| write!(f, ": {note}"))
    }
}

/// As it was displayed by another process of this program.
impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        let (words, note) = text.split_once(": ").map_or((text, None), |(words, note)| (words, Some(note.to_owned())));
        let (outcome, _) = WORDS.iter().find(|(_, known)| *known == words).expect("words of an outcome");
        Self { outcome: *outcome, note }
    }
}

/// What came of each operation, in the order of the suite.
pub type Matrix = Vec<(String, Cell)>;

/// What a refusal says of the device, which lists what it can do under these names: that it cannot, or that the driver
/// leaves it alone.
fn refused<T>(info: &DeviceInfo, names: &[&str], result: Result<T, DeviceError>) -> Cell {
    let Err(error) = result else { panic!("what is not listed was done") };
    assert_eq!(class(Err::<(), _>(error.clone())), Class::Unsupported);
    if error.text.contains("lets secret keys out") {
        return Cell::not_supported("it has such keys, and its C_WrapKey gives them out: the driver refuses them");
    }
    // The device said so when it was asked, or its list did, which the driver has looked at for this use and size, or it is known
    // to fail, which p521.rs tries.
    let by_the_device = [": C_", "is not among its mechanisms", "fails to sign with them"];
    let by_the_device = by_the_device.iter().any(|words| error.text.contains(words));
    let listed = !names.is_empty() && names.iter().all(|name| info.mechanisms.iter().any(|listed| listed == name));
    match info.backend.as_str() {
        "pkcs11" if listed && !by_the_device => panic!("a token lists it and the driver refused it: {}", error.text),
        // A TPM does not list what it has by these names; Part 1, 11.4 and 27 have it.
        "tpm" if names.iter().any(|name| name.ends_with("_HMAC")) => {
            Cell::not_testable("a TPM has HMAC keys; the driver makes none and refuses the call")
        }
        "tpm" if names == ["CKM_AES_KEY_GEN"] => Cell::not_supported("it has AES, without GCM"),
        _ => Cell::NOT_SUPPORTED,
    }
}

/// Runs all of it. The device must hold no key named `suite-…`.
pub fn conformance(device: &DeviceClient) -> Matrix {
    let info = device.info().expect("a device says what it is");
    assert!(!info.token_label.is_empty());
    let mut matrix = makes_what_it_says_and_nothing_else(device, &info);
    // A token that does OAEP may turn out to do it with SHA-1 alone.
    let aes = encrypts(device, &info, CipherMechanism::AesGcm, &["CKM_AES_KEY_GEN", "CKM_AES_GCM"]);
    let oaep = encrypts(device, &info, CipherMechanism::RsaOaepSha256, &["CKM_RSA_PKCS_OAEP"]);
    let decrypts = match &oaep {
        Cell { outcome: Outcome::Works, .. } => Cell::WORKS,
        _ if info.capabilities.decrypt_only.contains(&CipherMechanism::RsaOaepSha256) => {
            decrypts_what_others_encrypted(device)
        }
        refused => refused.clone(),
    };
    matrix.extend([
        ("encrypt, decrypt: AES-256-GCM".to_owned(), aes),
        ("encrypt, decrypt: RSA-OAEP".to_owned(), oaep),
        ("decrypt: RSA-OAEP".to_owned(), decrypts),
        ("wrap, unwrap the root key".to_owned(), wraps(device)),
    ]);
    matrix.extend(signs(device, &info));
    let verifies = !info.capabilities.never_verifies && !info.capabilities.sign.is_empty();
    let verifies = if verifies { Cell::WORKS } else { Cell::NOT_SUPPORTED };
    matrix.extend([
        ("verify, by the device itself".to_owned(), verifies),
        ("HMAC with SHA256, SHA384, SHA512".to_owned(), macs(device, &info)),
        ("ECDH: P-256, P-384, P-521 where it makes such keys".to_owned(), derives(device, &info)),
        ("import: AES-256".to_owned(), imports(device, &info)),
        ("random, with the health test".to_owned(), gives_random_bytes(device, &info)),
    ]);
    serves_many_threads(device);
    matrix.push(("64 users at once".to_owned(), Cell::WORKS));
    destroys(device);
    matrix.push(("destroy".to_owned(), Cell::WORKS));
    // Whatever a device was asked, nothing of the suite is left on it.
    let left = device.find(KeyRef::default()).unwrap();
    assert!(left.iter().all(|key| !key.label.starts_with("suite-")), "{left:?}");
    matrix
}

fn gives_random_bytes(device: &DeviceClient, info: &DeviceInfo) -> Cell {
    if !info.capabilities.random {
        return refused(info, &[], device.random(32));
    }
    for _ in 0..4 {
        let [a, b] = [health::DRAW_BYTES; 2].map(|bytes| device.random(bytes as u32).unwrap());
        assert!(health::looks_random(&a, &b), "the health test");
    }
    let sizes = [1, 31, 32, 33, 1000, 4096].map(|bytes| device.random(bytes).unwrap());
    let [.., one, other] = &sizes;
    assert!((one.expose().len(), other.expose().len()) == (1000, 4096));
    assert_eq!(class(device.random(1 << 20)), Class::Invalid);
    speed::measure("random, with the health test", || drop(device.random(32).unwrap()));
    Cell::WORKS
}

/// As the seal does it, in the way that the device has.
fn wraps(device: &DeviceClient) -> Cell {
    let key = device.ensure_wrapping_key(&wrapping(device, "suite-wrap")).unwrap();
    let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), b"root key");
    assert_eq!(class(device.unwrap(&key, &wrapped, b"another")), Class::Tampered);
    speed::measure("wrap, unwrap the root key", || drop(device.unwrap(&key, &wrapped, b"cluster").unwrap()));
    if key.key_label == "suite-wrap" {
        device.destroy(KeyRef::label("suite-wrap")).unwrap();
    }
    Cell::WORKS
}

/// A seal's key under this name, in the way of the device: a TPM has its root for it.
pub fn wrapping(device: &DeviceClient, label: &str) -> WrapKeyConfig {
    let info = device.info().unwrap();
    if info.backend == "tpm" {
        return WrapKeyConfig::from(&TpmConfig::new("device"));
    }
    let own = CipherMechanism::YubiHsmWrap;
    let mechanism = info.capabilities.cipher.contains(&own).then(|| own.name().to_owned());
    WrapKeyConfig { key_label: Some(label.to_owned()), generate_key: true, mechanism, ..WrapKeyConfig::default() }
}

/// Whether the device does it. What it does not list it refuses as not supported; what it lists and refuses all the same
/// it lists no longer.
fn does(error: Option<&DeviceError>, listed: bool, still_listed: impl Fn() -> bool) -> bool {
    match error {
        Some(error) if !listed || error.class == Class::Unsupported => {
            assert_eq!(class(Err::<(), _>(error.clone())), Class::Unsupported);
            assert!(!still_listed(), "{error}");
            false
        }
        Some(error) => panic!("{error}"),
        None => {
            assert!(listed && still_listed());
            true
        }
    }
}

const KINDS: [KeyKind; 10] = [
    KeyKind::Aes(256),
    KeyKind::AesCcm(256),
    KeyKind::Hmac(Hash::Sha256),
    KeyKind::Rsa(2048),
    KeyKind::Rsa(3072),
    KeyKind::Rsa(4096),
    KeyKind::EcP256,
    KeyKind::EcP384,
    KeyKind::EcP521,
    KeyKind::Ed25519,
];

/// Under which names PKCS#11 tokens list that they make such keys and use them.
fn names_of(kind: KeyKind) -> &'static [&'static str] {
    match kind {
        KeyKind::Aes(_) => &["CKM_AES_KEY_GEN"],
        KeyKind::Hmac(_) => &["CKM_GENERIC_SECRET_KEY_GEN", "CKM_SHA256_HMAC"],
        KeyKind::Rsa(_) => &["CKM_RSA_PKCS_KEY_PAIR_GEN"],
        KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 => &["CKM_EC_KEY_PAIR_GEN", "CKM_ECDSA"],
        KeyKind::Ed25519 => &["CKM_EC_EDWARDS_KEY_PAIR_GEN", "CKM_EDDSA"],
        _ => &[],
    }
}

fn makes_what_it_says_and_nothing_else(device: &DeviceClient, info: &DeviceInfo) -> Matrix {
    let can = &info.capabilities.generate;
    let mut matrix = Matrix::new();
    for kind in KINDS {
        let secret = matches!(kind, KeyKind::Aes(_) | KeyKind::AesCcm(_) | KeyKind::Hmac(_));
        let encrypts = secret && kind != KeyKind::Hmac(Hash::Sha256);
        let usage = if encrypts { KeyUsage::Encrypt } else { KeyUsage::Sign };
        let spec = spec("suite-made", kind, usage);
        let made = device.generate(spec.clone());
        let does = does(made.as_ref().err(), can.contains(&kind), || {
            device.info().unwrap().capabilities.generate.contains(&kind)
        });
        let what = format!("make, find: {kind}");
        if !does {
            matrix.push((what, refused(info, names_of(kind), made)));
            continue;
        }
        matrix.push((what, Cell::WORKS));
        let key = made.unwrap();
        assert_eq!((key.kind, key.label.as_str()), (kind, "suite-made"));
        assert!(key.private && !key.extractable && !key.id.is_empty(), "{key:?}");
        assert_eq!(key.public, !secret);
        for name in [KeyRef::label("suite-made"), KeyRef::id(key.id.clone()), key.key_ref()] {
            assert_eq!(device.find(name).unwrap(), std::slice::from_ref(&key));
        }
        assert_eq!(class(device.generate(spec)), Class::Invalid, "a second key of one name");
        device.destroy(key.key_ref()).unwrap();
    }
    assert_eq!(class(device.generate(spec("suite-odd", KeyKind::Aes(128), KeyUsage::Encrypt))), Class::Unsupported);
    let senseless = device.generate(spec("suite-odd", KeyKind::Aes(256), KeyUsage::Sign));
    assert!(matches!(class(senseless), Class::Invalid | Class::Unsupported));
    assert_eq!(device.find(KeyRef::label("suite-made")).unwrap(), []);
    matrix
}

fn encrypts(device: &DeviceClient, info: &DeviceInfo, mechanism: CipherMechanism, names: &[&str]) -> Cell {
    let secret = || Secret::new(b"the root key of a cluster, 32 b.".to_vec());
    if !info.capabilities.cipher.contains(&mechanism) {
        return refused(info, names, device.encrypt(KeyRef::label("suite-cipher"), mechanism, secret(), b""));
    }
    let aes = mechanism == CipherMechanism::AesGcm;
    let kind = if aes { KeyKind::Aes(256) } else { KeyKind::Rsa(2048) };
    let missing = device.encrypt(KeyRef::label("suite-cipher"), mechanism, secret(), b"");
    assert_eq!(class(missing), Class::KeyMissing);
    let key = device.generate(spec("suite-cipher", kind, KeyUsage::Encrypt)).unwrap();
    let aad: &[u8] = if aes { b"cluster 1" } else { b"" };

    let first = device.encrypt(key.key_ref(), mechanism, secret(), aad).unwrap();
    let second = device.encrypt(key.key_ref(), mechanism, secret(), aad).unwrap();
    assert_ne!(first.bytes, second.bytes, "encryption is randomised");
    let opened = device.decrypt(key.key_ref(), first.mechanism, &first.bytes, aad).unwrap();
    assert!(opened.ct_eq(secret().expose()));

    for place in [0, first.bytes.len() / 2, first.bytes.len() - 1] {
        let mut changed = first.bytes.clone();
        changed[place] ^= 1;
        let opened = device.decrypt(key.key_ref(), first.mechanism, &changed, aad);
        assert_eq!(class(opened), Class::Tampered, "{mechanism}, byte {place}");
    }
    if aes {
        assert_eq!(class(device.decrypt(key.key_ref(), mechanism, &first.bytes, b"cluster 2")), Class::Tampered);
        assert_eq!(class(device.decrypt(key.key_ref(), mechanism, &first.bytes[..20], aad)), Class::Tampered);
        let long = Secret::new(vec![0x5A; 100_000]);
        let sealed = device.encrypt(key.key_ref(), mechanism, long, aad).unwrap();
        assert!(device.decrypt(key.key_ref(), mechanism, &sealed.bytes, aad).unwrap().ct_eq(vec![0x5A; 100_000]));
    } else {
        let long = device.encrypt(key.key_ref(), mechanism, Secret::new(vec![0; 1000]), b"");
        assert_eq!(class(long), Class::Invalid, "more than RSA holds");
    }
    let after = device.decrypt(key.key_ref(), first.mechanism, &first.bytes, aad).unwrap();
    assert!(after.ct_eq(secret().expose()), "errors leave the device usable");
    let row = if aes { "encrypt, decrypt: AES-256-GCM" } else { "encrypt, decrypt: RSA-OAEP" };
    speed::measure(row, || drop(device.decrypt(key.key_ref(), first.mechanism, &first.bytes, aad).unwrap()));
    device.destroy(key.key_ref()).unwrap();
    Cell::WORKS
}

/// What others encrypt with the public key.
fn decrypts_what_others_encrypted(device: &DeviceClient) -> Cell {
    let key = device.generate(spec("suite-oaep", KeyKind::Rsa(2048), KeyUsage::Encrypt)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(file("key"), device.public_key(key.key_ref()).unwrap()).unwrap();
    fs::write(file("plain"), "for this key alone").unwrap();
    let (public, plain, sealed) = (file("key"), file("plain"), file("sealed"));
    let key_and_files = ["-pubin", "-keyform", "DER", "-inkey", &public, "-in", &plain, "-out", &sealed];
    let oaep = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"];
    run("openssl", &[&["pkeyutl", "-encrypt"][..], &key_and_files, &oaep].concat());
    let mut sealed = fs::read(sealed).unwrap();
    let decrypt = |sealed: &[u8]| device.decrypt(key.key_ref(), CipherMechanism::RsaOaepSha256, sealed, b"");
    assert!(decrypt(&sealed).unwrap().ct_eq(b"for this key alone"));
    speed::measure("decrypt: RSA-OAEP", || drop(decrypt(&sealed).unwrap()));
    sealed[100] ^= 1;
    assert_eq!(class(decrypt(&sealed)), Class::Tampered);
    assert_eq!(class(decrypt(&sealed[1..])), Class::Tampered);
    device.destroy(key.key_ref()).unwrap();
    Cell::WORKS
}

/// Each kind of key that signs, and the schemes of it: what tokens list, and the ways, which work all or none.
fn schemes() -> Vec<(KeyKind, Vec<(&'static str, Vec<SignMechanism>)>)> {
    use SignMechanism::{Ecdsa, Ed25519, RsaPkcs1, RsaPss};
    let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
    let rsa =
        || vec![("CKM_RSA_PKCS", hashes.map(RsaPkcs1).to_vec()), ("CKM_RSA_PKCS_PSS", hashes.map(RsaPss).to_vec())];
    vec![
        (KeyKind::EcP256, vec![("CKM_ECDSA", vec![Ecdsa(Hash::Sha256)])]),
        (KeyKind::EcP384, vec![("CKM_ECDSA", vec![Ecdsa(Hash::Sha384)])]),
        (KeyKind::EcP521, vec![("CKM_ECDSA", vec![Ecdsa(Hash::Sha512)])]),
        (KeyKind::Rsa(2048), rsa()),
        (KeyKind::Rsa(3072), rsa()),
        (KeyKind::Rsa(4096), rsa()),
        (KeyKind::Ed25519, vec![("CKM_EDDSA", vec![Ed25519])]),
    ]
}

fn signs(device: &DeviceClient, info: &DeviceInfo) -> Matrix {
    let can = &info.capabilities.sign;
    let mut matrix = Matrix::new();
    let name = || KeyRef::label("suite-sign");
    for (kind, schemes) in schemes() {
        if let Some(missing) = schemes.iter().flat_map(|(_, ways)| ways).find(|way| can.contains(way)) {
            let sign = device.sign(name(), *missing, SignInput::Message(b"to be signed".to_vec()));
            assert_eq!(class(sign), Class::KeyMissing);
        }
        let made = device.generate(spec("suite-sign", kind, KeyUsage::Sign));
        for (listed, ways) in schemes {
            let cell = match &made {
                Err(error) => refused(info, names_of(kind), Err::<(), _>(error.clone())),
                Ok(_) if ways.iter().all(|way| can.contains(way)) => {
                    ways.iter().for_each(|way| signs_with(device, *way, !info.capabilities.never_verifies));
                    Cell::WORKS
                }
                Ok(_) => {
                    let sign = |way| device.sign(name(), way, SignInput::Message(b"to be signed".to_vec()));
                    let mut cells: Vec<_> = ways.iter().map(|way| refused(info, &[listed], sign(*way))).collect();
                    cells.swap_remove(0)
                }
            };
            let hashes: Vec<_> = ways.iter().filter_map(|way| way.hash()).map(|hash| hash.to_string()).collect();
            let scheme = match ways[0] {
                SignMechanism::RsaPkcs1(_) => " PKCS#1 v1.5",
                SignMechanism::RsaPss(_) => " PSS",
                _ => "",
            };
            let with = if hashes.is_empty() { String::new() } else { format!(" with {}", hashes.join(", ")) };
            let row = format!("sign: {kind}{scheme}{with}");
            if cell == Cell::WORKS {
                let input = || SignInput::Message(b"to be signed".to_vec());
                speed::measure(&row, || drop(device.sign(name(), ways[0], input()).unwrap()));
            }
            matrix.push((row, cell));
        }
        if let Ok(key) = made {
            device.destroy(key.key_ref()).unwrap();
        }
    }
    matrix
}

fn signs_with(device: &DeviceClient, mechanism: SignMechanism, verifies: bool) {
    let name = || KeyRef::label("suite-sign");
    let message = || SignInput::Message(b"to be signed".to_vec());
    let signature = device.sign(name(), mechanism, message()).unwrap();
    let spki = device.public_key(name()).unwrap();
    openssl_agrees(&spki, mechanism, b"to be signed", &signature);

    let verify = |input, signature: &[u8]| device.verify(name(), mechanism, input, signature.to_vec());
    if verifies {
        assert!(verify(message(), &signature).unwrap(), "{mechanism}");
        assert!(!verify(SignInput::Message(b"something else".to_vec()), &signature).unwrap(), "{mechanism}");
        assert!(!verify(message(), &signature[1..]).unwrap(), "{mechanism}");
    } else {
        assert_eq!(class(verify(message(), &signature)), Class::Unsupported, "nobody verifies in its place");
    }
    let Some(hash) = mechanism.hash() else {
        assert_eq!(class(device.sign(name(), mechanism, SignInput::Digest(vec![0; 32]))), Class::Unsupported);
        return;
    };
    let digest = || SignInput::Digest(hash.digest(b"to be signed"));
    assert!(!verifies || verify(digest(), &signature).unwrap(), "{mechanism}");
    let signature = device.sign(name(), mechanism, digest()).unwrap();
    openssl_agrees(&spki, mechanism, b"to be signed", &signature);
    assert_eq!(class(device.sign(name(), mechanism, SignInput::Digest(vec![0; 20]))), Class::Invalid);
}

fn macs(device: &DeviceClient, info: &DeviceInfo) -> Cell {
    let name = || KeyRef::label("suite-mac");
    let mac = |hash, message: &[u8]| device.mac(name(), hash, message.to_vec());
    let mut cells = Vec::new();
    for (hash, listed) in
        [(Hash::Sha256, "CKM_SHA256_HMAC"), (Hash::Sha384, "CKM_SHA384_HMAC"), (Hash::Sha512, "CKM_SHA512_HMAC")]
    {
        let verify = |message: &[u8], tag: &[u8]| device.verify_mac(name(), hash, message.to_vec(), tag.to_vec());
        if !info.capabilities.mac.contains(&hash) {
            assert_eq!(class(verify(b"message", &[7; 32])), Class::Unsupported);
            cells.push(refused(info, &[listed], mac(hash, b"message")));
            continue;
        }
        assert_eq!(class(mac(hash, b"message")), Class::KeyMissing);
        let made = device.generate(spec("suite-mac", KeyKind::Hmac(hash), KeyUsage::Sign));
        if !info.capabilities.generate.contains(&KeyKind::Hmac(hash)) {
            // It would use a key that others have put there.
            cells.push(refused(info, names_of(KeyKind::Hmac(hash)), made));
            continue;
        }
        let key = made.unwrap();
        assert!(!key.extractable && !key.public);
        let tag = mac(hash, b"message").unwrap();
        assert_eq!((tag.len(), mac(hash, b"message").unwrap()), (hash.digest_bytes(), tag.clone()));
        assert_ne!(mac(hash, b"another").unwrap(), tag);
        assert!(verify(b"message", &tag).unwrap());
        for (message, tag) in [(&b"another"[..], &tag[..]), (b"message", &tag[1..]), (b"emessage", b"")] {
            assert!(!verify(message, tag).unwrap());
        }
        let other = if hash == Hash::Sha256 { Hash::Sha512 } else { Hash::Sha256 };
        assert_eq!(class(mac(other, b"message")), Class::Invalid);
        match mac(hash, &[0; 5000]) {
            Ok(tag) => assert!(verify(&[0; 5000], &tag).unwrap() && !verify(&[0; 4999], &tag).unwrap()),
            Err(error) => assert_eq!(class(Err::<(), _>(error)), Class::Invalid, "more than it takes at once"),
        }
        assert_eq!(class(device.public_key(name())), Class::KeyMissing, "there is no public half");
        if hash == Hash::Sha256 {
            let row = "HMAC with SHA256, SHA384, SHA512";
            speed::measure(row, || drop(mac(hash, b"message").unwrap()));
        }
        device.destroy(key.key_ref()).unwrap();
        cells.push(Cell::WORKS);
    }
    assert!(cells.windows(2).all(|pair| pair[0] == pair[1]), "all hashes or none: {cells:?}");
    cells.swap_remove(0)
}

/// A second opinion on signature and public key.
pub fn openssl_agrees(spki: &[u8], mechanism: SignMechanism, message: &[u8], signature: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (key, message, signature) = (file("key", spki), file("message", message), file("signature", signature));
    let hash = mechanism.hash().map(|hash| format!("-{}", hash.to_string().to_lowercase())).unwrap_or_default();
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
    let mut arguments = match mechanism {
        SignMechanism::Ed25519 => {
            let of = ["-pubin", "-keyform", "DER", "-inkey", &key, "-in", &message, "-sigfile", &signature];
            run("openssl", &[&["pkeyutl", "-verify", "-rawin"][..], &of].concat());
            return;
        }
        SignMechanism::RsaPss(_) => pss.to_vec(),
        _ => Vec::new(),
    };
    arguments.extend(["-signature", &signature, &message]);
    run("openssl", &[&["dgst", &hash, "-keyform", "DER", "-verify", &key][..], &arguments].concat());
}

fn derives(device: &DeviceClient, info: &DeviceInfo) -> Cell {
    if !info.capabilities.derive {
        let derived = device.derive(KeyRef::label("suite-derive"), &[4; 65]);
        return refused(info, &["CKM_ECDH1_DERIVE"], derived);
    }
    let curves = [(KeyKind::EcP256, "P-256", 32), (KeyKind::EcP384, "P-384", 48), (KeyKind::EcP521, "P-521", 66)];
    // Some list more than they make, which was tried above.
    let makes = device.info().unwrap().capabilities.generate;
    for (kind, curve, bytes) in curves.into_iter().filter(|(kind, ..)| *kind != KeyKind::EcP521 || makes.contains(kind))
    {
        let pair = ["suite-derive-a", "suite-derive-b"].map(|label| {
            let key = device.generate(spec(label, kind, KeyUsage::Derive)).unwrap();
            let spki = device.public_key(key.key_ref()).unwrap();
            (key, ec_point_of_spki(&spki).unwrap().to_vec())
        });
        let [(a, point_a), (b, point_b)] = &pair;
        let shared = device.derive(a.key_ref(), point_b).unwrap();
        assert_eq!(shared.expose().len(), bytes);
        assert!(shared.ct_eq(device.derive(b.key_ref(), point_a).unwrap().expose()));
        assert_eq!(class(device.derive(a.key_ref(), &point_b[1..])), Class::Invalid);
        let (point, theirs) = openssl_derives(curve, &device.public_key(a.key_ref()).unwrap());
        assert!(device.derive(a.key_ref(), &point).unwrap().ct_eq(&theirs), "as OpenSSL, on {curve}");
        let mut nowhere = point.clone();
        *nowhere.last_mut().unwrap() ^= 1;
        assert_eq!(class(device.derive(a.key_ref(), &nowhere)), Class::Invalid, "a point that is not on {curve}");
        assert!(device.info().unwrap().capabilities.derive, "that was the peer's fault");
        if kind == KeyKind::EcP256 {
            let row = "ECDH: P-256, P-384, P-521 where it makes such keys";
            speed::measure(row, || drop(device.derive(a.key_ref(), point_b).unwrap()));
        }
        assert!(device.derive(a.key_ref(), &point).unwrap().ct_eq(&theirs));
        for (key, _) in &pair {
            device.destroy(key.key_ref()).unwrap();
        }
    }
    Cell::WORKS
}

/// The point of a new key of OpenSSL's, and what it shares with the device's.
fn openssl_derives(curve: &str, device: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (own, public, device_file, shared) = (file("own.pem"), file("public"), file("device"), file("shared"));
    fs::write(&device_file, device).unwrap();
    let curve = format!("ec_paramgen_curve:{curve}");
    run("openssl", &["genpkey", "-algorithm", "EC", "-pkeyopt", &curve, "-out", &own]);
    run("openssl", &["pkey", "-in", &own, "-pubout", "-outform", "DER", "-out", &public]);
    let peer = ["-peerkey", &device_file, "-peerform", "DER", "-out", &shared];
    run("openssl", &[&["pkeyutl", "-derive", "-inkey", &own][..], &peer].concat());
    let public = fs::read(public).unwrap();
    (ec_point_of_spki(&public).expect("a point").to_vec(), fs::read(shared).unwrap())
}

fn imports(device: &DeviceClient, info: &DeviceInfo) -> Cell {
    let listed = info.capabilities.import.contains(&KeyKind::Aes(256));
    let aes = || spec("suite-import", KeyKind::Aes(256), KeyUsage::Encrypt);
    let imported = device.import(aes(), Secret::new(vec![7; 32]));
    let can = || device.info().unwrap().capabilities;
    if !does(imported.as_ref().err(), listed, || can().import.contains(&KeyKind::Aes(256))) {
        return refused(info, names_of(KeyKind::Aes(256)), imported);
    }
    let key = imported.unwrap();
    assert!(key.private && !key.extractable && key.kind == KeyKind::Aes(256), "{key:?}");
    if !can().cipher.contains(&CipherMechanism::AesGcm) {
        // Nothing here tells what is in it.
        device.destroy(key.key_ref()).unwrap();
        return Cell::WORKS;
    }
    let sealed = device.encrypt(key.key_ref(), CipherMechanism::AesGcm, Secret::new(vec![1]), b"").unwrap();
    device.destroy(key.key_ref()).unwrap();
    let again = device.import(aes(), Secret::new(vec![7; 32])).unwrap();
    let opened = device.decrypt(again.key_ref(), sealed.mechanism, &sealed.bytes, b"").unwrap();
    assert!(opened.ct_eq([1]), "the same key imported twice is the same key");
    device.destroy(again.key_ref()).unwrap();
    assert_eq!(class(device.import(aes(), Secret::new(vec![7; 31]))), Class::Invalid);
    let pair = spec("suite-import", KeyKind::EcP256, KeyUsage::Sign);
    assert_eq!(class(device.import(pair, Secret::new(vec![7; 32]))), Class::Unsupported);
    Cell::WORKS
}

/// A key that signs, where the device makes one.
pub fn signing_key(device: &DeviceClient, label: &str) -> Option<KeyInfo> {
    let can = device.info().unwrap().capabilities;
    let kind = [KeyKind::EcP256, KeyKind::Rsa(2048)].into_iter().find(|kind| can.generate.contains(kind))?;
    Some(device.generate(spec(label, kind, KeyUsage::Sign)).unwrap())
}

/// A key of the kind that the device has: most wrap, others sign.
pub fn usual_key(device: &DeviceClient, label: &str) -> KeyInfo {
    let can = device.info().unwrap().capabilities;
    let (kind, usage) = match can.cipher.contains(&CipherMechanism::AesGcm) {
        true => (KeyKind::Aes(256), KeyUsage::Encrypt),
        false if can.cipher.contains(&CipherMechanism::YubiHsmWrap) => (KeyKind::AesCcm(256), KeyUsage::Encrypt),
        false if can.generate.contains(&KeyKind::EcP256) => (KeyKind::EcP256, KeyUsage::Sign),
        false => (KeyKind::Rsa(2048), KeyUsage::Sign),
    };
    device.generate(spec(label, kind, usage)).unwrap()
}

/// Uses it, and looks that what came of it is right.
pub fn use_key(device: &DeviceClient, key: &KeyInfo, input: Vec<u8>) -> Result<(), DeviceError> {
    let name = key.key_ref();
    if let KeyKind::Aes(256) | KeyKind::AesCcm(256) = key.kind {
        let gcm = key.kind == KeyKind::Aes(256);
        let mechanism = if gcm { CipherMechanism::AesGcm } else { CipherMechanism::YubiHsmWrap };
        let sealed = device.encrypt(name.clone(), mechanism, Secret::new(input.clone()), b"")?;
        assert!(device.decrypt(name, sealed.mechanism, &sealed.bytes, b"")?.ct_eq(input));
    } else {
        let mechanism = match key.kind {
            KeyKind::Rsa(_) => SignMechanism::RsaPkcs1(Hash::Sha256),
            _ => SignMechanism::Ecdsa(Hash::Sha256),
        };
        let signature = device.sign(name.clone(), mechanism, SignInput::Message(input.clone()))?;
        openssl_agrees(&device.public_key(name)?, mechanism, &input, &signature);
    }
    Ok(())
}

fn serves_many_threads(device: &DeviceClient) {
    let mut keys = vec![usual_key(device, "suite-threads")];
    if !matches!(keys[0].kind, KeyKind::EcP256 | KeyKind::Rsa(_)) {
        keys.extend(signing_key(device, "suite-signing-threads"));
    }
    std::thread::scope(|scope| {
        for thread in 0..64_u8 {
            let keys = &keys;
            scope.spawn(move || {
                for round in 0..4_u8 {
                    keys.iter().for_each(|key| use_key(device, key, vec![thread, round]).unwrap());
                }
            });
        }
    });
    for key in keys {
        device.destroy(key.key_ref()).unwrap();
    }
}

fn destroys(device: &DeviceClient) {
    assert_eq!(class(device.destroy(KeyRef::label("suite-none"))), Class::KeyMissing);
    assert_eq!(class(device.destroy(KeyRef::default())), Class::Invalid);
    let key = usual_key(device, "suite-gone");
    use_key(device, &key, vec![1]).unwrap();
    device.destroy(key.key_ref()).unwrap();
    assert_eq!(class(use_key(device, &key, vec![1])), Class::KeyMissing);
    assert_eq!(class(device.destroy(key.key_ref())), Class::KeyMissing);
}

pub fn spec(label: &str, kind: KeyKind, usage: KeyUsage) -> KeySpec {
    KeySpec { label: label.to_owned(), id: None, kind, usage }
}

/// The class of the error that must be there, whose text must be one clear line.
pub fn class<T>(result: Result<T, holdfast_hsm::device::DeviceError>) -> Class {
    let Err(error) = result else { panic!("this should have been refused") };
    assert!(!error.text.is_empty() && !error.text.contains('\n'), "{error}");
    assert!(!error.text.contains(super::softhsm::PIN), "{error}");
    error.class
}
