//! The store: opened twice, and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_tests::program::run;
use holdfast_tests::{Running, Server, Setup, Site};
use serde_json::json;

#[test]
fn a_store_in_use_is_refused_to_a_second_server() {
    let running = Running::start(Setup::shamir());
    let second = Site::make(Setup { store: Some(running.site.store()), ..Setup::shamir() });
    let said = second.start_in_vain();
    assert!(said.contains("in use by another process"), "{said}");
    assert!(said.contains(&running.site.store().display().to_string()), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    running.root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    let running = running.restart(Server::kill);
    running.root.get("secret/data/a").expect(200);
}

/// A store with this many secrets of known values, and a copy of it for each experiment.
struct Specimen {
    running: Option<Running>,
    original: PathBuf,
}

const SECRETS: usize = 120;

fn value(i: usize) -> String {
    format!("value {i} ").repeat(1 + i % 40)
}

impl Specimen {
    /// `end` is how the server ended that wrote it.
    fn make(end: fn(Server)) -> Specimen {
        let running = Running::start(Setup::shamir().without_tls().without_audit());
        for i in 0..SECRETS {
            running.root.post(&format!("secret/data/s/{i}"), json!({ "data": { "v": value(i) } })).expect(200);
        }
        let Running { server, root, keys, site } = running;
        end(server);
        let original = site.folder().join("original");
        copy(&site.store(), &original);
        // A stand-in that has ended already, so that the site can be kept together.
        let server = Server::launch(&mut holdfast_tests::program::command("true"), site.folder(), None);
        Specimen { running: Some(Running { server, root, keys, site }), original }
    }

    fn site(&self) -> &Site {
        &self.running.as_ref().expect("it is there").site
    }

    /// Lay the store anew, change it, start, and look at what is said and read. `Err`: it was refused.
    #[track_caller]
    fn with(&self, what: &str, change: impl FnOnce(&Path)) -> Result<Found, String> {
        let running = self.running.as_ref().expect("it is there");
        let store = self.site().store();
        fs::remove_dir_all(&store).expect("the store");
        copy(&self.original, &store);
        change(&store);
        let mut server = Server::launch(&mut self.site().server_command(), self.site().folder(), None);
        let listens = loop {
            if !server.is_alive() {
                break false;
            }
            if let Some(address) = listening(&server.log()) {
                server.listeners = vec![address];
                break true;
            }
            std::thread::sleep(std::time::Duration::from_millis(3));
        };
        if !listens {
            let said = server.log();
            assert!(!said.contains("panicked at"), "{what}: {said}");
            // Found when the file is opened, or in a block that is read right after that.
            let is_named = said.contains("damaged") || said.contains("is not as it was written");
            assert!(is_named && said.contains(&store.display().to_string()), "{what}: {said}");
            return Err(said);
        }
        let client = server.client();
        for share in &running.keys.shares[..2] {
            let reply = client.post("sys/unseal", json!({ "key": share }));
            if reply.status != 200 {
                let said = reply.text();
                assert!(reply.status >= 400 && reply.status <= 500 && said.len() > 30, "{what}: {said}");
                return Err(said);
            }
        }
        let root = client.with_token(&running.keys.root_token);
        let mut found = Found::default();
        for i in 0..SECRETS {
            let reply = root.get(&format!("secret/data/s/{i}"));
            match reply.status {
                200 => {
                    assert_eq!(reply.text_at("/data/data/v"), value(i), "{what}: WRONG DATA");
                    found.right += 1;
                }
                404 => found.missing.push(i),
                403 => found.missing.push(i),
                500 => {
                    assert_ne!(reply.refused(500), "", "{what}");
                    found.refused += 1;
                }
                other => panic!("{what}: {other} {}", reply.text()),
            }
        }
        let log = server.log();
        assert!(!log.contains("panicked at"), "{what}: {log}");
        Ok(found)
    }
}

#[derive(Debug, Default)]
struct Found {
    right: usize,
    refused: usize,
    /// Neither there nor refused.
    missing: Vec<usize>,
}

fn listening(log: &str) -> Option<holdfast_tests::Address> {
    let (text, _) = log.split_once("listening: address=")?.1.split_once(' ')?;
    text.parse().ok().map(holdfast_tests::Address::Tcp)
}

fn copy(from: &Path, to: &Path) {
    run(holdfast_tests::program::command("cp").args(["-a", "--sparse=always"]).arg(from).arg(to)).good();
}

/// Files that hold something, in the folder and below it.
fn files(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store).expect("the store").map(|e| e.expect("an entry").path());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.partition(|p| p.is_dir());
    files.retain(|p| p.metadata().is_ok_and(|m| m.len() > 0));
    files.extend(folders.iter().flat_map(|folder| self::files(folder)));
    files.sort();
    files
}

