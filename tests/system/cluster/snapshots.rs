//! Snapshots as files: looked at without a server, verified by one, saved and brought back from the command line.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Value, json};

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{Output, command, holdfast, run};
use holdfast_tests::token::Token;
use holdfast_tests::until;

use super::newcomer::Newcomer;
use super::nodes::{Between, Nodes, WITHIN};
use super::own_tokens::until_unsealed;
use super::upgrade::level;

/// A node that may write to a folder.
struct Backups(PathBuf);

impl Between for Backups {
    fn command(&self, _n: usize, _folder: &Path) -> std::process::Command {
        std::process::Command::new(holdfast())
    }

    fn top(&self, _n: usize) -> String {
        format!("confinement {{\n write_paths = [{:?}]\n}}\n", self.0)
    }
}

pub(super) fn snapshot(nodes: &Nodes, args: &[&str], file: &Path) -> Output {
    let mut snapshot = command(holdfast());
    snapshot.args(["operator", "raft", "snapshot"]).args(args).arg(file);
    let address = format!("http://127.0.0.1:{}", nodes.port(0));
    run(snapshot.env("HOLDFAST_ADDR", address).env("HOLDFAST_TOKEN", nodes.root(0).token()))
}

#[test]
fn a_snapshot_is_verified_without_touching_the_store_and_one_that_is_cut_or_changed_or_anothers_is_found_out() {
    let nodes = Nodes::start(1);
    let other = Nodes::start(1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.snap");
    let root = nodes.root(0);
    root.post("sys/mounts/kv", json!({"type": "kv"})).expect(204);
    root.post("kv/a", json!({"v": 1})).expect(204);
    snapshot(&nodes, &["save"], &file).good();
    let written = root.post("kv/b", json!({"v": 2})).expect(204);
    let seen = written.header("x-vault-index").expect("a state").to_owned();
    for name in ["X-Vault-Index", "X-Holdfast-Index"] {
        root.raw("GET", "/v1/kv/b", &[(name, &seen)], b"").expect(200);
        root.raw("GET", "/v1/kv/b", &[(name, "AAAA")], b"").expect(400);
    }

    let inspected =
        run(command(holdfast()).args(["operator", "raft", "snapshot", "inspect", "-format=json"]).arg(&file));
    let inspected = inspected.json();
    assert_eq!(inspected["seal"], "shamir");
    assert!(inspected["entries"].as_u64().unwrap() > 10, "{inspected}");
    let verified = snapshot(&nodes, &["verify", "-format=json"], &file).json();
    assert_eq!((&verified["complete"], &verified["opens"]), (&json!(true), &json!(true)));
    assert_eq!(verified["cluster_id"], inspected["cluster_id"]);
    root.get("kv/b").expect(200);

    let foreign = snapshot(&other, &["verify", "-format=json"], &file).bad(2);
    let foreign: Value = serde_json::from_str(&foreign).unwrap();
    assert_eq!((&foreign["complete"], &foreign["opens"]), (&json!(true), &json!(false)));
    assert!(foreign["reason"].as_str().unwrap().contains("keys"), "{foreign}");

    let whole = fs::read(&file).unwrap();
    let bad = folder.path().join("bad.snap");
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for bytes in [&whole[..whole.len() / 2], &whole[..whole.len() - 1], &changed, b"nothing of the kind"] {
        fs::write(&bad, bytes).unwrap();
        snapshot(&nodes, &["verify"], &bad).bad(2);
        run(command(holdfast()).args(["operator", "raft", "snapshot", "inspect"]).arg(&bad)).bad(2);
        // Nor is it restored, by force or not, and what is there stays and answers.
        for args in [&["restore"][..], &["restore", "-force"]] {
            let said = snapshot(&nodes, args, &bad).bad(2);
            assert!(said.contains("snapshot"), "{said}");
            assert_eq!(root.get("kv/b").expect(200).at("/data/v"), 2);
        }
    }
    snapshot(&nodes, &["restore"], &file).good();
    until(WITHIN, "the store as it was", || {
        let (a, b) = (root.try_call("GET", "kv/a", None).ok()?, root.try_call("GET", "kv/b", None).ok()?);
        (a.status == 200 && b.status == 404).then_some(())
    });
    // A state from before is not one of the store's any more, however far it has come since.
    for n in 0..20 {
        nodes.put(0, &format!("kv/c{n}"), json!({"v": n}));
    }
    for name in ["X-Vault-Index", "X-Holdfast-Index"] {
        assert_eq!(root.raw("GET", "/v1/kv/a", &[(name, &seen)], b"").status, 412, "{name}");
    }
    assert!(!folder.path().join("backup.snap.part").exists());
}

/// The program of the cluster that it comes to would misread it, whoever has the keys.
#[test]
fn a_snapshot_of_a_later_feature_level_is_refused_also_by_force() {
    let given = Nodes::start(1);
    let level = until(WITHIN, "a level that is not the first", || Some(level(&given)).filter(|level| *level > 1));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.snap");
    snapshot(&given, &["save"], &file).good();

    let older = Newcomer::named("older").environment("HOLDFAST_MAX_FEATURE_LEVEL", "1").started();
    let (_, token) = older.initialised();
    let root = older.client().with_token(&token);
    until(WITHIN, "a node that takes a mount", || {
        root.try_call("POST", "sys/mounts/kv", Some(&json!({"type": "kv"}))).ok().filter(|r| r.status == 204)
    });
    root.post("kv/a", json!({"v": 1})).expect(204);
    for force in [&[][..], &["-force"]] {
        let mut restore = command(holdfast());
        restore.args(["operator", "raft", "snapshot", "restore"]).args(force).arg(&file);
        let said = run(restore.env("HOLDFAST_ADDR", older.server().url()).env("HOLDFAST_TOKEN", &token)).bad(2);
        assert!(said.contains(&format!("feature level {level}")) && said.contains("know up to 1"), "{said}");
        assert!(said.contains("Code: 400"), "{said}");
    }
    assert_eq!(root.get("kv/a").expect(200).at("/data/v"), 1);
    // Nor is anything of it left beside the store.
    let left = fs::read_dir(older.data().join("node")).unwrap().filter_map(|f| f.ok()?.file_name().into_string().ok());
    assert_eq!(left.filter(|name| name.contains("restore")).collect::<Vec<_>>(), Vec::<String>::new());
}

/// F060, F062: the members of the cluster stay its own, and so do their identities.
#[test]
fn three_nodes_that_were_given_another_clusters_snapshot_hold_its_data_and_are_themselves() {
    let given = Nodes::start(1);
    given.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    given.put(0, "kv/a", json!({"v": 1}));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.snap");
    snapshot(&given, &["save"], &file).good();

    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    let refused = snapshot(&nodes, &["restore"], &file).bad(2);
    assert!(refused.contains("-force") || refused.contains("with force"), "{refused}");
    let of = given.client(0).get("sys/health").expect(200);
    let (name, id) = (of.text_at("/cluster_name"), of.text_at("/cluster_id"));
    for word in [&name, &id, "shamir", &of.text_at("/version")] {
        assert!(refused.contains(word), "{word} is not said: {refused}");
    }
    snapshot(&nodes, &["restore", "-force"], &file).good();
    for n in 0..3 {
        until(WITHIN, "a sealed node", || {
            let status = nodes.client(n).try_call("GET", "sys/seal-status", None).ok()?;
            (status.json()["sealed"] == true).then_some(())
        });
    }
    // What they wait for is said, also by one that was started meanwhile.
    nodes.kill(2);
    nodes.launch(2);
    let wanted = format!("restored, waiting for the keys of cluster {name:?} ({id})");
    let waits = |n: usize| {
        let status = nodes.client(n).try_call("GET", "sys/seal-status", None).ok()?.json();
        (status["seal_trouble"] == wanted.as_str()).then_some(())
    };
    for n in 0..3 {
        until(WITHIN, &wanted, || waits(n));
    }
    nodes.take_keys_of(&given);
    for n in 0..3 {
        nodes.give_share(n);
    }
    let leader = nodes.until_led();
    for n in 0..3 {
        let root = nodes.root(n);
        let found = until(WITHIN, "an answer", || root.try_call("GET", "kv/a", None).ok().filter(|r| r.status == 200));
        assert_eq!(found.at("/data/v"), 1, "node {n}");
        nodes.put(n, &format!("kv/of-{n}"), json!({"n": n}));
    }
    nodes.until_all_vote();
    let follower = (leader + 1) % 3;
    nodes.kill(follower);
    nodes.launch(follower);
    let sealed = until(WITHIN, "a sealed node", || {
        let status = nodes.client(follower).try_call("GET", "sys/seal-status", None).ok()?.json();
        (status["sealed"] == true).then_some(status)
    });
    assert_eq!(sealed.get("seal_trouble"), None, "what was restored has been opened: {sealed}");
    nodes.give_share(follower);
    nodes.read(follower, "kv/of-0");
}

/// A node that is opened by a share, until it is given a token.
#[derive(Clone)]
struct LaterToken {
    token: Rc<Token>,
    has_it: Rc<Cell<bool>>,
}

impl Between for LaterToken {
    fn command(&self, _n: usize, _folder: &Path) -> std::process::Command {
        let mut server = std::process::Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.token.conf());
        server
    }

    fn seal(&self, _n: usize) -> String {
        if self.has_it.get() { self.token.seal() } else { String::new() }
    }
}

