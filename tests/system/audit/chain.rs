//! The chain of an audit file over a server's life, as `holdfast audit verify` sees it.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Running, Setup, until};
use rustix::process::Signal;
use serde_json::json;

use super::{LONG, all_lines};

fn audit(running: &Running, words: &[&str]) -> holdfast_tests::program::Output {
    let mut command = running.site.cli(&holdfast(), &running.server, running.root.token());
    run(command.arg("audit").args(words))
}

/// Write what a command prints into a file.
pub fn keep(running: &Running, word: &str) -> PathBuf {
    let output = audit(running, &[word]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let path = running.site.folder().join(word);
    fs::write(&path, output.stdout).expect("a file");
    path
}

/// Exit code and output of a verification.
pub fn verify(running: &Running, key: &Path, checkpoints: Option<&Path>, files: &[&Path]) -> (Option<i32>, String) {
    let mut words = vec![format!("-public-key={}", key.display())];
    words.extend(checkpoints.map(|path| format!("-checkpoints={}", path.display())));
    words.extend(files.iter().map(|path| path.display().to_string()));
    let words: Vec<&str> = ["verify"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let output = audit(running, &words);
    (output.code, output.stdout + &output.stderr)
}

#[test]
fn the_chain_goes_on_over_a_crash_a_rotation_and_a_new_key_and_shows_what_was_done_to_it() {
    let running = Running::start(Setup::shamir().without_tls());
    let log = running.site.audit_file();
    for n in 0..5 {
        running.root.post(&format!("secret/data/{n}"), json!({ "data": { "a": "b" } })).expect(200);
    }
    // A clean end seals all of it, in the file and in the store.
    let running = running.restart(|server| drop(server.stop()));
    let key = keep(&running, "public-key");
    let checkpoints = keep(&running, "checkpoints");
    let (code, text) = verify(&running, &key, Some(&checkpoints), &[&log]);
    let sealed = text.contains("The chain of ") && text.contains("\n0 lines are not sealed yet.");
    assert!(code == Some(0) && sealed, "{text}");

    // Whoever has the file alone can cut it, and the exported checkpoint shows it.
    let whole = fs::read_to_string(&log).expect("a file");
    let cut = running.site.folder().join("cut.log");
    let at = whole.match_indices('\n').nth(6).expect("seven lines").0;
    fs::write(&cut, &whole[..=at]).expect("a file");
    let (code, text) = verify(&running, &key, Some(&checkpoints), &[&cut]);
    assert!(code == Some(1) && text.contains("cut.log:7:"), "{text}");
    let changed = running.site.folder().join("changed.log");
    fs::write(&changed, whole.replacen("secret/data/2", "secret/data/9", 1)).expect("a file");
    let wrong = 1 + all_lines(&log).iter().position(|l| l["request"]["path"] == "secret/data/2").expect("a line");
    let (code, text) = verify(&running, &key, None, &[&changed]);
    assert!(code == Some(1) && text.contains(&format!("changed.log:{wrong}:")), "{text}");

    // Nothing but the files is needed: no server, no token.
    let mut alone = command(holdfast());
    alone.args(["audit", "verify"]).arg(format!("-public-key={}", key.display())).arg(&log);
    alone.env("VAULT_ADDR", "http://127.0.0.1:1").env_remove("VAULT_TOKEN");
    let output = run(&mut alone);
    assert!(output.code == Some(0) && output.stdout.contains("intact"), "{output:?}");
    // An empty file is not what the server wrote.
    let empty = running.site.folder().join("empty.log");
    fs::write(&empty, "").expect("a file");
    let (code, text) = verify(&running, &key, None, &[&empty]);
    assert!(code == Some(1) && text.contains("no line of a chain"), "{text}");

    // A crash in the middle of a line.
    let running = running.restart(|server| {
        server.kill();
        let torn = fs::read_to_string(&log).expect("a file") + "{\"time\":\"20";
        fs::write(&log, torn).expect("a file");
    });
    running.root.get("secret/data/1").expect(200);
    let (code, text) = verify(&running, &key, Some(&checkpoints), &[&log]);
    assert!(code == Some(0) && text.contains("1 times"), "{text}");

    // Rotation, and another key.
    let old = log.with_extension("1");
    fs::rename(&log, &old).expect("a rename");
    running.server.signal(Signal::HUP);
    until(LONG, "the new file", || log.exists().then_some(()));
    running.root.post("sys/audit-chain/rotate", json!({})).expect(204);
    running.root.get("secret/data/1").expect(200);
    let running = running.restart(|server| drop(server.stop()));
    let (code, text) = verify(&running, &key, None, &[&old, &log]);
    assert!(code == Some(1) && text.contains("which was not given"), "{text}");
    let (key, checkpoints) = (keep(&running, "public-key"), keep(&running, "checkpoints"));
    let (code, text) = verify(&running, &key, Some(&checkpoints), &[&old, &log]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = verify(&running, &key, None, &[&log, &old]);
    assert!(code == Some(1) && text.contains("the order was changed"), "{text}");
}
