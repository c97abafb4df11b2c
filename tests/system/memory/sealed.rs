//! After work over TLS on connections that stay open, and a seal, nothing that was used is left.

use std::sync::Arc;
use std::time::Duration;

use holdfast_tests::process::{descendants, helpers};
use holdfast_tests::{Connection, Running, Setup};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::scan::{Memory, mappings};
use crate::http2::{self, Sender};
use crate::needles::{Needle, Search, forms};

const OLD: usize = 32;
const NEW: usize = 32;

/// Secrets, and the connections that they went over, which stay open.
#[derive(Default)]
struct Used {
    known: Vec<(String, Vec<u8>)>,
    old: Vec<Connection>,
    new: Vec<Sender>,
}

impl Used {
    fn needles(&self) -> Vec<Needle> {
        self.known.iter().flat_map(|(name, secret)| forms(name, secret)).collect()
    }
}

fn random() -> String {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).expect("randomness");
    hex::encode(bytes)
}

/// Requests of one client, over either kind of connection.
trait Ask {
    fn ask(&mut self, method: &str, path: &str, token: &str, body: String)
    -> impl Future<Output = (u16, Value)> + Send;
}

impl Ask for Connection {
    async fn ask(&mut self, method: &str, path: &str, token: &str, body: String) -> (u16, Value) {
        self.request(method, path, &[("X-Vault-Token", token)], body.as_bytes()).expect("sent");
        let reply = self.reply(false).expect("an answer");
        (reply.status, reply.json())
    }
}

impl Ask for Sender {
    async fn ask(&mut self, method: &str, path: &str, token: &str, body: String) -> (u16, Value) {
        http2::ask(self, method, path, token, body.into()).await
    }
}

/// What a client does; the secrets that it used.
async fn work(client: &mut impl Ask, number: usize, root: &str) -> Vec<(String, Vec<u8>)> {
    let mut known = Vec::new();
    let mut keep = |name: String, text: &str| known.push((name, text.as_bytes().to_vec()));
    let policy = format!("memory-{number}");
    let marker = format!("rule-{number}-{}", random());
    let rules =
        format!("path \"secret/*\" {{ capabilities = [\"create\", \"read\", \"update\", \"list\"] }}\n# {marker}");
    let body = json!({ "policy": rules }).to_string();
    assert_eq!(client.ask("POST", &format!("/v1/sys/policies/acl/{policy}"), root, body).await.0, 204);
    keep(format!("policy {number}"), &marker);
    let body = json!({ "policies": [policy], "meta": { "for": "memory" } }).to_string();
    let (status, made) = client.ask("POST", "/v1/auth/token/create", root, body).await;
    assert_eq!(status, 200, "{made}");
    let token = made["auth"]["client_token"].as_str().expect("a token").to_owned();
    keep(format!("token {number}"), &token);
    keep(format!("accessor {number}"), made["auth"]["accessor"].as_str().expect("an accessor"));
    for i in 0..6 {
        // Short and long ones: in one read of a socket, in many, in one TLS record, in several.
        let value = format!("value-{number}-{i}-{}", random());
        let filler = "f".repeat([0, 100, 1000, 9000, 40_000, 300_000][i]);
        keep(format!("value {number}/{i}"), &value);
        let path = format!("/v1/secret/data/memory/{number}/{i}");
        let data = json!({ "data": { "password": value, "filler": filler, "again": format!("{filler}{value}") } });
        assert_eq!(client.ask("POST", &path, &token, data.to_string()).await.0, 200);
        let (status, read) = client.ask("GET", &path, &token, String::new()).await;
        assert_eq!((status, read["data"]["data"]["password"].as_str()), (200, Some(value.as_str())));
        assert_eq!(client.ask("GET", &format!("/v1/sys/policies/acl/{policy}"), root, String::new()).await.0, 200);
        // Ways that fail leave traces of their own.
        let refused = format!("refused-{number}-{i}-{}", random());
        keep(format!("refused value {number}/{i}"), &refused);
        let body = json!({ "data": { "a": refused }, "options": { "cas": 0 } }).to_string();
        assert_eq!(client.ask("POST", &path, &token, body).await.0, 400);
        let malformed = format!("malformed-{number}-{i}-{}", random());
        let body = format!("{{\"data\":{{\"a\":\"{malformed}\",");
        keep(format!("malformed value {number}/{i}"), &malformed);
        assert_eq!(client.ask("POST", &path, &token, body).await.0, 400);
        assert_eq!(client.ask("GET", "/v1/sys/mounts", &token, String::new()).await.0, 403);
        let none = format!("hvs.{}", random());
        keep(format!("unknown token {number}/{i}"), &none);
        assert_eq!(client.ask("GET", &path, &none, String::new()).await.0, 403);
    }
    // Many small ones: each leaves another pattern of calls on the stacks, and a listing opens many names.
    for i in 0..30 {
        let path = format!("/v1/secret/data/small/{number}/{i}");
        let body = json!({ "data": { "a": "b" } }).to_string();
        assert_eq!(client.ask("POST", &path, &token, body).await.0, 200);
        assert_eq!(client.ask("GET", &path, &token, String::new()).await.0, 200);
        let path = format!("/v1/secret/metadata/small/{number}");
        assert_eq!(client.ask("LIST", &path, &token, String::new()).await.0, 200);
    }
    known
}

