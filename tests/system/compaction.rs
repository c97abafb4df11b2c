//! A store gives its room back: of a running server, killed in the middle of it, and of a stopped one.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Running, Server, Setup, until};
use serde_json::json;

const SECRETS: usize = 300;

fn text(i: usize) -> String {
    format!("{i:04}").repeat(10_000)
}

/// Twelve megabytes were written, and one is left. A checkpoint has it all.
fn filled() -> Running {
    filled_again(Running::start(Setup::shamir().without_tls()))
}

fn filled_again(running: Running) -> Running {
    running.root.post("sys/mounts/old", json!({ "type": "kv" })).expect(204);
    for i in 0..SECRETS {
        let mount = if i % 12 == 0 { "secret/data" } else { "old" };
        let data = if i % 12 == 0 { json!({ "data": { "v": text(i) } }) } else { json!({ "v": text(i) }) };
        running.root.post(&format!("{mount}/{i}"), data);
    }
    running.root.delete("sys/mounts/old").expect(204);
    until(Duration::from_secs(20), "the end of the clean-up", || {
        running.root.get("sys/jobs").at("/data/jobs").as_array().is_some_and(Vec::is_empty).then_some(())
    });
    running.restart(|s| drop(s.stop()))
}

// Field log F069: what is deleted gives its room to what is written next, without a hand.
#[test]
fn a_store_that_is_filled_and_emptied_again_and_again_does_not_grow() {
    // The file grows by doubling: the second round may need its next size, and no later one does.
    let mut running = filled_again(filled());
    let second = size(&running);
    for round in 3..=5 {
        running = filled_again(running);
        let now = size(&running);
        assert!(now <= second + second / 8, "{second} bytes after the second round, {now} after round {round}");
    }
    all_is_there(&running);
}

fn all_is_there(running: &Running) {
    for i in (0..SECRETS).step_by(12) {
        assert_eq!(running.root.get(&format!("secret/data/{i}")).expect(200).at("/data/data/v"), text(i));
    }
}

fn state_file(running: &Running) -> PathBuf {
    running.site.store().join("state.redb")
}

fn size(running: &Running) -> u64 {
    fs::metadata(state_file(running)).expect("a state file").len()
}

#[test]
fn operator_compact_shrinks_the_store_of_a_running_server() {
    let running = filled();
    let before = size(&running);
    let mut command = running.site.cli(&holdfast(), &running.server, &running.keys.root_token);
    let said = run(command.args(["operator", "compact"])).good();
    assert!(said.contains("Success!") && said.contains("KiB"), "{said}");
    let after = size(&running);
    assert!(after < before / 3, "{before} bytes before, {after} after");
    running.server.until_logged("the store is being compacted");
    running.server.until_logged("the store was compacted");
    let metrics = running.root.get("sys/metrics?format=prometheus").expect(200).text();
    for line in ["holdfast_storage_compactions 1", "holdfast_storage_compaction_running 0"] {
        assert!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
    let value = |name: &str| metrics.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok());
    assert_eq!(value("holdfast_storage_file_bytes "), Some(after as f64));
    assert!(value("holdfast_storage_compaction_saved_bytes ") > Some(0.0), "{metrics}");
    all_is_there(&running);
    running.root.post("secret/data/new", json!({ "data": { "x": "y" } })).expect(200);
    let running = running.restart(Server::kill);
    all_is_there(&running);
    running.root.get("secret/data/new").expect(200);
    let mut nobody = running.site.cli(&holdfast(), &running.server, "hvs.unknown");
    let refused = run(nobody.args(["operator", "compact"])).bad(2);
    assert!(refused.contains("permission denied"), "{refused}");
}

#[test]
fn a_server_that_is_killed_while_it_compacts_loses_nothing() {
    for wait_ms in [0, 5, 20, 60, 200] {
        let running = filled();
        running.root.post("sys/storage/compact", json!({})).expect(200);
        std::thread::sleep(Duration::from_millis(wait_ms));
        running.root.post("secret/data/new", json!({ "data": { "x": "y" } })).expect(200);
        let running = running.restart(Server::kill);
        all_is_there(&running);
        running.root.get("secret/data/new").expect(200);
        assert!(!running.site.store().join("state.redb.copy").exists());
    }
}

#[test]
fn operator_compact_with_a_configuration_shrinks_the_store_of_a_stopped_server() {
    let running = filled();
    let before = size(&running);
    let config = format!("-config={}", running.site.config_file().display());
    let compact = || run(command(holdfast()).args(["operator", "compact", &config]));
    let refused = compact().bad(2);
    assert!(refused.contains("in use by another process"), "{refused}");
    let Running { server, root, keys, site } = running;
    server.stop();
    let server = Server::launch(&mut command("true"), site.folder(), None);
    let running = Running { server, root, keys, site };
    let said = compact().good();
    assert!(said.contains("Success!"), "{said}");
    assert!(size(&running) < before / 3);
    let running = running.restart(drop);
    all_is_there(&running);
}
