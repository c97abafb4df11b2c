//! `plugin …`: the catalogue of plugins.

use serde_json::{Map, Value, json};

use super::{Command, Prints};
use crate::call::Call;
use crate::client::Request;
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, plain, table};

/// The kinds of plugins, each with the number that the API has for it.
const KINDS: [(&str, u8); 3] = [("auth", 1), ("database", 2), ("secret", 3)];

const VERSION: Flag = Flag::text("version", "The plugin's version.");
static ONLY_VERSION: [Flag; 1] = [VERSION];
static LIST: [Flag; 1] = [Flag::bool("detailed", "With all that the server tells of each.")];
static REGISTER: [Flag; 5] = [
    VERSION,
    Flag::list("args", "An argument that the plugin is started with. May be given several times."),
    Flag::text("command", "The program in the plugin directory; without this, the plugin's name."),
    Flag::text("oci", "The image that the plugin comes in."),
    Flag::text("sha256", "The SHA-256 of the program, in hex."),
];
static RELOAD: [Flag; 3] = [
    Flag::text("plugin", "The plugin to reload, at all its mounts."),
    Flag::list("mounts", "A mount whose plugin is reloaded. May be given several times.").values(Values::Mount),
    Flag::text("scope", "\"global\": on all nodes.").words(&["global"]),
];
static INIT: [Flag; 3] = [
    Flag::list("config", "A configuration file of the server."),
    Flag::text("directory", "Where plugins are put."),
    Flag::duration("timeout", "How long it may take."),
];
static PRUNE: [Flag; 2] =
    [Flag::list("config", "A configuration file of the server."), Flag::text("directory", "Where plugins are.")];

pub static COMMANDS: [Command; 8] = [
    Command::new("plugin list", "List plugins", list)
        .takes("[options] [TYPE]")
        .completes(&[Values::Words(&["auth", "database", "secret"])])
        .prints(Prints::Answer)
        .flags(&LIST),
    Command::new("plugin info", "What is known of a plugin", info)
        .takes("[options] TYPE NAME")
        .completes(&[Values::Words(&["auth", "database", "secret"])])
        .prints(Prints::Object)
        .flags(&ONLY_VERSION),
    Command::new("plugin register", "Register a plugin", register)
        .takes("[options] TYPE NAME")
        .completes(&[Values::Words(&["auth", "database", "secret"])])
        .flags(&REGISTER),
    Command::new("plugin deregister", "Remove a plugin from the catalogue", deregister)
        .takes("[options] TYPE NAME")
        .completes(&[Values::Words(&["auth", "database", "secret"])])
        .flags(&ONLY_VERSION),
    Command::new("plugin reload", "Reload a plugin", reload).flags(&RELOAD),
    Command::new("plugin reload-status", "How a reload goes", reload_status)
        .takes("[options] ID")
        .prints(Prints::Answer),
    Command::new("plugin init", "Fetch plugins that a configuration names", super::outside::not_built).flags(&INIT),
    Command::new("plugin prune", "Remove plugins that no configuration names", super::outside::not_built).flags(&PRUNE),
];

/// The route of a plugin: of a kind and a name, or of the name alone in the old form.
fn route(call: &Call) -> Result<(String, String, Option<u8>), Failure> {
    call.between(1, 2, "1 or 2")?;
    if call.args.len() == 1 {
        let name = call.arg(0).trim();
        return Ok((format!("sys/plugins/catalog/{name}"), name.to_string(), None));
    }
    let (kind, name) = (call.arg(0).trim(), call.arg(1).trim());
    let number =
        kind_number(kind).ok_or_else(|| Failure::refused(format!("{kind:?} is not a supported plugin type")))?;
    Ok((format!("sys/plugins/catalog/{kind}/{name}"), name.to_string(), Some(number)))
}

fn kind_number(kind: &str) -> Option<u8> {
    KINDS.iter().find(|(name, _)| *name == kind).map(|(_, number)| *number)
}

fn list(call: &Call) -> Outcome {
    call.between(0, 1, "0 or 1")?;
    let kind = call.arg(0).trim();
    if !kind.is_empty() && kind_number(kind).is_none() {
        return Err(Failure::refused(format!("Error parsing type: {kind:?} is not a supported plugin type")));
    }
    let client = call.client()?;
    let secret = client.read("sys/plugins/catalog", &[]).explain("Error listing available plugins")?;
    let mut data = secret.and_then(|s| s.data).unwrap_or_default();
    if let Some(details) = data.remove("detailed") {
        data.insert("details".into(), details);
    }
    if let Some(Value::Array(details)) = data.get_mut("details") {
        details.retain(|d| kind.is_empty() || d.get("type").is_some_and(|t| t == kind));
    }
    if !kind.is_empty() {
        data.retain(|name, _| name == kind || name == "details");
    }
    if call.format != Format::Table {
        return output::value(call, &output::sorted(&Value::Object(data)));
    }
    call.console.say(listing(&data, kind, call.flags.bool("detailed")));
    Ok(0)
}

