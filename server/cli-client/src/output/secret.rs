//! A whole secret, and lists of names.

use serde_json::{Map, Value};

use super::{Format, no_pretty, plain, sorted, table, value};
use crate::call::Call;
use crate::duration::Duration;
use crate::failure::Outcome;
use crate::secret::{Auth, Secret};

/// Prints a secret: as a table with its warnings on stderr, or whole as JSON or YAML.
pub fn secret(call: &Call, secret: &Secret) -> Outcome {
    match call.format {
        Format::Pretty => Err(no_pretty()),
        Format::Table | Format::Raw => {
            let rows = rows(secret);
            if !rows.is_empty() {
                call.console.say(table::key_value(rows));
            }
            warnings(call, secret);
            Ok(0)
        }
        Format::Json | Format::Yaml => value(call, &envelope(secret)),
    }
}

/// Prints the names that a list answered.
pub fn list(call: &Call, answer: &Secret) -> Outcome {
    let keys = answer.keys().cloned().unwrap_or_default();
    if call.flags.bool("detailed") {
        if call.format != Format::Table {
            return secret(call, answer);
        }
        if let Some(info) = answer.get("key_info").and_then(Value::as_object) {
            call.console.say(detailed(&keys, info));
            warnings(call, answer);
            return Ok(0);
        }
    }
    if call.format != Format::Table {
        return value(call, &Value::Array(keys));
    }
    let mut rows: Vec<_> = keys.iter().map(|k| vec![plain(k)]).collect();
    rows.sort();
    call.console.say(table::titled(&["Keys"], rows));
    warnings(call, answer);
    Ok(0)
}

/// What the server warned of, on stderr.
pub fn warnings(call: &Call, secret: &Secret) {
    if secret.warnings().is_empty() {
        return;
    }
    call.console.warn("WARNING! The following warnings were returned from Holdfast:\n");
    for warning in secret.warnings() {
        call.console.warn(format_args!("  * {}\n", in_lines(warning)));
    }
}

