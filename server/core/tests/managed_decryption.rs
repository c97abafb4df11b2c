//! Decrypting and signing with managed keys of each kind of device, by an engine: with a public half what somebody outside has closed,
//! else what the device has; signatures are checked by the public half, also by who has nothing else.

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use holdfast_core::clock::SystemClocks;
use holdfast_core::devices::Declared;
use holdfast_core::{Core, EngineTable, MountEntry, Options};
use holdfast_hsm::DeviceClient;
use holdfast_hsm::memory::Secret;
use holdfast_hsm::pkcs11::{Pkcs11Config, Pkcs11Device};
use holdfast_hsm::software::{SoftwareConfig, SoftwareDevice};
use holdfast_hsm::tpm::TpmConfig;
use holdfast_hsm::yubihsm::{YubiHsmConfig, YubiHsmDevice};
use holdfast_sdk::{
    Backend, Call, CipherMechanism, Class, Error, Found, Hash, ManagedKey, Map, Operation, Preparation, Prepared,
    Response, Result, Route, Routes, SignInput, SignMechanism, Tx,
};
use holdfast_storage::Store;
use holdfast_tpm::TpmDevice;
use holdfast_yubihsm_simulator::{Simulator, capability as c};
use serde_json::{Value, json};
use support::Server;

const PLAIN: &[u8] = b"what only the key's device reads";
const BOUND: &[u8] = b"its place";

/// An engine whose one route opens with a managed key what was closed for it, and something that was changed on the way.
struct Opener(Arc<Routes<Opener>>);

/// Close for a key: with its public half, as anybody outside does; or by the device, where it is a secret key.
async fn closed(key: &dyn ManagedKey, mechanism: CipherMechanism) -> Result<(CipherMechanism, Vec<u8>)> {
    let Some(public) = key.public_key() else {
        let sealed = key.encrypt(mechanism, Secret::new(PLAIN.to_vec()), BOUND.to_vec()).await?;
        return Ok((sealed.mechanism, sealed.bytes));
    };
    let hash = if mechanism == CipherMechanism::RsaOaepSha1 { &OAEP_SHA1_MGF1SHA1 } else { &OAEP_SHA256_MGF1SHA256 };
    let public = PublicEncryptingKey::from_der(public).map_err(Error::internal)?;
    let public = OaepPublicEncryptingKey::new(public).map_err(Error::internal)?;
    let mut bytes = vec![0; public.ciphertext_size()];
    public.encrypt(hash, PLAIN, &mut bytes, None).map_err(Error::internal)?;
    Ok((mechanism, bytes))
}

impl Opener {
    fn new() -> Opener {
        Opener(Arc::new(
            Routes::new()
                .path("open/{key}/{with}", "Open.", |p| {
                    p.update(Opener::opened).prepared(Operation::Update, Opener::open)
                })
                .path("sign/{key}/{with}", "Sign.", |p| {
                    p.update(Opener::signed).prepared(Operation::Update, Opener::sign)
                }),
        ))
    }

    fn sign(&self, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
        let key = tx.managed_key(call.capture("key"))?;
        let (scheme, outside): (_, &'static dyn VerificationAlgorithm) = match call.capture("with") {
            "ecdsa" => (SignMechanism::Ecdsa(Hash::Sha256), &ECDSA_P256_SHA256_ASN1),
            "pkcs1" => (SignMechanism::RsaPkcs1(Hash::Sha384), &RSA_PKCS1_2048_8192_SHA384),
            _ => (SignMechanism::RsaPss(Hash::Sha256), &RSA_PSS_2048_8192_SHA256),
        };
        Ok(Some(Box::pin(async move {
            key.check_scheme(scheme).await?;
            let hash = scheme.hash().ok_or_else(|| Error::internal("a hash"))?;
            let public = key.public_key().ok_or_else(|| Error::internal("a pair"))?;
            for input in [SignInput::Message(PLAIN.to_vec()), SignInput::Digest(hash.digest(PLAIN))] {
                let signature = key.sign(scheme, input.clone()).await?;
                assert!(key.verify(scheme, &input, &signature)?);
                assert!(!key.verify(scheme, &SignInput::Message(BOUND.to_vec()), &signature)?);
                UnparsedPublicKey::new(outside, public).verify(PLAIN, &signature).expect("its own public half");
            }
            let done: Prepared = Arc::new(());
            Ok(done)
        })))
    }

