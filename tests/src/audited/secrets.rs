//! The secrets of all tests of this process, and where they come from.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;

static SECRETS: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
/// Remembered at most.
const MOST: usize = 1_000_000;
/// Stored values that are shorter may be words.
const SHORTEST: usize = 20;
/// What is a password by its name is looked for from here on, unless it is a word.
const SHORTEST_PASSWORD: usize = 8;
/// Members of answers and of requests whose text is a secret.
const MEMBERS: [&str; 13] = [
    "client_token",
    "secret_id",
    "token",
    "root_token",
    "password",
    "bindpass",
    "client_secret",
    "otp",
    "encoded_token",
    "encoded_root_token",
    "private_key",
    "secret_key",
    "pin",
];
/// Shares that an answer hands out: in hex and in base64. A list of names has no second form of them beside it.
const SHARES: [(&str, &str); 4] = [
    ("keys", "keys_base64"),
    ("recovery_keys", "recovery_keys_base64"),
    ("unseal_keys_hex", "unseal_keys_b64"),
    ("recovery_keys_hex", "recovery_keys_b64"),
];
/// Routes that are given a share as `key`.
const OF_HOLDERS: [&str; 4] = ["unseal", "update", "verify", "decode"];
/// Commands that are given shares, tokens or passwords, or print them.
const OF_SECRETS: [&str; 7] = ["unseal", "init", "rekey", "rotate-keys", "generate-root", "login", "token"];
/// What such commands print in front of one.
const PRINTED: [&str; 9] = [
    "Key ",
    "Unseal Key",
    "Recovery Key",
    "Initial Root Token",
    "Root Token",
    "Encoded Token",
    "Encoded Root Token",
    "One Time Password",
    "OTP",
];

fn add(secret: &str) {
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    if secrets.len() < MOST && !secrets.contains(secret) {
        secrets.insert(secret.to_owned());
    }
}

/// This is a secret.
pub fn sent(secret: &str) {
    if secret.len() >= SHORTEST {
        add(secret);
    }
}

/// This is a password, or as short as one.
pub fn sent_password(password: &str) {
    let is_word = password.bytes().all(|b| b.is_ascii_lowercase()) || password.bytes().all(|b| b.is_ascii_digit());
    if password.len() >= SHORTEST || password.len() >= SHORTEST_PASSWORD && !is_word {
        add(password);
    }
}

/// A client has sent this body.
pub(super) fn asked(path: &str, body: &Value) {
    members(body);
    let last = path.rsplit('/').next().unwrap_or_default();
    if path.starts_with("sys/") && OF_HOLDERS.contains(&last) {
        body["key"].as_str().into_iter().for_each(sent_password);
    }
    // Engines' own routes are below sys, auth and identity; what is sent elsewhere by name is stored: kv of both versions.
    let stores = path.contains("/data/") || path.starts_with("cubbyhole/") || path == "sys/wrapping/wrap";
    let is_kv_1 = path.starts_with("kv") || path.starts_with("secret/");
    if stores || is_kv_1 {
        stored(body.get("data").filter(|data| data.is_object()).unwrap_or(body));
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

/// Texts of members that are secrets by their name, at any depth, and shares.
fn members(value: &Value) {
    match value {
        Value::Object(object) => {
            for (name, member) in object {
                match member.as_str() {
                    Some(text) if MEMBERS.contains(&name.as_str()) && !text.starts_with("hmac-sha256:") => {
                        sent_password(text);
                    }
                    _ => members(member),
                }
            }
            for (shares, other) in SHARES {
                if let (Some(shares), Some(other)) = (value[shares].as_array(), value[other].as_array()) {
                    shares.iter().chain(other).filter_map(Value::as_str).for_each(sent);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(members),
        _ => {}
    }
}

/// A client was answered this.
pub(super) fn answered(body: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<Value>(body) {
        members(&answer);
    }
}

/// A command was run: what it was given, and what it has printed.
pub(crate) fn ran(arguments: &[String], input: &[u8], output: &str) {
    for argument in arguments {
        let secret = argument.trim_start_matches('-').split_once('=');
        let secret = secret.filter(|(name, _)| MEMBERS.contains(name) || *name == "decode");
        secret.into_iter().for_each(|(_, value)| sent_password(value));
    }
    let Some(word) = arguments.iter().find(|a| OF_SECRETS.contains(&a.as_str())) else { return };
    // A share may stand alone behind its command.
    if matches!(word.as_str(), "unseal" | "rekey" | "rotate-keys" | "generate-root") {
        let last = arguments.last().filter(|last| !last.starts_with('-'));
        last.into_iter().for_each(|share| sent(share));
    }
    for line in String::from_utf8_lossy(input).lines() {
        if line.bytes().all(is_of_a_share) {
            sent(line);
        }
    }
    if output.trim_start().starts_with('{') {
        return answered(output.as_bytes());
    }
    for line in output.lines().map(str::trim) {
        let is_one = PRINTED.iter().any(|start| line.starts_with(start));
        let value = line.split_once(": ").map(|(_, value)| value.trim()).filter(|_| is_one);
        value.into_iter().filter(|v| v.bytes().all(is_of_a_share)).for_each(sent);
    }
}

fn is_of_a_secret(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn is_of_a_share(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+' | b'/' | b'=')
}

/// A secret in a line: as a whole text, or as a word of one, in the letters of tokens or of base64.
pub(super) fn within(line: &Value) -> Option<String> {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    of_value(line, &secrets)
}

fn of_value(value: &Value, secrets: &HashSet<String>) -> Option<String> {
    match value {
        Value::String(text) => of_text(text, SHORTEST_PASSWORD, secrets),
        Value::Array(items) => items.iter().find_map(|item| of_value(item, secrets)),
        Value::Object(object) => object.iter().find_map(|(name, member)| {
            // Names of members are words, which a password may be too.
            of_text(name, SHORTEST, secrets).or_else(|| of_value(member, secrets))
        }),
        _ => None,
    }
}

fn of_text(text: &str, shortest: usize, secrets: &HashSet<String>) -> Option<String> {
    let words = |is_of: fn(u8) -> bool| text.split(move |c: char| !u8::try_from(c).is_ok_and(is_of));
    let is_pin = |word: &&str| *word == crate::token::PIN;
    if let Some(pin) = words(is_of_a_secret).find(is_pin) {
        return Some(pin.to_owned());
    }
    let mut words = words(is_of_a_secret).chain(words(is_of_a_share)).chain([text]);
    words.find(|word| word.len() >= shortest && secrets.contains(*word)).map(str::to_owned)
}
