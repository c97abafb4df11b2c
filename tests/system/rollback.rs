//! A TPM's counter tells old copies of the store: put back they are refused, accepted on purpose they are good once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::program::{command, run};
use holdfast_tests::{Client, Keys, Running, Server, Setup, Site, Storage, until};
use serde_json::json;

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

/// Where the record says that the counter is.
fn recorded(site: &Site) -> Option<u64> {
    let line = fs::read_to_string(site.store().join("rollback-counter")).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}

/// Where it is; no server may be connected to the TPM.
fn counted(site: &Site) -> u64 {
    let file = site.folder().join("counter");
    let tpm = site.tpm.as_ref().expect("a TPM");
    tpm.tool("tpm2_nvread", &[INDEX, "-C", INDEX, "-s", "8", "-o", &file.display().to_string()]);
    u64::from_be_bytes(fs::read(file).expect("the counter").try_into().expect("eight bytes"))
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
    refuses(&site, &["old copy of the store", &format!("was at {before}"), &said]);
    // Somebody who leaves the newer record there. On raft each start adds entries to the log, so that its length tells nothing
    // (docs/tpm.md).
    if Storage::of_this_run() == Storage::File {
        fs::copy(newest.join("rollback-counter"), site.store().join("rollback-counter")).expect("a copy");
        refuses(&site, &["old copy of the store beside a newer record", &said]);
    }
    fs::remove_file(site.store().join("rollback-counter")).expect("the record");
    refuses(&site, &["no record of the rollback counter", &said]);
    fs::write(site.store().join("rollback-counter"), format!("1 {now} 1 - {}\n", "00".repeat(32))).expect("a record");
    refuses(&site, &["not this store's and node's own", &said]);

    // Another value than the counter's accepts nothing.
    let site = site.with_seal(&accepting(now - 1));
    refuses(&site, &["not this store's and node's own", &said]);
    put_back(&site, &old);
    let site = site.with_seal(&accepting(now));
    let server = opened(&site);
    is_read(&server, &keys, "old");
    write(&server.client().with_token(&keys.root_token), "newer");
    server.stop();
    // The line is still there. It has counted, and the store is as good as any.
    opened(&site).stop();
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
    // Killed in the moment that the record is written, which is before the counter is raised.
    for _ in 0..4 {
        let written = || fs::metadata(site.store().join("rollback-counter")).and_then(|file| file.modified()).ok();
        let before = written();
        let server = Server::launch(&mut site.server_command(), site.folder(), site.client_config());
        until(Duration::from_secs(40), "another record", || (written() != before).then_some(()));
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
    let site = site.with_seal(&accepting(0));
    let server = opened(&site);
    is_read(&server, &keys, "x");
    server.stop();
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
