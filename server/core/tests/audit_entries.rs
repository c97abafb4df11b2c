//! What single members of audit lines tell, as processors of Vault's lines know them.

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_core::audit::DeviceConfig;
use holdfast_core::clock::SystemClocks;
use holdfast_core::{EngineTable, MountEntry, random};
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Backend, Map, Operation, Presented, Request, Value};
use holdfast_storage::Store;
use holdfast_userpass::Userpass;
use serde_json::json;
use support::{Server, core};

fn userpass(_: &MountEntry) -> Result<Arc<dyn Backend>, String> {
    Ok(Arc::new(Userpass::default()))
}

const ENGINES: EngineTable =
    EngineTable { secrets: &[("kv", support::kv)], auth: &[("userpass", userpass)], databases: &[] };

struct Site {
    folder: tempfile::TempDir,
    server: Server,
}

impl Site {
    async fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let audit = vec![DeviceConfig::file("file/", &folder.path().join("audit.log"))];
        let store = Store::open_on(None, 1 << 20).unwrap();
        let server = Server::initialise(core(store, ENGINES, Arc::new(SystemClocks), audit)).await;
        Site { folder, server }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// Ask for a path, and both lines of that.
    async fn lines_of(&self, operation: Operation, path: &str, change: impl FnOnce(&mut Request)) -> [Value; 2] {
        let mut request = Request {
            id: random::uuid_text(&random::uuid().unwrap()),
            operation,
            path: path.into(),
            data: Map::new(),
            token: Some(Secret::new(self.server.root.clone())),
            namespace: String::new(),
            wrap_ttl: None,
            remote: None,
            headers: Vec::new(),
            merge_patch: false,
            policy_override: false,
            forwarded_from: None,
            client_certificate_serial: None,
            presented: Presented::default(),
        };
        change(&mut request);
        let id = request.id.clone();
        let answer = self.server.core.handle(request).await;
        assert!(answer.status < 300, "{} {}", answer.status, String::from_utf8_lossy(&answer.body));
        let text = std::fs::read_to_string(self.file()).unwrap();
        let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
        let lines: Vec<Value> = lines.filter(|l: &Value| l["request"]["id"] == *id).collect();
        let lines: [Value; 2] = lines.try_into().unwrap_or_else(|l| panic!("two lines of {path}, not {l:#?}"));
        assert_eq!((&lines[0]["type"], &lines[1]["type"]), (&json!("request"), &json!("response")));
        lines
    }
}

/// A read that is answered at once, and a request that changes something.
const BOTH_WAYS: [(Operation, &str); 2] =
    [(Operation::Read, "auth/token/lookup-self"), (Operation::Update, "auth/token/create")];

#[tokio::test]
async fn a_client_that_asks_to_override_policies_is_told_of_in_both_lines() {
    let site = Site::new().await;
    for (operation, path) in BOTH_WAYS {
        for line in site.lines_of(operation, path, |r| r.policy_override = true).await {
            assert_eq!(line["request"]["policy_override"], true, "{line}");
        }
        for line in site.lines_of(operation, path, |_| {}).await {
            assert!(line["request"].get("policy_override").is_none(), "{line}");
        }
    }
}

#[tokio::test]
async fn a_request_that_a_member_passed_on_says_from_where() {
    let site = Site::new().await;
    for (operation, path) in BOTH_WAYS {
        let [asked, answered] =
            site.lines_of(operation, path, |r| r.forwarded_from = Some("10.0.0.2:8201".into())).await;
        assert_eq!((&asked["forwarded_from"], asked.get("forwarded")), (&json!("10.0.0.2:8201"), None), "{asked}");
        assert_eq!((answered.get("forwarded_from"), &answered["forwarded"]), (None, &json!(true)), "{answered}");
        for line in site.lines_of(operation, path, |_| {}).await {
            assert!(line.get("forwarded_from").is_none() && line.get("forwarded").is_none(), "{line}");
        }
    }
}

#[tokio::test]
async fn a_login_without_the_default_policy_says_so_and_a_new_entity_is_told_once() {
    let site = Site::new().await;
    site.server.write("sys/auth/up", json!({"type": "userpass"})).await.expect(204);
    let login = |name: &'static str| {
        let path = format!("auth/up/login/{name}");
        let site = &site;
        async move {
            let change = |r: &mut Request| {
                r.token = None;
                r.data.insert("password".into(), "pw".into());
            };
            site.lines_of(Operation::Update, &path, change).await
        }
    };
    for (name, without) in [("ann", true), ("bob", false)] {
        let user = json!({"password": "pw", "token_no_default_policy": without, "token_policies": "x"});
        site.server.write(&format!("auth/up/users/{name}"), user).await.expect(204);
        let [asked, answered] = login(name).await;
        let told = |auth: &Value| auth.get("no_default_policy").cloned();
        let expected = without.then_some(json!(true));
        assert_eq!(told(&asked["auth"]), None, "nobody has logged in yet: {asked}");
        assert_eq!(told(&answered["auth"]), expected, "{answered}");
        assert_eq!(told(&answered["response"]["auth"]), expected, "{answered}");
        assert_eq!(answered["auth"]["entity_created"], true, "{answered}");
        assert!(answered["response"]["auth"].get("entity_created").is_none(), "{answered}");
    }
}

#[tokio::test]
async fn nobody_has_policies_of_a_foreign_namespace_so_no_line_tells_of_them() {
    let site = Site::new().await;
    site.server.write("sys/namespaces/n", json!({})).await.expect(200);
    site.server
        .write("n/sys/policies/acl/p", json!({"policy": "path \"*\" { capabilities = [\"read\"] }"}))
        .await
        .expect(204);
    let entity = site.server.write("identity/entity", json!({"name": "e"})).await.expect(200)["data"]["id"].clone();
    let group = json!({"name": "g", "policies": "p", "member_entity_ids": [entity]});
    let refused = site.server.write("n/identity/group", group).await;
    assert!(refused.status >= 400, "a member of another namespace: {}", refused.body);
    for line in site.lines_of(Operation::Read, "n/auth/token/lookup-self", |_| {}).await {
        assert!(line["auth"].get("external_namespace_policies").is_none(), "{line}");
    }
}
