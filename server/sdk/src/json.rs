//! JSON as the server stores and writes it itself.

use std::io::Write;

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

/// Append a text as JSON.
///
/// Most texts need no escapes; serde_json looks at each of their bytes by itself, which was 4 % of a read.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    if needs_escapes(text.as_bytes()) {
        let _cannot_fail = serde_json::to_writer(out, text);
        return;
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Append a value as JSON, as serde_json does it.
pub fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) => {
            let _cannot_fail = write!(out, "{n}");
        }
        Value::String(s) => write_text(s, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => write_map(map, out),
    }
}

/// Append an object as JSON.
pub fn write_map(map: &Map<String, Value>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (name, value)) in map.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        write_value(value, out);
    }
    out.push(b'}');
}

/// Whether a byte is a control character, a quote or a backslash. Eight at a time: a byte's high bit is set in a
/// term below if it is one. Now and then one too many is, by a borrow from its neighbour, which costs time only.
fn needs_escapes(text: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let mut chunks = text.chunks_exact(8);
    let eight = chunks.by_ref().any(|chunk| {
        let x = chunk.iter().fold(0u64, |x, b| x << 8 | u64::from(*b));
        let is = |byte: u8| {
            let y = x ^ (ONES * u64::from(byte));
            y.wrapping_sub(ONES) & !y
        };
        let control = x.wrapping_sub(ONES * 0x20) & !x;
        (control | is(b'"') | is(b'\\')) & HIGHS != 0
    });
    eight || chunks.remainder().iter().any(|b| *b < 0x20 || matches!(b, b'"' | b'\\'))
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

    #[test]
    fn texts_and_values_are_written_as_serde_json_writes_them() {
        let mut texts: Vec<String> = (0..=255u8)
            .flat_map(|b| {
                let c = char::from(b);
                [format!("{c}"), format!("abcdefg{c}"), format!("{c}bcdefgh12345678"), format!("12345678abc{c}")]
            })
            .collect();
        texts.extend(
            ["", "\u{2028}", "käse 🧀 and more of it", "!\u{1f}", "!!!!!!!\"", "#\\#\\#\\#\\"].map(String::from),
        );
        for text in &texts {
            let mut out = Vec::new();
            write_text(text, &mut out);
            assert_eq!(out, serde_json::to_vec(text).unwrap(), "{text:?}");
        }
        let text = r#"{"a":[1,-2.50,1e400,123456789012345678901234567890,null,true,false,"x\"y",{}],"b\n":{"c":[]}}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let mut out = Vec::new();
        write_value(&value, &mut out);
        assert_eq!(out, serde_json::to_vec(&value).unwrap());
    }
}
