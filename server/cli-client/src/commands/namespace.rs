//! `namespace …`: create, list, change, lock, seal and delete namespaces.

use serde_json::{Map, Value, json};

use super::operator::{pgp, share};
use super::{Command, Prints, status};
use crate::call::{Call, sanitized, with_slash};
use crate::client::{Error, Request};
use crate::data::opening;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, plain, table};
use crate::secret::Secret;

const CUSTOM: Flag = Flag::pairs("custom-metadata", "A pair to keep with the namespace. May be given several times.");

static CREATE: [Flag; 5] = [
    CUSTOM,
    Flag::text("seal", "A file (HCL) with the seal of its own that the namespace shall have."),
    Flag::int("key-shares", "Gives it a seal of its own by key shares: how many to make. -n is short for it.")
        .also(&["n"]),
    Flag::int("key-threshold", "How many of them unseal. -t is short for it.").also(&["t"]),
    Flag::list("pgp-keys", "Files of public PGP keys, with commas between: each share is encrypted to one, in order."),
];
static PATCH: [Flag; 2] =
    [CUSTOM, Flag::list("remove-custom-metadata", "A pair's key to take away. May be given several times.")];
static LIST: [Flag; 1] = [Flag::bool("detailed", "With all that the server tells of each.")];
static UNSEAL: [Flag; 1] = [Flag::bool("reset", "Forget the shares given so far.")];
static DELETE_SEALED: [Flag; 1] = [Flag::bool("force", "With all namespaces below it.")];

pub static COMMANDS: [Command; 12] = [
    Command::new("namespace create", "Create a namespace", create)
        .takes("[options] PATH")
        .prints(Prints::Object)
        .flags(&CREATE),
    Command::new("namespace patch", "Change the metadata of a namespace", patch)
        .takes("[options] PATH")
        .prints(Prints::Object)
        .flags(&PATCH),
    Command::new("namespace lookup", "What is known of a namespace", lookup)
        .takes("[options] PATH")
        .prints(Prints::Answer),
    Command::new("namespace list", "List namespaces", list).prints(Prints::Answer).flags(&LIST),
    Command::new("namespace scan", "List namespaces and all below them", scan).prints(Prints::Answer).flags(&LIST),
    Command::new("namespace delete", "Delete a namespace", delete).takes("[options] PATH"),
    Command::new("namespace lock", "Lock the API of a namespace and those below it", lock)
        .takes("[options] [PATH]")
        .prints(Prints::Answer),
    Command::new("namespace unlock", "Unlock the API of a namespace", unlock)
        .takes("[options] [PATH]")
        .about("Unlocks the API of a namespace with the key that locking it gave (-unlock-key), or without it by sudo.")
        .prints(Prints::Answer),
    Command::new("namespace seal", "Seal a namespace that has a seal of its own", seal).takes("[options] PATH"),
    Command::new("namespace unseal", "Give a key share to unseal a namespace", unseal)
        .takes("[options] PATH [KEY]")
        .prints(Prints::Answer)
        .flags(&UNSEAL),
    Command::new("namespace seal-status", "Whether a namespace is sealed", seal_status)
        .takes("[options] PATH")
        .prints(Prints::Answer),
    Command::new("namespace delete-sealed", "Delete a namespace that is sealed", delete_sealed)
        .takes("[options] PATH")
        .about("Deletes a sealed namespace by wiping its storage. What its leases stand for outside is not ended.")
        .flags(&DELETE_SEALED),
];

fn route(call: &Call) -> String {
    format!("sys/namespaces/{}", sanitized(call.arg(0)))
}

fn create(call: &Call) -> Outcome {
    call.exactly(1)?;
    let mut body = Map::new();
    body.insert("custom_metadata".into(), json!(call.flags.pairs("custom-metadata")));
    if let Some(seal) = own_seal(call)? {
        body.insert("seal".into(), seal.into());
    }
    if let Some(keys) = pgp::keys(call, "pgp-keys")? {
        body.insert("pgp_keys".into(), json!(keys));
    }
    let client = call.client()?;
    let request = Request::new("POST", route(call)).json(&Value::Object(body));
    let answer = client.secret(request).explain("Error creating namespace")?;
    let shares = answer.as_ref().and_then(|s| s.get("key_shares")).and_then(Value::as_array);
    match (shares, answer.as_ref()) {
        (Some(shares), Some(secret)) if call.format == Format::Table && call.field().is_none() => {
            for (i, share) in shares.iter().enumerate() {
                call.console.say(format_args!("Unseal Key {}: {}", i + 1, plain(share)));
            }
            let threshold = secret.get("key_threshold").map(plain).unwrap_or_default();
            call.console.say(format_args!(
                "\nThe namespace has a seal of its own. When it is sealed, {threshold} of these {} key shares\nunseal it. They are shown this once.\n",
                shares.len()
            ));
        }
        _ => {}
    }
    printed(call, answer)
}

/// The seal that flags ask for, as HCL.
fn own_seal(call: &Call) -> Result<Option<String>, Failure> {
    if let Some(path) = call.flags.text("seal") {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::refused(format!("Error reading seal config file: {}", opening(path, &e))))?;
        return Ok(Some(text));
    }
    let number = |name: &str| call.flags.int(name).unwrap_or(0);
    let (shares, threshold) = (number("key-shares"), number("key-threshold"));
    let seal = format!("seal \"shamir\" {{\n    shares = {shares}\n    threshold = {threshold}\n}}");
    Ok((shares != 0 || threshold != 0).then_some(seal))
}

