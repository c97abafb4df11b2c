//! `policy fmt`: a policy's file in its one layout, after a check of what it says.

use super::layout::{Body, Item, Value, parse};
use crate::call::Call;
use crate::data::opening;
use crate::failure::{Failure, Outcome};

const KEYS: [&str; 13] = [
    "policy",
    "capabilities",
    "allowed_parameters",
    "denied_parameters",
    "required_parameters",
    "min_wrapping_ttl",
    "max_wrapping_ttl",
    "mfa_methods",
    "control_group",
    "pagination_limit",
    "list_scan_response_keys_filter_path",
    "expiration",
    "comment",
];
const CAPABILITIES: [&str; 11] =
    ["create", "read", "update", "patch", "delete", "list", "scan", "sudo", "deny", "subscribe", "recover"];

pub fn run(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = call.arg(0).trim();
    let source = std::fs::read_to_string(path)
        .map_err(|e| Failure::usage(format!("Error reading source file: {}", opening(path, &e))))?;
    let body = parse(&source).map_err(|why| Failure::usage(format!("failed to parse policy: {why}")))?;
    check(&body).map_err(|why| Failure::usage(format!("failed to parse policy: {why}")))?;
    std::fs::write(path, body.text())
        .map_err(|e| Failure::usage(format!("Error writing result: {}", opening(path, &e))))?;
    call.success(format_args!("Formatted policy: {path}"))
}

/// Whether it is a policy at all: rules for paths, with keys and capabilities that there are.
fn check(body: &Body) -> Result<(), String> {
    for item in &body.items {
        match (item.name(), &item.value) {
            ("path", Value::Object(rules)) => check_rules(&item.label(), rules)?,
            ("name" | "allow_slashes_in_identity_templates" | "allow_wildcards_in_identity_templates", _) => {}
            (other, _) => return Err(format!("invalid key {other:?} on line {}", item.line)),
        }
    }
    Ok(())
}

fn check_rules(path: &str, rules: &Body) -> Result<(), String> {
    for rule in &rules.items {
        if !KEYS.contains(&rule.name()) {
            return Err(format!("path {path:?}: invalid key {:?} on line {}", rule.name(), rule.line));
        }
        if rule.name() == "capabilities" {
            for capability in texts(rule) {
                if !CAPABILITIES.contains(&capability.as_str()) {
                    return Err(format!("path {path:?}: invalid capability {capability:?}"));
                }
            }
        }
    }
    Ok(())
}

fn texts(item: &Item) -> Vec<String> {
    match &item.value {
        Value::List(list) => list.entries.iter().map(|e| e.value.text(0).trim_matches('"').to_string()).collect(),
        Value::Literal(text) => vec![text.trim_matches('"').to_string()],
        Value::Object(_) => Vec::new(),
    }
}
