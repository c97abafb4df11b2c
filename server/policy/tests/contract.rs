//! What requests may do, as the contract has it and the reference was
//! recorded doing it (walks `policy_parameters`, `policy_limits`,
//! `policy_priority`, `policy_templates`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_policy::*;
use serde_json::{Value, json};

const NOW: SystemTime = UNIX_EPOCH;

fn policy(name: &str, text: &str) -> Arc<Policy> {
    Arc::new(Policy::parse(name, text).unwrap())
}

fn acl(texts: &[&str]) -> Acl {
    let policies: Vec<_> = texts.iter().enumerate().map(|(i, text)| policy(&format!("p{i}"), text)).collect();
    Acl::new(&policies, None, NOW).unwrap()
}

fn allowed(acl: &Acl, operation: Operation, path: &str) -> bool {
    acl.check(&Check::new(operation, path, NOW)).allowed
}

fn with_body(acl: &Acl, operation: Operation, body: &Value) -> Decision {
    let mut check = Check::new(operation, "kv/x", NOW);
    check.parameters = body.as_object();
    acl.check(&check)
}

/// A rule on `kv/*` with all that the walk of parameters allows.
fn kv(rule: &str) -> String {
    format!(
        "path \"kv/*\" {{ capabilities = [\"create\", \"update\", \"read\", \"patch\", \"list\", \"delete\"]\n {rule} }}"
    )
}

