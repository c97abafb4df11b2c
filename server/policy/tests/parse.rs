//! What may stand in a policy, and what is said of what may not.

use std::time::{Duration, UNIX_EPOCH};

use holdfast_policy::{Capabilities, Capability, ParameterValue, Policy, Rule};

fn rule(text: &str) -> Rule {
    Policy::parse("p", text).unwrap().rules()[0].clone()
}

fn body(text: &str) -> Rule {
    rule(&format!("path \"a\" {{ {text} }}"))
}

#[track_caller]
fn refused(text: &str, message: &str) {
    assert_eq!(Policy::parse("p", text).unwrap_err().to_string(), message);
}

#[test]
fn a_policy_may_be_empty_or_only_named() {
    for text in ["", "   ", "# nothing", "name = \"x\"", "{}", "{\"name\": \"x\"}"] {
        assert!(Policy::parse("p", text).unwrap().rules().is_empty(), "{text:?}");
    }
}

#[test]
fn json_says_the_same_as_hcl() {
    for text in [
        "path \"a/*\" { capabilities = [\"read\"] }\npath \"b\" { policy = \"deny\" }",
        r#"{"path": {"a/*": {"capabilities": ["read"]}, "b": {"policy": "deny"}}}"#,
        r#"{"path": [{"a/*": {"capabilities": ["read"]}}, {"b": {"policy": "deny"}}]}"#,
        r#"{"path": [{"a/*": [{"capabilities": ["read"]}]}, {"b": {"policy": "deny"}}]}"#,
    ] {
        let policy = Policy::parse("p", text).unwrap();
        let rules: Vec<_> = policy.rules().iter().map(|r| (r.path.as_str(), r.capabilities.names())).collect();
        assert_eq!(rules, [("a/*", vec!["read"]), ("b", vec!["deny"])], "{text}");
    }
}

