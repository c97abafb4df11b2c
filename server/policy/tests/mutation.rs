//! No text makes the reader of policies panic, and whatever it takes can be
//! asked.

use std::sync::Arc;
use std::time::SystemTime;

use holdfast_policy::{Acl, Check, DEFAULT_POLICY, Operation, Policy, RESPONSE_WRAPPING_POLICY};
use proptest::prelude::*;

const RICH: &str = r#"name = "x"
path "secret/data/{{identity.entity.metadata.team}}/+/a*" {
  capabilities = ["create", "read", "list"]
  required_parameters = ["a"]
  allowed_parameters = { "a" = ["x*", 1, true, ["l"], {m = 1}], "*" = [] }
  denied_parameters { b = [] }
  min_wrapping_ttl = "1m" max_wrapping_ttl = 7200
  pagination_limit = 10
  list_scan_response_keys_filter_path = "{{ .path }}{{- .key -}}"
  expiration = "2100-01-01T00:00:00Z"
  control_group = { factor "a" { identity { group_names = ["g"] } } }
  mfa_methods = ["m"]
}
path "old" { policy = "write" }
path "+" { capabilities = ["deny"] }"#;

const JSON: &str = r#"{"path": {"a/*": {"capabilities": ["read"], "expiration": 5}, "b": [{"policy": "sudo"}]}}"#;

const SEEDS: [&str; 4] = [RICH, JSON, DEFAULT_POLICY, RESPONSE_WRAPPING_POLICY];

const FRAGMENTS: [&str; 24] = [
    "path",
    "\"",
    "{",
    "}",
    "[",
    "]",
    "*",
    "+",
    "+*",
    "/",
    "{{",
    "}}",
    "{{identity.entity.id}}",
    "deny",
    "sudo",
    "=",
    ",",
    "-1",
    "9223372036854775808",
    "\u{e9}",
    "\n",
    "capabilities",
    "expiration",
    "<<E\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_policies_never_panic(
        seed in 0..SEEDS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..30_usize, 0..FRAGMENTS.len()), 1..8),
        path in "[a-z+*/]{0,12}",
    ) {
        let mut text: Vec<char> = SEEDS[seed].chars().collect();
        for (at, cut, fragment) in changes {
            let start = at.index(text.len() + 1);
            let end = (start + cut / 3).min(text.len());
            text.splice(start..end, FRAGMENTS[fragment].chars());
        }
        let text: String = text.into_iter().collect();
        let lines = u32::try_from(text.matches('\n').count()).unwrap() + 1;
        match Policy::parse("p", &text) {
            Err(error) => prop_assert!(error.position.line <= lines && !error.to_string().is_empty()),
            Ok(policy) => {
                let now = SystemTime::UNIX_EPOCH;
                if let Ok(acl) = Acl::new(&[Arc::new(policy)], None, now) {
                    for operation in [Operation::Read, Operation::List, Operation::Create] {
                        let decision = acl.check(&Check::new(operation, &path, now));
                        prop_assert_eq!(decision.allowed, decision.denied.is_none());
                    }
                    prop_assert!(!acl.capabilities(&path, now).is_empty());
                    acl.reaches(&path, now);
                }
            }
        }
    }
}

#[test]
fn the_seeds_are_policies() {
    for seed in SEEDS {
        Policy::parse("p", seed).unwrap();
    }
}
