//! `token create | lookup | renew | revoke | capabilities`; `report` is in `token_report`.

use serde_json::{Map, Value, json};

use super::token_report::{self, report};
use super::{Command, Prints};
use crate::call::Call;
use crate::client::{Error, Request};
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, plain};
use crate::secret::Secret;

static CREATE: [Flag; 14] = [
    Flag::text("id", "The token itself, instead of one that the server makes. Needs sudo."),
    Flag::text("display-name", "A name for the token in audit lines."),
    Flag::duration("ttl", "How long it lasts at first."),
    Flag::duration("explicit-max-ttl", "A hard end, counted from now."),
    Flag::duration("period", "Makes it periodic: each renewal sets it back to this. Needs sudo."),
    Flag::bool("renewable", "Whether it can be renewed.").default("true"),
    Flag::bool("orphan", "It has no parent and does not end with one."),
    Flag::bool("no-default-policy", "Without the policy \"default\"."),
    Flag::int("use-limit", "It can be used so many times; 0: without a limit."),
    Flag::text("role", "The role to create it by."),
    Flag::text("type", "service or batch.").words(&["service", "batch"]).default("service"),
    Flag::pairs("metadata", "A pair that audit lines show. May be given several times."),
    Flag::list("policy", "A policy of the token. May be given several times.").values(Values::Policy),
    Flag::text("entity-alias", "The alias to use; works with -role only."),
];
static LOOKUP: [Flag; 1] = [Flag::bool("accessor", "The argument is an accessor.")];
static RENEW: [Flag; 2] = [
    Flag::bool("accessor", "The argument is an accessor."),
    Flag::duration("increment", "How long it shall last from now. -i is short for it.").also(&["i"]),
];
static REVOKE: [Flag; 3] = [
    Flag::bool("accessor", "The argument is an accessor."),
    Flag::bool("self", "Revoke the token in use."),
    Flag::text("mode", "orphan: leave its children; path: every token made below the path.").words(&["orphan", "path"]),
];

pub static COMMANDS: [Command; 6] = [
    Command::new("token create", "Create a token", create)
        .about("Creates a token: a child of the one in use, with its policies unless others are named.")
        .prints(Prints::Object)
        .flags(&CREATE),
    Command::new("token lookup", "What is known of a token", lookup)
        .takes("[options] [TOKEN | ACCESSOR]")
        .about("Prints what the server knows of a token; without an argument of the one in use.")
        .prints(Prints::Object)
        .flags(&LOOKUP),
    Command::new("token renew", "Renew a token", renew)
        .takes("[options] [TOKEN | ACCESSOR]")
        .about("Renews a token; without an argument the one in use.")
        .prints(Prints::Answer)
        .flags(&RENEW),
    Command::new("token revoke", "Revoke a token and its children", revoke)
        .takes("[options] [TOKEN | ACCESSOR | PATH]")
        .about("Revokes a token and everything made by it.")
        .flags(&REVOKE),
    Command::new("token capabilities", "What a token may do at a path", capabilities)
        .takes("[options] [TOKEN] PATH")
        .completes(&[Values::Path, Values::Path])
        .about("Prints what a token may do at a path; without a token, the one in use.")
        .prints(Prints::Answer),
    Command::new("token report", "Tokens that can do much, or that were not used for long", report)
        .about(token_report::ABOUT)
        .prints(Prints::Answer)
        .flags(&token_report::FLAGS),
];

fn create(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?;
    let path = match call.flags.text("role") {
        Some(role) if !role.is_empty() => format!("auth/token/create/{role}"),
        _ => "auth/token/create".to_string(),
    };
    let request = Request::new("POST", path).json(&Value::Object(wanted(call)));
    let secret = client.secret(request).explain("Error creating token")?;
    printed(call, secret, "The server created no token.")
}

/// The body that asks for a token.
fn wanted(call: &Call) -> Map<String, Value> {
    let flags = &call.flags;
    let mut body = Map::new();
    let duration = |name: &str| flags.duration(name).unwrap_or_default().long();
    if let Some(id) = flags.text("id").filter(|v| !v.is_empty()) {
        body.insert("id".into(), id.into());
    }
    if flags.is_set("policy") {
        body.insert("policies".into(), flags.list("policy").into());
    }
    let metadata = flags.pairs("metadata");
    if !metadata.is_empty() {
        body.insert("meta".into(), json!(metadata));
    }
    body.insert("ttl".into(), duration("ttl").into());
    body.insert("explicit_max_ttl".into(), duration("explicit-max-ttl").into());
    body.insert("period".into(), duration("period").into());
    for (flag, field) in [("orphan", "no_parent"), ("no-default-policy", "no_default_policy")] {
        if flags.bool(flag) {
            body.insert(field.into(), true.into());
        }
    }
    body.insert("display_name".into(), flags.text("display-name").unwrap_or_default().into());
    body.insert("num_uses".into(), flags.int("use-limit").unwrap_or(0).into());
    body.insert("renewable".into(), (!flags.is_set("renewable") || flags.bool("renewable")).into());
    body.insert("type".into(), flags.text("type").unwrap_or("service").into());
    body.insert("entity_alias".into(), flags.text("entity-alias").unwrap_or_default().into());
    body
}

