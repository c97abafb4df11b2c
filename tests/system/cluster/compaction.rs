//! The store's file gets smaller on a member that is active and serves, and on one that is stopped.

use std::fs;

use serde_json::json;

use holdfast_tests::program::{Output, command, holdfast, run};
use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

/// What is left of 12 MB.
const LEFT: usize = 20;

fn value(n: usize) -> String {
    format!("{n:04}").repeat(10_000)
}

fn filled() -> Nodes {
    let nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kept", json!({"type": "kv"}));
    nodes.put(0, "sys/mounts/old", json!({"type": "kv"}));
    let active = nodes.until_led();
    for n in 0..300 {
        nodes.put(active, &format!("old/{n}"), json!({ "v": value(n) }));
    }
    for n in 0..LEFT {
        nodes.put(active, &format!("kept/{n}"), json!({ "v": value(n) }));
    }
    until(WITHIN, "a mount that is gone", || {
        let gone = nodes.root(nodes.led_now()?).try_call("DELETE", "sys/mounts/old", None).ok()?;
        [204, 404].contains(&gone.status).then_some(())
    });
    until(WITHIN, "the end of the clean-up", || {
        let jobs = nodes.root(nodes.led_now()?).try_call("GET", "sys/jobs", None).ok()?.json();
        jobs["data"]["jobs"].as_array()?.is_empty().then_some(())
    });
    nodes
}

fn size(nodes: &Nodes, n: usize) -> u64 {
    fs::metadata(nodes.stored(n).join("state.redb")).expect("a state file").len()
}

fn all_is_there(nodes: &Nodes) {
    for n in 0..LEFT {
        assert_eq!(nodes.read(n % 3, &format!("kept/{n}")).at("/data/v"), value(n));
    }
}

/// `operator compact` with the configuration of a member.
fn compact(nodes: &Nodes, n: usize) -> Output {
    let config = nodes.stored(n).with_file_name("config.hcl");
    run(command(holdfast()).args(["operator", "compact"]).arg(format!("-config={}", config.display())))
}

#[test]
fn a_member_is_compacted_while_it_leads_and_another_while_it_is_stopped_and_a_kill_in_the_middle_loses_nothing() {
    let mut nodes = filled();
    let active = nodes.until_led();
    let before = size(&nodes, active);
    nodes.root(active).post("sys/storage/compact", json!({})).expect(200);
    // Writes go on meanwhile.
    let mut written = 0;
    until(WITHIN, "the end of a compaction", || {
        nodes.put(written % 3, &format!("kept/meanwhile-{written}"), json!({ "n": written }));
        written += 1;
        let now = nodes.root(active).try_call("GET", "sys/storage/compact", None).ok()?.json();
        assert_ne!(now["data"]["phase"], "failed", "{now}");
        (now["data"]["phase"] == "done").then_some(())
    });
    let after = size(&nodes, active);
    assert!(after < before / 3, "{before} bytes before, {after} after");
    all_is_there(&nodes);
    for n in 0..written {
        assert_eq!(nodes.read(n % 3, &format!("kept/meanwhile-{n}")).at("/data/n"), n);
    }

    // A member that stands by: stopped, while the others serve.
    let standby = (nodes.until_led() + 1) % 3;
    let refused = compact(&nodes, standby).bad(2);
    assert!(refused.contains("in use by another process"), "{refused}");
    let before = size(&nodes, standby);
    nodes.kill(standby);
    let said = compact(&nodes, standby).good();
    assert!(said.contains("Success!"), "{said}");
    assert!(size(&nodes, standby) < before / 3, "{before} bytes before, {} after", size(&nodes, standby));
    nodes.put(active, "kept/while-it-was-away", json!({ "n": 1 }));
    nodes.start_again(standby);
    nodes.read(standby, "kept/while-it-was-away");

    // While it stands by: asked by its name, through any node.
    let standby = (nodes.until_led() + 1) % 3;
    nodes.ask(standby, "sys/mounts/old", json!({"type": "kv"}), 204);
    for n in 0..100 {
        nodes.put(active, &format!("old/{n}"), json!({ "v": value(n) }));
    }
    until(WITHIN, "a mount that is gone", || {
        let gone = nodes.root(nodes.led_now()?).try_call("DELETE", "sys/mounts/old", None).ok()?;
        [204, 404].contains(&gone.status).then_some(())
    });
    let (leads, before) = (nodes.until_led(), size(&nodes, standby));
    let leaders = size(&nodes, leads);
    let named = format!("-node=n{standby}");
    let mut asks = command(holdfast());
    asks.args(["operator", "compact", &named]).env("VAULT_ADDR", nodes.url(standby));
    let said = run(asks.env("VAULT_TOKEN", nodes.root(standby).token())).good();
    assert!(said.contains("Success!"), "{said}");
    assert!(size(&nodes, standby) < before, "{before} bytes before, {} after", size(&nodes, standby));
    assert!(size(&nodes, leads) >= leaders, "the active node's own file stays as it is");
    nodes.put(standby, "kept/while-it-stood-by", json!({ "n": 1 }));
    nodes.read(standby, "kept/while-it-stood-by");
    let unknown = nodes.root(leads).post("sys/storage/compact", json!({"node": "n9"})).refused(400);
    assert!(unknown.contains("no member is called"), "{unknown}");
    nodes.kill(standby);
    let away = nodes.ask(leads, "sys/storage/compact", json!({"node": format!("n{standby}")}), 503);
    assert!(away.text().contains(&format!("the node n{standby} was not asked")), "{}", away.text());
    nodes.start_again(standby);
    nodes.until_all_vote();

    // Killed in the middle of the next one, on the one that leads.
    let leader = nodes.until_led();
    nodes.ask(leader, "sys/storage/compact", json!({}), 200);
    nodes.put(leader, "kept/last", json!({ "n": 1 }));
    nodes.kill(leader);
    nodes.start_again(leader);
    nodes.until_all_vote();
    nodes.read(leader, "kept/last");
    all_is_there(&nodes);
    assert!(!nodes.stored(leader).join("state.redb.copy").exists());
}
