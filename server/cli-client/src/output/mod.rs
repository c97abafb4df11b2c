//! Printing answers: one file per format, the choice between them here.

mod field;
mod json;
mod secret;
pub mod table;
mod yaml;

pub use field::{print as field, print_secret as secret_field};
pub use secret::{cell, list, secret, warnings};

use serde_json::{Map, Value};

use crate::call::Call;
use crate::failure::{Failure, Outcome};

/// How an answer is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
    Yaml,
    Pretty,
    /// The bytes as they came.
    Raw,
}

impl Format {
    pub fn parse(name: &str) -> Result<Format, Failure> {
        match name.to_lowercase().as_str() {
            "table" | "" => Ok(Format::Table),
            "json" => Ok(Format::Json),
            "yaml" | "yml" => Ok(Format::Yaml),
            "pretty" => Ok(Format::Pretty),
            "raw" => Ok(Format::Raw),
            _ => Err(Failure::usage(format!("Invalid output format: {name}"))),
        }
    }
}

/// What `-format=pretty` says: it has a form for few answers.
pub fn no_pretty() -> Failure {
    Failure::usage("Could not parse output: cannot use the pretty formatter for this type")
}

/// Prints any value as JSON or YAML. In the table format the caller prints it in its own form.
pub fn value(call: &Call, value: &Value) -> Outcome {
    call.console.say(formatted(call.format, value)?.trim_end_matches('\n'));
    Ok(0)
}

/// The value's text in a format; YAML ends in a line end.
fn formatted(format: Format, value: &Value) -> Result<String, Failure> {
    match format {
        Format::Yaml => Ok(yaml::text(value)),
        Format::Pretty => Err(no_pretty()),
        Format::Json | Format::Table | Format::Raw => Ok(json::text(value)),
    }
}

/// The same value with every object's keys in order of the alphabet.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut pairs: Vec<_> = object.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(pairs.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Moves these fields to the front, in this order.
pub fn put_first(object: &mut Map<String, Value>, names: &[&str]) {
    let mut rest = std::mem::take(object);
    for name in names {
        if let Some((name, value)) = rest.remove_entry(*name) {
            object.insert(name, value);
        }
    }
    object.extend(rest);
}

/// A value as tables show it: `<nil>`, `map[a:1 b:two]`, `[a b]`, a text as it is.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(object) => {
            let mut pairs: Vec<_> = object.iter().collect();
            pairs.sort_by_key(|(k, _)| *k);
            let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}:{}", plain(v))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_show_values_in_one_line() {
        let value = serde_json::json!({"b": {"c": [true, null]}, "a": 1, "e": ""});
        assert_eq!(plain(&value), "map[a:1 b:map[c:[true <nil>]] e:]");
    }

    #[test]
    fn format_names_know_no_case() {
        assert!(Format::parse("JSON").is_ok_and(|f| f == Format::Json));
        assert!(Format::parse("nosuch").is_err());
    }
}
