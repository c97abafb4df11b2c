//! Reports about tokens.

use std::thread;
use std::time::Duration;

use holdfast_tests::until;
use serde_json::json;

use super::{Site, keys};

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

/// F012. By every way to renew; the token has one lease all the time, and ends when it is renewed no more.
#[test]
fn a_token_lives_as_long_as_it_is_renewed_and_has_one_lease() {
    let site = Site::new();
    site.root.post("auth/token/roles/periodic", json!({ "token_period": "3s", "orphan": true })).expect(204);
    let make = |path: &str, max: &str| {
        let body = json!({ "policies": ["default"], "ttl": "3s", "explicit_max_ttl": max });
        let made = site.root.post(path, body).expect(200);
        (made.text_at("/auth/client_token"), made.text_at("/auth/accessor"))
    };
    let by_itself = make("auth/token/create", "5m");
    let by_another = make("auth/token/create", "5m");
    let by_accessor = make("auth/token/create-orphan", "5m");
    let of_a_role = make("auth/token/create/periodic", "0");
    let bounded = make("auth/token/create", "5s");
    let all = [&by_itself, &by_another, &by_accessor, &of_a_role];
    let is_good = |token: &str| site.root.with_token(token).get("auth/token/lookup-self").status == 200;
    let leases = |folder: &str| {
        let listed = site.root.list(&format!("sys/leases/lookup/{folder}"));
        if listed.status == 404 { 0 } else { keys(&listed.expect(200)).len() }
    };
    for round in 0..7 {
        thread::sleep(Duration::from_secs(1));
        for token in [&by_itself.0, &of_a_role.0] {
            site.root.with_token(token).post("auth/token/renew-self", json!({})).expect(200);
        }
        site.root.post("auth/token/renew", json!({ "token": by_another.0 })).expect(200);
        site.root.post("auth/token/renew-accessor", json!({ "accessor": by_accessor.1 })).expect(200);
        // It may have ended by its own maximum.
        site.root.with_token(&bounded.0).post("auth/token/renew-self", json!({}));
        assert!(all.iter().all(|t| is_good(&t.0)), "round {round}");
        assert_eq!((leases("auth/token/create-orphan"), leases("auth/token/create/periodic")), (1, 1));
    }
    assert!(!is_good(&bounded.0), "no renewal goes past the maximum");
    until(Duration::from_secs(10), "the ends", || (!all.iter().any(|t| is_good(&t.0))).then_some(()));
    until(Duration::from_secs(10), "the end of the leases", || (leases("auth") == 0).then_some(()));
}

