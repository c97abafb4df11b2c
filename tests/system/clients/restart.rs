//! A server that starts again finds its data and unseals itself.

use holdfast_tests::{Running, Server, Setup};
use serde_json::json;

use super::APP_POLICY;

#[test]
fn after_a_restart_the_server_unseals_itself_and_the_data_is_there() {
    survives(|server| {
        server.stop();
    });
}

#[test]
fn after_kill_9_the_server_unseals_itself_and_the_data_is_there() {
    survives(Server::kill);
}

fn survives(end: fn(Server)) {
    let running = Running::start(Setup::hardware());
    let token = running.token_with("app", APP_POLICY);
    for version in 1..=3 {
        running.root.post("secret/data/app/db", json!({ "data": { "version": version } })).expect(200);
    }
    let cluster = running.root.get("sys/seal-status").text_at("/cluster_id");

    let running = running.restart(end);
    let status = running.root.get("sys/seal-status");
    assert_eq!((status.at("/sealed"), status.text_at("/cluster_id")), (false.into(), cluster));
    let app = running.root.with_token(&token);
    for version in 1..=3 {
        let read = app.get(&format!("secret/data/app/db?version={version}")).expect(200);
        assert_eq!(read.at("/data/data/version"), version);
    }
    assert_eq!(running.root.get("sys/policies/acl/app").expect(200).text_at("/data/policy"), APP_POLICY);
    app.get("secret/data/elsewhere").expect(403);

    // Again, at once: what the restart wrote is sound too.
    let running = running.restart(end);
    running.root.get("secret/data/app/db").expect(200);
}
