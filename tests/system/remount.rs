//! A mount that gets another path.

use holdfast_tests::{Server, until};
use serde_json::json;

/// As in the reference: tokens name the path they come from, and end when that is no more.
#[test]
fn the_tokens_of_an_auth_mount_that_is_moved_end_and_new_logins_are_good() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::dev(folder.path());
    let root = server.client().with_token("root");
    for (kind, path) in [("service", "u"), ("batch", "b"), ("service", "stays")] {
        root.post(&format!("sys/auth/{path}"), json!({ "type": "userpass" })).expect(204);
        let user = json!({ "password": "pw", "token_type": kind, "token_policies": ["maker"] });
        root.post(&format!("auth/{path}/users/ann"), user).expect(204);
    }
    let rules = r#"path "auth/token/create" { capabilities = ["update", "sudo"] }"#;
    root.post("sys/policies/acl/maker", json!({ "policy": rules })).expect(204);
    let login = |path: &str| {
        let answer = server.client().post(&format!("auth/{path}/login/ann"), json!({ "password": "pw" }));
        answer.expect(200).text_at("/auth/client_token")
    };
    let by = |token: &str, body| root.with_token(token).post("auth/token/create", body).expect(200);
    let is_good = |token: &str| match root.with_token(token).get("auth/token/lookup-self").status {
        200 => true,
        403 => false,
        other => panic!("{other}"),
    };

    let (service, batch, stays) = (login("u"), login("b"), login("stays"));
    let child = by(&service, json!({})).text_at("/auth/client_token");
    let orphan = by(&service, json!({ "no_parent": true })).text_at("/auth/client_token");
    let all = [&service, &batch, &stays, &child, &orphan];
    assert!(all.iter().all(|t| is_good(t)));
    let accessor = root.post("auth/token/lookup", json!({ "token": service })).expect(200).text_at("/data/accessor");

    root.post("sys/remount", json!({ "from": "auth/u", "to": "auth/v" })).expect(200);
    root.post("sys/remount", json!({ "from": "auth/b", "to": "auth/deep/b" })).expect(200);
    assert_eq!(all.map(|t| is_good(t)), [false, false, true, false, true]);
    let (service, batch) = (login("v"), login("deep/b"));
    assert!(is_good(&service) && is_good(&batch));

    // What is stored of the old ones goes too.
    until(std::time::Duration::from_secs(10), "the end of the old token's record", || {
        let listed = root.list("auth/token/accessors").expect(200);
        (!listed.text().contains(&accessor)).then_some(())
    });
    assert!(is_good(&service) && is_good(&batch) && is_good(&stays));

    // Moved back, it is not what it was.
    root.post("sys/remount", json!({ "from": "auth/v", "to": "auth/u" })).expect(200);
    assert!(!is_good(&service));
    assert!(is_good(&login("u")));
}
