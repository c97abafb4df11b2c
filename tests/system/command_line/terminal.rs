//! What is different at a terminal: questions, secrets that are not shown, line ends, widths.

use std::fs;
use std::process::Command;

use holdfast_tests::program::{command, holdfast};
use holdfast_tests::{Running, Server, Setup, Terminal};
use serde_json::json;
use tempfile::TempDir;

struct Dev {
    server: Server,
    folder: TempDir,
}

impl Dev {
    fn new() -> Dev {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::dev(folder.path());
        let root = server.client().with_token("root");
        root.post("sys/auth/userpass", json!({ "type": "userpass" })).expect(204);
        root.post("auth/userpass/users/ann", json!({ "password": "pa55 wörd" })).expect(204);
        Dev { server, folder }
    }

    fn cli(&self, args: &[&str]) -> Command {
        let mut call = command(holdfast());
        call.args(args).env("HOME", self.folder.path()).env("VAULT_ADDR", self.server.url());
        call
    }
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let dev = Dev::new();
    let mut terminal = Terminal::start(&dev.cli(&["login", "-method=userpass", "username=ann"]), 80);
    terminal.until_shown("Password (will be hidden): ");
    terminal.until_silent();
    terminal.type_keys("pa55 wörd\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("Success! You are logged in."), "{shown}");
    assert!(!shown.contains("pa55"), "{shown}");
    let token = fs::read_to_string(dev.folder.path().join(".vault-token")).expect("the token file");
    assert!(token.starts_with("hvs."));
}

/// What an app for codes makes of an address, by Python's own HMAC.
const APP: &str = r#"
import base64, hashlib, hmac, struct, sys, time
from urllib.parse import parse_qs, urlsplit
secret = parse_qs(urlsplit(sys.argv[1]).query)["secret"][0]
key = base64.b32decode(secret + "=" * (-len(secret) % 8))
mac = hmac.new(key, struct.pack(">Q", int(time.time()) // 300), hashlib.sha1).digest()
at = mac[-1] & 15
print(f"{(int.from_bytes(mac[at:at + 4], 'big') & 0x7FFFFFFF) % 10**6:06}", end="")
"#;

#[test]
fn a_second_factor_is_asked_for_at_a_terminal_and_told_of_elsewhere() {
    let dev = Dev::new();
    let root = dev.server.client().with_token("root");
    let login = root.post("auth/userpass/login/ann", json!({ "password": "pa55 wörd" })).expect(200);
    let entity = login.at("/auth/entity_id");
    let method = json!({ "issuer": "house", "period": 300, "method_name": "phone" });
    let method = root.post("identity/mfa/method/totp", method).expect(200).at("/data/method_id");
    let made = json!({ "method_id": method, "entity_id": entity });
    let made = root.post("identity/mfa/method/totp/admin-generate", made).expect(200);
    let needs = json!({ "mfa_method_ids": [method], "auth_method_types": ["userpass"] });
    root.post("identity/mfa/login-enforcement/all", needs).expect(204);

    let login = ["login", "-method=userpass", "username=ann", "password=pa55 wörd"];
    let alone = dev.cli(&login).output().expect("our client");
    let shown = String::from_utf8_lossy(&alone.stdout).into_owned();
    assert!(alone.status.success() && shown.contains("mfa_request_id"), "{shown}");
    assert!(!dev.folder.path().join(".vault-token").exists());

    let mut terminal = Terminal::start(&dev.cli(&login), 80);
    terminal.until_shown("Passcode of totp method \"phone\" (will be hidden): ");
    terminal.until_silent();
    let url = made.text_at("/data/url");
    let code = command("python3").args(["-c", APP, &url]).output().expect("python3").stdout;
    let code = String::from_utf8(code).expect("digits");
    terminal.type_keys(&format!("{code}\r"));
    let (status, shown) = terminal.end();
    assert_eq!(status, 0, "{shown}");
    assert!(shown.contains("Success! You are logged in.") && !shown.contains(&code), "{shown}");
    let token = fs::read_to_string(dev.folder.path().join(".vault-token")).expect("the token file");
    assert!(token.starts_with("hvs."));
}

#[test]
fn a_wrong_password_ends_with_2_and_the_terminal_shows_again_what_is_typed() {
    let dev = Dev::new();
    let mut shell = command("sh");
    shell.args(["-c", "\"$0\" login -method=userpass username=ann; echo \"code $?\"; read line; echo \"<$line>\""]);
    shell.arg(holdfast()).env("HOME", dev.folder.path()).env("VAULT_ADDR", dev.server.url());
    let mut terminal = Terminal::start(&shell, 80);
    terminal.until_shown("(will be hidden): ");
    terminal.until_silent();
    terminal.type_keys("wrong\r");
    terminal.until_shown("code 2");
    assert!(terminal.echoes());
    terminal.type_keys("seen\r");
    let (_, shown) = terminal.end();
    assert!(shown.contains("seen\r\n<seen>") && !shown.contains("wrong"), "{shown}");
}

#[test]
fn a_question_that_is_interrupted_leaves_a_terminal_that_shows_what_is_typed() {
    let dev = Dev::new();
    let mut terminal = Terminal::start(&dev.cli(&["login"]), 80);
    terminal.until_shown("Token (will be hidden): ");
    terminal.until_silent();
    terminal.type_keys("hvs.half\u{3}");
    holdfast_tests::until(std::time::Duration::from_secs(10), "the echo", || terminal.echoes().then_some(()));
    let (code, shown) = terminal.end();
    assert_eq!(code, 130, "{shown}");
    assert!(!shown.contains("half"), "{shown}");
}

#[test]
fn a_key_share_is_asked_for_and_not_shown() {
    let running = Running::start(Setup::shamir());
    running.root.post("sys/seal", json!({})).expect(204);
    let shares = &running.keys.shares;
    for (share, sealed) in [(&shares[0], "true"), (&shares[1], "false")] {
        let mut call = running.site.cli(&holdfast(), &running.server, "");
        let mut terminal = Terminal::start(call.args(["operator", "unseal"]), 80);
        terminal.until_shown("Unseal Key (will be hidden): ");
        terminal.until_silent();
        terminal.type_keys(&format!("{share}\r"));
        let (code, shown) = terminal.end();
        assert_eq!(code, 0, "{shown}");
        assert!(!shown.contains(share.as_str()), "{shown}");
        let row = shown.lines().find(|l| l.starts_with("Sealed")).expect("a row");
        assert!(row.trim_end().ends_with(sealed), "{shown}");
    }
    running.server.until_unsealed();
}

#[test]
fn where_questions_are_forbidden_none_is_asked() {
    let dev = Dev::new();
    for args in [&["login", "-non-interactive"][..], &["operator", "unseal", "-non-interactive"]] {
        let (code, shown) = Terminal::start(&dev.cli(args), 80).end();
        assert!(code != 0 && !shown.contains("will be hidden): "), "{args:?} {code}: {shown}");
    }
}

#[test]
fn a_bare_value_has_a_line_end_on_a_terminal_only() {
    let dev = Dev::new();
    let root = dev.server.client().with_token("root");
    root.post("secret/data/a", json!({ "data": { "k": "value" } })).expect(200);
    let mut call = dev.cli(&["kv", "get", "-field=k", "secret/a"]);
    call.env("VAULT_TOKEN", "root");
    let (code, shown) = Terminal::start(&call, 80).end();
    assert_eq!((code, shown.as_str()), (0, "value\r\n"));
    assert_eq!(holdfast_tests::program::run(&mut call).good(), "value");
}

/// A table is as wide as what it shows, on a narrow terminal and on a wide one: nothing is cut off.
#[test]
fn a_table_is_the_same_at_every_width() {
    let dev = Dev::new();
    let root = dev.server.client().with_token("root");
    let long = "long value ".repeat(30);
    root.post("secret/data/a", json!({ "data": { "k": long, "ключ": "v" } })).expect(200);
    root.post("sys/mounts/x", json!({ "type": "kv", "description": "a description of some length ".repeat(8) }))
        .expect(204);
    for args in [&["kv", "get", "secret/a"][..], &["secrets", "list"], &["secrets", "list", "-detailed"], &["status"]] {
        let mut call = dev.cli(args);
        call.env("VAULT_TOKEN", "root");
        let piped = holdfast_tests::program::run(&mut call).good();
        for columns in [20, 80, 400] {
            let (code, shown) = Terminal::start(&call, columns).end();
            assert_eq!((code, shown.replace("\r\n", "\n")), (0, piped.clone()), "{args:?} at {columns}");
        }
    }
}