    fn signed(&self, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
        call.prepared.ok_or_else(|| Error::internal("nothing was signed"))?;
        Ok(Response::data(Map::from_iter([("signed".to_owned(), true.into())])))
    }

    fn open(&self, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
        let key = tx.managed_key(call.capture("key"))?;
        let with = match call.capture("with") {
            "gcm" => CipherMechanism::AesGcm,
            "oaep-sha1" => CipherMechanism::RsaOaepSha1,
            _ => CipherMechanism::RsaOaepSha256,
        };
        Ok(Some(Box::pin(async move {
            let aad = if key.public_key().is_some() { Vec::new() } else { BOUND.to_vec() };
            let (mechanism, mut bytes) = closed(&*key, with).await?;
            let opened = key.decrypt(mechanism, bytes.clone(), aad.clone()).await?;
            assert_eq!(opened.expose(), PLAIN);
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            let changed = key.decrypt(mechanism, bytes, aad).await.map(drop).err().map(|e| e.to_string());
            let answer: Prepared = Arc::new(changed.unwrap_or_default());
            Ok(answer)
        })))
    }

    fn opened(&self, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
        let changed: &String =
            call.prepared.and_then(|p| p.downcast_ref()).ok_or_else(|| Error::internal("nothing"))?;
        Ok(Response::data(Map::from_iter([("changed".to_owned(), changed.clone().into())])))
    }
}

impl Backend for Opener {
    fn kind(&self) -> &'static str {
        "opener"
    }
    fn class(&self) -> Class {
        Class::Secret
    }
    fn routes(&self) -> Vec<Route<'_>> {
        self.0.describe()
    }
    fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        self.0.find(operation, path)
    }
    fn prepare(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Option<Preparation>> {
        self.0.prepare(self, found, tx, call)
    }
    fn apply(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Response> {
        self.0.apply(self, found, tx, call)
    }
}

fn opener(_: &MountEntry) -> std::result::Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Opener::new()))
}

const ENGINES: EngineTable = EngineTable { secrets: &[("opener", opener)], auth: &[], databases: &[] };

/// A server with one device of that type, whose mount `o/` may use every key.
async fn server(kind: &'static str, client: DeviceClient) -> Server {
    let declared = Declared {
        name: "device".into(),
        kind,
        client: Ok(client),
        token_label: None,
        slot: None,
        namespaces: Vec::new(),
    };
    let store = Store::open_on(None, 1 << 20).unwrap();
    let options = Options { engines: ENGINES, devices: vec![declared], ..support::options(store) };
    let server = Server::initialise(Core::with_clocks(options, Arc::new(SystemClocks))).await;
    server.write("sys/mounts/o", json!({ "type": "opener" })).await.expect(204);
    server
}

/// Make a key of that type, and let it open: what it says of something that was changed.
async fn opens(server: &Server, kind: &str, (mechanism, bits, with): (&str, u32, &str)) -> String {
    let name = format!("k{}", mechanism.to_lowercase().replace("ckm_", "").replace('_', "-"));
    let mut wanted =
        json!({ "mechanism": mechanism, "allow_generate_key": true, "any_mount": true, "key_label": name });
    if bits > 0 {
        wanted["key_bits"] = bits.into();
    }
    if kind != "software" || mechanism == "CKM_AES_GCM" {
        wanted["library"] = "device".into();
    }
    let made = server.write(&format!("sys/managed-keys/{kind}/{name}"), wanted).await;
    assert!([200, 204].contains(&made.status), "{kind} {mechanism}: {}", made.body);
    let opened = server.write(&format!("o/open/{name}/{with}"), json!({})).await.expect(200);
    let changed = opened["data"]["changed"].as_str().unwrap_or_default().to_owned();
    assert!(!changed.is_empty(), "{kind} {mechanism}: something that was changed was opened");
    // For what it is not, and where its usages do not say so, it opens nothing.
    let other = if with == "gcm" { "oaep" } else { "gcm" };
    let said = server.write(&format!("o/open/{name}/{other}"), json!({})).await;
    assert!(said.status == 400 && said.body.to_string().contains("does not"), "{kind} {mechanism}: {}", said.body);
    server.write(&format!("sys/managed-keys/{kind}/{name}"), json!({ "usages": ["encrypt"] })).await;
    let said = server.write(&format!("o/open/{name}/{with}"), json!({})).await;
    assert!(said.status == 400 && said.body.to_string().contains("may not be used to decrypt"), "{}", said.body);
    changed
}

