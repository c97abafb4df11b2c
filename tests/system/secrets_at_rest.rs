//! Whoever steals the disk learns nothing: store files, audit log and server log are searched for everything
//! that was used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Client, Running, Server, Setup, until};
use serde_json::json;

use crate::cluster::nodes::{Audited, Between, Nodes, WITHIN};
use crate::needles::{Needle, Search, forms};

/// What was used.
#[derive(Default)]
struct Known {
    /// Tokens, accessors, values: in no file at all.
    secrets: Vec<Needle>,
    /// Names of paths, policies, mounts and metadata: not in the store.
    names: Vec<Needle>,
}

fn random() -> String {
    let mut bytes = [0; 10];
    getrandom::fill(&mut bytes).expect("randomness");
    hex::encode(bytes)
}

impl Known {
    fn secret(&mut self, what: &str) -> String {
        let text = format!("{what}-{}", random());
        self.secrets.extend(forms(&text, text.as_bytes()));
        text
    }

    fn name(&mut self, what: &str) -> String {
        let text = format!("{what}-{}", random());
        self.names.extend(forms(&text, text.as_bytes()));
        text
    }

    fn given(&mut self, what: &str, text: &str) {
        self.secrets.extend(forms(what, text.as_bytes()));
        // The part behind the prefix alone is as good.
        if let Some((_, rest)) = text.split_once('.') {
            self.secrets.extend(forms(&format!("{what} without its prefix"), rest.as_bytes()));
        }
    }
}

#[test]
fn store_audit_log_and_server_log_hold_no_secret() {
    let running = Running::start(Setup::hardware().with_top("log_level = \"trace\""));
    let mut known = Known::default();
    known.given("root token", running.root.token());
    for share in &running.keys.shares {
        known.secrets.extend(forms("recovery share", &hex::decode(share).expect("hex")));
    }
    use_everything(&running.root, &mut known);
    let log = running.server.log();

    // As a crash leaves the store, and as an orderly end does.
    let running = running.restart(Server::kill);
    search_store(&running, &known, "after kill -9");
    use_everything(&running.root, &mut known);
    running.root.post("sys/rotate/keyring", json!({})).expect(204);
    use_everything(&running.root, &mut known);
    let logs = log + &running.server.log();
    let Running { server, site, .. } = running;
    server.stop();
    search_files(&site.store(), known.secrets.iter().chain(&known.names), "the store after its end");

    let audit = fs::read(site.audit_file()).expect("the audit log");
    assert!(audit.len() > 10_000, "the audit log is short");
    let search = Search::new(copies(known.secrets.iter()));
    let found = search.find(&audit);
    assert!(found.is_empty(), "in the audit log: {:?}", &found[..found.len().min(5)]);
    // The contract leaves names in the clear there: a search that finds none of them is broken.
    let clear = Search::new(copies(known.names.iter()));
    let clear = clear.find(&audit);
    assert!(clear.len() > 100, "only {} names in the audit log", clear.len());
    let found = search.find(logs.as_bytes());
    assert!(found.is_empty(), "in the server's log: {:?}", &found[..found.len().min(5)]);
}

fn search_store(running: &Running, known: &Known, when: &str) {
    search_files(&running.site.store(), known.secrets.iter().chain(&known.names), when);
}

fn search_files<'n>(store: &Path, needles: impl Iterator<Item = &'n Needle>, when: &str) {
    let search = Search::new(copies(needles));
    let mut searched = Vec::new();
    search_folder(store, &search, when, &mut searched);
    assert!(searched.iter().any(|n| n.starts_with("log-")) && searched.contains(&"state.redb".into()), "{searched:?}");
}

/// With the folders below it; `searched` gets the names of what is there.
fn search_folder(folder: &Path, search: &Search, when: &str, searched: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            search_folder(&path, search, when, searched);
            continue;
        }
        let bytes = fs::read(&path).expect("a file");
        let found = search.find(&bytes);
        assert!(found.is_empty(), "{when}, in {}: {:?}", path.display(), &found[..found.len().min(5)]);
        searched.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        let name = search.find(searched.last().expect("one").as_bytes());
        assert!(name.is_empty(), "a file is called by a secret: {searched:?}");
    }
}

/// Three members whose logs are so short that who was away gets a snapshot, and which may write backups to a folder.
struct ShortLogs(PathBuf);

impl Between for ShortLogs {
    fn command(&self, n: usize, folder: &Path) -> Command {
        Audited.command(n, folder)
    }

    fn finds(&self, n: usize, others: &[u16]) -> String {
        format!("trailing_logs = 16\nsnapshot_threshold = 32\n{}", Audited.finds(n, others))
    }

    fn top(&self, n: usize) -> String {
        format!("log_level = \"trace\"\nconfinement {{\n write_paths = [{:?}]\n}}\n{}", self.0, Audited.top(n))
    }
}

