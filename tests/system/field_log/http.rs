//! Reports about the HTTP side and the core.

use std::time::Duration;

use holdfast_tests::process::{cpu_time, memory_bytes};
use serde_json::{Value, json};

use super::{Site, four_lists};

/// F174. Before any login, in milliseconds of CPU (a debug build takes longer), without memory.
#[test]
fn bodies_that_cost_much_are_refused_cheaply_before_a_login() {
    let site = Site::new();
    let nobody = site.server.client();
    let many = 1_000_000;
    let bodies = [
        format!("{{\"key\":{}{}}}", "[".repeat(many), "]".repeat(many)),
        format!("{{{}}}", (0..many).map(|i| format!("\"k{i}\":1")).collect::<Vec<_>>().join(",")),
        format!("{{\"key\":[{}]}}", vec!["\"s\""; many].join(",")),
        format!("{{\"key\":{}}}", "9".repeat(many)),
        format!("{{{}}}", vec!["\"key\":\"v\""; many].join(",")),
        format!("{{\"key\":[{}]}}", vec!["{}"; many].join(",")),
    ];
    nobody.post("sys/unseal", json!({ "key": "00" }));
    let before = memory_bytes(site.server.pid(), "VmRSS");
    for (i, body) in bodies.iter().enumerate() {
        for path in ["sys/unseal", "auth/token/create", "auth/absent/login", "sys/wrapping/unwrap"] {
            let before = cpu_time(site.server.pid());
            let reply = nobody.raw("POST", &format!("/v1/{path}"), &[], body.as_bytes());
            assert!((400..=413).contains(&reply.status), "body {i} at {path}: {} {}", reply.status, reply.text());
            let cost = cpu_time(site.server.pid()).saturating_sub(before);
            assert!(cost < Duration::from_secs(2), "body {i} at {path}: {cost:?}");
            assert!(reply.body.len() < 1000, "body {i} at {path}: the answer repeats the question");
        }
    }
    let grown = memory_bytes(site.server.pid(), "VmRSS").saturating_sub(before);
    assert!(grown < 256 << 20, "the server has grown by {} MiB", grown >> 20);
}

/// F177. Every list route of the server's own description.
#[test]
fn every_list_is_the_same_by_its_verb_and_by_a_query() {
    let site = Site::new();
    site.secret("a/b");
    site.root.post("auth/token/roles/r", json!({})).expect(204);
    site.root.post("cubbyhole/a/b", json!({ "x": "y" })).expect(204);
    let document = site.root.get("sys/internal/specs/openapi").expect(200).json();
    let paths = document["paths"].as_object().expect("paths").iter();
    let lists = |item: &Value| {
        let parameters = item["get"]["parameters"].as_array().into_iter().flatten();
        parameters.filter(|p| p["name"] == "list").count() > 0
    };
    let listed: Vec<&String> = paths.filter(|(_, item)| lists(item)).map(|(path, _)| path).collect();
    assert!(listed.len() >= 8, "{listed:?}");
    for path in listed.into_iter().filter(|p| !p.contains('{')).chain([&"/secret/metadata/a".to_owned()]) {
        let path = path.trim_start_matches('/').replace("//", "/");
        let replies = four_lists(&site.root, &path);
        for reply in &replies {
            assert_eq!(reply.status, replies[0].status, "{path}: {}", reply.text());
            let without_id = |r: &holdfast_tests::Reply| {
                let mut json = r.json();
                json.as_object_mut().map(|o| o.remove("request_id"));
                json
            };
            assert_eq!(without_id(reply), without_id(&replies[0]), "{path}");
        }
    }
}

/// F182.
#[test]
fn a_write_to_a_list_is_refused_at_once_and_not_sent_elsewhere() {
    let site = Site::new();
    for path in [
        "sys/plugins/catalog",
        "sys/mounts",
        "sys/auth",
        "sys/policies/acl",
        "sys/policies/password",
        "auth/token/roles",
        "auth/token/accessors",
        "secret/metadata",
    ] {
        for verb in ["POST", "PUT"] {
            let reply = site.root.call(verb, path, Some(&json!({ "a": "b" })));
            assert!(matches!(reply.status, 400 | 404 | 405), "{verb} {path}: {} {}", reply.status, reply.text());
            assert_eq!(reply.header("location"), None, "{verb} {path}");
        }
    }
}

/// F183.
#[test]
fn to_reload_what_is_not_there_is_no_success() {
    let site = Site::new();
    for body in [json!({ "plugin": "none" }), json!({ "mounts": ["none/"] }), json!({})] {
        let reply = site.root.post("sys/plugins/reload/backend", body.clone());
        assert!(matches!(reply.status, 400 | 404), "{body}: {}", reply.text());
        assert_ne!(reply.refused(400), "");
    }
}
