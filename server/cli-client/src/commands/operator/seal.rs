//! `operator unseal | seal | step-down`.

use serde_json::json;

use crate::call::Call;
use crate::client::Request;
use crate::commands::status;
use crate::failure::{Explain, Failure, Outcome};

pub fn unseal(call: &Call) -> Outcome {
    call.between(0, 1, "1")?;
    let client = call.client()?.in_root_namespace();
    let body = if call.flags.bool("reset") {
        json!({ "reset": true })
    } else {
        json!({ "key": share(call, 0)?, "reset": false, "migrate": call.flags.bool("migrate") })
    };
    let answer = client.send(&Request::new("PUT", "sys/unseal").json(&body)).explain("Error unsealing")?;
    let mut state = answer.object().bare()?;
    if !state.contains_key("ha_enabled") {
        let clustered = state.get("storage_type").is_some_and(|t| t == "raft");
        state.insert("ha_enabled".into(), clustered.into());
    }
    status::print(call, &state)
}

/// The key share that is the argument at `index`, or asked for.
pub fn share(call: &Call, index: usize) -> Result<String, Failure> {
    if let Some(share) = call.args.get(index) {
        return Ok(share.trim().to_string());
    }
    if call.flags.bool("non-interactive") {
        return Err(Failure::usage("The key share is missing, and -non-interactive forbids to ask for it."));
    }
    let share = call.console.ask_hidden_on_stdout("Unseal Key (will be hidden): ").map_err(|e| {
        Failure::usage(format!(
            "The key share is asked for on a terminal only. Where there is none it can be given\nas the argument, which others may then see. The error was: {e}"
        ))
    })?;
    Ok(share.trim().to_string())
}

pub fn seal(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?.in_root_namespace();
    client.send(&Request::new("PUT", "sys/seal")).explain("Error sealing")?;
    call.success("Holdfast is sealed.")
}

pub fn step_down(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?.in_root_namespace();
    client.send(&Request::new("PUT", "sys/step-down")).explain("Error stepping down")?;
    call.success(format_args!("Stepped down: {}", client.address()))
}
