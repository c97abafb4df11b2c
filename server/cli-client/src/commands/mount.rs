//! What `secrets` and `auth` have in common: flags of a mount, the bodies made of them, their tables.

use std::time::Duration as Wait;

use serde_json::{Map, Value, json};

use crate::call::{Call, with_slash};
use crate::client::{Client, Request};
use crate::duration::Duration;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::{Flag, Flags};
use crate::output::{self, Format, plain, sorted, table};

pub const DESCRIPTION: Flag = Flag::text("description", "Words that say what it is for.");
pub const PATH: Flag = Flag::text("path", "Where to mount it; without this, at its own name.");
pub const DEFAULT_TTL: Flag =
    Flag::duration("default-lease-ttl", "How long leases last at first; \"system\" is the server's own time.");
pub const MAX_TTL: Flag =
    Flag::duration("max-lease-ttl", "How long leases may last at most; \"system\" is the server's own time.");
pub const REQUEST_KEYS: Flag = Flag::list(
    "audit-non-hmac-request-keys",
    "A key of requests that audit lines show as it is. May be given several times.",
);
pub const RESPONSE_KEYS: Flag = Flag::list(
    "audit-non-hmac-response-keys",
    "A key of answers that audit lines show as it is. May be given several times.",
);
pub const VISIBILITY: Flag =
    Flag::text("listing-visibility", "Who sees it in the user interface's list: unauth or hidden.")
        .words(&["unauth", "hidden"]);
pub const REQUEST_HEADERS: Flag = Flag::list(
    "passthrough-request-headers",
    "A header of requests that is handed on to it. May be given several times.",
);
pub const RESPONSE_HEADERS: Flag =
    Flag::list("allowed-response-headers", "A header that it may answer with. May be given several times.");
pub const PLUGIN_NAME: Flag = Flag::text("plugin-name", "The plugin's name, where the type is \"plugin\".");
pub const PLUGIN_VERSION: Flag = Flag::text("plugin-version", "The plugin's version.");
pub const OPTIONS: Flag = Flag::pairs("options", "An option of its own. May be given several times.");
pub const LOCAL: Flag = Flag::bool("local", "It is not replicated.");
pub const SEAL_WRAP: Flag = Flag::bool("seal-wrap", "Its critical values are wrapped by the seal too.");
pub const ENTROPY: Flag = Flag::bool("external-entropy-access", "It may take randomness from the seal's source.");
pub const TOKEN_TYPE: Flag = Flag::text("token-type", "The type of the tokens it gives.").words(&[
    "default-service",
    "default-batch",
    "service",
    "batch",
]);
pub const VERSION: Flag = Flag::int("version", "The version of the engine.");

/// Types that a server may have, for the shell to offer; which it has, it says itself.
pub const ENGINES: [&str; 10] =
    ["database", "kubernetes", "kv", "kv-v2", "pki", "plugin", "rabbitmq", "ssh", "totp", "transit"];
pub const METHODS: [&str; 9] = ["approle", "cert", "jwt", "kubernetes", "ldap", "oidc", "plugin", "radius", "userpass"];

/// How long a move is waited for, and how often it is asked about.
const MOVE_POLLS: u32 = 3000;
const MOVE_POLL_WAIT: Wait = Wait::from_millis(200);

/// The body that enables an engine or a method.
pub fn enable_body(kind: &str, flags: &Flags) -> Value {
    let ttl = |name: &str| spelled(flags.duration(name), "0s");
    let mut config = Map::new();
    config.insert("options".into(), Value::Null);
    config.insert("default_lease_ttl".into(), ttl("default-lease-ttl").into());
    config.insert("max_lease_ttl".into(), ttl("max-lease-ttl").into());
    config.insert("force_no_cache".into(), flags.bool("force-no-cache").into());
    add_common(&mut config, flags);
    json!({
        "type": kind,
        "description": flags.text("description").unwrap_or_default(),
        "config": config,
        "local": flags.bool("local"),
        "seal_wrap": flags.bool("seal-wrap"),
        "external_entropy_access": flags.bool("external-entropy-access"),
        "options": options(flags),
    })
}

/// The body that tunes one: what is not named stays.
pub fn tune_body(flags: &Flags) -> Value {
    let mut body = Map::new();
    body.insert("options".into(), options(flags));
    body.insert("default_lease_ttl".into(), spelled(flags.duration("default-lease-ttl"), "").into());
    if let Some(description) = flags.text("description") {
        body.insert("description".into(), description.into());
    }
    body.insert("max_lease_ttl".into(), spelled(flags.duration("max-lease-ttl"), "").into());
    body.insert("force_no_cache".into(), false.into());
    add_common(&mut body, flags);
    if let Some(lockout) = lockout(flags) {
        body.insert("user_lockout_config".into(), lockout);
    }
    Value::Object(body)
}

fn spelled(ttl: Option<Duration>, none: &str) -> String {
    match ttl {
        None => none.to_string(),
        Some(Duration::SYSTEM) => "system".to_string(),
        Some(Duration::ZERO) => none.to_string(),
        Some(ttl) => ttl.long(),
    }
}

fn options(flags: &Flags) -> Value {
    let mut options = flags.pairs("options");
    if let Some(version) = flags.int("version") {
        options.insert("version".into(), version.to_string());
    }
    if options.is_empty() { Value::Null } else { json!(options) }
}

fn add_common(config: &mut Map<String, Value>, flags: &Flags) {
    for name in [
        "audit-non-hmac-request-keys",
        "audit-non-hmac-response-keys",
        "listing-visibility",
        "passthrough-request-headers",
        "allowed-response-headers",
        "token-type",
        "plugin-version",
    ] {
        if !flags.is_set(name) {
            continue;
        }
        let is_list = !matches!(name, "listing-visibility" | "token-type" | "plugin-version");
        let value = if is_list { json!(flags.list(name)) } else { json!(flags.text(name)) };
        config.insert(name.replace('-', "_"), value);
    }
}

