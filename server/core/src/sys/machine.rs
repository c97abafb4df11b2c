//! `sys/host-info`: the machine that the server runs on, as Linux tells it in `/proc`.

use std::fs;
use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value};
use serde_json::json;

use super::System;
use crate::clock;
use crate::tx::Tx;

/// Times in `/proc/stat` are in hundredths of a second (USER_HZ, proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;
/// Mounted file systems that are shown.
const MOST_DISKS: usize = 256;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("host-info", "The machine that the server runs on.", |p| {
        p.read(host_info).prepared(Operation::Read, collect)
    })
}

/// Files are read, and a disk may keep one waiting: not on a worker.
fn collect(_: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    Ok(Some(Box::pin(async {
        let machine: Prepared = Arc::new(tokio::task::spawn_blocking(machine).await.map_err(Error::internal)?);
        Ok(machine)
    })))
}

fn host_info(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let machine = call.prepared.and_then(|p| p.downcast_ref::<Map<String, Value>>());
    Ok(Response::data(machine.ok_or_else(|| Error::Internal("nothing was collected".into()))?.clone()))
}

fn machine() -> Map<String, Value> {
    let stat = text("/proc/stat");
    let mut m = Map::new();
    m.insert("timestamp".into(), clock::now().rfc3339().into());
    m.insert("cpu".into(), cpus(&text("/proc/cpuinfo")));
    m.insert("cpu_times".into(), cpu_times(&stat));
    m.insert("disk".into(), disks(&text("/proc/self/mounts")));
    m.insert("host".into(), host(&stat));
    m.insert("memory".into(), memory(&text("/proc/meminfo")));
    m
}

/// A file of `/proc`; empty where it cannot be read: what it would tell is left out.
fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The value of `name : value` or `name: value unit`.
fn field<'t>(text: &'t str, name: &str) -> &'t str {
    text.lines().filter_map(|l| l.split_once(':')).find(|(n, _)| n.trim() == name).map_or("", |(_, v)| v.trim())
}

fn cpus(cpuinfo: &str) -> Value {
    let one = |text: &str| {
        let number = |name: &str| field(text, name).parse::<i64>().unwrap_or(0);
        json!({
            "cpu": number("processor"),
            "vendorId": field(text, "vendor_id"),
            "family": field(text, "cpu family"),
            "model": field(text, "model"),
            "stepping": number("stepping"),
            "physicalId": field(text, "physical id"),
            "coreId": field(text, "core id"),
            "cores": 1,
            "modelName": field(text, "model name"),
            "mhz": field(text, "cpu MHz").parse::<f64>().unwrap_or(0.0),
            "cacheSize": field(text, "cache size").trim_end_matches(" KB").parse::<i64>().unwrap_or(0),
            "flags": field(text, "flags").split_whitespace().collect::<Vec<_>>(),
            "microcode": field(text, "microcode"),
        })
    };
    cpuinfo.split("\n\n").filter(|t| !t.trim().is_empty()).map(one).collect()
}

fn cpu_times(stat: &str) -> Value {
    let one = |line: &str| {
        let (name, times) = line.split_once(' ')?;
        // The first line is the sum of all.
        name.strip_prefix("cpu").filter(|number| !number.is_empty())?;
        let times: Vec<f64> = times.split_whitespace().filter_map(|t| t.parse().ok()).collect();
        let at = |i: usize| times.get(i).map_or(0.0, |t| t / TICKS_PER_SECOND);
        Some(json!({
            "cpu": name, "user": at(0), "nice": at(1), "system": at(2), "idle": at(3), "iowait": at(4), "irq": at(5),
            "softirq": at(6), "steal": at(7), "guest": at(8), "guestNice": at(9),
        }))
    };
    stat.lines().filter_map(one).collect()
}

