//! What the system says of this process, under the names that every Prometheus client uses.

use std::fs;

use super::page::Page;

/// Units of the times in `/proc/self/stat`: `USER_HZ`, which is 100 wherever Linux runs.
const TICKS: f64 = 100.0;

pub fn write(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        page.one("process_cpu_seconds_total", "counter", "CPU time of the server.", (user + system) / TICKS);
    }
    if let Some(threads) = field(20) {
        page.one("process_threads", "gauge", "Threads of the server.", threads);
    }
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|n| n.trim().parse::<f64>().ok());
    if let (Some(boot), Some(ticks)) = (boot, field(22)) {
        page.one("process_start_time_seconds", "gauge", "When the server started.", boot + ticks / TICKS);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let kib = status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok())?;
        Some(kib * 1024.0)
    };
    if let (Some(size), Some(resident)) = (bytes("VmSize:"), bytes("VmRSS:")) {
        page.one("process_virtual_memory_bytes", "gauge", "Address space of the server.", size);
        page.one("process_resident_memory_bytes", "gauge", "Memory that the server holds.", resident);
        // There is no runtime that takes more from the system than it uses.
        page.one("vault_runtime_sys_bytes", "gauge", "Memory that the server holds.", resident);
        page.one("vault_runtime_alloc_bytes", "gauge", "Memory that the server holds.", resident);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.one("process_open_fds", "gauge", "Open files and connections.", open.count() as f64);
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    if let Some(most) = files {
        page.one("process_max_fds", "gauge", "Open files and connections at most.", most);
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let tasks = runtime.metrics().num_alive_tasks() as f64;
        page.one("vault_runtime_num_goroutines", "gauge", "Tasks that are under way.", tasks);
    }
}
