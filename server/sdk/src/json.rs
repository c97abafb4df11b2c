//! JSON that the server stored itself.

use serde_json::{Deserializer, Map, Value};

use crate::{Error, Result};

/// A value as it was stored. It may be nested as deep as a request's body, which is checked at the
/// door; serde_json's own limit is lower.
pub fn read_value(stored: &[u8]) -> Result<Value> {
    let mut reader = Deserializer::from_slice(stored);
    reader.disable_recursion_limit();
    match reader.into_iter::<Value>().next() {
        Some(Ok(value)) => Ok(value),
        Some(Err(e)) => {
            Err(Error::Internal(format!("stored JSON is broken at line {} column {}", e.line(), e.column())))
        }
        None => Err(Error::Internal("stored JSON is empty".into())),
    }
}

/// An object as it was stored.
pub fn read(stored: &[u8]) -> Result<Map<String, Value>> {
    match read_value(stored)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::Internal("stored JSON is no object".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_may_be_deep() {
        let text = format!("{{\"a\":{}1{}}}", "[".repeat(990), "]".repeat(990));
        assert_eq!(serde_json::to_string(&read(text.as_bytes()).unwrap()).unwrap(), text);
        for broken in [&b"{"[..], b"", b"[]", b"{\"a\":}"] {
            assert!(read(broken).is_err());
        }
    }
}