/// Make a key of that type, and let it sign: by these schemes, and by no other.
async fn signs(server: &Server, kind: &str, mechanism: &str, schemes: &[&str], others: &[&str]) {
    let name = format!("s{}", mechanism.to_lowercase().replace("ckm_", "").replace('_', "-"));
    let mut wanted =
        json!({ "mechanism": mechanism, "allow_generate_key": true, "any_mount": true, "key_label": name });
    match mechanism {
        "CKM_ECDSA" => wanted["curve"] = "P256".into(),
        _ => wanted["key_bits"] = 2048.into(),
    }
    if kind != "software" {
        wanted["library"] = "device".into();
    }
    let made = server.write(&format!("sys/managed-keys/{kind}/{name}"), wanted).await;
    assert!([200, 204].contains(&made.status), "{kind} {mechanism}: {}", made.body);
    for scheme in schemes {
        let signed = server.write(&format!("o/sign/{name}/{scheme}"), json!({})).await.expect(200);
        assert_eq!(signed["data"]["signed"], true, "{kind} {mechanism} {scheme}");
    }
    for scheme in others {
        let said = server.write(&format!("o/sign/{name}/{scheme}"), json!({})).await;
        assert!(said.status == 400, "{kind} {mechanism} {scheme}: {}", said.body);
    }
    server.write(&format!("sys/managed-keys/{kind}/{name}"), json!({ "usages": ["verify"] })).await;
    let said = server.write(&format!("o/sign/{name}/{}", schemes[0]), json!({})).await;
    assert!(said.status == 400 && said.body.to_string().contains("may not be used to sign"), "{}", said.body);
}

async fn signs_each_way(server: &Server, kind: &str) {
    signs(server, kind, "CKM_ECDSA", &["ecdsa"], &["pss", "pkcs1"]).await;
    signs(server, kind, "CKM_RSA_PKCS_PSS", &["pss"], &["ecdsa", "pkcs1"]).await;
    signs(server, kind, "CKM_RSA_PKCS", &["pkcs1", "pss"], &["ecdsa"]).await;
}

#[tokio::test]
async fn keys_in_software_sign_and_decrypt() {
    let device = SoftwareDevice::new(&SoftwareConfig::default()).unwrap();
    let server = server("software", DeviceClient::in_process(Box::new(device))).await;
    opens(&server, "software", ("CKM_RSA_PKCS_OAEP", 2048, "oaep")).await;
    opens(&server, "software", ("CKM_AES_GCM", 0, "gcm")).await;
    signs_each_way(&server, "software").await;
}

#[tokio::test]
async fn keys_in_a_simulated_yubihsm_sign_and_decrypt() {
    let hsm = Simulator::start();
    let (auth_key, password) = (2, "of this test");
    let keys = c::DECRYPT_OAEP | c::SIGN_ECDSA | c::SIGN_PKCS | c::SIGN_PSS;
    let may = keys | c::GENERATE_ASYMMETRIC_KEY | c::GET_LOG_ENTRIES;
    hsm.authentication_key(auth_key, password, 0b1, may, keys);
    let mut config = YubiHsmConfig::new(hsm.connector());
    (config.auth_key, config.password) = (auth_key, Some(Secret::new(password.to_owned())));
    let server = server("yubihsm", DeviceClient::in_process(Box::new(YubiHsmDevice::new(config).unwrap()))).await;
    opens(&server, "yubihsm", ("CKM_RSA_PKCS_OAEP", 2048, "oaep")).await;
    signs_each_way(&server, "yubihsm").await;
    // It has no AES keys for this.
    let wanted =
        json!({ "library": "device", "key_label": "a", "mechanism": "CKM_AES_GCM", "allow_generate_key": true });
    let said = server.write("sys/managed-keys/yubihsm/a", wanted).await;
    assert!(said.status >= 400 && said.body.to_string().contains("AES"), "{}", said.body);
}

