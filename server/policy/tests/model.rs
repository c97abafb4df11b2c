//! The matcher against a slow model written from the contract alone: try
//! every expression on the path, sort those that match, take the greatest.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::SystemTime;

use holdfast_policy::{Acl, Check, Operation, Policy};
use proptest::prelude::*;

/// Whether an expression stands for a path.
fn matches(expression: &str, path: &str) -> bool {
    let (body, glob) = match expression.strip_suffix('*') {
        Some(body) => (body, true),
        None => (expression, false),
    };
    let ours: Vec<&str> = body.split('/').collect();
    let theirs: Vec<&str> = path.split('/').collect();
    if theirs.len() < ours.len() || (!glob && theirs.len() != ours.len()) {
        return false;
    }
    ours.iter().enumerate().all(|(i, our)| {
        let last = i + 1 == ours.len();
        *our == "+" || *our == theirs[i] || (glob && last && theirs[i].starts_with(our))
    })
}

/// The order of the contract.
fn compare(a: &str, b: &str) -> Ordering {
    let first = |e: &str| {
        let star = if e.ends_with('*') { e.len() - 1 } else { e.len() };
        let plus = e.split('/').position(|s| s == "+").map(|n| e.split('/').take(n).map(|s| s.len() + 1).sum());
        star.min(plus.unwrap_or(usize::MAX))
    };
    let pluses = |e: &str| e.split('/').filter(|s| *s == "+").count();
    first(a)
        .cmp(&first(b))
        .then(b.ends_with('*').cmp(&a.ends_with('*')))
        .then(pluses(b).cmp(&pluses(a)))
        .then(a.len().cmp(&b.len()))
        .then(a.cmp(b))
}

/// The expression that decides on a path.
fn decide<'a>(expressions: &[&'a str], path: &str, lists: bool) -> Option<&'a str> {
    let plain = |e: &&&str| !e.ends_with('*') && !e.split('/').any(|s| s == "+");
    let exact = |path: &str| expressions.iter().filter(plain).find(|e| **e == path).copied();
    let best = |path: &str| {
        let matching = expressions.iter().filter(|e| !plain(e) && matches(e, path));
        matching.max_by(|a, b| compare(a, b)).copied()
    };
    if !lists {
        return exact(path).or_else(|| best(path));
    }
    let bare = path.strip_suffix('/').unwrap_or(path);
    let folder = format!("{bare}/");
    exact(&folder).or_else(|| exact(bare)).or_else(|| best(&folder)).or_else(|| best(bare))
}

fn segment() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just("ab"), 1 => Just("")]
}

fn expression() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => segment(), 2 => Just("+")];
    let end = prop_oneof![4 => Just(""), 3 => Just("*"), 1 => Just("/"), 1 => Just("/*")];
    (prop::collection::vec(part, 1..5), end)
        .prop_map(|(parts, end)| format!("{}{end}", parts.join("/")))
        // A leading slash is dropped, and `+*` is refused.
        .prop_filter("not an expression", |e| !e.contains("+*") && !e.starts_with('/'))
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(segment(), 1..6)
        .prop_map(|parts| parts.join("/"))
        .prop_filter("begins with a slash", |path| !path.starts_with('/'))
}

const CAPABILITIES: [&str; 6] = ["create", "read", "update", "list", "scan", "deny"];
const OPERATIONS: [Operation; 5] =
    [Operation::Create, Operation::Read, Operation::Update, Operation::List, Operation::Scan];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_matcher_decides_as_the_model(
        policies in prop::collection::vec(
            prop::collection::vec((expression(), prop::collection::vec(0..6_usize, 0..4)), 1..12), 1..4),
        paths in prop::collection::vec(path(), 1..20),
    ) {
        let now = SystemTime::UNIX_EPOCH;
        let mut parsed = Vec::new();
        for (index, rules) in policies.iter().enumerate() {
            let mut text = String::new();
            for (expression, capabilities) in rules {
                let names: Vec<_> = capabilities.iter().map(|c| format!("{:?}", CAPABILITIES[*c])).collect();
                text += &format!("path {expression:?} {{ capabilities = [{}] }}\n", names.join(","));
            }
            parsed.push(Arc::new(Policy::parse(&format!("p{index}"), &text).unwrap()));
        }
        let acl = Acl::new(&parsed, None, now).unwrap();
        let all: Vec<_> = policies.iter().flatten().collect();
        let expressions: Vec<&str> = all.iter().map(|(e, _)| e.as_str()).collect();
        for path in &paths {
            for operation in OPERATIONS {
                let lists = matches!(operation, Operation::List | Operation::Scan);
                let decided = decide(&expressions, path, lists);
                let united: Vec<&str> = all
                    .iter()
                    .filter(|(e, _)| Some(e.as_str()) == decided)
                    .flat_map(|(_, capabilities)| capabilities.iter().map(|c| CAPABILITIES[*c]))
                    .collect();
                let needed = operation.capability().as_str();
                let expected = !united.contains(&"deny") && united.contains(&needed);
                let decision = acl.check(&Check::new(operation, path, now));
                prop_assert_eq!(decision.allowed, expected, "{:?} {:?} by {:?}", operation, path, decided);
                prop_assert_eq!(decision.denied.is_none(), expected);
                // Who grants is named, and nobody else.
                for (index, rules) in policies.iter().enumerate() {
                    let granted = expected && rules.iter().any(|(e, capabilities)| {
                        Some(e.as_str()) == decided && capabilities.iter().any(|c| CAPABILITIES[*c] == needed)
                            && !capabilities.iter().any(|c| CAPABILITIES[*c] == "deny")
                    });
                    let named = decision.granting_policies.iter().any(|name| **name == *format!("p{index}"));
                    prop_assert_eq!(named, granted);
                }
            }
        }
    }
}
