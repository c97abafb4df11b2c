//! Configurations that are good, odd, and wrong.

use std::fs;

use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Running, Setup, Site};
use serde_json::{Value, json};

fn shamir() -> Setup {
    Setup::shamir().without_tls().without_audit()
}

/// What a server says that does not start with this configuration.
fn refused(text: &str) -> String {
    let site = Site::make(shamir());
    site.write_config(text);
    let said = site.start_in_vain();
    said.replace(&site.config_file().display().to_string(), "FILE")
}

#[test]
fn a_typo_is_refused_with_its_file_and_line() {
    let said = refused("listener \"tcp\" {\n  address = 127.0.0.1:8200\n}\n");
    assert!(said.contains("FILE:2:"), "{said}");
    let said = refused("storage \"inmem\" {}\nlistener \"tcp\" {\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n");
    assert!(said.contains("FILE:") && !said.contains("panicked"), "an unclosed brace: {said}");
}

#[test]
fn a_wrong_value_is_refused_with_its_file_and_line() {
    let head = "storage \"inmem\" {}\nlistener \"tcp\" {\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n";
    let said = refused(&format!("{head}  http_read_timeout = \"soon\"\n}}\n"));
    assert!(said.contains("FILE:5:") && said.contains("http_read_timeout") && said.contains("soon"), "{said}");
    let said = refused(&format!("{head}  tls_min_version = \"tls10\"\n}}\n"));
    assert!(said.contains("FILE:5:") && said.contains("tls12, tls13"), "{said}");
    let said = refused("storage \"inmem\" {}\nlistener \"tcp\" {\n  address = \"127.0.0.1:0\"\n}\n");
    assert!(said.contains("FILE:2:") && said.contains("tls_cert_file"), "TLS without a certificate: {said}");
    let said = refused(&format!("{head}}}\nmax_entry_size = -1\n"));
    assert!(said.contains("FILE:6:"), "{said}");
}

#[test]
fn foreign_seals_and_storages_are_refused_by_name_with_those_that_exist() {
    let head = "listener \"tcp\" {\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n}\n";
    let said = refused(&format!("{head}storage \"inmem\" {{}}\nseal \"awskms\" {{\n  region = \"x\"\n}}\n"));
    assert!(said.contains("FILE:6:") && said.contains("\"awskms\" is not offered"), "{said}");
    assert!(said.contains("pkcs11") && said.contains("shamir"), "{said}");
    let said = refused(&format!("{head}storage \"consul\" {{\n  address = \"x\"\n}}\n"));
    assert!(said.contains("FILE:5:") && said.contains("\"consul\" is not offered"), "{said}");
    assert!(said.contains("inmem") && said.contains("file"), "{said}");
}

#[test]
fn an_unknown_key_is_warned_of_with_its_place_and_the_key_that_may_be_meant() {
    let site = Site::make(shamir().with_listener("http_read_timeut = \"30s\"").with_top("zeal = true"));
    let server = site.start();
    server.until_logged("unknown key zeal");
    let log = server.log();
    let line = log.lines().find(|l| l.contains("http_read_timeut")).expect("a warning");
    assert!(line.contains("holdfast.hcl:4:") && line.contains("is http_read_timeout meant?"), "{line}");
    server.client().get("sys/health").expect(501);
}

#[test]
fn a_missing_file_or_folder_is_named() {
    let site = Site::make(shamir());
    fs::remove_file(site.config_file()).expect("it");
    let said = site.start_in_vain();
    assert!(said.contains("holdfast.hcl") && said.contains("-config"), "{said}");
    let site = Site::make(Setup::shamir());
    fs::remove_file(site.folder().join("tls/server.pem")).expect("it");
    assert!(site.start_in_vain().contains("tls/server.pem"));
}

#[test]
fn json_and_a_folder_of_files_are_read_too() {
    let site = Site::make(shamir());
    let folder = site.folder().join("conf.d");
    fs::create_dir(&folder).expect("a folder");
    let json = json!({ "storage": { "file": { "path": site.store() } }, "cluster_name": "from-json" });
    fs::write(folder.join("1.json"), json.to_string()).expect("a file");
    let listener = "listener \"tcp\" {\n  address = \"127.0.0.1:0\"\n  tls_disable = true\n}\n";
    fs::write(folder.join("2.hcl"), listener).expect("a file");
    fs::write(folder.join("ignored.txt"), "{{{").expect("a file");
    let mut command = site.server_command();
    let mut with_folder = holdfast_tests::program::command(command.get_program());
    command = {
        with_folder.arg("server").arg("-config").arg(&folder).env("HOME", site.folder());
        with_folder
    };
    let server = holdfast_tests::Server::start(&mut command, site.folder(), 1, None);
    let keys = site.initialise(&server.client());
    for share in &keys.shares[..2] {
        server.client().post("sys/unseal", json!({ "key": share })).expect(200);
    }
    assert_eq!(server.client().get("sys/health").expect(200).text_at("/cluster_name"), "from-json");
}

