//! Data arguments: `key=value`, `key=@file`, `key=-`, `@file.json` and `-`.

use serde_json::{Map, Value};

use crate::console::Console;

/// Reads arguments into an object. The same key twice makes a list of its values.
pub fn parse(args: &[String], console: &Console) -> Result<Map<String, Value>, String> {
    let mut data = Map::new();
    let mut stdin_used = false;
    for arg in args {
        add(&mut data, arg, console, &mut stdin_used)
            .map_err(|why| format!("invalid key/value pair {:?}: {why}", hidden(arg)))?;
    }
    Ok(data)
}

/// Reads arguments into pairs of texts, for queries and options; the last of a key counts.
pub fn parse_texts(args: &[String], console: &Console) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (key, value) in parse(args, console)? {
        match value {
            Value::Array(items) => pairs.extend(items.into_iter().map(|v| (key.clone(), as_text(v)))),
            value => pairs.push((key, as_text(value))),
        }
    }
    Ok(pairs)
}

fn as_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn add(data: &mut Map<String, Value>, arg: &str, console: &Console, stdin_used: &mut bool) -> Result<(), String> {
    if arg == "-" {
        let bytes = stdin(console, stdin_used)?;
        return add_json(data, &bytes);
    }
    if let Some(path) = arg.strip_prefix('@') {
        let bytes = std::fs::read(path).map_err(|e| opening(path, &e))?;
        return add_json(data, &bytes);
    }
    let (key, value) = arg.split_once('=').ok_or("format must be key=value")?;
    let value = if value == "-" {
        utf8(stdin(console, stdin_used)?.to_vec())?
    } else if let Some(path) = value.strip_prefix('@') {
        let bytes = std::fs::read(path).map_err(|e| format!("error reading file: {}", opening(path, &e)))?;
        utf8(bytes)?
    } else {
        value.strip_prefix('\\').filter(|v| v.starts_with('@')).unwrap_or(value).to_string()
    };
    insert(data, key, Value::String(value));
    Ok(())
}

fn insert(data: &mut Map<String, Value>, key: &str, value: Value) {
    match data.get_mut(key) {
        None => {
            data.insert(key.to_string(), value);
        }
        Some(Value::Array(items)) => items.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

fn add_json(data: &mut Map<String, Value>, bytes: &[u8]) -> Result<(), String> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    match values.next() {
        None => Err("EOF".to_string()),
        Some(Err(e)) if e.is_eof() => Err("unexpected EOF".to_string()),
        // The parser's own text may quote the data.
        Some(Err(e)) => Err(format!("invalid JSON at line {} column {}", e.line(), e.column())),
        Some(Ok(Value::Object(object))) => {
            data.extend(object);
            Ok(())
        }
        Some(Ok(Value::Null)) => Ok(()),
        Some(Ok(_)) => Err("the JSON must be an object".to_string()),
    }
}

fn stdin(console: &Console, used: &mut bool) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    if std::mem::replace(used, true) {
        return Err("stdin already consumed".to_string());
    }
    console.read_stdin().map_err(|e| e.to_string())
}

fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}

/// The argument without a value that may be a secret.
fn hidden(arg: &str) -> &str {
    match arg.split_once('=') {
        Some((key, value)) if !value.starts_with('@') && value != "-" => key,
        _ => arg,
    }
}

/// A file's error in the words of the reference: `open PATH: no such file or directory`.
pub fn opening(path: &str, error: &std::io::Error) -> String {
    format!("open {path}: {}", crate::client::error::os_words(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str], stdin: &'static [u8]) -> Result<Value, String> {
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        parse(&args, &Console::of(stdin)).map(Value::Object)
    }

    #[test]
    fn a_value_is_always_a_text_and_a_repeated_key_a_list() {
        assert_eq!(
            parsed(&["a=1", "b=x=y", "c=", "d=\\@f"], b"").unwrap(),
            serde_json::json!({"a": "1", "b": "x=y", "c": "", "d": "@f"})
        );
        assert_eq!(parsed(&["k=1", "k=2", "k=3"], b"").unwrap(), serde_json::json!({"k": ["1", "2", "3"]}));
    }

    #[test]
    fn stdin_is_a_value_or_an_object_and_is_read_once() {
        assert_eq!(parsed(&["pw=-"], b"secret\n").unwrap(), serde_json::json!({"pw": "secret\n"}));
        assert_eq!(parsed(&["-"], b"{\"n\": 12345678901234567890}").unwrap()["n"].to_string(), "12345678901234567890");
        assert!(parsed(&["a=-", "b=-"], b"x").unwrap_err().ends_with("stdin already consumed"));
        assert!(parsed(&["-"], b"").unwrap_err().ends_with("EOF"));
        assert!(parsed(&["-"], b"[1]").is_err());
        assert!(parsed(&["-"], b"nope").is_err());
    }

    #[test]
    fn a_file_is_a_value_or_an_object() {
        let path = std::env::temp_dir().join(format!("holdfast-data-{}.json", std::process::id()));
        std::fs::write(&path, b"{\"a\": {\"b\": [true, null]}}\n").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(parsed(&[&format!("@{path}")], b"").unwrap()["a"]["b"][0], Value::Bool(true));
        assert_eq!(parsed(&[&format!("v=@{path}")], b"").unwrap()["v"].as_str().unwrap().len(), 27);
        std::fs::remove_file(path).unwrap();
        assert!(parsed(&["v=@/nonexistent"], b"").unwrap_err().contains("no such file"));
    }

    #[test]
    fn an_error_does_not_show_the_value() {
        assert_eq!(
            parsed(&["novalue"], b"").unwrap_err(),
            "invalid key/value pair \"novalue\": format must be key=value"
        );
    }
}
