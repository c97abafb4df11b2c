//! Joining by hand, without a vote, and behind `file`.

use serde_json::json;

use holdfast_tests::until;

use super::newcomer::{Newcomer, joins, members};
use super::nodes::{Nodes, WITHIN};

fn is_member(nodes: &Nodes, id: &str) -> Option<bool> {
    members(nodes).into_iter().find(|(name, _)| name == id).map(|(_, votes)| votes)
}

fn until_votes(nodes: &Nodes, id: &str) {
    until(WITHIN, &format!("a vote of {id}"), || is_member(nodes, id).filter(|votes| *votes));
}

#[test]
fn nodes_join_by_command_and_by_api_and_one_that_is_to_have_no_vote_gets_none_by_itself() {
    let nodes = Nodes::start(1);
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    nodes.put(0, "sys/storage/raft/autopilot/configuration", json!({"server_stabilization_time": "1s"}));
    let leader = format!("http://127.0.0.1:{}", nodes.port(0));
    let holds_it = |node: &Newcomer| {
        node.until_unsealed();
        let root = node.client().with_token(nodes.root(0).token());
        until(WITHIN, "what the cluster holds", || {
            root.try_call("GET", "kv/a", None).ok().filter(|r| r.status == 200 && r.at("/data/v") == 1)
        });
    };

    // By configuration, without a vote.
    let never = Newcomer::named("never").storage(joins(nodes.port(0)) + "retry_join_as_non_voter = true\n").started();
    never.until_asked_for_shares();
    never.give(nodes.share()).expect(200);
    holds_it(&never);

    // By the command. Before, it needs no share; a wrong one opens nothing, and the right one joins.
    let by_command = Newcomer::named("by-command").started();
    assert!(by_command.give(nodes.share()).refused(400).contains("not initialized"));
    let said = by_command.join(&["http://127.0.0.1:1"]).bad(2);
    assert!(said.contains("failed to get raft challenge") && said.contains("127.0.0.1:1"), "{said}");
    assert!(by_command.join(&[&leader]).good().contains("true"));
    let wrong = format!("{}{}", if nodes.share().starts_with('0') { "1" } else { "0" }, &nodes.share()[1..]);
    let said = by_command.give(&wrong).refused(400);
    assert!(said.contains("invalid key"), "{said}");
    assert_eq!(is_member(&nodes, "by-command"), None);
    by_command.give(nodes.share()).expect(200);
    holds_it(&by_command);

    // By the API.
    let by_api = Newcomer::named("by-api").started();
    let joined = by_api.client().post("sys/storage/raft/join", json!({"leader_api_addr": leader})).expect(200);
    assert_eq!(joined.at("/joined"), true);
    by_api.give(nodes.share()).expect(200);
    holds_it(&by_api);

    // -retry answers at once and goes on.
    let patient = Newcomer::named("patient").started();
    assert!(patient.join(&["-retry", &leader]).good().contains("false"));
    patient.until_asked_for_shares();
    patient.give(nodes.share()).expect(200);
    holds_it(&patient);

    let quiet = Newcomer::named("quiet").started();
    assert!(quiet.join(&["-non-voter", &leader]).good().contains("true"));
    quiet.give(nodes.share()).expect(200);
    holds_it(&quiet);

    // All that may vote have got their votes, one that came later than the first too.
    let last = Newcomer::named("last").storage(joins(nodes.port(0))).started();
    last.until_asked_for_shares();
    last.give(nodes.share()).expect(200);
    for id in ["by-command", "by-api", "patient", "last"] {
        until_votes(&nodes, id);
    }
    assert_eq!((is_member(&nodes, "never"), is_member(&nodes, "quiet")), (Some(false), Some(false)));
    let state = nodes.read(0, "sys/storage/raft/autopilot/state");
    let without_a_vote: Vec<String> = serde_json::from_value(state.at("/data/non_voters")).unwrap();
    assert_eq!(without_a_vote, ["never", "quiet"], "{}", state.text());
    // By hand.
    nodes.ask(0, "sys/storage/raft/promote", json!({"server_id": "never"}), 204);
    until_votes(&nodes, "never");
    assert_eq!(is_member(&nodes, "quiet"), Some(false));
}

#[test]
fn a_folder_of_file_becomes_the_first_member_by_its_configuration_and_others_join_it() {
    let first = Newcomer::named("first").started_with("storage \"file\"");
    let (share, token) = first.initialised();
    let root = first.client().with_token(&token);
    assert_eq!(root.get("sys/seal-status").expect(200).text_at("/storage_type"), "file");
    root.post("sys/mounts/kv", json!({"type": "kv"})).expect(204);
    for n in 0..50 {
        root.post(&format!("kv/{n}"), json!({"n": n})).expect(204);
    }
    let before = first.client().get("sys/seal-status").text_at("/cluster_id");
    let first = first.kill().started();
    first.give(&share).expect(200);
    first.until_unsealed();
    let status = first.client().get("sys/seal-status").expect(200);
    assert_eq!((status.text_at("/storage_type"), status.text_at("/cluster_id")), ("raft".to_owned(), before));
    let root = first.client().with_token(&token);
    until(WITHIN, "a leader", || root.try_call("GET", "sys/leader", None).ok().filter(|r| r.json()["is_self"] == true));

    let second = Newcomer::named("second").storage(joins(first.port())).started();
    second.until_asked_for_shares();
    second.give(&share).expect(200);
    second.until_unsealed();
    let there = second.client().with_token(&token);
    for n in 0..50 {
        let read = until(WITHIN, "a read at the second node", || {
            there.try_call("GET", &format!("kv/{n}"), None).ok().filter(|r| r.status == 200)
        });
        assert_eq!(read.at("/data/n"), n);
    }
    let listed = root.get("sys/storage/raft/configuration").expect(200).text();
    assert!(listed.contains("\"first\"") && listed.contains("\"second\""), "{listed}");
}