/// A TPM of swtpm that ends with the test.
struct SwTpm {
    process: Child,
    port: u16,
}

impl SwTpm {
    fn start(folder: &Path) -> SwTpm {
        // Its control channel is at the next port.
        let port = (30_000..31_000).step_by(2).find(|port| [*port, port + 1].iter().all(|p| is_free(*p)));
        let port = port.expect("two free ports");
        let place = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
        let mut swtpm = Command::new("swtpm");
        swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
        swtpm.args(["--tpmstate", &format!("dir={}", folder.display()), "--server", &place(port)]);
        swtpm.args(["--ctrl", &place(port + 1)]);
        let process = swtpm.stdin(Stdio::null()).spawn().expect("swtpm is not installed: make setup");
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port + 1)).is_err() {
            assert!(Instant::now() < end, "swtpm does not listen");
            std::thread::yield_now();
        }
        SwTpm { process, port }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

impl Drop for SwTpm {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[tokio::test]
async fn keys_in_a_tpm_sign_and_decrypt() {
    let folder = tempfile::tempdir().unwrap();
    let tpm = SwTpm::start(folder.path());
    fs::create_dir(folder.path().join("keys")).unwrap();
    let mut config = TpmConfig::new(format!("swtpm:host=127.0.0.1,port={}", tpm.port));
    config.keys = Some(folder.path().join("keys").display().to_string());
    let server = server("tpm", DeviceClient::in_process(Box::new(TpmDevice::new(config)))).await;
    opens(&server, "tpm", ("CKM_RSA_PKCS_OAEP", 2048, "oaep")).await;
    signs_each_way(&server, "tpm").await;
}

const LABEL: &str = "decrypts";
const PIN: &str = "correct-horse-4711";

fn softhsm() -> PathBuf {
    let found = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"];
    found.iter().map(PathBuf::from).find(|p| p.is_file()).expect("libsofthsm2.so is not installed: make setup")
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// SoftHSM takes its configuration from the environment of the process that loads it, so that one of its own does.
#[test]
fn keys_in_a_token_sign_and_decrypt() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, conf) = (folder.path().join("tokens"), folder.path().join("softhsm2.conf"));
    fs::create_dir(&tokens).unwrap();
    fs::write(&conf, format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display())).unwrap();
    let of_token = |program: &str| {
        let mut command = Command::new(program);
        command.env("SOFTHSM2_CONF", &conf);
        command
    };
    let mut init = of_token("softhsm2-util");
    run(init.args(["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "security-officer"]));
    let mut weak = of_token("pkcs11-tool");
    weak.arg("--module").arg(softhsm()).args(["--token-label", LABEL, "--login", "--pin", PIN]);
    run(weak.args(["--keypairgen", "--key-type", "rsa:1024", "--label", "weak", "--id", "77"]));
    let own = std::env::current_exe().unwrap();
    let mut child = of_token(own.to_str().unwrap());
    let said = run(child.args(["--exact", "in_a_token", "--ignored", "--nocapture"]));
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by keys_in_a_token_sign_and_decrypt, with a token"]
async fn in_a_token() {
    let mut config = Pkcs11Config::new(softhsm().display().to_string());
    (config.token_label, config.pin) = (Some(LABEL.to_owned()), Some(Secret::new(PIN.to_owned())));
    let server = server("pkcs11", DeviceClient::in_process(Box::new(Pkcs11Device::new(config)))).await;
    // This SoftHSM has OAEP with SHA-1 alone.
    opens(&server, "pkcs11", ("CKM_RSA_PKCS_OAEP", 2048, "oaep-sha1")).await;
    signs_each_way(&server, "pkcs11").await;
    let changed = opens(&server, "pkcs11", ("CKM_AES_GCM", 0, "gcm")).await;
    assert!(changed.contains("managed key"), "{changed}");
    // A key that is too weak is not taken, whoever made it.
    let weak = json!({ "library": "device", "key_label": "weak", "mechanism": "CKM_RSA_PKCS" });
    let said = server.write("sys/managed-keys/pkcs11/weak", weak).await;
    assert_eq!(said.status, 400, "{}", said.body);
    let text = Value::to_string(&said.body);
    assert!(text.contains("RSA-1024") && text.contains("too weak"), "{text}");
}
