//! Every route of the server's own OpenAPI document leaves one line before it is handled and one before it is answered, but
//! for those that docs/audit.md names; and while no device takes lines, none does anything.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::audit::DeviceConfig;
use holdfast_core::bare::BareRequest;
use holdfast_core::{EngineTable, OldRoutes, random};
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Map, Operation, Presented, Request, Value};
use holdfast_storage::Store;
use serde_json::json;
use support::by_hand::ByHand;
use support::{Server, core};

const OPERATIONS: [Operation; 6] =
    [Operation::Read, Operation::Update, Operation::Patch, Operation::Delete, Operation::List, Operation::Scan];

/// They answer in every state, also while there are no keys that a line could be hashed by. docs/audit.md names each.
const WITHOUT_LINES: [&str; 7] = [
    "sys/health",
    "sys/init",
    "sys/leader",
    "sys/seal-status",
    "sys/unseal",
    "sys/unseal/custodians",
    "sys/unseal/custodians/sign",
];

struct Site {
    folder: tempfile::TempDir,
    server: Server,
}

impl Site {
    async fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_on(None, 1 << 20).unwrap();
        let audit = vec![DeviceConfig::file("file/", &folder.path().join("audit.log"))];
        let engines = EngineTable { secrets: &[("kv", support::kv)], auth: &[], databases: &[] };
        let core = core(store, engines, Arc::new(ByHand::default()), audit);
        let site = Site { folder, server: Server::initialise(core).await };
        site.server.write("sys/mounts/one", json!({"type": "kv"})).await.expect(204);
        site.server.write("sys/mounts/two", json!({"type": "kv-v2"})).await.expect(204);
        site
    }

    /// Paths of all routes.
    async fn routes(&self) -> Vec<String> {
        let document = self.server.read("sys/internal/specs/openapi").await.expect(200);
        let paths = document["paths"].as_object().unwrap();
        let paths: Vec<String> =
            paths.keys().map(|path| path.trim_start_matches('/').replace(['{', '}'], "")).collect();
        for path in WITHOUT_LINES {
            assert!(paths.iter().any(|p| p == path), "{path} is no route");
        }
        assert!(paths.len() > 60, "only {} routes are declared", paths.len());
        paths
    }

    /// The request's id, and the answer's status.
    async fn ask(&self, token: &str, operation: Operation, path: &str) -> (String, u16) {
        let id = random::uuid_text(&random::uuid().unwrap());
        let mut data = Map::new();
        if path == "sys/pprof/profile" {
            data.insert("seconds".into(), "1".into());
        }
        let request = Request {
            id: id.clone(),
            operation,
            path: path.into(),
            data,
            token: (!token.is_empty()).then(|| Secret::new(token.to_owned())),
            namespace: String::new(),
            wrap_ttl: None,
            remote: None,
            headers: Vec::new(),
            merge_patch: operation == Operation::Patch,
            policy_override: false,
            forwarded_from: None,
            client_certificate_serial: None,
            presented: Presented::default(),
        };
        (id, self.server.core.handle(request).await.status)
    }

    /// The last commit.
    fn last_index(&self) -> u64 {
        self.server.core.metrics_now().applied_index
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Wait until the server has nothing left to write by itself.
    async fn until_quiet(&self) {
        let mut before = self.last_index();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let now = self.last_index();
            if now == before {
                return;
            }
            before = now;
        }
        panic!("the server writes and writes");
    }
}

/// It ends the server, or this test.
fn ends_the_server(path: &str) -> bool {
    matches!(path, "sys/seal" | "sys/step-down")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_leaves_a_line_before_and_one_after_but_for_those_that_the_docs_name() {
    let site = Site::new().await;
    let mut asked: BTreeMap<String, String> = BTreeMap::new();
    for path in site.routes().await {
        if WITHOUT_LINES.contains(&&*path) {
            continue;
        }
        for operation in OPERATIONS {
            let what = format!("{} {path}", operation.word());
            asked.insert(site.ask("", operation, &path).await.0, format!("{what} without a token"));
            if ends_the_server(&path) {
                continue;
            }
            // Some end their token.
            let root = site.server.token(&site.server.root, "auth/token/create-orphan", json!({})).await;
            let (id, status) = site.ask(&root, operation, &path).await;
            asked.insert(id, format!("{what} as root: {status}"));
        }
    }
    // What answers in every state leaves nothing.
    let before = site.lines().len();
    for path in WITHOUT_LINES {
        for method in ["GET", "PUT", "DELETE"] {
            let request = BareRequest { method, path, query: &[], body: b"{}", old_routes: OldRoutes::default() };
            let answer = site.server.core.bare(&request).await;
            assert!(answer.is_some_and(|a| a.status != 500), "{method} {path}");
        }
    }
    let lines = site.lines();
    let of_requests = |l: &&Value| l["actor"].is_null() && l["type"] != "checkpoint";
    assert_eq!(lines[before..].iter().filter(of_requests).count(), 0, "{:#?}", &lines[before..]);
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/audit.md")).unwrap();
    for path in WITHOUT_LINES {
        assert!(docs.contains(&format!("`{path}`")), "docs/audit.md says nothing of {path}");
    }

    let mut left: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in &lines {
        let key = (line["request"]["id"].as_str().unwrap_or_default(), line["type"].as_str().unwrap());
        *left.entry(key).or_default() += 1;
    }
    let wrong: Vec<&String> = asked
        .iter()
        .filter(|(id, _)| ["request", "response"].iter().any(|kind| left.get(&(id.as_str(), *kind)) != Some(&1)))
        .map(|(_, what)| what)
        .collect();
    assert!(wrong.is_empty(), "without their lines: {wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_does_anything_while_no_device_takes_its_line() {
    let site = Site::new().await;
    let routes = site.routes().await;
    site.server.core.declare_audit(vec![DeviceConfig::file("file/", Path::new("/dev/full"))]).await;
    site.until_quiet().await;
    let before = site.last_index();
    for path in routes.iter().filter(|path| !WITHOUT_LINES.contains(&path.as_str())) {
        for operation in OPERATIONS {
            for token in ["", &site.server.root] {
                let (_, status) = site.ask(token, operation, path).await;
                let whose = if token.is_empty() { "nobody" } else { "root" };
                assert_eq!(status, 500, "{} {path} by {whose}", operation.word());
            }
        }
        assert_eq!(site.last_index(), before, "{path} changed something");
    }
    assert!(site.server.core.is_unsealed(), "sys/seal was refused as well");
}
