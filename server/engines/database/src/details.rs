//! `connection_details`: whatever the operator wrote, read key by key in the types that a plugin wants.

use holdfast_sdk::{Map, Value, duration};

#[derive(Clone, Copy)]
pub struct Details<'a>(pub &'a Map<String, Value>);

impl Details<'_> {
    pub fn text(&self, key: &str) -> Result<&str, String> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(s)) => Ok(s),
            Some(_) => Err(format!("'{key}' expected type 'string'")),
        }
    }

    /// As [`text`](Self::text), and a number counts too.
    pub fn lenient_text(&self, key: &str) -> Result<String, String> {
        match self.0.get(key) {
            Some(Value::Number(n)) => Ok(n.to_string()),
            Some(Value::Bool(b)) => Ok(if *b { "1" } else { "0" }.into()),
            _ => self.text(key).map(str::to_owned),
        }
    }

    pub fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        let cannot = || format!("'{key}' cannot parse value as 'int'");
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(n)) => n.as_i64().map(Some).ok_or_else(cannot),
            Some(Value::Bool(b)) => Ok(Some(i64::from(*b))),
            Some(Value::String(s)) if s.is_empty() => Ok(Some(0)),
            Some(Value::String(s)) => s.parse().map(Some).map_err(|_| cannot()),
            Some(_) => Err(cannot()),
        }
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, String> {
        let cannot = || format!("'{key}' cannot parse value as 'bool'");
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(Value::Number(n)) => match n.as_i64() {
                Some(0) => Ok(Some(false)),
                Some(1) => Ok(Some(true)),
                _ => Err(cannot()),
            },
            Some(Value::String(s)) => match s.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
                "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
                _ => Err(cannot()),
            },
            Some(_) => Err(cannot()),
        }
    }

    /// In seconds; a negative one is as none.
    pub fn seconds(&self, key: &str) -> Result<Option<u64>, String> {
        let invalid = |s: &dyn std::fmt::Display| format!("invalid {key}: time: invalid duration \"{s}\"");
        let nanos = match self.0.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(n)) => i128::from(n.as_i64().ok_or_else(|| invalid(n))?) * 1_000_000_000,
            Some(Value::String(s)) => duration::parse(s).ok_or_else(|| invalid(s))?,
            Some(other) => return Err(invalid(other)),
        };
        Ok(u64::try_from(nanos / 1_000_000_000).ok())
    }
}
