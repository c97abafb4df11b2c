//! Targets that read texts: HCL, policies, configurations, requests, PROXY headers.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use holdfast_config::{Config, Offer};
use holdfast_policy::{Acl, Check, Operation, Policy};

pub(crate) const HCL: &[&[u8]] = &[
    b"path \"secret/*\" {\n  capabilities = [\"read\", \"list\",] # c\n  min_wrapping_ttl = 0x1f\n}\n",
    b"listener \"tcp\" { address = \"127.0.0.1:8200\" tls_disable = true }\n/* c */ a = -1.5e3",
    b"a = <<-EOF\n    text ${x}\n    EOF\nb { c { d = [[1], {e = \"\\u00e9\\\"\"}] } }",
    br#"{"path": {"a": [{"capabilities": ["read", null, true, 1.5e3]}]}, "b": "\ud83d\ude00"}"#,
];

/// Any bytes as HCL or JSON. What is accepted is formatted into something that is accepted too.
pub fn hcl(data: &[u8]) {
    let Ok(object) = holdfast_hcl::parse_bytes(data) else { return };
    assert!(object.items.iter().all(|item| !item.keys.is_empty()));
    if let Some(formatted) = std::str::from_utf8(data).ok().and_then(|text| holdfast_hcl::format(text).ok()) {
        assert!(holdfast_hcl::parse(&formatted).is_ok(), "{formatted}");
    }
}

pub(crate) const POLICIES: &[&[u8]] = &[
    br#"path "secret/data/{{identity.entity.id}}/+/a*" {
  capabilities = ["create", "read", "list"]
  required_parameters = ["a"]
  allowed_parameters = { "a" = ["x*", 1, true], "*" = [] }
  denied_parameters { b = [] }
  min_wrapping_ttl = "1m" max_wrapping_ttl = 7200
  expiration = "2100-01-01T00:00:00Z"
}
path "old" { policy = "write" }
path "+" { capabilities = ["deny"] }"#,
    br#"{"path": {"a/*": {"capabilities": ["read"], "expiration": 5}, "b": [{"policy": "sudo"}]}}"#,
];

/// Any text as a policy, and what it allows asked.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(policy) = Policy::parse("p", text) else { return };
    let now = SystemTime::UNIX_EPOCH;
    let Ok(acl) = Acl::new(&[Arc::new(policy)], None, now) else { return };
    for path in ["secret/data/x", "old", "a/b", ""] {
        for operation in [Operation::Read, Operation::List, Operation::Create] {
            let _any_decision = acl.check(&Check::new(operation, path, now));
        }
    }
}

pub(crate) const CONFIGURATIONS: &[&[u8]] = &[
    br#"storage "raft" { path = "/r" node_id = "n" retry_join { leader_api_addr = "https://a:1" } }
listener "tcp" { address = "[::]:8200" tls_disable = true custom_response_headers { "2xx" = { A = ["b"] } } }
listener "unix" { address = "/s" socket_mode = "0600" }
api_addr = "https://a:8200" max_lease_ttl = "10h" ui = true log_level = "warn" log_rotate_bytes = 5"#,
    br#"seal "pkcs11" { lib = "/l" slot = "0x1f" key_id = "0x1a2b" pin = 1234 mechanism = "0x1087" helper_user = "h" }
audit "file" "main" { options { file_path = "/a" } }
user_lockout "all" { lockout_duration = "1m" }
telemetry { prefix_filter = ["+a"] } max_request_size = "1MiB""#,
    br#"{"storage": {"file": {"path": "/d"}}, "listener": [{"tcp": {"tls_disable": 1}}], "cache_size": 5}"#,
];

/// Any text as a configuration; every complaint is about a line of it.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let nothing = |_: &str| None;
    let offer = Offer {
        storages: &["inmem", "file", "raft"],
        seals: &["shamir", "pkcs11", "software", "static", "tpm"],
        environment: &nothing,
    };
    let places = match Config::parse(Path::new("c.hcl"), text, &offer) {
        Ok((_, warnings)) => warnings.into_iter().filter_map(|warning| warning.place).collect(),
        Err(error) => Vec::from_iter(error.place),
    };
    let lines = text.matches('\n').count() + 1;
    assert!(places.iter().all(|place| (1..=lines).contains(&(place.position.line as usize))));
}

pub(crate) const REQUESTS: &[&[u8]] = &[
    b"GET /v1/secret/data/a%20b?list=true&version=1 HTTP/1.1\nX-Vault-Token: s.x\nX-Vault-Namespace: a/b\n\n",
    b"POST /v1/auth/token/create HTTP/1.1\nAuthorization: Bearer x\nX-Vault-Wrap-TTL: 1h\n\n{\"a\": {\"b\": [1, null, \"\\u00e9\"]}}",
    b"PATCH /v1/secret/data/x HTTP/1.1\nContent-Type: application/merge-patch+json\n\n{\"data\": {\"x\": null}}",
    b"PUT /v1/sys/x HTTP/1.1\nContent-Type: application/x-www-form-urlencoded\n\na=b&c=%41&c=+",
];

/// A head in lines and a body, decoded as a listener does. The path of what is accepted has no way out of its mount.
pub fn request(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (head, _) = text.split_once("\n\n").unwrap_or((&text, ""));
    let body = data.windows(2).position(|two| two == b"\n\n").map_or(&b""[..], |at| &data[at + 2..]);
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or("").split(' ');
    let (method, target) = (first.next().unwrap_or(""), first.next().unwrap_or(""));
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let Some(Ok(request)) = holdfast_http::decode(method, target, &headers, body) else { return };
    assert!(!request.path.starts_with('/') && !request.path.split('/').any(|part| part == ".."), "{}", request.path);
    assert!(request.namespace.is_empty() || request.namespace.ends_with('/'));
}

pub(crate) const PROXY_HEADERS: &[&[u8]] = &[
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 ::1 ::2 65535 1\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x12\x34\0\x50GET",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
];

/// The beginning of a connection. A header is whole within the bytes, and its length does not depend on what follows.
pub fn proxy_header(data: &[u8]) {
    let Ok(Some((length, source))) = holdfast_http::proxy_header(data) else { return };
    assert!(length <= data.len());
    let again = holdfast_http::proxy_header(&data[..length]);
    assert!(matches!(again, Ok(Some(same)) if same == (length, source)));
}
