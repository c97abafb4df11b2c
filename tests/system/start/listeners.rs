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
