//! `kv undelete`, `kv destroy` and `kv enable-versioning`.

use serde_json::json;

use super::Key;
use super::mount::versions;
use crate::call::{Call, with_slash};
use crate::client::Request;
use crate::commands::write::finished;
use crate::failure::{Explain, Failure, Outcome};

pub fn undelete(call: &Call) -> Outcome {
    on_versions(call, "undelete", "Undelete")
}

pub fn destroy(call: &Call) -> Outcome {
    on_versions(call, "destroy", "Destroy")
}

fn on_versions(call: &Call, route: &str, what: &str) -> Outcome {
    call.exactly(1)?;
    let versions = versions(call);
    if versions.is_empty() {
        return Err(Failure::usage(format!("No versions provided: name those to {route} with \"-versions\".")));
    }
    let client = call.client()?;
    let key = Key::resolve(call, &client, call.arg(0))?;
    key.needs_v2(what)?;
    let path = key.route(route);
    finished(call, &path, client.write(&path, &json!({ "versions": versions })))
}

pub fn enable(call: &Call) -> Outcome {
    call.exactly(1)?;
    let path = with_slash(call.arg(0));
    let client = call.client()?;
    let body = json!({
        "options": { "version": "2" },
        "default_lease_ttl": "",
        "max_lease_ttl": "",
        "force_no_cache": false,
    });
    let request = Request::new("POST", format!("sys/mounts/{path}/tune")).json(&body);
    client.send(&request).explain(format!("Error tuning secrets engine {path}"))?;
    call.success(format_args!("Tuned the secrets engine at: {path}"))
}
