//! The chain of an audit file over a server's life, as `holdfast audit verify` sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

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

/// SHA-256 in hex.
fn sha256(text: &str) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), text).expect("a file");
    run(command("sha256sum").arg(file.path())).good().split(' ').next().unwrap_or_default().to_owned()
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
    // What was asked since the start is not sealed yet.
    let told = text.contains("The chain of ") && text.contains(" lines are not sealed yet, from ");
    assert!(code == Some(0) && told, "{text}");

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

    // One taken out, two in the other order: at the line where the wrong one stands. Of the sealed part, and behind the
    // first checkpoint too, with the public key alone.
    let lines: Vec<&str> = whole.lines().collect();
    let is_checkpoint = |line: &&str| line.contains("\"type\":\"checkpoint\"");
    let sealed_by = lines.iter().position(is_checkpoint).expect("a checkpoint");
    let forger = |name: &str, lines: &[String]| {
        let path = running.site.folder().join(name);
        fs::write(&path, lines.join("\n") + "\n").expect("a file");
        path
    };
    let owned = || lines.iter().map(|l| (*l).to_owned()).collect::<Vec<String>>();
    for n in [1, 4, sealed_by - 2] {
        let (mut removed, mut moved) = (owned(), owned());
        removed.remove(n);
        moved.swap(n, n + 1);
        for (name, forged) in [("removed.log", removed), ("moved.log", moved)] {
            let (code, text) = verify(&running, &key, None, &[&forger(name, &forged)]);
            assert!(code == Some(1) && text.contains(&format!("{name}:{}:", n + 1)), "{n}: {text}");
        }
    }
    // Whoever changes a line and makes all hashes behind it anew cannot sign the checkpoint.
    let (mut forged, mut renamed) = (owned(), Vec::new());
    forged[wrong - 1] = forged[wrong - 1].replacen("secret/data/2", "secret/data/9", 1);
    for n in wrong..forged.len() {
        let (before, now) = (sha256(lines[n - 1]), sha256(&forged[n - 1]));
        assert!(lines[n].contains(&before), "line {n} names the one before");
        forged[n] = forged[n].replace(&format!("\"prev\":\"{before}\""), &format!("\"prev\":\"{now}\""));
        renamed.push((before, now));
    }
    let at = |name: &str| format!("{name}:{}:", sealed_by + 1);
    let (code, text) = verify(&running, &key, None, &[&forger("forged.log", &forged)]);
    assert!(code == Some(1) && text.contains(&at("forged.log")) && text.contains("forged"), "{text}");
    // Nor one over the new hashes.
    let (before, now) = renamed
        .iter()
        .find(|(before, _)| lines[sealed_by].contains(&format!("\"head\":\"{before}")))
        .expect("its head");
    forged[sealed_by] = forged[sealed_by].replace(before, now);
    let (code, text) = verify(&running, &key, None, &[&forger("signed.log", &forged)]);
    assert!(code == Some(1) && text.contains(&at("signed.log")) && text.contains("signature"), "{text}");

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

#[test]
fn a_line_that_nothing_follows_is_sealed_soon() {
    let running = Running::start(Setup::shamir().without_tls());
    let log = running.site.audit_file();
    running.root.get("secret/data/none").refused(404);
    // Ten seconds at most, and the one in which it is looked.
    until(Duration::from_secs(15), "a checkpoint behind the last line", || {
        let lines = all_lines(&log);
        let last = lines.iter().rposition(|l| l["request"]["path"] == "secret/data/none").expect("its line");
        lines[last..].iter().any(|l| l["type"] == "checkpoint").then_some(())
    });
    let copy = running.site.folder().join("sealed.log");
    fs::copy(&log, &copy).expect("a copy");
    let key = keep(&running, "public-key");
    let (code, text) = verify(&running, &key, None, &[&copy]);
    assert!(code == Some(0) && text.contains("0 lines are not sealed yet"), "{text}");
}

/// Says so when it is dropped, whether or not the test has failed.
struct Over<'t>(&'t AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Many: what goes wrong lies between two steps of a writer.
const ROTATIONS: usize = 30;

