//! Random policies and paths, with what the reference (OpenBao 2.7.2)
//! answered at `sys/capabilities-self`, recorded in `recorded.json`. A path
//! that ends in `/` is judged there as a list is.

use std::sync::Arc;
use std::time::SystemTime;

use holdfast_policy::{Acl, Policy};
use serde_json::Value;

fn policy(index: usize, rules: &Value) -> Arc<Policy> {
    let mut text = String::new();
    for rule in rules.as_array().unwrap() {
        text += &format!("path {} {{ capabilities = {} }}\n", rule[0], rule[1]);
    }
    Arc::new(Policy::parse(&format!("r{index}"), &text).unwrap())
}

#[test]
fn capabilities_are_those_of_the_reference() {
    let now = SystemTime::UNIX_EPOCH;
    let recorded: Value = serde_json::from_str(include_str!("recorded.json")).unwrap();
    let mut asked = 0;
    let mut wrong = Vec::new();
    for case in recorded.as_array().unwrap() {
        let policies = case["policies"].as_array().unwrap();
        let policies: Vec<_> = policies.iter().enumerate().map(|(i, rules)| policy(i, rules)).collect();
        let acl = Acl::new(&policies, None, now).unwrap();
        for (path, expected) in case["capabilities"].as_object().unwrap() {
            let ours = serde_json::json!(acl.capabilities(path, now));
            if ours != *expected {
                wrong.push(format!("{path:?}: ours {ours}, theirs {expected}, by {}", case["policies"]));
            }
            asked += 1;
        }
    }
    assert!(asked > 5000);
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}
