//! Reports about audit devices and their lines.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use holdfast_tests::connection::free_port;
use holdfast_tests::{Running, Setup, until};
use serde_json::{Value, json};

use crate::cluster::nodes::{Audited, Nodes, WITHIN};

/// The lines of a file that tell of requests.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line"));
    lines.filter(|l| l["type"] != "checkpoint").collect()
}

fn last_request(running: &Running, path: &str) -> Value {
    let all = lines(&running.site.audit_file());
    let of = all.into_iter().rfind(|l| l["type"] == "request" && l["request"]["path"] == path);
    of.unwrap_or_else(|| panic!("no request of {path}"))
}

/// F051.
#[test]
fn a_list_of_keys_that_stay_plain_counts_as_a_list_however_it_is_written() {
    let running = Running::start(Setup::shamir().without_tls());
    let written = [("comma", json!("value1,value2")), ("json", json!(["value1", "value2"])), ("one", json!("value1"))];
    for (mount, keys) in written {
        let body = json!({ "type": "kv", "config": { "audit_non_hmac_request_keys": keys } });
        running.root.post(&format!("sys/mounts/{mount}"), body).expect(204);
        let path = format!("{mount}/a");
        running.root.post(&path, json!({ "value1": "plain-1", "value2": "plain-2", "value3": "hidden" })).expect(204);
        let data = last_request(&running, &path)["request"]["data"].clone();
        assert_eq!(data["value1"], "plain-1", "{mount}");
        assert_eq!(data["value2"] == "plain-2", mount != "one", "{mount}: {data}");
        assert!(data["value3"].as_str().is_some_and(|v| v.starts_with("hmac-sha256:")), "{mount}: {data}");
    }
    // A tune replaces the list.
    running.root.post("sys/mounts/one/tune", json!({ "audit_non_hmac_request_keys": "value2,value3" })).expect(204);
    running.root.post("one/a", json!({ "value1": "x", "value3": "plain-3" })).expect(204);
    let data = last_request(&running, "one/a")["request"]["data"].clone();
    assert!(data["value3"] == "plain-3" && data["value1"] != "x", "{data}");
}

/// F053. The kit looks for every token that the tests have seen; accessors it does not know.
#[test]
fn no_token_accessor_or_wrapping_token_stands_in_the_clear_whatever_was_asked() {
    let running = Running::start(Setup::shamir().without_tls());
    let root = &running.root;
    let mut secrets = vec![root.token().to_owned()];
    let mut keep = |reply: &holdfast_tests::Reply, members: &[&str]| {
        for member in members {
            secrets.push(reply.text_at(member));
        }
    };
    let auth = ["/auth/client_token", "/auth/accessor"];
    let service = root.post("auth/token/create", json!({ "policies": ["default"] })).expect(200);
    keep(&service, &auth);
    let batch = root.post("auth/token/create", json!({ "type": "batch", "policies": ["default"] })).expect(200);
    keep(&batch, &auth[..1]);
    root.post("sys/auth/userpass", json!({ "type": "userpass" })).expect(204);
    root.post("auth/userpass/users/ann", json!({ "password": "a-long-pa55word" })).expect(204);
    let login =
        root.without_token().post("auth/userpass/login/ann", json!({ "password": "a-long-pa55word" })).expect(200);
    keep(&login, &auth);
    root.post("sys/auth/approle", json!({ "type": "approle" })).expect(204);
    root.post("auth/approle/role/app", json!({})).expect(204);
    let secret_id = root.post("auth/approle/role/app/secret-id", json!({})).expect(200);
    keep(&secret_id, &["/data/secret_id"]);
    let role_id = root.get("auth/approle/role/app/role-id").expect(200).text_at("/data/role_id");
    let body = json!({ "role_id": role_id, "secret_id": secret_id.text_at("/data/secret_id") });
    keep(&root.without_token().post("auth/approle/login", body).expect(200), &auth);
    let wrapped = root.raw("POST", "/v1/auth/token/create", &[("X-Vault-Wrap-TTL", "60")], b"{}").expect(200);
    keep(&wrapped, &["/wrap_info/token", "/wrap_info/accessor", "/wrap_info/wrapped_accessor"]);
    let wrapping = wrapped.text_at("/wrap_info/token");
    root.post("sys/wrapping/lookup", json!({ "token": wrapping })).expect(200);
    keep(&root.post("sys/wrapping/unwrap", json!({ "token": wrapping })).expect(200), &auth);

    let (token, accessor) = (service.text_at(auth[0]), service.text_at(auth[1]));
    root.post("auth/token/lookup", json!({ "token": token })).expect(200);
    root.post("auth/token/lookup-accessor", json!({ "accessor": accessor })).expect(200);
    root.post("auth/token/renew-accessor", json!({ "accessor": accessor })).expect(200);
    root.post("sys/capabilities-accessor", json!({ "accessor": accessor, "paths": ["a"] })).expect(200);
    root.list("auth/token/accessors").expect(200);
    root.get("sys/tokens/report").expect(200);
    root.with_token(&token).get("auth/token/lookup-self").expect(200);
    root.with_token(&batch.text_at(auth[0])).get("auth/token/lookup-self").expect(200);
    root.with_token(&token).get("secret/data/refused").refused(403);
    root.with_token("hvs.thisTokenIsNobodysAndIsSent").get("secret/data/x").refused(403);
    secrets.push("hvs.thisTokenIsNobodysAndIsSent".into());
    root.post("auth/token/revoke-accessor", json!({ "accessor": accessor })).expect(204);

    let text = fs::read_to_string(running.site.audit_file()).expect("the audit log");
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        assert!(!text.contains(secret.as_str()), "{secret} is in the audit log");
    }
    assert!(!text.contains("a-long-pa55word"));
}

