//! `token report`: tokens that can do much, or that nobody seems to need.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::call::Call;
use crate::client::Request;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, plain, table};

pub static FLAGS: [Flag; 3] = [
    Flag::duration("unused-for", "How long a token was not used to be told for that alone; 30 days without this."),
    Flag::list(
        "reason",
        "Only tokens that are told for this: root, sudo, periodic, no_end, unused. May be given several times.",
    )
    .words(&["root", "sudo", "periodic", "no_end", "unused"]),
    Flag::bool("children", "With the tokens of the namespaces below.").default("true"),
];
pub const ABOUT: &str = "Tells which tokens can do everything (root), have sudo on some path (sudo), can be renewed for ever (periodic), \
                         never end (no_end) or were not used for long (unused). The tokens themselves are never told, but their accessors. \
                         The last use is known to the hour.";
/// Pages of a report: what is beyond them would not end by itself.
const PAGES: usize = 100_000;

pub fn report(call: &Call) -> Outcome {
    call.exactly(0)?;
    let client = call.client()?;
    let (mut tokens, mut warnings) = (Vec::new(), BTreeSet::new());
    let mut after = String::new();
    for _ in 0..PAGES {
        let answer = client.send(&page(call, &after)).explain("Error reading the report of tokens")?;
        let mut answer = answer.object().explain("Error reading the report of tokens")?;
        let Some(Value::Object(mut data)) = answer.remove("data") else {
            return Err(Failure::refused("The server sent no report."));
        };
        if let Some(Value::Array(of_page)) = data.remove("tokens") {
            tokens.extend(of_page);
        }
        if let Some(Value::Array(of_page)) = answer.remove("warnings") {
            warnings.extend(of_page.iter().map(plain));
        }
        match data.remove("next_after") {
            Some(Value::String(next)) if next != after => after = next,
            _ => break,
        }
    }
    for warning in warnings {
        call.console.warn(format_args!("WARNING! {warning}"));
    }
    if call.format != Format::Table {
        return output::value(call, &Value::Array(tokens));
    }
    if tokens.is_empty() {
        call.console.say("No token is to be told of.");
        return Ok(0);
    }
    let titles =
        ["Accessor", "Namespace", "Display Name", "Reasons", "Policies", "Created", "TTL", "Last Used", "Sudo On"];
    call.console.say(table::titled(&titles, tokens.iter().filter_map(Value::as_object).map(row).collect()));
    Ok(0)
}

fn page(call: &Call, after: &str) -> Request {
    let mut request = Request::new("GET", "sys/tokens/report").query("limit", "5000");
    if !after.is_empty() {
        request = request.query("after", after);
    }
    if let Some(unused) = call.flags.duration("unused-for") {
        request = request.query("unused_for", unused.as_secs().to_string());
    }
    let reasons = call.flags.list("reason");
    if !reasons.is_empty() {
        request = request.query("reasons", reasons.join(","));
    }
    if call.flags.is_set("children") && !call.flags.bool("children") {
        request = request.query("include_child_namespaces", "false");
    }
    request
}

fn row(token: &Map<String, Value>) -> Vec<String> {
    let text = |name: &str| token.get(name).filter(|v| !v.is_null()).map(plain).unwrap_or_default();
    let list = |name: &str| {
        let items = token.get(name).and_then(Value::as_array);
        items.into_iter().flatten().map(plain).collect::<Vec<_>>().join(",")
    };
    let seconds = |name: &str| token.get(name).and_then(Value::as_u64).unwrap_or(0);
    let policies = [list("policies"), list("identity_policies")];
    let ttl =
        if token.get("expire_time").is_none_or(Value::is_null) { "∞".into() } else { format!("{}s", seconds("ttl")) };
    let paths = token.get("sudo_paths").and_then(Value::as_array);
    let mut sudo: Vec<String> = paths.into_iter().flatten().filter_map(|p| p.get("path")).map(plain).collect();
    let more = seconds("sudo_path_count").saturating_sub(sudo.len() as u64);
    if more > 0 {
        sudo.push(format!("and {more} more"));
    }
    vec![
        text("accessor"),
        text("namespace"),
        text("display_name"),
        list("reasons"),
        policies.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(","),
        text("creation_time"),
        ttl,
        text("last_used_time"),
        sudo.join(" "),
    ]
}
