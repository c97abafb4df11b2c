//! Helpers that crash, hang, are killed, or outlive their server; PINs that are wrong.

use super::suite::class;
use super::{Bench, Test, softhsm, stub};
use holdfast_hsm::device::{CipherMechanism, DeviceErrorClass as Class, KeyKind, KeyRef, KeySpec, KeyUsage};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::{DeviceClient, Spawner};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("a_wrong_pin_is_tried_once_and_never_again", wrong_pin),
    ("a_killed_helper_is_replaced_within_the_call", killed),
    ("helpers_killed_under_load_cost_no_answer_twice", killed_under_load),
    ("a_module_that_aborts_does_not_take_the_server_along", aborts),
    ("a_module_that_hangs_is_ended_in_time", hangs),
    ("a_call_that_takes_long_behind_quick_ones_keeps_nobody_waiting", slow_behind_quick),
    ("calls_beyond_the_bound_are_told_to_come_again", too_many),
    ("logging_out_ends_the_helper", log_out),
    ("logging_out_ends_a_helper_that_hangs_in_every_thread", log_out_of_what_hangs),
    ("helpers_and_spawner_end_with_the_server", end_with_the_server),
    ("the_pin_is_in_neither_arguments_nor_environment", pin_is_hidden),
    ("the_spawner_refuses_to_start_beside_threads", threads_first),
];

fn wrong_pin(bench: &Bench) {
    softhsm::token("pin");
    let mut config = softhsm::config("pin");
    config.pin = Some(Secret::new("wrong-pin".to_owned()));
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), config);
    let find = || device.find(KeyRef::label("root"));
    assert_eq!(class(find()), Class::PinWrong);
    assert!(softhsm::has_seen_a_wrong_pin("pin"));

    softhsm::pkcs11_tool(&["--token-label", "pin", "--login", "--pin", softhsm::PIN, "--list-objects"]);
    assert!(!softhsm::has_seen_a_wrong_pin("pin"), "a right PIN clears the token's flag");
    for _ in 0..5 {
        assert_eq!(class(find()), Class::PinWrong);
    }
    // Neither a new helper nor a call that needs no PIN makes for another try.
    kill(device.helper_pid().unwrap());
    device.info().unwrap();
    let error = find().unwrap_err();
    assert_eq!(error.class, Class::PinWrong);
    assert!(!error.text.contains("wrong-pin") && error.text.contains("token 'pin'"), "{error}");
    assert!(!softhsm::has_seen_a_wrong_pin("pin"));

    device.reconfigure(softhsm::config("pin")).unwrap();
    assert_eq!(find().unwrap(), []);
}

fn killed(bench: &Bench) {
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), softhsm::token("killed"));
    let key = make_key(&device);
    let sealed = device.encrypt(key.clone(), CipherMechanism::AesGcm, Secret::new(vec![1, 2]), b"").unwrap();
    for _ in 0..3 {
        let pid = device.helper_pid().unwrap();
        kill(pid);
        let opened = device.decrypt(key.clone(), sealed.mechanism, &sealed.bytes, b"").unwrap();
        assert!(opened.ct_eq([1, 2]));
        assert_ne!(device.helper_pid(), Some(pid));
    }
}

fn killed_under_load(bench: &Bench) {
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), softhsm::token("load"));
    let key = make_key(&device);
    thread::scope(|scope| {
        let load: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = 0;
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_secs(3) {
                        match device.encrypt(key.clone(), CipherMechanism::AesGcm, Secret::new(vec![1]), b"") {
                            Ok(_) => answered += 1,
                            Err(error) => assert_eq!(error.class, Class::HelperDied, "{error}"),
                        }
                    }
                    answered
                })
            })
            .collect();
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(400));
            device.helper_pid().into_iter().for_each(kill);
        }
        for thread in load {
            assert!(thread.join().unwrap() > 0);
        }
    });
    assert_eq!(device.find(key).unwrap().len(), 1);
}

fn aborts(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let module = stub::build(directory.path(), "aborts", stub::ABORTS);
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), Pkcs11Config::new(module.as_str()));
    let error = device.info().unwrap_err();
    assert_eq!(error.class, Class::HelperDied);
    assert!(error.text.contains(&module), "{error}");
    let start = Instant::now();
    let mut last = String::new();
    for _ in 0..4 {
        last = device.info().unwrap_err().text;
    }
    assert!(last.contains("in a row"), "starts are spaced out: {last}");
    assert!(start.elapsed() < Duration::from_secs(8));

    device.reconfigure(softhsm::token("after-abort")).unwrap();
    assert_eq!(device.info().unwrap().token_label, "after-abort");
}

fn hangs(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let module = stub::build(directory.path(), "hangs", stub::HANGS);
    let timeout = Duration::from_millis(700);
    let device = DeviceClient::spawned_with_timeout(Arc::clone(&bench.spawner), Pkcs11Config::new(module), timeout);
    let seen = thread::scope(|scope| {
        let pid = scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            device.helper_pid()
        });
        let start = Instant::now();
        assert_eq!(class(device.info()), Class::Timeout);
        assert!(start.elapsed() < Duration::from_secs(3));
        pid.join().unwrap().expect("a helper ran")
    });
    assert!(ends_soon(seen), "the helper that hung is gone");
    assert_eq!(class(device.info()), Class::Timeout);
    device.reconfigure(softhsm::token("after-hang")).unwrap();
    assert_eq!(device.info().unwrap().token_label, "after-hang");
}

