//! A store moves from one storage to another, while no server runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{Output, command, holdfast, run};
use holdfast_tests::{Address, Client, Server, until};

use crate::cluster::nodes::{Nodes, WITHIN};

struct Site {
    folder: tempfile::TempDir,
    ports: (u16, u16),
    share: String,
    root: String,
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn stanza(&self, what: &str, kind: &str, at: &str) -> String {
        let node = if kind == "raft" { "node_id = \"n1\"\n performance_multiplier = 10" } else { "" };
        format!("{what} \"{kind}\" {{\n path = {:?}\n {node}\n}}\n", self.path(at))
    }

    fn start(&self, kind: &str, at: &str) -> Server {
        let (own, members) = self.ports;
        let config = format!(
            "{}listener \"tcp\" {{\n address = \"127.0.0.1:{own}\"\n cluster_address = \"127.0.0.1:{members}\"\n \
             tls_disable = true\n}}\napi_addr = \"http://127.0.0.1:{own}\"\n\
             cluster_addr = \"https://127.0.0.1:{members}\"\ndisable_mlock = true\n",
            self.stanza("storage", kind, at)
        );
        let file = self.path("server.hcl");
        fs::write(&file, config).unwrap();
        let mut server = command(holdfast());
        server.arg("server").arg(format!("-config={}", file.display()));
        let server = Server::start(&mut server, self.folder.path(), 1, None);
        if !self.share.is_empty() {
            let share = json!({"key": self.share});
            until(WITHIN, "an unsealed server", || {
                let status = self.client().try_call("PUT", "sys/unseal", Some(&share)).ok()?;
                (status.json()["sealed"] == false).then_some(())
            });
        }
        server
    }

    fn client(&self) -> Client {
        Client::new(Address::Tcp(([127, 0, 0, 1], self.ports.0).into()), None).with_token(&self.root)
    }

    fn put(&self, path: &str, body: serde_json::Value) {
        until(WITHIN, path, || {
            let written = self.client().try_call("POST", path, Some(&body)).ok()?;
            ([200, 204].contains(&written.status)).then_some(())
        });
    }

    fn value(&self, path: &str) -> serde_json::Value {
        let client = self.client();
        until(WITHIN, path, || client.try_call("GET", path, None).ok().filter(|r| r.status == 200)).at("/data/v")
    }

    fn migrate(&self, from: (&str, &str), to: (&str, &str)) -> Output {
        let address = format!("cluster_addr = \"https://127.0.0.1:{}\"\n", self.ports.1);
        let config = self.stanza("storage_source", from.0, from.1) + &self.stanza("storage_destination", to.0, to.1);
        migrate(&self.path("migrate.hcl"), &(config + &address))
    }
}

fn migrate(file: &Path, config: &str) -> Output {
    fs::write(file, config).unwrap();
    run(command(holdfast()).args(["operator", "migrate"]).arg(format!("-config={}", file.display())))
}

#[test]
fn a_store_goes_from_file_to_raft_and_back_and_what_clients_know_of_it_holds() {
    let folder = tempfile::Builder::new().prefix("holdfast-migrate-").tempdir().unwrap();
    let mut site = Site { folder, ports: (free_port(), free_port()), share: String::new(), root: String::new() };
    let server = site.start("file", "a");
    let made = site.client().call("PUT", "sys/init", Some(&json!({"secret_shares": 1, "secret_threshold": 1})));
    let made = made.expect(200);
    (site.share, site.root) = (made.text_at("/keys/0"), made.text_at("/root_token"));
    site.client().call("PUT", "sys/unseal", Some(&json!({"key": site.share}))).expect(200);
    site.put("sys/mounts/kv", json!({"type": "kv"}));
    let big = "x".repeat(300_000);
    for n in 0..20 {
        site.put(&format!("kv/{n}"), json!({"v": n, "big": big}));
    }
    let written = site.client().post("kv/last", json!({"v": "last"})).expect(204);
    let seen = written.header("x-vault-index").expect("an index").to_owned();
    let said = site.migrate(("file", "a"), ("raft", "b")).bad(2);
    assert!(said.contains("in use"), "{said}");
    // Killed, so that its log is what holds the last of it.
    server.kill();

    let said = site.migrate(("file", "a"), ("raft", "b")).good();
    assert!(said.contains("Success! All of the keys have been migrated."), "{said}");
    let said = site.migrate(("file", "a"), ("raft", "b")).bad(2);
    assert!(said.contains("holds a store already"), "{said}");
    let server = site.start("raft", "b");
    assert_eq!(site.value("kv/last"), "last");
    for n in 0..20 {
        assert_eq!(site.value(&format!("kv/{n}")), n);
    }
    let path = "/v1/kv/last";
    site.client().raw("GET", path, &[("X-Vault-Index", &seen)], b"").expect(200);
    site.put("kv/raft", json!({"v": "raft"}));
    server.kill();

    site.migrate(("raft", "b"), ("file", "c")).good();
    let server = site.start("file", "c");
    for (name, value) in [("last", "last"), ("raft", "raft")] {
        assert_eq!(site.value(&format!("kv/{name}")), value);
    }
    site.put("kv/file", json!({"v": "file"}));
    server.kill();
    // It opens again, and so do those that it came from.
    let server = site.start("file", "c");
    assert_eq!(site.value("kv/file"), "file");
    server.kill();
    let server = site.start("raft", "b");
    assert_eq!(site.value("kv/raft"), "raft");
    drop(server);
}

#[test]
fn what_cannot_be_migrated_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("migrate.hcl");
    let from = |kind: &str, at: &Path| format!("storage_source {kind:?} {{ path = {at:?} }}\n");
    let to = |kind: &str| format!("storage_destination {kind:?} {{ path = {:?} }}\n", folder.path().join("to"));
    let nothing = folder.path().join("nothing");
    for (config, code, says) in [
        (from("file", &nothing), 1, "exactly one \"storage_destination\" block"),
        (to("file"), 1, "exactly one \"storage_source\" block"),
        (from("file", &nothing) + &to("raft"), 2, "cluster_addr"),
        (from("file", &nothing) + &to("file"), 2, "no folder"),
        (from("file", folder.path()) + &to("file"), 2, "holds nothing"),
        (from("raft", folder.path()) + &to("file"), 2, "no store of a cluster's member"),
        (from("inmem", &nothing) + &to("file"), 2, "running server"),
    ] {
        let said = migrate(&file, &config).bad(code);
        assert!(said.contains(says), "{config}: {said}");
    }
    run(command(holdfast()).args(["operator", "migrate"])).bad(1);
    assert!(!folder.path().join("to/state.redb").exists());
}

#[test]
fn one_of_several_members_is_not_migrated_since_others_may_know_more() {
    let mut nodes = Nodes::start(2);
    nodes.until_all_vote();
    nodes.kill(0);
    nodes.kill(1);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "storage_source \"raft\" {{ path = {:?} }}\nstorage_destination \"file\" {{ path = {:?} }}\n",
        nodes.stored(0),
        folder.path().join("to")
    );
    let said = migrate(&folder.path().join("migrate.hcl"), &config).bad(2);
    assert!(said.contains("n1 is a member beside it"), "{said}");
}
