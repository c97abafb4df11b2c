//! A mount that gets another path.

use holdfast_tests::{Running, Server, Setup, until};
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

/// Wait for the end of a move.
#[track_caller]
fn until_moved(root: &holdfast_tests::Client, begun: &holdfast_tests::Reply) {
    let status = format!("sys/remount/status/{}", begun.text_at("/data/migration_id"));
    until(LONG, "the end of a move", || {
        let info = root.try_call("GET", &status, None).ok()?.json();
        (info["data"]["migration_info"]["status"] == "success").then_some(())
    });
}

/// A loaded machine may take this.
const LONG: std::time::Duration = std::time::Duration::from_secs(180);

#[test]
fn a_move_to_another_namespace_outlives_kill_9_at_any_point() {
    let mut running = Running::start(Setup::shamir().without_tls());
    for namespace in ["one", "two"] {
        running.root.post(&format!("sys/namespaces/{namespace}"), json!({})).expect(200);
    }
    running.root.post("one/sys/mounts/kv", json!({ "type": "kv", "options": { "version": "2" } })).expect(204);
    let names: Vec<String> = (0..600).map(|n| format!("f{}/n{n}", n % 9)).collect();
    let filler = "x".repeat(2000);
    for name in &names {
        running
            .root
            .post(&format!("one/kv/data/{name}"), json!({ "data": { "of": name, "filler": filler } }))
            .expect(200);
    }
    let (mut from, mut to) = ("one/kv", "two/deep/kv");
    // Forth and back, killed sooner or later.
    for pause_ms in [0, 40, 120, 250, 500] {
        let begun = running.root.post("sys/remount", json!({ "from": from, "to": to })).expect(200);
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        let status = format!("sys/remount/status/{}", begun.text_at("/data/migration_id"));
        let before = running.root.get(&status).expect(200).text_at("/data/migration_info/status");
        println!("killed after {pause_ms} ms: {before}");
        running = running.restart(holdfast_tests::Server::kill);
        until_moved(&running.root, &begun);
        for name in &names {
            let read = running.root.get(&format!("{}/data/{name}", to)).expect(200);
            assert_eq!(read.at("/data/data/of"), *name);
        }
        running.root.get(&format!("{from}/data/{}", names[0])).refused(404);
        until(LONG, "the end of what was left", || {
            let jobs = running.root.get("sys/jobs").expect(200).json();
            jobs["data"]["jobs"].as_array().is_some_and(Vec::is_empty).then_some(())
        });
        (from, to) = (to, from);
    }
}

#[test]
fn an_approle_works_with_the_same_ids_in_another_namespace() {
    let running = Running::start(Setup::shamir().without_tls());
    let root = &running.root;
    for namespace in ["one", "two"] {
        root.post(&format!("sys/namespaces/{namespace}"), json!({})).expect(200);
    }
    root.post("one/sys/auth/approle", json!({ "type": "approle" })).expect(204);
    root.post("one/auth/approle/role/app", json!({ "token_policies": "default", "secret_id_ttl": "1h" })).expect(204);
    let role_id = root.get("one/auth/approle/role/app/role-id").expect(200).text_at("/data/role_id");
    let made: Vec<_> = (0..300)
        .map(|_| root.post("one/auth/approle/role/app/secret-id", json!({})).expect(200))
        .map(|r| (r.text_at("/data/secret_id"), r.text_at("/data/secret_id_accessor")))
        .collect();
    let login = |path: &str, secret_id: &str| {
        let ids = json!({ "role_id": role_id, "secret_id": secret_id });
        root.without_token().post(&format!("{path}/login"), ids)
    };
    let old = login("one/auth/approle", &made[0].0).expect(200).text_at("/auth/client_token");
    let old = root.with_token(&old);
    old.get("one/auth/token/lookup-self").expect(200);

    let mut cli = running.site.cli(&holdfast_tests::program::holdfast(), &running.server, root.token());
    let output = holdfast_tests::program::run(cli.args(["auth", "move", "one/auth/approle", "two/auth/deep/approle"]));
    let said = output.good();
    assert!(said.contains("Started moving auth method") && said.contains("Success! Finished moving"), "{said}");

    old.get("one/auth/token/lookup-self").refused(403);
    for (secret_id, _) in &made {
        login("two/auth/deep/approle", secret_id).expect(200);
    }
    let role = "two/auth/deep/approle/role/app";
    assert_eq!(root.get(&format!("{role}/role-id")).expect(200).text_at("/data/role_id"), role_id);
    let by_accessor = |accessor: &str| {
        root.post(&format!("{role}/secret-id-accessor/lookup"), json!({ "secret_id_accessor": accessor }))
    };
    by_accessor(&made[7].1).expect(200);
    root.post(&format!("{role}/secret-id-accessor/destroy"), json!({ "secret_id_accessor": made[7].1 })).expect(204);
    by_accessor(&made[7].1).expect(404);
    assert_eq!(login("two/auth/deep/approle", &made[7].0).status, 400);
    assert!([403, 404].contains(&login("one/auth/approle", &made[0].0).status));
    // The id of a role belongs to it still.
    root.post("two/auth/deep/approle/role/other", json!({ "token_policies": "default" })).expect(204);
    let taken = json!({ "role_id": role_id });
    assert_ne!(root.post("two/auth/deep/approle/role/other/role-id", taken).status, 204);
}

#[test]
fn a_database_gives_users_at_its_new_place_and_those_of_the_old_one_are_gone() {
    const CREATE: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
    let database = holdfast_tests::database::Database::postgres();
    let running = Running::start(Setup::shamir().without_tls());
    let root = &running.root;
    for namespace in ["one", "two"] {
        root.post(&format!("sys/namespaces/{namespace}"), json!({})).expect(200);
    }
    root.post("one/sys/mounts/db", json!({ "type": "database" })).expect(204);
    root.post("one/db/config/shop", database.config()).expect(204);
    let role = json!({ "db_name": "shop", "creation_statements": [CREATE], "default_ttl": "1h" });
    root.post("one/db/roles/app", role).expect(204);
    let user = |path: &str| {
        let made = root.get(path).expect(200);
        (made.text_at("/data/username"), made.text_at("/data/password"), made.text_at("/lease_id"))
    };
    let (name, password, lease) = user("one/db/creds/app");
    assert!(database.logs_in(&name, &password));
    let begun = root.post("sys/remount", json!({ "from": "one/db", "to": "two/shops/db" })).expect(200);
    until_moved(root, &begun);
    assert!(!database.logs_in(&name, &password), "its lease ended before the move");
    root.post("one/sys/leases/lookup", json!({ "lease_id": lease })).refused(400);
    let (name, password, lease) = user("two/shops/db/creds/app");
    assert!(database.logs_in(&name, &password));
    root.post("two/sys/leases/lookup", json!({ "lease_id": lease })).expect(200);
    root.get("one/db/creds/app").refused(404);
    root.post("two/sys/leases/revoke", json!({ "lease_id": lease, "sync": true })).expect(204);
    until(LONG, "the end of the user", || (!database.logs_in(&name, &password)).then_some(()));
}