#[test]
fn a_taken_port_is_said_in_one_line() {
    let site = Site::make(shamir());
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("its address").to_string();
    site.write_config(&site.config().replace("127.0.0.1:0", &taken));
    let said = site.start_in_vain();
    assert!(said.contains(&format!("cannot listen on {taken}")), "{said}");
}

#[test]
fn the_keys_of_the_top_level_have_their_effect() {
    let top =
        "cluster_name = \"holdfast-main\"\ndefault_lease_ttl = \"2h\"\nmax_lease_ttl = \"4h\"\nlog_format = \"json\"\n";
    let setup = shamir().with_top(top);
    let running = {
        let site = Site::make(setup.clone());
        let pid_file = site.folder().join("holdfast.pid");
        site.write_config(&format!("{}pid_file = \"{}\"\n", site.config(), pid_file.display()));
        // With a log in JSON the listeners are read out of it too.
        let mut server = holdfast_tests::Server::launch(&mut site.server_command(), site.folder(), None);
        holdfast_tests::until(std::time::Duration::from_secs(20), "the pid file", || {
            assert!(server.is_alive(), "{}", server.log());
            fs::read_to_string(&pid_file).ok().filter(|t| t.trim() == server.pid().to_string())
        });
        server.until_logged("listening");
        for line in server.log().lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(line["@timestamp"].is_string() && line["@level"].is_string(), "{line}");
        }
        let log = server.log();
        server.stop();
        assert!(!pid_file.exists(), "the pid file stays");
        assert!(log.contains("127.0.0.1:"), "{log}");
        Running::start(Setup { top: top.replace("log_format = \"json\"\n", ""), ..setup })
    };
    assert_eq!(running.root.get("sys/health").expect(200).text_at("/cluster_name"), "holdfast-main");
    let made = running.root.post("auth/token/create", json!({ "policies": ["default"] })).expect(200);
    assert_eq!(made.at("/auth/lease_duration"), 7200);
    let made = running.root.post("auth/token/create", json!({ "policies": ["default"], "ttl": "10h" })).expect(200);
    assert_eq!(made.at("/auth/lease_duration"), 14_400, "more than max_lease_ttl");
}

#[test]
fn version_and_help_need_no_configuration() {
    let mut version = holdfast_tests::program::command(holdfast_tests::program::holdfast());
    assert!(run(version.arg("version")).good().contains("0.1.0"));
    let mut help = holdfast_tests::program::command(holdfast_tests::program::holdfast());
    assert!(run(help.args(["server", "-h"])).good().contains("-dev-root-token-id"));
    let mut nothing = holdfast_tests::program::command(holdfast_tests::program::holdfast());
    assert!(run(nothing.arg("server")).bad(1).contains("-config"));
}

#[test]
fn a_configuration_can_be_checked_without_a_start() {
    let site = Site::make(shamir());
    let file = format!("-config={}", site.config_file().display());
    let check = |args: &[&str]| run(command(holdfast()).args(["operator", "validate-config"]).args(args));
    assert!(check(&[&file]).good().starts_with("Success!"));
    assert_eq!(check(&["-format=json", &file]).json(), json!({ "valid": true, "error": null, "warnings": [] }));
    site.write_config(&format!("{}\nno_such_key = 1\n", site.config()));
    let said = check(&[&file]);
    assert!(said.stderr.contains("no_such_key"), "{said:?}");
    said.good();
    site.write_config("listener \"tcp\" {\n  address = 127.0.0.1:8200\n}\n");
    let said = check(&[&file]).bad(1);
    assert!(said.contains("holdfast.hcl:2:") && said == site.start_in_vain(), "{said}");
    assert!(check(&["-config=/absent"]).bad(1).contains("/absent"));
    check(&[]).bad(3);
    check(&["-format=xml", &file]).bad(1);
    check(&["-nosuch=1"]).bad(1);
    assert!(check(&["-h"]).good().contains("-config"));
}