#[track_caller]
fn bodies(rules: &[&str], cases: &[(Value, bool)]) {
    let texts: Vec<String> = rules.iter().map(|rule| kv(rule)).collect();
    let acl = acl(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    for (body, expected) in cases {
        for operation in [Operation::Create, Operation::Update, Operation::Read, Operation::Patch] {
            let decision = with_body(&acl, operation, body);
            assert_eq!(decision.allowed, *expected, "{rules:?} {operation:?} {body}: {:?}", decision.denied);
        }
        for operation in [Operation::Delete, Operation::List] {
            assert!(with_body(&acl, operation, body).allowed, "{rules:?} {operation:?} {body}");
        }
    }
}

#[test]
fn required_parameters_must_be_there_in_lower_case() {
    bodies(
        &[r#"required_parameters = ["a", "B"]"#],
        &[
            (json!({}), false),
            (json!({"a": "1"}), false),
            (json!({"a": "1", "b": "2"}), true),
            (json!({"a": "", "b": null}), true),
            (json!({"a": "1", "b": "2", "c": "3"}), true),
            (json!({"A": "1", "B": "2"}), false),
        ],
    );
}

#[test]
fn allowed_parameters_bind_names_and_values() {
    bodies(
        &[r#"allowed_parameters = { "a" = [] }"#],
        &[
            (json!({}), true),
            (json!({"a": "1"}), true),
            (json!({"A": "1"}), true),
            (json!({"b": "1"}), false),
            (json!({"a": "1", "b": "1"}), false),
        ],
    );
    bodies(
        &[r#"allowed_parameters = { "a" = ["one", "two*", "*three", 4, true] }"#],
        &[
            (json!({"a": "one"}), true),
            (json!({"a": "twofold"}), true),
            (json!({"a": "a three"}), true),
            (json!({"a": "three"}), true),
            (json!({"a": true}), true),
            (json!({"a": "four"}), false),
            (json!({"a": 4}), false),
            (json!({"a": "4"}), false),
            (json!({"a": ["one"]}), false),
            (json!({"a": ""}), false),
        ],
    );
    bodies(
        &[r#"allowed_parameters = { "a" = [["x", "y"]] }"#],
        &[(json!({"a": ["x", "y"]}), true), (json!({"a": ["y", "x"]}), false), (json!({"a": "x"}), false)],
    );
}

#[test]
fn a_star_allows_any_name_whatever_its_values() {
    bodies(
        &[r#"allowed_parameters = { "a" = ["1"], "*" = ["9"] }"#],
        &[(json!({"a": "1", "b": "x"}), true), (json!({"a": "2", "b": "x"}), false), (json!({"b": "x"}), true)],
    );
}

#[test]
fn denied_parameters_win() {
    bodies(
        &[r#"denied_parameters = { "a" = [] }"#],
        &[(json!({"a": "1"}), false), (json!({"A": "1"}), false), (json!({"b": "1"}), true), (json!({}), true)],
    );
    bodies(
        &[r#"denied_parameters = { "a" = ["one", "tw*"] }"#],
        &[
            (json!({"a": "one"}), false),
            (json!({"a": "two"}), false),
            (json!({"a": "three"}), true),
            (json!({"a": ["one"]}), true),
        ],
    );
    bodies(&[r#"denied_parameters = { "*" = [] }"#], &[(json!({}), true), (json!({"a": "1"}), false)]);
    bodies(
        &[r#"allowed_parameters = { "a" = [] } denied_parameters = { "a" = ["x"] }"#],
        &[(json!({"a": "x"}), false), (json!({"a": "y"}), true), (json!({"b": "y"}), false)],
    );
    bodies(
        &[r#"allowed_parameters = { "a" = [] } required_parameters = ["b"]"#],
        &[(json!({"a": "1"}), false), (json!({"b": "1"}), false), (json!({"a": "1", "b": "1"}), false)],
    );
}

#[test]
fn parameters_of_several_policies_unite_and_a_policy_without_lifts_nothing() {
    let q1 = r#"allowed_parameters = { "a" = ["1"] }"#;
    let q2 = r#"allowed_parameters = { "a" = ["2"], "b" = [] }"#;
    let q3 = r#"denied_parameters = { "b" = [] } required_parameters = ["a"]"#;
    bodies(
        &[q1, q2],
        &[(json!({"a": "1"}), true), (json!({"a": "2"}), true), (json!({"a": "3"}), false), (json!({"b": "3"}), true)],
    );
    bodies(&[q1, q3], &[(json!({"b": "3"}), false)]);
    bodies(&[q2, q3], &[(json!({"a": "2"}), true), (json!({"a": "2", "b": "1"}), false)]);
    bodies(&[q1, ""], &[(json!({"c": "3"}), false)]);
    bodies(&["", q3], &[(json!({"c": "3"}), false)]);
    bodies(&[q1, r#"allowed_parameters = { "a" = [] }"#], &[(json!({"a": "any"}), true)]);
}

fn wrapped(acl: &Acl, seconds: Option<u64>) -> bool {
    let mut check = Check::new(Operation::Read, "kv/x", NOW);
    check.wrap_ttl = seconds.map(Duration::from_secs);
    acl.check(&check).allowed
}

#[test]
fn a_rule_for_the_wrapping_ttl_refuses_what_is_not_wrapped_so() {
    let both = acl(&[&kv("min_wrapping_ttl = 60\n max_wrapping_ttl = 120")]);
    for (ttl, expected) in [(None, false), (Some(59), false), (Some(60), true), (Some(120), true), (Some(121), false)] {
        assert_eq!(wrapped(&both, ttl), expected, "{ttl:?}");
    }
    let maximum = acl(&[&kv("max_wrapping_ttl = \"2m\""), &kv("")]);
    assert!(!wrapped(&maximum, None) && wrapped(&maximum, Some(120)) && !wrapped(&maximum, Some(180)));
    let smaller = acl(&[&kv("min_wrapping_ttl = \"1m\""), &kv("max_wrapping_ttl = \"5m\" min_wrapping_ttl = \"2m\"")]);
    assert!(wrapped(&smaller, Some(90)) && !wrapped(&smaller, Some(360)));
    let impossible = acl(&[&kv("min_wrapping_ttl = \"10m\""), &kv("max_wrapping_ttl = \"5m\"")]);
    assert!((0..1000).all(|ttl| !wrapped(&impossible, Some(ttl))));
}

#[test]
fn a_pagination_limit_fills_in_and_bounds() {
    let rules = [kv("pagination_limit = 3"), kv("pagination_limit = 5"), kv("")];
    let acl = acl(&[&rules[0], &rules[1], &rules[2]]);
    let limit = |body: Value| {
        let decision = with_body(&acl, Operation::List, &body);
        assert_eq!(decision.allowed, decision.pagination_limit.is_some());
        decision.pagination_limit
    };
    for none in [json!({}), json!({"limit": 0}), json!({"limit": "0"}), json!({"limit": ""}), json!({"after": "x"})] {
        assert_eq!(limit(none), Some(3));
    }
    assert_eq!(limit(json!({"limit": "2"})), Some(2));
    assert_eq!(limit(json!({"limit": 3})), Some(3));
    for refused in [
        json!({"limit": "4"}),
        json!({"limit": -1}),
        json!({"limit": "-1"}),
        json!({"limit": "x"}),
        json!({"limit": true}),
        json!({"limit": 1.5}),
    ] {
        assert_eq!(limit(refused), None);
    }
    let read = with_body(&acl, Operation::Read, &json!({"limit": "9"}));
    assert!(read.allowed && read.pagination_limit.is_none());
}

#[test]
fn only_keys_that_may_be_read_or_listed_pass_the_filter() {
    let acl = acl(&[r#"
        path "kv/f/" { capabilities = ["list"] list_scan_response_keys_filter_path = "{{ .path }}{{ .key }}" }
        path "kv/f/a" { capabilities = ["read"] }
        path "kv/f/b" { capabilities = ["update", "list", "sudo"] }
        path "kv/f/c" { capabilities = ["deny"] }
        path "kv/f/d/" { capabilities = ["list"] }
        path "kv/f/e" { capabilities = ["list"] }
        path "kv/f/g/" { capabilities = ["read"] }
        path "kv/f/h" { capabilities = ["read"] required_parameters = ["x"] }"#]);
    let decision = acl.check(&Check::new(Operation::List, "kv/f", NOW));
    let filter = decision.response_filter.unwrap();
    let shown: Vec<_> = ["a", "b", "c", "d/", "e/", "g/", "h", "i", "d"]
        .into_iter()
        .filter(|key| acl.shows(&filter, "kv/f", key, NOW))
        .collect();
    assert_eq!(shown, ["a", "d/", "e/"]);
}

#[test]
fn sudo_is_needed_beside_the_capability_on_protected_paths() {
    let acl = acl(&[
        r#"path "a" { capabilities = ["read"] } path "b" { capabilities = ["read", "sudo"] } path "c" { capabilities = ["sudo"] }"#,
    ]);
    let decide = |path, root_protected| acl.check(&Check { root_protected, ..Check::new(Operation::Read, path, NOW) });
    assert!(decide("a", false).allowed && decide("b", true).allowed && decide("b", true).sudo);
    assert_eq!(decide("a", true).denied, Some(Denied::Sudo));
    assert_eq!(decide("c", true).denied, Some(Denied::Capability(Capability::Read)));
}

#[test]
fn a_deny_below_stops_the_list_of_the_folder_itself() {
    // F022: LIST and SCAN refused for private, allowed for siblings and for
    // an explicitly re-granted child.
    let acl = acl(&[r#"
        path "kv/metadata/*" { capabilities = ["list", "scan"] }
        path "kv/metadata/private/*" { capabilities = ["deny"] }
        path "kv/metadata/private/open/*" { capabilities = ["list", "scan"] }"#]);
    for operation in [Operation::List, Operation::Scan] {
        for path in ["kv/metadata/private", "kv/metadata/private/", "kv/metadata/private/x/"] {
            assert!(!allowed(&acl, operation, path), "{operation:?} {path}");
        }
        for path in [
            "kv/metadata/",
            "kv/metadata/public",
            "kv/metadata/public/",
            "kv/metadata/private/open",
            "kv/metadata/private/open/",
        ] {
            assert!(allowed(&acl, operation, path), "{operation:?} {path}");
        }
    }
}

#[test]
fn a_list_is_allowed_by_a_rule_with_and_without_the_slash() {
    // F024: all spellings agree, with plain and with `+` rules.
    for rule in
        ["auth/approle/role", "auth/approle/role/", "auth/approle/+", "auth/+/role", "auth/+/role/", "+/approle/role"]
    {
        let acl = acl(&[&format!("path {rule:?} {{ capabilities = [\"list\", \"scan\"] }}")]);
        for path in ["auth/approle/role", "auth/approle/role/"] {
            assert!(allowed(&acl, Operation::List, path), "{rule} {path}");
            assert!(allowed(&acl, Operation::Scan, path), "{rule} {path}");
        }
        // The last segment of `auth/approle/` is empty, and `+` is any one.
        let plus_at_end = rule == "auth/approle/+";
        assert_eq!(allowed(&acl, Operation::List, "auth/approle"), plus_at_end, "{rule}");
        assert!(!allowed(&acl, Operation::Read, "auth/approle/role/"), "{rule}");
    }
}

#[test]
fn the_recorded_order_of_expressions_holds() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        (
            r#"path "kv/a*" { capabilities = ["read"] } path "kv/ab*" { capabilities = ["update"] }"#,
            &[("kv/a", "read"), ("kv/ab", "update"), ("kv/abc", "update"), ("kv/b", "deny")],
        ),
        (
            r#"path "kv/+/x" { capabilities = ["read"] } path "kv/a/*" { capabilities = ["update"] }"#,
            &[("kv/a/x", "update"), ("kv/b/x", "read"), ("kv/a/y", "update")],
        ),
        (
            r#"path "kv/+/b*" { capabilities = ["read"] } path "kv/+/bc" { capabilities = ["update"] }"#,
            &[("kv/a/b", "read"), ("kv/a/bc", "update"), ("kv/a/bcd", "read")],
        ),
        (
            r#"path "kv/*" { capabilities = ["read"] } path "kv/+" { capabilities = ["update"] }"#,
            &[("kv/a", "update"), ("kv/a/b", "read")],
        ),
        (
            r#"path "kv/+/*" { capabilities = ["read"] }"#,
            &[("kv/a", "deny"), ("kv/a/", "read"), ("kv/a/b", "read"), ("kv/a/b/c", "read")],
        ),
        (r#"path "kv/+/a" { capabilities = ["read"] }"#, &[("kv//a", "read"), ("kv/a", "deny")]),
        (
            r#"path "kv/*" { capabilities = ["deny"] } path "kv/a/*" { capabilities = ["read"] }"#,
            &[("kv/a/b", "read"), ("kv/b", "deny")],
        ),
        (
            r#"path "kv/a/" { capabilities = ["list"] } path "kv/b" { capabilities = ["list"] }"#,
            &[("kv/a", "deny"), ("kv/a/", "list"), ("kv/b", "list"), ("kv/b/", "list")],
        ),
        (r#"path "/kv/A" { capabilities = ["read"] }"#, &[("kv/A", "read"), ("/kv/A", "read"), ("kv/a", "deny")]),
    ];
    for (text, paths) in cases {
        let acl = acl(&[text]);
        for (path, expected) in *paths {
            assert_eq!(acl.capabilities(path, NOW), [*expected], "{path} by {text}");
        }
    }
}

#[test]
fn policies_unite_on_one_path_and_deny_wins_there() {
    let a = r#"path "kv/x" { capabilities = ["read"] } path "kv/y/*" { capabilities = ["read"] } path "kv/z" { capabilities = ["read"] }"#;
    let b = r#"path "kv/x" { capabilities = ["update"] } path "kv/y/z/*" { capabilities = ["update"] } path "kv/z" { capabilities = ["deny"] }"#;
    let c = r#"path "kv/*" { capabilities = ["deny"] } path "kv/y/*" { capabilities = ["list"] }"#;
    for order in [[a, b, c], [c, b, a], [b, a, c]] {
        let acl = acl(&order);
        assert_eq!(acl.capabilities("kv/x", NOW), ["read", "update"]);
        assert_eq!(acl.capabilities("kv/y/1", NOW), ["list", "read"]);
        assert_eq!(acl.capabilities("kv/y/z/1", NOW), ["update"]);
        assert_eq!(acl.capabilities("kv/z", NOW), ["deny"]);
        assert_eq!(acl.capabilities("kv/other", NOW), ["deny"]);
    }
    let decision = acl(&[a, b]).check(&Check::new(Operation::Update, "kv/x", NOW));
    assert_eq!(&*decision.granting_policies, [Arc::from("p1")]);
    assert_eq!(decision.capabilities.names(), ["read", "update"]);
}

#[test]
fn root_may_do_everything() {
    let acl = Acl::new(&[policy("p", "path \"a\" { capabilities = [\"deny\"] }"), Arc::new(Policy::root())], None, NOW)
        .unwrap();
    let decision = acl.check(&Check { root_protected: true, ..Check::new(Operation::Delete, "a", NOW) });
    assert!(decision.allowed && decision.root && decision.sudo && acl.is_root());
    assert_eq!(&*decision.granting_policies, [Arc::from("root")]);
    assert_eq!(acl.capabilities("a", NOW), ["root"]);
    // That of another namespace is so in it and below, and nowhere else.
    let acl = Acl::new(&[Arc::new(Policy::root().in_namespace("team/"))], None, NOW).unwrap();
    for (path, may) in
        [("team/sys/mounts", true), ("team/sub/kv/a", true), ("team2/kv/a", false), ("sys/mounts", false)]
    {
        let decision = acl.check(&Check { root_protected: true, ..Check::new(Operation::Delete, path, NOW) });
        assert_eq!((decision.allowed, decision.root, decision.sudo), (may, may, may), "{path}");
        assert_eq!(acl.capabilities(path, NOW), if may { ["root"] } else { ["deny"] });
        assert_eq!(acl.reaches(path, NOW), may);
    }
}

#[test]
fn a_policy_of_a_namespace_reaches_below_it_only() {
    let inside =
        Policy::parse("p", "path \"kv/*\" { capabilities = [\"read\"] } path \"+/x\" { capabilities = [\"read\"] }")
            .unwrap();
    let acl = Acl::new(&[Arc::new(inside.in_namespace("team/"))], None, NOW).unwrap();
    assert!(allowed(&acl, Operation::Read, "team/kv/a") && allowed(&acl, Operation::Read, "team/b/x"));
    assert!(!allowed(&acl, Operation::Read, "kv/a") && !allowed(&acl, Operation::Read, "other/kv/a"));
}

#[test]
fn rules_and_policies_end_at_their_time() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let ending = policy(
        "e",
        r#"path "kv/a" { capabilities = ["read"] expiration = 100 } path "kv/*" { capabilities = ["update"] }"#,
    );
    let also = Policy::parse("f", "path \"kv/a\" { capabilities = [\"list\"] }").unwrap().expiring_at(Some(at(200)));
    let acl = Acl::new(&[ending.clone(), Arc::new(also)], None, at(0)).unwrap();
    assert_eq!(acl.valid_until(), Some(at(100)));
    assert_eq!(acl.capabilities("kv/a", at(99)), ["list", "read"]);
    assert_eq!(acl.capabilities("kv/a", at(100)), ["list"]);
    assert_eq!(acl.capabilities("kv/a", at(200)), ["update"]);
    assert!(!acl.check(&Check::new(Operation::Read, "kv/a", at(150))).allowed);
    // One made after the end never had the rule.
    let later = Acl::new(&[ending], None, at(150)).unwrap();
    assert_eq!((later.valid_until(), later.capabilities("kv/a", at(0))), (None, vec!["update"]));
}

struct Bob;

impl TemplateValues for Bob {
    fn value(&self, key: &TemplateKey) -> Option<String> {
        let value = match key {
            TemplateKey::Entity(EntityField::Name) => "Bob",
            TemplateKey::Entity(EntityField::Metadata(key)) => match key.as_str() {
                "team" => "red",
                "empty" => "",
                "dir" => "x/y",
                "star" => "*",
                "plus" => "+",
                _ => return None,
            },
            TemplateKey::Alias { accessor, field: AliasField::Name } if accessor == "m1" => "bob",
            TemplateKey::Group { group: GroupSelector::Name(name), field: GroupField::Metadata(key) }
                if name == "crew" && key == "area" =>
            {
                "north"
            }
            _ => return None,
        };
        Some(value.to_owned())
    }
}

fn templated(template: &str) -> Result<Acl, AclError> {
    let policy = policy("t", &format!("path \"kv/{{{{{template}}}}}/k\" {{ capabilities = [\"read\"] }}"));
    Acl::new(&[policy], Some(&Bob), NOW)
}

#[test]
fn templates_are_filled_in_from_the_caller() {
    for (template, value) in [
        ("identity.entity.name", "Bob"),
        (" identity.entity.name ", "Bob"),
        ("identity.entity.metadata.team", "red"),
        ("identity.entity.metadata.empty", ""),
        ("identity.entity.aliases.m1.name", "bob"),
        ("identity.groups.names.crew.metadata.area", "north"),
    ] {
        let acl = templated(template).unwrap();
        assert!(allowed(&acl, Operation::Read, &format!("kv/{value}/k")), "{template}");
        assert!(!allowed(&acl, Operation::Read, "kv/other/k"));
    }
}

#[test]
fn a_rule_whose_template_has_no_value_does_not_apply() {
    for template in [
        "identity.entity.metadata.none",
        "identity.entity.aliases.m2.name",
        "identity.groups.names.x.id",
        "nothing",
        "time.now",
        "",
    ] {
        let acl = templated(template).unwrap();
        assert!(acl.rules().is_empty(), "{template}");
    }
    let default = policy("default", DEFAULT_POLICY);
    let without_entity = Acl::new(&[default], None, NOW).unwrap();
    assert_eq!(without_entity.rules().len(), 15);
    assert!(allowed(&without_entity, Operation::Read, "auth/token/lookup-self"));
}

#[test]
fn a_value_with_a_slash_or_wildcard_forbids_everything_unless_allowed() {
    for key in ["dir", "star", "plus"] {
        let error = templated(&format!("identity.entity.metadata.{key}")).unwrap_err();
        assert!(matches!(&error, AclError::TemplateValue { policy, .. } if &**policy == "t"));
        assert!(
            error
                .to_string()
                .starts_with(&format!("the value of {{{{identity.entity.metadata.{key}}}}} in policy \"t\""))
        );
    }
    let parse = |text| Policy::parse("t", text).unwrap();
    let slashes = parse("path \"kv/{{identity.entity.metadata.dir}}/*\" { capabilities = [\"read\"] }")
        .allow_slashes_in_templates(true);
    let acl = Acl::new(&[Arc::new(slashes)], Some(&Bob), NOW).unwrap();
    assert!(allowed(&acl, Operation::Read, "kv/x/y/k"));
    let wildcards = parse("path \"kv/{{identity.entity.metadata.star}}\" { capabilities = [\"read\"] } path \"a/{{identity.entity.metadata.plus}}/b\" { capabilities = [\"read\"] }")
        .allow_wildcards_in_templates(true);
    let acl = Acl::new(&[Arc::new(wildcards)], Some(&Bob), NOW).unwrap();
    assert!(allowed(&acl, Operation::Read, "kv/anything") && allowed(&acl, Operation::Read, "a/x/b"));
    let plus_star = parse("path \"a/{{identity.entity.metadata.plus}}*\" { }").allow_wildcards_in_templates(true);
    assert!(matches!(Acl::new(&[Arc::new(plus_star)], Some(&Bob), NOW), Err(AclError::PlusStar { .. })));
}

#[test]
fn the_default_policy_grants_what_the_contract_lists() {
    struct Entity;
    impl TemplateValues for Entity {
        fn value(&self, key: &TemplateKey) -> Option<String> {
            match key {
                TemplateKey::Entity(EntityField::Id) => Some("e1".to_owned()),
                TemplateKey::Entity(EntityField::Name) => Some("bob".to_owned()),
                _ => None,
            }
        }
    }
    let acl = Acl::new(&[policy("default", DEFAULT_POLICY)], Some(&Entity), NOW).unwrap();
    let granted: Vec<String> = acl
        .rules()
        .iter()
        .map(|rule| format!("{} {}", rule.expression, rule.permissions.capabilities.names().join(",")))
        .collect();
    assert_eq!(
        granted,
        [
            "auth/token/lookup-self read",
            "auth/token/renew-self update",
            "auth/token/revoke-self update",
            "cubbyhole/* create,delete,list,read,update",
            "identity/entity/id/e1 read",
            "identity/entity/name/bob read",
            "identity/oidc/provider/+/authorize read,update",
            "sys/capabilities-self update",
            "sys/internal/ui/resultant-acl read",
            "sys/leases/lookup update",
            "sys/leases/renew update",
            "sys/renew update",
            "sys/tools/hash update",
            "sys/tools/hash/* update",
            "sys/wrapping/lookup update",
            "sys/wrapping/unwrap update",
            "sys/wrapping/wrap update",
        ]
    );
}

#[test]
fn mounts_of_which_something_may_be_used_are_reached() {
    let acl = acl(&[r#"
        path "kv/data/a" { capabilities = ["read"] } path "no/*" { capabilities = ["deny"] }
        path "none/a" { } path "+/team/x" { capabilities = ["list"] }"#]);
    assert!(acl.reaches("kv/", NOW) && acl.reaches("any/", NOW) && acl.reaches("any/team/", NOW));
    assert!(!acl.reaches("any/other/", NOW));
}

#[test]
fn the_reason_for_a_refusal_is_given() {
    let acl = acl(&[r#"
        path "kv/x" { capabilities = ["update"] required_parameters = ["r"] denied_parameters = { d = [] } allowed_parameters = { r = [] } }
        path "deny" { capabilities = ["deny"] }
        path "wrap" { capabilities = ["read"] min_wrapping_ttl = 5 }
        path "few/" { capabilities = ["list"] pagination_limit = 2 }"#]);
    let reason = |operation, path, body: Value| {
        let mut check = Check::new(operation, path, NOW);
        check.parameters = body.as_object();
        acl.check(&check).denied
    };
    use Operation::{List, Read, Update};
    assert_eq!(reason(Read, "none", json!({})), Some(Denied::NoRule));
    assert_eq!(reason(Read, "deny", json!({})), Some(Denied::Explicitly));
    assert_eq!(reason(Read, "kv/x", json!({})), Some(Denied::Capability(Capability::Read)));
    assert_eq!(reason(Read, "wrap", json!({})), Some(Denied::WrappingTtl));
    assert_eq!(reason(Update, "kv/x", json!({})), Some(Denied::Required("r".to_owned())));
    assert_eq!(reason(Update, "kv/x", json!({"r": 1, "D": 1})), Some(Denied::DeniedParameter("D".to_owned())));
    assert_eq!(reason(Update, "kv/x", json!({"r": 1, "o": 1})), Some(Denied::NotAllowed("o".to_owned())));
    assert_eq!(reason(List, "few", json!({"limit": 3})), Some(Denied::PaginationLimit(2)));
    assert_eq!(reason(Update, "kv/x", json!({"r": 1})), None);
}
