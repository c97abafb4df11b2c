//! New shares, new root keys and root tokens, by holders of shares.

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use holdfast_core::audit::DeviceConfig;
use holdfast_core::bare::BareRequest;
use holdfast_core::{Core, InitRequest, OldRoutes, Options, Seals, ceremony};
use holdfast_hsm::memory::{Key, Secret, allow_unlocked};
use holdfast_sdk::{Operation, Value};
use holdfast_seal::{DeviceRefusal, Lock, SealDevice, Wrapped, xaes};
use holdfast_storage::Store;
use serde_json::json;
use support::{Reply, ask};

/// A stand-in for a token: a key in memory that wraps as a token does, and that can be taken away.
struct KeyInMemory {
    key: Key,
    away: Mutex<bool>,
    /// What was drawn last, so that it is known again.
    drawn: Mutex<Vec<u8>>,
    /// Whether its generator gives one byte alone.
    stuck: Mutex<bool>,
}

impl KeyInMemory {
    fn new() -> Arc<KeyInMemory> {
        allow_unlocked();
        Arc::new(KeyInMemory {
            key: Key::random(32).unwrap(),
            away: Mutex::default(),
            drawn: Mutex::default(),
            stuck: Mutex::default(),
        })
    }

    fn answer<T>(&self, work: impl FnOnce() -> T) -> Result<T, DeviceRefusal> {
        if *self.away.lock().unwrap() {
            return Err(DeviceRefusal::new("the token is away", true));
        }
        Ok(work())
    }
}

impl SealDevice for KeyInMemory {
    fn backend(&self) -> &str {
        "software"
    }
    fn wrap(&self, root: &Key, context: &[u8]) -> Result<Wrapped, DeviceRefusal> {
        self.answer(|| Wrapped {
            key_label: "k".into(),
            key_id: String::new(),
            mechanism: "XAES-256-GCM".into(),
            public_part: None,
            ciphertext: xaes::seal(self.key.expose(), context, root.expose()).unwrap(),
        })
    }
    fn random(&self, bytes: u32) -> Option<Result<Secret<Vec<u8>>, DeviceRefusal>> {
        let stuck = *self.stuck.lock().unwrap();
        let drawn = if stuck { vec![7; bytes as usize] } else { random(bytes as usize) };
        (*self.drawn.lock().unwrap()).clone_from(&drawn);
        Some(self.answer(|| Secret::new(drawn)))
    }
    fn unwrap(&self, lock: &Lock, context: &[u8]) -> Result<Key, DeviceRefusal> {
        self.answer(|| {
            let mut root = xaes::unseal(self.key.expose(), context, &lock.ciphertext, "the root key").unwrap();
            Key::from_slice(&mut root).unwrap()
        })
    }
}

fn random(bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        all.extend_from_slice(Key::random(32).unwrap().expose());
    }
    all.truncate(bytes);
    all
}

struct Server {
    core: Arc<Core>,
    root: String,
    shares: Vec<String>,
}

fn texts(keys: &[Secret<Vec<u8>>]) -> Vec<String> {
    keys.iter().map(|k| hex::encode(k.expose())).collect()
}

impl Server {
    async fn with_shares(count: i64, threshold: i64) -> Server {
        Server::with_shares_and(count, threshold, Vec::new()).await
    }

    /// The same with audit devices.
    async fn with_shares_and(count: i64, threshold: i64, audit: Vec<DeviceConfig>) -> Server {
        let core = Core::new(Options { audit, ..support::options(Store::open_on(None, 1 << 20).unwrap()) });
        let request = InitRequest { secret_shares: count, secret_threshold: threshold, ..InitRequest::default() };
        let made = core.initialise(&request).await.unwrap();
        let server = Server { core, root: made.root_token.expose().clone(), shares: texts(&made.keys) };
        server.unseal(&server.shares[..threshold as usize]).await.unwrap();
        server
    }

    async fn with_device(device: Arc<KeyInMemory>, form: &str) -> Server {
        Server::with_device_and(device, form, Vec::new()).await
    }

    /// The same with audit devices.
    async fn with_device_and(device: Arc<KeyInMemory>, form: &str, audit: Vec<DeviceConfig>) -> Server {
        let core = Core::new(Options {
            seals: Seals::only(device),
            audit,
            ..support::options(Store::open_on(None, 1 << 20).unwrap())
        });
        let request = InitRequest {
            recovery_shares: 3,
            recovery_threshold: 2,
            recovery_form: Some(form.into()),
            ..InitRequest::default()
        };
        let made = core.initialise(&request).await.unwrap();
        tokio::spawn(core.clone().unseal_with_device());
        Server { core, root: made.root_token.expose().clone(), shares: texts(&made.recovery_keys) }
    }

