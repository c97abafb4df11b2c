//! Reports about tokens.

use serde_json::json;

use super::Site;

/// F013. Every pair of limits, wrapped and not.
#[test]
fn a_wrapped_token_has_the_limits_that_were_asked_for() {
    let site = Site::new();
    for (ttl, max) in [("120s", "1800s"), ("30m", "30m"), ("1h", "10m")] {
        let body = json!({ "policies": ["default"], "ttl": ttl, "explicit_max_ttl": max }).to_string();
        let wrapped = site.root.raw("POST", "/v1/auth/token/create", &[("X-Vault-Wrap-TTL", "120s")], body.as_bytes());
        let wrapping = wrapped.expect(200).text_at("/wrap_info/token");
        let auth = site.root.with_token(&wrapping).post("sys/wrapping/unwrap", json!({})).expect(200);
        let plain = site.root.raw("POST", "/v1/auth/token/create", &[], body.as_bytes()).expect(200);
        assert_eq!(auth.at("/auth/lease_duration"), plain.at("/auth/lease_duration"), "{ttl} {max}");
        let token = auth.text_at("/auth/client_token");
        let known = site.root.with_token(&token).get("auth/token/lookup-self").expect(200);
        let seconds = |text: &str| match text.strip_suffix('s') {
            Some(s) => s.parse::<u64>().expect("seconds"),
            None if text.ends_with('m') => text.trim_end_matches('m').parse::<u64>().expect("minutes") * 60,
            None => text.trim_end_matches('h').parse::<u64>().expect("hours") * 3600,
        };
        assert_eq!(known.at("/data/explicit_max_ttl"), seconds(max));
        assert_eq!(known.at("/data/creation_ttl"), seconds(ttl).min(seconds(max)));
    }
}

/// F015, F016. What is read can be written again and is then the same.
#[test]
fn a_role_gives_back_what_was_written_and_stays_so_when_it_is_written_again() {
    let site = Site::new();
    let written = json!({
        "allowed_policies": ["a", "b"],
        "allowed_policies_glob": ["team-*"],
        "disallowed_policies": ["c"],
        "disallowed_policies_glob": ["admin-*"],
        "orphan": true,
        "renewable": false,
        "path_suffix": "xyz",
        "allowed_entity_aliases": ["e1", "f*"],
        "token_period": 3600,
        "token_explicit_max_ttl": 7200,
        "token_no_default_policy": true,
        "token_num_uses": 7,
        "token_type": "service",
        "token_bound_cidrs": ["10.0.0.0/8", "2001:db8::/32"],
    });
    site.root.post("auth/token/roles/x", written.clone()).expect(204);
    let read = site.root.get("auth/token/roles/x").expect(200).at("/data");
    for (key, value) in written.as_object().expect("an object") {
        assert_eq!(&read[key], value, "{key}");
    }
    // The old names stand beside the new ones, and the answer says that these count.
    site.root.post("auth/token/roles/x", read.clone()).expect(200);
    assert_eq!(site.root.get("auth/token/roles/x").expect(200).at("/data"), read);
    site.root.post("auth/token/roles/x", json!({ "token_no_default_policy": false })).expect(204);
    assert_eq!(site.root.get("auth/token/roles/x").expect(200).at("/data/token_no_default_policy"), false);
}

/// F016. A single address may be written with or without its mask.
#[test]
fn an_address_with_its_mask_and_without_is_one_and_is_stable() {
    let site = Site::new();
    let blocks = |body| {
        site.root.post("auth/token/roles/x", json!({ "token_bound_cidrs": body })).expect(204);
        site.root.get("auth/token/roles/x").expect(200).at("/data/token_bound_cidrs")
    };
    let with = blocks(json!("1.2.3.4/32,2001:db8::1/128"));
    let without = blocks(json!(["1.2.3.4", "2001:db8::1"]));
    assert_eq!(with, without);
    assert_eq!(blocks(with.clone()), with);
}

/// F020.
#[test]
fn a_renewal_that_shortens_a_tokens_life_says_so_and_one_that_does_not_is_silent() {
    let site = Site::new();
    let token = site.token(json!({ "policies": ["default"], "ttl": "1h" }));
    let own = site.root.with_token(&token);
    for (path, asked) in [
        ("auth/token/renew-self", json!({ "increment": "60s" })),
        ("auth/token/renew-self", json!({ "increment": 30 })),
    ] {
        let reply = own.post(path, asked).expect(200);
        let warning = reply.text_at("/warnings/0");
        assert!(warning.contains("earlier"), "{warning}");
    }
    assert!(own.get("auth/token/lookup-self").expect(200).at("/data/ttl").as_u64().expect("seconds") <= 30);
    let longer = own.post("auth/token/renew-self", json!({ "increment": "2h" })).expect(200);
    assert_eq!(longer.at("/warnings"), json!(null));
    assert_eq!(longer.at("/auth/lease_duration"), 7200);
    let past = own.post("auth/token/renew-self", json!({ "increment": "9000h" })).expect(200);
    assert!(past.text_at("/warnings/0").contains("capped"));
}
