//! A full disk, under the store and under the audit log.

use std::sync::Mutex;
use std::time::Duration;

use holdfast_tests::program::command;
use holdfast_tests::tmpfs::Tmpfs;
use holdfast_tests::{Running, Server, Setup, until};
use serde_json::json;

fn on_small_disk() -> (Tmpfs, tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Tmpfs::mount(&folder.path().join("disk"), 48);
    let setup = Setup { store: Some(disk.path().join("data")), ..Setup::shamir().without_tls() };
    (disk, folder, Running::start(setup))
}

#[track_caller]
fn until_writable(running: &Running) {
    until(Duration::from_secs(10), "writing, with room again", || {
        (running.root.post("secret/data/again", json!({ "data": { "i": 1 } })).status == 200).then_some(())
    });
}

#[test]
fn on_a_full_disk_writes_are_refused_reads_go_on_and_nothing_acknowledged_is_lost() {
    let (disk, _folder, running) = on_small_disk();
    for i in 0..50 {
        running.root.post(&format!("secret/data/before/{i}"), json!({ "data": { "i": i } })).expect(200);
    }
    let acknowledged = Mutex::new(Vec::new());
    for (round, room) in [0, 4096, 100 << 10, 3 << 20].into_iter().enumerate() {
        let ballast = disk.fill(room);
        let refused = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (root, acknowledged) = (running.root.with_token(running.root.token()), &acknowledged);
                    scope.spawn(move || {
                        let mut refused = 0;
                        for i in 0..30 {
                            let path = format!("secret/data/full/{round}/{writer}/{i}");
                            let reply = root.post(&path, json!({ "data": { "v": format!("{i}").repeat(2000) } }));
                            match reply.status {
                                200 => acknowledged.lock().expect("no panic").push((path, i)),
                                500 | 507 => {
                                    refused += 1;
                                    let text = reply.clone().refused(reply.status);
                                    assert!(text.contains("full"), "{text}");
                                }
                                other => panic!("{other}: {}", reply.text()),
                            }
                        }
                        refused
                    })
                })
                .collect();
            writers.into_iter().map(|w| w.join().expect("no panic")).sum::<usize>()
        });
        assert!(refused > 0, "a disk with {room} bytes left refused nothing");
        running.root.get("sys/health").expect(200);
        running.root.get("secret/data/before/7").expect(200);
        running.root.get("auth/token/lookup-self").expect(200);
        drop(ballast);
        until_writable(&running);
    }
    let running = running.restart(Server::kill);
    for (path, i) in acknowledged.into_inner().expect("no panic") {
        assert_eq!(running.root.get(&path).expect(200).at("/data/data/v"), format!("{i}").repeat(2000), "{path}");
    }
    for i in 0..50 {
        running.root.get(&format!("secret/data/before/{i}")).expect(200);
    }
}

#[test]
fn a_store_that_fills_its_disk_by_itself_refuses_writes_and_reads_on() {
    let (disk, _folder, running) = on_small_disk();
    let mut written = 0;
    let refusal = loop {
        let body = json!({ "data": { "v": format!("{written:06}").repeat(30_000) } });
        let reply = running.root.post(&format!("secret/data/much/{written}"), body);
        if reply.status != 200 {
            break reply;
        }
        written += 1;
        assert!(written < 1000, "180 MB on a disk of 48 MB");
    };
    let text = refusal.clone().refused(refusal.status);
    assert!([500, 507].contains(&refusal.status) && text.contains("full"), "{text}");
    assert!(written > 20, "only {written}");
    for i in 0..written {
        let read = running.root.get(&format!("secret/data/much/{i}")).expect(200);
        assert_eq!(read.at("/data/data/v"), format!("{i:06}").repeat(30_000));
    }
    // Without room a crash may not be recovered from: that is said, nothing is harmed, and room is all it needs.
    let Running { server, root, keys, site } = running;
    server.kill();
    let mut starting = Server::launch(&mut site.server_command(), site.folder(), None);
    let started = until(Duration::from_secs(20), "a start or its refusal", || match starting.is_alive() {
        true => starting.log().contains("listening").then_some(true),
        false => Some(false),
    });
    let said = starting.log();
    if !started {
        let folder = disk.path().join("data").display().to_string();
        assert!(said.contains("full") && said.contains("free some space") && said.contains(&folder), "{said}");
        assert!(!said.contains("backup"), "{said}");
    }
    drop(starting);
    disk.grow(160);
    let server = Server::launch(&mut command("true"), site.folder(), None);
    let running = Running { server, root, keys, site }.restart(drop);
    for i in 0..written {
        running.root.get(&format!("secret/data/much/{i}")).expect(200);
    }
    until_writable(&running);
}

#[test]
fn a_server_starts_and_reads_on_a_full_disk() {
    for end in [(|s: Server| drop(s.stop())) as fn(Server), Server::kill] {
        let (disk, _folder, running) = on_small_disk();
        running.root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
        let ballast = disk.fill(0);
        let running = running.restart(end);
        running.root.get("secret/data/a").expect(200);
        let reply = running.root.post("secret/data/b", json!({ "data": { "x": "y" } }));
        assert!(reply.status == 507, "{}", reply.text());
        drop(ballast);
        until_writable(&running);
    }
}

#[test]
fn with_a_full_audit_disk_requests_fail_and_are_not_carried_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Tmpfs::mount(&folder.path().join("audit"), 1);
    let setup = Setup { audit_file: Some(disk.path().join("audit.log")), ..Setup::shamir().without_tls() };
    let running = Running::start(setup);
    running.root.post("secret/data/a", json!({ "data": { "x": "before" } })).expect(200);
    let ballast = disk.fill(0);
    // What is left of the file's last page takes a few lines yet.
    until(Duration::from_secs(10), "the first refused line", || {
        (running.root.get("secret/data/a").status != 200).then_some(())
    });
    assert_eq!(running.root.get("secret/data/a").refused(500), "internal error");
    for _ in 0..5 {
        let text = running.root.post("secret/data/a", json!({ "data": { "x": "while full" } })).refused(500);
        assert_eq!(text, "internal error");
    }
    running.root.get("sys/health").expect(200);
    running.root.get("sys/seal-status").expect(200);
    drop(ballast);
    assert_eq!(running.root.get("secret/data/a").expect(200).at("/data/data/x"), "before");
    running.root.post("secret/data/a", json!({ "data": { "x": "after" } })).expect(200);
    // Every line but the torn one is whole.
    let text = std::fs::read_to_string(running.site.audit_file()).expect("the audit log");
    let torn = text.lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_err()).count();
    assert!(torn <= 1, "{torn} torn lines");
}
