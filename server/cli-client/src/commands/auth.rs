//! `auth enable | disable | list | tune | move | help`.

use serde_json::Value;

use super::mount;
use super::{Command, Prints, login};
use crate::PROGRAM;
use crate::call::{Call, with_slash};
use crate::client::Request;
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::{Flag, Kind};

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
    mount::TOKEN_TYPE,
    mount::VERSION,
];
static TUNE: [Flag; 16] = [
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
    mount::TOKEN_TYPE,
    mount::VERSION,
    Flag::new("user-lockout-threshold", Kind::Uint, "Failed logins after which a user is locked."),
    Flag::duration("user-lockout-duration", "How long a user stays locked."),
    Flag::duration("user-lockout-counter-reset-duration", "After how long failed logins are forgotten."),
    Flag::bool("user-lockout-disable", "Users are never locked."),
];
static LIST: [Flag; 1] = [Flag::bool("detailed", "With all that the server tells of each.")];

pub static COMMANDS: [Command; 6] = [
    Command::new("auth enable", "Enable a method to log in by", enable)
        .takes("[options] TYPE")
        .completes(&[Values::Words(&mount::METHODS)])
        .flags(&ENABLE),
    Command::new("auth disable", "Disable a method and revoke its tokens", disable)
        .takes("[options] PATH")
        .completes(&[Values::AuthMount]),
    Command::new("auth list", "List enabled methods", list).prints(Prints::Answer).flags(&LIST),
    Command::new("auth tune", "Change the settings of a method", tune)
        .takes("[options] PATH")
        .completes(&[Values::AuthMount])
        .flags(&TUNE),
    Command::new("auth move", "Move a method to another path", move_)
        .takes("[options] SOURCE DESTINATION")
        .about("Moves a method to another path; both are written with auth/ before them. Its tokens are revoked."),
    Command::new("auth help", "How to log in by a method", help)
        .takes("[options] TYPE | PATH")
        .completes(&[Values::AuthMount]),
];

fn enable(call: &Call) -> Outcome {
    call.exactly(1)?;
    let kind = call.arg(0).trim();
    let (kind, thing) = match (kind, call.flags.text("plugin-name")) {
        ("plugin", Some(name)) => (name, format!("{name} plugin")),
        _ => (kind, format!("{kind} auth method")),
    };
    let path = with_slash(call.flags.text("path").filter(|p| !p.is_empty()).unwrap_or(kind));
    let client = call.client()?;
    let body = mount::enable_body(kind, &call.flags);
    client
        .send(&Request::new("POST", format!("sys/auth/{path}")).json(&body))
        .explain(format!("Error enabling {kind} auth"))?;
    let article = if thing.ends_with("plugin") { "the " } else { "" };
    call.success(format_args!("Enabled {article}{thing} at: {path}"))
}

fn disable(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = with_slash(call.arg(0));
    let client = call.client()?;
    client
        .send(&Request::new("DELETE", format!("sys/auth/{path}")))
        .explain(format!("Error disabling auth method at {path}"))?;
    call.success(format_args!("Disabled the auth method (if it existed) at: {path}"))
}

fn list(call: &Call) -> Outcome {
    call.exactly(0)?;
    let mounts = mount::listed(&call.client()?, "sys/auth", "Error listing enabled authentications")?;
    if call.flags.bool("detailed") {
        return mount::print_list(call, mounts, &DETAILED, detailed_row);
    }
    mount::print_list(call, mounts, &["Path", "Type", "Accessor", "Description", "Version"], |path, m| {
        let mut cells = vec![path.to_string()];
        cells.extend(["type", "accessor", "description", "plugin_version"].iter().map(|n| mount::text(m, n)));
        cells
    })
}

const DETAILED: [&str; 16] = [
    "Path",
    "Plugin",
    "Accessor",
    "Default TTL",
    "Max TTL",
    "Token Type",
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
        m.get("config").map(|c| mount::text(c, "token_type")).unwrap_or_default(),
    ];
    cells.extend(mount::common_cells(m));
    cells
}

fn tune(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = with_slash(call.arg(0));
    let client = call.client()?;
    let request = Request::new("POST", format!("sys/mounts/auth/{path}/tune")).json(&mount::tune_body(&call.flags));
    client.send(&request).explain(format!("Error tuning auth method {path}"))?;
    call.success(format_args!("Tuned the auth method at: {path}"))
}

fn move_(call: &Call) -> Outcome {
    mount::moved(call, "auth method")
}

fn help(call: &Call) -> Outcome {
    call.exactly(1)?;
    let name = call.arg(0).trim();
    let found = match login::method(name) {
        Some(method) => Some(method),
        None => {
            let path = with_slash(name);
            let mounts = mount::listed(&call.client()?, "sys/auth", "Error listing auth methods")?;
            let kind = mounts.get(&path).map(|m| mount::text(m, "type"));
            let kind =
                kind.ok_or_else(|| Failure::usage(format!("No auth method available on the server at {path:?}")))?;
            login::method(&kind)
        }
    };
    let Some(method) = found else {
        return Err(Failure::usage(format!(
            "Log in by \"{PROGRAM} write auth/PATH/login ...\"; \"{PROGRAM} path-help auth/PATH\" says how."
        )));
    };
    call.console.say(login::usage(method));
    Ok(0)
}
