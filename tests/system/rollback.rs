//! A TPM's counter tells old copies of the store: put back they are refused, accepted on purpose they are good once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::program::{command, run};
use holdfast_tests::{Client, Keys, Running, Server, Setup, Site, Storage, until};
use serde_json::{Value, json};

use crate::seal_tpm::trouble;

const COUNTER: &str = "rollback_counter = \"0x01800100\"";
const INDEX: &str = "0x01800100";

fn accepting(value: u64) -> String {
    format!("{COUNTER}\n  rollback_accept = {value}")
}

fn write(root: &Client, value: &str) {
    root.post("secret/data/a", json!({ "data": { "x": value } })).expect(200);
}

#[track_caller]
fn is_read(server: &Server, keys: &Keys, value: &str) {
    let read = server.client().with_token(&keys.root_token).get("secret/data/a").expect(200);
    assert_eq!(read.text_at("/data/data/x"), value);
}

fn opened(site: &Site) -> Server {
    let server = site.start();
    server.until_unsealed();
    server
}

fn copy(from: &Path, to: &Path) {
    run(command("cp").arg("-a").arg(from).arg(to)).good();
}

/// The store's folder as it is, to be put back.
fn copied(site: &Site, name: &str) -> PathBuf {
    let to = site.folder().join(name);
    copy(&site.store(), &to);
    to
}

fn put_back(site: &Site, from: &Path) {
    fs::remove_dir_all(site.store()).expect("the store's folder");
    copy(from, &site.store());
}

/// Where programs before kept the record.
fn record_of_before(site: &Site) -> PathBuf {
    site.store().join("rollback-counter")
}

/// Where the record says that the counter is: the newest line in the file of the state machine, which may hold former ones too.
fn recorded(site: &Site) -> Option<u64> {
    let bytes = fs::read(site.store().join("state.redb")).ok()?;
    bytes.split(|byte| *byte == b'\n').filter_map(value_of_line).max()
}

/// `1 VALUE INDEX NODE MAC`, behind whatever is before it in the file.
fn value_of_line(bytes: &[u8]) -> Option<u64> {
    let begin = bytes.iter().rposition(|byte| !(b' '..=b'~').contains(byte)).map_or(0, |last| last + 1);
    let words: Vec<&str> = std::str::from_utf8(&bytes[begin..]).ok()?.split(' ').collect();
    let [.., format, value, _index, _node, mac] = words[..] else { return None };
    let is_mac = mac.len() == 64 && mac.bytes().all(|byte| byte.is_ascii_hexdigit());
    (format.ends_with('1') && is_mac).then(|| value.parse().ok())?
}

/// Where it is; no server may be connected to the TPM.
fn counted(site: &Site) -> u64 {
    let file = site.folder().join("counter");
    let tpm = site.tpm.as_ref().expect("a TPM");
    tpm.tool("tpm2_nvread", &[INDEX, "-C", INDEX, "-s", "8", "-o", &file.display().to_string()]);
    u64::from_be_bytes(fs::read(file).expect("the counter").try_into().expect("eight bytes"))
}

/// What the audit log tells of stores that were accepted.
fn accepted(site: &Site) -> Vec<Value> {
    let text = fs::read_to_string(site.audit_file()).expect("the audit log");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["type"] == "response" && line["cause"].to_string().contains("rollback_accept")).collect()
}

/// Start it, and see it refuse with these words.
#[track_caller]
fn refuses(site: &Site, words: &[&str]) {
    let server = site.start();
    trouble(&server, words);
    server.stop();
}