/// F055.
#[test]
fn a_declared_device_that_was_taken_away_and_comes_back_changed_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("log");
    let log = UnixDatagram::bind(&socket).expect("a socket");
    log.set_read_timeout(Some(WITHIN)).expect("a limit");
    let device =
        |more: &str| format!("audit \"syslog\" \"sys\" {{\n options {{\n address = {socket:?}\n {more}\n }}\n}}\n");
    let mut running = Running::start(Setup::shamir().without_tls().with_top(&device("")));
    let heard = || {
        let mut buffer = [0; 65536];
        let bytes = log.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..bytes]).into_owned()
    };
    assert!(heard().contains(" holdfast["));
    let without = running.site.config().replace(&device(""), "");
    for (config, tag) in [
        (without, None),
        (
            running.site.config().replace(&device(""), &device("tag = \"again\"\n facility = \"local1\"")),
            Some("again["),
        ),
    ] {
        running.site.write_config(&config);
        running = running.restart(|server| drop(server.stop()));
        log.set_nonblocking(true).expect("a mode");
        let mut rest = [0; 65536];
        let mut tags = Vec::new();
        while let Ok(bytes) = log.recv(&mut rest) {
            tags.push(String::from_utf8_lossy(&rest[..bytes]).into_owned());
        }
        log.set_nonblocking(false).expect("a mode");
        running.root.get("secret/data/none").refused(404);
        let listed = running.root.get("sys/audit").expect(200);
        assert_eq!(listed.json()["data"]["sys/"].is_object(), tag.is_some());
        if let Some(tag) = tag {
            until(WITHIN, "a line with the new tag", || heard().contains(tag).then_some(()));
        }
    }
}

