//! Somebody sits on the bus between machine and TPM: listens, and changes what passes.

use super::swtpm::SwTpm;
use super::{Bench, Test, custodians, tpm};
use holdfast_hsm::device::{
    CipherMechanism, DeviceErrorClass as Class, Hash, KeyKind, KeySpec, KeyUsage, SignInput, SignMechanism,
    ec_point_of_spki,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::{PcrHash, TpmConfig};
use holdfast_hsm::{DeviceClient, WrapKeyConfig, gcm};
use holdfast_tests::tpm::free_ports;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("nothing_secret_passes_the_bus_to_a_tpm_in_the_clear", listened),
    ("what_passes_the_bus_opens_nothing_that_a_tpm_sealed", listened_to_the_seal),
    ("an_answer_that_was_changed_on_the_bus_is_refused", changed),
];

/// What is between a machine and its TPM.
struct Bus {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    /// While set, the last byte of each answer is another.
    meddles: Arc<AtomicBool>,
    _taken: TcpListener,
}

impl Bus {
    fn before(tpm: &SwTpm) -> Self {
        let (port, taken) = free_ports();
        let (heard, meddles) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        for offset in [0, 1] {
            let listener = TcpListener::bind(("127.0.0.1", port + offset)).unwrap();
            let (heard, meddles) = (Arc::clone(&heard), Arc::clone(&meddles));
            let there = tpm.port() + offset;
            // They end with the test program; each waits for a connection, or for its end.
            thread::spawn(move || {
                for near in listener.incoming().map_while(Result::ok) {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", there)) else { continue };
                    pass(&near, &far, &heard, None);
                    pass(&far, &near, &heard, (offset == 0).then(|| Arc::clone(&meddles)));
                }
            });
        }
        Self { port, heard, meddles, _taken: taken }
    }

    fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    fn has_heard(&self, bytes: &[u8]) -> bool {
        self.heard.lock().unwrap().windows(bytes.len()).any(|window| window == bytes)
    }
}

fn pass(from: &TcpStream, to: &TcpStream, heard: &Arc<Mutex<Vec<u8>>>, meddles: Option<Arc<AtomicBool>>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let heard = Arc::clone(heard);
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            heard.lock().unwrap().extend_from_slice(&buffer[..length]);
            if meddles.as_ref().is_some_and(|meddles| meddles.load(Ordering::SeqCst)) {
                buffer[length - 1] ^= 1;
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        // The other side may have ended already.
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn listened(bench: &Bench) {
    let tpm = SwTpm::start();
    let bus = Bus::before(&tpm);
    let keys = tempfile::tempdir().unwrap();
    let mut config = TpmConfig::new(bus.tcti());
    config.keys = Some(keys.path().display().to_string());
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), config);

    let random = device.random(96).unwrap();
    for part in random.expose().chunks(32) {
        assert!(!bus.has_heard(&part[..16]), "random bytes of the TPM");
    }
    let make =
        |label: &str, kind, usage| device.generate(KeySpec { label: label.into(), id: None, kind, usage }).unwrap();
    let rsa = make("rsa", KeyKind::Rsa(2048), KeyUsage::Encrypt).key_ref();
    let plaintext = b"what only the two of us may know";
    let sealed =
        device.encrypt(rsa.clone(), CipherMechanism::RsaOaepSha256, Secret::new(plaintext.to_vec()), b"").unwrap();
    assert!(device.decrypt(rsa, sealed.mechanism, &sealed.bytes, b"").unwrap().ct_eq(plaintext));
    assert!(!bus.has_heard(plaintext), "what was encrypted, and decrypted");

    let (a, b) = (make("a", KeyKind::EcP256, KeyUsage::Derive), make("b", KeyKind::EcP256, KeyUsage::Derive));
    let spki = device.public_key(b.key_ref()).unwrap();
    let shared = device.derive(a.key_ref(), ec_point_of_spki(&spki).unwrap()).unwrap();
    assert!(!bus.has_heard(&shared.expose()[..16]), "the shared secret of ECDH");

    // The listener is no deaf one: what is no secret is heard.
    let signing = make("signing", KeyKind::EcP256, KeyUsage::Sign);
    let spki = device.public_key(signing.key_ref()).unwrap();
    let message = SignInput::Message(b"m".to_vec());
    device.sign(signing.key_ref(), SignMechanism::Ecdsa(Hash::Sha256), message).unwrap();
    assert!(bus.has_heard(&spki[spki.len() - 32..]), "half of a public point");
}

const PIN: &str = "the PIN of a seal";
const ROOT_KEY: &[u8] = b"the root key of a whole cluster.";

