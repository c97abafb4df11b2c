//! `debug`: what helps to find an error, gathered for a while and put in one place. It asks the API alone, with the
//! caller's token, and what the token may not see is left out; nothing of it is a secret.

mod bundle;
mod gather;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bundle::{Bundle, archive_name};
use gather::{Gathered, Times};
use serde_json::{Map, Value, json};

use super::Command;
use super::outside::LOG_FORMAT;
use crate::call::Call;
use crate::failure::{Failure, Outcome};
use crate::flags::Flag;

/// Where nobody says which: all of them.
const TARGETS: [&str; 8] =
    ["config", "host", "requests", "metrics", "pprof", "replication-status", "server-status", "log"];
const LEAST: Duration = Duration::from_secs(5);
/// The form of `index.json`.
const FORM: u64 = 1;

static FLAGS: [Flag; 7] = [
    Flag::bool("compress", "Put everything in one archive.").default("true"),
    Flag::duration("duration", "How long to gather.").default("2m"),
    Flag::duration("interval", "How often to look at the server's state, and how long a profile is.").default("30s"),
    Flag::duration("metrics-interval", "How often to look at metrics.").default("10s"),
    Flag::text("output", "Where to put it; a name with the time in it, in the present folder, if it is left out."),
    Flag::list(
        "target",
        "What to gather: config, host, requests, metrics, pprof, replication-status, server-status or log. May be \
         given several times.",
    )
    .words(&TARGETS),
    LOG_FORMAT,
];

pub static COMMANDS: [Command; 1] = [Command::new("debug", "Gather what helps to find an error", run)
    .about(
        "Asks a server for its configuration (without secrets), host, metrics, state, requests, profiles and log, for a \
         while and again and again, and puts the answers in one archive. What the token may not see is left out, and \
         said in index.json.",
    )
    .flags(&FLAGS)];

fn run(call: &Call) -> Outcome {
    call.exactly(0)?;
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let times = times(call);
    let format = call.flags.text("log-format").unwrap_or("standard").to_lowercase();
    if !["standard", "json"].contains(&format.as_str()) {
        return Err(Failure::usage(format!("Unsupported log format: {format:?} (it is standard or json)")));
    }
    let asked = call.flags.list("target");
    let (known, unknown): (Vec<String>, Vec<String>) =
        asked.iter().cloned().partition(|t| TARGETS.contains(&t.as_str()));
    if !unknown.is_empty() {
        call.console.warn(format_args!("Ignoring invalid targets: {}", unknown.join(", ")));
    }
    let targets: Vec<String> = if asked.is_empty() { TARGETS.iter().map(|t| (*t).to_owned()).collect() } else { known };
    let compress = !call.flags.is_set("compress") || call.flags.bool("compress");
    let usual = format!("holdfast-debug-{}", file_time(begun));
    let output = call.flags.text("output").filter(|o| !o.is_empty()).unwrap_or(&usual).to_owned();
    let client = call.client()?;
    let server_version = gather::version(&client)
        .map_err(|e| Failure::usage(format!("Error during validation: unable to connect to the server: {e}")))?;
    let shown_output = if compress { archive_name(&output).display().to_string() } else { output.clone() };
    if std::path::Path::new(&shown_output).exists() {
        return Err(Failure::usage(format!("Error during validation: output file already exists: {shown_output}")));
    }
    call.console.say(format_args!(
        "==> Starting debug capture...\n         Server Address: {}\n         Server Version: {server_version}\n               \
         Duration: {}s\n               Interval: {}s\n       Metrics Interval: {}s\n                Targets: {}\n                 \
         Output: {shown_output}\n",
        client.address(),
        times.duration.as_secs(),
        times.interval.as_secs(),
        times.metrics_interval.as_secs(),
        targets.join(", "),
    ));
    let gathered = gather::all(|| call.client(), &targets, times, &format)?;
    let index = json!({
        "version": FORM,
        "vault_address": client.address().to_string(),
        "client_version": env!("CARGO_PKG_VERSION"),
        "server_version": server_version,
        "timestamp": rfc3339(begun),
        "duration_seconds": times.duration.as_secs(),
        "interval_seconds": times.interval.as_secs(),
        "metrics_interval_seconds": times.metrics_interval.as_secs(),
        "compress": compress,
        "targets": targets,
    });
    let bundle = bundled(gathered, index);
    let top = std::path::Path::new(&output).file_name().map_or(usual.clone(), |n| n.to_string_lossy().into_owned());
    let top = top.trim_end_matches(".tar.gz").trim_end_matches(".tgz");
    let written = match compress {
        true => bundle.write_archive(&archive_name(&output), top, begun),
        false => bundle.write_folder(std::path::Path::new(&output)),
    };
    written.map_err(|e| Failure::usage(format!("Error writing {shown_output}: {e}")))?;
    call.success(format_args!("Bundle written to: {shown_output}"))
}

