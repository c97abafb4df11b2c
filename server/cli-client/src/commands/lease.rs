//! `lease lookup | renew | revoke`.

use serde_json::json;

use super::{Command, Prints};
use crate::call::Call;
use crate::client::Request;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output;

static RENEW: [Flag; 1] =
    [Flag::duration("increment", "How long it shall last from now. -i is short for it.").also(&["i"])];
static REVOKE: [Flag; 3] = [
    Flag::bool("force", "Forget leases even where revoking fails. Needs -prefix. -f is short for it.").also(&["f"]),
    Flag::bool("prefix", "The argument is a prefix of many leases."),
    Flag::bool("sync", "Wait until it is done."),
];

pub static COMMANDS: [Command; 3] = [
    Command::new("lease lookup", "What is known of a lease", lookup).takes("[options] ID").prints(Prints::Answer),
    Command::new("lease renew", "Renew a lease", renew).takes("[options] ID").prints(Prints::Answer).flags(&RENEW),
    Command::new("lease revoke", "Revoke leases", revoke)
        .takes("[options] ID")
        .about("Revokes a lease, or all whose ids begin so: what it stands for ends.")
        .flags(&REVOKE),
];

fn one_id<'a>(call: &'a Call, expected: &str) -> Result<&'a str, Failure> {
    if call.args.is_empty() {
        return Err(Failure::usage("Missing ID!"));
    }
    call.between(1, 1, expected)?;
    Ok(call.arg(0).trim())
}

fn lookup(call: &Call) -> Outcome {
    let id = one_id(call, "1")?;
    let client = call.client()?;
    let secret = client.write("sys/leases/lookup", &json!({ "lease_id": id }));
    match secret.explain(format!("error looking up lease id {id}"))? {
        Some(secret) => output::secret(call, &secret),
        None => Err(Failure::refused(format!("No lease: {id}"))),
    }
}

fn renew(call: &Call) -> Outcome {
    let id = one_id(call, "1-2")?;
    let increment = call.flags.duration("increment").unwrap_or_default().as_secs();
    let client = call.client()?;
    let secret = client.write("sys/leases/renew", &json!({ "increment": increment, "lease_id": id }));
    match secret.explain(format!("Error renewing {id}"))? {
        Some(secret) => output::secret(call, &secret),
        None => Ok(0),
    }
}

fn revoke(call: &Call) -> Outcome {
    call.exactly(1)?;
    let flags = &call.flags;
    let (force, prefix, sync) = (flags.bool("force"), flags.bool("prefix"), flags.bool("sync"));
    if force && !prefix {
        return Err(Failure::usage("Specifying -force requires also specifying -prefix"));
    }
    let id = call.arg(0).trim();
    let client = call.client()?;
    if force {
        call.console.warn("Warning! What forgotten leases stand for outside may live on.");
    }
    let (route, failed, done) = match (force, prefix) {
        (true, _) => {
            ("revoke-force", "Error force revoking leases with prefix", "Force revoked any leases with prefix")
        }
        (_, true) => ("revoke-prefix", "Error revoking leases with prefix", "Revoked any leases with prefix"),
        _ => ("revoke", "Error revoking lease", "Revoked lease"),
    };
    let mut request = Request::new("PUT", format!("sys/leases/{route}/{id}"));
    if !force {
        request = request.json(&json!({ "sync": sync }));
    }
    client.send(&request).explain(format!("{failed} {id}"))?;
    if force || sync {
        return call.success(format_args!("{done}: {id}"));
    }
    call.console.say("All revocation operations queued successfully!");
    Ok(0)
}