fn log_segment(store: &Path) -> PathBuf {
    let is_log = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("log-"));
    files(store).into_iter().rfind(is_log).expect("a log segment")
}

fn truncate(file: &Path, length: u64) {
    fs::OpenOptions::new().write(true).open(file).and_then(|f| f.set_len(length)).expect("truncated");
}

/// The part of a file that is not zero at its end.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1)
}

#[test]
fn an_unharmed_copy_reads_as_it_was_written() {
    for end in [|s: Server| drop(s.stop()), Server::kill] {
        let found = Specimen::make(end).with("nothing changed", |_| {}).expect("it opens");
        assert_eq!((found.right, found.refused), (SECRETS, 0), "{found:?}");
    }
}

#[test]
fn a_truncated_file_of_the_store_is_refused_or_harms_nothing() {
    let specimen = Specimen::make(|s| drop(s.stop()));
    for path in files(&specimen.original) {
        let name = path.strip_prefix(&specimen.original).expect("a file of the store").to_owned();
        let length = path.metadata().expect("it").len();
        for part in [0, 1, 100, length / 3, length / 2, length - 1] {
            let what = format!("{} cut to {part} of {length}", name.display());
            if let Ok(found) = specimen.with(&what, |store| truncate(&store.join(&name), part)) {
                assert!(found.missing.is_empty(), "{what}: {found:?}");
            }
        }
    }
}

#[test]
fn a_truncated_log_after_a_kill_is_refused_unless_it_lost_its_last_group_only() {
    let specimen = Specimen::make(Server::kill);
    let length = used(&fs::read(log_segment(&specimen.original)).expect("a log")) as u64;
    for part in [0, 1, 60, length / 4, length / 2, length - 3000, length - 5] {
        let what = format!("the log cut to {part} of {length}");
        match specimen.with(&what, |store| truncate(&log_segment(store), part)) {
            Err(said) => println!("{what}: {said}"),
            Ok(found) => println!("{what}: {} right, {} missing", found.right, found.missing.len()),
        }
    }
}

#[test]
fn flipped_bits_are_refused_or_the_data_is_right() {
    let mut missing = Vec::new();
    for (name, end) in [("stopped", (|s: Server| drop(s.stop())) as fn(Server)), ("killed", Server::kill)] {
        let specimen = Specimen::make(end);
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        for round in 0..40 {
            let all = files(&specimen.original);
            let path = &all[random(all.len())];
            let bytes = fs::read(path).expect("a file");
            let at = random(used(&bytes).max(1));
            let bit = random(8);
            let file = path.strip_prefix(&specimen.original).expect("a file of the store").to_owned();
            let what = format!("{name}, round {round}: bit {bit} of byte {at} of {}", file.display());
            let found = specimen.with(&what, |store| {
                let path = store.join(&file);
                let mut bytes = fs::read(&path).expect("a file");
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                fs::write(&path, bytes).expect("written");
            });
            if let Ok(found) = found {
                // The very last write of a killed server cannot be told from one that a crash tore.
                let excused = name == "killed" && found.missing == [SECRETS - 1];
                if !found.missing.is_empty() && !excused {
                    missing.push(format!(
                        "{what}: {} missing, {} refused, {} right",
                        found.missing.len(),
                        found.refused,
                        found.right
                    ));
                }
            }
        }
    }
    assert!(missing.is_empty(), "silently missing:\n{}", missing.join("\n"));
}
