//! Audit devices: made by the API and by the configuration, and what happens when one of them fails.

mod by_api;
pub mod chain;
mod default_folders;
mod disk;
mod files;
mod kinds;
mod own_acts;
mod remote;
mod spool;

use std::fs;
use std::path::Path;
use std::time::Duration;

use holdfast_tests::{Client, Running, Setup};
use serde_json::Value;

/// The value of a series of one device.
#[track_caller]
fn series(root: &Client, name: &str, device: &str) -> f64 {
    let page = root.get("sys/metrics?format=prometheus").expect(200).text();
    let start = format!("{name}{{device=\"{device}/\"");
    let line = page.lines().find(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("no {start} in {page}"));
    line.rsplit_once(' ').expect("a value").1.parse().expect("a number")
}

/// A loaded machine may take this.
const LONG: Duration = Duration::from_secs(60);

/// A server without TLS and without a declared device.
fn bare(top: &str) -> Running {
    Running::start(Setup { top: top.into(), ..Setup::shamir().without_tls().without_audit() })
}

/// The whole lines of a file that tell of requests.
fn lines(path: &Path) -> Vec<Value> {
    all_lines(path).into_iter().filter(|l| l["type"] != "checkpoint").collect()
}

/// The whole lines of a file.
pub fn all_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}

/// Type and path of each line.
fn short(lines: &[Value]) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    lines.iter().map(|l| (text(&l["type"]), text(&l["request"]["path"]))).collect()
}
