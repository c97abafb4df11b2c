//! A request's body, read as the reference reads it.

use holdfast_sdk::{Error, Map, Result, Value};

/// What is wrong with a JSON text, without a word of the text itself.
pub fn json_error(e: &serde_json::Error) -> String {
    if e.is_eof() {
        return "unexpected end of the body".into();
    }
    format!("malformed JSON at line {} column {}", e.line(), e.column())
}

/// Levels that a body may be nested.
const MAX_DEPTH: usize = 1000;

/// A body's object. An empty one, blanks and `null` are no parameters; what stands behind it is not looked at.
pub fn parse_body(body: &[u8]) -> Result<Map<String, Value>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    if depth(body) > MAX_DEPTH {
        return Err(Error::bad_request(format!("failed to parse JSON input: nested deeper than {MAX_DEPTH} levels")));
    }
    let text = String::from_utf8_lossy(body);
    let parsed = match first_value(&text) {
        Err(_) if text.contains("\\u") => first_value(&without_lone_surrogates(&text)),
        other => other,
    };
    match parsed {
        Ok(Value::Object(m)) => Ok(m),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(Error::bad_request("error parsing JSON: the body must be a JSON object")),
        Err(e) => Err(Error::bad_request(format!("failed to parse JSON input: {}", json_error(&e)))),
    }
}

/// The first value of a text in which whole values follow one another.
fn first_value(text: &str) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.disable_recursion_limit();
    let first = <Value as serde::Deserialize>::deserialize(&mut reader)?;
    for more in reader.into_iter::<serde::de::IgnoredAny>() {
        more?;
    }
    Ok(first)
}

/// How deep brackets are nested at most; what is in strings does not count.
fn depth(body: &[u8]) -> usize {
    let (mut now, mut most, mut in_string, mut escaped) = (0usize, 0, false, false);
    for b in body {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// Half of a surrogate pair becomes U+FFFD, as in the reference.
fn without_lone_surrogates(text: &str) -> String {
    let unit = |at: usize| -> Option<u32> {
        let hex = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(hex, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("\\u") {
            match unit(at) {
                Some(0xd800..0xdc00) if matches!(unit(at + 6), Some(0xdc00..0xe000)) => {
                    out.push_str(&text[at..at + 12]);
                    at += 12;
                }
                Some(0xd800..0xe000) => {
                    out.push_str("\\ufffd");
                    at += 6;
                }
                _ => {
                    out.push_str("\\u");
                    at += 2;
                }
            }
        } else if rest.starts_with('\\') {
            let pair = rest.char_indices().nth(2).map_or(rest.len(), |(i, _)| i);
            out.push_str(&rest[..pair]);
            at += pair;
        } else {
            let Some(c) = rest.chars().next() else { break };
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_the_reference_reads_it() {
        assert!(parse_body(b"  ").unwrap().is_empty());
        assert!(parse_body(b"null").unwrap().is_empty());
        assert_eq!(parse_body(b"{\"a\":1} {\"b\":2}").unwrap().len(), 1);
        assert_eq!(parse_body(br#"{"a":"x\ud800y"}"#).unwrap()["a"], "x\u{fffd}y");
        assert_eq!(parse_body(br#"{"a":"\ud83d\ude00 \\ud800"}"#).unwrap()["a"], "\u{1f600} \\ud800");
        assert_eq!(parse_body(b"{\"a\":\"\xff\"}").unwrap()["a"], "\u{fffd}");
        for bad in [&b"[1]"[..], b"3", b"{", b"{\"a\"}", b"{\"a\":1"] {
            assert!(parse_body(bad).is_err());
        }
    }

    #[test]
    fn a_deep_body_is_refused_before_it_is_parsed() {
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(parse_body(nested(900).as_bytes()).is_ok());
        assert!(parse_body(nested(1000).as_bytes()).is_err());
        assert!(parse_body(nested(1_000_000).as_bytes()).is_err());
        assert!(parse_body("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(parse_body(b"{\"a\":\"[[[[\\\"[[\"}").is_ok());
    }
}
