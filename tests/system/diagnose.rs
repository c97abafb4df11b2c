//! `operator diagnose`: what would keep a server from starting, found before it is started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use holdfast_tests::program::{Output, command, holdfast, run};
use holdfast_tests::token::PIN;
use holdfast_tests::{Running, Setup, Site};
use serde_json::Value;

fn diagnose(site: &Site, args: &[&str]) -> Output {
    let mut cli = command(holdfast());
    cli.args(["operator", "diagnose"]).arg(format!("-config={}", site.config_file().display())).args(args);
    if let Some(token) = &site.token {
        cli.env("SOFTHSM2_CONF", token.conf());
    }
    run(&mut cli)
}

/// All checks of a report: name, status, and what is said.
fn checks(report: &Value) -> Vec<(String, String, String)> {
    let text = |name: &str| match &report[name] {
        Value::String(s) => s.clone(),
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
        _ => String::new(),
    };
    let said = format!("{}{} {}", text("message"), text("warnings"), text("Advice"));
    let mut found = vec![(text("name"), text("status"), said)];
    for child in report["children"].as_array().into_iter().flatten() {
        found.extend(checks(child));
    }
    found
}

#[track_caller]
fn json(output: Output) -> Vec<(String, String, String)> {
    let found: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    checks(&found)
}

#[track_caller]
fn is_told(found: &[(String, String, String)], name: &str, status: &str, word: &str) {
    let is = |c: &&(String, String, String)| c.0 == name && c.1 == status && c.2.contains(word);
    assert!(found.iter().any(|c| is(&c)), "no {status} of {name:?} with {word:?}: {found:#?}");
}