fn listing(data: &Map<String, Value>, kind: &str, detailed: bool) -> String {
    let columns: &[(&str, &str)] = match (detailed, kind) {
        (true, _) => {
            &[("Name", "name"), ("Type", "type"), ("Version", "version"), ("Deprecation Status", "deprecation_status")]
        }
        (false, "") => &[("Name", "name"), ("Type", "type"), ("Version", "version")],
        (false, _) => &[("Name", "name"), ("Version", "version")],
    };
    let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let details = data.get("details").and_then(Value::as_array);
    let cell = |d: &Value, name: &str| d.get(name).filter(|v| !v.is_null()).map(plain).unwrap_or_default();
    let rows = details.into_iter().flatten().map(|d| columns.iter().map(|(_, name)| cell(d, name)).collect()).collect();
    table::titled(&titles, rows)
}

fn info(call: &Call) -> Outcome {
    let (route, name, _) = route(call)?;
    let client = call.client()?;
    let version = call.flags.text("version").map(|v| ("version".to_string(), v.to_string()));
    let mut request = Request::new("GET", route);
    request.query = version.into_iter().collect();
    let secret = client.secret(request).explain(format!("Error reading plugin named {name}"))?;
    let Some(mut secret) = secret else {
        return Err(Failure::refused(format!("No value found for plugin {name:?}")));
    };
    const FIELDS: [&str; 7] = ["args", "builtin", "command", "deprecation_status", "name", "sha256", "version"];
    if let Some(data) = &mut secret.data {
        data.retain(|name, _| FIELDS.contains(&name.as_str()));
        if call.format == Format::Table && data.get("args").is_some_and(Value::is_null) {
            data.insert("args".into(), json!([]));
        }
    }
    match (call.field(), call.format) {
        (Some(field), _) => output::secret_field(call, &secret, field),
        (None, Format::Table) => output::secret(call, &secret),
        (None, _) => output::value(call, &output::sorted(&Value::Object(secret.data.unwrap_or_default()))),
    }
}

fn register(call: &Call) -> Outcome {
    let (route, name, kind) = route(call)?;
    let flags = &call.flags;
    let Some(sha256) = flags.text("sha256").filter(|s| !s.is_empty()) else {
        return Err(Failure::usage("SHA256 is required for all plugins, please provide -sha256"));
    };
    let mut body = Map::new();
    body.insert("type".into(), kind.unwrap_or(0).into());
    if flags.is_set("args") {
        body.insert("args".into(), flags.list("args").into());
    }
    body.insert("command".into(), flags.text("command").unwrap_or(&name).into());
    body.insert("sha256".into(), sha256.into());
    for (flag, field) in [("version", "version"), ("oci", "oci_image")] {
        if let Some(value) = flags.text(flag) {
            body.insert(field.into(), value.into());
        }
    }
    let client = call.client()?;
    let request = Request::new("PUT", route).json(&Value::Object(body));
    client.send(&request).explain(format!("Error registering plugin {name}"))?;
    call.success(format_args!("Registered plugin: {name}"))
}

fn deregister(call: &Call) -> Outcome {
    let (route, name, _) = route(call)?;
    let client = call.client()?;
    let request = Request::new("DELETE", route).query("version", call.flags.text("version").unwrap_or_default());
    client.send(&request).explain(format!("Error deregistering plugin named {name}"))?;
    call.success(format_args!("Deregistered plugin (if it was registered): {name}"))
}

fn reload(call: &Call) -> Outcome {
    let plugin = call.flags.text("plugin").unwrap_or_default();
    let mounts = call.flags.list("mounts");
    match (plugin.is_empty(), mounts.is_empty()) {
        (true, true) => {
            return Err(Failure::usage("Not enough arguments (expected 1, got 0): give -plugin or -mounts"));
        }
        (false, false) => {
            return Err(Failure::usage("Too many arguments (expected 1, got 2): give -plugin or -mounts"));
        }
        _ => {}
    }
    let scope = call.flags.text("scope").unwrap_or_default();
    if !matches!(scope, "" | "global") {
        call.console.warn(format_args!("Invalid reload scope: {scope}"));
    }
    let client = call.client()?;
    let body = json!({
        "plugin": plugin,
        "mounts": if mounts.is_empty() { Value::Null } else { json!(mounts) },
        "scope": scope,
    });
    let request = Request::new("PUT", "sys/plugins/reload/backend").json(&body);
    let secret = client.secret(request).explain("Error reloading plugin/mounts")?;
    let id = secret.as_ref().and_then(|s| s.get("reload_id")).map(plain).unwrap_or_default();
    let what = if mounts.is_empty() { format!("plugin: {plugin}") } else { format!("mounts: [{}]", mounts.join(" ")) };
    match (scope, id.as_str()) {
        ("global", id) if !id.is_empty() => call.success(format_args!("Reloading {what}, reload_id: {id}")),
        _ => call.success(format_args!("Reloaded {what}")),
    }
}

fn reload_status(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let request = Request::new("GET", "sys/plugins/reload/backend/status").query("reload_id", call.arg(0).trim());
    let secret = client.secret(request).explain("Error retrieving plugin reload status")?;
    match secret {
        None => Err(Failure::refused("The server knows nothing of this reload.")),
        Some(secret) => output::secret(call, &secret),
    }
}
