//! Profiles of this process, on request: where it spends its time, what memory it has, which threads there are. One CPU
//! profile at a time, and for a bounded time; decisions/0012 says with what, and what it costs.

mod protobuf;

use std::fs;
use std::time::{Duration, SystemTime};

use holdfast_sdk::{Error, Result};
use tokio::sync::Semaphore;

/// Samples in each second of CPU time. Not a round number, so that it does not beat with timers.
const HERTZ: i32 = 99;
/// Code that cannot be walked from a signal: the C library's, and the kernel's.
const NOT_IN: [&str; 4] = ["libc.so", "libgcc", "libpthread", "vdso"];
pub const LONGEST_SECS: u64 = 60;

/// One at a time.
static ONE: Semaphore = Semaphore::const_new(1);

/// Where the process spends its CPU time during the next seconds: pprof's `profile.proto`, gzipped.
pub async fn cpu(seconds: u64) -> Result<Vec<u8>> {
    let Ok(_one) = ONE.try_acquire() else {
        return Err(Error::Status(429, vec!["a profile is being made: one at a time".into()]));
    };
    let refused = |e: pprof::Error| {
        Error::Internal(format!("no profile can be made: {e} (it needs a folder for temporary files, see TMPDIR)"))
    };
    let begun = SystemTime::now();
    let guard = tokio::task::spawn_blocking(|| {
        pprof::ProfilerGuardBuilder::default().frequency(HERTZ).blocklist(&NOT_IN).build()
    });
    let guard = guard.await.map_err(Error::internal)?.map_err(refused)?;
    // Who hangs up meanwhile ends it: the guard is dropped.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let encoded = tokio::task::spawn_blocking(move || {
        let report = guard.report().build()?;
        drop(guard);
        Ok(protobuf::encoded(&report, begun, Duration::from_secs(seconds), HERTZ))
    });
    protobuf::gzipped(&encoded.await.map_err(Error::internal)?.map_err(refused)?)
}

/// Threads by name, with their state and the CPU time that they had, as text.
pub fn threads() -> Result<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc/self/task").map_err(Error::internal)?.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        // One that has ended meanwhile is left out.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, r)| r.rsplit_once(')')) else { continue };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        // Behind the name: state is the first, utime and stime the twelfth and thirteenth (proc(5)), in 1/100 s.
        let state = words.first().copied().unwrap_or("?").to_owned();
        all.push((ticks(11) + ticks(12), id, name.to_owned(), state));
    }
    all.sort_by(|a, b| b.cmp(a));
    let mut text = format!("threads: total {}\n", all.len());
    for (ticks, id, name, state) in all {
        text += &format!("{id}\t{state}\t{}.{:02}s\t{name}\n", ticks / 100, ticks % 100);
    }
    Ok(text)
}

/// What memory the process has, by the kernel's count, as text.
pub fn memory() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status").map_err(Error::internal)?;
    let wanted =
        ["VmPeak", "VmSize", "VmLck", "VmHWM", "VmRSS", "RssAnon", "RssFile", "VmData", "VmStk", "VmSwap", "Threads"];
    let mut text = String::new();
    for line in status.lines().filter(|l| wanted.iter().any(|w| l.strip_prefix(w).is_some_and(|r| r.starts_with(':'))))
    {
        text += line;
        text.push('\n');
    }
    Ok(text)
}

/// The command line, without what could be a secret in it.
pub fn command_line() -> String {
    let shown = |arg: String| match arg.split_once('=') {
        Some((name, _)) if ["token", "pin", "password", "key", "secret"].iter().any(|w| name.contains(w)) => {
            format!("{name}=…")
        }
        _ => arg,
    };
    let mut args: Vec<String> = Vec::new();
    let mut hide = false;
    for arg in std::env::args_os().map(|a| a.to_string_lossy().into_owned()) {
        let names_one = arg.starts_with('-') && !arg.contains('=') && arg.contains("token-id");
        args.push(if hide { "…".to_owned() } else { shown(arg) });
        hide = names_one;
    }
    args.join("\0")
}