#[test]
fn rotations_under_writers_lose_no_line_and_break_no_chain() {
    let running = Running::start(Setup::shamir().without_tls());
    let log = running.site.audit_file();
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut rotated = Vec::new();
    thread::scope(|scope| {
        let _at_the_end = Over(&over);
        for writer in 0..8 {
            let (root, over, asked) = (running.root.with_token(running.root.token()), &over, &asked);
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    root.post(&format!("secret/data/w{writer}"), json!({ "data": { "a": "b" } })).expect(200);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for n in 1..=ROTATIONS {
            let before = all_lines(&log).len();
            until(LONG, "some lines", || (all_lines(&log).len() > before + 20).then_some(()));
            let old = log.with_extension(n.to_string());
            fs::rename(&log, &old).expect("a rename");
            running.server.signal(Signal::HUP);
            until(LONG, "the new file", || log.exists().then_some(()));
            rotated.push(old);
        }
        let before = all_lines(&log).len();
        until(LONG, "lines in the last file", || (all_lines(&log).len() > before + 20).then_some(()));
    });
    let running = running.restart(|server| drop(server.stop()));
    let (key, checkpoints) = (keep(&running, "public-key"), keep(&running, "checkpoints"));
    let files: Vec<&Path> = rotated.iter().map(PathBuf::as_path).chain([log.as_path()]).collect();
    let lines = files.iter().flat_map(|file| all_lines(file));
    let of_writers = lines.filter(|l| l["request"]["path"].as_str().is_some_and(|p| p.starts_with("secret/data/w")));
    assert_eq!(of_writers.count(), 2 * asked.load(Ordering::SeqCst));
    assert!(rotated.iter().all(|file| !all_lines(file).is_empty()), "each rotation found lines");
    let (code, text) = verify(&running, &key, Some(&checkpoints), &files);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_copy_of_a_log_that_is_cut_afterwards_misses_what_was_written_in_between_and_the_verifier_says_so() {
    let running = Running::start(Setup::shamir().without_tls());
    let (log, copy) = (running.site.audit_file(), running.site.folder().join("audit.log.1"));
    let write = |name: &str| {
        running.root.post(&format!("secret/data/{name}"), json!({ "data": { "a": "b" } })).expect(200);
    };
    let cut = || {
        let file = fs::OpenOptions::new().write(true).open(&log).expect("the log");
        file.set_len(0).expect("a cut");
    };
    let key = keep(&running, "public-key");
    // As `copytruncate` of logrotate does, where nobody writes meanwhile: the chain goes on.
    write("before");
    fs::copy(&log, &copy).expect("a copy");
    cut();
    write("behind");
    let (code, text) = verify(&running, &key, None, &[&copy, &log]);
    assert_eq!(code, Some(0), "{text}");
    // And where somebody does.
    let second = running.site.folder().join("audit.log.2");
    fs::copy(&log, &second).expect("a copy");
    write("between");
    cut();
    write("last");
    let (code, text) = verify(&running, &key, None, &[&copy, &second, &log]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("{}:1:", log.display())), "{text}");
}

#[test]
fn what_a_device_promises_decides_what_is_synced_before_an_answer() {
    let running = super::bare("unsafe_allow_api_audit_creation = true");
    let count = 20;
    // For each alone: of several an answer waits for one that has done what it promised.
    let during = |promise: &str| {
        let file = running.site.folder().join(format!("{promise}.log"));
        let options = json!({ "file_path": file, "durability": promise });
        running.root.post(&format!("sys/audit/{promise}"), json!({ "type": "file", "options": options })).expect(204);
        running.root.post("secret/data/a", json!({ "data": { "a": "b" } })).expect(200);
        // A device that has never synced has no series.
        let syncs = || {
            let page = running.root.get("sys/metrics?format=prometheus").expect(200).text();
            let series = format!("holdfast_audit_device_sync_count{{device=\"{promise}/\"");
            let line = page.lines().find(|l| l.starts_with(&series)).and_then(|l| l.rsplit_once(' '));
            line.map_or(0, |(_, count)| count.parse::<u64>().expect("a number"))
        };
        let before = syncs();
        for _ in 0..count {
            running.root.get("secret/data/a").expect(200);
        }
        let read = syncs();
        for n in 0..count {
            running.root.post(&format!("secret/data/w{n}"), json!({ "data": { "a": "b" } })).expect(200);
        }
        let written = syncs();
        running.root.delete(&format!("sys/audit/{promise}")).expect(204);
        (read - before, written - read)
    };
    assert_eq!(during("write"), (0, 0), "write waits for no disk");
    let (for_reads, for_writes) = during("batch");
    assert!(for_reads == 0 && for_writes >= count, "batch: {for_reads} for reads, {for_writes} for writes");
    let (for_reads, for_writes) = during("sync");
    assert!(for_reads >= count && for_writes >= count, "sync: {for_reads} for reads, {for_writes} for writes");
}
