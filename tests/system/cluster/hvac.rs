//! hvac and a pair of nodes.

use serde_json::json;

use holdfast_tests::program::{command, repository, run, stock};
use holdfast_tests::until;

use super::nodes::{Nodes, WITHIN};

#[test]
fn hvac_sees_two_nodes_as_one_service_and_which_of_them_is_active() {
    let nodes = Nodes::start(2);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}}));
    let root = nodes.root(0);
    until(WITHIN, "version 2", || root.try_call("GET", "secret/data/none", None).ok().filter(|r| r.status == 404));
    let mut walk = command(stock("python"));
    walk.arg(repository().join("tests/system/cluster/hvac_pair.py")).env("VAULT_TOKEN", root.token());
    for n in 0..2 {
        walk.arg(format!("http://127.0.0.1:{}", nodes.port(n)));
    }
    assert!(run(&mut walk).good().ends_with("every step as expected\n"));
}
