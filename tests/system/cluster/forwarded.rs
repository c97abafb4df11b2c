//! What a node that stands by passes on: nobody could tell its answer from one of the active node.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use holdfast_tests::connection::{Connection, free_port};
use holdfast_tests::{Reply, until};

use super::nodes::{Audited, Nodes, WITHIN};

/// The bytes of an answer but for what names the request.
fn body_of(reply: &Reply) -> String {
    let text = reply.text();
    let Some(id) = reply.body.first().and_then(|_| serde_json::from_str::<Value>(&text).ok()) else { return text };
    match id["request_id"].as_str().filter(|id| !id.is_empty()) {
        Some(id) => text.replace(id, "REQUEST"),
        None => text,
    }
}

#[test]
fn each_answer_is_the_same_at_all_nodes_byte_by_byte_and_the_audit_log_names_the_client() {
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let nodes = Nodes::start_with(ports, Box::new(Audited));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv", "options": {"version": "1"}}));
    for name in ["a", "b/c"] {
        nodes.put(0, &format!("kv/{name}"), json!({"v": name}));
    }
    let active = nodes.until_led();
    let weak = nodes.ask(active, "auth/token/create", json!({"policies": ["default"]}), 200);
    let weak = weak.text_at("/auth/client_token");
    let requests: [(&str, &str, Option<&str>); 20] = [
        ("GET", "kv/a", None),
        ("GET", "kv/none", None),
        ("LIST", "kv/", None),
        ("GET", "kv/?list=true", None),
        ("LIST", "kv/none/", None),
        ("LIST", "sys/policies/acl", None),
        ("GET", "sys/mounts", None),
        ("GET", "sys/nothing/of/the/kind", None),
        ("POST", "sys/mounts/kv", Some(r#"{"type":"kv"}"#)),
        ("POST", "sys/mounts/x", Some(r#"{"type":"no such engine"}"#)),
        ("POST", "kv/a", Some("{ no json")),
        ("POST", "kv/a", Some("{}")),
        ("PUT", "kv/written", Some(r#"{"v":1}"#)),
        ("DELETE", "kv/written", None),
        ("DELETE", "kv/written", None),
        ("POST", "sys/policies/acl/p", Some(r#"{"policy":"path \"kv/*\" { capabilities = [\"read\"] }"}"#)),
        ("GET", "sys/policies/acl/p", None),
        ("POST", "sys/policies/acl/p", Some(r#"{"policy":"path \"kv/*\" { capabilities = [\"no such one\"] }"}"#)),
        ("PATCH", "kv/a", Some(r#"{"v":1}"#)),
        ("POST", "auth/token/lookup", Some(r#"{"token":"hvs.none"}"#)),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for token in [nodes.root(0).token().to_owned(), weak, "hvs.nobody".to_owned(), String::new()] {
        for (method, path, body) in requests {
            let headers: &[(&str, &str)] = &[("X-Vault-Token", &token)];
            let headers = if token.is_empty() { &[][..] } else { headers };
            let ask = |n: usize| {
                nodes.client(n).raw(method, &format!("/v1/{path}"), headers, body.unwrap_or_default().as_bytes())
            };
            let own = ask(active);
            seen.insert(own.status);
            for standby in (0..3).filter(|n| *n != active) {
                let passed_on = ask(standby);
                let shown =
                    |reply: &Reply| (reply.status, body_of(reply), reply.header("content-type").map(str::to_owned));
                assert_eq!(
                    shown(&passed_on),
                    shown(&own),
                    "{method} {path} at node {standby}, token {:?}",
                    token.len()
                );
            }
        }
    }
    assert!([200, 204, 400, 403, 404].iter().all(|status| seen.contains(status)), "{seen:?}");
    assert_eq!(nodes.until_led(), active, "the lead has changed meanwhile: nothing was shown");

    the_clients_address_is_in_the_active_nodes_lines(&nodes, active);
    every_node_lists_the_same_nodes(&nodes, active);
}

fn the_clients_address_is_in_the_active_nodes_lines(nodes: &Nodes, active: usize) {
    let source = Ipv4Addr::new(127, 0, 0, 77);
    let standby = (active + 1) % 3;
    let root = nodes.root(0);
    for (method, path, body) in [("POST", "kv/from-77", &br#"{"v":1}"#[..]), ("GET", "sys/policies/acl/none-77", b"")] {
        let to = ([127, 0, 0, 1], nodes.port(standby)).into();
        let mut connection = Connection::open_from(source, to).expect("a connection from another address");
        let headers = [("X-Vault-Token", root.token())];
        connection.request(method, &format!("/v1/{path}"), &headers, body).expect("a request");
        connection.reply(false).expect("an answer");
        let lines = until(WITHIN, "lines of the audit log", || {
            let log = fs::read_to_string(nodes.audit_log(active)).ok()?;
            let lines: Vec<Value> = log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
            let of: Vec<Value> = lines.into_iter().filter(|l| l["request"]["path"] == path).collect();
            (of.len() >= 2).then_some(of)
        });
        for line in lines {
            assert_eq!(line["request"]["remote_address"], source.to_string(), "{line}");
        }
        // Who passes on writes no line of its own about it.
        let own = fs::read_to_string(nodes.audit_log(standby)).unwrap_or_default();
        assert!(!own.contains(path), "{path} is in the log of the node that stands by too");
    }
}

fn every_node_lists_the_same_nodes(nodes: &Nodes, active: usize) {
    let listed = |n: usize| -> Vec<(String, String, bool)> {
        let reply = nodes.root(n).patient_for(Duration::from_secs(20)).get("sys/ha-status").expect(200);
        let all = reply.at("/data/nodes");
        let text = |node: &Value, name: &str| node[name].as_str().expect("a text").to_owned();
        let one =
            |node: &Value| (text(node, "api_address"), text(node, "cluster_address"), node["active_node"] == true);
        all.as_array().expect("a list").iter().map(one).collect()
    };
    let wanted: Vec<_> = (0..3)
        .map(|n| {
            let cluster = format!("https://127.0.0.1:{}", nodes.member_port(n));
            (format!("http://127.0.0.1:{}", nodes.port(n)), cluster, n == active)
        })
        .collect();
    for n in 0..3 {
        let mut listed = listed(n);
        listed.sort_by_key(|one| wanted.iter().position(|other| other.0 == one.0));
        assert_eq!(listed, wanted, "at node {n}");
    }
}
