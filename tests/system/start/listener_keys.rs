//! What a listener adds, leaves out, and reads in front of a connection.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use holdfast_tests::{Address, Client, Running, Setup, Site, until};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn custom_headers_are_added_by_status_and_the_servers_own_stay() {
    let running = Running::start(Setup::shamir().with_listener(
        "custom_response_headers {\n\
         \"default\" = { \"X-A\" = [\"one\", \"two\"], \"X-B\" = [\"default\"], \"X-Vault-Index\" = [\"mine\"] }\n\
         \"2xx\" = { \"X-B\" = [\"hundred\"], \"X-C\" = [\"hundred\"] }\n\
         \"200\" = { \"X-B\" = [\"exact\"] }\n}",
    ));
    let headers = |method: &str, path: &str| {
        let reply = running.root.raw(method, path, &[], b"");
        let of = |name: &str| reply.header(name).unwrap_or_default().to_owned();
        (reply.status, [of("x-a"), of("x-b"), of("x-c")])
    };
    let all = |texts: [&str; 3]| texts.map(str::to_owned);
    assert_eq!(headers("GET", "/v1/sys/health"), (200, all(["one; two", "exact", "hundred"])));
    assert_eq!(headers("DELETE", "/v1/cubbyhole/x"), (204, all(["one; two", "hundred", "hundred"])));
    assert_eq!(headers("GET", "/v1/cubbyhole/none"), (404, all(["one; two", "default", ""])));
    assert_eq!(headers("GET", "/elsewhere"), (404, all(["one; two", "default", ""])));
    assert_ne!(running.root.get("sys/health").header("x-vault-index"), Some("mine"));
}

#[test]
fn custom_headers_are_read_again_at_a_hangup() {
    let headers = |a: &str| format!("custom_response_headers {{ \"default\" = {{ \"X-A\" = [\"{a}\"] }} }}");
    let running = Running::start(Setup::shamir().with_listener(&headers("before")));
    let asked = |running: &Running| running.root.get("sys/health").header("x-a").map(str::to_owned);
    assert_eq!(asked(&running).as_deref(), Some("before"));

    let config = running.site.config();
    running.site.write_config(&config.replace(&headers("before"), &headers("after")));
    running.server.signal(Signal::HUP);
    until(Duration::from_secs(30), "the new headers", || (asked(&running).as_deref() == Some("after")).then_some(()));

    running.site.write_config("listener \"tcp\" {");
    running.server.signal(Signal::HUP);
    running.server.until_logged("the configuration cannot be read again");
    assert_eq!(asked(&running).as_deref(), Some("after"));
}

#[test]
fn a_proxy_names_the_client_before_tls_in_both_versions() {
    let running = Running::start(Setup::shamir().with_listener(
        "proxy_protocol_behavior = \"allow_authorized\"\n  proxy_protocol_authorized_addrs = \"127.0.0.0/8\"",
    ));
    let second =
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[203, 0, 113, 8, 10, 0, 0, 1, 0x12, 0x34, 0, 80]].concat();
    let first = b"PROXY TCP4 203.0.113.7 10.0.0.1 40000 8200\r\n".to_vec();
    for (header, client, port) in
        [(first, "203.0.113.7", 40_000), (second, "203.0.113.8", 0x1234), (Vec::new(), "127.0.0.1", 0)]
    {
        let mut connection = running.root.connect_behind(&header).expect("a connection");
        let token = [("X-Vault-Token", running.root.token())];
        connection.request("GET", "/v1/auth/token/lookup-self", &token, b"").expect("a request");
        connection.reply(false).expect("an answer").expect(200);
        let audit = fs::read_to_string(running.site.audit_file()).expect("the audit log");
        let last: Value =
            serde_json::from_str(audit.lines().rfind(|l| l.contains("\"type\":\"response\"")).expect("a line"))
                .expect("JSON");
        assert_eq!(last["request"]["remote_address"], client);
        assert!(port == 0 || last["request"]["remote_port"] == port, "{last}");
    }
}

