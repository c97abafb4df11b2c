//! `operator init`.

use serde_json::{Map, Value, json};

use super::{is, pgp, text};
use crate::PROGRAM;
use crate::call::Call;
use crate::client::{Client, Request};
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, plain};

const DEFAULT_SHARES: i64 = 5;
const DEFAULT_THRESHOLD: i64 = 3;

pub static FLAGS: [Flag; 10] = [
    Flag::bool("status", "Only say whether the server is initialised."),
    Flag::int("key-shares", "How many key shares to make. -n is short for it.").also(&["n"]).default("5"),
    Flag::int("key-threshold", "How many of them unseal. -t is short for it.").also(&["t"]).default("3"),
    Flag::list("pgp-keys", "Files of public PGP keys, with commas between: each share is encrypted to one, in order."),
    Flag::text("root-token-pgp-key", "A file of a public PGP key that the root token is encrypted to.").values(Values::File),
    Flag::int("recovery-shares", "How many recovery shares to make, where a device unseals.").default("5"),
    Flag::int("recovery-threshold", "How many of them are needed.").default("3"),
    Flag::list("recovery-pgp-keys", "As -pgp-keys, for recovery shares."),
    Flag::text(
        "recovery-form",
        "What recovery shares are for, where a device unseals: \"authorise\" acts that need them, or \"escrow\": they can also bring the root key back without the device.",
    ).words(&["authorise", "escrow"]),
    Flag::text(
        "minimum-lock",
        "The least that each lock of the store has to be, for good: \"any\", \"device\" (pkcs11, tpm, yubihsm: no shares, static or software seal beside or in its place), or \"device+quorum\" (a TPM with custodians).",
    ).words(&["any", "device", "device+quorum"]),
];

pub fn run(call: &Call) -> Outcome {
    call.exactly(0)?;
    if let Some(form) = call.flags.text("recovery-form").filter(|f| !matches!(*f, "authorise" | "escrow")) {
        return Err(Failure::usage(format!(
            "invalid value {form:?} for flag -recovery-form: it is authorise or escrow"
        )));
    }
    let keys = Keys {
        shares: pgp::keys(call, "pgp-keys")?,
        recovery: pgp::keys(call, "recovery-pgp-keys")?,
        root_token: pgp::keys(call, "root-token-pgp-key")?.map(|k| k.concat()).unwrap_or_default(),
    };
    let client = call.client()?.in_root_namespace();
    if call.flags.bool("status") {
        return status(call, &client);
    }
    let has_device = recovers(&client)?;
    let body = wanted(call, keys, has_device);
    let answer = client.send(&Request::new("PUT", "sys/init").json(&body)).explain("Error initializing")?;
    let answer = answer.object().bare()?;
    match call.format {
        Format::Table => print(call, &answer, &body, has_device),
        _ => return output::value(call, &as_object(&answer, &body)),
    }
    Ok(0)
}

struct Keys {
    shares: Option<Vec<String>>,
    recovery: Option<Vec<String>>,
    root_token: String,
}

fn status(call: &Call, client: &Client) -> Outcome {
    let failed = |f: Failure| f.with_code(1);
    let answer = client.send(&Request::new("GET", "sys/init")).explain("Error checking init status").map_err(failed)?;
    let initialised = is(&answer.object().bare()?, "initialized");
    let code = if initialised { 0 } else { 2 };
    if call.format != Format::Table {
        output::value(call, &json!({ "Initialized": initialised }))?;
        return Ok(code);
    }
    let not = if initialised { "" } else { "not " };
    call.console.say(format_args!("Holdfast is {not}initialized"));
    Ok(code)
}

/// Whether the server's seal is a device, so that shares are for recovery.
fn recovers(client: &Client) -> Result<bool, Failure> {
    let answer = client.preflight(&Request::new("GET", "sys/seal-status")).explain("Error initializing")?;
    Ok(is(&answer.object().bare()?, "recovery_seal"))
}

