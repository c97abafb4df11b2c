//! What holds of every audit log that a test leaves behind: each line has the shape of its type and no member that the
//! contract does not know, and no token, secret id, wrapping token, share, PIN or secret value that a client of any test
//! has seen or sent stands in it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
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
/// Members of every line, of a request's, of a response's and of a checkpoint's; `actor` and `cause` are of what the server
/// did by itself.
const LINE: [&str; 5] = ["time", "type", "auth", "request", "chain"];
const OF_REQUEST: [&str; 4] = ["error", "actor", "cause", "forwarded_from"];
const OF_RESPONSE: [&str; 5] = ["response", "error", "actor", "cause", "forwarded"];
const OF_CHECKPOINT: [&str; 1] = ["checkpoint"];
const AUTH: [&str; 16] = [
    "client_token",
    "accessor",
    "display_name",
    "policies",
    "token_policies",
    "identity_policies",
    "no_default_policy",
    "policy_results",
    "metadata",
    "num_uses",
    "remaining_uses",
    "entity_id",
    "entity_created",
    "token_type",
    "token_ttl",
    "token_issue_time",
];
const REQUEST: [&str; 20] = [
    "id",
    "client_id",
    "operation",
    "mount_point",
    "mount_type",
    "mount_accessor",
    "mount_running_version",
    "mount_class",
    "client_token",
    "client_token_accessor",
    "namespace",
    "path",
    "data",
    "policy_override",
    "remote_address",
    "remote_port",
    "wrap_ttl",
    "headers",
    "client_certificate_serial_number",
    "node",
];
const RESPONSE: [&str; 10] = [
    "mount_point",
    "mount_type",
    "mount_accessor",
    "mount_running_plugin_version",
    "mount_class",
    "auth",
    "data",
    "secret",
    "wrap_info",
    "warnings",
];
const WRAP_INFO: [&str; 6] = ["ttl", "token", "accessor", "creation_time", "creation_path", "wrapped_accessor"];
const CHECKPOINT: [&str; 8] = ["id", "log", "seq", "head", "time", "key", "kept_in", "signature"];

