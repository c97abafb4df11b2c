//! New shares for holders with PGP keys, from the first command to the last: begun, agreed to by the holders of before,
//! decrypted, given back, kept by the server, and in force.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_tests::gnupg::Gnupg;
use holdfast_tests::program::{holdfast, run};
use holdfast_tests::{Running, Setup, Terminal};
use serde_json::{Value, json};

const COLUMNS: u16 = 120;

/// Somebody is asked for a share at a terminal, and gives it: what was shown.
#[track_caller]
fn typed(command: &Command, share: &str) -> String {
    let mut terminal = Terminal::start(command, COLUMNS);
    terminal.until_shown("Unseal Key (will be hidden): ");
    terminal.until_silent();
    terminal.type_keys(&format!("{share}\n"));
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains(share), "{shown}");
    shown
}

/// The messages of an answer.
fn messages(answer: &Value) -> Vec<Vec<u8>> {
    let list = answer["keys"].as_array().unwrap_or_else(|| panic!("no shares in {answer}"));
    let messages: Vec<Vec<u8>> =
        list.iter().map(|m| hex::decode(m.as_str().expect("a text")).expect("hex digits")).collect();
    let in_base64 = answer["keys_base64"].as_array().expect("the same in base64");
    for (message, text) in messages.iter().zip(in_base64) {
        assert_eq!(STANDARD.encode(message), text.as_str().expect("a text"));
    }
    messages
}

#[test]
fn three_holders_with_pgp_keys_take_over_by_either_command_and_the_former_shares_are_void() {
    let listener = "disable_unauthed_rekey_endpoints = false";
    let running = Running::start(Setup::hardware().with_listener(listener));
    let gpg = Gnupg::new(running.site.folder());
    let files: Vec<String> = ["alice", "bob", "carol"]
        .into_iter()
        .map(|name| {
            let key = gpg.key(name, "future-default");
            let file = running.site.folder().join(format!("{name}.pgp"));
            // One has it as GnuPG exports it, the others in base64.
            let content = if name == "alice" { STANDARD.decode(&key).expect("base64") } else { key.into_bytes() };
            fs::write(&file, content).expect("a file");
            file.display().to_string()
        })
        .collect();
    let pgp_keys = format!("-pgp-keys={}", files.join(","));
    // The old routes ask for no token, the new ones for one.
    let mut shares = running.keys.shares.clone();
    for (command, token) in [("rekey", ""), ("rotate-keys", running.root.token())] {
        let cli = |token: &str, args: &[&str]| {
            let mut cli = running.site.cli(&holdfast(), &running.server, token);
            cli.args(["operator", command, "-target=recovery"]).args(args);
            cli
        };
        let json = |args: &[&str]| run(cli(token, &["-format=json"]).args(args)).json();
        let begun = json(&["-init", "-key-shares=3", "-key-threshold=2", &pgp_keys, "-backup", "-verify"]);
        let nonce = format!("-nonce={}", begun["nonce"].as_str().expect("a nonce"));
        let prints: Vec<&str> =
            begun["pgp_fingerprints"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!((prints.len(), &begun["backup"], &begun["verification_required"]), (3, &json!(true), &json!(true)));

        // Two holders of before agree, one of them at a terminal.
        let shown = typed(&cli(token, &[]), &shares[0]);
        assert!(shown.contains("1/2") && shown.contains(prints[0]), "{shown}");
        let made = json(&[&nonce, &shares[2]]);
        assert_eq!(made["complete"], true, "{made}");
        let messages = messages(&made);
        assert_eq!(messages.len(), 3);
        let fresh: Vec<String> = messages.iter().map(|message| gpg.open(message)).collect();
        assert!(fresh.iter().all(|share| !shares.contains(share) && !made.to_string().contains(share)));

        // What the server keeps is what was handed out, by the keys' fingerprints; a token is needed to see it.
        let kept = |args: &[&str]| run(cli(running.root.token(), &["-format=json"]).args(args));
        let backup = kept(&["-backup-retrieve"]).json();
        for (print, message) in prints.iter().zip(&messages) {
            assert_eq!(backup["keys"][*print], json!([hex::encode(message)]), "{backup}");
        }
        let first = backup["keys_base64"][prints[0]][0].as_str().expect("a message");
        assert_eq!(gpg.open(&STANDARD.decode(first).expect("base64")), fresh[0]);
        run(&mut cli("", &["-format=json", "-backup-retrieve"])).bad(2);

        // Until they were given back, those of before count. A former share is none of the new ones.
        root_token(&running, &shares[1..]);
        let again = format!("-nonce={}", made["verification_nonce"].as_str().expect("a nonce"));
        typed(&cli(token, &["-verify"]), &fresh[0]);
        let wrong = run(&mut cli(token, &["-verify", &again, &shares[1]]));
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
        let state = json(&["-status", "-verify"]);
        let again = format!("-nonce={}", state["nonce"].as_str().expect("a nonce"));
        let mut verified = json!({ "progress": state["progress"] });
        for share in &fresh[usize::from(state["progress"] == 1)..2] {
            verified = json(&["-verify", &again, share]);
        }
        assert_eq!(verified["complete"], true, "{verified}");

        kept(&["-backup-delete"]).good();
        let gone = kept(&["-backup-retrieve"]).bad(2);
        assert!(gone.contains("no backed-up keys"), "{gone}");
        // The former ones make no root token, the new ones do.
        refused(&running, &shares[..2]);
        root_token(&running, &fresh[1..]);
        shares = fresh;
    }
    // Nothing of it is in the audit log: the look at it knows what was typed. They outlive a restart.
    let running = running.restart(|server| drop(server.stop()));
    root_token(&running, &shares[..2]);
}

/// Two holders make a root token, the first of them at a terminal.
#[track_caller]
fn root_token(running: &Running, shares: &[String]) {
    let cli = |args: &[&str]| {
        let mut cli = running.site.cli(&holdfast(), &running.server, running.root.token());
        cli.args(["operator", "generate-root"]).args(args);
        cli
    };
    let begun = run(&mut cli(&["-init", "-format=json"])).json();
    let nonce = format!("-nonce={}", begun["nonce"].as_str().expect("a nonce"));
    typed(&cli(&[&nonce]), &shares[0]);
    let done = run(&mut cli(&["-format=json", &nonce, &shares[1]])).json();
    let (encoded, otp) = (done["encoded_token"].as_str().expect("a token"), begun["otp"].as_str().expect("a password"));
    let decode = run(&mut cli(&["-format=json", &format!("-decode={encoded}"), &format!("-otp={otp}")])).json();
    let made = running.server.client().with_token(decode["token"].as_str().expect("a token"));
    assert_eq!(made.get("auth/token/lookup-self").expect(200).at("/data/policies"), json!(["root"]));
    made.post("auth/token/revoke-self", json!({})).expect(204);
}

/// Two shares that count no more.
#[track_caller]
fn refused(running: &Running, shares: &[String]) {
    let begun = running.root.post("sys/generate-root-token/attempt", json!({})).expect(200);
    let give = |share: &str| {
        let body = json!({ "key": share, "nonce": begun.at("/data/nonce") });
        running.root.post("sys/generate-root-token/update", body).status
    };
    assert_eq!(shares.iter().map(|share| give(share)).max(), Some(400));
    running.root.delete("sys/generate-root-token/attempt");
}