/// F018. What a login makes is there when it succeeded, and not otherwise, however it failed.
#[test]
fn a_login_that_fails_makes_no_token_no_lease_and_no_entity() {
    let site = Site::new();
    for kind in ["userpass", "approle"] {
        site.root.post(&format!("sys/auth/{kind}"), json!({ "type": kind })).expect(204);
    }
    for (user, settings) in [
        ("ann", json!({ "password": "pw" })),
        ("bound", json!({ "password": "pw", "token_bound_cidrs": "203.0.113.0/24" })),
        ("root", json!({ "password": "pw", "token_policies": "root" })),
    ] {
        site.root.post(&format!("auth/userpass/users/{user}"), settings).expect(204);
    }
    for (role, settings) in [
        ("app", json!({ "token_ttl": "1h" })),
        ("bound", json!({ "secret_id_bound_cidrs": "203.0.113.0/24" })),
        ("used", json!({ "secret_id_num_uses": 1 })),
    ] {
        site.root.post(&format!("auth/approle/role/{role}"), settings).expect(204);
    }
    let role_id =
        |role: &str| site.root.get(&format!("auth/approle/role/{role}/role-id")).expect(200).text_at("/data/role_id");
    let secret_id = |role: &str| {
        let made = site.root.post(&format!("auth/approle/role/{role}/secret-id"), json!({})).expect(200);
        made.text_at("/data/secret_id")
    };
    let nobody = site.server.client();
    let (used, its_secret) = (role_id("used"), secret_id("used"));
    nobody.post("auth/approle/login", json!({ "role_id": used, "secret_id": its_secret })).expect(200);
    let count = || {
        ["auth/token/accessors", "identity/entity/id", "identity/entity-alias/id"]
            .map(|list| keys(&site.root.list(list).expect(200)).len())
    };
    let leases = || {
        let below = ["auth/userpass/login/ann", "auth/approle/login"];
        below.map(|at| match site.root.list(&format!("sys/leases/lookup/{at}")) {
            none if none.status == 404 => 0,
            listed => keys(&listed.expect(200)).len(),
        })
    };
    let (before, leases_before) = (count(), leases());

    let (app, bound) = (role_id("app"), role_id("bound"));
    let attempts = [
        ("auth/userpass/login/ann", json!({ "password": "wrong" })),
        ("auth/userpass/login/ann", json!({ "password": "" })),
        ("auth/userpass/login/ann", json!({})),
        ("auth/userpass/login/ann", json!({ "password": ["pw"] })),
        ("auth/userpass/login/nobody", json!({ "password": "pw" })),
        ("auth/userpass/login/bound", json!({ "password": "pw" })),
        ("auth/userpass/login/root", json!({ "password": "pw" })),
        ("auth/userpass/login", json!({ "username": "ann", "password": "pw" })),
        ("auth/approle/login", json!({ "role_id": app })),
        ("auth/approle/login", json!({ "role_id": app, "secret_id": "wrong" })),
        ("auth/approle/login", json!({ "role_id": "wrong", "secret_id": secret_id("app") })),
        ("auth/approle/login", json!({ "role_id": app, "secret_id": secret_id("bound") })),
        ("auth/approle/login", json!({ "role_id": bound, "secret_id": secret_id("bound") })),
        ("auth/approle/login", json!({ "role_id": used, "secret_id": its_secret })),
        ("auth/approle/login", json!({ "role_id": [app], "secret_id": { "a": 1 } })),
    ];
    for (path, body) in &attempts {
        let body = body.to_string();
        for headers in [&[][..], &[("X-Vault-Wrap-TTL", "60s")]] {
            let reply = nobody.raw("POST", &format!("/v1/{path}"), headers, body.as_bytes());
            assert!(reply.status >= 400, "{path} {body}: {}", reply.text());
            assert!(!reply.text().contains("client_token"), "{path}: {}", reply.text());
        }
        for verb in ["GET", "DELETE", "PATCH"] {
            assert!(nobody.raw(verb, &format!("/v1/{path}"), &[], body.as_bytes()).status >= 400, "{verb} {path}");
        }
    }
    assert_eq!((count(), leases()), (before, leases_before));
    // A lock after failed logins makes none either, and one that succeeds makes one of each.
    for _ in 0..7 {
        assert!(nobody.post("auth/userpass/login/ann", json!({ "password": "wrong" })).status >= 400);
    }
    assert!(nobody.post("auth/userpass/login/ann", json!({ "password": "pw" })).status >= 400, "it is locked");
    assert_eq!(count(), before);
    nobody.post("auth/approle/login", json!({ "role_id": app, "secret_id": secret_id("app") })).expect(200);
    assert_eq!(count(), before.map(|n| n + 1));
}

/// F016, of approle. The two fields show an address in different forms, as the reference does; each keeps its own.
#[test]
fn the_networks_of_a_role_for_applications_keep_their_form() {
    let site = Site::new();
    site.root.post("sys/auth/approle", json!({ "type": "approle" })).expect(204);
    let networks = "1.2.3.4/32,2001:db8::1/128,10.0.0.0/8";
    let body = json!({ "token_bound_cidrs": networks, "secret_id_bound_cidrs": networks });
    site.root.post("auth/approle/role/a", body).expect(204);
    let read = || site.root.get("auth/approle/role/a").expect(200).at("/data");
    let first = read();
    for _ in 0..2 {
        let again = json!({
            "token_bound_cidrs": first["token_bound_cidrs"], "secret_id_bound_cidrs": first["secret_id_bound_cidrs"],
        });
        site.root.post("auth/approle/role/a", again).expect(204);
        assert_eq!(read(), first);
    }
    assert_eq!(first["token_bound_cidrs"], json!(["1.2.3.4", "2001:db8::1", "10.0.0.0/8"]));
    assert_eq!(first["secret_id_bound_cidrs"], json!(["1.2.3.4/32", "2001:db8::1/128", "10.0.0.0/8"]));
    let masked = json!({ "token_bound_cidrs": first["secret_id_bound_cidrs"] });
    site.root.post("auth/approle/role/a", masked).expect(204);
    assert_eq!(read(), first);
}
