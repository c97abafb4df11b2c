//! Reports about policies.

use holdfast_tests::Client;
use serde_json::{Value, json};

use super::{Site, four_lists, keys};

fn statuses(client: &Client, path: &str) -> Vec<u16> {
    let scans = [client.call("SCAN", path, None), client.get(&format!("{path}?scan=true"))];
    four_lists(client, path).iter().chain(&scans).map(|r| r.status).collect()
}

/// F022.
#[test]
fn a_deny_below_a_folder_refuses_its_list_and_scan_but_not_those_of_its_siblings() {
    let site = Site::new();
    for key in ["private/a", "private/open/a", "public/a", "privates/a"] {
        site.secret(key);
    }
    let client = site.under(
        r#"
        path "secret/metadata/*"              { capabilities = ["list", "scan"] }
        path "secret/metadata/private/*"      { capabilities = ["deny"] }
        path "secret/metadata/private/open/*" { capabilities = ["list", "scan"] }
        "#,
    );
    assert_eq!(statuses(&client, "secret/metadata/private"), [403; 6]);
    assert_eq!(statuses(&client, "secret/metadata/private/other"), [403; 6]);
    for allowed in ["secret/metadata/private/open", "secret/metadata/public", "secret/metadata/privates"] {
        assert_eq!(statuses(&client, allowed), [200; 6], "{allowed}");
    }
}

