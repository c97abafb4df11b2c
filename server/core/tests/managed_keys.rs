//! Which mounts and namespaces may use which managed keys, by an engine that signs with one.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_core::clock::SystemClocks;
use holdfast_core::devices::Declared;
use holdfast_core::{Core, EngineTable, MountEntry, Options};
use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass, DeviceInfo, KeyDevice, KeyInfo, KeyKind, KeyRef, KeySpec};
use holdfast_hsm::software::{SoftwareConfig, SoftwareDevice};
use holdfast_sdk::{
    Backend, Call, Class, Error, Found, Hash, Map, Operation, Preparation, Prepared, Response, Result, Route, Routes,
    SignInput, SignMechanism, Tx,
};
use holdfast_storage::Store;
use serde_json::json;
use support::Server;

/// An engine whose one route signs with a managed key.
struct Signer(Arc<Routes<Signer>>);

impl Signer {
    fn new() -> Signer {
        Signer(Arc::new(
            Routes::new()
                .path("sign/{key}", "Sign.", |p| p.update(Signer::signed).prepared(Operation::Update, Signer::sign)),
        ))
    }

    fn sign(&self, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
        let key = tx.managed_key(call.capture("key"))?;
        Ok(Some(Box::pin(async move {
            let scheme = SignMechanism::Ecdsa(Hash::Sha256);
            key.check_scheme(scheme).await?;
            let input = SignInput::Message(b"message".to_vec());
            let signature = key.sign(scheme, input.clone()).await?;
            assert!(key.verify(scheme, &input, &signature)?);
            let signed: Prepared = Arc::new(signature);
            Ok(signed)
        })))
    }

    fn signed(&self, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
        let signature: &Vec<u8> =
            call.prepared.and_then(|p| p.downcast_ref()).ok_or_else(|| Error::internal("nothing was signed"))?;
        Ok(Response::data(Map::from_iter([("bytes".to_owned(), signature.len().into())])))
    }
}

impl Backend for Signer {
    fn kind(&self) -> &'static str {
        "signer"
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

fn signer(_: &MountEntry) -> std::result::Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Signer::new()))
}

const ENGINES: EngineTable = EngineTable { secrets: &[("signer", signer)], auth: &[], databases: &[] };

async fn server() -> Server {
    let device = SoftwareDevice::new(&SoftwareConfig::default()).unwrap();
    let declared = Declared {
        name: "soft".into(),
        kind: "software",
        client: Ok(DeviceClient::in_process(Box::new(device))),
        token_label: None,
        slot: None,
        namespaces: vec!["team/inner".into()],
    };
    let store = Store::open_on(None, 1 << 20).unwrap();
    let options = Options { engines: ENGINES, devices: vec![declared], ..support::options(store) };
    Server::initialise(Core::with_clocks(options, Arc::new(SystemClocks))).await
}

async fn make(server: &Server, path: &str) {
    let wanted = json!({"mechanism": "CKM_ECDSA", "curve": "P256", "allow_generate_key": true});
    server.write(path, wanted).await.expect(200);
}

#[track_caller]
fn says(reply: support::Reply, words: &str) {
    let text = reply.body["errors"].to_string();
    assert!(reply.status == 400 && text.contains(words), "{} {text}", reply.status);
}

#[tokio::test]
async fn a_managed_key_tells_when_a_mount_used_it_and_forgets_it_with_its_end() {
    let server = server().await;
    for name in ["one", "idle"] {
        make(&server, &format!("sys/managed-keys/software/{name}")).await;
        server.write(&format!("sys/managed-keys/software/{name}"), json!({"any_mount": true})).await.expect(204);
    }
    server.write("sys/mounts/a", json!({"type": "signer"})).await.expect(204);
    let used = |name: &'static str| {
        let server = &server;
        async move {
            let path = format!("sys/last-use/sys/managed-keys/software/{name}");
            server.read(&path).await.expect(200)["data"]["last_used_time"].clone()
        }
    };
    assert_eq!(used("one").await, json!(null));
    server.write("a/sign/one", json!({})).await.expect(200);
    let mut last = json!(null);
    for _ in 0..400 {
        last = used("one").await;
        if last.is_string() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert!(last.as_str().is_some_and(|t| t.ends_with(":00:00Z")), "to the hour: {last}");
    assert_eq!(used("idle").await, json!(null));
    server.delete("sys/managed-keys/software/one").await.expect(204);
    assert_eq!(used("one").await, json!(null));
}

#[tokio::test]
async fn a_mount_uses_the_keys_that_it_is_allowed() {
    let server = server().await;
    make(&server, "sys/managed-keys/software/One").await;
    server
        .write("sys/mounts/a", json!({"type": "signer", "config": {"allowed_managed_keys": "ONE,two"}}))
        .await
        .expect(204);
    server.write("sys/mounts/b", json!({"type": "signer"})).await.expect(204);
    let signed = server.write("a/sign/one", json!({})).await.expect(200);
    assert!(signed["data"]["bytes"].as_u64().unwrap() > 60);
    says(server.write("b/sign/one", json!({})).await, "is not allowed on this mount");
    says(server.write("a/sign/two", json!({})).await, "there is no managed key");
    let tuned = server.read("sys/mounts/a/tune").await.expect(200);
    assert_eq!(tuned["data"]["allowed_managed_keys"], json!(["one", "two"]));
    // It can be named by what stays of it.
    let key = server.read("sys/managed-keys/software/one").await.expect(200);
    let uuid = key["data"]["uuid"].as_str().unwrap();
    server.write(&format!("a/sign/{uuid}"), json!({})).await.expect(200);

    server.write("sys/mounts/b/tune", json!({"allowed_managed_keys": ["one"]})).await.expect(204);
    server.write("b/sign/one", json!({})).await.expect(200);
    says(server.delete("sys/managed-keys/software/one").await, "is allowed on");
    server.write("sys/mounts/b/tune", json!({"allowed_managed_keys": ""})).await.expect(204);
    says(server.write("b/sign/one", json!({})).await, "is not allowed on this mount");

    server.write("sys/managed-keys/software/one", json!({"any_mount": true})).await.expect(204);
    server.write("b/sign/one", json!({})).await.expect(200);
    server.write("sys/managed-keys/software/one", json!({"usages": ["decrypt"]})).await.expect(204);
    says(server.write("a/sign/one", json!({})).await, "may not be used to sign");
    // After a restart it is as it was.
    server.seal_and_unseal().await;
    server.write("sys/managed-keys/software/one", json!({"usages": ""})).await.expect(204);
    server.write("b/sign/one", json!({})).await.expect(200);
}

