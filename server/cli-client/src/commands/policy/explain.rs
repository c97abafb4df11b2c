//! `policy explain`: what the server says of a request that is or would be refused.

use serde_json::{Map, Value};

use crate::call::Call;
use crate::client::Request;
use crate::data;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, plain};

pub const ABOUT: &str = "Asks the server whether the token may do something at a path, by which policy and which rule, and if not, what is missing. K=V are the parameters of the request. The path is that of the API (secret/data/app, not secret/app). With -accessor or -policy it answers for another token or for policies, which needs sudo at sys/policies/explain. The exit code is 0 where it is allowed, 1 where it is refused, 2 where the server gives no answer.";

pub static FLAGS: [Flag; 4] = [
    Flag::text("operation", "read, list, scan, create, update, write (create or update), patch or delete.")
        .default("read")
        .words(&["read", "list", "scan", "create", "update", "write", "patch", "delete"]),
    Flag::text("accessor", "The token that is asked about; without this the one in use."),
    Flag::list("policy", "A policy that is asked about instead of a token. May be given several times."),
    Flag::duration("wrapped-for", "The request asks for its answer to be wrapped for so long."),
];

pub fn run(call: &Call) -> Outcome {
    if call.args.is_empty() {
        return Err(Failure::usage("Not enough arguments (expected at least 1, got 0)"));
    }
    let parameters = data::parse(&call.args[1..], call.console)
        .map_err(|why| Failure::usage(format!("Failed to parse K=V data: {why}")))?;
    let mut body = Map::new();
    body.insert("path".into(), call.arg(0).into());
    body.insert("operation".into(), call.flags.text("operation").unwrap_or("read").into());
    body.insert("parameters".into(), Value::Object(parameters));
    for (name, key) in [("accessor", "accessor"), ("wrapped-for", "wrap_ttl")] {
        if let Some(value) = call.flags.text(name).filter(|value| !value.is_empty()) {
            body.insert(key.into(), value.into());
        }
    }
    if call.flags.is_set("policy") {
        body.insert("policies".into(), call.flags.list("policy").into());
    }
    let client = call.client()?;
    let request = Request::new("POST", "sys/policies/explain").json(&Value::Object(body));
    let answer = client.secret(request).explain("Error asking why")?;
    let Some(answer) = answer else { return Err(Failure::refused("Error asking why: the server's answer is empty")) };
    let data = answer.data.clone().unwrap_or_default();
    let code = i32::from(data.get("allowed") != Some(&Value::Bool(true)));
    if let Some(name) = call.field() {
        output::secret_field(call, &answer, name)?;
    } else if call.format == Format::Table {
        say(call, &data);
    } else {
        output::value(call, &Value::Object(data))?;
    }
    Ok(code)
}

fn say(call: &Call, answer: &Map<String, Value>) {
    let text = |name: &str| answer.get(name).map(plain).unwrap_or_default();
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let words = |values: &[Value]| values.iter().map(plain).collect::<Vec<_>>().join(", ");
    let verdict = if answer.get("allowed") == Some(&Value::Bool(true)) { "Allowed" } else { "Refused" };
    call.console.say(format_args!("{verdict}: {} {}{}", text("operation"), text("namespace"), text("path")));
    call.console.say(format_args!("  {}", text("explanation")));
    if let Some(each) = answer.get("operations").and_then(Value::as_object) {
        let each: Vec<String> =
            each.iter().map(|(o, allowed)| format!("{o}: {}", if allowed == true { "yes" } else { "no" })).collect();
        call.console.say(format_args!("  {}", each.join(", ")));
    }
    if let Some(rule) = answer.get("rule").filter(|rule| rule.is_object()) {
        call.console.say(format_args!("Rule that counts:  {}", plain(&rule["path"])));
        for of in rule["policies"].as_array().into_iter().flatten() {
            call.console.say(format_args!(
                "  in policy:       {}{}, line {}",
                plain(&of["namespace"]),
                plain(&of["name"]),
                plain(&of["line"])
            ));
        }
        call.console
            .say(format_args!("  capabilities:    {}", words(rule["capabilities"].as_array().unwrap_or(&Vec::new()))));
        for name in ["required_parameters", "allowed_parameters", "denied_parameters"] {
            let value = &rule[name];
            if value.as_array().is_some_and(|a| !a.is_empty()) || value.as_object().is_some_and(|o| !o.is_empty()) {
                call.console.say(format_args!("  {name}: {value}"));
            }
        }
    }
    for (title, name) in [
        ("Policies asked:   ", "policies"),
        ("Do not exist:     ", "missing_policies"),
        ("Match, count less:", "also_matching"),
    ] {
        let values = list(name);
        if !values.is_empty() {
            call.console.say(format_args!("{title} {}", words(&values)));
        }
    }
    for one in list("not_applied") {
        call.console.say(format_args!(
            "Does not apply:    {} in {}: {}",
            plain(&one["path"]),
            plain(&one["name"]),
            plain(&one["why"])
        ));
    }
    let needed = text("needed_policy");
    if answer.contains_key("needed_policy") {
        call.console.say("Needed:");
        needed.lines().for_each(|line| call.console.say(format_args!("  {line}")));
    }
}