/// The token's cluster is gone with its machine, say: what is left is an archive, and a cluster with shares.
#[test]
fn a_snapshot_of_another_kind_of_seal_is_refused_with_words_and_by_force_waits_for_its_device() {
    let folder = tempfile::tempdir().unwrap();
    let token = Token::make(&folder.path().join("token"));
    let given = Newcomer::named("g").top(token.seal()).environment("SOFTHSM2_CONF", &token.conf().to_string_lossy());
    let given = given.started();
    let made = given.client().call("PUT", "sys/init", Some(&json!({"recovery_shares": 1, "recovery_threshold": 1})));
    let made = made.expect(200);
    given.until_unsealed();
    let root_token = made.text_at("/root_token");
    let root = given.client().with_token(&root_token);
    root.post("sys/mounts/kv", json!({"type": "kv"})).expect(204);
    root.post("kv/a", json!({"v": 1})).expect(204);
    let mut save = command(holdfast());
    let file = folder.path().join("backup.snap");
    save.args(["operator", "raft", "snapshot", "save"]).arg(&file).env("HOLDFAST_ADDR", given.server().url());
    run(save.env("HOLDFAST_TOKEN", &root_token)).good();
    let id = given.client().get("sys/health").text_at("/cluster_id");
    drop(given.kill());

    let site = LaterToken { token: Rc::new(token), has_it: Rc::default() };
    let mut nodes = Nodes::start_with(vec![(free_port(), free_port())], Box::new(site.clone()));
    let refused = snapshot(&nodes, &["restore"], &file).bad(2);
    assert!(refused.contains(&id) && refused.contains("pkcs11"), "{refused}");
    assert_eq!(nodes.is_sealed(0), Some(false));
    snapshot(&nodes, &["restore", "-force"], &file).good();
    let said = until(WITHIN, "a node that says what it waits for", || {
        let status = nodes.client(0).try_call("GET", "sys/seal-status", None).ok()?.json();
        status["seal_trouble"].as_str().map(str::to_owned)
    });
    assert!(said.contains("restored, waiting for the keys of cluster") && said.contains(&id), "{said}");
    assert!(said.contains("sealed by \"pkcs11\"") && said.contains("correct the seal stanza"), "{said}");

    // With its token, and the stanza as the archive's cluster had it, the node opens what was restored, alone.
    site.has_it.set(true);
    nodes.kill(0);
    nodes.launch(0);
    until_unsealed(&nodes, 0);
    let root = nodes.client(0).with_token(&root_token);
    let found =
        until(WITHIN, "a key of the archive", || root.try_call("GET", "kv/a", None).ok().filter(|r| r.status == 200));
    assert_eq!(found.at("/data/v"), 1);
    assert_eq!(nodes.client(0).get("sys/health").text_at("/cluster_id"), id);
    root.post("kv/b", json!({"v": 2})).expect(204);
    // The keys of the cluster that it was open nothing any more.
    assert_eq!(nodes.root(0).get("kv/a").status, 403);
    nodes.kill(0);
    nodes.launch(0);
    until_unsealed(&nodes, 0);
    let status = nodes.client(0).get("sys/seal-status").expect(200).json();
    assert_eq!(status.get("seal_trouble"), None, "{status}");
}

