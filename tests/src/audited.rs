//! What holds of every audit log that a test leaves behind: each line has the shape of its type, and no token, secret id or
//! wrapping token that a client of any test has seen or sent stands in it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;

/// Secrets of all tests of this process.
static SECRETS: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
/// Remembered at most.
const MOST: usize = 1_000_000;
/// Shorter ones may be words.
const SHORTEST: usize = 20;
/// What stands before a secret in an answer.
const MEMBERS: [&str; 3] = ["\"client_token\":\"", "\"secret_id\":\"", "\"token\":\""];
const LINE_MEMBERS: [&str; 10] =
    ["time", "type", "auth", "request", "response", "error", "actor", "cause", "chain", "forwarded_from"];

/// A client has sent this.
pub fn sent(secret: &str) {
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    if secret.len() >= SHORTEST && secrets.len() < MOST && !secrets.contains(secret) {
        secrets.insert(secret.to_owned());
    }
}

/// A client was answered this.
pub fn answered(body: &[u8]) {
    let text = String::from_utf8_lossy(body);
    for member in MEMBERS {
        for (at, _) in text.match_indices(member) {
            let value = text[at + member.len()..].split('"').next().unwrap_or_default();
            if value.bytes().all(is_of_a_secret) {
                sent(value);
            }
        }
    }
}

fn is_of_a_secret(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// What is wrong with an audit log; a file that is not there has nothing wrong.
///
/// What a kill has torn off is no line; the line behind it says how many bytes it had.
pub fn fault(file: &Path) -> Option<String> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        Err(e) => return Some(format!("{}: {e}", file.display())),
    };
    let mut torn: Option<(usize, String)> = None;
    let mut reader = BufReader::new(opened);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) if line.last() != Some(&b'\n') => break,
            Ok(_) => {}
            Err(e) => return Some(format!("{}: {e}", file.display())),
        }
        let here =
            |what: &str| Some(format!("{}:{number}: {what}: {}", file.display(), String::from_utf8_lossy(&line)));
        if let Some(secret) = secret_in(&line) {
            return here(&format!("it has the secret {secret:?}"));
        }
        match serde_json::from_slice::<Value>(&line) {
            Ok(parsed) => {
                if let Some((number, text)) = torn.take()
                    && parsed["chain"]["torn"].as_u64().is_none()
                {
                    return Some(format!("{}:{number}: this is no line: {text}", file.display()));
                }
                if let Err(what) = shape(&parsed) {
                    return here(&what);
                }
            }
            Err(_) if torn.is_none() => torn = Some((number, String::from_utf8_lossy(&line).into_owned())),
            Err(_) => return here("this and the one before it are no lines"),
        }
    }
    None
}

fn secret_in(line: &[u8]) -> Option<String> {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let words = line.split(|b| !is_of_a_secret(*b)).filter(|word| word.len() >= SHORTEST);
    let mut words = words.filter_map(|word| std::str::from_utf8(word).ok());
    words.find(|word| secrets.contains(*word)).map(str::to_owned)
}

/// The shape of a line.
fn shape(line: &Value) -> Result<(), String> {
    let members = line.as_object().ok_or("it is no object")?;
    if !line["time"].as_str().is_some_and(|t| t.len() >= 20 && t.ends_with('Z') && t.as_bytes()[10] == b'T') {
        return Err("it has no time".into());
    }
    let kind = line["type"].as_str().ok_or("it has no type")?;
    if kind == "checkpoint" {
        return Ok(());
    }
    if let Some(other) = members.keys().find(|m| !LINE_MEMBERS.contains(&m.as_str())) {
        return Err(format!("it has the member {other:?}"));
    }
    let request = line["request"].as_object().ok_or("it has no request")?;
    let text = |name: &str| request.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    for name in ["id", "operation"] {
        text(name).ok_or(format!("its request has no {name}"))?;
    }
    if !line["auth"].is_object() || !request.get("namespace").is_some_and(Value::is_object) {
        return Err("it has no auth, or its request no namespace".into());
    }
    match (kind, members.contains_key("response")) {
        ("request", false) | ("response", true) => Ok(()),
        ("request" | "response", _) => Err("its response is not where it belongs".into()),
        _ => Err("it is of no known type".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("audit.log");
        std::fs::write(&file, text).expect("a file");
        fault(&file)
    }

    const GOOD: &str = r#"{"time":"2026-11-30T05:00:00.1Z","type":"request","auth":{},"request":{"id":"1","operation":"read","namespace":{"id":"root"},"path":"a"}}"#;

    #[test]
    fn a_secret_a_broken_line_and_another_shape_are_found_and_a_torn_end_is_none() {
        assert_eq!(checked(&format!("{GOOD}\n{{\"torn")), None);
        assert!(checked(&format!("{GOOD}\n{{\"torn\n{GOOD}\n")).is_some_and(|f| f.contains(":2:")));
        assert!(checked(&format!("{}\n", GOOD.replace("\"auth\":{},", ""))).is_some_and(|f| f.contains("auth")));
        assert!(checked(&format!("{}\n", GOOD.replace("\"auth\"", "\"else\":1,\"auth\""))).is_some());
        answered(br#"{"auth":{"client_token":"hvs.AAAAAAAAAAAAAAAAAAAAAAAAAA"}}"#);
        let told = GOOD.replace("\"path\":\"a\"", "\"path\":\"x/hvs.AAAAAAAAAAAAAAAAAAAAAAAAAA\"");
        assert!(checked(&format!("{told}\n")).is_some_and(|f| f.contains("secret")));
    }
}