/// Broken at blanks, so that no line is longer than a terminal; the next lines begin with two blanks.
fn in_lines(text: &str) -> String {
    const WIDTH: usize = 78;
    let mut lines = String::new();
    let mut used = "  * ".len();
    for (i, word) in text.split_whitespace().enumerate() {
        if i > 0 && used + 1 + word.chars().count() > WIDTH {
            lines.push_str("\n  ");
            used = 2;
        } else if i > 0 {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += word.chars().count();
    }
    lines
}

/// A list with a column for each detail that any entry has.
fn detailed(keys: &[Value], info: &Map<String, Value>) -> String {
    let mut names: Vec<&str> = info.values().filter_map(Value::as_object).flatten().map(|(k, _)| k.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut titles = vec!["Keys"];
    titles.extend(&names);
    let rows = keys
        .iter()
        .map(|key| {
            let key = plain(key);
            let details = info.get(&key);
            let mut row = vec![key];
            row.extend(names.iter().map(|n| details.and_then(|d| d.get(n)).map(plain).unwrap_or_default()));
            row
        })
        .collect();
    table::titled(&titles, rows)
}

/// The secret as JSON and YAML have it: parts that are absent are left out.
fn envelope(secret: &Secret) -> Value {
    const AUTH: [&str; 11] = [
        "client_token",
        "accessor",
        "policies",
        "token_policies",
        "identity_policies",
        "metadata",
        "orphan",
        "entity_id",
        "lease_duration",
        "renewable",
        "mfa_requirement",
    ];
    const WRAP: [&str; 6] = ["token", "accessor", "ttl", "creation_time", "creation_path", "wrapped_accessor"];
    let mut out = Map::new();
    out.insert("request_id".into(), secret.request_id.as_str().into());
    out.insert("lease_id".into(), secret.lease_id.as_str().into());
    out.insert("lease_duration".into(), secret.lease_duration.into());
    out.insert("renewable".into(), secret.renewable.into());
    out.insert("data".into(), secret.data.clone().map_or(Value::Null, |d| sorted(&Value::Object(d))));
    let warnings = secret.warnings.clone().filter(|w| !w.is_empty());
    out.insert("warnings".into(), warnings.map_or(Value::Null, Value::from));
    if let Some(Auth(fields)) = &secret.auth {
        out.insert("auth".into(), picked(fields, &AUTH));
    }
    if let Some(info) = &secret.wrap_info {
        out.insert("wrap_info".into(), picked(&info.0, &WRAP));
    }
    Value::Object(out)
}

/// These fields in this order; what the server left out has its empty value.
fn picked(fields: &Map<String, Value>, names: &[&str]) -> Value {
    let value = |name: &str| match (fields.get(name), name) {
        (Some(value), _) => sorted(value),
        (None, "orphan" | "renewable") => false.into(),
        (None, "lease_duration" | "ttl") => 0.into(),
        (None, "client_token" | "accessor" | "entity_id" | "token" | "creation_path" | "wrapped_accessor") => "".into(),
        (None, _) => Value::Null,
    };
    Value::Object(names.iter().map(|n| (n.to_string(), value(n))).collect())
}

fn rows(secret: &Secret) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |key: &str, value: String| rows.push((key.to_string(), value));
    let lease = Duration::seconds(secret.lease_duration).short();
    match (secret.lease_duration, secret.lease_id.as_str()) {
        (..=0, _) => {}
        (_, "") => row("refresh_interval", lease),
        (_, id) => {
            row("lease_id", id.to_string());
            row("lease_duration", lease);
            row("lease_renewable", secret.renewable.to_string());
        }
    }
    if let Some(auth) = &secret.auth {
        auth_rows(auth, &mut row);
    }
    if let Some(info) = &secret.wrap_info {
        let text = |name: &str| info.0.get(name).map(plain).unwrap_or_default();
        row("wrapping_token:", text("token"));
        row("wrapping_accessor:", text("accessor"));
        let ttl = info.0.get("ttl").and_then(Value::as_i64).unwrap_or(0);
        row("wrapping_token_ttl:", Duration::seconds(ttl).short());
        row("wrapping_token_creation_time:", spelled_time(&text("creation_time")));
        row("wrapping_token_creation_path:", text("creation_path"));
        if !text("wrapped_accessor").is_empty() {
            row("wrapped_accessor:", text("wrapped_accessor"));
        }
    }
    let mut data: Vec<_> = secret.data.iter().flatten().collect();
    data.sort_by_key(|(k, _)| *k);
    for (key, value) in data {
        row(key, cell(key, value));
    }
    rows
}

fn auth_rows(auth: &Auth, row: &mut impl FnMut(&str, String)) {
    if let Some(requirement) = auth.mfa_requirement() {
        row("mfa_request_id", requirement.get("mfa_request_id").map(plain).unwrap_or_default());
        for (name, constraint) in requirement.get("mfa_constraints").and_then(Value::as_object).into_iter().flatten() {
            for method in constraint.get("any").and_then(Value::as_array).into_iter().flatten() {
                let part = |key: &str| method.get(key).map(plain).unwrap_or_default();
                row(&format!("mfa_constraint_{name}_{}_id", part("type")), part("id"));
                row(&format!("mfa_constraint_{name}_{}_uses_passcode", part("type")), part("uses_passcode"));
            }
        }
        return;
    }
    let quoted = |name: &str| {
        let items: Vec<String> = auth.texts(name).iter().map(|p| format!("{p:?}")).collect();
        format!("[{}]", items.join(" "))
    };
    row("token", auth.text("client_token").to_string());
    row("token_accessor", auth.text("accessor").to_string());
    let duration = match auth.lease_duration() {
        0 => "∞".to_string(),
        seconds => Duration::seconds(seconds).short(),
    };
    row("token_duration", duration);
    row("token_renewable", auth.0.get("renewable").and_then(Value::as_bool).unwrap_or(false).to_string());
    row("token_policies", quoted("token_policies"));
    row("identity_policies", quoted("identity_policies"));
    row("policies", quoted("policies"));
    let mut metadata: Vec<_> = auth.metadata().collect();
    metadata.sort_by_key(|(k, _)| *k);
    for (key, value) in metadata {
        row(&format!("token_meta_{key}"), plain(value));
    }
}

/// A value in a table: numbers of seconds are durations where the name says so.
pub fn cell(name: &str, value: &Value) -> String {
    match value.as_i64() {
        Some(seconds) if is_duration(name) => Duration::seconds(seconds).short(),
        _ => plain(value),
    }
}

fn is_duration(name: &str) -> bool {
    let names = ["period", "ttl", "duration"];
    names.iter().any(|n| name == *n || name.strip_suffix(n).is_some_and(|rest| rest.ends_with('_')))
        || matches!(name, "lease_max" | "ttl_max")
}

/// `2026-11-29T00:16:25.3Z` as `2026-11-29 00:16:25.3 +0000 UTC`.
fn spelled_time(rfc3339: &str) -> String {
    match rfc3339.strip_suffix('Z') {
        Some(time) => format!("{} +0000 UTC", time.replacen('T', " ", 1)),
        None => rfc3339.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(json: Value) -> Vec<(String, String)> {
        rows(&Secret::parse(json.to_string().as_bytes()).unwrap().unwrap())
    }

    #[test]
    fn names_that_mean_a_time_are_shown_as_durations() {
        let rows = rows_of(serde_json::json!({"data": {"token_ttl": 90, "period": 0, "max": 90, "ttl": "30m"}}));
        let row = |k: &str, v: &str| (k.to_string(), v.to_string());
        assert_eq!(rows, [row("max", "90"), row("period", "0s"), row("token_ttl", "1m30s"), row("ttl", "30m")]);
    }

    #[test]
    fn a_lease_without_an_id_is_a_refresh_interval() {
        let rows = rows_of(serde_json::json!({"lease_duration": 2764800, "data": {"x": "1"}}));
        assert_eq!(rows[0], ("refresh_interval".to_string(), "768h".to_string()));
    }

    #[test]
    fn a_token_without_an_end_lasts_for_ever() {
        let rows =
            rows_of(serde_json::json!({"auth": {"client_token": "t", "lease_duration": 0, "policies": ["a", "b"]}}));
        assert_eq!(rows[2].1, "∞");
        assert_eq!(rows[6].1, "[\"a\" \"b\"]");
    }
}
