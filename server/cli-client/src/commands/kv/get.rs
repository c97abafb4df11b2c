//! `kv get`.

use serde_json::Value;

use super::{Key, path_section, section};
use crate::call::Call;
use crate::failure::{Explain, Failure, Outcome};
use crate::output::{self, Format};

pub fn run(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    let path = key.route("data");
    let version = call.flags.int("version").filter(|v| *v > 0 && key.is_v2);
    let query: Vec<_> = version.map(|v| ("version".to_string(), v.to_string())).into_iter().collect();
    let secret = client.read(&path, &query).explain(format!("Error reading {path}"))?;
    let Some(secret) = secret else {
        return Err(Failure::refused(format!("No value found at {path}")));
    };
    let data = secret.get("data").and_then(Value::as_object);
    if let Some(field) = call.field() {
        return match (key.is_v2, data) {
            // A wrapped answer has no data yet; what scripts want of it is the token.
            _ if secret.wrap_info.is_some() => output::secret_field(call, &secret, field),
            (false, _) => output::secret_field(call, &secret, field),
            (true, None) => Err(Failure::refused(format!("No data found at {path}"))),
            (true, Some(data)) if field == "data" && !data.contains_key("data") => {
                output::secret_field(call, &secret, field)
            }
            (true, Some(data)) => output::field(call, data, field),
        };
    }
    if secret.wrap_info.is_some() || call.format != Format::Table {
        return output::secret(call, &secret);
    }
    if !key.is_v2 {
        call.console.say(section("Data", secret.data.as_ref().unwrap_or(&Default::default())));
        output::warnings(call, &secret);
        return Ok(0);
    }
    call.console.say(path_section("Secret Path", &path));
    if let Some(metadata) = secret.get("metadata").and_then(Value::as_object) {
        call.console.say(section("Metadata", metadata));
    }
    if let Some(data) = data {
        call.console.say(format_args!("\n{}", section("Data", data)));
    }
    output::warnings(call, &secret);
    Ok(0)
}
