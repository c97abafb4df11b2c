//! How audit devices do. These figures outlive a seal.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::{Counter, Times};

/// Devices that are remembered at most; those of the present are always shown.
const REMEMBERED: usize = 256;

/// Of all devices together.
#[derive(Default)]
pub struct Totals {
    /// How long the lines of a request, and of a response, kept whoever wrote them.
    pub requests: Times,
    pub responses: Times,
    devices: Mutex<BTreeMap<String, Arc<Figures>>>,
}

impl Totals {
    /// The figures of the device at a path.
    pub fn of(&self, path: &str) -> Arc<Figures> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.len() >= REMEMBERED {
            devices.retain(|_, figures| Arc::strong_count(figures) > 1);
        }
        devices.entry(path.to_owned()).or_insert_with(|| Figures::of(path)).clone()
    }
}

/// How a device does.
pub struct Figures {
    path: String,
    /// Lines that it took.
    pub lines: Counter,
    /// Times that it refused.
    pub refused: Counter,
    /// How long a write took: to the file, or until the peer had it.
    pub writes: Times,
    /// How long the disk took to have what was written.
    pub syncs: Times,
    failing: AtomicBool,
    /// The last sync of its file has failed.
    unsynced: AtomicBool,
    /// Times that a peer did not take a line which is in the spool.
    pub peer_failures: Counter,
    peer_away: AtomicBool,
    /// Of the file's disk in use, in percent, as it was last looked at; [`UNKNOWN`].
    disk_used: AtomicU64,
    disk_free_bytes: AtomicU64,
    /// Lines of a file that no checkpoint seals yet; [`UNKNOWN`].
    unsealed: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

impl Figures {
    pub fn of(path: &str) -> Arc<Figures> {
        Arc::new(Figures {
            path: path.to_owned(),
            lines: Counter::default(),
            refused: Counter::default(),
            writes: Times::default(),
            syncs: Times::default(),
            failing: AtomicBool::new(false),
            unsynced: AtomicBool::new(false),
            peer_failures: Counter::default(),
            peer_away: AtomicBool::new(false),
            disk_used: AtomicU64::new(UNKNOWN),
            disk_free_bytes: AtomicU64::new(UNKNOWN),
            unsealed: AtomicU64::new(UNKNOWN),
        })
    }

    pub fn see_unsealed(&self, lines: u64) {
        self.unsealed.store(lines, Ordering::Relaxed);
    }

    /// Lines of a file that no checkpoint seals yet, as it was last looked at.
    pub fn unsealed(&self) -> Option<u64> {
        Some(self.unsealed.load(Ordering::Relaxed)).filter(|n| *n != UNKNOWN)
    }

    /// It took so many lines.
    pub fn took(&self, lines: usize) {
        self.lines.add(lines as u64);
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::SeqCst) {
            tracing::info!(device = %self.path, "an audit device takes lines again");
        }
    }

    /// The first of several refusals is told about.
    pub fn refused(&self, why: &dyn std::fmt::Display) {
        self.refused.add(1);
        if !self.failing.swap(true, Ordering::SeqCst) {
            tracing::error!(device = %self.path, error = %why, "an audit device refuses lines");
        }
    }

    /// A sync that so many writes waited for has failed: they were refused. The first of several failures is told about.
    pub fn is_not_synced(&self, waiting: usize, why: &dyn std::fmt::Display) {
        self.refused.add(waiting as u64);
        if !self.unsynced.swap(true, Ordering::SeqCst) {
            tracing::error!(
                device = %self.path, error = %why,
                "an audit file cannot be synced: lines that have to be on the disk are refused, those since the last \
                 sync may not be there after a crash of the machine; look at the disk"
            );
        }
    }

    /// The disk has what was written.
    pub fn is_synced(&self) {
        if self.unsynced.load(Ordering::Relaxed) && self.unsynced.swap(false, Ordering::SeqCst) {
            tracing::info!(device = %self.path, "an audit file can be synced again");
        }
    }

    /// Whether the last sync of its file has failed.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Relaxed)
    }

    /// The peer did not take a line; it stays in the spool. The first of several times is told about.
    pub fn peer_is_away(&self, why: &dyn std::fmt::Display) {
        self.peer_failures.add(1);
        if !self.peer_away.swap(true, Ordering::SeqCst) {
            tracing::warn!(device = %self.path, error = %why, "the peer of an audit device takes no lines: they are kept in its spool");
        }
    }

    /// The peer took a line of the spool.
    pub fn peer_is_there(&self) {
        if self.peer_away.load(Ordering::Relaxed) && self.peer_away.swap(false, Ordering::SeqCst) {
            tracing::info!(device = %self.path, "the peer of an audit device takes lines again: it gets what its spool has");
        }
    }

    /// Whether it refused the last line that it was given, or the last sync of its file has failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) || self.is_unsynced()
    }

    pub fn see_disk(&self, disk: Option<Disk>) {
        self.disk_used.store(disk.map_or(UNKNOWN, |d| d.used_percent), Ordering::Relaxed);
        self.disk_free_bytes.store(disk.map_or(UNKNOWN, |d| d.free_bytes), Ordering::Relaxed);
    }

    /// The file's disk, as it was last looked at.
    pub fn disk(&self) -> Option<Disk> {
        let known = |n: &AtomicU64| Some(n.load(Ordering::Relaxed)).filter(|n| *n != UNKNOWN);
        Some(Disk { used_percent: known(&self.disk_used)?, free_bytes: known(&self.disk_free_bytes)? })
    }
}

/// How full a disk is, of what the server may use of it.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    pub used_percent: u64,
    pub free_bytes: u64,
}

impl Disk {
    pub fn of(disk: &rustix::fs::StatVfs) -> Option<Disk> {
        let used = disk.f_blocks.saturating_sub(disk.f_bfree);
        let used_percent = used.saturating_mul(100).checked_div(used.saturating_add(disk.f_bavail))?;
        Some(Disk { used_percent, free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize) })
    }
}