#[test]
fn what_a_server_that_was_killed_has_left_of_a_restore_is_removed_at_its_start() {
    let mut nodes = Nodes::start(1);
    nodes.kill(0);
    let left = nodes.stored(0).join("node/restore-0123456789abcdef");
    fs::write(&left, "a part of an archive").unwrap();
    nodes.start_again(0);
    nodes.until_led();
    assert!(!left.exists());
}

#[test]
fn snapshots_that_are_made_by_themselves_are_proven_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = Nodes::start_with(vec![(free_port(), free_port())], Box::new(Backups(folder.path().to_owned())));
    let root = nodes.root(0);
    let plan = |path: &Path| {
        json!({"interval": "1s", "retain": 2, "storage_type": "local", "path_prefix": path, "file_prefix": "b",
               "local_max_space": 100_000_000})
    };
    let config = "sys/storage/raft/snapshot-auto/config/daily";
    for wrong in [
        json!({}),
        json!({"interval": "1s", "storage_type": "aws-s3", "path_prefix": "/x", "local_max_space": 1}),
        json!({"interval": "1s", "storage_type": "local", "path_prefix": "relative", "local_max_space": 1}),
        json!({"interval": 0, "storage_type": "local", "path_prefix": "/x", "local_max_space": 1}),
    ] {
        root.post(config, wrong).refused(400);
    }
    // Where the server's own rules let it write nothing (a kernel without Landlock lets it write everywhere) the plan is
    // kept, with a warning.
    let outside = tempfile::tempdir().unwrap();
    let foreign = root.post(config, plan(&outside.path().join("b")));
    match foreign.status {
        200 => assert!(foreign.text_at("/warnings/0").contains("write_paths"), "{}", foreign.text()),
        _ => drop(foreign.expect(204)),
    }
    root.delete(config).expect(204);
    root.get(config).expect(404);
    assert_eq!(nodes.client(0).get("sys/health").expect(200).json().get("last_proven_backup_age_secs"), None);
    // A target that cannot be written is said, and tried again.
    let file = folder.path().join("a-file");
    fs::write(&file, "").unwrap();
    root.post(config, plan(&file)).expect(204);
    let status = "sys/storage/raft/snapshot-auto/status/daily";
    until(WITHIN, "an error", || {
        let status = root.get(status).expect(200);
        (status.at("/data/consecutive_errors").as_u64()? > 0 && !status.text_at("/data/last_snapshot_error").is_empty())
            .then_some(())
    });
    // Whoever watches is told that there is none.
    assert_eq!(nodes.client(0).get("sys/health").expect(200).json()["last_proven_backup_age_secs"], Value::Null);
    assert!(nodes.client(0).get("sys/health").text().contains("last_proven_backup_age_secs"));
    let target = folder.path().join("snapshots");
    root.post(config, json!({"path_prefix": target})).expect(204);
    assert_eq!(root.get(config).expect(200).at("/data/interval"), 1);
    assert_eq!(root.list("sys/storage/raft/snapshot-auto/config").expect(200).at("/data/keys/0"), "daily");
    let names = || {
        let files = fs::read_dir(&target).ok()?;
        let mut names: Vec<_> = files.filter_map(|f| f.ok()?.file_name().into_string().ok()).collect();
        names.retain(|n| n.ends_with(".snap"));
        names.sort();
        Some(names)
    };
    let first = until(WITHIN, "a snapshot", || names()?.first().cloned());
    until(WITHIN, "the first one is let go", || (!names()?.contains(&first) && names()?.len() == 2).then_some(()));
    let proven = root.get(status).expect(200);
    assert_eq!((proven.at("/data/consecutive_errors"), proven.at("/data/last_snapshot_error")), (json!(0), json!("")));
    assert!(proven.at("/data/last_proven_age_seconds").as_u64().is_some_and(|age| age < 3600), "{}", proven.text());
    assert!(proven.text_at("/data/last_snapshot_url").starts_with("file:///"));
    until(WITHIN, "its age in the health", || {
        let health = nodes.client(0).try_call("GET", "sys/health", None).ok()?.json();
        health["last_proven_backup_age_secs"].as_u64().filter(|age| *age < 3600)
    });
    root.delete(config).expect(204);
    root.get(status).expect(404);
    let last = until(WITHIN, "no more of them", || names()?.last().cloned());
    assert_eq!(snapshot(&nodes, &["verify", "-format=json"], &target.join(last)).json()["opens"], true);
}
