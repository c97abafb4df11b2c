//! Stores of every format that there ever was: each later version opens them. `tests/stores/make` makes one.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_tests::program::{command, run};
use holdfast_tests::{Keys, Running, Seal, Server, Setup, Site};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stores")
}

fn versions() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("tests/stores").map(|e| e.expect("an entry").path());
    let mut found: Vec<_> = entries.filter(|p| p.is_dir()).collect();
    found.sort();
    assert!(!found.is_empty(), "tests/stores holds no store");
    found
}

/// A site with a copy of that store.
fn lay(version: &Path) -> Site {
    let site = Site::make(Setup { seal: Seal::Shamir, ..Setup::hardware() }.without_tls());
    run(command("tar").arg("-xzf").arg(version.join("store.tar.gz")).arg("-C").arg(site.folder())).good();
    assert!(site.store().join("format").exists(), "{} holds no data/format", version.display());
    site
}

#[test]
fn a_store_of_each_format_opens_and_reads_as_it_was_written() {
    for version in versions() {
        let expected = fs::read_to_string(version.join("expected.json")).expect("expected.json");
        let expected: Value = serde_json::from_str(&expected).expect("JSON");
        let text = |v: &Value| v.as_str().expect("a text").to_owned();
        let site = lay(&version);
        let shares = expected["shares"].as_array().expect("shares").iter().map(text).collect();
        let keys = Keys { root_token: text(&expected["root_token"]), shares };
        let server = site.start();
        for share in &keys.shares[..2] {
            server.client().post("sys/unseal", json!({ "key": share })).expect(200);
        }
        let root = server.client().with_token(&keys.root_token);
        let running = Running { server, root, keys, site };
        read_all(&running, &expected, &version);
        running.root.post("secret/data/new", json!({ "data": { "written": "by this version" } })).expect(200);
        let running = running.restart(Server::kill);
        read_all(&running, &expected, &version);
        let running = running.restart(|s| drop(s.stop()));
        running.root.get("secret/data/new").expect(200);
    }
}

fn read_all(running: &Running, expected: &Value, version: &Path) {
    let reads = expected["reads"].as_array().expect("reads");
    assert!(reads.len() > 20, "{} tells little", version.display());
    for read in reads {
        let (method, path) = (read["method"].as_str().expect("a method"), read["path"].as_str().expect("a path"));
        let reply = running.root.call(method, path, None);
        assert_eq!(reply.status, read["status"], "{}: {method} {path}: {}", version.display(), reply.text());
        let got = reply.json();
        for (pointer, wanted) in read["answer"].as_object().expect("an object") {
            let found = got.pointer(pointer).unwrap_or(&Value::Null);
            assert_eq!(found, wanted, "{}: {method} {path} {pointer}", version.display());
        }
    }
}

#[test]
fn a_store_of_a_later_format_is_refused_with_both_formats() {
    let site = lay(&versions()[0]);
    let file = site.store().join("format");
    let mut bytes = fs::read(&file).expect("it");
    bytes[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..28]).to_le_bytes();
    bytes[28..32].copy_from_slice(&sum);
    fs::write(&file, bytes).expect("written");
    let said = site.start_in_vain();
    assert!(said.contains("format 99") && said.contains("up to 1"), "{said}");
}
