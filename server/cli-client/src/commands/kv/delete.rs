//! `kv delete`.

use serde_json::json;

use super::Key;
use super::mount::versions;
use crate::call::Call;
use crate::commands::delete::finished;
use crate::failure::Outcome;

pub fn run(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    let versions = versions(call);
    let path = key.route("data");
    let answer = if key.is_v2 && !versions.is_empty() {
        client.write(&key.route("delete"), &json!({ "versions": versions }))
    } else {
        client.delete(&path, &[])
    };
    finished(call, &path, answer)
}