fn lockout(flags: &Flags) -> Option<Value> {
    let mut config = Map::new();
    if let Some(threshold) = flags.text("user-lockout-threshold") {
        config.insert("lockout_threshold".into(), threshold.into());
    }
    for (flag, field) in [
        ("user-lockout-duration", "lockout_duration"),
        ("user-lockout-counter-reset-duration", "lockout_counter_reset_duration"),
    ] {
        if let Some(duration) = flags.duration(flag) {
            config.insert(field.into(), duration.long().into());
        }
    }
    if flags.is_set("user-lockout-disable") {
        config.insert("lockout_disable".into(), flags.bool("user-lockout-disable").into());
    }
    (!config.is_empty()).then_some(Value::Object(config))
}

/// The mounts that a list answered, by path.
pub fn listed(client: &Client, path: &str, what: &str) -> Result<Map<String, Value>, Failure> {
    let secret = client.read(path, &[]).explain(what)?;
    let data = secret.and_then(|s| s.data).unwrap_or_default();
    Ok(data.into_iter().filter(|(_, v)| v.is_object()).collect())
}

/// A list of mounts in any format; `rows` makes the table's cells of one.
pub fn print_list(
    call: &Call,
    mounts: Map<String, Value>,
    titles: &[&str],
    row: fn(&str, &Value) -> Vec<String>,
) -> Outcome {
    let Value::Object(mounts) = sorted(&Value::Object(mounts)) else {
        return Ok(0);
    };
    if call.format != Format::Table {
        return output::value(call, &Value::Object(mounts.into_iter().map(complete).collect()));
    }
    let rows = mounts.iter().map(|(path, mount)| row(path, mount)).collect();
    call.console.say(table::titled(titles, rows));
    Ok(0)
}

/// The mount with the fields that clients of the reference find even where they are empty.
fn complete((path, mut mount): (String, Value)) -> (String, Value) {
    const LATER: [&str; 4] = ["plugin_version", "running_plugin_version", "running_sha256", "deprecation_status"];
    const ORDER: [&str; 9] = [
        "uuid",
        "type",
        "description",
        "accessor",
        "config",
        "options",
        "local",
        "seal_wrap",
        "external_entropy_access",
    ];
    if let Some(fields) = mount.as_object_mut().filter(|m| m.contains_key("accessor")) {
        for name in LATER {
            fields.entry(name).or_insert_with(|| "".into());
        }
        output::put_first(fields, &[&ORDER[..], &LATER[..]].concat());
        if let Some(config) = fields.get_mut("config").and_then(Value::as_object_mut) {
            output::put_first(config, &["default_lease_ttl", "max_lease_ttl", "force_no_cache"]);
        }
    }
    (path, mount)
}

/// A text field of a mount; the empty text where there is none.
pub fn text(mount: &Value, name: &str) -> String {
    mount.get(name).filter(|v| !v.is_null()).map(plain).unwrap_or_default()
}

/// A lease time of a mount as the detailed list shows it.
pub fn ttl(mount: &Value, name: &str) -> String {
    if matches!(text(mount, "type").as_str(), "system" | "cubbyhole") {
        return String::new();
    }
    match mount.get("config").map(|c| text(c, name)).unwrap_or_default().as_str() {
        "" | "0" => "system".to_string(),
        seconds => seconds.to_string(),
    }
}

/// The cells that both detailed lists end in.
pub fn common_cells(mount: &Value) -> Vec<String> {
    let options = mount.get("options").filter(|o| o.is_object()).map_or_else(|| "map[]".to_string(), plain);
    let replication = if mount.get("local").and_then(Value::as_bool) == Some(true) { "local" } else { "replicated" };
    let mut cells =
        vec![replication.to_string(), text(mount, "seal_wrap"), text(mount, "external_entropy_access"), options];
    let names =
        ["description", "uuid", "plugin_version", "running_plugin_version", "running_sha256", "deprecation_status"];
    cells.extend(names.iter().map(|n| text(mount, n)));
    cells
}

/// Moves a mount and waits until it is done. `thing` is what it is called.
pub fn moved(call: &Call, thing: &str) -> Outcome {
    call.exactly(2)?;
    let (from, to) = (with_slash(call.arg(0)), with_slash(call.arg(1)));
    let client = call.client()?;
    let failed = format!("Error moving {thing} {from} to {to}");
    let request = Request::new("POST", "sys/remount").json(&json!({ "from": from, "to": to }));
    let secret = client.secret(request).explain(&failed)?;
    let id = secret.as_ref().and_then(|s| s.get("migration_id")).map(plain).unwrap_or_default();
    call.console.say(format_args!("Started moving {thing} {from} to {to}, with migration ID {id}"));
    for _ in 0..MOVE_POLLS {
        let status = client.read(&format!("sys/remount/status/{id}"), &[]).explain(&failed)?;
        let state =
            status.as_ref().and_then(|s| s.get("migration_info")).map(|i| text(i, "status")).unwrap_or_default();
        match state.as_str() {
            "success" => {
                return call.success(format_args!("Finished moving {thing} {from} to {to}, with migration ID {id}"));
            }
            "failure" => {
                return Err(Failure::refused(format!("{failed}: the server gave up; migration ID {id}")));
            }
            _ => std::thread::sleep(MOVE_POLL_WAIT),
        }
    }
    Err(Failure::refused(format!("{failed}: still not done; ask \"read sys/remount/status/{id}\"")))
}