#[test]
fn malformed_and_endless_headers_and_strangers_are_closed_and_others_are_served() {
    let address =
        "listener \"tcp\" {\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n  http_read_header_timeout = \"1s\"\n";
    let always = format!("{address}  proxy_protocol_behavior = \"use_always\"\n}}\n");
    let deny = format!(
        "{address}  proxy_protocol_behavior = \"deny_unauthorized\"\n  proxy_protocol_authorized_addrs = \"192.0.2.0/24\"\n}}\n"
    );
    let site = Site::make(Setup::shamir().with_top(&format!("log_level = \"debug\"\n{always}{deny}")));
    let server = site.start();
    assert_eq!(server.listeners.len(), 3, "{}", server.log());
    let (always, deny) =
        (Client::new(server.listeners[1].clone(), None), Client::new(server.listeners[2].clone(), None));
    let closed = |client: &Client, bytes: &[u8]| {
        let mut connection = client.connect().expect("a connection");
        connection.set_read_limit(Duration::from_secs(10));
        let _may_be_closed_already = connection.send(bytes);
        match connection.rest() {
            Ok(bytes) => assert!(bytes.is_empty(), "{}", String::from_utf8_lossy(&bytes)),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
        }
    };
    closed(&always, b"PROXY TCP4 nonsense\r\nGET /v1/sys/health HTTP/1.1\r\nHost: x\r\n\r\n");
    server.until_logged("the PROXY header is malformed");
    closed(&always, &[b"PROXY UNKNOWN ", &[b'x'; 4000][..]].concat());
    closed(&always, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff");
    closed(&always, b"PROXY TCP4 1.2.3.4 ");
    server.until_logged("its beginning did not come in time");
    closed(&deny, b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n\r\n");
    server.until_logged("is none of proxy_protocol_authorized_addrs");
    for _ in 0..3 {
        always.get("sys/seal-status").expect(200);
    }
    // A stranger ends its connection, not the listener.
    closed(&deny, b"");
}

#[test]
fn a_listener_is_for_metrics_alone_or_for_all_but_them() {
    let listener = |keys: &str| {
        format!(
            "listener \"tcp\" {{\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n  telemetry {{\n    {keys}\n  }}\n}}\n"
        )
    };
    let open = "metrics_only = true\n    unauthenticated_metrics_access = true";
    let more = [listener("metrics_only = true"), listener(open), listener("disallow_metrics = true")].concat();
    let running = Running::start(Setup::shamir().with_top(&more));
    let client = |i: usize| Client::new(running.server.listeners[i].clone(), None);
    let root = |i: usize| client(i).with_token(running.root.token());
    for i in [1, 2] {
        root(i).get("sys/metrics?format=prometheus").expect(200);
        let refused = root(i).get("sys/health").expect(404);
        assert_eq!(refused.text(), "this listener only serves the metrics endpoint\n");
        client(i).raw("GET", "/", &[], b"").expect(404);
    }
    client(1).get("sys/metrics").expect(403);
    client(2).get("sys/metrics").expect(200);
    assert_eq!(root(3).get("sys/metrics").expect(403).text(), "metrics endpoint is disabled for this listener\n");
    root(3).raw("GET", "/v1/sys/%6detrics", &[], b"").expect(403);
    root(3).get("sys/health").expect(200);
}

#[test]
fn what_is_redacted_is_told_to_those_with_a_token_alone() {
    let running = Running::start(
        Setup::shamir().with_listener("redact_addresses = true\n  redact_cluster_name = true\n  redact_version = true"),
    );
    for path in ["sys/health", "sys/seal-status"] {
        let (all, nobody) = (running.root.get(path).expect(200), running.root.without_token().get(path).expect(200));
        for key in ["/version", "/cluster_name"] {
            assert_ne!(all.at(key), "", "{path} {key}");
            assert_eq!(nobody.at(key), "", "{path} {key}");
        }
        let wrong = running.root.with_token("s.nobody").get(path).expect(200);
        assert_eq!(wrong.at("/version"), "");
        assert_eq!(nobody.at("/sealed"), false);
    }
}

#[test]
fn a_sockets_owner_is_as_configured_and_an_unknown_one_is_refused() {
    let site = Site::make(Setup::shamir());
    let socket = site.folder().join("owned.sock");
    let me = fs::metadata(site.folder()).expect("a folder");
    let stanza = |user: &str, group: &str| {
        format!(
            "listener \"unix\" {{\n  address = \"{}\"\n  socket_mode = \"0660\"\n  socket_user = \"{user}\"\n  socket_group = \"{group}\"\n}}\n",
            socket.display()
        )
    };
    // Only root gives files away.
    let (user, group) = if me.uid() == 0 { (12_345, 23_456) } else { (me.uid(), me.gid()) };
    site.write_config(&(site.config() + &stanza(&user.to_string(), &group.to_string())));
    let server = site.start();
    let is = fs::metadata(&socket).expect("the socket");
    assert_eq!((is.uid(), is.gid(), is.mode() & 0o777), (user, group, 0o660));
    Client::new(Address::Unix(socket.clone()), None).get("sys/seal-status").expect(200);
    server.stop();

    site.write_config(&(site.config() + &stanza("nobody-of-this-name", "root")));
    let output = site.start_in_vain();
    assert!(output.contains("socket_user: there is no user \"nobody-of-this-name\""), "{output}");
}