#[tokio::test]
async fn keys_are_their_namespaces_own_and_devices_are_for_those_that_the_configuration_names() {
    let server = server().await;
    server.write("sys/namespaces/team", json!({})).await.expect(200);
    server.write("team/sys/namespaces/inner", json!({})).await.expect(200);
    make(&server, "team/sys/managed-keys/software/key").await;
    server.read("sys/managed-keys/software/key").await.expect(404);
    server.read("team/inner/sys/managed-keys/software/key").await.expect(404);
    for mount in ["sys/mounts/m", "team/sys/mounts/m"] {
        server.write(mount, json!({"type": "signer", "config": {"allowed_managed_keys": "key"}})).await.expect(204);
    }
    server.write("team/m/sign/key", json!({})).await.expect(200);
    says(server.write("m/sign/key", json!({})).await, "there is no managed key");

    let wanted = json!({"library": "soft", "key_label": "l", "mechanism": "CKM_AES_GCM", "allow_generate_key": true});
    says(server.write("team/sys/managed-keys/software/l", wanted.clone()).await, "is not for keys of namespace");
    server.write("team/inner/sys/managed-keys/software/l", wanted.clone()).await.expect(204);
    server.write("sys/managed-keys/software/l", wanted).await.expect(204);
    // Devices themselves are the root's.
    server.read("sys/devices").await.expect(200);
    server.read("team/sys/devices").await.expect(400);
}

#[tokio::test]
async fn two_who_write_a_key_at_once_leave_one_key() {
    let server = Arc::new(server().await);
    let wanted =
        json!({"library": "soft", "key_label": "race", "mechanism": "CKM_AES_GCM", "allow_generate_key": true});
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (server, wanted) = (server.clone(), wanted.clone());
        tasks.spawn(async move { server.write("sys/managed-keys/software/race", wanted).await.status });
    }
    let statuses = tasks.join_all().await;
    assert!(statuses.contains(&204), "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 204 | 503)), "{statuses:?}");
    let info = server.read("sys/devices/soft").await.expect(200);
    assert_eq!(info["data"]["keys_total"], 1, "{info}");
}

/// A stand-in for a device that has one secret key, and counts what it is asked to make.
struct OneSecret {
    kind: KeyKind,
    made: Arc<AtomicUsize>,
}

impl KeyDevice for OneSecret {
    fn info(&self) -> std::result::Result<DeviceInfo, DeviceError> {
        SoftwareDevice::new(&SoftwareConfig::default())?.info()
    }

    fn find(&self, _: &KeyRef) -> std::result::Result<Vec<KeyInfo>, DeviceError> {
        let (label, id) = ("k".to_owned(), vec![0, 0x64]);
        Ok(vec![KeyInfo { label, id, kind: self.kind, private: true, public: false, extractable: false }])
    }

    fn public_key(&self, key: &KeyRef) -> std::result::Result<Vec<u8>, DeviceError> {
        Err(DeviceError::new(DeviceErrorClass::KeyMissing, format!("{key} has no public half")))
    }

    fn generate(&self, spec: &KeySpec) -> std::result::Result<KeyInfo, DeviceError> {
        self.made.fetch_add(1, Ordering::SeqCst);
        Err(DeviceError::invalid(format!("there is one '{}'", spec.label)))
    }
}

#[tokio::test]
async fn a_secret_key_of_that_name_is_no_missing_pair_and_no_other_is_made() {
    for kind in [KeyKind::Hmac(Hash::Sha256), KeyKind::AesCcm(256), KeyKind::TpmStorage] {
        let made = Arc::new(AtomicUsize::new(0));
        let declared = Declared {
            name: "hsm".into(),
            kind: "yubihsm",
            client: Ok(DeviceClient::in_process(Box::new(OneSecret { kind, made: made.clone() }))),
            token_label: None,
            slot: None,
            namespaces: Vec::new(),
        };
        let store = Store::open_on(None, 1 << 20).unwrap();
        let options = Options { engines: ENGINES, devices: vec![declared], ..support::options(store) };
        let server = Server::initialise(Core::with_clocks(options, Arc::new(SystemClocks))).await;
        let wanted = json!({
            "library": "hsm", "key_label": "k", "mechanism": "CKM_ECDSA", "curve": "P256", "allow_generate_key": true,
        });
        let reply = server.write("sys/managed-keys/yubihsm/k", wanted).await;
        says(reply, &format!("is {kind}, and EC P-256 is asked for"));
        assert_eq!(made.load(Ordering::SeqCst), 0, "{kind}");
    }
}
