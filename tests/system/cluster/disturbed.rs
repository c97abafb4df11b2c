//! Members with a network between them and faults around them.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, holdfast, repository, run};

use super::network::Network;
use super::network::proxies::Proxies;
use super::nodes::{Audited, Between, Nodes};

/// Numbers of 8 bytes in the file that a server's faults are in; see `faults.c`.
const WALL_OFFSET_S: u64 = 0;
const SYNC_TAKES_MS: u64 = 1;
const SYNC_FAILS: u64 = 2;
const DISK_IS_FULL: u64 = 3;
const SLEPT_MS: u64 = 4;
const PASSED_S: u64 = 5;
const WRITE_FAILS: u64 = 6;
const AUDIT_SYNC_FAILS: u64 = 7;
const AUDIT_SYNC_TAKES_MS: u64 = 8;
const NUMBERS: u64 = 9;
/// Of these nothing is undone when all is well again: what was slept was slept.
const STAY: [u64; 2] = [SLEPT_MS, PASSED_S];

/// The faults of one member.
pub struct Faults {
    file: File,
    slept: Cell<Duration>,
    passed: Cell<Duration>,
}

impl Faults {
    fn set(&self, at: u64, to: i64) {
        self.file.write_all_at(&to.to_ne_bytes(), at * 8).expect("the file of faults");
    }

    /// Let its wall clock be off by so much.
    pub fn wall_offset(&self, seconds: i64) {
        self.set(WALL_OFFSET_S, seconds);
    }

    /// Let each sync of a file take so long.
    pub fn slow_disk(&self, takes: Duration) {
        self.set(SYNC_TAKES_MS, takes.as_millis() as i64);
    }

    /// Let each sync of a file fail.
    pub fn broken_disk(&self, fails: bool) {
        self.set(SYNC_FAILS, fails.into());
    }

    /// Let each write to a file at a certain place fail, as of a store.
    pub fn failing_writes(&self, fails: bool) {
        self.set(WRITE_FAILS, fails.into());
    }

    /// Let each sync of the audit log take so long, while the store's disk is well.
    pub fn slow_audit_disk(&self, takes: Duration) {
        self.set(AUDIT_SYNC_TAKES_MS, takes.as_millis() as i64);
    }

    /// Let each sync of the audit log fail, while the store's disk is well.
    pub fn broken_audit_disk(&self, fails: bool) {
        self.set(AUDIT_SYNC_FAILS, fails.into());
    }

    /// Let nothing be written to a file for want of room.
    pub fn full_disk(&self, full: bool) {
        self.set(DISK_IS_FULL, full.into());
    }

    /// Let its machine have slept for so long, though the process noticed nothing of it.
    pub fn slept(&self, more: Duration) {
        self.slept.set(self.slept.get() + more);
        self.set(SLEPT_MS, self.slept.get().as_millis() as i64);
    }

    /// Let its clocks go on by so much at once, that of the boot too. The one by which it measures how long something
    /// takes does not: the machine stood still meanwhile, as nobody can wait for an hour.
    pub fn pass(&self, more: Duration) {
        self.passed.set(self.passed.get() + more);
        self.set(PASSED_S, self.passed.get().as_secs() as i64);
    }

    /// All is well again.
    pub fn heal(&self) {
        for at in (0..NUMBERS).filter(|at| !STAY.contains(at)) {
            self.set(at, 0);
        }
    }
}

/// Members that are started so that things can go wrong around them.
struct Disturbed {
    network: Arc<dyn Network>,
    folder: TempDir,
    library: PathBuf,
    binary: PathBuf,
    storage: &'static str,
    /// Further stanzas of each configuration.
    top: String,
}

impl Between for Disturbed {
    fn hosts(&self, n: usize) -> (Ipv4Addr, Ipv4Addr) {
        self.network.hosts(n)
    }

    fn front(&self, n: usize, port: u16) -> u16 {
        self.network.front(n, port)
    }

    fn finds(&self, n: usize, others: &[u16]) -> String {
        let joins = self.network.others(n).zip(others).map(|(other, port)| {
            let host = self.network.hosts(other).0;
            format!("retry_join {{\n leader_api_addr = \"http://{host}:{port}\"\n}}\n")
        });
        joins.collect::<String>() + self.storage
    }

    fn top(&self, _n: usize) -> String {
        self.top.clone()
    }

    /// What a member counts it tells by itself, whoever leads.
    fn listens_with(&self, _n: usize) -> String {
        "telemetry {\n unauthenticated_metrics_access = true\n}".into()
    }

    fn command(&self, n: usize, folder: &Path) -> Command {
        let mut command = self.network.command(n, &self.binary);
        command
            .current_dir(folder)
            .env("LD_PRELOAD", &self.library)
            .env("CHAOS_FAULTS", faults_of(self.folder.path(), n));
        command
    }
}

fn faults_of(folder: &Path, n: usize) -> PathBuf {
    folder.join(format!("faults-{n}"))
}

/// So many members of one cluster, the network between them, and the faults around each.
pub type Disordered = (Nodes, Arc<dyn Network>, Vec<Faults>);

/// Members on the loopback, with proxies between them.
pub fn start(count: usize) -> Disordered {
    start_having(count, None, "", |_| String::new())
}

/// Members in the network that is given, or with proxies between them; with more in the storage stanza of each, and
/// an audit log in the folder of each.
pub fn start_with(count: usize, network: Option<Arc<dyn Network>>, storage: &'static str) -> Disordered {
    start_having(count, network, storage, |_| Audited.top(0))
}

/// One member with audit logs in the folder that is given: one whose disk goes wrong is to have the name `audit.log`.
pub fn start_audited(devices: impl FnOnce(&Path) -> String) -> (Nodes, Faults) {
    let (nodes, _, mut faults) = start_having(1, None, "", devices);
    (nodes, faults.remove(0))
}

fn start_having(
    count: usize,
    network: Option<Arc<dyn Network>>,
    storage: &'static str,
    top: impl FnOnce(&Path) -> String,
) -> Disordered {
    let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
    let network = network.unwrap_or_else(|| Arc::new(Proxies::before(&ports.iter().map(|p| p.1).collect::<Vec<_>>())));
    let folder = tempfile::Builder::new().prefix("holdfast-chaos-").tempdir().expect("a temporary folder");
    let library = folder.path().join("faults.so");
    let source = repository().join("tests/system/cluster/faults.c");
    run(command("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl")).good();
    // Of one that may do more than its user, the loader leaves our library out; a copy may not. Another process makes
    // it: a file that this one has open for writing cannot be run, and children of other tests inherit it for a moment.
    let binary = folder.path().join("holdfast");
    run(command("cp").arg(holdfast()).arg(&binary)).good();
    let faults = (0..count).map(|n| {
        let path = faults_of(folder.path(), n);
        let file = OpenOptions::new().write(true).create_new(true).open(path).expect("a file of faults");
        let faults = Faults { file, slept: Cell::default(), passed: Cell::default() };
        (0..NUMBERS).for_each(|at| faults.set(at, 0));
        faults
    });
    let faults = faults.collect();
    let top = top(folder.path());
    let disturbed = Disturbed { network: network.clone(), folder, library, binary, storage, top };
    (Nodes::start_with(ports, Box::new(disturbed)), network, faults)
}
