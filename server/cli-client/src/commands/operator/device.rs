//! `operator device list | info | test | bench`: the devices of a server that hold keys.

use serde_json::{Map, Value, json};

use super::super::{Command, Prints};
use super::{is, text, unwrapped};
use crate::call::Call;
use crate::client::Request;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, table};

static SECONDS: [Flag; 1] =
    [Flag::text("seconds", "How long each operation is measured, with one user and with eight: 1 to 5.").default("1")];

pub static COMMANDS: &[Command] = &[
    Command::new("operator device list", "Devices that hold keys, and how they are", list)
        .about("Lists the devices of the configuration (device stanzas) of the node that answers, whether each did what it was asked last, and how long its calls take.")
        .prints(Prints::Answer),
    Command::new("operator device info", "What a device is and can do", info)
        .takes("[options] NAME")
        .about("Asks a device what it is, for its mechanisms and what follows from them, and for the keys that are in it.")
        .prints(Prints::Answer),
    Command::new("operator device test", "Try what a device says that it can do", test)
        .takes("[options] NAME")
        .about("Makes a key of each kind in the device, uses it and destroys it again. Signatures are checked by the public key alone.\n\nThe exit code is 0 where everything that the device says it does works, else 2.")
        .prints(Prints::Answer),
    Command::new("operator device bench", "Measure a device", bench)
        .takes("[options] NAME")
        .about("Measures signatures and decryptions a second, by one user and by eight, as users of the server have them. The keys are made for it, and destroyed again.")
        .prints(Prints::Answer)
        .flags(&SECONDS),
];

fn ask(call: &Call, request: &Request, what: &str) -> Result<Map<String, Value>, Failure> {
    // Making keys takes slow devices a minute; the server has its own limit.
    let client = call.client()?.in_root_namespace().without_timeout();
    let answer = client.send(request).explain(what)?;
    Ok(unwrapped(answer.object().bare()?))
}

fn list(call: &Call) -> Outcome {
    call.exactly(0)?;
    let answer = ask(call, &Request::new("GET", "sys/devices"), "Error listing devices")?;
    let devices = answer.get("key_info").and_then(Value::as_object).cloned().unwrap_or_default();
    if call.format != Format::Table {
        return output::value(call, &Value::Object(devices));
    }
    let mut rows = Vec::new();
    for (name, device) in &devices {
        let Some(device) = device.as_object() else { continue };
        let of = |field: &str| text(device, field);
        rows.push(vec![
            name.clone(),
            of("type"),
            is(device, "healthy").to_string(),
            of("calls"),
            of("call_ms_median"),
            of("call_ms_p99"),
            of("last_error"),
        ]);
    }
    const TITLES: [&str; 7] = ["Name", "Type", "Healthy", "Calls", "Median ms", "P99 ms", "Trouble"];
    call.console.say(table::titled(&TITLES, rows));
    Ok(0)
}

fn info(call: &Call) -> Outcome {
    call.exactly(1)?;
    let device = ask(call, &Request::new("GET", path(call, "")), "Error reading the device")?;
    if call.format != Format::Table {
        return output::value(call, &Value::Object(device));
    }
    let words = |name: &str| {
        let all = device.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    call.console.say(table::pairs(&[
        ("Name", call.args[0].clone()),
        ("Type", text(&device, "type")),
        ("Healthy", text(&device, "healthy")),
        ("Module", text(&device, "module")),
        ("Library", text(&device, "library")),
        ("Model", text(&device, "model")),
        ("Token", text(&device, "token_label")),
        ("Serial", text(&device, "serial")),
        ("Login Required", text(&device, "login_required")),
        ("PIN Tries", text(&device, "pin_tries")),
        ("Warnings", words("warnings")),
        ("Makes", words("makes")),
        ("Signs", words("signs")),
        ("Encrypts", words("encrypts")),
        ("Agrees On Keys", text(&device, "agrees_on_keys")),
        ("Random Bytes", text(&device, "gives_random_bytes")),
        ("Mechanisms", words("mechanisms")),
        ("Keys", text(&device, "keys_total")),
    ]));
    Ok(0)
}

fn test(call: &Call) -> Outcome {
    call.exactly(1)?;
    let answer = ask(call, &Request::new("POST", path(call, "/test")), "Error testing the device")?;
    let code = if is(&answer, "works") { 0 } else { 2 };
    if call.format != Format::Table {
        output::value(call, &Value::Object(answer))?;
        return Ok(code);
    }
    let fields = ["what", "outcome", "ms", "error"];
    call.console.say(table::titled(&["What", "Outcome", "ms", "Error"], rows_of(&answer, "tried", &fields)));
    Ok(code)
}

fn bench(call: &Call) -> Outcome {
    call.exactly(1)?;
    let body = json!({ "seconds": call.flags.text("seconds").unwrap_or("1") });
    let answer = ask(call, &Request::new("POST", path(call, "/bench")).json(&body), "Error measuring the device")?;
    if call.format != Format::Table {
        return output::value(call, &Value::Object(answer));
    }
    let fields = ["what", "users", "per_second", "median_ms", "p99_ms"];
    let rows = rows_of(&answer, "measured", &fields);
    call.console.say(table::titled(&["What", "Users", "Per Second", "Median ms", "P99 ms"], rows));
    Ok(0)
}

fn rows_of(answer: &Map<String, Value>, name: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let all = answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(Value::as_object).map(|row| fields.iter().map(|field| text(row, field)).collect()).collect()
}

fn path(call: &Call, tail: &str) -> String {
    format!("sys/devices/{}{tail}", call.args[0])
}