/// F024.
#[test]
fn a_rule_with_a_slash_or_without_allows_a_list_in_all_its_spellings() {
    let site = Site::new();
    site.secret("app/a");
    site.root.post("auth/token/roles/r", json!({})).expect(204);
    for (list, rules) in [
        ("secret/metadata/app", ["secret/metadata/app", "+/metadata/app", "secret/+/app"]),
        ("sys/policies/acl", ["sys/policies/acl", "+/policies/acl", "sys/+/acl"]),
        ("auth/token/roles", ["auth/token/roles", "auth/+/roles", "+/token/roles"]),
    ] {
        for rule in rules {
            for end in ["", "/"] {
                let client = site.under(&format!(r#"path "{rule}{end}" {{ capabilities = ["list"] }}"#));
                for reply in four_lists(&client, list) {
                    assert_eq!(reply.status, 200, "{list} under {rule}{end}: {}", reply.text());
                }
                let reads = site.under(&format!(r#"path "{rule}{end}" {{ capabilities = ["read"] }}"#));
                for reply in four_lists(&reads, list) {
                    assert_eq!(reply.status, 403, "{list} under {rule}{end}, which only reads");
                }
            }
        }
    }
}

/// F025.
#[test]
fn no_limit_walks_around_the_pagination_limit_of_a_policy() {
    let site = Site::new();
    for i in 0..5 {
        site.secret(&format!("many/{i}"));
    }
    let client = site.under(r#"path "secret/metadata/*" { capabilities = ["list", "scan"] pagination_limit = 2 }"#);
    let queries = ["", "limit=0", "limit=1", "limit=2", "limit=3", "limit=-1", "limit=-9223372036854775808", "limit=x"];
    for query in queries {
        for verb in ["LIST", "SCAN"] {
            let reply = client.call(verb, &format!("secret/metadata/many?{query}"), None);
            match reply.status {
                200 => assert!(keys(&reply).len() <= 2, "{verb} {query}: {}", reply.text()),
                status => assert_eq!(status, 403, "{verb} {query}: {}", reply.text()),
            }
        }
    }
    assert_eq!(keys(&client.list("secret/metadata/many")).len(), 2);
    let detailed = site.under(r#"path "secret/+/many/*" { capabilities = ["list", "scan"] pagination_limit = 2 }"#);
    for verb in ["LIST", "SCAN"] {
        let reply = detailed.call(verb, "secret/detailed-metadata/many", None).expect(200);
        assert_eq!(reply.at("/data/key_info").as_object().map(|o| o.len()), Some(2), "{verb}: {}", reply.text());
    }
    let rest = client.list("secret/metadata/many?after=1&limit=2").expect(200);
    assert_eq!(keys(&rest), ["2", "3"]);
}

/// F026.
#[test]
fn a_filter_of_a_policy_makes_no_error_of_an_empty_list() {
    let site = Site::new();
    site.secret("app/mine");
    site.secret("app/other");
    let client = site.under(
        r#"
        path "secret/metadata/*" {
          capabilities = ["list"]
          list_scan_response_keys_filter_path = "secret/data/{{ .path }}{{ .key }}"
        }
        "#,
    );
    let empty = client.list("secret/metadata/nothing").expect(404);
    assert_eq!(empty.at("/errors"), json!([]));
}

/// F027.
#[test]
fn a_path_that_climbs_never_reaches_what_the_policy_did_not_judge() {
    let site = Site::new();
    site.secret("other");
    site.secret("app/a..b");
    let client = site.under(
        r#"
        path "secret/data/app/*"     { capabilities = ["create", "update", "read", "delete"] }
        path "secret/metadata/app/*" { capabilities = ["read", "delete"] }
        "#,
    );
    let climbs =
        ["app/../other", "app/./../other", "app/%2e%2e/other", "app/.%2e/other", "app/%2E%2E%2Fother", "app//../other"];
    for tree in ["data", "metadata"] {
        for climb in climbs {
            for verb in ["GET", "DELETE", "POST"] {
                let reply = client.raw(verb, &format!("/v1/secret/{tree}/{climb}"), &[], b"{\"data\":{\"a\":\"c\"}}");
                assert!(matches!(reply.status, 307 | 400 | 403 | 404), "{verb} {tree}/{climb}: {}", reply.text());
                assert!(reply.header("location").is_none_or(|l| !l.contains("..")), "{verb} {tree}/{climb}");
            }
        }
    }
    assert_eq!(site.root.get("secret/data/other").expect(200).at("/data/data"), json!({ "a": "b" }));
    assert_eq!(site.root.get("secret/metadata/other").expect(200).at("/data/current_version"), 1);
    client.get("secret/data/app/a..b").expect(200);
}

/// F029.
#[test]
fn a_full_write_of_a_policy_takes_its_expiration_off_and_a_patch_keeps_it() {
    let site = Site::new();
    let text = r#"path "a" { capabilities = ["read"] }"#;
    let path = "sys/policies/acl/p";
    let expiration = || site.root.get(path).expect(200).json()["data"].get("expiration").cloned();
    let merge = |body: Value| {
        let kind = [("Content-Type", "application/merge-patch+json")];
        site.root.raw("PATCH", &format!("/v1/{path}"), &kind, body.to_string().as_bytes()).expect(200)
    };
    for end in [json!({ "expiration": "2099-01-01T00:00:00Z" }), json!({ "ttl": "24h" })] {
        let mut body = json!({ "policy": text });
        body.as_object_mut().expect("an object").extend(end.as_object().expect("an object").clone());
        site.root.post(path, body).expect(204);
        let first = expiration();
        assert!(first.as_ref().is_some_and(Value::is_string), "{first:?}");
        merge(json!({ "policy": "path \"b\" { capabilities = [\"read\"] }" }));
        assert_eq!(expiration(), first, "a patch keeps what it does not name");
        site.root.post(path, json!({ "policy": text })).expect(204);
        assert!(expiration().is_none_or(|e| e.is_null() || e == ""), "{:?}", expiration());
    }
}

/// F030. Every capability that is answered is one that a request gets, and the other way round.
#[test]
fn what_capabilities_answer_is_what_a_request_gets() {
    let site = Site::new();
    let there = ["x/a", "x/b/c", "y/a"];
    for key in there {
        site.secret(key);
    }
    let policies = [
        r#"path "secret/data/x/*" { capabilities = ["read", "update"] }
           path "secret/metadata/x/*" { capabilities = ["list", "delete"] }"#,
        r#"path "secret/+/x/*" { capabilities = ["read", "list"] }
           path "secret/data/x/b/*" { capabilities = ["deny"] }
           path "secret/data/+" { capabilities = ["create"] }"#,
        r#"path "secret/*" { capabilities = ["read", "list", "scan", "patch"] }
           path "secret/data/x/a" { capabilities = ["delete"] }
           path "secret/metadata/x" { capabilities = ["deny"] }"#,
        r#"path "sys/policies/acl" { capabilities = ["list"] }
           path "sys/policies/acl/*" { capabilities = ["read", "sudo"] }"#,
    ];
    let mut paths: Vec<String> = vec!["sys/policies/acl".into(), "sys/policies/acl/default".into()];
    for tree in ["data", "metadata"] {
        paths.extend(["x/a", "x/b/c", "y/a", "x/new", "x", "x/b"].map(|key| format!("secret/{tree}/{key}")));
    }
    for policy in policies {
        let client = site.under(policy);
        // The path of a list is the folder's, with its slash.
        let asked: Vec<String> = paths.iter().flat_map(|p| [p.clone(), format!("{p}/")]).collect();
        let told = client.post("sys/capabilities-self", json!({ "paths": asked })).expect(200).at("/data");
        let acl = client.get("sys/internal/ui/resultant-acl").expect(200);
        assert_eq!(acl.at("/data/root"), false);
        for path in &paths {
            let told = |path: &str| -> Vec<String> {
                let list = told[path].as_array().unwrap_or_else(|| panic!("no {path} in {told}"));
                list.iter().map(|c| c.as_str().expect("a text").to_owned()).collect()
            };
            let gets = |verb: &str| {
                let kind = [("Content-Type", "application/merge-patch+json")];
                let reply = client.raw(verb, &format!("/v1/{path}"), &kind, b"{\"options\":{\"cas\":99}}");
                reply.status != 403
            };
            for (verb, capability) in
                [("GET", "read"), ("LIST", "list"), ("SCAN", "scan"), ("DELETE", "delete"), ("PATCH", "patch")]
            {
                // What was deleted by an attempt that was allowed is put back.
                let asked = if matches!(verb, "LIST" | "SCAN") { format!("{path}/") } else { path.clone() };
                let told = told(&asked);
                assert_eq!(gets(verb), told.iter().any(|c| c == capability), "{verb} {path} under {policy}: {told:?}");
                there.iter().for_each(|key| site.secret(key));
            }
            let exists = !path.ends_with("/new") && site.root.get(path).status == 200;
            if path.starts_with("secret/data/") {
                let needed = if exists { "update" } else { "create" };
                let told = told(path);
                assert_eq!(gets("POST"), told.iter().any(|c| c == needed), "POST {path} under {policy}: {told:?}");
            }
        }
    }
}