thread_local! {
    /// Files of audit devices that a client of this test has made by the API.
    static MADE: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// A client has sent this.
pub fn sent(secret: &str) {
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    if secret.len() >= SHORTEST && secrets.len() < MOST && !secrets.contains(secret) {
        secrets.insert(secret.to_owned());
    }
}

/// A client has asked this: what it stores is a secret, and a file that it has lines written to is one to look at.
pub fn asked(method: &str, path: &str, body: &[u8]) {
    let Some(path) = path.strip_prefix("/v1/").filter(|_| matches!(method, "POST" | "PUT")) else { return };
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    if path.contains("/data/") {
        stored(&body["data"]);
    }
    if path.starts_with("sys/audit/") && body["type"] == "file" {
        let option = |name: &str| body["options"][name].as_str();
        let is_plain = option("log_raw").is_none() && option("prefix").is_none();
        if let Some(file) = option("file_path").map(Path::new).filter(|file| is_plain && file.is_absolute()) {
            MADE.with_borrow_mut(|made| made.push(file.to_owned()));
        }
    }
}

/// The values of a secret that are no words.
fn stored(value: &Value) {
    match value {
        Value::String(text) if text.bytes().all(is_of_a_secret) => sent(text),
        Value::Array(items) => items.iter().for_each(stored),
        Value::Object(members) => members.values().for_each(stored),
        _ => {}
    }
}

/// What is wrong with a file that a device of this thread's tests was made for by the API.
pub fn fault_of_made() -> Option<String> {
    MADE.take().iter().find_map(|file| fault(file))
}

/// Shares that an answer hands out; a list of names has no second form of them beside it.
fn shares_in(answer: &Value) {
    for (shares, other) in [("keys", "keys_base64"), ("recovery_keys", "recovery_keys_base64")] {
        for object in [answer, &answer["data"]] {
            if object[other].is_array() {
                object[shares].as_array().into_iter().flatten().filter_map(Value::as_str).for_each(sent);
            }
        }
    }
}

/// A client was answered this.
pub fn answered(body: &[u8]) {
    let text = String::from_utf8_lossy(body);
    if text.contains("keys_base64")
        && let Ok(answer) = serde_json::from_str(&text)
    {
        shares_in(&answer);
    }
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
    let words = line.split(|b| !is_of_a_secret(*b));
    if words.clone().any(|word| word == crate::token::PIN.as_bytes()) {
        return Some(crate::token::PIN.to_owned());
    }
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let words = words.filter(|word| word.len() >= SHORTEST);
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
    let more: &[&str] = match kind {
        "request" => &OF_REQUEST,
        "response" => &OF_RESPONSE,
        "checkpoint" => &OF_CHECKPOINT,
        _ => return Err("it is of no known type".into()),
    };
    only(line, &[&LINE, more])?;
    only(&line["auth"], &[&AUTH])?;
    only(&line["request"], &[&REQUEST])?;
    only(&line["response"], &[&RESPONSE])?;
    only(&line["response"]["auth"], &[&AUTH])?;
    only(&line["response"]["wrap_info"], &[&WRAP_INFO])?;
    only(&line["response"]["secret"], &[&["lease_id"]])?;
    only(&line["checkpoint"], &[&CHECKPOINT])?;
    if kind == "checkpoint" {
        return match CHECKPOINT.iter().find(|name| line["checkpoint"].get(name).is_none()) {
            Some(name) => Err(format!("its checkpoint has no {name}")),
            None => Ok(()),
        };
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

/// An object has none but these members, if it is there.
fn only(object: &Value, known: &[&[&str]]) -> Result<(), String> {
    let is_known = |name: &String| known.iter().any(|list| list.contains(&name.as_str()));
    match object.as_object().and_then(|members| members.keys().find(|name| !is_known(name))) {
        Some(other) => Err(format!("it has the member {other:?}")),
        None => Ok(()),
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

    #[test]
    fn a_member_that_nobody_knows_is_found_at_each_place() {
        let whole = r#"{"time":"2026-11-30T05:00:00.1Z","type":"response","auth":{"token_type":"default"},"request":{"id":"1","operation":"read","namespace":{"id":"root"}},"response":{"auth":{"accessor":"a"},"wrap_info":{"ttl":1},"secret":{"lease_id":"l"}}}"#;
        assert_eq!(checked(&format!("{whole}\n")), None);
        for at in
            ["{\"time\"", "{\"token_type\"", "{\"id\":\"1\"", "{\"auth\"", "{\"accessor\"", "{\"ttl\"", "{\"lease_id\""]
        {
            let more = whole.replacen(at, &at.replacen('{', "{\"strange\":1,", 1), 1);
            assert!(checked(&format!("{more}\n")).is_some_and(|f| f.contains("strange")), "{at}");
        }
        let checkpoint = r#"{"time":"2026-11-30T05:00:00.1Z","type":"checkpoint","auth":{},"request":{},"checkpoint":{"id":"i","log":"l","seq":1,"head":"h","time":"t","key":"k","kept_in":"barrier","signature":"s"}}"#;
        assert_eq!(checked(&format!("{checkpoint}\n")), None);
        for wrong in [checkpoint.replace("\"seq\":1,", ""), checkpoint.replace("\"seq\":1", "\"seq\":1,\"x\":2")] {
            assert!(checked(&format!("{wrong}\n")).is_some(), "{wrong}");
        }
    }

    #[test]
    fn shares_values_and_the_pin_are_secrets_and_a_file_made_by_the_api_is_looked_at() {
        let share = "0011223344556677889900aabbccddeeff";
        answered(format!("{{\"keys\":[{share:?}],\"keys_base64\":[\"AA==\"]}}").as_bytes());
        answered(br#"{"data":{"keys":["a-name-of-a-secret-in-a-list"]}}"#);
        asked("POST", "/v1/secret/data/x", br#"{"data":{"k":["A-value-that-is-secret-4711"]}}"#);
        for (word, is_secret) in [
            (share, true),
            ("A-value-that-is-secret-4711", true),
            (crate::token::PIN, true),
            ("a-name-of-a-secret-in-a-list", false),
        ] {
            let told = GOOD.replace("\"path\":\"a\"", &format!("\"path\":\"x/{word}\""));
            assert_eq!(checked(&format!("{told}\n")).is_some(), is_secret, "{word}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("made.log");
        std::fs::write(&file, "no line\nnor this\n").expect("a file");
        let body = serde_json::json!({ "type": "file", "options": { "file_path": file } });
        asked("PUT", "/v1/sys/audit/made", body.to_string().as_bytes());
        assert!(fault_of_made().is_some_and(|fault| fault.contains("no lines")));
        assert_eq!(fault_of_made(), None, "it is looked at once");
    }
}
