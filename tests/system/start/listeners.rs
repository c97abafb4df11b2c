//! Listeners: unix sockets, several at once, who asks, and the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use holdfast_tests::{Address, Client, Running, Setup, Site, until};
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn several_listeners_and_a_unix_socket_serve_one_store() {
    let site = Site::make(Setup::shamir());
    let socket = site.folder().join("holdfast.sock");
    let more = format!(
        "listener \"tcp\" {{\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n}}\n\
         listener \"unix\" {{\n  address = \"{}\"\n  socket_mode = \"0640\"\n}}\n",
        socket.display()
    );
    site.write_config(&(site.config() + &more));
    let server = site.start();
    assert_eq!(server.listeners.len(), 3, "{}", server.log());
    let keys = site.initialise(&server.client());
    for share in &keys.shares[..2] {
        server.client().post("sys/unseal", json!({ "key": share })).expect(200);
    }
    let clients = [
        server.client(),
        Client::new(server.listeners[1].clone(), None),
        Client::new(Address::Unix(socket.clone()), None),
    ];
    let root = clients[0].with_token(&keys.root_token);
    root.post("sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } })).expect(204);
    for (i, client) in clients.iter().enumerate() {
        let client = client.with_token(&keys.root_token);
        client.post("secret/data/x", json!({ "data": { "from": i } })).expect(200);
        for other in &clients {
            let read = other.with_token(&keys.root_token).get("secret/data/x").expect(200);
            assert_eq!(read.at("/data/data/from"), i);
        }
    }
    assert_eq!(fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777, 0o640);
    server.stop();
    assert!(!socket.exists(), "the socket stays");

    // One that a killed server left is no obstacle.
    site.start().kill();
    assert!(socket.exists());
    let server = site.start();
    Client::new(Address::Unix(socket), None).get("sys/seal-status").expect(200);
    server.stop();
}

#[test]
fn the_word_of_an_authorised_proxy_names_the_client_in_the_audit_log() {
    let running = Running::start(Setup::shamir().with_listener(
        "x_forwarded_for_authorized_addrs = \"127.0.0.0/8\"\n  x_forwarded_for_reject_not_present = false",
    ));
    let headers = [("X-Forwarded-For", "203.0.113.7, 198.51.100.9")];
    running.root.raw("GET", "/v1/auth/token/lookup-self", &headers, b"").expect(200);
    let audit = fs::read_to_string(running.site.audit_file()).expect("the audit log");
    let last: Value =
        serde_json::from_str(audit.lines().rfind(|l| l.contains("\"type\":\"response\"")).expect("a line"))
            .expect("JSON");
    assert_eq!(last["request"]["remote_address"], "198.51.100.9");
    running.root.raw("GET", "/v1/auth/token/lookup-self", &[("X-Forwarded-For", "nonsense")], b"").refused(400);
}

#[test]
fn a_listener_may_require_the_request_header() {
    let running = Running::start(Setup::shamir().without_tls().without_audit());
    let config =
        running.site.config().replace("tls_disable = true", "tls_disable = true\n  require_request_header = true");
    running.site.write_config(&config);
    let server = running.site.start_after(running.server);
    server.client().raw("GET", "/v1/sys/health", &[], b"").expect(412);
    server.client().raw("GET", "/v1/sys/health", &[("X-Vault-Request", "true")], b"").expect(503);
}

#[test]
fn a_listener_of_a_namespace_shows_nothing_outside_it() {
    let running = Running::start(Setup::shamir().without_tls());
    let root = &running.root;
    for (made, namespace) in [("sys/namespaces/team", "team"), ("team/sys/namespaces/inner", "team/inner")] {
        root.post(made, json!({})).expect(200);
        root.post(&format!("{namespace}/sys/mounts/kv"), json!({ "type": "kv" })).expect(204);
        root.post(&format!("{namespace}/kv/x"), json!({ "in": namespace })).expect(204);
    }
    root.post("sys/mounts/outside", json!({ "type": "kv" })).expect(204);
    let policy = json!({ "policy": "path \"*\" { capabilities = [\"read\", \"create\", \"update\", \"list\"] }" });
    root.post("team/sys/policies/acl/all", policy).expect(204);
    let token = root.post("team/auth/token/create", json!({ "policies": ["all"] })).expect(200);
    let token = token.at("/auth/client_token").as_str().expect("a token").to_owned();
    let config = running.site.config();
    let listener =
        "listener \"tcp\" {\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n  chroot_namespace = \"/team/\"\n}\n";
    running.site.write_config(&(config + listener));
    let server = running.site.start_after(running.server);
    for share in &running.keys.shares[..2] {
        server.client().post("sys/unseal", json!({ "key": share })).expect(200);
    }
    let inside = Client::new(server.listeners[1].clone(), None);
    for client in [inside.with_token(&token), inside.with_token(&running.keys.root_token)] {
        let read = |path: &str, namespace: &str| {
            client.raw("GET", &format!("/v1/{path}"), &[("X-Vault-Namespace", namespace)], b"")
        };
        for here in ["", "/", "root"] {
            assert_eq!(read("kv/x", here).expect(200).at("/data/in"), "team");
        }
        assert_eq!(read("kv/x", "inner").expect(200).at("/data/in"), "team/inner");
        assert_eq!(read("inner/kv/x", "").expect(200).at("/data/in"), "team/inner");
        for beyond in ["team", "..", "../", "\u{1f511}"] {
            assert!(read("kv/x", beyond).status >= 400, "{beyond}");
        }
        assert!(read("outside/x", "").status >= 400);
        assert_eq!(read("sys/config/state/sanitized", "").status, 400, "what only the root has");
    }
    inside.get("sys/health").expect(200);
}

#[test]
fn headers_that_are_no_text_are_not_taken_for_none() {
    let running = Running::start(Setup::shamir());
    running.root.post("sys/mounts/kv", json!({ "type": "kv" })).expect(204);
    running.root.post("kv/x", json!({ "of": "the root" })).expect(204);
    let read = |header: (&str, &str)| running.root.raw("GET", "/v1/kv/x", &[header], b"");
    assert!(read(("X-Vault-Namespace", "\u{1f511}")).status >= 400, "the root answers for another namespace");
    read(("X-Vault-Wrap-TTL", "\u{1f511}")).refused(400);
    read(("X-Vault-Namespace", "")).expect(200);
}

#[test]
fn metrics_need_a_token_unless_the_listener_says_otherwise() {
    let running = Running::start(Setup::shamir().without_tls());
    running.root.without_token().get("sys/metrics?format=prometheus").refused(403);
    let text = running.root.get("sys/metrics?format=prometheus").expect(200).text();
    assert!(text.contains("# TYPE") && text.contains("vault_core_unsealed"), "{text}");

    let open =
        Setup::shamir().without_tls().with_listener("telemetry {\n    unauthenticated_metrics_access = true\n  }");
    let running = Running::start(open);
    running.root.without_token().get("sys/metrics?format=prometheus").expect(200);
}

#[test]
fn a_request_in_flight_at_sigterm_is_answered_and_new_ones_are_not_taken() {
    let mut running = Running::start(Setup::shamir());
    let body = br#"{"data":{"k":"in flight"}}"#;
    let mut slow = running.root.connect().expect("a connection");
    let head = format!(
        "POST /v1/secret/data/late HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\nContent-Length: {}\r\n\r\n",
        running.root.token(),
        body.len()
    );
    slow.send(head.as_bytes()).expect("sent");
    slow.send(&body[..10]).expect("sent");
    std::thread::sleep(Duration::from_millis(200));
    running.server.signal(Signal::TERM);
    running.server.until_logged("stopping");
    until(Duration::from_secs(5), "the end of listening", || running.root.connect().is_err().then_some(()));
    slow.send(&body[10..]).expect("sent");
    slow.reply(false).expect("an answer").expect(200);
    assert!(running.server.wait().success());

    let running = running.restart(drop);
    assert_eq!(running.root.get("secret/data/late").expect(200).at("/data/data/k"), "in flight");
}
