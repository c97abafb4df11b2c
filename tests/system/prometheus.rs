//! Prometheus itself: it takes the alert rules, scrapes servers, and answers the queries of public dashboards for Vault.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, repository, run};
use holdfast_tests::{Client, Running, Setup, until};
use serde_json::{Value, json};

use crate::cluster::nodes::{Audited, Nodes};

const WITHIN: Duration = Duration::from_secs(60);
/// Where Debian has them.
const PROMETHEUS: &str = "/usr/bin/prometheus";
pub const PROMTOOL: &str = "/usr/bin/promtool";

/// A Prometheus that ends with this value.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Prometheus {
    fn start(config: &Path, folder: &Path) -> Prometheus {
        let port = free_port();
        let log = fs::File::create(folder.join("prometheus.log")).expect("a log");
        let mut prometheus = Command::new(PROMETHEUS);
        prometheus.arg(format!("--config.file={}", config.display()));
        prometheus.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
        prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        prometheus.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = prometheus.spawn().unwrap_or_else(|e| panic!("{PROMETHEUS}: {e}: `make setup` installs it"));
        Prometheus { child, port }
    }

    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(WITHIN)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// What an expression is now.
    fn query(&self, expression: &str) -> Vec<Value> {
        let escaped: String = expression.bytes().map(|b| format!("%{b:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={escaped}")).unwrap_or_default();
        assert_ne!(answer["status"], "error", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

/// The names of Vault that docs/metrics.md lists.
fn names_of_vault() -> BTreeSet<String> {
    let page = fs::read_to_string(repository().join("docs/metrics.md")).expect("the page");
    let (_, section) = page.split_once("## Names of Vault").expect("its section");
    let quoted = section.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.starts_with("vault_")).map(str::to_owned).collect()
}

/// Something of everything that is counted.
fn use_everything(root: &Client, anybody: &Client) {
    root.post("identity/entity", json!({"name": "ann"})).expect(200);
    root.post("sys/auth/userpass", json!({"type": "userpass"})).expect(204);
    root.post("auth/userpass/users/ann", json!({"password": "pw"})).expect(204);
    let login = anybody.post("auth/userpass/login/ann", json!({"password": "pw"})).expect(200);
    anybody.with_token(&login.text_at("/auth/client_token")).get("sys/mounts").refused(403);
}

/// A token that may read metrics and nothing else, in a file.
fn scraper(root: &Client, file: &Path) {
    let policy = "path \"sys/metrics\" { capabilities = [\"read\"] }";
    root.post("sys/policies/acl/prometheus", json!({ "policy": policy })).expect(204);
    let made = root.post("auth/token/create", json!({"policies": ["prometheus"], "no_default_policy": true}));
    fs::write(file, made.expect(200).text_at("/auth/client_token")).expect("a file");
}

/// What the panels of the dashboard 12904 ask for.
const ASKED_BY_12904: [&str; 25] = [
    "max(1 + vault_core_unsealed{})",
    "avg(vault_token_count)",
    "avg(vault_identity_num_entities)",
    "avg(vault_expire_num_leases)",
    "avg(vault_token_create_count - vault_token_store_count)",
    "avg without(instance) (vault_token_count_by_policy)",
    "avg without(instance) (vault_token_count_by_ttl)",
    "avg by(auth_method, creation_ttl) (vault_token_creation)",
    "avg without(instance) (vault_token_create_count)",
    "avg without(instance) (vault_token_store_count)",
    "avg without(instance) (vault_token_count_by_auth)",
    "avg(irate(vault_policy_get_policy_count[1m]))",
    "avg(irate(vault_token_lookup_count[1m]))",
    "avg(vault_runtime_heap_objects{} / vault_runtime_malloc_count{})",
    "avg(vault_runtime_num_goroutines{})",
    "avg(vault_runtime_alloc_bytes{})",
    "max(idelta(vault_audit_log_request_failure[1m]))",
    "avg(irate(vault_audit_log_request_count[1m]))",
    "avg(irate(vault_audit_log_response_count[1m]))",
    "avg(irate(vault_core_handle_request_count[1m]))",
    "avg(irate(vault_consul_get_count[1m]))",
    "avg(irate(vault_consul_put_count[1m]))",
    "avg(irate(vault_consul_delete_count[1m]))",
    "max(idelta(vault_audit_log_response_failure[1m]))",
    "avg(irate(vault_policy_set_policy_count[1m]))",
];

#[test]
fn prometheus_takes_the_rules_scrapes_with_a_token_over_tls_and_answers_dashboards() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = repository().join("docs/alerts/holdfast.rules.yml");
    run(command(PROMTOOL).args(["check", "rules"]).arg(&rules)).good();

    let running = Running::start(Setup::shamir());
    let port = free_port();
    let nodes = Nodes::start_with(vec![(port, free_port())], Box::new(Audited));
    let (token, of_cluster) = (folder.path().join("token"), folder.path().join("token-of-cluster"));
    scraper(&running.root, &token);
    scraper(&nodes.root(0), &of_cluster);
    nodes.root(0).post("sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}})).expect(204);
    use_everything(&running.root, &running.server.client());
    use_everything(&nodes.root(0), &nodes.client(0));

    let address = |url: &str| url.split("//").nth(1).unwrap_or_default().to_owned();
    let job = |name: &str, scheme: &str, token: &Path, target: &str, tls: &str| {
        format!(
            "  - job_name: {name}\n    scheme: {scheme}\n    metrics_path: /v1/sys/metrics\n    params: {{ format: [prometheus] }}\n    \
             authorization: {{ credentials_file: {token:?} }}\n{tls}    static_configs: [{{ targets: [{target:?}] }}]\n"
        )
    };
    let tls = format!("    tls_config: {{ ca_file: {:?} }}\n", running.site.authority.ca());
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\nscrape_configs:\n{}{}",
        job("holdfast", "https", &token, &address(&running.server.url()), &tls),
        job("cluster", "http", &of_cluster, &format!("127.0.0.1:{port}"), ""),
    );
    let file = folder.path().join("prometheus.yml");
    fs::write(&file, config).expect("a file");
    run(command(PROMTOOL).args(["check", "config"]).arg(&file)).good();
    let prometheus = Prometheus::start(&file, folder.path());

    until(WITHIN, "both targets to be up", || {
        let up = prometheus.query("up == 1");
        (up.len() == 2).then_some(())
    });
    // Every name that a dashboard for Vault asks for finds a series, and a rate of it can be told.
    let names = names_of_vault();
    assert!(names.len() > 25, "{names:?}");
    until(WITHIN, "all series, and two samples of each", || {
        let is_missing = |name: &&String| prometheus.query(&format!("count_over_time({name}[1m]) > 1")).is_empty();
        let missing: Vec<&String> = names.iter().filter(is_missing).collect();
        missing.is_empty().then_some(())
    });
    let value = |expression: &str| -> f64 {
        let found = prometheus.query(expression);
        let text = found.first().and_then(|series| series["value"][1].as_str());
        text.unwrap_or_else(|| panic!("{expression} finds nothing")).parse().expect("a number")
    };
    assert_eq!(value("vault_core_unsealed{job=\"holdfast\"}"), 1.0);
    assert_eq!(value("sum(vault_core_active)"), 2.0);
    // All that the dashboard 12904 asks for; what finds nothing is told, with the reason, in docs/metrics.md.
    let page = fs::read_to_string(repository().join("docs/metrics.md")).expect("the page");
    let (_, exceptions) = page.split_once("Without data in 12904").expect("its exceptions");
    let exceptions = exceptions.split("\n\n").next().expect("a paragraph");
    for asked in ASKED_BY_12904 {
        let finds = !prometheus.query(asked).is_empty();
        let name = asked.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).find(|w| w.starts_with("vault_"));
        let is_told = exceptions.contains(name.expect("a name"));
        assert!(finds != is_told, "{asked}: finds a series: {finds}, is told as without data: {is_told}");
    }
    for asked in [
        "sum(vault_secret_kv_count) by (mount_point)",
        "irate(vault_core_handle_login_request_count[1m])",
        "rate(vault_core_handle_request_sum[1m]) / rate(vault_core_handle_request_count[1m])",
        "avg(vault_core_handle_request{quantile=\"0.99\"}) by (instance)",
    ] {
        assert!(!prometheus.query(asked).is_empty(), "{asked} finds nothing");
    }

    // Each rule is evaluated without an error, and of a server that is well none pages.
    let groups = until(WITHIN, "an evaluation of all rules", || {
        let groups = prometheus.get("/api/v1/rules")?["data"]["groups"].as_array()?.clone();
        let rules = groups.iter().flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default());
        rules.clone().all(|r| r["health"] != "unknown").then(|| rules.collect::<Vec<_>>())
    });
    assert!(groups.len() >= 20, "{}", groups.len());
    for rule in &groups {
        assert_eq!(rule["health"], "ok", "{rule}");
        let fires = rule["labels"]["severity"] == "page" && rule["state"] == "firing";
        assert!(!fires, "{rule}");
    }
    running.root.post("sys/seal", json!({})).expect(204);
    // Whose token can be judged no longer.
    until(WITHIN, "the alert of a server that does not answer", || {
        let pending = prometheus.query("ALERTS{alertname=\"HoldfastDown\"}");
        (!pending.is_empty()).then_some(())
    });
}
