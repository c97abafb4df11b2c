//! Looking at processes through `/proc`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Send a signal.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id");
    // It may be gone, which is what most signals want.
    let _gone_already = kill_process(pid, signal);
}

/// Whether there is a process that has not ended.
pub fn lives(pid: u32) -> bool {
    status(pid, "State").is_some_and(|s| !s.starts_with(['Z', 'X']))
}

/// Whether no thread of a process runs any more (proc_pid_stat(5): the state comes behind the name in brackets).
pub fn has_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let states = threads.map(|t| fs::read_to_string(t.expect("a thread").path().join("stat")).unwrap_or_default());
    states.into_iter().all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
}

/// A field of `/proc/PID/status`.
pub fn status(pid: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// A field of `/proc/PID/status` that is an amount of memory, in bytes.
pub fn memory_bytes(pid: u32, field: &str) -> u64 {
    let text = status(pid, field).unwrap_or_else(|| panic!("no {field} of process {pid}"));
    let kilobytes = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    kilobytes.unwrap_or_else(|| panic!("{field} is {text:?}")) * 1024
}

/// Let a process have had no more memory than it has now, as far as `VmHWM` tells.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap_or_else(|e| panic!("process {pid}: {e}"));
}

/// The CPU time that a process has had, however busy the machine is.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|e| panic!("process {pid}: {e}"));
    // The name is in brackets, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Processes under a process, at any depth.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    let all: Vec<(u32, u32)> = all().filter_map(|p| Some((p, status(p, "PPid")?.parse().ok()?))).collect();
    while at < found.len() {
        let above = found[at];
        found.extend(all.iter().filter(|(_, parent)| *parent == above).map(|(p, _)| *p));
        at += 1;
    }
    found.split_off(1)
}

/// The device helpers under a server.
pub fn helpers(server: u32) -> Vec<u32> {
    descendants(server).into_iter().filter(|p| command_line(*p).contains("device-helper")).collect()
}

/// Arguments, with blanks between them.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(Path::new("/proc")).expect("/proc");
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
}

/// Let this process and its children open many files.
pub fn raise_file_limit(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|n| n >= wanted) {
        return;
    }
    let maximum = limit.maximum.map(|m| m.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .unwrap_or_else(|e| panic!("this test needs {wanted} open files (limit {limit:?}): {e}"));
}

/// Some tests need root: to read another process's memory, to mount, to become somebody else.
pub fn need_root(what_for: &str) {
    assert!(rustix::process::geteuid().is_root(), "this test must run as root {what_for}; run it with sudo");
}

/// The walls around files are tried where the kernel has Landlock. One that has none passes for no trial, unless
/// `HOLDFAST_TEST_WITHOUT_LANDLOCK` says that this is known.
#[track_caller]
pub fn landlock_or_known(is_there: bool) -> bool {
    let is_known = std::env::var_os("HOLDFAST_TEST_WITHOUT_LANDLOCK").is_some_and(|value| !value.is_empty());
    assert!(
        is_there || is_known,
        "this kernel has no Landlock, so that the walls around files are not tried: set HOLDFAST_TEST_WITHOUT_LANDLOCK=1 to do without"
    );
    is_there
}
