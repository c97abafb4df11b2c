//! `version` and `version-history`.

use serde_json::Value;

use super::{Command, Prints};
use crate::call::Call;
use crate::failure::{Explain, Failure, Outcome};
use crate::output::{self, Format, plain, table};

pub static COMMANDS: [Command; 2] = [
    Command::new("version", "The version of this program", version).takes("").without_server(),
    Command::new("version-history", "Versions that the server has run", history)
        .about("Lists the versions that the server was started with, each with the time of its first start.")
        .prints(Prints::Answer),
];

fn version(call: &Call) -> Outcome {
    let commit = option_env!("HOLDFAST_COMMIT").unwrap_or("built from source");
    call.console.say(format_args!("Holdfast v{} ({commit})", env!("CARGO_PKG_VERSION")));
    Ok(0)
}

fn history(call: &Call) -> Outcome {
    let client = call.client()?.in_root_namespace();
    let answer = client.list("sys/version-history", &[]).explain("Error reading version history")?;
    let Some(secret) = answer.filter(|s| s.data.is_some()) else {
        return Err(Failure::usage("The server gave no version history.").with_code(2));
    };
    call.console.warn("Note: versions that ran before the server kept a history are not listed.\n");
    if call.format != Format::Table {
        return output::secret(call, &secret);
    }
    let text = |version: &str, name: &str| {
        let value = secret.get("key_info").and_then(|i| i.get(version)).and_then(|i| i.get(name));
        value.filter(|v| !v.is_null()).map(plain).unwrap_or_default()
    };
    let versions = secret.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
    let rows = versions
        .iter()
        .map(plain)
        .map(|v| vec![v.clone(), text(&v, "timestamp_installed"), text(&v, "commit_date")])
        .collect();
    let rows = table::with_titles(&["Version", "Installation Time", "Commit Date"], rows);
    call.console.say(table::columns_apart(&rows, 2));
    output::warnings(call, &secret);
    Ok(0)
}
