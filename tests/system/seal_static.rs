//! `seal "static"`: a store that opens by a key that is given, and goes from one key to the next.

use holdfast_tests::{Setup, Site};
use serde_json::json;

const FIRST: &str =
    "current_key_id = \"k1\"\n  current_key = \"101112131415161718191a1b1c1d1e1f101112131415161718191a1b1c1d1e1f\"";
const SECOND: &str =
    "current_key_id = \"k2\"\n  current_key = \"202122232425262728292a2b2c2d2e2f202122232425262728292a2b2c2d2e2f\"";

fn with(site: &Site, keys: &str) {
    let config = site.config();
    let without = config.split("seal \"static\"").next().expect("a text");
    site.write_config(&format!("{without}seal \"static\" {{\n  {keys}\n}}\n"));
}

#[test]
fn the_key_before_opens_until_the_root_key_is_wrapped_anew() {
    let site = Site::make(Setup::shamir().without_tls());
    with(&site, FIRST);
    let server = site.start();
    let made = server.client().post("sys/init", json!({ "recovery_shares": 1, "recovery_threshold": 1 })).expect(200);
    let root = made.at("/root_token").as_str().expect("a token").to_owned();
    server.until_unsealed();
    assert_eq!(server.client().get("sys/seal-status").expect(200).at("/type"), "static");
    assert!(server.log().contains("not kept in hardware"), "{}", server.log());

    with(&site, SECOND);
    let server = site.start_after(server);
    server.until_logged("sealed by the key \"k1\"");
    assert_eq!(server.client().get("sys/seal-status").expect(200).at("/sealed"), true);

    let previous = FIRST.replace("current", "previous");
    with(&site, &format!("{SECOND}\n  {previous}"));
    let server = site.start_after(server);
    server.until_unsealed();
    server.client().with_token(&root).post("sys/rotate/root", json!({})).expect(204);

    with(&site, SECOND);
    let server = site.start_after(server);
    server.until_unsealed();
    server.client().with_token(&root).get("auth/token/lookup-self").expect(200);

    with(&site, FIRST);
    let server = site.start_after(server);
    server.until_logged("sealed by the key \"k2\"");
    server.stop();
}