/// The times that were asked for, none below the least, none above the whole.
fn times(call: &Call) -> Times {
    let of = |flag: &str, usual: u64| {
        let asked = call.flags.duration(flag).map_or(usual as i64, |d| d.as_secs());
        Duration::from_secs(u64::try_from(asked).unwrap_or(0))
    };
    let mut duration = of("duration", 120);
    if duration < LEAST {
        call.console.warn(format_args!(
            "Overwriting duration value \"{}s\" to the minimum value of \"5s\"",
            duration.as_secs()
        ));
        duration = LEAST;
    }
    let within = |flag: &str, name: &str, usual: u64| {
        let asked = of(flag, usual);
        let used = asked.clamp(LEAST, duration);
        if used != asked && call.flags.is_set(flag) {
            call.console.warn(format_args!(
                "Overwriting {name} value \"{}s\" to \"{}s\"",
                asked.as_secs(),
                used.as_secs()
            ));
        }
        used
    };
    Times {
        duration,
        interval: within("interval", "interval", 30),
        metrics_interval: within("metrics-interval", "metrics interval", 10),
    }
}

fn bundled(gathered: Gathered, mut index: Value) -> Bundle {
    let Gathered { lists, files, log, log_name, errors } = gathered;
    let mut bundle = Bundle::default();
    for (name, entries) in lists {
        bundle.add(name, format!("{:#}\n", Value::Array(entries)).into_bytes());
    }
    if let Some(log) = log {
        bundle.add(log_name, log);
    }
    for (name, content) in files {
        bundle.add(name, content);
    }
    let mut output: Map<String, Value> = Map::new();
    let mut top = Vec::new();
    for name in bundle.names() {
        match name.split_once('/') {
            None => top.push(Value::from(name)),
            Some((folder, file)) => {
                let entry = output.entry(folder).or_insert_with(|| json!({"files": []}));
                if let Some(files) = entry["files"].as_array_mut() {
                    files.push(file.into());
                }
            }
        }
    }
    output.insert("files".into(), top.into());
    index["output"] = output.into();
    let error = |e: gather::Missed| json!({"error": e.why, "target": e.target, "timestamp": rfc3339(e.at)});
    index["errors"] = errors.into_iter().map(error).collect();
    bundle.add("index.json", format!("{index:#}\n").into_bytes());
    bundle
}

/// `2026-11-30T05:44:22Z`
fn rfc3339(secs: u64) -> String {
    let (date, of_day) = (civil(secs / 86_400), secs % 86_400);
    let (year, month, day) = date;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// The same as a file may be called.
fn file_time(secs: u64) -> String {
    rfc3339(secs).replace(':', "-")
}

/// Year, month and day of a day since 1970, of the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let is_leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= if is_leap(year) { 366 } else { 365 } {
        left -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_796_017_462), "2026-11-30T05:44:22Z");
        assert_eq!(file_time(1_798_761_599), "2026-12-31T23-59-59Z");
    }
}
