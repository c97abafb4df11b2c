//! All memory locked, no core dumps, no debugger; or no start.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use holdfast_tests::process::{descendants, helpers, memory_bytes, need_root, status};
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Running, Server, Setup};
use rustix::process::Signal;

use super::scan::mappings;

#[test]
fn all_memory_of_a_server_is_locked_and_none_is_dumped() {
    need_root("to look at another process");
    let running = Running::start(Setup::hardware());
    let helpers = helpers(running.server.pid());
    let below = descendants(running.server.pid());
    assert!(helpers.len() == 1 && below.len() >= 2, "a spawner and a helper: {below:?}");
    for pid in below.into_iter().chain([running.server.pid()]) {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
        let core = limits.lines().find(|l| l.starts_with("Max core file size")).expect("a line");
        let values: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
        assert_eq!(values, ["0", "0"], "{core}");
        assert_eq!(status(pid, "NoNewPrivs").as_deref(), Some("1"), "process {pid}");
        if pid != running.server.pid() && !helpers.contains(&pid) {
            // The spawner holds no secret: it was there before there was one.
            continue;
        }
        assert!(memory_bytes(pid, "VmLck") > 0, "process {pid} locks nothing");
        for mapping in mappings(pid).iter().filter(|m| m.readable && m.resident_bytes > 0 && !m.name.starts_with("[v"))
        {
            assert!(mapping.has("lo"), "process {pid}: not locked: {mapping:?}");
        }
        assert_eq!(memory_bytes(pid, "VmSwap"), 0);
    }
}

#[test]
fn a_dev_server_locks_no_more_than_its_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dev = command(holdfast());
    dev.args(["server", "-dev", "-dev-no-store-token", "-dev-listen-address=127.0.0.1:0"]).env("HOME", folder.path());
    let server = Server::start(&mut dev, folder.path(), 1, None);
    assert!(memory_bytes(server.pid(), "VmLck") <= 2 << 20);
}

/// A place where an ordinary user finds binary and configuration.
struct Ordinary {
    folder: tempfile::TempDir,
    binary: PathBuf,
}

const NOBODY: u32 = 65534;

impl Ordinary {
    fn make(top: &str) -> Ordinary {
        need_root("to become an ordinary user");
        let folder = tempfile::tempdir().expect("a folder");
        let binary = folder.path().join("holdfast");
        fs::copy(holdfast(), &binary).expect("a copy");
        let config = format!(
            "listener \"tcp\" {{\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n}}\nstorage \"file\" {{\n  path = \"{}\"\n}}\n{top}\n",
            folder.path().join("data").display()
        );
        fs::write(folder.path().join("c.hcl"), config).expect("a configuration");
        for path in [folder.path().to_owned(), folder.path().join("c.hcl"), binary.clone()] {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("given away");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opened");
        Ordinary { folder, binary }
    }

    /// The server as `nobody`, with the right to lock or without.
    fn command(&self, may_lock: bool) -> Command {
        let mut c = command("setpriv");
        c.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        match may_lock {
            true => c.args(["--inh-caps=+ipc_lock", "--ambient-caps=+ipc_lock", "--"]),
            false => c.args(["--inh-caps=-all", "--"]),
        };
        c.arg(&self.binary).arg("server");
        c.arg(format!("-config={}", self.folder.path().join("c.hcl").display())).env("HOME", self.folder.path());
        c
    }

    /// Without the right, under a limit.
    fn limited(&self, bytes: u64) -> Command {
        let plain = self.command(false);
        let mut c = command("prlimit");
        c.arg(format!("--memlock={bytes}:{bytes}")).arg(plain.get_program()).args(plain.get_args());
        c.env("HOME", self.folder.path());
        c
    }
}

#[test]
fn without_the_right_to_lock_the_start_is_refused_in_one_line_that_names_the_ways_out() {
    let ordinary = Ordinary::make("");
    // systemd's usual limit is 8 MiB: enough for a start, not for the work.
    for limit in [0, 64 << 10, 8 << 20] {
        let output = run(&mut ordinary.limited(limit));
        let said = output.stdout.clone() + &output.stderr;
        assert_eq!(output.code, Some(1), "limit {limit}: {said}");
        for way in ["setcap cap_ipc_lock=ep", "LimitMEMLOCK=infinity", "disable_mlock"] {
            assert!(said.contains(way), "{way} is not in: {said}");
        }
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        assert!(!ordinary.folder.path().join("data").exists(), "it began to work");
    }
}

#[test]
fn with_the_capability_or_disable_mlock_an_ordinary_user_starts_it() {
    let ordinary = Ordinary::make("");
    let server = Server::start(&mut ordinary.command(true), ordinary.folder.path(), 1, None);
    assert!(memory_bytes(server.pid(), "VmLck") > 0);
    // The files of an undumpable process in /proc belong to root.
    let owner = fs::metadata(format!("/proc/{}/environ", server.pid())).expect("it").uid();
    assert_eq!((owner, status(server.pid(), "Uid").expect("it").starts_with("65534")), (0, true), "it can be dumped");
    drop(server);

    let ordinary = Ordinary::make("disable_mlock = true");
    let server = Server::start(&mut ordinary.limited(0), ordinary.folder.path(), 1, None);
    assert_eq!(memory_bytes(server.pid(), "VmLck"), 0);
    server.client().get("sys/health").expect(501);
}

#[test]
fn a_server_that_crashes_leaves_no_core() {
    let ordinary = Ordinary::make("");
    let mut server = Server::start(&mut ordinary.command(true), ordinary.folder.path(), 1, None);
    server.signal(Signal::ABORT);
    let status = server.wait();
    assert_eq!(status.signal(), Some(6), "{status}");
    assert!(!status.core_dumped(), "{status}");
}

#[test]
fn the_programs_that_are_built_have_the_allocators_options() {
    // A weak symbol that the linker did not replace would be seen nowhere else.
    for program in [holdfast(), holdfast().with_file_name("holdfast-tpm-helper")] {
        let said = run(command(&program).arg("version").env("_RJEM_MALLOC_CONF", "confirm_conf:true"));
        assert!(said.stderr.contains("-- Set conf value: retain:false"), "{}: {said:?}", program.display());
    }
}