fn lookup(call: &Call) -> Outcome {
    let by_accessor = call.flags.bool("accessor");
    match (call.args.len(), by_accessor) {
        (0, true) => {
            return Err(Failure::usage("Not enough arguments with -accessor (expected 1, got 0)"));
        }
        (n @ 2.., true) => {
            return Err(Failure::usage(format!("Too many arguments with -accessor (expected 1, got {n})")));
        }
        _ => call.between(0, 1, "0-1")?,
    }
    let client = call.client()?;
    let token = call.arg(0).trim();
    let request = match (token, by_accessor) {
        ("", _) => Request::new("GET", "auth/token/lookup-self"),
        (accessor, true) => Request::new("POST", "auth/token/lookup-accessor").json(&json!({ "accessor": accessor })),
        (token, false) => Request::new("POST", "auth/token/lookup").json(&json!({ "token": token })),
    };
    let secret = client.secret(request).explain("Error looking up token")?;
    printed(call, secret, "The server knows nothing of the token.")
}

fn renew(call: &Call) -> Outcome {
    call.between(0, 1, "1")?;
    let client = call.client()?;
    let increment = call.flags.duration("increment").unwrap_or_default().as_secs();
    let token = call.arg(0).trim();
    let (path, body) = match (token, call.flags.bool("accessor")) {
        ("", _) => ("auth/token/renew-self", json!({ "increment": increment })),
        (accessor, true) => ("auth/token/renew-accessor", json!({ "accessor": accessor, "increment": increment })),
        (token, false) => ("auth/token/renew", json!({ "increment": increment, "token": token })),
    };
    let method = if path.ends_with("accessor") { "POST" } else { "PUT" };
    let secret = client.secret(Request::new(method, path).json(&body)).explain("Error renewing token")?;
    printed(call, secret, "The server renewed no token.")
}

fn printed(call: &Call, secret: Option<Secret>, nothing: &str) -> Outcome {
    match (secret, call.field()) {
        (None, _) => Err(Failure::refused(nothing)),
        (Some(secret), Some(field)) => output::secret_field(call, &secret, field),
        (Some(secret), None) => output::secret(call, &secret),
    }
}

fn revoke(call: &Call) -> Outcome {
    let (own, accessor) = (call.flags.bool("self"), call.flags.bool("accessor"));
    let mode = call.flags.text("mode").unwrap_or_default();
    let count = call.args.len();
    if own && count > 0 {
        return Err(Failure::usage(format!("Too many arguments with -self (expected 0, got {count})")));
    }
    if !own {
        call.between(1, 1, "1 or -self")?;
    }
    if own && accessor {
        return Err(Failure::usage("Cannot use -self with -accessor!"));
    }
    if own && !mode.is_empty() {
        return Err(Failure::usage("Cannot use -self with -mode!"));
    }
    if accessor && !mode.is_empty() {
        return Err(Failure::usage(format!("Cannot use -accessor with -mode={mode}!")));
    }
    let token = call.arg(0).trim();
    let request = match (own, accessor, mode) {
        (true, ..) => Request::new("PUT", "auth/token/revoke-self"),
        (_, true, _) => Request::new("POST", "auth/token/revoke-accessor").json(&json!({ "accessor": token })),
        (.., "") => Request::new("PUT", "auth/token/revoke").json(&json!({ "token": token })),
        (.., "orphan") => Request::new("PUT", "auth/token/revoke-orphan").json(&json!({ "token": token })),
        (.., "path") => Request::new("PUT", format!("sys/leases/revoke-prefix/{token}")),
        (.., other) => return Err(Failure::usage(format!("Invalid mode: {other}"))),
    };
    let client = call.client()?;
    match client.send(&request) {
        Ok(_) => {}
        // A token that is not there any more is revoked already.
        Err(Error::Api(e)) if e.status == 400 && accessor && e.says("invalid accessor") => {}
        Err(e) => return Err(e).explain("Error revoking token"),
    }
    call.success("Revoked token (if it existed)")
}

fn capabilities(call: &Call) -> Outcome {
    call.between(1, 2, "1-2")?;
    let client = call.client()?;
    let request = match call.args.len() {
        1 => {
            let token = client.token().map(|t| t.reveal()).unwrap_or_default();
            Request::new("POST", "sys/capabilities-self").json(&json!({ "path": call.arg(0), "token": token }))
        }
        _ => Request::new("POST", "sys/capabilities").json(&json!({ "path": call.arg(1), "token": call.arg(0) })),
    };
    let path = if call.args.len() == 1 { call.arg(0) } else { call.arg(1) };
    let secret = client.secret(request).explain("Error listing capabilities")?;
    let listed = secret.as_ref().and_then(|s| s.get(path).or_else(|| s.get("capabilities")));
    let mut capabilities: Vec<String> = listed.and_then(Value::as_array).into_iter().flatten().map(plain).collect();
    capabilities.sort();
    match call.format {
        Format::Table => call.console.say(capabilities.join(", ")),
        _ => return output::value(call, &Value::from(capabilities)),
    }
    Ok(0)
}
