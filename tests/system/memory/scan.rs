//! Reading another process's memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use holdfast_tests::process::need_root;

use crate::needles::Search;

const CHUNK_BYTES: u64 = 8 << 20;

/// One mapping of a process, as `/proc/PID/smaps` tells it.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub readable: bool,
    pub writable: bool,
    /// File, `[heap]`, `[stack]`, …; empty: anonymous.
    pub name: String,
    /// Two-letter words of `VmFlags`.
    pub flags: Vec<String>,
    pub resident_bytes: u64,
}

impl Mapping {
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
}

pub fn mappings(pid: u32) -> Vec<Mapping> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its mappings");
    let mut found: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or("");
        if let (Some(mapping), Some(rest)) = (found.last_mut(), line.strip_prefix("VmFlags:")) {
            mapping.flags = rest.split_whitespace().map(str::to_owned).collect();
        } else if let (Some(mapping), Some(rest)) = (found.last_mut(), line.strip_prefix("Rss:")) {
            let kilobytes: u64 = rest.trim().trim_end_matches(" kB").trim().parse().expect("a number");
            mapping.resident_bytes = kilobytes * 1024;
        } else if let Some((start, end)) = first.split_once('-') {
            let hex = |t: &str| u64::from_str_radix(t, 16).expect("an address");
            let rights = words.next().unwrap_or("");
            found.push(Mapping {
                start: hex(start),
                end: hex(end),
                readable: rights.starts_with('r'),
                writable: rights.contains('w'),
                name: words.nth(3).unwrap_or("").to_owned(),
                flags: Vec::new(),
                resident_bytes: 0,
            });
        }
    }
    found
}

pub struct Memory {
    file: File,
    pub pid: u32,
}

impl Memory {
    pub fn of(pid: u32) -> Memory {
        need_root("to read the server's memory");
        let file = File::open(format!("/proc/{pid}/mem")).unwrap_or_else(|e| panic!("the memory of {pid}: {e}"));
        Memory { file, pid }
    }

    /// Bytes of a mapping; what cannot be read is left out.
    pub fn read(&self, mapping: &Mapping) -> Vec<u8> {
        self.read_range(mapping.start, mapping.end)
    }

    fn read_range(&self, start: u64, end: u64) -> Vec<u8> {
        let mut bytes = vec![0; (end - start) as usize];
        let mut at = 0;
        while at < bytes.len() {
            match self.file.read_at(&mut bytes[at..], start + at as u64) {
                Ok(0) | Err(_) => break,
                Ok(n) => at += n,
            }
        }
        bytes.truncate(at);
        bytes
    }

    /// Where the needles are: name, mapping, and what lies around. Second: bytes that were searched.
    pub fn search(&self, search: &Search) -> (Vec<String>, u64) {
        let (mut found, mut searched) = (Vec::new(), 0);
        let threads = threads(self.pid);
        for mapping in mappings(self.pid).iter().filter(|m| m.readable && !m.name.starts_with("[v")) {
            let mut start = mapping.start;
            while start < mapping.end {
                // Chunks overlap, so that a needle across their border is seen.
                let end = (start + CHUNK_BYTES + search.longest() as u64).min(mapping.end);
                let bytes = self.read_range(start, end);
                searched += bytes.len() as u64;
                for (name, at) in search.find(&bytes) {
                    let around = &bytes[at.saturating_sub(48)..(at + 96).min(bytes.len())];
                    found.push(format!(
                        "{name} at {:#x} in {:x}-{:x} {}: {}",
                        start + at as u64,
                        mapping.start,
                        mapping.end,
                        what_is_there(mapping, start + at as u64, &threads),
                        String::from_utf8_lossy(around).escape_debug(),
                    ));
                }
                start += CHUNK_BYTES;
            }
        }
        (found, searched)
    }
}

/// Name and stack pointer of each thread that waits in the kernel.
fn threads(pid: u32) -> Vec<(String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let thread = |task: std::path::PathBuf| {
        let name = fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
        let call = fs::read_to_string(task.join("syscall")).ok()?;
        let pointer = call.split_whitespace().rev().nth(1)?.strip_prefix("0x")?.to_owned();
        Some((name, u64::from_str_radix(&pointer, 16).ok()?))
    };
    tasks.filter_map(|t| thread(t.ok()?.path())).collect()
}

/// The mapping's name, or whose stack it is.
fn what_is_there(mapping: &Mapping, place: u64, threads: &[(String, u64)]) -> String {
    if let Some((name, pointer)) = threads.iter().find(|(_, p)| (mapping.start..mapping.end).contains(p)) {
        let side = if place < *pointer { "below" } else { "above" };
        return format!("the stack of thread {name}, {} bytes {side} its stack pointer", place.abs_diff(*pointer));
    }
    if mapping.name.is_empty() { "anonymous memory".into() } else { mapping.name.clone() }
}
