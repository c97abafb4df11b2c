//! Query strings and forms.

use holdfast_sdk::{Map, Value};

/// The pairs of a query, decoded; `+` is a blank. Pairs that cannot be decoded are left out.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .filter_map(|p| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            Some((text(k)?, text(v)?))
        })
        .collect()
}

fn text(part: &str) -> Option<String> {
    let spaced = part.replace('+', " ");
    String::from_utf8(crate::path::decode(&spaced)?).ok()
}

/// The pairs as parameters: a key given twice is a list.
pub fn parameters(pairs: &[(String, String)]) -> Map<String, Value> {
    let mut map = Map::new();
    for (k, v) in pairs {
        match map.get_mut(k) {
            None => {
                map.insert(k.clone(), v.clone().into());
            }
            Some(Value::Array(list)) => list.push(v.clone().into()),
            Some(first) => *first = Value::Array(vec![first.take(), v.clone().into()]),
        }
    }
    map
}

/// A switch of the query: `None` where it is not there, an error where it is no boolean.
pub fn switch(pairs: &[(String, String)], name: &str) -> Result<Option<bool>, ()> {
    match pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()) {
        None => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(_) => Err(()),
    }
}
