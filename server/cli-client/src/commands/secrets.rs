//! `secrets enable | disable | list | tune | move`.

use serde_json::Value;

use super::mount;
use super::{Command, Prints};
use crate::call::{Call, with_slash};
use crate::client::Request;
use crate::completion::Values;
use crate::failure::{Explain, Outcome};
use crate::flags::Flag;

static ENABLE: [Flag; 17] = [
    mount::DESCRIPTION,
    mount::PATH,
    mount::DEFAULT_TTL,
    mount::MAX_TTL,
    mount::REQUEST_KEYS,
    mount::RESPONSE_KEYS,
    mount::VISIBILITY,
    mount::REQUEST_HEADERS,
    mount::RESPONSE_HEADERS,
    mount::PLUGIN_NAME,
    mount::PLUGIN_VERSION,
    mount::OPTIONS,
    mount::LOCAL,
    mount::SEAL_WRAP,
    mount::ENTROPY,
    mount::VERSION,
    Flag::bool("force-no-cache", "Its storage is not cached."),
];
static TUNE: [Flag; 11] = [
    mount::DESCRIPTION,
    mount::DEFAULT_TTL,
    mount::MAX_TTL,
    mount::REQUEST_KEYS,
    mount::RESPONSE_KEYS,
    mount::VISIBILITY,
    mount::REQUEST_HEADERS,
    mount::RESPONSE_HEADERS,
    mount::PLUGIN_VERSION,
    mount::OPTIONS,
    mount::VERSION,
];
static LIST: [Flag; 1] = [Flag::bool("detailed", "With all that the server tells of each.")];

pub static COMMANDS: [Command; 5] = [
    Command::new("secrets enable", "Enable a secrets engine", enable)
        .takes("[options] TYPE")
        .completes(&[Values::Words(&mount::ENGINES)])
        .flags(&ENABLE),
    Command::new("secrets disable", "Disable a secrets engine and forget its data", disable)
        .takes("[options] PATH")
        .completes(&[Values::Mount])
        .about("Disables a secrets engine: revokes its leases and removes all its data."),
    Command::new("secrets list", "List enabled secrets engines", list).prints(Prints::Answer).flags(&LIST),
    Command::new("secrets tune", "Change the settings of a secrets engine", tune)
        .takes("[options] PATH")
        .completes(&[Values::Mount])
        .flags(&TUNE),
    Command::new("secrets move", "Move a secrets engine to another path", move_)
        .takes("[options] SOURCE DESTINATION")
        .completes(&[Values::Mount])
        .about("Moves a secrets engine to another path. Its leases are revoked; its data stays."),
];

fn enable(call: &Call) -> Outcome {
    call.exactly(1)?;
    let kind = call.arg(0).trim();
    let (kind, thing) = match (kind, call.flags.text("plugin-name")) {
        ("plugin", Some(name)) => (name, format!("{name} plugin")),
        _ => (kind, format!("{kind} secrets engine")),
    };
    let path = with_slash(call.flags.text("path").filter(|p| !p.is_empty()).unwrap_or(kind));
    let client = call.client()?;
    let body = mount::enable_body(kind, &call.flags);
    client.send(&Request::new("POST", format!("sys/mounts/{path}")).json(&body)).explain("Error enabling")?;
    call.success(format_args!("Enabled the {thing} at: {path}"))
}

fn disable(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = with_slash(call.arg(0));
    let client = call.client()?;
    client
        .send(&Request::new("DELETE", format!("sys/mounts/{path}")))
        .explain(format!("Error disabling secrets engine at {path}"))?;
    call.success(format_args!("Disabled the secrets engine (if it existed) at: {path}"))
}

fn list(call: &Call) -> Outcome {
    call.exactly(0)?;
    let mounts = mount::listed(&call.client()?, "sys/mounts", "Error listing secrets engines")?;
    if call.flags.bool("detailed") {
        return mount::print_list(call, mounts, &DETAILED, detailed_row);
    }
    mount::print_list(call, mounts, &["Path", "Type", "Accessor", "Description"], |path, m| {
        vec![path.to_string(), mount::text(m, "type"), mount::text(m, "accessor"), mount::text(m, "description")]
    })
}

const DETAILED: [&str; 16] = [
    "Path",
    "Plugin",
    "Accessor",
    "Default TTL",
    "Max TTL",
    "Force No Cache",
    "Replication",
    "Seal Wrap",
    "External Entropy Access",
    "Options",
    "Description",
    "UUID",
    "Version",
    "Running Version",
    "Running SHA256",
    "Deprecation Status",
];

fn detailed_row(path: &str, m: &Value) -> Vec<String> {
    let mut cells = vec![
        path.to_string(),
        mount::text(m, "type"),
        mount::text(m, "accessor"),
        mount::ttl(m, "default_lease_ttl"),
        mount::ttl(m, "max_lease_ttl"),
        m.get("config").map(|c| mount::text(c, "force_no_cache")).unwrap_or_default(),
    ];
    cells.extend(mount::common_cells(m));
    cells
}

fn tune(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = with_slash(call.arg(0));
    let client = call.client()?;
    let request = Request::new("POST", format!("sys/mounts/{path}/tune")).json(&mount::tune_body(&call.flags));
    client.send(&request).explain(format!("Error tuning secrets engine {path}"))?;
    call.success(format_args!("Tuned the secrets engine at: {path}"))
}

fn move_(call: &Call) -> Outcome {
    mount::moved(call, "secrets engine")
}
