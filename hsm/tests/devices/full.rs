//! Tokens whose keys are in files, on a disk that is full.

use super::modules::{nss_config, tpm_config};
use super::swtpm::SwTpm;
use super::{Bench, Test, softhsm};
use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{
    DeviceErrorClass as Class, Hash, KeyInfo, KeyKind, KeyRef, KeySpec, KeyUsage, SignInput, SignMechanism,
};
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_tests::nss::Database;
use holdfast_tests::program::{command, run};
use holdfast_tests::tmpfs::Tmpfs;
use holdfast_tests::tpm2_pkcs11::TpmToken;
use std::fs;
use std::sync::Arc;

pub const TESTS: &[Test] = &[
    ("full_softhsm_says_so_and_leaves_no_half_a_key", softhsm_full),
    ("full_nss_says_so_and_leaves_no_half_a_key", nss_full),
    ("full_tpm2_pkcs11_says_so_and_leaves_no_half_a_key", tpm2_pkcs11_full),
    ("full_keys_folder_of_a_tpm_says_so_and_leaves_no_half_a_key", tpm_full),
];

const SIGN: SignMechanism = SignMechanism::RsaPkcs1(Hash::Sha256);
const MEGABYTES: u32 = 8;

fn spec(label: &str) -> KeySpec {
    KeySpec { label: label.to_owned(), id: None, kind: KeyKind::Rsa(2048), usage: KeyUsage::Sign }
}

fn all(device: &DeviceClient) -> Vec<KeyInfo> {
    let mut all = device.find(KeyRef::default()).unwrap();
    all.sort_by(|a, b| a.label.cmp(&b.label).then_with(|| a.id.cmp(&b.id)));
    all
}

/// With room for none, and for less than a key.
fn fills(device: &DeviceClient, disk: &Tmpfs) {
    let key = device.generate(spec("there")).unwrap().key_ref();
    let sign = || device.sign(key.clone(), SIGN, SignInput::Message(b"m".to_vec())).unwrap();
    sign();
    let before = all(device);
    let mut refused = Vec::new();
    for room in [0, 4096, 8192] {
        let ballast = disk.fill(room);
        let made = device.generate(spec("one-too-many"));
        let Err(error) = made else {
            // There was room for it. Where there is none at all, there cannot have been.
            assert_ne!(room, 0, "a key was made where nothing can be written");
            device.destroy(KeyRef::label("one-too-many")).unwrap();
            continue;
        };
        refused.push(room);
        assert!(error.text.contains("full"), "{error}");
        assert_ne!(error.class, Class::Busy, "{error}");
        sign();
        device.log_out();
        sign();
        drop(ballast);
        assert_eq!(all(device), before, "nothing half-made stays, with {room} bytes of room: {error}");
    }
    assert_eq!(refused[..1], [0], "it was full at least once");
    device.generate(spec("one-too-many")).expect("there is room again");
    assert_eq!(all(device).len(), before.len() + 1);
}

fn softhsm_full(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("tokens"), MEGABYTES);
    let conf = folder.path().join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\n", disk.path().display());
    fs::write(&conf, text).unwrap();
    let mut init = command("softhsm2-util");
    init.args(["--init-token", "--free", "--label", "full", "--pin", softhsm::PIN, "--so-pin", "security-officer"]);
    run(init.env(softhsm::CONF, &conf)).good();
    let environment = vec![(softhsm::CONF.to_owned(), conf.display().to_string())];
    let config = Pkcs11Config { environment, ..softhsm::config("full") };
    fills(&DeviceClient::spawned(Arc::clone(&bench.spawner), config), &disk);
}

fn nss_full(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("disk"), MEGABYTES);
    let database = Database::make(disk.path());
    fills(&DeviceClient::spawned(Arc::clone(&bench.spawner), nss_config(&database)), &disk);
}

fn tpm2_pkcs11_full(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("tpm2-pkcs11").join("store"), MEGABYTES);
    let token = TpmToken::start(folder.path());
    fills(&DeviceClient::spawned(Arc::clone(&bench.spawner), tpm_config(&token)), &disk);
}

fn tpm_full(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("keys"), MEGABYTES);
    let tpm = SwTpm::start();
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), tpm.config_with_keys(disk.path()));
    fills(&device, &disk);
    let left: Vec<_> = fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{left:?}");
}
