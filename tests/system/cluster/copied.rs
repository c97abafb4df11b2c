//! A copy of a member's folder, or of its machine, that is started beside the member: one key, two processes.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::{Address, Client, Reply, Server, until};

use super::nodes::{Nodes, WITHIN};

/// A member's folder as it was at one moment, and a server that has it.
struct Copied {
    server: Option<Server>,
    folder: TempDir,
    port: u16,
}

impl Copied {
    /// Of a member that does not run.
    fn of(nodes: &Nodes, n: usize) -> Copied {
        let folder = tempfile::Builder::new().prefix("holdfast-copy-").tempdir().expect("a temporary folder");
        let (data, own) = (nodes.stored(n), nodes.stored(n));
        let own = own.parent().expect("a node's folder");
        copy_all(&data, &folder.path().join("data"));
        let (port, members) = (free_port(), free_port());
        let config = fs::read_to_string(own.join("config.hcl")).expect("its configuration");
        let config = config
            .replace(&own.display().to_string(), &folder.path().display().to_string())
            .replace(&format!("127.0.0.1:{}", nodes.port(n)), &format!("127.0.0.1:{port}"))
            .replace(&format!("127.0.0.1:{}", nodes.member_port(n)), &format!("127.0.0.1:{members}"));
        fs::write(folder.path().join("config.hcl"), config).unwrap();
        Copied { server: None, folder, port }
    }

    fn launch(&mut self) {
        let mut command = Command::new(holdfast());
        command.current_dir(self.folder.path()).arg("server").arg("-config=config.hcl");
        self.server = Some(Server::launch(&mut command, self.folder.path(), None));
    }

    fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
    }

    fn client(&self) -> Client {
        Client::new(Address::Tcp(([127, 0, 0, 1], self.port).into()), None)
    }

    fn unseal(&self, nodes: &Nodes) {
        let share = json!({"key": nodes.share()});
        until(WITHIN, "a copy that takes the share", || {
            self.client().try_call("PUT", "sys/unseal", Some(&share)).ok().filter(|r| r.status == 200)
        });
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).expect("a folder") {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).expect("an entry");
        match path.is_dir() {
            true => copy_all(&path, &to.join(name)),
            false => drop(fs::copy(&path, to.join(name)).expect("a file")),
        }
    }
}

fn until_troubled(client: &Client, by: &str) -> Reply {
    until(WITHIN, by, || {
        let health = client.try_call("GET", "sys/health", None).ok()?;
        health.json()["cluster_trouble"].as_str().is_some_and(|t| t.contains(by)).then_some(health)
    })
}

#[test]
fn a_copy_of_a_members_folder_is_refused_beside_it_and_says_so() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let leader = nodes.until_led();
    let (n, third) = ((leader + 1) % 3, (leader + 2) % 3);
    nodes.kill(n);
    let mut copy = Copied::of(&nodes, n);
    nodes.start_again(n);
    nodes.until_all_vote();

    copy.launch();
    copy.unseal(&nodes);
    let health = until_troubled(&copy.client(), "this one is a copy of its folder");
    assert_eq!(health.status, 503, "{}", health.text());
    let own = format!("127.0.0.1:{}", nodes.member_port(n));
    assert!(health.text_at("/cluster_trouble").contains(&own), "{}", health.text());
    copy.server.as_ref().expect("it runs").until_logged("this one is a copy of its folder");
    let root = nodes.root(n);
    let at_copy = copy.client().with_token(root.token());
    for (method, path, body) in
        [("GET", "kv/a", None), ("POST", "kv/late", Some(json!({"v": 1}))), ("GET", "auth/token/lookup-self", None)]
    {
        let said = at_copy.call(method, path, body.as_ref()).refused(503);
        assert!(said.contains("is a copy of its folder"), "{method} {path}: {said}");
    }
    let name = format!("two processes run with the key of the node \"n{n}\"");
    until_troubled(&nodes.client(leader), &name);
    nodes.server(leader).until_logged("a second process has the key of this member");

    // The member is counted, and the copy is not: of three, two are left.
    assert!(nodes.client(n).get("sys/health").json()["cluster_trouble"].is_null());
    nodes.kill(third);
    nodes.put(n, "kv/b", json!({"v": 2}));
    assert_eq!(nodes.read(n, "kv/b").at("/data/v"), 2);
    nodes.start_again(third);

    // Nor does the copy slip in while the member is started again.
    nodes.kill(n);
    nodes.put(third, "kv/c", json!({"v": 3}));
    nodes.start_again(n);
    assert_eq!(nodes.read(n, "kv/c").at("/data/v"), 3);
    nodes.until_all_vote();
    let said = at_copy.call("GET", "kv/a", None).refused(503);
    assert!(said.contains("is a copy of its folder"), "{said}");

    // The member is gone: a copy that is started then is the node. It has less than the node has confirmed.
    let leader = nodes.until_led();
    nodes.put(leader, "kv/d", json!({"v": 4}));
    until(WITHIN, "a member that has all", || {
        let state = nodes.root(leader).try_call("GET", "sys/storage/raft/autopilot/state", None).ok()?.json();
        let last = |n: usize| state["data"]["servers"][format!("n{n}")]["last_index"].as_u64();
        (last(n)? >= last(leader)?).then_some(())
    });
    nodes.kill(n);
    copy.kill();
    copy.launch();
    until(WITHIN, "a leader that notices what the copy lacks", || {
        if nodes.led_now() != Some(leader) {
            // Another one, which counts on nothing yet.
            return nodes.led_now().map(drop);
        }
        let health = nodes.client(leader).try_call("GET", "sys/health", None).ok()?.json();
        let trouble = health["cluster_trouble"].as_str()?;
        (trouble.contains("earlier copy of its store") && trouble.contains(&format!("\"n{n}\""))).then_some(())
    });
    nodes.put(third, "kv/e", json!({"v": 5}));
    copy.kill();

    // And the member is again when it is back.
    nodes.start_again(n);
    nodes.until_all_vote();
    for (key, value) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
        assert_eq!(nodes.read(n, &format!("kv/{key}")).at("/data/v"), value);
    }
    until(WITHIN, "no trouble any more", || {
        let health = nodes.client(nodes.led_now()?).try_call("GET", "sys/health", None).ok()?.json();
        health["cluster_trouble"].is_null().then_some(())
    });
}