#[test]
fn nodes_of_a_cluster_their_logs_and_their_snapshots_hold_no_secret() {
    let backups = tempfile::tempdir().expect("a folder");
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(ShortLogs(backups.path().to_owned())));
    nodes.until_all_vote();
    let mut known = Known::default();
    known.given("root token", nodes.root(0).token());
    known.secrets.extend(forms("share", &hex::decode(nodes.share()).expect("hex")));
    // One is away meanwhile, and gets a snapshot for it.
    let active = nodes.until_led();
    let away = (active + 1) % 3;
    let state = nodes.read(active, "sys/storage/raft/autopilot/state");
    let had = state.at(&format!("/data/servers/n{away}/last_index")).as_u64().expect("a number");
    nodes.kill(away);
    use_everything(&nodes.root(active), &mut known);
    nodes.put(active, "sys/rotate/keyring", json!({}));
    until(WITHIN, "a log that has forgotten what it needs", || {
        nodes.put(active, "sys/policies/acl/more", json!({ "policy": "path \"x\" { capabilities = [\"read\"] }" }));
        let forgotten = fs::read(nodes.stored(active).join("purged")).ok()?;
        (u64::from_le_bytes(forgotten[16..24].try_into().ok()?) > had + 1).then_some(())
    });
    nodes.start_again(away);
    until(WITHIN, "a snapshot that was taken over", || {
        nodes.server(away).log().contains("a snapshot comes from the leader").then_some(())
    });
    let plan = json!({"interval": "1s", "retain": 2, "storage_type": "local", "path_prefix": backups.path(),
                      "file_prefix": "b", "local_max_space": 100_000_000});
    nodes.put(active, "sys/storage/raft/snapshot-auto/config/often", plan);
    until(WITHIN, "a backup that is proven", || {
        let status = "sys/storage/raft/snapshot-auto/status/often";
        let status = nodes.root(nodes.led_now()?).try_call("GET", status, None).ok()?.json();
        status["data"]["last_proven_age_seconds"].as_u64().map(drop)
    });
    // What nodes that stand by have read themselves, and what they have passed on.
    for n in 0..3 {
        let field = known.secret("through");
        nodes.put(n, "sys/mounts/through", json!({"type": "kv"}));
        nodes.put(n, &format!("through/{n}"), json!({ "v": field }));
        assert_eq!(nodes.read(n, &format!("through/{n}")).at("/data/v"), field);
    }
    let saved = backups.path().join("saved.snap");
    let mut save = command(holdfast());
    save.args(["operator", "raft", "snapshot", "save"]).arg(&saved).env("HOLDFAST_ADDR", nodes.url(0));
    run(save.env("HOLDFAST_TOKEN", nodes.root(0).token())).good();

    let search = Search::new(copies(known.secrets.iter().chain(&known.names)));
    let secrets = Search::new(copies(known.secrets.iter()));
    for n in 0..3 {
        let log = nodes.server(n).log();
        let found = secrets.find(log.as_bytes());
        assert!(found.is_empty(), "in the log of node {n}: {:?}", &found[..found.len().min(5)]);
        nodes.kill(n);
        let audit = fs::read(nodes.audit_log(n)).expect("an audit log");
        assert!(secrets.find(&audit).is_empty(), "in the audit log of node {n}");
        let mut searched = Vec::new();
        search_folder(&nodes.stored(n), &search, &format!("node {n}"), &mut searched);
        for part in ["state.redb", "vote", "purged", "key.pem", "id"] {
            assert!(searched.iter().any(|name| name == part), "node {n} has no {part}: {searched:?}");
        }
        assert!(searched.iter().any(|name| name.starts_with("log-")), "{searched:?}");
    }
    let mut archives = Vec::new();
    for entry in fs::read_dir(backups.path()).expect("a folder") {
        let path = entry.expect("a file").path();
        let packed = fs::read(&path).expect("an archive");
        assert!(packed.starts_with(&[0x1f, 0x8b]), "{} is no gzip", path.display());
        let mut unpack = command("gzip");
        unpack.arg("-dc").arg(&path).stdin(Stdio::null()).stderr(Stdio::inherit());
        let unpacked = unpack.output().expect("gzip").stdout;
        assert!(unpacked.len() > 20_000, "{} bytes in {}", unpacked.len(), path.display());
        for bytes in [&packed, &unpacked] {
            let found = search.find(bytes);
            assert!(found.is_empty(), "in {}: {:?}", path.display(), &found[..found.len().min(5)]);
        }
        archives.push(path);
    }
    assert!(archives.len() > 1 && archives.contains(&saved), "{archives:?}");
}

