//! Asking a server again and again, for each target in a thread of its own.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{file_time, rfc3339};
use crate::client::{Client, Request};
use crate::failure::Failure;

/// Bytes of the server's log that are kept at most.
const LOG_BYTES: usize = 64 << 20;
/// The longest profile that a server makes.
const PROFILE: Duration = Duration::from_secs(30);
/// What is asked of `sys/pprof`, and how the file is called.
const PROFILES: [(&str, &str); 3] =
    [("heap", "heap.prof"), ("threadcreate", "threadcreate.prof"), ("goroutine", "goroutine.txt")];

#[derive(Clone, Copy)]
pub struct Times {
    pub duration: Duration,
    pub interval: Duration,
    pub metrics_interval: Duration,
}

/// What was not to be had.
pub struct Missed {
    pub target: String,
    pub why: String,
    pub at: u64,
}

#[derive(Default)]
pub struct Gathered {
    /// Files that are lists, an entry for each time.
    pub lists: Vec<(String, Vec<Value>)>,
    /// Files by themselves.
    pub files: Vec<(String, Vec<u8>)>,
    pub log: Option<Vec<u8>>,
    pub log_name: String,
    pub errors: Vec<Missed>,
}

/// What threads have found.
struct Found<'a>(&'a Mutex<Gathered>);

impl Found<'_> {
    fn with(&self, put: impl FnOnce(&mut Gathered)) {
        put(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn entry(&self, file: &str, entry: Value) {
        self.with(|g| match g.lists.iter_mut().find(|(name, _)| name == file) {
            Some((_, entries)) => entries.push(entry),
            None => g.lists.push((file.to_owned(), vec![entry])),
        });
    }

    fn missed(&self, target: &str, why: String) {
        self.with(|g| {
            // The same again and again is told once.
            if !g.errors.iter().any(|m| m.target == target && m.why == why) {
                g.errors.push(Missed { target: target.to_owned(), why, at: now() });
            }
        });
    }

    /// Ask for an object; what it holds beside the envelope.
    fn ask(&self, client: &Client, target: &str, request: Request) -> Option<Value> {
        match client.send(&request).and_then(|answer| answer.object()) {
            Ok(mut object) => Some(match object.remove("data") {
                Some(data @ Value::Object(_)) => data,
                _ => Value::Object(object),
            }),
            Err(e) => {
                self.missed(target, e.to_string());
                None
            }
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The server's version, which it tells everybody.
pub fn version(client: &Client) -> Result<String, String> {
    // A sealed one answers too.
    let answer = client.send(&Request::new("GET", "sys/seal-status")).map_err(|e| e.to_string())?;
    let object = answer.object().map_err(|e| e.to_string())?;
    Ok(object.get("version").and_then(Value::as_str).unwrap_or("").to_owned())
}

/// Gather all targets for as long as was asked for.
pub fn all(
    client: impl Fn() -> Result<Client, Failure>,
    targets: &[String],
    times: Times,
    log_format: &str,
) -> Result<Gathered, Failure> {
    let gathered = Mutex::new(Gathered { log_name: "holdfast.log".into(), ..Gathered::default() });
    let found = Found(&gathered);
    let end = Instant::now() + times.duration;
    let clients = targets.iter().map(|t| Ok((t.as_str(), client()?))).collect::<Result<Vec<_>, Failure>>()?;
    std::thread::scope(|scope| {
        for (target, client) in clients {
            let found = &found;
            scope.spawn(move || match target {
                "log" => follow(found, &client, times.duration, log_format),
                "pprof" => repeat(end, times.interval, || profiles(found, &client, times.interval, end)),
                "metrics" => repeat(end, times.metrics_interval, || one(found, &client, target)),
                // It does not change.
                "config" => one(found, &client, target),
                _ => repeat(end, times.interval, || one(found, &client, target)),
            });
        }
    });
    Ok(gathered.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Again and again until the end; at least once.
fn repeat(end: Instant, every: Duration, mut look: impl FnMut()) {
    loop {
        let begun = Instant::now();
        look();
        let next = begun + every;
        if next >= end {
            return;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn one(found: &Found<'_>, client: &Client, target: &str) {
    let timestamp = rfc3339(now());
    let ask = |path: &str| found.ask(client, target, Request::new("GET", path));
    match target {
        "config" => {
            if let Some(config) = ask("sys/config/state/sanitized") {
                found.entry("config.json", json!({"timestamp": timestamp, "config": config}));
            }
        }
        "host" => {
            if let Some(host) = ask("sys/host-info") {
                found.entry("host_info.json", host);
            }
        }
        "requests" => {
            if let Some(requests) = ask("sys/in-flight-req") {
                found.entry("requests.json", json!({"timestamp": timestamp, "in_flight_requests": requests}));
            }
        }
        "metrics" => {
            if let Some(metrics) = ask("sys/metrics") {
                found.entry("metrics.json", metrics);
            }
        }
        "replication-status" => {
            let mut entry = json!({"timestamp": timestamp});
            let parts = [
                ("leader", "sys/leader"),
                ("ha_status", "sys/ha-status"),
                ("raft", "sys/storage/raft/configuration"),
                ("autopilot", "sys/storage/raft/autopilot/state"),
            ];
            for (name, path) in parts {
                if let Some(part) = ask(path) {
                    entry[name] = part;
                }
            }
            found.entry("replication_status.json", entry);
        }
        "server-status" => {
            // Of a sealed or standing-by server too.
            let request = Request::new("GET", "sys/health").query("standbyok", "true");
            let request = request.query("sealedcode", "200").query("uninitcode", "200");
            let health = found.ask(client, target, request);
            let seal = ask("sys/seal-status");
            let entry = json!({"timestamp": timestamp, "health": health, "seal": seal});
            found.entry("server_status.json", entry);
        }
        _ => {}
    }
}

fn profiles(found: &Found<'_>, client: &Client, interval: Duration, end: Instant) {
    let folder = file_time(now());
    let get = |kind: &str, file: &str, seconds: Option<u64>| {
        let mut request = Request::new("GET", format!("sys/pprof/{kind}"));
        if let Some(seconds) = seconds {
            request = request.query("seconds", seconds.to_string());
        }
        match client.send(&request) {
            Ok(answer) => found.with(|g| g.files.push((format!("{folder}/{file}"), answer.body.to_vec()))),
            Err(e) => found.missed(&format!("pprof.{kind}"), e.to_string()),
        }
    };
    for (kind, file) in PROFILES {
        get(kind, file, None);
    }
    let left = end.saturating_duration_since(Instant::now());
    let seconds = interval.min(PROFILE).min(left).as_secs();
    if seconds > 0 {
        get("profile", "profile.prof", Some(seconds));
    }
}

fn follow(found: &Found<'_>, client: &Client, within: Duration, format: &str) {
    let request = Request::new("GET", "sys/monitor").query("log_level", "info").query("log_format", format);
    let mut log = Vec::new();
    let followed = client.follow_within(&request, within, |part| {
        log.extend_from_slice(&part[..part.len().min(LOG_BYTES - log.len())]);
        if log.len() < LOG_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if let Err(e) = followed {
        found.missed("log", e.to_string());
    }
    found.with(|g| g.log = Some(log));
}
