//! What a server's process gives up before it serves.

use std::fs;

use holdfast_tests::process::{descendants, helpers, status};
use holdfast_tests::{Running, Setup};

fn fields(pid: u32, task: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).unwrap_or_default();
    let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map_or("", str::trim).to_owned();
    (value("NoNewPrivs:"), value("Seccomp:"))
}

/// Every thread, those of the runtime and of the store too; the helper has its own filters, and whoever starts helpers
/// has to start a program.
#[test]
fn no_thread_of_a_server_may_start_programs() {
    let running = Running::start(Setup::hardware());
    running.root.get("sys/health").expect(200);
    let pid = running.server.pid();
    let tasks: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("threads")
        .map(|t| t.expect("a thread").file_name().into_string().expect("a number"))
        .collect();
    assert!(tasks.len() > 3, "{tasks:?}");
    for task in &tasks {
        let confined = fields(pid, task);
        // One that has ended meanwhile says nothing.
        assert!(["1", ""].contains(&confined.0.as_str()) && ["2", ""].contains(&confined.1.as_str()), "{confined:?}");
    }
    assert_eq!(fields(pid, &pid.to_string()), ("1".into(), "2".into()));
    let helpers = helpers(pid);
    assert!(!helpers.is_empty());
    for helper in &helpers {
        assert_eq!(status(*helper, "Seccomp").as_deref(), Some("2"), "a helper");
    }
    assert!(descendants(pid).len() > helpers.len(), "the spawner is a process of its own");
}