/// F057.
#[test]
fn a_standby_that_cannot_open_a_file_takes_over_all_the_same_and_says_so() {
    let ports = (0..2).map(|_| (free_port(), free_port())).collect();
    let rule = AnyDevice;
    let nodes = Nodes::start_with(ports, Box::new(rule));
    nodes.until_all_vote();
    let leader = nodes.until_led();
    let other = 1 - leader;
    // Its folder cannot be made there: something else has its name.
    fs::write(nodes.stored(other).with_file_name("logs"), "a file").expect("a file");
    let device = json!({ "type": "file", "options": { "file_path": "logs/second.log" } });
    nodes.ask(leader, "sys/audit/second", device, 204);
    // While it stands by it reads, and so has the devices open: its own health says what is wrong.
    until(WITHIN, "the fault in the health of the one that stands by", || {
        let _from_here_or_there = nodes.root(other).try_call("GET", "auth/token/lookup-self", None);
        let health = nodes.client(other).try_call("GET", "sys/health?standbyok=true", None).ok()?.json();
        (health["standby"] == true && health["audit_devices_failing"] == 1).then_some(())
    });
    assert!(nodes.client(leader).get("sys/health").expect(200).json()["audit_devices_failing"].is_null());
    nodes.change_lead();
    let next = nodes.until_led();
    assert_eq!(next, other);
    nodes.root(next).get("sys/mounts").expect(200);
    nodes.server(next).until_logged("an audit device refuses lines");
    let page = nodes.root(next).get("sys/metrics?format=prometheus").expect(200).text();
    assert!(page.contains("holdfast_audit_device_failing{device=\"second/\",type=\"file\"} 1"), "{page}");
    // Once it can be opened it takes lines, without anybody's help.
    fs::remove_file(nodes.stored(other).with_file_name("logs")).expect("a file");
    until(WITHIN, "a line in the file", || {
        nodes.root(next).get("sys/mounts").expect(200);
        (!lines(&nodes.stored(next).with_file_name("logs").join("second.log")).is_empty()).then_some(())
    });
}

/// Nodes whose devices the API may put anywhere.
struct AnyDevice;

impl crate::cluster::nodes::Between for AnyDevice {
    fn command(&self, n: usize, folder: &Path) -> std::process::Command {
        Audited.command(n, folder)
    }

    fn top(&self, n: usize) -> String {
        Audited.top(n) + "unsafe_allow_api_audit_creation = true\n"
    }
}

/// F058, as far as it goes without inline logins, which are not built.
#[test]
fn a_header_that_is_to_be_told_is_told_also_beside_login_headers() {
    let running = Running::start(Setup::shamir().without_tls());
    running.root.post("sys/config/auditing/request-headers/X-Corr", json!({ "hmac": false })).expect(204);
    let headers = [
        ("X-Corr", "a-word-to-find"),
        ("X-Vault-Inline-Auth-Path", "auth/userpass/login/ann"),
        ("X-Vault-Inline-Auth-Parameter-password", "eyJwYXNzd29yZCI6ImEtbG9uZy1wYTU1d29yZCJ9"),
    ];
    running.root.try_raw("GET", "/v1/secret/data/x", &headers, b"").expect("an answer");
    let line = last_request(&running, "secret/data/x");
    assert_eq!(line["request"]["headers"]["x-corr"], json!(["a-word-to-find"]));
    let text = fs::read_to_string(running.site.audit_file()).expect("the audit log");
    assert!(!text.contains("eyJwYXNzd29yZCI6"), "what logs in is in the audit log");
}

/// F059.
#[test]
fn a_request_for_help_has_the_id_of_its_answer() {
    let running = Running::start(Setup::shamir().without_tls());
    let answer = running.root.get("sys/mounts?help=1").expect(200);
    let line = last_request(&running, "sys/mounts");
    let id = line["request"]["id"].as_str().expect("an id").to_owned();
    assert!(!id.is_empty());
    // The peers' answers to a request for help have no id to compare with.
    let body = answer.json();
    let mut members: Vec<&String> = body.as_object().expect("an object").keys().collect();
    members.sort();
    assert_eq!(members, ["help", "openapi", "see_also"]);
    assert!(id.len() == 36 && id.matches('-').count() == 4, "{id}");
    let all = lines(&running.site.audit_file());
    assert!(all.iter().any(|l| l["type"] == "response" && l["request"]["id"] == id.as_str()), "both lines have it");
}
