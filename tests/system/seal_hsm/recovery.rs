//! Recovery shares of a hardware seal, in both forms.

use holdfast_tests::program::{holdfast, run};
use holdfast_tests::token::LABEL;
use holdfast_tests::{Keys, Running, Server, Setup, Site};
use serde_json::json;

use super::trouble;

/// A store of that form whose token was pulled out, and the server started without it.
fn without_token(form: &str) -> (Site, Keys, Server) {
    let site = Site::make(Setup::hardware());
    let server = site.start();
    let keys = site.initialise_with(&server.client(), json!({ "recovery_form": form }));
    server.until_unsealed();
    assert_eq!(server.client().get("sys/seal-status").text_at("/recovery_form"), form);
    let root = server.client().with_token(&keys.root_token);
    root.post("sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } })).expect(204);
    root.post("secret/data/a", json!({ "data": { "x": "y" } })).expect(200);
    server.stop();
    site.token.as_ref().expect("a token").pull_out();
    let server = site.start();
    trouble(&server, &[LABEL]);
    (site, keys, server)
}

#[test]
fn in_the_authorise_form_recovery_shares_do_not_unseal_and_the_reason_is_said() {
    let (site, keys, server) = without_token("authorise");
    let text = server.client().post("sys/unseal", json!({ "key": keys.shares[0] })).refused(400);
    assert!(text.contains("authorise") && text.contains("device") && text.contains("pkcs11"), "{text}");
    assert_eq!(server.client().get("sys/seal-status").at("/progress"), 0);
    let mut cli = site.cli(&holdfast(), &server, "");
    let said = run(cli.args(["operator", "unseal", &keys.shares[0]])).bad(2);
    assert!(said.contains("authorise"), "{said}");
}

#[test]
fn in_the_escrow_form_recovery_shares_open_the_store_while_the_token_is_gone() {
    let (site, keys, server) = without_token("escrow");
    let first = server.client().post("sys/unseal", json!({ "key": keys.shares[2] })).expect(200);
    assert_eq!((first.at("/progress"), first.at("/sealed")), (1.into(), true.into()));
    let mut cli = site.cli(&holdfast(), &server, "");
    let said = run(cli.args(["operator", "unseal", &keys.shares[0]])).good();
    assert!(said.contains("false"), "{said}");
    let root = server.client().with_token(&keys.root_token);
    assert_eq!(root.get("secret/data/a").expect(200).at("/data/data/x"), "y");
    root.post("secret/data/b", json!({ "data": { "x": "z" } })).expect(200);
    server.stop();

    site.token.as_ref().expect("a token").put_back();
    let server = site.start();
    server.until_unsealed();
    server.client().with_token(&keys.root_token).get("secret/data/b").expect(200);
}

#[test]
fn escrow_shares_of_another_cluster_open_nothing() {
    let (_site, foreign, _server) = without_token("escrow");
    let (_own_site, keys, server) = without_token("escrow");
    server.client().post("sys/unseal", json!({ "key": foreign.shares[0] })).expect(200);
    let text = server.client().post("sys/unseal", json!({ "key": foreign.shares[1] })).refused(400);
    assert!(text.contains("another cluster"), "{text}");
    for share in &keys.shares[1..] {
        server.client().post("sys/unseal", json!({ "key": share })).expect(200);
    }
    server.until_unsealed();
}

#[test]
fn an_unknown_form_is_refused_with_those_that_exist() {
    let site = Site::make(Setup::hardware());
    let server = site.start();
    let body = json!({ "recovery_shares": 1, "recovery_threshold": 1, "recovery_form": "none" });
    let text = server.client().post("sys/init", body).refused(400);
    assert!(text.contains("authorise") && text.contains("escrow"), "{text}");
}

#[test]
fn shares_of_the_wrong_kind_are_refused_at_initialisation() {
    let site = Site::make(Setup::hardware());
    let server = site.start();
    let text = server.client().post("sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).refused(400);
    assert!(text.contains("secret_shares,secret_threshold not applicable to seal type pkcs11"), "{text}");
    server.client().get("sys/health").expect(501);

    let site = Site::make(Setup::shamir());
    let server = site.start();
    let body = json!({ "secret_shares": 1, "secret_threshold": 1, "recovery_shares": 1, "recovery_threshold": 1 });
    let text = server.client().post("sys/init", body).refused(400);
    assert!(text.contains("not applicable to seal type shamir"), "{text}");
}

#[test]
fn while_the_token_answers_recovery_shares_are_not_asked_for() {
    let running = Running::start(Setup::hardware());
    let reply = running.root.post("sys/unseal", json!({ "key": running.keys.shares[0] })).expect(200);
    assert_eq!(reply.at("/sealed"), false);
}