async fn use_it(running: &Running, config: &Arc<ClientConfig>) -> Used {
    let mut used = Used::default();
    used.known.push(("root token".into(), running.root.token().into()));
    for (i, share) in running.keys.shares.iter().enumerate() {
        used.known.push((format!("share {i}"), hex::decode(share).expect("hex")));
    }
    let mut old = JoinSet::new();
    let mut new = JoinSet::new();
    for number in 0..OLD {
        let (address, config, root) =
            (running.server.listeners[0].clone(), config.clone(), running.keys.root_token.clone());
        old.spawn(async move {
            let mut connection = Connection::open(&address, Some(&config)).expect("a connection");
            let known = work(&mut connection, number, &root).await;
            (connection, known)
        });
    }
    for number in OLD..OLD + NEW {
        let (address, config, root) =
            (running.server.listeners[0].clone(), config.clone(), running.keys.root_token.clone());
        new.spawn(async move {
            let mut sender = http2::connect(&address, &config).await;
            let known = work(&mut sender, number, &root).await;
            (sender, known)
        });
    }
    while let Some(done) = old.join_next().await {
        let (connection, known) = done.expect("no panic");
        used.old.push(connection);
        used.known.extend(known);
    }
    while let Some(done) = new.join_next().await {
        let (sender, known) = done.expect("no panic");
        used.new.push(sender);
        used.known.extend(known);
    }
    used
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_seal_the_memory_of_a_server_with_a_token_holds_nothing_that_was_used() {
    nothing_is_left(Setup::hardware()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_seal_the_memory_of_a_server_with_shares_holds_nothing_that_was_used() {
    nothing_is_left(Setup::shamir()).await;
}

async fn nothing_is_left(setup: Setup) {
    let running = tokio::task::spawn_blocking(move || Running::start(setup)).await.expect("no panic");
    let used = use_it(&running, &running.site.authority.client_config()).await;
    let pid = running.server.pid();

    // While it is unsealed the search must find something, or it searches badly.
    let search = Search::new(used.needles());
    let (before, _) = Memory::of(pid).search(&search);
    assert!(!before.is_empty(), "the search finds nothing in a server at work");
    let keys = keys_in_use(pid);
    assert!(keys.len() >= 2, "root key and data keys are nowhere: {}", keys.len());
    let mut needles = used.needles();
    for (i, key) in keys.iter().enumerate() {
        needles.extend(forms(&format!("key {i} of the arena"), key));
    }
    let search = Search::new(needles);

    let root = running.root.with_token(running.root.token());
    tokio::task::spawn_blocking(move || root.post("sys/seal", json!({})).expect(204)).await.expect("no panic");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let helpers = helpers(pid);
    let mut all = vec![pid];
    all.extend(descendants(pid));
    for process in all {
        let (found, searched) = Memory::of(process).search(&search);
        let what = if process == pid {
            "server"
        } else if helpers.contains(&process) {
            "helper"
        } else {
            "spawner"
        };
        println!(
            "{what}: {} MiB searched for {} secrets and {} keys, {} places",
            searched >> 20,
            used.known.len(),
            keys.len(),
            found.len()
        );
        assert!(searched > 1 << 20, "only {searched} bytes of the {what} could be read");
        let shown = found.iter().take(12).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(found.is_empty(), "{} places in the {what}, the first of them:\n{shown}", found.len());
    }
    // They were open until now.
    drop((used.old, used.new));
}

#[test]
fn after_each_of_many_seals_no_key_is_left_on_any_stack() {
    let running = Running::start(Setup::shamir().without_tls());
    for round in 0..8 {
        std::thread::scope(|scope| {
            for worker in 0..16 {
                let root = running.root.with_token(running.root.token());
                scope.spawn(move || {
                    for i in 0..30 {
                        let path = format!("secret/data/r{round}/w{worker}/{i}");
                        root.post(&path, json!({ "data": { "a": "b".repeat(100) } })).expect(200);
                        root.get(&path).expect(200);
                        root.list(&format!("secret/metadata/r{round}/w{worker}")).expect(200);
                    }
                });
            }
        });
        let pid = running.server.pid();
        let keys = keys_in_use(pid);
        assert!(keys.len() >= 2, "root key and data keys are nowhere: {}", keys.len());
        // A seal ends the connections that there are.
        running.root.with_token(running.root.token()).post("sys/seal", json!({})).expect(204);
        std::thread::sleep(Duration::from_millis(300));
        let needles = keys.iter().enumerate().flat_map(|(i, key)| forms(&format!("key {i} of the arena"), key));
        let (found, _) = Memory::of(pid).search(&Search::new(needles.collect()));
        let shown = found.iter().take(6).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(found.is_empty(), "round {round}: {} places:\n{shown}", found.len());
        for share in &running.keys.shares[..2] {
            running.root.without_token().post("sys/unseal", json!({ "key": share })).expect(200);
        }
    }
}

/// The keys in the server's locked arenas: mappings that are neither dumped nor inherited.
pub(super) fn keys_in_use(pid: u32) -> Vec<Vec<u8>> {
    let memory = Memory::of(pid);
    let arenas: Vec<_> = mappings(pid)
        .into_iter()
        .filter(|m| m.readable && m.writable && m.has("dd") && (m.has("dc") || m.has("wf")))
        .collect();
    assert!(!arenas.is_empty(), "no mapping is kept out of dumps and children");
    let mut keys = Vec::new();
    for arena in arenas {
        let bytes = memory.read(&arena);
        for slot in bytes.chunks(64).filter(|s| s[..32].iter().filter(|b| **b != 0).count() > 16) {
            keys.push(slot[..32].to_vec());
        }
    }
    keys.sort();
    keys.dedup();
    keys
}
