//! `scripts/run`, which is what `make run` runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use holdfast_tests::certificates::client_config;
use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, holdfast, repository};
use holdfast_tests::{Address, Client, Server, until};
use rustix::process::Signal;
use serde_json::{Value, json};

struct Run {
    script: Server,
    root: Client,
    /// What it printed.
    said: String,
}

fn run(folder: &Path, port: u16) -> Run {
    let mut script = command(repository().join("scripts/run"));
    script.arg(holdfast()).env("HOLDFAST_RUN_DIR", folder.join("run")).env("HOLDFAST_PORT", port.to_string());
    script.env("HOME", folder);
    let mut script = Server::launch(&mut script, folder, None);
    let said = until(Duration::from_secs(60), "the end of what make run says", || {
        assert!(script.is_alive(), "make run ended:\n{}", script.log());
        Some(script.log()).filter(|l| l.contains("Ctrl-C ends the server"))
    });
    let after = |name: &str| {
        let line =
            said.lines().find_map(|l| l.trim().strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {said}"));
        line.trim().to_owned()
    };
    assert_eq!(after("Address"), format!("https://127.0.0.1:{port}"));
    let address = Address::Tcp(([127, 0, 0, 1], port).into());
    let tls = client_config(Path::new(&after("CA file")), None);
    let root = Client::new(address, Some(tls)).with_token(&after("Root token"));
    Run { script, root, said }
}

#[test]
fn make_run_needs_nobody_and_a_second_run_finds_its_data() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();

    let Run { script, root, said } = run(folder.path(), port);
    assert!(said.contains("sealed by the SoftHSM token") && said.contains("kv put secret/hello"), "{said}");
    let status = root.get("sys/seal-status").expect(200);
    assert_eq!((status.text_at("/type"), status.at("/sealed")), ("pkcs11".into(), false.into()));
    root.post("secret/data/hello", json!({ "data": { "user": "alice" } })).expect(200);
    let keys = folder.path().join("run/keys-for-trying-out.json");
    assert_eq!(fs::metadata(&keys).expect("the keys' file").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(folder.path().join("run")).expect("its folder").permissions().mode() & 0o777, 0o700);
    let kept: Value = serde_json::from_str(&fs::read_to_string(&keys).expect("readable")).expect("JSON");
    assert_eq!(kept["root_token"], root.token());
    for key in kept["recovery_keys_b64"].as_array().expect("recovery keys") {
        assert!(said.contains(key.as_str().expect("a text")), "a recovery key is not shown: {said}");
    }
    ends_cleanly(script, &root);

    let Run { script, root, .. } = run(folder.path(), port);
    assert_eq!(root.get("secret/data/hello").expect(200).at("/data/data/user"), "alice");
    assert_eq!(kept["root_token"], root.token(), "the second run initialised again");
    ends_cleanly(script, &root);
}

fn ends_cleanly(mut script: Server, root: &Client) {
    script.signal(Signal::TERM);
    let status = script.wait();
    assert!(status.success(), "{status}: {}", script.log());
    assert!(script.log().contains("stopping"), "{}", script.log());
    assert!(!script.log().contains("[ERROR]"), "nothing is wrong when it is stopped: {}", script.log());
    assert!(root.connect().is_err(), "a server goes on after the script's end");
}
