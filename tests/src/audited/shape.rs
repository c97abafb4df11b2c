//! The shape of a line: its members and their types, as the structures are that processors of Vault's lines decode them into.

use serde_json::Value;

/// What stands in a member.
#[derive(Clone, Copy)]
enum Kind {
    /// A text that is not empty.
    Text,
    /// A whole number, not below zero.
    Number,
    Flag,
    /// A list of texts.
    Texts,
    /// An object of texts.
    TextMap,
    /// An object of lists of texts.
    TextsMap,
    /// An object whose members are nobody's business but its engine's.
    Data,
    /// A text that is a hash, unless nothing is hashed.
    Hash,
    /// An object with these members.
    Object(&'static [Member]),
    /// A list of such objects.
    Objects(&'static [Member]),
}

use Kind::{Data, Flag, Hash, Number, Object, Objects, Text, TextMap, Texts, TextsMap};

type Member = (&'static str, Kind);

const REQUEST_LINE: &[Member] = &[
    ("time", Text),
    ("type", Text),
    ("actor", Text),
    ("cause", Text),
    ("recovered", Flag),
    ("auth", Object(AUTH)),
    ("request", Object(REQUEST)),
    ("error", Text),
    ("forwarded_from", Text),
    ("chain", Object(CHAIN)),
    ("spool", Object(SPOOL)),
];
const RESPONSE_LINE: &[Member] = &[
    ("time", Text),
    ("type", Text),
    ("actor", Text),
    ("cause", Text),
    ("recovered", Flag),
    ("auth", Object(AUTH)),
    ("request", Object(REQUEST)),
    ("response", Object(RESPONSE)),
    ("error", Text),
    ("forwarded", Flag),
    ("chain", Object(CHAIN)),
    ("spool", Object(SPOOL)),
];
const CHECKPOINT_LINE: &[Member] = &[
    ("time", Text),
    ("type", Text),
    ("auth", Object(AUTH)),
    ("request", Object(REQUEST)),
    ("checkpoint", Object(CHECKPOINT)),
    ("chain", Object(CHAIN)),
];
const AUTH: &[Member] = &[
    ("client_token", Hash),
    ("accessor", Text),
    ("display_name", Text),
    ("policies", Texts),
    ("token_policies", Texts),
    ("identity_policies", Texts),
    ("no_default_policy", Flag),
    ("policy_results", Object(&[("allowed", Flag), ("granting_policies", Objects(POLICY))])),
    ("metadata", TextMap),
    ("num_uses", Number),
    ("remaining_uses", Number),
    ("entity_id", Text),
    ("entity_created", Flag),
    ("token_type", Text),
    ("token_ttl", Number),
    ("token_issue_time", Text),
];
const POLICY: &[Member] = &[("name", Text), ("namespace_id", Text), ("type", Text)];
const REQUEST: &[Member] = &[
    ("id", Text),
    ("client_id", Text),
    ("operation", Text),
    ("mount_point", Text),
    ("mount_type", Text),
    ("mount_accessor", Text),
    ("mount_running_version", Text),
    ("mount_class", Text),
    ("client_token", Hash),
    ("client_token_accessor", Text),
    ("namespace", Object(&[("id", Text), ("path", Text)])),
    ("path", Text),
    ("data", Data),
    ("policy_override", Flag),
    ("remote_address", Text),
    ("remote_port", Number),
    ("wrap_ttl", Number),
    ("headers", TextsMap),
    ("client_certificate_serial_number", Text),
    ("node", Text),
];
const RESPONSE: &[Member] = &[
    ("mount_point", Text),
    ("mount_type", Text),
    ("mount_accessor", Text),
    ("mount_running_plugin_version", Text),
    ("mount_class", Text),
    ("auth", Object(AUTH)),
    ("data", Data),
    ("secret", Object(&[("lease_id", Text)])),
    ("wrap_info", Object(WRAP_INFO)),
    ("warnings", Texts),
];
const WRAP_INFO: &[Member] = &[
    ("ttl", Number),
    ("token", Hash),
    ("accessor", Text),
    ("creation_time", Text),
    ("creation_path", Text),
    ("wrapped_accessor", Text),
];
const CHAIN: &[Member] = &[("seq", Number), ("prev", Text), ("id", Text), ("torn", Number)];
const SPOOL: &[Member] = &[("id", Text), ("seq", Number)];
const CHECKPOINT: &[Member] = &[
    ("id", Text),
    ("log", Text),
    ("seq", Number),
    ("head", Text),
    ("time", Text),
    ("key", Text),
    ("kept_in", Text),
    ("signature", Text),
];

/// What is wrong with the shape of a line.
pub fn fault(line: &Value) -> Option<String> {
    shape(line).err()
}

fn shape(line: &Value) -> Result<(), String> {
    line.as_object().ok_or("it is no object")?;
    if !line["time"].as_str().is_some_and(|t| t.len() >= 20 && t.ends_with('Z') && t.as_bytes()[10] == b'T') {
        return Err("it has no time".into());
    }
    let kind = line["type"].as_str().ok_or("it has no type")?;
    let (table, must): (_, &[&str]) = match kind {
        "request" => (REQUEST_LINE, &["/auth", "/request/id", "/request/operation", "/request/namespace"]),
        "response" => {
            (RESPONSE_LINE, &["/auth", "/request/id", "/request/operation", "/request/namespace", "/response"])
        }
        "checkpoint" => (CHECKPOINT_LINE, &["/auth", "/request"]),
        _ => return Err("it is of no known type".into()),
    };
    object("", line, table)?;
    if let Some(missing) = must.iter().find(|pointer| line.pointer(pointer).is_none()) {
        return Err(format!("it has no {missing}"));
    }
    if kind == "checkpoint"
        && let Some((name, _)) = CHECKPOINT.iter().find(|(name, _)| line["checkpoint"].get(name).is_none())
    {
        return Err(format!("its checkpoint has no {name}"));
    }
    Ok(())
}

fn object(at: &str, value: &Value, table: &[Member]) -> Result<(), String> {
    let members = value.as_object().ok_or_else(|| format!("{at} is no object: {value}"))?;
    for (name, member) in members {
        let at = format!("{at}/{name}");
        match table.iter().find(|(known, _)| known == name) {
            Some((_, kind)) => of_kind(&at, member, *kind)?,
            None => return Err(format!("it has the member {at}")),
        }
    }
    Ok(())
}

fn of_kind(at: &str, value: &Value, kind: Kind) -> Result<(), String> {
    let is_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let all = |is: &dyn Fn(&Value) -> bool| value.as_object().is_some_and(|map| map.values().all(is));
    let is_right = match kind {
        Text => value.as_str().is_some_and(|text| !text.is_empty()),
        Hash => value.as_str().is_some_and(is_hash),
        Number => value.is_u64(),
        Flag => value.is_boolean(),
        Texts => is_texts(value),
        TextMap => all(&Value::is_string),
        TextsMap => all(&is_texts),
        Data => value.is_object(),
        Object(table) => return object(at, value, table),
        Objects(table) => {
            let list = value.as_array().ok_or_else(|| format!("{at} is no list: {value}"))?;
            return list.iter().try_for_each(|item| object(at, item, table));
        }
    };
    if is_right { Ok(()) } else { Err(format!("{at} is of another type: {value}")) }
}

/// Nothing of a token is plain.
fn is_hash(text: &str) -> bool {
    text.strip_prefix("hmac-sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}
