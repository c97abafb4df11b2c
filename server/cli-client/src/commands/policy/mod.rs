//! `policy list | read | write | delete | fmt | lint | explain`.

mod explain;
mod fmt;
mod layout;
mod lint;

use std::fs;

use serde_json::{Map, Value, json};

use super::{Command, Prints};
use crate::call::Call;
use crate::client::Request;
use crate::completion::Values;
use crate::data::opening;
use crate::failure::{Explain, Failure, Outcome};
use crate::output::{self, Format, plain};

pub static COMMANDS: [Command; 7] = [
    Command::new("policy list", "List policies", list).prints(Prints::Answer),
    Command::new("policy read", "Print a policy", read)
        .takes("[options] NAME")
        .completes(&[Values::Policy])
        .prints(Prints::Answer),
    Command::new("policy write", "Write a policy from a file", write)
        .takes("[options] NAME FILE")
        .completes(&[Values::Policy, Values::File])
        .about("Writes a policy from a file; - is stdin. Names have small letters only."),
    Command::new("policy fmt", "Write a policy's file in its one layout", fmt::run)
        .takes("[options] FILE")
        .completes(&[Values::File])
        .about("Checks a policy's file and writes it back with the usual blanks and line ends. Comments stay."),
    Command::new("policy lint", "Look for mistakes in a policy's file", lint::run)
        .takes("[options] FILE")
        .completes(&[Values::File])
        .prints(Prints::Answer)
        .flags(&lint::FLAGS)
        .about(lint::ABOUT),
    Command::new("policy explain", "Say why a request is or would be refused", explain::run)
        .takes("[options] PATH [K=V...]")
        .completes(&[Values::Path])
        .prints(Prints::Object)
        .flags(&explain::FLAGS)
        .about(explain::ABOUT),
    Command::new("policy delete", "Delete a policy", delete).takes("[options] NAME").completes(&[Values::Policy]),
];

fn list(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?;
    let secret = client.list("sys/policies/acl", &[]).explain("Error listing policies")?;
    let mut names: Vec<String> = secret.as_ref().and_then(|s| s.keys()).into_iter().flatten().map(plain).collect();
    // The one that is not to be changed stands at the end.
    names.sort_by_key(|n| (n == "root", n.clone()));
    match call.format {
        Format::Table => names.iter().for_each(|n| call.console.say(n)),
        _ => return output::value(call, &Value::from(names)),
    }
    Ok(0)
}

fn read(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let name = call.arg(0).trim().to_lowercase();
    let secret =
        client.read(&format!("sys/policies/acl/{name}"), &[]).explain(format!("Error reading policy named {name}"))?;
    let rules = secret.as_ref().and_then(|s| s.get("policy")).map(plain).unwrap_or_default();
    if rules.is_empty() {
        return Err(Failure::refused(format!("No policy named: {name}")));
    }
    match call.format {
        Format::Table => call.console.say(rules.trim()),
        _ => return output::value(call, &json!({ "policy": rules })),
    }
    Ok(0)
}

fn write(call: &Call) -> Outcome {
    call.exactly(2)?;
    let client = call.client()?;
    let name = call.arg(0).trim().to_lowercase();
    if name != call.arg(0) {
        call.console.warn(format_args!("Policy name was converted from {:?} to {name:?}", call.arg(0)));
    }
    let rules = match call.arg(1).trim() {
        "-" => call
            .console
            .read_stdin()
            .map(|b| b.to_vec())
            .map_err(|e| Failure::refused(format!("Error reading from stdin: {e}")))?,
        path => {
            fs::read(path).map_err(|e| Failure::refused(format!("Error opening policy file: {}", opening(path, &e))))?
        }
    };
    let mut body = Map::new();
    body.insert("policy".into(), String::from_utf8_lossy(&rules).into());
    let request = Request::new("PUT", format!("sys/policies/acl/{name}")).json(&Value::Object(body));
    let answer = client.secret(request).explain("Error uploading policy")?;
    if let Some(answer) = &answer {
        output::warnings(call, answer);
    }
    call.success(format_args!("Uploaded policy: {name}"))
}

fn delete(call: &Call) -> Outcome {
    call.exactly(1)?;
    let client = call.client()?;
    let name = call.arg(0).trim().to_lowercase();
    client
        .send(&Request::new("DELETE", format!("sys/policies/acl/{name}")))
        .explain(format!("Error deleting {name}"))?;
    call.success(format_args!("Deleted policy: {name}"))
}
