//! The PKCS#11 modules beside SoftHSM, each started by its test: opencryptoki's soft token, NSS's, and tpm2-pkcs11 on swtpm.

use super::suite::{Cell, Matrix, class};
use super::{Bench, Test, softhsm};
use holdfast_hsm::device::{
    CipherMechanism, DeviceErrorClass as Class, Hash, KeyKind, KeyRef, KeySpec, KeyUsage, PinTries, SignInput,
    SignMechanism,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::{DeviceClient, Spawner, WrapKeyConfig};
use holdfast_tests::nss::{self, Database};
use holdfast_tests::opencryptoki::{self, Opencryptoki};
use holdfast_tests::process::{descendants, lives, signal};
use holdfast_tests::program::run;
use holdfast_tests::tmpfs::Tmpfs;
use holdfast_tests::tpm2_pkcs11::{self, TpmToken};
use holdfast_tests::until;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The argument with which this program is started in the namespaces of opencryptoki's token.
pub const INSIDE: &str = "inside-opencryptoki";

pub const TESTS: &[Test] = &[
    ("opencryptoki_fails_and_comes_back_as_it_should", |_| drop(inside("trouble"))),
    ("wrong_pins_that_opencryptoki_has_counted_are_respected", |_| drop(inside("pins"))),
    ("nss_fails_and_comes_back_as_it_should", |bench| {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::make(folder.path());
        trouble(&bench.spawner, || nss_config(&database));
    }),
    ("tpm2_pkcs11_fails_and_comes_back_as_it_should", |bench| {
        let folder = tempfile::tempdir().unwrap();
        let token = TpmToken::start(folder.path());
        trouble(&bench.spawner, || tpm_config(&token));
    }),
    ("a_database_of_nss_without_a_password_wants_no_pin", no_password),
    ("what_stands_before_a_token_may_be_started_anew", proxy),
    ("a_tpm_that_is_off_and_on_again_is_a_token_again_without_a_restart", off_and_on),
];

pub fn with_pin(lib: &Path, label: &str, pin: &str) -> Pkcs11Config {
    Pkcs11Config {
        token_label: Some(label.to_owned()),
        pin: Some(Secret::new(pin.to_owned())),
        ..Pkcs11Config::new(lib.display().to_string())
    }
}

pub fn nss_config(database: &Database) -> Pkcs11Config {
    Pkcs11Config { parameters: Some(database.parameters()), ..with_pin(&nss::library(), nss::LABEL, nss::PIN) }
}

pub fn tpm_config(token: &TpmToken) -> Pkcs11Config {
    Pkcs11Config {
        environment: token.environment().to_vec(),
        ..with_pin(&tpm2_pkcs11::library(), tpm2_pkcs11::LABEL, tpm2_pkcs11::PIN)
    }
}

pub fn opencryptoki_config() -> Pkcs11Config {
    with_pin(&opencryptoki::library(), opencryptoki::LABEL, opencryptoki::PIN)
}

/// The suite.
pub fn opencryptoki_matrix(_: &Bench) -> Matrix {
    let text = inside("suite");
    let rows = text.lines().filter_map(|line| line.split_once('\t'));
    rows.map(|(what, cell)| (what.to_owned(), Cell::from(cell))).collect()
}

/// Starts a token of opencryptoki, and this program where it is seen.
pub fn inside(what: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    // What is mounted before is seen inside too: the token is on a small disk.
    let _disk = Tmpfs::mount(&folder.path().join("opencryptoki").join("lib"), 8);
    let token = Opencryptoki::start(folder.path());
    let mut again = Command::new(std::env::current_exe().expect("own path"));
    run(&mut token.enter(again.args([INSIDE, what]))).good()
}

/// What this program does there.
pub fn inside_opencryptoki(spawner: &Arc<Spawner>) -> ExitCode {
    match std::env::args().nth(2).as_deref() {
        Some("suite") => {
            for (what, cell) in super::rigs::opencryptoki(spawner) {
                println!("{what}\t{cell}");
            }
        }
        Some("pins") => counted_pins(spawner),
        _ => trouble(spawner, opencryptoki_config),
    }
    ExitCode::SUCCESS
}

/// A token that counts: what others have spent of its tries is not spent further, not even on the right PIN, of which nobody
/// knows that it is right.
fn counted_pins(spawner: &Arc<Spawner>) {
    let right = || DeviceClient::spawned(Arc::clone(spawner), opencryptoki_config());
    let spec = KeySpec { label: "k".into(), id: None, kind: KeyKind::Rsa(2048), usage: KeyUsage::Sign };
    let device = right();
    device.generate(spec).unwrap();
    device.log_out();
    let tries = || right().info().unwrap().pin_tries;
    assert_eq!(tries(), PinTries::All);
    for (wrong, left) in [("wrong-1", PinTries::Fewer), ("wrong-2", PinTries::Last)] {
        let config = Pkcs11Config { pin: Some(Secret::new(wrong.into())), ..opencryptoki_config() };
        let stranger = DeviceClient::spawned(Arc::clone(spawner), config);
        for _ in 0..3 {
            assert_eq!(class(stranger.find(KeyRef::label("k"))), Class::PinWrong);
        }
        assert_eq!(tries(), left, "after {wrong}, three times");
    }
    let last = right();
    for _ in 0..3 {
        let error = last.find(KeyRef::label("k")).unwrap_err();
        assert!(error.class == Class::PinLocked && error.text.contains("one PIN try left"), "{error}");
    }
    assert_eq!(tries(), PinTries::Last, "it was not tried");
    // As the message says: once with another tool, and the right PIN.
    let mut tool = Command::new("pkcs11-tool");
    tool.arg("--module").arg(opencryptoki::library()).args(["--token-label", opencryptoki::LABEL]);
    run(tool.args(["--login", "--pin", opencryptoki::PIN, "--list-objects"])).good();
    assert_eq!(tries(), PinTries::All);
    assert_eq!(right().find(KeyRef::label("k")).unwrap().len(), 1);
}

/// PINs, helpers that die, keys that are lost, tokens that are not there: on any token.
fn trouble(spawner: &Arc<Spawner>, config: impl Fn() -> Pkcs11Config) {
    let device = DeviceClient::spawned(Arc::clone(spawner), config());
    let wrapping = WrapKeyConfig { key_label: Some("root".into()), generate_key: true, ..WrapKeyConfig::default() };
    let key = device.ensure_wrapping_key(&wrapping).unwrap();
    let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
    let unwrap = || device.unwrap(&key, &wrapped, b"cluster").map(|key| key.expose().to_vec());

    // A helper that dies takes its sessions and its login along; another one opens what the first closed.
    for _ in 0..2 {
        let pid = device.helper_pid().unwrap();
        signal(pid, rustix::process::Signal::KILL);
        until(Duration::from_secs(10), "the helper's end", || (!lives(pid)).then_some(()));
        assert_eq!(unwrap().unwrap(), b"root key");
    }

    // A wrong PIN is tried once, not once a call: no token here lets five pass.
    let wrong = Pkcs11Config { pin: Some(Secret::new("wrong-1".into())), ..config() };
    let stranger = DeviceClient::spawned(Arc::clone(spawner), wrong);
    for _ in 0..12 {
        let error = stranger.find(KeyRef::label("root")).unwrap_err();
        assert_eq!(error.class, Class::PinWrong, "{error}");
        assert!(!error.text.contains("wrong-1"), "{error}");
    }
    stranger.reconfigure(config()).unwrap();
    assert_eq!(stranger.find(KeyRef::label("root")).unwrap().len(), 1, "the token is not locked");

    // Two processes at one token: each sees the other's keys, and that one is gone.
    let spec = KeySpec { label: "shared".into(), id: None, kind: KeyKind::Rsa(2048), usage: KeyUsage::Sign };
    let shared = device.generate(spec).unwrap();
    let sign = |device: &DeviceClient| {
        device.sign(shared.key_ref(), SignMechanism::RsaPkcs1(Hash::Sha256), SignInput::Message(b"m".to_vec()))
    };
    sign(&device).unwrap();
    stranger.log_out();
    sign(&stranger).unwrap();
    stranger.destroy(shared.key_ref()).unwrap();
    device.log_out();
    assert_eq!(class(sign(&device)), Class::KeyMissing);

    // The key of the seal is lost: that is said, whatever is asked.
    stranger.destroy(KeyRef::label("root")).unwrap();
    device.log_out();
    assert_eq!(class(unwrap()), Class::KeyMissing);
    let found = WrapKeyConfig { generate_key: false, ..wrapping };
    assert_eq!(class(device.ensure_wrapping_key(&found)), Class::KeyMissing);

    // Another token of the module is asked for.
    let elsewhere = Pkcs11Config { token_label: Some("elsewhere".into()), ..config() };
    let error = DeviceClient::spawned(Arc::clone(spawner), elsewhere).info().unwrap_err();
    assert_eq!(error.class, Class::Gone);
    assert!(error.text.contains("'elsewhere'") && error.text.contains("'holdfast'"), "{error}");
}

/// The one real token here that wants no login.
fn no_password(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::make_open(folder.path());
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), Pkcs11Config { pin: None, ..nss_config(&database) });
    assert!(!device.info().unwrap().login_required);
    let wrapping = WrapKeyConfig { key_label: Some("root".into()), generate_key: true, ..WrapKeyConfig::default() };
    let key = device.ensure_wrapping_key(&wrapping).unwrap();
    let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
    assert_eq!(device.unwrap(&key, &wrapped, b"cluster").unwrap().expose(), b"root key");
}

