//! Statements as parameters: a text is one statement, whatever is in it.

use holdfast_sdk::Value;
use holdfast_sdk::parameters::{Kind, Lenient};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statements(pub Vec<String>);

impl Lenient for Statements {
    const KIND: Kind = Kind::StringList;
    fn lenient(value: &Value) -> Result<Self, String> {
        let items = match value {
            Value::Array(items) => items.iter().map(String::lenient).collect::<Result<Vec<_>, _>>()?,
            Value::String(s) if s.is_empty() => Vec::new(),
            Value::Object(_) => return Err("'[0]' expected type 'string'".into()),
            one => vec![String::lenient(one)?],
        };
        Ok(Statements(items.iter().map(|s| s.trim().to_owned()).collect()))
    }
}

impl Statements {
    /// Without empty ones.
    pub fn filled(self) -> Vec<String> {
        self.0.into_iter().filter(|s| !s.is_empty()).collect()
    }
}
