//! Moving a store between shares and keys in a token, with the command that operators use, and killed on the way.

use std::time::Duration;

use holdfast_tests::module::{self, Shim};
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Keys, Server, Setup, Site, until};
use serde_json::{Value, json};

/// What the configuration says of seals.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stanzas {
    Shares,
    /// The key in the token.
    Token,
    /// The same, disabled: back to shares.
    TokenDisabled,
    /// Another key in the token, and the first one disabled.
    OtherKey,
    BothDisabled,
    BothEnabled,
}

/// A store of shares beside a token, with a secret in it.
struct House {
    site: Site,
    keys: Keys,
    shim: Shim,
}

impl House {
    /// Sealed by shares, and stopped.
    fn build() -> House {
        let site = Site::make(Setup::hardware().without_tls());
        let shim = module::shim(site.folder());
        let site = site.with_seal(&shim.keys());
        let house = House { site, keys: Keys { root_token: String::new(), shares: Vec::new() }, shim };
        house.say(Stanzas::Shares);
        let server = house.site.start();
        let made = server.client().post("sys/init", json!({ "secret_shares": 3, "secret_threshold": 2 })).expect(200);
        let shares = made.at("/keys");
        let shares = shares.as_array().expect("shares").iter().map(|s| s.as_str().expect("hex").to_owned()).collect();
        let keys = Keys { root_token: made.text_at("/root_token"), shares };
        let house = House { keys, ..house };
        house.unseal(&server, &[]);
        let root = server.client().with_token(&house.keys.root_token);
        root.post("sys/mounts/secret", json!({ "type": "kv" })).expect(204);
        root.post("secret/kept", json!({ "k": "v" })).expect(204);
        server.stop();
        house
    }

    /// Write the configuration with these stanzas.
    fn say(&self, stanzas: Stanzas) {
        let config = self.site.config();
        let (rest, seal) = config.split_once("seal \"pkcs11\" {\n").expect("a seal stanza");
        let token = format!("seal \"pkcs11\" {{\n{seal}");
        let disabled = format!("seal \"pkcs11\" {{\n  disabled = \"true\"\n{seal}");
        let other = token.replace("holdfast-root", "holdfast-second");
        self.site.write_config(&match stanzas {
            Stanzas::Shares => rest.to_owned(),
            Stanzas::Token => format!("{rest}{token}"),
            Stanzas::TokenDisabled => format!("{rest}{disabled}"),
            Stanzas::OtherKey => format!("{rest}{other}{disabled}"),
            Stanzas::BothDisabled => {
                format!("{rest}{disabled}{}", disabled.replace("holdfast-root", "holdfast-second"))
            }
            Stanzas::BothEnabled => format!("{rest}{token}{other}"),
        });
    }

    fn start(&self, stanzas: Stanzas) -> Server {
        self.say(stanzas);
        self.site.start()
    }

    /// `operator unseal` by two people, with flags.
    fn unseal(&self, server: &Server, flags: &[&str]) -> String {
        let mut last = String::new();
        for share in &self.keys.shares[..2] {
            let mut cli = self.site.cli(&holdfast(), server, "");
            last = run(cli.args(["operator", "unseal"]).args(flags).arg(share)).good();
        }
        last
    }

    /// SoftHSM writes its files in place: a kill amid that leaves a broken token, which no device does. So the token is
    /// put aside while it is whole, and put back after each kill.
    fn keep_token(&self) {
        let [tokens, kept] = ["softhsm/tokens", "kept"].map(|n| self.site.folder().join(n));
        run(command("cp").arg("-a").arg(tokens).arg(kept)).good();
    }

    fn put_token_back(&self) {
        let [tokens, kept] = ["softhsm/tokens", "kept"].map(|n| self.site.folder().join(n));
        std::fs::remove_dir_all(&tokens).expect("the token");
        run(command("cp").arg("-a").arg(kept).arg(tokens)).good();
    }

    fn read_secret(&self, server: &Server) {
        let kept = server.client().with_token(&self.keys.root_token).get("secret/kept").expect(200);
        assert_eq!(kept.at("/data/k"), "v");
    }

    /// The store opens by the token, without anybody.
    fn opens_by_token(&self, stanzas: Stanzas) {
        let server = self.start(stanzas);
        server.until_unsealed();
        self.read_secret(&server);
        let status = server.client().get("sys/seal-status").expect(200).json();
        assert_eq!((&status["type"], &status["migration"]), (&json!("pkcs11"), &json!(false)));
        server.until_logged("a device opens the store");
        server.stop();
    }

    fn opens_by_shares(&self) {
        let server = self.start(Stanzas::Shares);
        server.until_logged("shares open the store");
        self.unseal(&server, &[]);
        self.read_secret(&server);
        server.stop();
    }
}