/// The mounted file systems that rest on a device.
fn disks(mounts: &str) -> Value {
    let one = |line: &str| {
        let mut words = line.split(' ');
        let (device, path, kind) = (words.next()?, words.next()?, words.next()?);
        if !device.starts_with("/dev/") {
            return None;
        }
        let path = path.replace("\\040", " ");
        let s = rustix::fs::statvfs(&path).ok()?;
        let (total, free, available) = (s.f_blocks * s.f_frsize, s.f_bfree * s.f_frsize, s.f_bavail * s.f_frsize);
        let (used, inodes_used) = (total.saturating_sub(free), s.f_files.saturating_sub(s.f_ffree));
        Some(json!({
            "path": path,
            "fstype": kind,
            "total": total,
            "free": available,
            "used": used,
            "usedPercent": percent(used, used + available),
            "inodesTotal": s.f_files,
            "inodesUsed": inodes_used,
            "inodesFree": s.f_ffree,
            "inodesUsedPercent": percent(inodes_used, s.f_files),
        }))
    };
    mounts.lines().filter_map(one).take(MOST_DISKS).collect()
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn host(stat: &str) -> Value {
    let release = text("/etc/os-release");
    let of_release = |name: &str| {
        let line = release.lines().filter_map(|l| l.split_once('=')).find(|(n, _)| *n == name);
        line.map_or("", |(_, v)| v.trim_matches('"')).to_owned()
    };
    let family = of_release("ID_LIKE");
    let uptime = text("/proc/uptime").split('.').next().and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
    let booted = stat.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
    let processes = fs::read_dir("/proc").map_or(0, |entries| {
        entries.flatten().filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())).count()
    });
    let machine = text("/sys/class/dmi/id/sys_vendor");
    let guest = text("/proc/cpuinfo").contains(" hypervisor");
    json!({
        "hostname": text("/proc/sys/kernel/hostname"),
        "uptime": uptime,
        "bootTime": booted,
        "procs": processes,
        "os": "linux",
        "platform": of_release("ID"),
        "platformFamily": if family.is_empty() { of_release("ID") } else { family },
        "platformVersion": of_release("VERSION_ID"),
        "kernelVersion": text("/proc/sys/kernel/osrelease"),
        "kernelArch": std::env::consts::ARCH,
        "virtualizationSystem": if guest { machine } else { String::new() },
        "virtualizationRole": if guest { "guest" } else { "host" },
        "hostid": text("/etc/machine-id"),
    })
}

/// Names of `/proc/meminfo` (in KiB there, in bytes here), as the reference spells them.
const MEMORY: &[(&str, &str)] = &[
    ("MemTotal", "total"),
    ("MemAvailable", "available"),
    ("MemFree", "free"),
    ("Active", "active"),
    ("Inactive", "inactive"),
    ("Buffers", "buffers"),
    ("Cached", "cached"),
    ("Writeback", "writeback"),
    ("Dirty", "dirty"),
    ("WritebackTmp", "writebacktmp"),
    ("Shmem", "shared"),
    ("Slab", "slab"),
    ("SReclaimable", "sreclaimable"),
    ("SUnreclaim", "sunreclaim"),
    ("PageTables", "pagetables"),
    ("SwapCached", "swapcached"),
    ("CommitLimit", "commitlimit"),
    ("Committed_AS", "committedas"),
    ("SwapTotal", "swaptotal"),
    ("SwapFree", "swapfree"),
    ("Mapped", "mapped"),
    ("VmallocTotal", "vmalloctotal"),
    ("VmallocUsed", "vmallocused"),
    ("VmallocChunk", "vmallocchunk"),
    ("Hugepagesize", "hugepagesize"),
];

fn memory(meminfo: &str) -> Value {
    let bytes = |name: &str| field(meminfo, name).trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024;
    let mut m: Map<String, Value> =
        MEMORY.iter().map(|(theirs, ours)| ((*ours).into(), bytes(theirs).into())).collect();
    for count in ["HugePages_Total", "HugePages_Free"] {
        let pages = field(meminfo, count).parse::<u64>().unwrap_or(0);
        m.insert(count.to_ascii_lowercase().replace('_', ""), pages.into());
    }
    let (total, available) = (bytes("MemTotal"), bytes("MemAvailable"));
    let used = total.saturating_sub(available);
    m.insert("used".into(), used.into());
    m.insert("usedPercent".into(), percent(used, total).into());
    // The reference has these for other systems; here they are nothing.
    for name in ["wired", "laundry", "hightotal", "highfree", "lowtotal", "lowfree"] {
        m.insert(name.into(), 0.into());
    }
    Value::Object(m)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_tells_is_read() {
        let memory = memory("MemTotal:       1000 kB\nMemAvailable:    250 kB\nHugePages_Total:       3\n");
        assert_eq!(memory["total"], 1_024_000);
        assert_eq!(memory["usedPercent"], 75.0);
        assert_eq!(memory["hugepagestotal"], 3);
        let cpus = cpus(
            "processor\t: 0\nmodel name\t: AMD EPYC\ncache size\t: 512 KB\nflags\t\t: fpu vme\n\nprocessor\t: 1\n",
        );
        assert_eq!(cpus[0]["modelName"], "AMD EPYC");
        assert_eq!(cpus[0]["flags"], json!(["fpu", "vme"]));
        assert_eq!(cpus[1]["cpu"], 1);
        let times = cpu_times("cpu  9 9 9\ncpu0 150 0 250 100\nintr 1\n");
        assert_eq!(
            times,
            json!([{"cpu": "cpu0", "user": 1.5, "nice": 0.0, "system": 2.5, "idle": 1.0, "iowait": 0.0,
            "irq": 0.0, "softirq": 0.0, "steal": 0.0, "guest": 0.0, "guestNice": 0.0}])
        );
    }

    #[test]
    fn nothing_to_read_is_no_failure() {
        assert_eq!(cpus(""), json!([]));
        assert_eq!(disks("proc /proc proc rw 0 0\nbroken"), json!([]));
        assert_eq!(memory("")["usedPercent"], 0.0);
    }
}