/// The seal, with a PIN, measurements, both and neither, an approval of others, and custodians: neither the PIN nor what a TPM makes of
/// it is heard, nor a key that opens what was sealed.
fn listened_to_the_seal(bench: &Bench) {
    let with_pin = || Some(Secret::new(PIN.to_owned()));
    let measured = || vec![tpm::pcrs(PcrHash::Sha256, &[0, 7])];
    for (pin, pcrs) in [(None, vec![]), (with_pin(), vec![]), (None, measured()), (with_pin(), measured())] {
        let tpm = SwTpm::start();
        let bus = Bus::before(&tpm);
        let config = TpmConfig { pin, pcrs, ..TpmConfig::new(bus.tcti()) };
        opened_by_itself(bench, &bus, config);
    }
    // Measurements that somebody approves.
    let tpm = SwTpm::start();
    let folder = tempfile::tempdir().unwrap();
    tpm::key_pair(folder.path(), "key", tpm::EC);
    tpm::approve(&tpm, folder.path(), "key", 11);
    let bus = Bus::before(&tpm);
    let approval = Some(tpm::approval(folder.path(), "key"));
    let pcrs = vec![tpm::pcrs(PcrHash::Sha256, &[11])];
    opened_by_itself(bench, &bus, TpmConfig { pcrs, approval, ..TpmConfig::new(bus.tcti()) });
    // Custodians: the session is saved while they sign, and loaded again.
    let tpm = SwTpm::start();
    let bus = Bus::before(&tpm);
    let folder = custodians::keys(&[tpm::EC, tpm::EC]);
    let config = || custodians::with(TpmConfig::new(bus.tcti()), folder.path(), 2, 2);
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), config());
    let key = device.ensure_wrapping_key(&WrapKeyConfig::from(&config())).unwrap();
    let wrapped = device.wrap(&key, ROOT_KEY, b"cluster").unwrap();
    let challenge = device.challenge(&key, &wrapped, b"cluster", Duration::from_secs(600)).unwrap();
    let signatures = custodians::signed(folder.path(), &challenge, &[0, 1]);
    let opened = device.unwrap_signed(&key, &wrapped, b"cluster", &challenge.message, signatures).unwrap();
    assert_eq!(opened.expose(), ROOT_KEY);
    nothing_secret_was_heard(&bus, &wrapped);
}

fn opened_by_itself(bench: &Bench, bus: &Bus, config: TpmConfig) {
    let wrapping = WrapKeyConfig::from(&config);
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), config);
    let key = device.ensure_wrapping_key(&wrapping).unwrap();
    let wrapped = device.wrap(&key, ROOT_KEY, b"cluster").unwrap();
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), ROOT_KEY);
    nothing_secret_was_heard(bus, &wrapped);
}

fn nothing_secret_was_heard(bus: &Bus, wrapped: &[u8]) {
    assert!(!bus.has_heard(ROOT_KEY) && !bus.has_heard(PIN.as_bytes()));
    // The TPM is given the PIN's hash, with a last bit that is set.
    assert!(!bus.has_heard(&Sha256::digest(PIN)[..31]), "who hears it needs no PIN");
    let heard = bus.heard.lock().unwrap().clone();
    assert!(bus.has_heard(&public_area(wrapped)), "what is no secret is heard");
    assert!(!opens(&heard, wrapped), "a key that opens it was heard");
    // Such a key would be found.
    let known = *heard[100..].first_chunk().unwrap();
    let header = &wrapped[..2 + header_bytes(wrapped)];
    let sealed = gcm::seal(&known, [0; gcm::IV_BYTES], ROOT_KEY, &aad_of(wrapped));
    assert!(opens(&heard, &[header, &sealed].concat()));
}

/// Format and way of the client, then length, header and ciphertext of the TPM's driver.
fn header_bytes(wrapped: &[u8]) -> usize {
    2 + usize::from(u16::from_be_bytes([wrapped[2], wrapped[3]]))
}

fn aad_of(wrapped: &[u8]) -> Vec<u8> {
    [&wrapped[2..2 + header_bytes(wrapped)], &wrapped[..2], b"cluster"].concat()
}

/// Of the sealed object, the second field of the header.
fn public_area(wrapped: &[u8]) -> Vec<u8> {
    let mut header = minicbor::Decoder::new(&wrapped[4..]);
    header.array().unwrap();
    header.bytes().unwrap();
    header.bytes().unwrap().to_vec()
}

/// Whether any 32 bytes that were heard are the key.
fn opens(heard: &[u8], wrapped: &[u8]) -> bool {
    let (aad, sealed) = (aad_of(wrapped), &wrapped[2 + header_bytes(wrapped)..]);
    let mut keys = heard.windows(gcm::KEY_BYTES).filter_map(|key| key.try_into().ok());
    keys.any(|key| gcm::open(key, [0; gcm::IV_BYTES], sealed, &aad).is_some())
}

fn changed(bench: &Bench) {
    let tpm = SwTpm::start();
    let bus = Bus::before(&tpm);
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), TpmConfig::new(bus.tcti()));
    device.random(8).unwrap();
    bus.meddles.store(true, Ordering::SeqCst);
    let error = device.random(8).unwrap_err();
    assert_eq!(error.class, Class::Tampered, "{error}");
    assert!(error.text.contains("between this machine and its TPM"), "{error}");
    bus.meddles.store(false, Ordering::SeqCst);
    device.random(8).unwrap();
}
