//! `policy lint`: what is likely a mistake in a policy's file, without a server.

use std::fs;
use std::time::SystemTime;

use holdfast_policy::{Finding, LintOptions, lint};
use serde_json::{Value, json};

use crate::call::Call;
use crate::data::opening;
use crate::failure::{Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format};

pub const ABOUT: &str = "Looks for what is likely a mistake in a policy's file (- is stdin): rules that can never match, paths of kv version 2 without data/, rules that reach too much, sudo. No server is asked. The exit code is 0 where nothing was found, 1 where something was, 2 where the file cannot be read or is no policy.";

pub static FLAGS: [Flag; 1] =
    [Flag::list("kv2", "A mount of kv version 2; empty: none. May be given several times.").default("secret")];

pub fn run(call: &Call) -> Outcome {
    call.exactly(1)?;
    let name = call.arg(0).trim();
    let text = match name {
        "-" => call.console.read_stdin().map(|bytes| bytes.to_vec()),
        path => fs::read(path),
    };
    let text = text.map_err(|e| Failure::refused(format!("Error reading policy file: {}", opening(name, &e))))?;
    let text =
        String::from_utf8(text).map_err(|_| Failure::refused(format!("{name}: the file is no text in UTF-8")))?;
    let kv2_mounts = match call.flags.is_set("kv2") {
        false => vec!["secret".to_owned()],
        true => {
            call.flags.list("kv2").iter().map(|m| m.trim_matches('/').to_owned()).filter(|m| !m.is_empty()).collect()
        }
    };
    let findings = lint(&text, &LintOptions { kv2_mounts, now: SystemTime::now() })
        .map_err(|e| Failure::refused(format!("{name}: {e}")))?;
    match call.format {
        Format::Table => findings.iter().for_each(|finding| call.console.say(line(name, finding))),
        _ => {
            let all: Vec<Value> = findings.iter().map(|finding| object(name, finding)).collect();
            output::value(call, &Value::from(all))?;
        }
    }
    Ok(i32::from(!findings.is_empty()))
}

/// `FILE:LINE:COLUMN: what is wrong [its name]`, as compilers say it.
fn line(name: &str, finding: &Finding) -> String {
    let path = finding.path.as_ref().map(|path| format!("path {path:?}: ")).unwrap_or_default();
    let instead = finding.instead.as_ref().map(|path| format!("; write {path:?}")).unwrap_or_default();
    format!("{name}:{}: {path}{}{instead} [{}]", finding.position, finding.message, finding.check.as_str())
}

fn object(name: &str, finding: &Finding) -> Value {
    json!({
        "file": name,
        "line": finding.position.line,
        "column": finding.position.column,
        "check": finding.check.as_str(),
        "path": finding.path,
        "message": finding.message,
        "instead": finding.instead,
    })
}