#[test]
fn a_copy_of_the_store_that_is_put_back_is_refused_and_accepted_once_on_purpose() {
    let Running { server, root, keys, site } = Running::start(Setup::tpm().with_seal(COUNTER));
    write(&root, "old");
    server.stop();
    let old = copied(&site, "old");
    let before = counted(&site);
    assert_eq!(recorded(&site), Some(before));

    let server = opened(&site);
    write(&server.client().with_token(&keys.root_token), "new");
    // One of a running server counts for as long as the counter is not raised: here by the end of the server.
    let running = copied(&site, "running");
    server.stop();
    let now = counted(&site);
    assert!(now > before);
    let newest = copied(&site, "newest");

    put_back(&site, &running);
    refuses(&site, &["old copy of the store", &format!("is at {now}")]);
    put_back(&site, &old);
    let said = format!("set rollback_accept = {now} in the stanza seal \"tpm\"");
    let is_old = ["old copy of the store", &format!("was at {before}"), &said];
    refuses(&site, &is_old);
    // On raft each start adds entries to the log: however long it is, the record is what it was.
    refuses(&site, &is_old);
    // There is no newer record that could be left there: it is in the file that was exchanged. What a program before would have read counts
    // no longer.
    assert!(!record_of_before(&site).exists() && !newest.join("rollback-counter").exists());
    fs::write(record_of_before(&site), format!("1 {now} 1 - {}\n", "00".repeat(32))).expect("a record");
    refuses(&site, &is_old);
    // Everything else of the newest folder, with the old file of the state machine.
    put_back(&site, &newest);
    for file in ["state.redb", "state.redb.sums"] {
        fs::copy(old.join(file), site.store().join(file)).expect("a copy");
    }
    refuses(&site, &is_old);
    // Used without the counter until it is longer than the newest one.
    put_back(&site, &old);
    let site = site.with_seal("");
    let server = opened(&site);
    let root = server.client().with_token(&keys.root_token);
    (0..50).for_each(|n| write(&root, &n.to_string()));
    server.stop();
    let site = site.with_seal(COUNTER);
    refuses(&site, &is_old);

    // Another value than the counter's accepts nothing.
    put_back(&site, &old);
    let site = site.with_seal(&accepting(now - 1));
    refuses(&site, &is_old);
    let site = site.with_seal(&accepting(now));
    let server = opened(&site);
    is_read(&server, &keys, "old");
    write(&server.client().with_token(&keys.root_token), "newer");
    server.stop();
    let told = accepted(&site);
    let [told] = &told[..] else { panic!("one line, once: {told:#?}") };
    let cause = told["cause"].as_str().expect("a cause");
    assert!(cause.starts_with("the store was accepted by rollback_accept: this is an old copy of the store"), "{told}");
    assert_eq!((&told["request"]["path"], &told["actor"]), (&json!("sys/unseal"), &json!("system")));
    assert_eq!(told["request"]["data"]["rollback_accept"], now);
    // The line is still there. It has counted, and the store is as good as any.
    opened(&site).stop();
    assert_eq!(accepted(&site).len(), 1);
    put_back(&site, &newest);
    refuses(&site, &["old copy of the store"]);
}

#[test]
fn restarts_and_ends_at_each_step_leave_a_store_that_opens() {
    let Running { server, root, keys, mut site } = Running::start(Setup::tpm().with_seal(COUNTER));
    write(&root, "x");
    let mut last = recorded(&site).expect("a record");
    server.stop();
    for _ in 0..3 {
        let server = opened(&site);
        server.kill();
        let now = recorded(&site).expect("a record");
        assert!(now > last);
        last = now;
    }
    // Killed in the moment that the record is written, which is before the counter is raised. (It may be in the file and not count yet.)
    for _ in 0..4 {
        if recorded(&site) != Some(counted(&site)) {
            opened(&site).kill();
        }
        let before = recorded(&site);
        let server = Server::launch(&mut site.server_command(), site.folder(), site.client_config());
        until(Duration::from_secs(40), "another record", || (recorded(&site) != before).then_some(()));
        server.kill();
        let (record, counter) = (recorded(&site).expect("a record"), counted(&site));
        assert!(counter == record || counter + 1 == record, "{counter}, {record}");
    }
    let server = opened(&site);
    is_read(&server, &keys, "x");
    server.stop();

    // The same for certain: the record is one ahead, as it is when the counter was to be raised.
    let state = site.folder().join("tpm");
    let tpm_before = site.folder().join("tpm-before");
    site.tpm.as_mut().expect("a TPM").kill();
    copy(&state, &tpm_before);
    site.tpm.as_mut().expect("a TPM").start_again();
    let before = counted(&site);
    let server = opened(&site);
    let ahead = recorded(&site).expect("a record");
    server.kill();
    assert_eq!(ahead, before + 1);
    let tpm_back = |site: &mut Site| {
        site.tpm.as_mut().expect("a TPM").kill();
        fs::remove_dir_all(&state).expect("the TPM's state");
        copy(&tpm_before, &state);
        site.tpm.as_mut().expect("a TPM").start_again();
    };
    tpm_back(&mut site);
    assert_eq!(counted(&site), before);
    let server = opened(&site);
    is_read(&server, &keys, "x");
    server.stop();
    assert!(counted(&site) > ahead);
    // No TPM takes its counter back by more than that: this is another one.
    tpm_back(&mut site);
    refuses(&site, &["another TPM or another index", &format!("rollback_accept = {before}")]);
}

