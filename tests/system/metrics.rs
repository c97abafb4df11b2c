//! What Prometheus finds: the series that the alert rules and the dashboards for Vault ask for, and the state of audit disks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, repository, run, stock};
use holdfast_tests::tmpfs::Tmpfs;
use holdfast_tests::{Client, Running, Setup, until};
use serde_json::{Value, json};

use crate::alert_rules;
use crate::cluster::nodes::{Audited, Between, Nodes, WITHIN};

/// Names that are about Prometheus itself.
const NOT_OURS: &[&str] = &["up"];
/// What stands before a metric or between two, and is none.
const WORDS: &[&str] =
    &["and", "or", "unless", "by", "without", "on", "ignoring", "bool", "offset", "group_left", "group_right"];

/// Names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut listing = false;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let skipped_to = |open: char, close: char| -> usize {
            assert!(rest.starts_with(open));
            rest.find(close).expect("it is closed") + 1
        };
        match first {
            '{' => rest = &rest[skipped_to('{', '}')..],
            '[' => rest = &rest[skipped_to('[', ']')..],
            '(' if listing => {
                rest = &rest[skipped_to('(', ')')..];
                listing = false;
            }
            _ if length == 0 => rest = &rest[first.len_utf8()..],
            _ => {
                let word = &rest[..length];
                rest = rest[length..].trim_start();
                listing = ["by", "without", "on", "ignoring"].contains(&word);
                let calls = ["(", "by ", "by(", "without ", "without("].iter().any(|next| rest.starts_with(next));
                let is_function = calls && !WORDS.contains(&word);
                if !first.is_ascii_digit() && !is_function && !WORDS.contains(&word) {
                    found.insert(word.to_owned());
                }
            }
        }
    }
    found
}

/// A node with an audit file, one more audit device whose peer is away and which has a spool, and a device for keys.
struct Spooled {
    folder: PathBuf,
}

impl Between for Spooled {
    fn command(&self, n: usize, folder: &Path) -> Command {
        Audited.command(n, folder)
    }

    fn top(&self, n: usize) -> String {
        let (peer, spool) = (self.folder.join("peer"), self.folder.join("spool"));
        let keys = self.folder.join("keys");
        Audited.top(n)
            + &format!(
                "audit \"socket\" \"peer\" {{\n options {{\n address = {peer:?}\n socket_type = \"unix\"\n spool_path = {spool:?}\n }}\n}}\n\
                 device \"software\" \"keys\" {{\n key_file = {keys:?}\n}}\n\
                 confinement {{\n write_paths = [{:?}]\n}}\n",
                self.folder
            )
    }
}

#[test]
fn names_are_found_in_expressions() {
    let found = names(
        "sum by (a, b) (rate(x_total{c=\"d\"}[5m])) / on (e) group_left y:z > 0.5 and time() - t > 1e3 or u == 1",
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["t", "u", "x_total", "y:z"]);
}

fn page(client: &Client) -> String {
    client.get("sys/metrics?format=prometheus").expect(200).text()
}

/// Every name of a page; the parts of a summary are names of their own.
fn present(page: &str) -> BTreeSet<String> {
    let lines = page.lines().filter(|l| !l.starts_with('#'));
    lines.map(|l| l.split(['{', ' ']).next().unwrap_or_default().to_owned()).collect()
}

/// A file of YAML, read by PyYAML.
pub fn yaml(path: &Path) -> Value {
    let mut python = command(stock("python"));
    python.args(["-c", "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)"]).arg(path);
    run(&mut python).json()
}