fn patch(call: &Call) -> Outcome {
    call.exactly(1)?;
    let mut metadata: Map<String, Value> =
        call.flags.pairs("custom-metadata").into_iter().map(|(k, v)| (k, v.into())).collect();
    metadata.extend(call.flags.list("remove-custom-metadata").into_iter().map(|k| (k, Value::Null)));
    let client = call.client()?;
    let answer = client.patch(&route(call), &json!({ "custom_metadata": metadata }));
    printed(call, answer.explain("Error patching namespace")?)
}

fn lookup(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    match client.read(&route(call), &[]).explain("Error looking up namespace")? {
        None => Err(Failure::refused("Namespace not found")),
        found => printed(call, found),
    }
}

/// A namespace as it is: its fields alone, without the envelope and without key shares in tables.
fn printed(call: &Call, answer: Option<Secret>) -> Outcome {
    let Some(mut secret) = answer else {
        return Ok(0);
    };
    if let Some(field) = call.field() {
        return output::secret_field(call, &secret, field);
    }
    if secret.wrap_info.is_some() {
        return output::secret(call, &secret);
    }
    if call.format != Format::Table {
        let data = secret.data.unwrap_or_default();
        return output::value(call, &output::sorted(&Value::Object(data)));
    }
    if let Some(data) = &mut secret.data {
        data.remove("key_shares");
        data.remove("key_threshold");
    }
    output::secret(call, &secret)
}

fn list(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?;
    names(call, client.list("sys/namespaces", &[]), "listing")
}

fn scan(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?;
    names(call, client.scan("sys/namespaces", &[]), "scanning")
}

fn names(call: &Call, answer: Result<Option<Secret>, Error>, doing: &str) -> Outcome {
    let found = answer.explain(format!("Error {doing} namespaces"))?;
    let Some(secret) = found.filter(|s| s.keys().is_some()) else {
        if call.format != Format::Table {
            output::value(call, &json!({}))?;
            return Ok(2);
        }
        return Err(Failure::refused("No namespaces found"));
    };
    if call.flags.bool("detailed") && call.format != Format::Table {
        let info = secret.get("key_info").cloned().unwrap_or_else(|| json!({}));
        return output::value(call, &output::sorted(&info));
    }
    output::list(call, &secret)
}

fn delete(call: &Call) -> Outcome {
    call.exactly(1)?;
    deleted(call, Request::new("DELETE", route(call)))
}

fn delete_sealed(call: &Call) -> Outcome {
    call.exactly(1)?;
    let mut request = Request::new("DELETE", format!("{}/delete-sealed", route(call)));
    if call.flags.bool("force") {
        request = request.query("force", "true");
    }
    deleted(call, request)
}

fn deleted(call: &Call, request: Request) -> Outcome {
    let client = call.client()?;
    let answer = client.secret(request).explain("Error deleting namespace")?;
    let warnings: Vec<_> = answer.iter().flat_map(|s| s.warnings()).collect();
    if warnings.iter().any(|w| w.contains("does not exist")) {
        call.console.warn("Requested namespace does not exist");
        return Ok(0);
    }
    for warning in warnings {
        call.console.warn(warning);
    }
    call.success(format_args!("Namespace deletion scheduled: {}", with_slash(call.arg(0))))
}

fn lock(call: &Call) -> Outcome {
    call.between(0, 1, "0-1")?;
    let client = call.client()?;
    let request =
        Request::new("PUT", format!("sys/namespaces/api-lock/lock/{}", sanitized(call.arg(0)))).json(&Value::Null);
    let answer = client.secret(request).explain("Error locking namespace")?;
    let key = answer.as_ref().and_then(|s| s.get("unlock_key")).map(plain).unwrap_or_default();
    if call.format != Format::Table {
        return output::value(call, &json!({ "unlock_key": key }));
    }
    call.console.say(format_args!("Unlock Key: {key}\n"));
    call.console.say(
        "The namespace is locked. Keep the key: it unlocks the API again, and without it only\nsomebody with sudo can.",
    );
    Ok(0)
}

fn unlock(call: &Call) -> Outcome {
    call.between(0, 1, "0-1")?;
    let client = call.client()?;
    let key = call.flags.text("unlock-key").unwrap_or_default();
    let request = Request::new("PUT", format!("sys/namespaces/api-lock/unlock/{}", sanitized(call.arg(0))))
        .json(&json!({ "unlock_key": key }));
    let answer = client.secret(request).explain("Error unlocking namespace")?;
    for warning in answer.iter().flat_map(|s| s.warnings()) {
        call.console.warn(warning);
    }
    Ok(0)
}

fn seal(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    client.send(&Request::new("PUT", format!("{}/seal", route(call)))).explain("Error sealing")?;
    call.success(format_args!("Namespace {:?} is sealed.", sanitized(call.arg(0))))
}

fn unseal(call: &Call) -> Outcome {
    call.between(1, 2, "1-2")?;
    let client = call.client()?;
    let reset = call.flags.bool("reset");
    let key = if reset { String::new() } else { share(call, 1)? };
    let failed = if reset { "Error resetting unseal process" } else { "Error unsealing" };
    let request = Request::new("PUT", format!("{}/unseal", route(call))).json(&json!({ "key": key, "reset": reset }));
    let answer = client.send(&request).explain(failed)?;
    print_seal(call, answer.object().bare()?)
}

fn seal_status(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let answer = client
        .send(&Request::new("GET", format!("{}/seal-status", route(call))))
        .explain("Error reading seal status")?;
    print_seal(call, answer.object().bare()?)
}

fn print_seal(call: &Call, answer: Map<String, Value>) -> Outcome {
    let state = super::operator::unwrapped(answer);
    if call.format != Format::Table {
        return output::value(call, &Value::Object(state));
    }
    call.console.say(table::key_value(status::seal_rows(&state)));
    Ok(0)
}