#[test]
fn a_new_counter_one_that_is_gone_and_what_is_none_are_told_apart() {
    let Running { server, root, keys, site } = Running::start(Setup::tpm());
    write(&root, "x");
    server.stop();
    // It is new to a store that was there.
    let site = site.with_seal(COUNTER);
    refuses(&site, &["no record", "is not there", "rollback_accept = 0"]);
    fs::write(record_of_before(&site), format!("1 0 1 - {}\n", "00".repeat(32))).expect("a record");
    refuses(&site, &["not this store's and node's own", "rollback_accept = 0"]);
    let site = site.with_seal(&accepting(0));
    let server = opened(&site);
    is_read(&server, &keys, "x");
    server.stop();
    assert!(!record_of_before(&site).exists(), "it is in the store now");
    let before = counted(&site);

    site.tpm.as_ref().expect("a TPM").tool("tpm2_nvundefine", &[INDEX, "-C", "o"]);
    let site = site.with_seal(COUNTER);
    refuses(&site, &["not in the TPM", &format!("was at {before}"), "rollback_accept = 0"]);
    // Made anew it does not begin where it was.
    let made = ["-C", "o", "-s", "8", "-a", "nt=counter|authread|authwrite|ownerread|no_da"];
    site.tpm.as_ref().expect("a TPM").tool("tpm2_nvdefine", &[&[INDEX][..], &made].concat());
    site.tpm.as_ref().expect("a TPM").tool("tpm2_nvincrement", &[INDEX, "-C", INDEX]);
    let anew = counted(&site);
    assert!(anew > before);
    refuses(&site, &["old copy of the store", &format!("rollback_accept = {anew}")]);
    let site = site.with_seal(&accepting(anew));
    opened(&site).stop();

    let tpm = site.tpm.as_ref().expect("a TPM");
    tpm.tool("tpm2_nvundefine", &[INDEX, "-C", "o"]);
    tpm.tool("tpm2_nvdefine", &[INDEX, "-C", "o", "-s", "8", "-a", "authread|authwrite"]);
    refuses(&site, &["0x1800100 is none that the server can count with"]);
}

/// `tests/stores_of_tpms/record_beside`.
#[test]
fn a_record_that_was_kept_beside_the_store_is_judged_as_before_and_moves_into_it() {
    let mut site = Site::make(Setup::tpm().with_seal(COUNTER).without_audit());
    let kept =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("stores_of_tpms/record_beside").join(match Storage::of_this_run() {
            Storage::File => "file",
            Storage::Raft => "raft",
        });
    let keys = Keys { root_token: fs::read_to_string(kept.join("root_token")).expect("a token"), shares: Vec::new() };
    site.tpm.as_mut().expect("a TPM").kill();
    fs::remove_dir_all(site.folder().join("tpm")).expect("the TPM's state");
    run(command("tar").arg("-xzf").arg(kept.join("store.tar.gz")).arg("-C").arg(site.folder())).good();
    site.tpm.as_mut().expect("a TPM").start_again();
    let of_before = copied(&site, "of-before");
    let before = counted(&site);
    assert_eq!(recorded(&site), None);

    // Taken away, and changed: as before.
    let line = fs::read_to_string(record_of_before(&site)).expect("a record");
    fs::remove_file(record_of_before(&site)).expect("the record");
    refuses(&site, &["no record of the rollback counter", &format!("rollback_accept = {before}")]);
    let ahead = line.replacen(&format!("1 {before} "), &format!("1 {} ", before + 1), 1);
    assert_ne!(ahead, line);
    fs::write(record_of_before(&site), ahead).expect("a record");
    refuses(&site, &["not this store's and node's own"]);

    put_back(&site, &of_before);
    let server = opened(&site);
    is_read(&server, &keys, "of before");
    assert!(!record_of_before(&site).exists(), "it is in the store now");
    server.stop();
    assert_eq!(recorded(&site), Some(counted(&site)));
    let server = opened(&site);
    is_read(&server, &keys, "of before");
    server.stop();
    put_back(&site, &of_before);
    refuses(&site, &["old copy of the store", &format!("was at {before}")]);
}

#[test]
fn a_store_is_not_begun_with_a_counter_that_cannot_be_made() {
    let site = Site::make(Setup::tpm().with_seal(COUNTER));
    let tpm = site.tpm.as_ref().expect("a TPM");
    tpm.tool("tpm2_changeauth", &["-c", "owner", "of-the-owner"]);
    // The storage root key is one of the endorsement hierarchy's, so that the owner's authorisation is not asked for.
    let site = site.with_seal(&format!("{COUNTER}\n  hierarchy = \"endorsement\""));
    let server = site.start();
    let init = json!({ "recovery_shares": 1, "recovery_threshold": 1 });
    let said = server.client().post("sys/init", init.clone()).refused(500);
    assert!(said.contains("the counter 0x1800100 cannot be made") && said.contains("tpm2_nvdefine"), "{said}");
    assert_eq!(server.client().get("sys/init").expect(200).at("/initialized"), false);
    server.stop();
    let made = ["-C", "o", "-P", "of-the-owner", "-s", "8", "-a", "nt=counter|authread|authwrite|ownerread|no_da"];
    site.tpm.as_ref().expect("a TPM").tool("tpm2_nvdefine", &[&[INDEX][..], &made].concat());
    let server = site.start();
    server.client().post("sys/init", init).expect(200);
    server.until_unsealed();
    server.stop();
    opened(&site).stop();
}