fn wanted(call: &Call, keys: Keys, has_device: bool) -> Value {
    let number = |flag: &str, default: i64| call.flags.int(flag).filter(|n| *n != 0).unwrap_or(default);
    // What the seal has no use for is left to the server's defaults.
    let of_seal = |flag: &str, default: i64, used: bool| match used {
        true => number(flag, default),
        false if has_device => number(flag, 0),
        false => 0,
    };
    let mut body = Map::new();
    body.insert("secret_shares".into(), of_seal("key-shares", DEFAULT_SHARES, !has_device).into());
    body.insert("secret_threshold".into(), of_seal("key-threshold", DEFAULT_THRESHOLD, !has_device).into());
    body.insert("pgp_keys".into(), json!(keys.shares));
    body.insert("recovery_shares".into(), of_seal("recovery-shares", DEFAULT_SHARES, has_device).into());
    body.insert("recovery_threshold".into(), of_seal("recovery-threshold", DEFAULT_THRESHOLD, has_device).into());
    body.insert("recovery_pgp_keys".into(), json!(keys.recovery.filter(|_| has_device)));
    body.insert("root_token_pgp_key".into(), keys.root_token.into());
    if let Some(form) = call.flags.text("recovery-form") {
        body.insert("recovery_form".into(), form.into());
    }
    if let Some(minimum) = call.flags.text("minimum-lock") {
        body.insert("minimum_lock".into(), minimum.into());
    }
    Value::Object(body)
}

/// The answer as JSON and YAML have it.
fn as_object(answer: &Map<String, Value>, body: &Value) -> Value {
    let list = |name: &str| answer.get(name).cloned().unwrap_or(Value::Null);
    let recovery = answer.get("recovery_keys").is_some_and(|k| k.as_array().is_some_and(|k| !k.is_empty()));
    let asked = |name: &str, there: bool| if there { body[name].clone() } else { 0.into() };
    json!({
        "unseal_keys_b64": list("keys_base64"),
        "unseal_keys_hex": list("keys"),
        "unseal_shares": body["secret_shares"],
        "unseal_threshold": body["secret_threshold"],
        "recovery_keys_b64": list("recovery_keys_base64"),
        "recovery_keys_hex": list("recovery_keys"),
        "recovery_keys_shares": asked("recovery_shares", recovery),
        "recovery_keys_threshold": asked("recovery_threshold", recovery),
        "root_token": list("root_token"),
    })
}

fn print(call: &Call, answer: &Map<String, Value>, body: &Value, has_device: bool) {
    let console = call.console;
    let shares = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for (title, name) in [("Unseal Key", "keys_base64"), ("Recovery Key", "recovery_keys_base64")] {
        for (i, share) in shares(name).iter().enumerate() {
            console.say(format_args!("{title} {}: {}", i + 1, plain(share)));
        }
    }
    console.say(format_args!("\nInitial Root Token: {}\n", text(answer, "root_token")));
    if has_device && shares("recovery_keys_base64").is_empty() {
        console.say(format_args!(
            "The server is initialised without recovery shares: the device alone opens it. Shares for what\nthe device may not do are made by \"{PROGRAM} operator rotate-keys -init -target=recovery\"."
        ));
        return;
    }
    if has_device {
        console.say(format_args!(
            "The server is initialised with {} recovery shares, of which {} are needed. Keep them\napart and safe: they authorise what the device alone may not do.",
            body["recovery_shares"], body["recovery_threshold"]
        ));
        return;
    }
    console.say(format_args!(
        "The server is initialised with {} key shares. Each time it starts, {} of them must be\ngiven before it answers. Give them to different people and keep them safe: without\nenough of them what is stored can never be read again. New shares are made by\n\"{PROGRAM} operator rotate-keys\".",
        body["secret_shares"], body["secret_threshold"]
    ));
}
