//! What `policy lint` finds, and what it lets pass.

use std::time::{Duration, UNIX_EPOCH};

use holdfast_policy::{Acl, Check, LintCheck, LintOptions, Operation, Policy, lint};

/// The names of what is found, with line and column.
#[track_caller]
fn found(text: &str) -> Vec<String> {
    let options =
        LintOptions { kv2_mounts: vec!["secret".into()], now: UNIX_EPOCH + Duration::from_secs(1_900_000_000) };
    let findings = lint(text, &options).unwrap();
    findings.iter().map(|f| format!("{} {}", f.position, f.check.as_str())).collect()
}

/// What is found of a rule that reads a path.
#[track_caller]
fn of_path(path: &str) -> Vec<String> {
    let found = found(&format!("path {path:?} {{ capabilities = [\"read\"] }}"));
    found.iter().map(|f| f.split_once(' ').unwrap().1.to_owned()).collect()
}

#[test]
fn rules_that_do_not_match_what_they_seem_to() {
    for (path, check) in [
        ("//kv/a", "leading-slash"),
        ("/kv/a", "leading-slash"),
        ("", "leading-slash"),
        ("v1/kv/a", "v1-prefix"),
        ("/v1/kv/a", "v1-prefix"),
        ("kv/a/", "trailing-slash"),
        ("kv/*/a", "star-within"),
        ("kv/a*b", "star-within"),
        ("kv/a+", "plus-within"),
        ("kv/+b/c", "plus-within"),
        ("kv/{{identity.nothing}}", "unknown-template"),
    ] {
        assert!(of_path(path).contains(&check.to_owned()), "{path}: {:?}", of_path(path));
    }
    for path in ["kv/a", "kv/*", "kv/+/a*", "+/a", "kv/{{identity.entity.id}}/*", "kv/a*"] {
        assert_eq!(of_path(path), [""; 0], "{path}");
    }
}

#[test]
fn a_folder_may_be_listed() {
    assert_eq!(found(r#"path "kv/a/" { capabilities = ["list", "scan"] }"#), [""; 0]);
}

#[test]
fn paths_of_kv_version_2() {
    for path in ["secret/app", "secret/app/*", "secret/databases/*", "secret/", "secret/app*"] {
        assert_eq!(of_path(path).last().map(String::as_str), Some("kv2-path"), "{path}");
    }
    for path in
        ["secret/*", "secret/data/app", "secret/metadata/*", "secret/+/app", "secret/da*", "secret/config", "secrets/a"]
    {
        assert_eq!(of_path(path), [""; 0], "{path}");
    }
    let lists = r#"path "secret/data/*" { capabilities = ["read", "list"] }"#;
    assert_eq!(found(lists), ["1:6 kv2-list"]);
    assert_eq!(found(&format!("{lists} path \"secret/metadata/*\" {{ capabilities = [\"list\"] }}")), [""; 0]);
}

#[test]
fn the_path_to_write_instead_is_told() {
    let options = LintOptions { kv2_mounts: vec!["secret".into()], now: UNIX_EPOCH };
    for (path, capability, instead) in [
        ("secret/app/db", "read", "secret/data/app/db"),
        ("secret/app/*", "list", "secret/metadata/app/*"),
        ("v1/kv/a", "read", "kv/a"),
        ("kv/*/a", "read", "kv/+/a"),
    ] {
        let findings = lint(&format!("path {path:?} {{ capabilities = [{capability:?}] }}"), &options).unwrap();
        assert_eq!(findings[0].instead.as_deref(), Some(instead), "{path}");
    }
}

#[test]
fn grants_that_reach_too_far_or_nowhere() {
    for path in ["*", "sys/*", "sys*", "auth/*", "identity/*", "+/*"] {
        assert_eq!(of_path(path), ["too-wide"], "{path}");
    }
    for path in ["sys/health", "sys/policies/*", "+/a", "auth/+/login/*"] {
        assert_eq!(of_path(path), [""; 0], "{path}");
    }
    let kinds = |rule: &str| found(&format!("path \"kv/a\" {{\n  {rule}\n}}"));
    assert_eq!(kinds(r#"capabilities = ["read", "sudo"]"#), ["2:3 sudo"]);
    assert_eq!(kinds(r#"capabilities = []"#), ["2:3 no-capabilities"]);
    assert_eq!(kinds(r#"comment = "x""#), ["1:6 no-capabilities"]);
    assert_eq!(kinds(r#"capabilities = ["read", "deny"]"#), ["2:3 deny-with-others"]);
    assert_eq!(kinds(r#"capabilities = ["deny"]"#), [""; 0]);
    assert_eq!(kinds("capabilities = [\"read\"]\n  expiration = \"2020-01-01T00:00:00Z\""), ["3:3 expired"]);
    assert_eq!(kinds("capabilities = [\"read\"]\n  expiration = \"2100-01-01T00:00:00Z\""), [""; 0]);
    assert_eq!(kinds("capabilities = [\"read\"]\n  mfa_methods = [\"x\"]"), ["1:6 approval"]);
    let parameters =
        "capabilities = [\"update\"]\n  required_parameters = [\"b\"]\n  allowed_parameters = { \"a\" = [] }";
    assert_eq!(kinds(parameters), ["3:3 parameters"]);
    assert_eq!(found(""), ["1:1 no-rules"]);
}

#[test]
fn what_rules_make_of_each_other() {
    let two = |a: &str, b: &str| found(&format!("path \"{a}\" {{ capabilities = [\"read\"] }}\npath {b}"));
    assert_eq!(two("kv/a", "\"kv/a\" { capabilities = [\"update\"] }"), ["2:6 duplicate"]);
    assert_eq!(two("kv/*", "\"kv/+/a*\" { capabilities = [\"update\"] }"), ["2:6 shadowed"]);
    assert_eq!(two("kv/*", "\"kv/+/a\" { capabilities = [\"update\"] }"), [""; 0]);
    assert_eq!(two("kv/a/b", "\"kv/*\" { capabilities = [\"deny\"] }"), ["2:6 deny-granted-around"]);
    assert_eq!(two("kv/*", "\"kv/a\" { capabilities = [\"deny\"] }"), [""; 0]);
}

#[test]
fn what_is_called_shadowed_never_decides() {
    let text = r#"path "kv/*" { capabilities = ["read"] } path "kv/+/a*" { capabilities = ["update"] }"#;
    let acl = Acl::new(&[Policy::parse("p", text).unwrap().into()], None, UNIX_EPOCH).unwrap();
    for path in ["kv/x/a", "kv/x/ab/c", "kv//a"] {
        assert!(!acl.check(&Check::new(Operation::Update, path, UNIX_EPOCH)).allowed, "{path}");
    }
}

#[test]
fn json_is_read_too_and_what_is_no_policy_is_refused() {
    assert_eq!(found(r#"{"path": {"sys/*": {"capabilities": ["sudo"]}}}"#).len(), 2);
    let options = LintOptions { kv2_mounts: Vec::new(), now: UNIX_EPOCH };
    assert_eq!(lint("path \"a\" {\n  capabilities = [\"reed\"]\n}", &options).unwrap_err().position.line, 2);
    assert_eq!(lint(r#"path "secret/a" { capabilities = ["read"] }"#, &options).unwrap(), []);
    assert!(LintCheck::Kv2Path.as_str() == "kv2-path");
}