/// Wait until seal-status says that a migration is waited for.
#[track_caller]
fn waiting(server: &Server) -> Value {
    let client = server.client();
    until(Duration::from_secs(30), "a migration that waits", || {
        Some(client.get("sys/seal-status").expect(200).json()).filter(|s| s["migration"] == true)
    })
}

#[test]
fn a_store_goes_from_shares_to_a_token_to_another_key_and_back_to_shares() {
    let house = House::build();
    let server = house.start(Stanzas::Token);
    let status = waiting(&server);
    assert_eq!((&status["type"], &status["migration_from"]), (&json!("pkcs11"), &json!("shamir")));
    server.until_logged("operator unseal -migrate");
    // Without the flag nothing happens, and it is said.
    let mut cli = house.site.cli(&holdfast(), &server, "");
    let said = run(cli.args(["operator", "unseal", &house.keys.shares[0]])).bad(2);
    assert!(said.contains("seal migration is pending") && said.contains("pkcs11"), "{said}");
    let shown = run(house.site.cli(&holdfast(), &server, "").arg("status")).bad(2);
    assert!(shown.contains("Seal Migration in Progress") && shown.contains("Total Recovery Shares"), "{shown}");
    let said = house.unseal(&server, &["-migrate"]);
    assert!(said.contains("Recovery Seal Type") && !said.contains("Migration in Progress"), "{said}");
    house.read_secret(&server);
    server.until_logged("the seal was migrated");
    let audited = std::fs::read_to_string(house.site.audit_file()).expect("the audit log");
    assert!(audited.contains("the seal was migrated from shamir to pkcs11"), "it is audited");
    server.stop();
    house.opens_by_token(Stanzas::Token);

    // The shares approve acts now, and open nothing.
    let server = house.start(Stanzas::Token);
    server.until_unsealed();
    let root = server.client().with_token(&house.keys.root_token);
    let begun = root.post("sys/generate-root-token/attempt", json!({})).expect(200);
    for share in &house.keys.shares[1..] {
        let body = json!({ "key": share, "nonce": begun.text_at("/data/nonce") });
        root.post("sys/generate-root-token/update", body).expect(200);
    }
    server.stop();
    let server = house.start(Stanzas::Shares);
    let text = server.client().post("sys/unseal", json!({ "key": house.keys.shares[0] })).refused(400);
    assert!(text.contains("authorise"), "{text}");
    server.stop();

    let server = house.start(Stanzas::OtherKey);
    assert_eq!(waiting(&server)["migration_from"], "pkcs11");
    house.unseal(&server, &["-migrate"]);
    house.read_secret(&server);
    server.stop();
    // The stanza that is left over does no harm; the first key is not needed any more.
    house.opens_by_token(Stanzas::OtherKey);

    // Back: it is the second key that is left.
    let config = house.site.config();
    house.say(Stanzas::TokenDisabled);
    let text = std::fs::read_to_string(house.site.config_file()).expect("the configuration");
    house.site.write_config(&text.replace("holdfast-root", "holdfast-second"));
    let server = house.site.start();
    let status = waiting(&server);
    assert_eq!((&status["type"], &status["recovery_seal"]), (&json!("shamir"), &json!(false)));
    let said = house.unseal(&server, &["-migrate"]);
    assert!(said.contains("Total Shares"), "{said}");
    server.stop();
    house.opens_by_shares();
    assert!(config.contains("holdfast-root"), "the site's own configuration is as it was");
}

#[test]
fn configurations_that_nobody_can_follow_are_refused_with_what_to_do() {
    let house = House::build();
    for (stanzas, words) in [
        (Stanzas::BothDisabled, ["two seals are disabled", "take away"]),
        (Stanzas::BothEnabled, ["there are several seals", "disabled = \"true\""]),
    ] {
        house.say(stanzas);
        let said = house.site.start_in_vain();
        assert!(words.iter().all(|w| said.contains(w)), "{said}");
        let mut check = command(holdfast());
        check.args(["operator", "validate-config"]).arg(format!("-config={}", house.site.config_file().display()));
        assert!(run(&mut check).bad(1).contains(words[0]));
    }
    // A disabled stanza of a seal that the store does not have is told of, and left alone.
    let server = house.start(Stanzas::TokenDisabled);
    let text = server.client().post("sys/unseal", json!({ "key": house.keys.shares[0], "migrate": true })).refused(500);
    assert!(text.contains("no migration seal found"), "{text}");
    house.unseal(&server, &[]);
    server.until_logged("take its stanza away");
    server.stop();
}

