//! What the server does by itself has its lines in the audit log, and no act fails for want of one.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_core::audit::{DeviceConfig, Kind};
use holdfast_core::{EngineTable, MountEntry};
use holdfast_sdk::{Backend, Operation, Value};
use holdfast_storage::Store;
use holdfast_userpass::Userpass;
use serde_json::json;
use support::by_hand::ByHand;
use support::outside::{LEASE_SECS, World};
use support::{Server, core};

fn userpass(_: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Userpass::default()))
}

const ENGINES: EngineTable =
    EngineTable { secrets: &[("outside", support::outside::outside)], auth: &[("userpass", userpass)], databases: &[] };

struct Site {
    folder: tempfile::TempDir,
    server: Server,
    clocks: Arc<ByHand>,
    world: Arc<World>,
}

impl Site {
    /// With an audit file, and the mounts `db/` and `auth/up/` in the namespace `n`.
    async fn new(world: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let clocks = Arc::new(ByHand::default());
        let store = Store::open_on(None, 1 << 20).unwrap();
        let audit = vec![DeviceConfig::file("file/", &folder.path().join("audit.log"))];
        let server = Server::initialise(core(store, ENGINES, clocks.clone(), audit)).await;
        server.write("sys/namespaces/n", json!({})).await.expect(200);
        server.write("n/sys/mounts/db", json!({"type": "outside", "options": {"world": world}})).await.expect(204);
        server.write("n/sys/auth/up", json!({"type": "userpass"})).await.expect(204);
        Site { folder, server, clocks, world: World::of(world) }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    async fn lease(&self) -> String {
        let made = self.server.read("n/db/leased/a").await.expect(200);
        made["lease_id"].as_str().unwrap().to_owned()
    }

    /// The first response line of the server's own that is so.
    async fn until_own(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..2000 {
            if let Some(line) = own(&self.file()).into_iter().find(|l| is(l)) {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no line of {what} among {:#?}", own(&self.file()));
    }

    async fn metric(&self, name: &str) -> u64 {
        let all = self.server.read("sys/metrics").await.expect(200);
        let gauges = all["Gauges"].as_array().unwrap();
        let found = gauges.iter().find(|g| g["Name"] == name).unwrap_or_else(|| panic!("no {name} in {all}"));
        found["Value"].as_f64().unwrap() as u64
    }
}

fn own(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().map(|l| serde_json::from_str(l).unwrap());
    let own: Vec<Value> = lines.filter(|l: &Value| l["actor"] == "system").collect();
    // Both lines of each, one behind the other.
    for pair in own.chunks(2) {
        assert_eq!((&pair[0]["type"], &pair[1]["type"]), (&json!("request"), &json!("response")));
        for member in ["request", "auth", "cause", "actor"] {
            assert_eq!(pair[0][member], pair[1][member], "{member}");
        }
    }
    own.into_iter().filter(|l| l["type"] == "response").collect()
}

fn path(line: &Value) -> &str {
    line["request"]["path"].as_str().unwrap()
}

/// The form that requests have too, and a cause.
fn check_form(line: &Value) {
    assert_eq!(line["auth"]["display_name"], "system", "{line}");
    assert!(!line["cause"].as_str().unwrap().is_empty(), "{line}");
    for member in ["id", "operation", "path"] {
        assert!(!line["request"][member].as_str().unwrap().is_empty(), "{member} of {line}");
    }
    assert!(line["time"].as_str().unwrap().ends_with('Z') && line["chain"].is_object(), "{line}");
    assert!(line["request"]["namespace"]["id"].is_string(), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_act_has_its_line() {
    let site = Site::new("own-kinds").await;
    let unsealed = site.until_own("the unseal", |l| path(l) == "sys/unseal").await;
    assert_eq!(unsealed["cause"], "enough shares were given");

    // The end of a lease: its time is over, ending it fails, then it is ended.
    site.world.undo_fails(1);
    let lease = site.lease().await;
    site.clocks.pass(LEASE_SECS.0 + 1);
    let of_lease = |l: &Value| l["request"]["data"]["lease_id"] == *lease;
    let expired = site.until_own("the expiry", |l| of_lease(l) && l["response"]["data"]["state"].is_null()).await;
    assert_eq!((path(&expired), &expired["request"]["mount_point"]), ("sys/leases/revoke", &json!("db/")));
    assert_eq!(expired["request"]["namespace"]["path"], "n/");
    assert!(expired["error"].is_null());
    let state = |state: &'static str| move |l: &Value| l["response"]["data"]["state"] == state;
    let failed = site.until_own("the failure", |l| of_lease(l) && state("tried again")(l)).await;
    assert_eq!((&failed["error"], &failed["response"]["data"]["tries"]), (&json!("it failed"), &json!(1)));
    let said = failed["response"]["data"]["error"].as_str().unwrap();
    assert!(said.starts_with("hmac-sha256:"), "what the target said may hold anything: {said}");
    site.clocks.pass(60);
    site.until_own("the end", |l| of_lease(l) && state("done")(l)).await;

    // A token whose time is over.
    let made = json!({"ttl": "60s", "policies": ["default"], "display_name": "short"});
    let token = site.server.write("n/auth/token/create", made).await.expect(200)["auth"]["client_token"].clone();
    site.clocks.pass(61);
    let ended = site.until_own("the token's end", |l| l["request"]["data"]["display_name"] == "token-short").await;
    assert_eq!(path(&ended), "auth/token/revoke-accessor");
    assert!(ended["request"]["data"]["accessor"].as_str().unwrap().starts_with("hmac-sha256:"));

    // A user that is locked out.
    site.server.write("n/auth/up/users/ann", json!({"password": "pw"})).await.expect(204);
    for _ in 0..6 {
        let wrong = json!({"password": "no"});
        let refused = site.server.ask("", Operation::Update, "n/auth/up/login/ann", wrong).await.status;
        assert!([400, 403].contains(&refused), "{refused}");
    }
    let locked = site.until_own("the lock-out", |l| path(l).starts_with("sys/locked-users/")).await;
    assert!(locked["request"]["data"]["alias_identifier"].as_str().unwrap().starts_with("hmac-sha256:"));
    assert_eq!(locked["request"]["mount_point"], "auth/up/");
    let locks = own(&site.file()).iter().filter(|l| path(l).starts_with("sys/locked-users/")).count();
    assert_eq!(locks, 1, "it is told once");

    // Keys that are rotated by themselves.
    let key = json!({"rotation_period": "1h", "verification_ttl": "1h"});
    site.server.write("n/identity/oidc/key/k", key).await.expect(204);
    site.clocks.pass(3601);
    site.until_own("the rotation", |l| path(l) == "identity/oidc/key/k/rotate").await;

    // Cleaning up.
    site.server.delete("n/sys/mounts/db").await.expect(204);
    let cleaned = site.until_own("the clean-up", |l| l["request"]["data"]["kind"] == "clean-mount").await;
    assert!(cleaned["cause"].as_str().unwrap().contains("disabled"));
    assert_eq!(cleaned["request"]["data"]["path"], "db/");

    site.server.seal_and_unseal().await;
    site.until_own("the seal", |l| path(l) == "sys/seal").await;
    assert_eq!(own(&site.file()).iter().filter(|l| path(l) == "sys/unseal").count(), 2);

    let lines = own(&site.file());
    lines.iter().for_each(check_form);
    let text = std::fs::read_to_string(site.file()).unwrap();
    for secret in [&site.server.root, token.as_str().unwrap()] {
        assert!(!text.contains(secret), "a token is in the log");
    }
    assert!(site.metric("holdfast_audit_own_lines").await >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_told_with_its_failure_and_what_goes_on_failing_once_for_each_reason() {
    let site = Site::new("own-failures").await;
    let state = |state: &'static str| move |l: &Value| l["response"]["data"]["state"] == state;

    // What a request has made outside, and its handler does not keep.
    site.world.handler_fails(true);
    site.server.read("n/db/creds/a").await.expect(400);
    let undone = site.until_own("what was undone", |l| path(l) == "sys/intents" && state("done")(l)).await;
    assert!(undone["request"]["data"]["name"].as_str().unwrap().starts_with("user-"), "{undone}");
    assert_eq!(
        (&undone["request"]["operation"], &undone["request"]["mount_point"]),
        (&json!("rollback"), &json!("db/"))
    );
    site.world.handler_fails(false);

    // A job that fails, more than once.
    let told = || own(&site.file()).into_iter().filter(|l| l["request"]["data"]["kind"] == "clean-mount");
    let mount = json!({"type": "outside", "options": {"world": "own-failures"}});
    site.server.write("n/sys/mounts/other", mount).await.expect(204);
    site.world.clean_fails(true);
    site.server.delete("n/sys/mounts/other").await.expect(204);
    let failed = site.until_own("the failure", |l| l["request"]["data"]["kind"] == "clean-mount").await;
    assert_eq!((&failed["error"], &failed["request"]["data"]["path"]), (&json!("it failed"), &json!("other/")));
    assert!(failed["response"]["data"]["error"].as_str().unwrap().starts_with("hmac-sha256:"));
    for _ in 0..3 {
        site.clocks.pass(61);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(told().count(), 1, "the same reason is told once");
    site.world.clean_fails(false);
    site.clocks.pass(61);
    site.until_own("the clean-up", |l| l["request"]["data"]["kind"] == "clean-mount" && l["error"].is_null()).await;

    // A lease that cannot be ended.
    let lease = site.lease().await;
    site.world.undo_fails(u32::MAX);
    let given_up = |l: &Value| l["request"]["data"]["lease_id"] == *lease && state("given up")(l);
    site.server.write("n/sys/leases/revoke", json!({"lease_id": lease})).await;
    for _ in 0..2000 {
        if own(&site.file()).iter().any(given_up) {
            break;
        }
        // No pause between two tries is longer.
        site.clocks.pass(3601);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let line = site.until_own("that it is given up", given_up).await;
    assert!(line["response"]["data"]["tries"].as_u64().unwrap() > 10 && line["error"] == "it failed", "{line}");
    own(&site.file()).iter().for_each(check_form);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_ends_though_no_device_takes_the_line_and_the_line_comes_later() {
    let site = Site::new("own-refused").await;
    let lease = site.lease().await;
    let full = |path: &Path| vec![DeviceConfig::file("file/", path)];
    site.server.core.declare_audit(full(Path::new("/dev/full"))).await;
    assert_eq!(site.server.read("n/db/users").await.status, 500, "requests fail closed");
    site.clocks.pass(LEASE_SECS.0 + 1);
    for _ in 0..1000 {
        if site.world.users().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(site.world.users().is_empty(), "it ends all the same");
    assert!(own(&site.file()).iter().all(|l| l["request"]["data"]["lease_id"] != *lease));
    site.server.core.declare_audit(full(&site.file())).await;
    let of_lease = |l: &Value| l["request"]["data"]["lease_id"] == *lease;
    let expired = site.until_own("the expiry", |l| of_lease(l) && l["response"]["data"]["state"].is_null()).await;
    check_form(&expired);
    site.until_own("the end", |l| of_lease(l) && l["response"]["data"]["state"] == "done").await;
    // The end may have been told when the device was a good one again.
    assert!(site.metric("holdfast_audit_own_line_failures").await >= 1, "the fault is counted");
    assert_eq!(site.metric("holdfast_audit_own_lines_lost").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_device_took_before_a_seal_is_told_at_the_next_unseal_with_its_own_time_and_id() {
    let site = Site::new("own-late").await;
    let lease = site.lease().await;
    let declare = |path: PathBuf| site.server.core.declare_audit(vec![DeviceConfig::file("file/", &path)]);
    declare(PathBuf::from("/dev/full")).await;
    site.clocks.pass(LEASE_SECS.0 + 1);
    for _ in 0..1000 {
        if site.world.users().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    site.server.core.seal_now().await;
    assert!(own(&site.file()).iter().all(|l| path(l) != "sys/seal" && l["request"]["data"]["lease_id"] != *lease));
    site.server.unseal().await;
    // No device takes them yet: they stay where they are.
    tokio::time::sleep(Duration::from_millis(50)).await;
    declare(site.file()).await;
    let sealed = site.until_own("the seal", |l| path(l) == "sys/seal").await;
    let unsealed =
        site.until_own("the unseal", |l| path(l) == "sys/unseal" && l["time"].as_str() > sealed["time"].as_str()).await;
    assert_eq!(sealed["recovered"], true);
    assert!(unsealed["recovered"].is_null(), "{unsealed}");
    let of_lease = |l: &Value| l["request"]["data"]["lease_id"] == *lease;
    site.until_own("the end", |l| of_lease(l) && l["response"]["data"]["state"] == "done").await;
    let all: Vec<Value> = own(&site.file()).into_iter().filter(of_lease).collect();
    assert_eq!(all.len(), 2, "its time was over, and it ended: {all:#?}");
    for line in all.iter().chain([&sealed]) {
        check_form(line);
        assert!(line["recovered"] == true && line["time"].as_str() <= unsealed["time"].as_str(), "{line}");
        assert!(line["request"]["namespace"]["path"] == "n/" || path(line) == "sys/seal", "{line}");
    }
    assert_eq!(site.metric("holdfast_audit_own_lines_lost").await, 0);
    assert!(site.metric("holdfast_audit_own_lines_recovered").await >= 3);
    // What was told is told no more.
    let before = own(&site.file()).len();
    site.server.seal_and_unseal().await;
    let times = |l: &Value| path(l) == "sys/unseal";
    for _ in 0..2000 {
        if own(&site.file()).iter().filter(|l| times(l)).count() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = own(&site.file());
    assert_eq!(after.len(), before + 2, "sealed and unsealed: {:#?}", &after[before..]);
}

/// An HTTP server that takes lines, and refuses response lines of one path.
struct Peer {
    uri: String,
    refuses: Arc<Mutex<&'static str>>,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Peer {
    fn start() -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/in", listener.local_addr().unwrap());
        let (refuses, taken) = (Arc::new(Mutex::new("")), Arc::<Mutex<Vec<Value>>>::default());
        let (refused, kept) = (refuses.clone(), taken.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
                while !seen.ends_with(b"}\n") {
                    match stream.read(&mut buffer).unwrap() {
                        0 => break,
                        bytes => seen.extend_from_slice(&buffer[..bytes]),
                    }
                }
                let text = String::from_utf8(seen).unwrap();
                let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                let lines: Vec<Value> = body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
                let is_refused = |l: &Value| {
                    l["type"] == "response" && l["actor"].is_null() && l["request"]["path"] == *refused.lock().unwrap()
                };
                let status = if lines.iter().any(is_refused) { "503 Unavailable" } else { "200 OK" };
                if status == "200 OK" {
                    kept.lock().unwrap().extend(lines);
                }
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Peer { uri, refuses, taken }
    }

    fn refuses(&self, path: &'static str) {
        *self.refuses.lock().unwrap() = path;
    }

    fn device(&self) -> DeviceConfig {
        let options = vec![("uri".to_owned(), self.uri.clone())];
        DeviceConfig { kind: Kind::Http, path: "http/".into(), options, ..DeviceConfig::file("http/", Path::new("/x")) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_for_an_answer_that_no_device_takes_is_taken_back() {
    let site = Site::new("own-withdrawn").await;
    let peer = Peer::start();
    let server = &site.server;
    server.write("n/auth/up/users/ann", json!({"password": "pw"})).await.expect(204);
    server.core.declare_audit(vec![peer.device()]).await;
    let accessors = || async { server.list("n/auth/token/accessors/").await.body["data"]["keys"].clone() };
    let before = accessors().await;

    peer.refuses("auth/token/create");
    let made = server.write("n/auth/token/create", json!({"policies": ["default"], "ttl": "1h"})).await;
    assert_eq!((made.status, made.body.get("auth")), (500, None), "nothing is revealed");
    peer.refuses("auth/up/login/ann");
    let made = server.ask("", Operation::Update, "n/auth/up/login/ann", json!({"password": "pw"})).await;
    assert_eq!((made.status, made.body.get("auth")), (500, None));
    assert_eq!(accessors().await, before, "no token is left");

    peer.refuses("db/leased/a");
    let made = server.read("n/db/leased/a").await;
    assert_eq!((made.status, made.body.get("data")), (500, None));
    assert_eq!(site.world.acts.load(std::sync::atomic::Ordering::SeqCst), 1, "a user was made");
    for _ in 0..2000 {
        if site.world.users().is_empty() && server.list("n/db/users/").await.status == 404 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(site.world.users().is_empty(), "no user is left");
    server.list("n/sys/leases/lookup/db/leased/a/").await.expect(404);

    // What is there is not taken back when an answer about it is refused.
    peer.refuses("");
    let kept = server.token(&server.root, "n/auth/token/create", json!({"policies": ["default"], "ttl": "1h"})).await;
    peer.refuses("auth/token/renew-self");
    assert_eq!(server.ask(&kept, Operation::Update, "n/auth/token/renew-self", json!({})).await.status, 500);
    assert!(server.ask(&kept, Operation::Read, "n/auth/token/lookup-self", json!({})).await.status == 200);

    // It is told, as what the server did by itself.
    let ends = |path: &str| {
        let lines = peer.taken.lock().unwrap();
        let own = lines.iter().filter(|l| l["actor"] == "system" && l["type"] == "response");
        let own = own.filter(|l| l["cause"].as_str().is_some_and(|c| c.starts_with("no audit device took")));
        own.filter(|l| l["request"]["path"] == path).count()
    };
    for _ in 0..1000 {
        if (ends("auth/token/revoke-accessor"), ends("sys/leases/revoke")) == (2, 1) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} tokens and {} leases are told of", ends("auth/token/revoke-accessor"), ends("sys/leases/revoke"));
}