#[test]
fn capabilities_are_sorted_and_deny_stands_alone() {
    let names = |text: &str| body(text).capabilities.names();
    assert_eq!(
        names(r#"capabilities = ["update", "create", "sudo", "scan", "read", "patch", "list", "delete"]"#),
        ["create", "delete", "list", "patch", "read", "scan", "sudo", "update"]
    );
    assert_eq!(names(r#"capabilities = ["read", "deny", "update"]"#), ["deny"]);
    assert_eq!(names(r#"capabilities = ["read", "read"] capabilities = ["list"]"#), ["list", "read"]);
    assert_eq!(names(r#"capabilities = ["subscribe", "recover"]"#), ["recover", "subscribe"]);
    assert_eq!(names(""), ["deny"]);
}

#[test]
fn the_old_words_are_understood() {
    let names = |text: &str| body(text).capabilities.names();
    assert_eq!(names("policy = \"read\""), ["list", "read"]);
    assert_eq!(names("policy = \"write\""), ["create", "delete", "list", "read", "update"]);
    assert_eq!(names("policy = \"sudo\""), ["create", "delete", "list", "read", "sudo", "update"]);
    assert_eq!(names("policy = \"deny\" capabilities = [\"read\"]"), ["deny"]);
    assert_eq!(names("policy = \"read\" capabilities = [\"patch\"]"), ["list", "patch", "read"]);
}

#[test]
fn everything_a_rule_may_say_is_kept() {
    let rule = body(
        r#"capabilities = ["list"] comment = "why"
           required_parameters = ["Q", 1]
           allowed_parameters = { "A" = ["x", 1, true, ["l"], { "k" = "v" }], "*" = [] }
           denied_parameters { b = [] }
           min_wrapping_ttl = 60 max_wrapping_ttl = "2h"
           pagination_limit = "5"
           list_scan_response_keys_filter_path = "{{ .path }}{{ .key }}"
           expiration = "2100-01-01T00:00:00Z"
           control_group = { factor "f" { } } mfa_methods = ["m"] subscribe_event_types = ["*"]"#,
    );
    assert_eq!(rule.required_parameters, ["q", "1"]);
    assert_eq!(rule.allowed_parameters["a"][1], ParameterValue::Number("1".to_owned()));
    assert_eq!(rule.allowed_parameters["a"].len(), 5);
    assert!(rule.allowed_parameters["*"].is_empty() && rule.denied_parameters["b"].is_empty());
    assert_eq!(rule.min_wrapping_ttl, Some(Duration::from_secs(60)));
    assert_eq!(rule.max_wrapping_ttl, Some(Duration::from_secs(7200)));
    assert_eq!(rule.pagination_limit, Some(5));
    assert_eq!(rule.response_filter.unwrap().as_text(), "{{ .path }}{{ .key }}");
    assert_eq!(rule.expiration, Some(UNIX_EPOCH + Duration::from_secs(4_102_444_800)));
    assert!(matches!(rule.control_group, Some(ParameterValue::Map(_))));
    assert_eq!((rule.mfa_methods.len(), rule.comment.as_deref()), (1, Some("why")));
}

#[test]
fn limits_that_are_none_are_no_limits() {
    let rule = body(
        "pagination_limit = -1 min_wrapping_ttl = -1 max_wrapping_ttl = \"-1h\" list_scan_response_keys_filter_path = \"\"",
    );
    assert_eq!((rule.pagination_limit, rule.min_wrapping_ttl, rule.max_wrapping_ttl), (None, None, None));
    assert!(rule.response_filter.is_none());
}

#[test]
fn paths_lose_one_leading_slash() {
    assert_eq!(rule("path \"/a\" { }").path, "a");
    assert_eq!(rule("path \"//a\" { }").path, "/a");
    assert_eq!(rule("path \"\" { }").path, "");
    assert_eq!(rule("path \"a*b\" { }").path, "a*b");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    refused("path {", "at 1:7: expected `}`, found the end of the document");
    refused("path { capabilities = [\"read\"] }", "at 1:1: \"path\" needs a quoted name, as in `path \"…\" { … }`");
    refused("path \"a\" \"b\" { }", "at 1:10: \"path\" has the label \"b\", which has no meaning here");
    refused("colour = \"red\"\npath \"a\" { }", "at 1:1: invalid key \"colour\"; known here are name, path");
    refused(
        "path \"a\" {\n  colour = \"red\"\n}",
        "at 2:3: path \"a\": invalid key \"colour\"; known here are allowed_parameters, capabilities, comment, control_group, \
         denied_parameters, expiration, list_scan_response_keys_filter_path, max_wrapping_ttl, mfa_methods, min_wrapping_ttl, \
         pagination_limit, policy, required_parameters, subscribe_event_types",
    );
    refused(
        "path \"a\" { capabilities = [\"read\",\n \"fly\"] }",
        "at 2:2: path \"a\": invalid capability \"fly\"; capabilities are create, read, update, patch, delete, list, scan, sudo, deny",
    );
    refused(
        "path \"a\" { policy = \"fly\" }",
        "at 1:21: path \"a\": invalid policy \"fly\"; it may be read, write, sudo or deny (better: capabilities)",
    );
    refused(
        "path \"a\" { capabilities = \"read\" }",
        "at 1:27: path \"a\": capabilities must be a list of strings, not a string",
    );
    refused(
        "path \"a\" { required_parameters = \"x\" }",
        "at 1:34: path \"a\": required_parameters must be a list of strings, not a string",
    );
    refused(
        "path \"a\" { allowed_parameters = [\"x\"] }",
        "at 1:33: path \"a\": allowed_parameters must be a map of lists, not a list",
    );
    refused(
        "path \"a\" { denied_parameters = { b = \"x\" } }",
        "at 1:38: path \"a\": denied_parameters.b must be a list of values, not a string",
    );
    refused(
        "path \"a/+*\" { }",
        "at 1:6: path \"a/+*\": invalid use of wildcards ('+*' is forbidden); end the path in `+/*` or `*`",
    );
    refused(
        "path \"a/{{identity.entity.id\" { }",
        "at 1:6: path \"a/{{identity.entity.id\": unbalanced templating characters in the path; a template is `{{identity.…}}`",
    );
    refused(
        "path \"a\" { min_wrapping_ttl = \"2h\" max_wrapping_ttl = \"1h\" }",
        "at 1:36: path \"a\": max_wrapping_ttl cannot be less than min_wrapping_ttl",
    );
    refused(
        "path \"a\" { min_wrapping_ttl = \"long\" }",
        "at 1:31: path \"a\": min_wrapping_ttl: \"long\" is not a duration as in 90, \"90s\" or \"1h30m\"",
    );
    refused(
        "path \"a\" { pagination_limit = \"x\" }",
        "at 1:31: path \"a\": pagination_limit: \"x\" is not a whole number",
    );
    refused(
        "path \"a\" { pagination_limit = true }",
        "at 1:31: path \"a\": pagination_limit must be a number, not a boolean",
    );
    refused(
        "path \"a\" { expiration = \"yesterday\" }",
        "at 1:25: path \"a\": expiration: \"yesterday\" is not a time as in 2030-01-31T12:00:00Z, or seconds since 1970",
    );
    refused(
        "path \"a/\" { list_scan_response_keys_filter_path = \"{{ .key\" }",
        "at 1:51: path \"a/\": list_scan_response_keys_filter_path: \"{{ .key\" is no template of text, {{ .path }} and {{ .key }}",
    );
    refused(
        "path \"a/\" { list_scan_response_keys_filter_path = \"{{ .nothing }}\" }",
        "at 1:51: path \"a/\": list_scan_response_keys_filter_path resulted in same path for two different keys; it must hold {{ .key }}",
    );
}

/// Who wrote such a rule never meant to grant without the approval, and nothing here asks for one.
#[test]
fn a_rule_that_asks_for_an_approval_denies() {
    for asks in [
        r#"mfa_methods = ["m"]"#,
        r#"control_group = { factor "f" { identity { group_names = ["g"] approvals = 2 } } }"#,
        r#"control_group { ttl = "4h" }"#,
    ] {
        let rule = body(&format!(r#"capabilities = ["read", "sudo"] {asks}"#));
        assert!(rule.needs_approval(), "{asks}");
        assert_eq!(rule.capabilities, Capabilities::NONE.with(Capability::Deny), "{asks}");
    }
    for asks in ["mfa_methods = []", "control_group = {}"] {
        let rule = body(&format!(r#"capabilities = ["read"] {asks}"#));
        assert!(!rule.needs_approval() && rule.capabilities.contains(Capability::Read), "{asks}");
    }
}