#[test]
fn every_series_of_the_alert_rules_and_of_the_dashboards_is_there() {
    let spool = tempfile::tempdir().expect("a folder");
    let spooled = Spooled { folder: spool.path().to_owned() };
    let nodes = Nodes::start_with(vec![(free_port(), free_port())], Box::new(spooled));
    let root = nodes.root(0);
    // A plan for backups, something to count, and a request that was refused.
    let plan = json!({"interval": "1h", "retain": 2, "storage_type": "local", "path_prefix": spool.path().join("backups"),
                      "file_prefix": "b", "local_max_space": 100_000_000});
    root.post("sys/storage/raft/snapshot-auto/config/daily", plan).expect(204);
    root.post("sys/mounts/kv", json!({"type": "kv", "options": {"version": "2"}})).expect(204);
    root.post("kv/data/a", json!({"data": {"b": "c"}})).expect(200);
    root.post("identity/entity", json!({"name": "ann"})).expect(200);
    root.post("sys/devices/keys/test", json!({})).expect(200);
    root.post("sys/auth/userpass", json!({"type": "userpass"})).expect(204);
    root.post("auth/userpass/users/ann", json!({"password": "pw"})).expect(204);
    let login = nodes.client(0).post("auth/userpass/login/ann", json!({"password": "pw"})).expect(200);
    nodes.client(0).with_token(&login.text_at("/auth/client_token")).get("sys/mounts").refused(403);
    until(WITHIN, "a count of what there is, and a look at the disk", || {
        let text = page(&root);
        (text.contains("vault_secret_kv_count{namespace=\"root\",mount_point=\"kv/\"} 1")
            && text.contains("vault_token_count_by_auth{namespace=\"root\",auth_method=\"userpass\"} 1")
            && text.contains("holdfast_audit_disk_used_percent{")
            && text.contains("holdfast_backup_last_proven_timestamp_seconds "))
        .then_some(())
    });
    let text = page(&root);
    let mut found = present(&text);
    // The series of a seal's device, where one opens the store.
    let sealed = Running::start(Setup::hardware());
    let of_device = until(WITHIN, "a look at the seal's device", || {
        let page = page(&sealed.root);
        present(&page).contains("holdfast_seal_device_healthy").then_some(page)
    });
    found.extend(present(&of_device));
    // With the labels that the rules are tried with.
    assert_eq!(alert_rules::not_in(&[text.clone(), of_device]), Vec::<&str>::new(), "{text}");

    let rules = yaml(&repository().join("docs/alerts/holdfast.rules.yml"));
    let mut alerts = BTreeSet::new();
    for group in rules["groups"].as_array().expect("groups") {
        assert!(group["name"].is_string());
        for rule in group["rules"].as_array().expect("rules") {
            let name = rule["alert"].as_str().expect("a name");
            assert!(alerts.insert(name.to_owned()), "{name} is there twice");
            assert!(["page", "ticket"].contains(&rule["labels"]["severity"].as_str().expect("a severity")), "{name}");
            assert!(rule["annotations"]["summary"].is_string(), "{name}");
            let used = names(rule["expr"].as_str().expect("an expression"));
            assert!(!used.is_empty(), "{name}");
            for series in used.iter().filter(|n| !NOT_OURS.contains(&n.as_str())) {
                assert!(found.contains(series), "{name} asks for {series}, which is not in {found:#?}");
            }
        }
    }
    assert!(alerts.len() >= 20);

    // The names that the page lists, and those of its table.
    let listed = fs::read_to_string(repository().join("docs/metrics.md")).expect("the page");
    let quoted: BTreeSet<&str> = listed.split('`').skip(1).step_by(2).collect();
    let whole = quoted.iter().map(|n| n.split('{').next().unwrap_or_default());
    let whole: Vec<&str> = whole
        .filter(|n| ["vault_", "holdfast_", "process_"].iter().any(|p| n.starts_with(p)) && !n.contains('='))
        .collect();
    assert!(whole.len() > 50, "{whole:?}");
    for name in whole {
        assert!(found.contains(name), "docs/metrics.md lists {name}");
    }
    for summary in ["vault_core_handle_request", "vault_core_handle_login_request", "vault_audit_log_request"] {
        for part in ["_count", "_sum"] {
            assert!(found.contains(&format!("{summary}{part}")));
        }
    }
    // What is counted is what was done.
    let value = |series: &str| -> f64 {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().expect("a number")
    };
    assert!(value("holdfast_requests_denied") >= 1.0);
    assert!(value("holdfast_audit_device_lines{device=\"main/\",type=\"file\"}") >= 14.0);
    assert!(value("vault_core_handle_request{quantile=\"0.99\"}") > 0.0);
    assert!(value("vault_core_handle_login_request_count") >= 1.0);
    assert_eq!(value("vault_core_active"), 1.0);

    // Each line is one that Prometheus reads, each name is told once what it is, and no series is there twice.
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let told = line.strip_prefix("# TYPE ").map(|l| format!("TYPE {}", l.split(' ').next().unwrap_or_default()));
        let series =
            told.or_else(|| (!line.starts_with('#')).then(|| line.rsplit_once(' ').expect("a value").0.to_owned()));
        assert!(series.is_none_or(|s| seen.insert(s)), "twice: {line}");
        if !line.starts_with('#') {
            let value = line.rsplit_once(' ').expect("a value").1;
            assert!(value == "NaN" || value.parse::<f64>().is_ok(), "{line}");
        }
    }
    // JSON has the labels apart, and no value that is no number.
    let gauges = root.get("sys/metrics").expect(200).json()["Gauges"].as_array().expect("gauges").clone();
    let kv = gauges.iter().find(|g| g["Name"] == "vault_secret_kv_count" && g["Labels"]["mount_point"] == "kv/");
    assert_eq!(kv.expect("a gauge with labels")["Value"], 1.0);
    assert!(gauges.iter().all(|g| g["Value"].is_number() && !g["Name"].as_str().unwrap_or("{").contains('{')));
}

#[test]
fn a_disk_of_the_audit_log_that_fills_up_is_told_by_log_metric_and_health() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Tmpfs::mount(&folder.path().join("disk"), 20);
    let log = disk.path().join("audit.log");
    let running = Running::start(Setup { audit_file: Some(log), ..Setup::shamir().without_tls() });
    let told = || running.root.get("sys/health").expect(200).json()["audit_disk_used_percent"].as_u64();
    let metric = || {
        let text = page(&running.root);
        let line = text.lines().find(|l| l.starts_with("holdfast_audit_disk_used_percent{"))?.to_owned();
        line.rsplit_once(' ')?.1.parse::<u64>().ok()
    };
    until(WITHIN, "a look at the disk", || metric().filter(|used| *used < 50));
    assert_eq!(told(), None, "no client meets a field that it does not know while all is well");
    let ballast = disk.fill(3 << 20);
    running.server.until_logged("the disk of the audit log fills up");
    until(WITHIN, "80 %", || told().filter(|used| (80..95).contains(used)));
    assert!(metric().is_some_and(|used| (80..95).contains(&used)));
    drop(ballast);
    let ballast = disk.fill(500 << 10);
    running.server.until_logged("the disk of the audit log is nearly full");
    until(WITHIN, "95 %", || told().filter(|used| *used >= 95));
    drop(ballast);
    until(WITHIN, "room", || told().is_none().then_some(()));
}
