//! `debug`: a bundle that helps to find an error, and that may be given away.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::token::PIN;
use holdfast_tests::{Running, Setup};
use serde_json::{Value, json};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry")) {
        match entry.file_type().expect("a type").is_dir() {
            true => all.extend(files(&entry.path())),
            false => all.push(entry.path()),
        }
    }
    all
}

fn read(folder: &Path, name: &str) -> Value {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}: {text}"))
}

#[test]
fn a_bundle_has_what_was_asked_for_and_no_secret() {
    let Running { server, site, root, keys } = Running::start(Setup::hardware());
    let secret = "do-not-show-this-4711";
    root.post("secret/data/app", json!({ "data": { "k": secret } })).expect(200);
    root.post("sys/auth/userpass", json!({ "type": "userpass" })).expect(204);
    root.post("auth/userpass/users/ann", json!({ "password": "pw-of-ann-0815", "policies": "default" })).expect(204);
    let login = root.post("auth/userpass/login/ann", json!({ "password": "pw-of-ann-0815" })).expect(200);
    let secrets = [
        keys.root_token.clone(),
        keys.shares[0].clone(),
        keys.shares[1].clone(),
        PIN.to_owned(),
        secret.to_owned(),
        "pw-of-ann-0815".to_owned(),
        login.text_at("/auth/client_token"),
    ];
    let output = site.folder().join("bundle");
    // Something happens meanwhile.
    std::thread::scope(|scope| {
        let root = &root;
        scope.spawn(move || {
            for _ in 0..40 {
                root.get("secret/data/app").expect(200);
                root.post("auth/userpass/login/ann", json!({ "password": "pw-of-ann-0815" })).expect(200);
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        });
        let mut debug = site.cli(&holdfast(), &server, &keys.root_token);
        debug.args(["debug", "-duration=5s", "-interval=5s", "-metrics-interval=5s"]);
        let said = run(debug.arg(format!("-output={}", output.display()))).good();
        assert!(said.contains("Success! Bundle written to:"), "{said}");
    });
    let archive = site.folder().join("bundle.tar.gz");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&archive).expect("the archive").permissions());
    assert_eq!(mode & 0o777, 0o600);
    run(command("tar").arg("xzf").arg(&archive).arg("-C").arg(site.folder())).good();

    let index = read(&output, "index.json");
    assert_eq!((&index["duration_seconds"], &index["compress"]), (&json!(5), &json!(true)));
    for name in [
        "config.json",
        "host_info.json",
        "metrics.json",
        "replication_status.json",
        "requests.json",
        "server_status.json",
    ] {
        assert!(index["output"]["files"].as_array().expect("files").contains(&json!(name)), "{name}: {index:#}");
        assert!(!read(&output, name).as_array().expect("a list").is_empty(), "{name}");
    }
    assert_eq!(read(&output, "config.json")[0]["config"]["seals"][0]["type"], "pkcs11");
    assert_eq!(read(&output, "server_status.json")[0]["seal"]["sealed"], false);
    assert!(output.join("holdfast.log").is_file());
    for path in files(&output) {
        let content = fs::read(&path).expect("a file");
        for secret in &secrets {
            let is_there = content.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!is_there, "a secret is in {}", path.display());
        }
    }

    // Nothing is overwritten; a folder instead of an archive; targets; what a weak token may not see is said.
    let again = |args: &[&str], token: &str| {
        let mut debug = site.cli(&holdfast(), &server, token);
        run(debug.args(["debug", "-duration=1s"]).args(args))
    };
    let taken = again(&[&format!("-output={}", output.display())], &keys.root_token).bad(1);
    assert!(taken.contains("already exists"), "{taken}");
    let folder = site.folder().join("plain");
    let output = format!("-output={}", folder.display());
    let weak = login.text_at("/auth/client_token");
    let done = again(&["-compress=false", "-target=host", "-target=server-status", "-target=nosuch", &output], &weak);
    assert!(
        done.stderr.contains("minimum value") && done.stderr.contains("Ignoring invalid targets: nosuch"),
        "{done:?}"
    );
    done.good();
    let index = read(&folder, "index.json");
    assert_eq!(index["targets"], json!(["host", "server-status"]));
    assert_eq!(index["errors"][0]["target"], "host");
    assert!(index["errors"][0]["error"].as_str().expect("a text").contains("permission denied"), "{index:#}");
    assert!(!folder.join("host_info.json").exists() && folder.join("server_status.json").is_file());
    server.stop();
}
