//! The second factor of a login, asked for at the terminal.

use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::client::Client;
use crate::failure::{Explain, Failure};
use crate::secret::Secret;

const LEFT_TO_DO: &str = "A login request was issued that is subject to MFA validation. Please make sure\nto validate the login by sending \
     another request to sys/mfa/validate endpoint.\n";

/// The login with its second factor, where one is needed and can be asked for; else what the server answered.
pub fn brought(call: &Call, client: &Client, login: Secret) -> Result<Option<Secret>, Failure> {
    let Some(requirement) = login.auth.as_ref().and_then(|auth| auth.mfa_requirement()) else { return Ok(Some(login)) };
    let Some(factor) = only_one(requirement).filter(|_| may_ask(call)) else {
        call.console.warn(LEFT_TO_DO);
        return Ok(Some(login));
    };
    let code = match factor.uses_passcode {
        true => {
            let question = format!("Passcode of {} (will be hidden): ", factor.shown());
            let asked = call.console.ask_hidden(&question);
            vec![asked.map_err(|e| Failure::refused(format!("Error reading the passcode: {e}")))?.to_string()]
        }
        // The other device asks.
        false => Vec::new(),
    };
    let payload = json!({ "mfa_request_id": requirement.get("mfa_request_id"), "mfa_payload": { factor.id: code } });
    client.write("sys/mfa/validate", &payload).explain("Error validating the second factor")
}

fn may_ask(call: &Call) -> bool {
    !call.flags.bool("non-interactive") && call.console.has_terminal()
}

struct Factor<'r> {
    id: &'r str,
    kind: &'r str,
    name: Option<&'r str>,
    uses_passcode: bool,
}

impl Factor<'_> {
    fn shown(&self) -> String {
        match self.name {
            Some(name) => format!("{} method {name:?}", self.kind),
            None => format!("{} method {}", self.kind, self.id),
        }
    }
}

/// The factor to ask for, if there is no choice.
fn only_one(requirement: &Map<String, Value>) -> Option<Factor<'_>> {
    let constraints = requirement.get("mfa_constraints")?.as_object()?;
    let (constraint, None) = (constraints.values().next()?, constraints.values().nth(1)) else { return None };
    let [method] = constraint.get("any")?.as_array()?.as_slice() else { return None };
    let text = |name: &str| method.get(name).and_then(Value::as_str);
    Some(Factor {
        id: text("id")?,
        kind: text("type")?,
        name: text("name").filter(|n| !n.is_empty()),
        uses_passcode: method.get("uses_passcode").and_then(Value::as_bool).unwrap_or(false),
    })
}