/// SoftHSM behind p11-kit's server: when that is another process than before, session and handles are found anew.
fn proxy(bench: &Bench) {
    const CLIENT: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
    softhsm::token("proxied");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let serve = || {
        let mut server = Command::new("p11-kit");
        server.args(["server", "--foreground", "--provider", softhsm::MODULE, "--name"]).arg(&socket);
        let child = server
            .arg("pkcs11:token=proxied")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("p11-kit: make setup");
        until(Duration::from_secs(10), "p11-kit's socket", || socket.exists().then_some(()));
        child
    };
    let mut first = serve();
    let config = Pkcs11Config {
        environment: vec![("P11_KIT_SERVER_ADDRESS".into(), format!("unix:path={}", socket.display()))],
        ..with_pin(Path::new(CLIENT), "proxied", softhsm::PIN)
    };
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), config);
    let spec = KeySpec { label: "root".into(), id: None, kind: KeyKind::Rsa(2048), usage: KeyUsage::Sign };
    let key = device.generate(spec).unwrap();
    let sign = || device.sign(key.key_ref(), SignMechanism::RsaPkcs1(Hash::Sha256), SignInput::Message(b"m".to_vec()));
    let before = sign().unwrap();
    end(&mut first);
    let _ = std::fs::remove_file(&socket);
    let mut second = serve();
    // One call may fail by it, no more.
    let after = sign().or_else(|_| sign()).unwrap();
    assert_eq!(before, after);
    device.log_out();
    end(&mut second);
}

/// With what it has started for its connections.
fn end(server: &mut Child) {
    let below = descendants(server.id());
    server.kill().unwrap();
    server.wait().unwrap();
    below.into_iter().for_each(|pid| signal(pid, rustix::process::Signal::KILL));
}

fn off_and_on(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let mut token = TpmToken::start(folder.path());
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), tpm_config(&token));
    let wrapping = WrapKeyConfig { key_label: Some("root".into()), generate_key: true, ..WrapKeyConfig::default() };
    let key = device.ensure_wrapping_key(&wrapping).unwrap();
    assert_eq!(key.mechanism, CipherMechanism::RsaOaepSha256, "there is no AES-GCM");
    let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
    token.switch_off();
    let away = device.unwrap(&key, &wrapped, b"cluster").map(drop).unwrap_err();
    assert!(away.is_transient() || away.class == Class::Config, "{away:?}");
    token.switch_on();
    let opened = until(Duration::from_secs(20), "the token", || device.unwrap(&key, &wrapped, b"cluster").ok());
    assert_eq!(opened.expose(), b"root key");
}
