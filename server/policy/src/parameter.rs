//! Values of parameters in rules, and how a request's values compare.

use std::collections::BTreeMap;

use holdfast_hcl::{Node, Value};

/// Names of parameters in lower case, each with the values that a rule names;
/// no values means any value.
pub type Parameters = BTreeMap<String, Vec<ParameterValue>>;

/// A value in a rule's `allowed_parameters` or `denied_parameters`.
#[derive(Clone, Debug, PartialEq)]
pub enum ParameterValue {
    /// `null`, in a policy in JSON.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number as written. It equals no request's value, as in the
    /// reference.
    Number(String),
    /// A string, which may begin or end with `*`.
    String(String),
    /// A list, compared whole.
    List(Vec<ParameterValue>),
    /// A map, compared whole.
    Map(BTreeMap<String, ParameterValue>),
}

impl ParameterValue {
    /// Takes a value of a document as it is.
    pub(crate) fn from_node(node: &Node) -> ParameterValue {
        match &node.value {
            Value::Null => ParameterValue::Null,
            Value::Bool(value) => ParameterValue::Bool(*value),
            Value::Number(number) => ParameterValue::Number(number.as_text().to_owned()),
            Value::String(text) => ParameterValue::String(text.clone()),
            Value::List(nodes) => ParameterValue::List(nodes.iter().map(ParameterValue::from_node).collect()),
            Value::Object(object) => {
                let entry = |item: &holdfast_hcl::Item| {
                    let names: Vec<&str> = item.keys.iter().map(|key| key.text.as_str()).collect();
                    (names.join("."), ParameterValue::from_node(&item.node))
                };
                ParameterValue::Map(object.items.iter().map(entry).collect())
            }
        }
    }

    /// Whether a request's value is this one; strings may be globs.
    pub fn matches(&self, value: &serde_json::Value) -> bool {
        match (self, value) {
            (ParameterValue::String(pattern), serde_json::Value::String(text)) => glob(pattern, text),
            _ => self.equals(value),
        }
    }

    /// Whether a request's value is exactly this one.
    fn equals(&self, value: &serde_json::Value) -> bool {
        match (self, value) {
            (ParameterValue::Null, serde_json::Value::Null) => true,
            (ParameterValue::Bool(ours), serde_json::Value::Bool(theirs)) => ours == theirs,
            (ParameterValue::String(ours), serde_json::Value::String(theirs)) => ours == theirs,
            (ParameterValue::List(ours), serde_json::Value::Array(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(o, t)| o.equals(t))
            }
            (ParameterValue::Map(ours), serde_json::Value::Object(theirs)) => {
                ours.len() == theirs.len() && ours.iter().all(|(k, o)| theirs.get(k).is_some_and(|t| o.equals(t)))
            }
            _ => false,
        }
    }

    /// The value as an answer shows it.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            ParameterValue::Null => serde_json::Value::Null,
            ParameterValue::Bool(value) => (*value).into(),
            ParameterValue::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
            ParameterValue::String(text) => text.clone().into(),
            ParameterValue::List(values) => values.iter().map(ParameterValue::to_json).collect(),
            ParameterValue::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| (key.clone(), value.to_json()));
                serde_json::Value::Object(entries.collect())
            }
        }
    }
}

/// Whether a request's value is among those a rule names; any is if it names
/// none.
pub(crate) fn value_is_among(value: &serde_json::Value, named: &[ParameterValue]) -> bool {
    named.is_empty() || named.iter().any(|pattern| pattern.matches(value))
}

/// A `*` at either end stands for any text; a lone `*` stands for itself, as
/// in the reference.
fn glob(pattern: &str, text: &str) -> bool {
    if pattern.len() < 2 {
        return pattern == text;
    }
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => text.contains(&pattern[1..pattern.len() - 1]),
        (Some(end), None) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => pattern == text,
    }
}

#[cfg(test)]
mod tests {
    use super::{ParameterValue, glob};
    use serde_json::json;

    #[test]
    fn stars_stand_at_the_ends_only() {
        assert!(glob("a*", "abc") && glob("a*", "a") && !glob("a*", "ba"));
        assert!(glob("*c", "abc") && !glob("*c", "cb"));
        assert!(glob("*b*", "abc") && glob("*b*", "b") && !glob("*b*", "ac"));
        assert!(glob("a*c", "a*c") && !glob("a*c", "abc"));
        assert!(glob("*", "*") && !glob("*", "a"));
        assert!(glob("**", "anything") && glob("**", ""));
        assert!(glob("", "") && !glob("", "a"));
    }

    #[test]
    fn lists_and_maps_are_compared_whole_and_without_globs() {
        let list = ParameterValue::List(vec![ParameterValue::String("a*".to_owned()), ParameterValue::Bool(true)]);
        assert!(list.matches(&json!(["a*", true])));
        assert!(!list.matches(&json!(["ab", true])));
        assert!(!list.matches(&json!([true, "a*"])));
        assert!(!list.matches(&json!("a*")));
        let map = ParameterValue::Map([("k".to_owned(), list)].into());
        assert!(map.matches(&json!({"k": ["a*", true]})));
        assert!(!map.matches(&json!({"k": ["a*", true], "l": 1})));
    }

    #[test]
    fn a_number_never_equals_a_request_value() {
        let four = ParameterValue::Number("4".to_owned());
        assert!(!four.matches(&json!(4)) && !four.matches(&json!("4")));
    }
}