/// One worker answers quick calls one after the other. It does not keep the others from theirs when one takes long.
fn slow_behind_quick(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let code =
        format!("#include <unistd.h>\n{}", stub::NO_LOGIN.replace("randoms++;", "randoms++; if (n == 7) sleep(3);"));
    let module = stub::build(directory.path(), "sleepy", &code);
    let device = DeviceClient::spawned(bench.spawner.clone(), Pkcs11Config::new(module));
    for _ in 0..3 {
        for _ in 0..200 {
            device.random(3).unwrap();
        }
        let begun = Instant::now();
        thread::scope(|scope| {
            let slow = scope.spawn(|| device.random(7));
            thread::sleep(Duration::from_millis(100));
            for _ in 0..20 {
                device.random(3).unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            slow.join().unwrap().unwrap();
        });
        assert!(begun.elapsed() >= Duration::from_secs(3));
    }
}

fn too_many(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let module = stub::build(directory.path(), "hangs", stub::HANGS);
    let device = DeviceClient::spawned_with_timeout(
        Arc::clone(&bench.spawner),
        Pkcs11Config::new(module),
        Duration::from_secs(1),
    );
    let classes: Vec<Class> = thread::scope(|scope| {
        let calls: Vec<_> = (0..80).map(|_| scope.spawn(|| class(device.info()))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let busy = classes.iter().filter(|class| **class == Class::Busy).count();
    assert!(busy >= 16, "{classes:?}");
    assert!(classes.contains(&Class::Timeout), "{classes:?}");
}

fn log_out(bench: &Bench) {
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), softhsm::token("logout"));
    let key = make_key(&device);
    let pid = device.helper_pid().unwrap();
    device.log_out();
    assert!(ends_soon(pid));
    assert_eq!(device.find(key).unwrap().len(), 1, "the next call starts it again");
}

fn log_out_of_what_hangs(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let module = stub::build(directory.path(), "hangs", stub::HANGS);
    let (spawner, config) = (Arc::clone(&bench.spawner), Pkcs11Config::new(module));
    let device = DeviceClient::spawned_with_timeout(spawner, config, Duration::from_secs(30));
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| class(device.info()))).collect();
        // Nobody in the helper reads any more.
        thread::sleep(Duration::from_millis(500));
        let pid = device.helper_pid().expect("a helper runs");
        device.log_out();
        assert!(ends_soon(pid), "the helper saw the end of its socket");
        // What was asked is asked of another one, which hangs too.
        device.reconfigure(softhsm::token("after-log-out")).unwrap();
        for call in calls {
            assert_eq!(call.join().unwrap(), Class::HelperDied);
        }
    });
    assert_eq!(device.info().unwrap().token_label, "after-log-out");
}

pub const SERVER_TO_KILL: &str = "server-to-kill";

/// A server that has a helper, says which processes there are, and waits to be killed.
pub fn server_to_kill(spawner: &Arc<Spawner>) -> ExitCode {
    let device = DeviceClient::spawned(Arc::clone(spawner), softhsm::config("orphans"));
    device.info().expect("the token is there");
    println!("{} {}", spawner.pid(), device.helper_pid().expect("a helper runs"));
    thread::sleep(Duration::from_secs(60));
    ExitCode::FAILURE
}

fn end_with_the_server(_: &Bench) {
    softhsm::token("orphans");
    let mut server =
        Command::new(std::env::current_exe().unwrap()).arg(SERVER_TO_KILL).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2, "{line}");
    assert!(pids.iter().all(|pid| runs(*pid)));
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(pids.into_iter().all(ends_soon));
}

fn pin_is_hidden(bench: &Bench) {
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), softhsm::token("hidden"));
    device.find(KeyRef::label("root")).unwrap();
    let pid = device.helper_pid().unwrap();
    for file in ["cmdline", "environ"] {
        match std::fs::read(format!("/proc/{pid}/{file}")) {
            Ok(text) => {
                let mut parts = text.windows(softhsm::PIN.len());
                assert!(!parts.any(|part| part == softhsm::PIN.as_bytes()), "{file}");
            }
            // The helper is undumpable: only root reads its environment.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{file}"),
        }
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"));
}

fn threads_first(_: &Bench) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let error = Spawner::start().expect_err("there are two threads");
            assert!(error.to_string().contains("before any thread"), "{error}");
        });
    });
}

fn make_key(device: &DeviceClient) -> KeyRef {
    let spec = KeySpec { label: "root".into(), id: None, kind: KeyKind::Aes(256), usage: KeyUsage::Encrypt };
    device.generate(spec).unwrap().key_ref()
}

pub fn kill(pid: u32) {
    softhsm::run("kill", &["-9", &pid.to_string()]);
}

fn ends_soon(pid: u32) -> bool {
    let start = Instant::now();
    while runs(pid) && start.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(50));
    }
    !runs(pid)
}

/// Whether the process is there and not merely waiting to be reaped.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