    async fn unseal(&self, shares: &[String]) -> Result<(), String> {
        for share in shares {
            self.core.unseal_share(ceremony::share(share).unwrap()).await.map_err(|r| r.1)?;
        }
        if self.core.is_unsealed() { Ok(()) } else { Err("sealed".into()) }
    }

    async fn until_the_device_unseals(&self) {
        self.core.retry_device();
        for _ in 0..500 {
            if self.core.is_unsealed() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the device does not unseal the store");
    }

    async fn write(&self, path: &str, data: Value) -> Reply {
        ask(&self.core, &self.root, Operation::Update, path, data).await
    }

    async fn read(&self, path: &str) -> Reply {
        ask(&self.core, &self.root, Operation::Read, path, Value::Null).await
    }

    /// Give shares to a rotation that was begun; the last answer.
    async fn give(&self, path: &str, nonce: &Value, shares: &[String]) -> Reply {
        let mut last = None;
        for share in shares {
            last = Some(self.write(path, json!({"key": share, "nonce": nonce})).await);
        }
        last.unwrap()
    }

    /// New shares by the present ones.
    async fn rotate(&self, target: &str, asked: Value, present: &[String]) -> Value {
        let begun = self.write(&format!("sys/rotate/{target}/init"), asked).await.expect(200);
        let done =
            self.give(&format!("sys/rotate/{target}/update"), &begun["data"]["nonce"], present).await.expect(200);
        assert_eq!(done["data"]["complete"], true, "{done}");
        done["data"].clone()
    }
}

fn keys(done: &Value) -> Vec<String> {
    done["keys"].as_array().unwrap().iter().map(|k| k.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn new_shares_open_the_store_and_the_old_ones_do_not() {
    let server = Server::with_shares(3, 2).await;
    server.write("cubbyhole/a", json!({"k": "v"})).await.expect(204);
    let fresh =
        keys(&server.rotate("root", json!({"secret_shares": 4, "secret_threshold": 3}), &server.shares[..2]).await);
    assert_eq!(fresh.len(), 4);
    // A term that is made afterwards rests under the new root key.
    server.write("sys/rotate", json!({})).await.expect(204);
    server.core.seal_now().await;
    let refused = server.unseal(&[&server.shares[..], &server.shares[..1]].concat()).await.unwrap_err();
    assert!(!server.core.is_unsealed(), "{refused}");
    server.core.reset_unseal().unwrap();
    server.unseal(&fresh[1..]).await.unwrap();
    assert_eq!(server.read("cubbyhole/a").await.expect(200)["data"]["k"], "v");
}

#[tokio::test]
async fn new_shares_count_when_they_were_given_back() {
    let server = Server::with_shares(2, 2).await;
    let asked = json!({"secret_shares": 3, "secret_threshold": 2, "require_verification": true});
    let made = server.rotate("root", asked, &server.shares).await;
    let fresh = keys(&made);
    // Sealed in between, it is as if nothing had been asked.
    server.core.seal_now().await;
    server.unseal(&server.shares).await.unwrap();
    server.read("sys/rotate/root/verify").await.expect(400);

    let asked = json!({"secret_shares": 3, "secret_threshold": 2, "require_verification": true});
    let made = server.rotate("root", asked, &server.shares).await;
    let wrong = server.give("sys/rotate/root/verify", &made["verification_nonce"], &fresh[..2]).await;
    assert!(wrong.expect(400)["errors"][0].as_str().unwrap().contains("verification failed"));
    let fresh = keys(&made);
    let done = server.give("sys/rotate/root/verify", &made["verification_nonce"], &fresh[1..]).await.expect(200);
    assert_eq!(done["data"]["complete"], true);
    server.core.seal_now().await;
    server.unseal(&fresh[..2]).await.unwrap();
}

#[tokio::test]
async fn a_new_root_key_alone_keeps_the_shares() {
    let server = Server::with_shares(3, 2).await;
    for _ in 0..3 {
        server.write("sys/rotate/root", json!({})).await.expect(204);
        server.write("sys/rotate", json!({})).await.expect(204);
        server.core.seal_now().await;
        server.unseal(&server.shares[1..]).await.unwrap();
    }
    server.read("sys/mounts").await.expect(200);
}

#[tokio::test]
async fn too_few_shares_and_shares_given_twice_change_nothing() {
    let server = Server::with_shares(3, 3).await;
    let begun =
        server.write("sys/rotate/root/init", json!({"secret_shares": 1, "secret_threshold": 1})).await.expect(200);
    let nonce = &begun["data"]["nonce"];
    server.give("sys/rotate/root/update", nonce, &server.shares[..1]).await.expect(200);
    server.give("sys/rotate/root/update", nonce, &server.shares[..1]).await.expect(400);
    server.give("sys/rotate/root/update", nonce, &server.shares[1..2]).await.expect(200);
    let strange = "00".repeat(33);
    server.give("sys/rotate/root/update", nonce, &[strange]).await.expect(400);
    let status = server.read("sys/rotate/root/init").await.expect(200);
    assert_eq!((&status["data"]["progress"], &status["data"]["started"]), (&json!(0), &json!(true)));
    server.core.seal_now().await;
    server.unseal(&server.shares).await.unwrap();
}

#[tokio::test]
async fn recovery_shares_that_authorise_are_replaced_and_the_device_goes_on_opening() {
    let device = KeyInMemory::new();
    let server = Server::with_device(device.clone(), "authorise").await;
    let asked = json!({"secret_shares": 2, "secret_threshold": 2});
    let fresh = keys(&server.rotate("recovery", asked, &server.shares[1..]).await);
    server.core.seal_now().await;
    server.until_the_device_unseals().await;

    let attempt = server.write("sys/generate-root-token/attempt", json!({})).await.expect(200);
    let nonce = &attempt["data"]["nonce"];
    let refused = server.give("sys/generate-root-token/update", nonce, &server.shares[..2]).await;
    assert!(refused.expect(400)["errors"][0].as_str().unwrap().starts_with("root generation aborted"));
    let done = server.give("sys/generate-root-token/update", nonce, &fresh).await.expect(200);
    let encoded = &done["data"]["encoded_token"];
    let shown =
        server.write("sys/decode-token", json!({"encoded_token": encoded, "otp": attempt["data"]["otp"]})).await;
    let token = shown.expect(200)["data"]["token"].as_str().unwrap().to_owned();
    let own = ask(&server.core, &token, Operation::Read, "auth/token/lookup-self", Value::Null).await.expect(200);
    assert_eq!(own["data"]["policies"], json!(["root"]));

    server.write("sys/rotate/root", json!({})).await.expect(204);
    server.rotate("root", json!({"secret_shares": 1, "secret_threshold": 1}), &fresh).await;
    server.core.seal_now().await;
    server.until_the_device_unseals().await;
    server.read("sys/mounts").await.expect(200);
}

#[tokio::test]
async fn escrowed_shares_are_replaced_with_a_new_root_key() {
    let device = KeyInMemory::new();
    let server = Server::with_device(device.clone(), "escrow").await;
    let refused = server.write("sys/rotate/root", json!({})).await.expect(400);
    assert!(refused["errors"][0].as_str().unwrap().contains("escrow"), "{refused}");
    let fresh =
        keys(&server.rotate("recovery", json!({"secret_shares": 3, "secret_threshold": 2}), &server.shares[..2]).await);
    server.write("sys/rotate/root", json!({})).await.expect(204);
    server.core.seal_now().await;
    server.until_the_device_unseals().await;

    *device.away.lock().unwrap() = true;
    server.core.seal_now().await;
    server.unseal(&server.shares[..2]).await.unwrap_err();
    server.unseal(&fresh[..2]).await.unwrap();
    server.read("sys/mounts").await.expect(200);
}

/// Ask without a token, as a listener passes it on.
async fn bare(core: &Arc<Core>, old_routes: OldRoutes, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = body.to_string();
    let request = BareRequest { method, path, query: &[], body: body.as_bytes(), old_routes };
    let answer = core.bare(&request).await.expect("it is a bare route");
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn the_old_routes_act_without_a_token_where_a_listener_allows_them_and_nowhere_else() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let server = Server::with_shares_and(2, 2, vec![DeviceConfig::file("file/", log.path())]).await;
    let (none, all) = (OldRoutes::default(), OldRoutes { rekey: true, generate_root: true });
    for path in
        ["sys/rekey/init", "sys/rekey-recovery-key/init", "sys/generate-root/attempt", "sys/generate-root/update"]
    {
        for method in ["GET", "PUT", "DELETE"] {
            assert_eq!(bare(&server.core, none, method, path, json!({})).await.0, 405, "{method} {path}");
        }
    }
    let asked = json!({"secret_shares": 3, "secret_threshold": 2});
    let wrong = json!({"secret_shares": "3", "secret_threshold": 2});
    assert_eq!(bare(&server.core, all, "PUT", "sys/rekey/init", wrong).await.0, 400);
    let (status, begun) = bare(&server.core, all, "PUT", "sys/rekey/init", asked).await;
    assert_eq!(status, 200, "{begun}");
    // Without a device that takes the line no share is taken, nothing is begun and nothing ended.
    let device = |path: &Path| vec![DeviceConfig::file("file/", path)];
    server.core.declare_audit(device(Path::new("/dev/full"))).await;
    let first = json!({"key": server.shares[0], "nonce": begun["nonce"]});
    for (method, path, body) in [
        ("PUT", "sys/rekey/update", first),
        ("DELETE", "sys/rekey/init", Value::Null),
        ("PUT", "sys/generate-root/attempt", json!({})),
    ] {
        let (status, refused) = bare(&server.core, all, method, path, body).await;
        assert_eq!((status, &refused["errors"][0]), (500, &json!("internal error")), "{method} {path}");
    }
    server.core.declare_audit(device(log.path())).await;
    let (_, now) = bare(&server.core, all, "GET", "sys/rekey/init", Value::Null).await;
    assert_eq!((&now["nonce"], &now["progress"]), (&begun["nonce"], &json!(0)));
    assert_eq!(bare(&server.core, all, "GET", "sys/generate-root/attempt", Value::Null).await.1["started"], false);
    let wrong = json!({"key": server.shares[0], "nonce": "another"});
    assert_eq!(bare(&server.core, all, "PUT", "sys/rekey/update", wrong).await.0, 400);

    let mut last = Value::Null;
    for share in &server.shares {
        let body = json!({"key": share, "nonce": begun["nonce"]});
        let (status, answer) = bare(&server.core, all, "PUT", "sys/rekey/update", body).await;
        assert_eq!(status, 200, "{answer}");
        last = answer;
    }
    assert_eq!(last["complete"], true);
    let fresh = keys(&last);
    let told = until_told(&log, "sys/rekey/update", 5).await;
    let given = "somebody without a token gives a share";
    let refused = "refused to somebody without a token";
    assert_eq!(told, [given, refused, given, given, "holders of shares replaced them, without a token"]);
    // What was not understood leaves none.
    let told = until_told(&log, "sys/rekey/init", 3).await;
    let begins = "somebody without a token begins it";
    assert_eq!(told, [begins, refused, begins]);
    let (_, begun) = bare(&server.core, all, "PUT", "sys/generate-root/attempt", json!({})).await;
    for share in &fresh[1..] {
        let body = json!({"key": share, "nonce": begun["nonce"]});
        last = bare(&server.core, all, "PUT", "sys/generate-root/update", body).await.1;
    }
    assert_eq!(last["complete"], true, "{last}");
    let covered = json!({"encoded_token": last["encoded_token"], "otp": begun["otp"]});
    let token = server.write("sys/decode-token", covered).await.expect(200)["data"]["token"].clone();
    let own = ask(&server.core, token.as_str().unwrap(), Operation::Read, "auth/token/lookup-self", Value::Null).await;
    assert_eq!(own.expect(200)["data"]["policies"], json!(["root"]));
    let told = until_told(&log, "sys/generate-root/update", 3).await;
    assert_eq!(told[2], "holders of shares made a root token, without a token of their own");
    server.core.seal_now().await;
    assert_eq!(bare(&server.core, all, "GET", "sys/rekey/init", Value::Null).await.0, 503);
    server.unseal(&fresh[..2]).await.unwrap();
    let text = std::fs::read_to_string(log.path()).unwrap();
    let shares = server.shares.iter().chain(&fresh);
    assert!(shares.map(String::as_str).chain(token.as_str()).all(|secret| !text.contains(secret)), "{text}");
}

/// The causes of the server's own lines of a path, once there are so many.
async fn until_told(log: &tempfile::NamedTempFile, path: &str, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..400 {
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let own = lines.filter(|l| l["actor"] == "system" && l["type"] == "response" && l["request"]["path"] == path);
        told = own.map(|l| l["cause"].as_str().unwrap().to_owned()).collect();
        if told.len() >= count {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(told.len(), count, "{path}: {told:?}");
    told
}

/// A public key in base64, whose private half nobody has.
fn public_key() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../pgp/tests/keys");
    let keys = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let key = keys.filter(|p| p.extension().is_some_and(|e| e == "b64")).min().unwrap();
    std::fs::read_to_string(key).unwrap().trim().to_owned()
}

#[tokio::test]
async fn recovery_shares_are_replaced_by_the_old_routes_verified_and_kept_under_pgp_keys() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let audit = vec![DeviceConfig::file("file/", log.path())];
    let server = Server::with_device_and(KeyInMemory::new(), "authorise", audit).await;
    server.until_the_device_unseals().await;
    let all = OldRoutes { rekey: true, generate_root: true };
    let path = |tail: &str| format!("sys/rekey-recovery-key/{tail}");
    let ask = |method: &'static str, tail: &'static str, body: Value| {
        let server = &server;
        async move { bare(&server.core, all, method, &path(tail), body).await }
    };
    let give = |tail: &'static str, nonce: Value, shares: Vec<String>| {
        let ask = &ask;
        async move {
            let mut last = Value::Null;
            for share in shares {
                let (status, answer) = ask("PUT", tail, json!({"key": share, "nonce": nonce})).await;
                assert_eq!(status, 200, "{answer}");
                last = answer;
            }
            last
        }
    };
    assert_eq!(ask("GET", "init", Value::Null).await.1["started"], false);
    let asked = json!({"secret_shares": 3, "secret_threshold": 2, "require_verification": true});
    let (status, begun) = ask("PUT", "init", asked).await;
    assert_eq!((status, &begun["verification_required"]), (200, &json!(true)), "{begun}");
    let made = give("update", begun["nonce"].clone(), server.shares[..2].to_vec()).await;
    assert_eq!((&made["complete"], keys(&made).len()), (&json!(true), 3), "{made}");
    let fresh = keys(&made);

    // Until they were given back the former ones count; a wrong one brings nothing.
    assert_eq!(ask("GET", "verify", Value::Null).await.1["progress"], 0);
    let nonce = &made["verification_nonce"];
    let wrong = json!({"key": server.shares[0], "nonce": nonce});
    ask("PUT", "verify", wrong.clone()).await;
    let (status, refused) = ask("PUT", "verify", json!({"key": server.shares[1], "nonce": nonce})).await;
    assert_eq!(status, 400, "{refused}");
    let (status, anew) = ask("DELETE", "verify", Value::Null).await;
    assert!(status == 200 && anew["nonce"] != *nonce, "{anew}");
    let done = give("verify", anew["nonce"].clone(), fresh[1..].to_vec()).await;
    assert_eq!(done["complete"], true, "{done}");
    let told = until_told(&log, "sys/rekey-recovery-key/update", 3).await;
    assert!(told[2].contains("count once they are given back"), "{told:?}");
    // Two wrong ones, of which the last was refused; a new beginning; two good ones.
    let told = until_told(&log, "sys/rekey-recovery-key/verify", 7).await;
    assert!(told.iter().any(|t| t.contains("takes back")) && told[6].contains("count from now on"), "{told:?}");

    // What replaces these is encrypted, and kept.
    let asked = json!({"secret_shares": 1, "secret_threshold": 1, "pgp_keys": [public_key()], "backup": true});
    let (status, begun) = ask("PUT", "init", asked).await;
    assert!(status == 200 && begun["pgp_fingerprints"][0].is_string(), "{begun}");
    let former = json!({"key": server.shares[0], "nonce": begun["nonce"]});
    ask("PUT", "update", former).await;
    let (status, refused) = ask("PUT", "update", json!({"key": server.shares[1], "nonce": begun["nonce"]})).await;
    assert_eq!(status, 400, "the former shares authorise nothing: {refused}");
    let done = give("update", begun["nonce"].clone(), fresh[..2].to_vec()).await;
    assert_eq!((&done["complete"], &done["backup"]), (&json!(true), &json!(true)), "{done}");
    let encrypted = keys(&done);
    assert!(encrypted.len() == 1 && encrypted[0].len() > 200, "an OpenPGP message: {done}");
    let kept = server.read("sys/rekey/recovery-key-backup").await.expect(200);
    let fingerprint = begun["pgp_fingerprints"][0].as_str().unwrap();
    assert_eq!(kept["data"]["keys"][fingerprint], json!(encrypted), "{kept}");
    // The device goes on opening.
    server.core.seal_now().await;
    server.until_the_device_unseals().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_would_not_open_the_store_is_known_before_the_next_start() {
    let device = KeyInMemory::new();
    let server = Server::with_device(device.clone(), "authorise").await;
    server.until_the_device_unseals().await;
    assert_eq!(server.core.check_device().await, Some(Ok(())));
    let backends = || async { server.read("sys/seal-backend-status").await.expect(200)["data"].clone() };
    let first = backends().await;
    assert_eq!((&first["healthy"], &first["fully_wrapped"]), (&json!(true), &json!(true)));
    let own = &first["backends"][0];
    assert_eq!((&own["type"], &own["name"], &own["healthy"]), (&json!("software"), &json!("k"), &json!(true)));
    assert!(own["last_opened"].is_string() && own.get("unhealthy_since").is_none(), "{own}");

    *device.away.lock().unwrap() = true;
    assert_eq!(server.core.check_device().await, Some(Err("the token is away".into())));
    let away = backends().await;
    assert_eq!(away["healthy"], false);
    assert!(away["unhealthy_since"].is_string());
    let own = &away["backends"][0];
    assert_eq!((&own["healthy"], &own["last_error"]), (&json!(false), &json!("the token is away")));
    // It says since when, not when it was looked at last.
    assert_eq!(server.core.check_device().await, Some(Err("the token is away".into())));
    assert_eq!(backends().await["unhealthy_since"], away["unhealthy_since"]);

    *device.away.lock().unwrap() = false;
    assert_eq!(server.core.check_device().await, Some(Ok(())));
    assert_eq!(backends().await["healthy"], true);
    // Shares are with people: nothing is known of how they are.
    let shamir = Server::with_shares(3, 2).await;
    assert_eq!(shamir.core.check_device().await, None);
    let shown = shamir.read("sys/seal-backend-status").await.expect(200);
    let lock = &shown["data"]["backends"][0];
    assert_eq!(
        (&lock["type"], &lock["threshold"], &lock["checked_here"]),
        (&json!("shamir"), &json!(2), &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_come_from_the_source_that_was_asked_for() {
    let device = KeyInMemory::new();
    let server = Server::with_device(device.clone(), "authorise").await;
    server.until_the_device_unseals().await;
    let drawn = |path: &'static str| {
        let server = &server;
        async move {
            let made = server.write(path, json!({"format": "hex"})).await.expect(200);
            made["data"]["random_bytes"].as_str().unwrap().to_owned()
        }
    };
    let of_device = || hex::encode(&*device.drawn.lock().unwrap());
    assert_eq!(drawn("sys/tools/random/seal/24").await, of_device());
    let mixed = drawn("sys/tools/random/all").await;
    assert!(mixed.len() == 64 && of_device().len() == 64 && mixed != of_device());
    let before = of_device();
    assert_eq!(drawn("sys/tools/random/platform").await.len(), 64);
    assert_eq!(of_device(), before, "nobody asked it");
    // What does not look random is not handed out, nor mixed in.
    *device.stuck.lock().unwrap() = true;
    for path in ["sys/tools/random/seal", "sys/tools/random/seal/1", "sys/tools/random/all"] {
        let refused = server.write(path, json!({})).await.expect(500);
        assert!(refused["errors"][0].as_str().unwrap().contains("do not look like any"), "{refused}");
    }
    server.core.mix_entropy_of_seals(true);
    let refused = server.write("sys/rotate", json!({})).await.expect(503);
    assert!(refused["errors"][0].as_str().unwrap().contains("do not look like any"), "{refused}");
    *device.stuck.lock().unwrap() = false;
    server.write("sys/rotate", json!({})).await.expect(204);
    server.core.mix_entropy_of_seals(false);
    // Nothing else steps in for a device that was asked for.
    *device.away.lock().unwrap() = true;
    for path in ["sys/tools/random/seal", "sys/tools/random/all"] {
        let refused = server.write(path, json!({})).await.expect(503);
        assert!(refused["errors"][0].as_str().unwrap().contains("the token is away"), "{refused}");
    }
    drawn("sys/tools/random/platform").await;
    let shares = Server::with_shares(1, 1).await;
    for (path, is_told) in
        [("sys/tools/random/seal/8", true), ("sys/tools/random/all", true), ("sys/tools/random/platform", false)]
    {
        let drawn = shares.write(path, json!({})).await.expect(200);
        assert_eq!(drawn.to_string().contains("these bytes are the operating system's"), is_told, "{path}");
    }
    shares.write("sys/tools/random/other/8", json!({})).await.expect(400);
}