fn copies<'n>(needles: impl Iterator<Item = &'n Needle>) -> Vec<Needle> {
    needles.map(|n| Needle { name: n.name.clone(), bytes: n.bytes.clone() }).collect()
}

/// Every route that takes or gives a secret, also in ways that fail.
fn use_everything(root: &Client, known: &mut Known) {
    let mount = known.name("mount");
    root.post(
        &format!("sys/mounts/{mount}"),
        json!({ "type": "kv", "options": { "version": "2" }, "description": known.name("description") }),
    )
    .expect(204);
    for i in 0..20 {
        let path = format!("{}/{}", known.name("folder"), known.name("leaf"));
        let data = json!({
            known.name("field"): known.secret("value"),
            "nested": { "list": [known.secret("item"), 5], "long": known.secret(&"long".repeat(1 + i * 50)) },
        });
        let data_path = format!("{mount}/data/{path}");
        root.post(&data_path, json!({ "data": data })).expect(200);
        root.post(&data_path, json!({ "data": { "b": known.secret("later") }, "options": { "cas": 1 } })).expect(200);
        root.post(&data_path, json!({ "data": { "b": known.secret("refused") }, "options": { "cas": 1 } })).expect(400);
        root.get(&data_path).expect(200);
        root.get(&format!("{data_path}?version=1")).expect(200);
        let metadata = json!({ "custom_metadata": { known.name("key"): known.secret("custom") } });
        root.post(&format!("{mount}/metadata/{path}"), metadata).expect(204);
        root.get(&format!("{mount}/metadata/{path}")).expect(200);
        root.list(&format!("{mount}/metadata")).expect(200);
    }
    let policy = known.name("policy");
    let rules =
        format!("path \"{mount}/data/*\" {{ capabilities = [\"create\", \"read\"] }} # {}", known.secret("comment"));
    root.post(&format!("sys/policies/acl/{policy}"), json!({ "policy": rules })).expect(204);
    root.get(&format!("sys/policies/acl/{policy}")).expect(200);
    for _ in 0..10 {
        let body = json!({ "policies": [policy, "default"], "display_name": known.name("shown"),
            "meta": { known.name("label"): known.name("labelled") }, "ttl": "1h" });
        let made = root.post("auth/token/create", body).expect(200);
        let (token, accessor) = (made.text_at("/auth/client_token"), made.text_at("/auth/accessor"));
        known.given("token", &token);
        known.given("accessor", &accessor);
        let own = root.with_token(&token);
        own.get("auth/token/lookup-self").expect(200);
        own.post(&format!("{mount}/data/{}", known.name("own")), json!({ "data": { "v": known.secret("own") } }))
            .expect(200);
        own.get(&format!("elsewhere/data/{}", known.name("denied"))).expect(403);
        own.post("auth/token/renew-self", json!({ "increment": "2h" })).expect(200);
        root.post("auth/token/lookup", json!({ "token": token })).expect(200);
        root.post("auth/token/lookup-accessor", json!({ "accessor": accessor })).expect(200);
        root.list("auth/token/accessors").expect(200);
        root.post("auth/token/revoke-accessor", json!({ "accessor": accessor })).expect(204);
        own.get("auth/token/lookup-self").expect(403);
    }
    for _ in 0..5 {
        let body = json!({ known.name("wrapped-field"): known.secret("wrapped") }).to_string();
        let wrapped =
            root.raw("POST", "/v1/sys/wrapping/wrap", &[("X-Vault-Wrap-TTL", "5m")], body.as_bytes()).expect(200);
        let token = wrapped.text_at("/wrap_info/token");
        known.given("wrapping token", &token);
        known.given("its accessor", &wrapped.text_at("/wrap_info/accessor"));
        root.post("sys/wrapping/unwrap", json!({ "token": token })).expect(200);
        root.post("sys/wrapping/unwrap", json!({ "token": token })).expect(400);
    }
    // Tokens that are none are no business of a log either: people paste passwords.
    let pasted = known.secret("pasted");
    root.with_token(&pasted).get("auth/token/lookup-self").expect(403);
    root.post("auth/token/lookup", json!({ "token": pasted })).refused(403);
    root.post("auth/token/revoke", json!({ "token": known.secret("pasted") }));
    root.post("auth/token/create", json!({ "id": known.secret("chosen"), "policies": ["default"] })).expect(200);
    let malformed = format!("{{\"data\": {{\"a\": \"{}\"", known.secret("malformed"));
    root.raw("POST", &format!("/v1/{mount}/data/x"), &[], malformed.as_bytes()).expect(400);
    root.post(&format!("{mount}/data/x"), json!({ "data": known.secret("wrong-type") })).expect(400);
    root.post(&format!("{mount}/data/x"), json!({ "data": { "a": known.secret("large").repeat(60_000) } })).expect(413);
}