#[test]
fn a_token_that_is_away_keeps_the_store_as_it_was() {
    let house = House::build();
    let token = house.site.token.as_ref().expect("a token");
    token.pull_out();
    let server = house.start(Stanzas::Token);
    waiting(&server);
    let client = server.client();
    client.post("sys/unseal", json!({ "key": house.keys.shares[0], "migrate": true })).expect(200);
    let text = client.post("sys/unseal", json!({ "key": house.keys.shares[1], "migrate": true })).refused(500);
    assert!(text.contains("is not migrated") && text.contains("holdfast"), "{text}");
    assert_eq!(waiting(&server)["sealed"], true);
    // It is put in, and the same is tried again, without a restart.
    token.put_back();
    house.unseal(&server, &["-migrate"]);
    house.read_secret(&server);
    server.stop();

    // The other way round the token is needed to open the store for the last time.
    token.pull_out();
    let server = house.start(Stanzas::TokenDisabled);
    let client = server.client();
    client.post("sys/unseal", json!({ "key": house.keys.shares[0], "migrate": true })).expect(200);
    let text = client.post("sys/unseal", json!({ "key": house.keys.shares[1], "migrate": true })).refused(503);
    assert!(text.contains("does not open it") && text.contains("holdfast"), "{text}");
    token.put_back();
    house.unseal(&server, &["-migrate"]);
    server.stop();
    house.opens_by_shares();
}

#[test]
fn killed_at_any_step_a_migration_leaves_a_store_that_opens_one_way_or_the_other_and_says_which() {
    let house = House::build();
    for stanzas in [Stanzas::Token, Stanzas::TokenDisabled] {
        let server = house.start(stanzas);
        waiting(&server);
        house.unseal(&server, &["-migrate"]);
        server.stop();
    }
    // Its key is there from here on.
    house.keep_token();
    // In turns to the token and back; each round is killed at another step.
    let steps = ["first share", "proof", "0", "2", "5", "9", "14", "20", "answered"];
    let mut seen = [0, 0];
    for step in steps {
        for (stanzas, back) in [(Stanzas::Token, Stanzas::Shares), (Stanzas::TokenDisabled, Stanzas::Token)] {
            let server = house.start(stanzas);
            waiting(&server);
            let give = |share: &String| json!({ "key": share, "migrate": true });
            let client = server.client();
            if step == "proof" {
                // Where the token opens what it has wrapped, or what it wrapped long ago.
                house.shim.disturb("hang");
            }
            client.post("sys/unseal", give(&house.keys.shares[0])).expect(200);
            match step {
                "first share" => server.kill(),
                "answered" => {
                    client.post("sys/unseal", give(&house.keys.shares[1])).expect(200);
                    server.kill();
                }
                _ => std::thread::scope(|scope| {
                    let (last, client) = (give(&house.keys.shares[1]), server.client());
                    scope.spawn(move || drop(client.try_call("PUT", "sys/unseal", Some(&last))));
                    match step.parse() {
                        Ok(ms) => std::thread::sleep(Duration::from_millis(ms)),
                        Err(_) => until(Duration::from_secs(20), "the token to hang", || {
                            (!house.shim.is_to_disturb("hang")).then_some(())
                        }),
                    }
                    server.kill();
                }),
            }
            house.put_token_back();
            // The same configuration again: which way it opens is in seal-status and in the log.
            let server = house.site.start();
            let client = server.client();
            let is_old = until(Duration::from_secs(30), "a decision", || {
                let status = client.get("sys/seal-status").expect(200).json();
                let to_token = stanzas == Stanzas::Token;
                match (status["migration"] == true, status["sealed"] == false) {
                    (true, _) => Some(true),
                    (false, true) => Some(false),
                    (false, false) => (!to_token).then_some(false),
                }
            });
            let by_shares = is_old == (stanzas == Stanzas::Token);
            server.until_logged(if by_shares { "shares open the store" } else { "a device opens the store" });
            println!("killed at {step}: {}", if is_old { "the former seal opens" } else { "the new seal opens" });
            seen[usize::from(is_old)] += 1;
            assert!(!is_old || step != "answered", "what was answered is lost");
            assert!(is_old || !["first share", "proof"].contains(&step), "nothing was committed yet");
            if is_old {
                // It still opens the former way; then it is gone on with. (It may not listen to signals yet.)
                server.kill();
                house.put_token_back();
                match back {
                    Stanzas::Shares => house.opens_by_shares(),
                    _ => house.opens_by_token(back),
                }
                let server = house.start(stanzas);
                waiting(&server);
                house.unseal(&server, &["-migrate"]);
                house.read_secret(&server);
                server.stop();
            } else {
                server.kill();
                house.put_token_back();
            }
            match stanzas {
                Stanzas::Token => house.opens_by_token(Stanzas::Token),
                _ => house.opens_by_shares(),
            }
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}