/// What a folder holds: names, lengths, times of change, contents.
fn fingerprint(folder: &Path) -> Vec<(String, Vec<u8>, std::time::SystemTime)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .expect("the store")
        .map(|e| {
            let path = e.expect("an entry").path();
            let modified = path.metadata().and_then(|m| m.modified()).expect("a time");
            (path.display().to_string(), fs::read(&path).unwrap_or_default(), modified)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_good_site_is_found_good_beside_its_server_and_without_one_and_nothing_is_changed() {
    let Running { server, site, .. } = Running::start(Setup::hardware());
    for secret in [site.config_file(), site.folder().join("tls/server.key")] {
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).expect("ours");
    }
    // The server runs: the store is held, the address is in use, the device is asked beside it.
    let beside = diagnose(&site, &["-format=json", "-debug"]);
    assert!([Some(0), Some(2)].contains(&beside.code), "{beside:?}");
    assert!(!beside.stdout.contains(PIN) && !beside.stderr.contains(PIN), "the PIN is shown");
    let found = json(beside);
    is_told(&found, "Check Store Lock", "ok", &format!("process {}", server.pid()));
    is_told(&found, "Seal", "ok", "answers and wraps with CKM_AES_GCM");
    is_told(&found, "Check Listener TLS", "ok", "counts for");
    is_told(&found, "Check Landlock", "ok", "the files that its configuration names");
    assert!(!found.iter().any(|c| c.1 == "fail"), "{found:#?}");
    server.stop();
    let before = fingerprint(&site.store());
    let table = diagnose(&site, &[]);
    assert!(table.stdout.contains("[ success ] Check Seal") && !table.stdout.contains('\x1b'), "{}", table.stdout);
    let found = json(diagnose(&site, &["-format=json"]));
    is_told(&found, "Check Store Lock", "ok", "no server");
    assert_eq!(before, fingerprint(&site.store()), "the store was changed");
    let server = site.start();
    server.until_unsealed();
}

#[test]
fn a_wrong_pin_is_not_tried_and_a_counter_that_has_seen_one_is_told() {
    let site = Site::make(Setup::hardware().with_seal("pin = \"not-the-pin-1\""));
    let token = site.token.as_ref().expect("a token");
    for _ in 0..3 {
        let found = json(diagnose(&site, &["-format=json"]));
        is_told(&found, "Seal", "ok", "answers");
    }
    assert!(!token.has_seen_a_wrong_pin(), "the PIN was sent to the token");
    // A server has tried it.
    let server = site.start();
    let made = server.client().post("sys/init", serde_json::json!({ "recovery_shares": 1, "recovery_threshold": 1 }));
    assert_eq!(made.status, 500, "{}", made.text());
    server.stop();
    assert!(token.has_seen_a_wrong_pin());
    let found = json(diagnose(&site, &["-format=json"]));
    is_told(&found, "Seal", "warn", "a wrong PIN was tried");
    token.pull_out();
    let gone = diagnose(&site, &["-format=json"]);
    assert_eq!(gone.code, Some(1), "{gone:?}");
    is_told(&json(gone), "Seal", "fail", "holdfast");
}

#[test]
fn devices_and_their_keys_are_tried_where_a_login_is_wanted() {
    let site = Site::make(Setup::hardware().with_top(&crate::devices::token_device("main")));
    let token = site.token.as_ref().expect("a token");
    let login = |config: &str| {
        site.write_config(config);
        json(diagnose(&site, &["-format=json", "-debug", "-login"]))
    };
    let config = site.config();
    // The key of the seal is not there yet, and is not made.
    let found = login(&config);
    is_told(&found, "Seal", "ok", "wraps with");
    is_told(&found, "Device \"main\"", "ok", "kinds of keys");
    let tool = |arguments: &[&str]| {
        let mut tool = command("pkcs11-tool");
        tool.arg("--module").arg(holdfast_tests::token::library()).args(["--login", "--pin", PIN]).args(arguments);
        run(tool.args(["--token-label", holdfast_tests::token::LABEL]).env("SOFTHSM2_CONF", token.conf())).good()
    };
    assert!(!tool(&["--list-objects"]).contains("holdfast-root"));
    tool(&["--keygen", "--key-type", "AES:32", "--label", "holdfast-root"]);
    let report: Value =
        serde_json::from_str(&diagnose(&site, &["-format=json", "-debug", "-login"]).stdout).expect("JSON");
    assert!(report.to_string().contains("unwrap: "), "{report:#}");

    // A key that is another, one for audit logs that is missing, a library that is.
    let other = config.replace("key_label = \"holdfast-root\"", "key_label = \"none\"");
    is_told(&login(&other.replace("generate_key = \"true\"", "generate_key = \"false\"")), "Seal", "fail", "key: ");
    let signing = "audit_signing {\n device = \"main\"\n key_label = \"signs\"\n}\n";
    is_told(&login(&format!("{config}{signing}")), "Device \"main\"", "fail", "audit_signing");
    let gone = config.replacen("libsofthsm2.so", "libgone.so", 1);
    let (gone, name) = (json_of(&site, &gone), "the PKCS#11 library");
    assert!(gone.iter().any(|c| c.1 == "fail" && c.2.contains(name)), "{gone:#?}");
    assert!(!token.has_seen_a_wrong_pin());

    // A wrong PIN is tried once, and never again after that.
    let wrong = crate::devices::token_device("main").replace(PIN, "not-the-pin-1");
    let wrong = config.replace(&crate::devices::token_device("main"), &wrong);
    is_told(&login(&wrong), "Device \"main\"", "fail", "PIN");
    assert!(token.has_seen_a_wrong_pin());
    is_told(&login(&wrong), "Device \"main\"", "warn", "a wrong PIN was tried");
    is_told(&login(&config), "Seal", "warn", "a wrong PIN was tried");
}

fn json_of(site: &Site, config: &str) -> Vec<(String, String, String)> {
    site.write_config(config);
    json(diagnose(site, &["-format=json"]))
}

#[test]
fn what_is_wrong_is_told_with_what_to_do() {
    let site = Site::make(Setup::shamir());
    let tls = site.folder().join("tls");
    fs::set_permissions(tls.join("server.key"), fs::Permissions::from_mode(0o644)).expect("ours");
    fs::create_dir(site.store()).expect("a folder");
    fs::set_permissions(site.store(), fs::Permissions::from_mode(0o755)).expect("ours");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    site.write_config(&site.config().replace("127.0.0.1:0", &format!("127.0.0.1:{port}")));
    let wrong = diagnose(&site, &["-format=json"]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    let found = json(wrong);
    is_told(&found, "Private Key", "fail", "everybody may read it");
    is_told(&found, "Check Store Folder", "warn", "too many permissions");
    is_told(&found, "Create Listener", "fail", "is in use");
    // Left out, nothing of it counts.
    let found = json(diagnose(&site, &["-format=json", "-skip=listener", "-skip=storage"]));
    is_told(&found, "Start Listeners", "invalid", "left out");
    is_told(&found, "Check Storage", "invalid", "left out");

    // A key that is another certificate's, and a file that is none.
    site.authority.server("other");
    fs::copy(tls.join("other.key"), tls.join("server.key")).expect("copied");
    is_told(&json(diagnose(&site, &["-format=json"])), "Check Listener TLS", "fail", "server.pem");
    fs::write(tls.join("server.pem"), "nothing").expect("written");
    is_told(&json(diagnose(&site, &["-format=json"])), "Check Listener TLS", "fail", "no PEM certificate");

    // Two seals at once; and a configuration that is none.
    let config = site.config();
    site.write_config(&format!("{config}\nseal \"static\" {{\n disabled = \"true\"\n current_key_id = \"a\"\n current_key = \"{0}\"\n}}\nseal \"static\" {{\n disabled = \"true\"\n current_key_id = \"b\"\n current_key = \"{0}\"\n}}\n", "ab".repeat(32)));
    let two = diagnose(&site, &["-format=json"]);
    assert!(!two.stdout.contains(&"ab".repeat(32)), "the key is shown");
    is_told(&json(two), "Check Seal", "fail", "two seals are disabled");
    site.write_config("listener {");
    let unreadable = diagnose(&site, &["-format=json"]);
    assert_eq!(unreadable.code, Some(4), "{unreadable:?}");
    is_told(&json(unreadable), "Parse Configuration", "fail", "holdfast.hcl");
    assert_eq!(run(command(holdfast()).args(["operator", "diagnose"])).code, Some(3));
    let flag = run(command(holdfast()).args(["operator", "diagnose", "-skip=everything", "-config=x"])).bad(1);
    assert!(flag.contains("listener, storage, autounseal"), "{flag}");
}
