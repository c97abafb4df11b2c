//! Checkpoints of the audit log that a key in a token signs.

use std::fs;
use std::time::Duration;

use holdfast_tests::{Client, Running, Setup, until};
use rustix::process::Signal;

use super::blinking::end_helpers;
use super::managed_keys::signing_key;
use super::token_device;
use crate::audit::chain::{keep, verify};

const LONG: Duration = Duration::from_secs(60);
/// A checkpoint is due after this many lines, and a request has two.
const ENOUGH: usize = 400;

fn stanza(key: &str, more: &str) -> String {
    format!("audit_signing {{\n device = \"main\"\n key_label = \"managed-{key}\"\n {more}\n}}\n")
}

fn reads(root: &Client) {
    for _ in 0..ENOUGH {
        root.get("sys/mounts").expect(200);
    }
}

/// What the metrics say of the audit file.
fn unsealed(root: &Client) -> u64 {
    let metrics = root.get("sys/metrics?format=prometheus").expect(200).text();
    let line = metrics.lines().find(|l| l.starts_with("holdfast_audit_unsealed_lines{")).expect("the gauge");
    line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
}

fn kept_in_the_token(running: &Running) -> usize {
    fs::read_to_string(running.site.audit_file()).expect("a file").matches(r#""kept_in":"device \"main\"""#).count()
}

#[test]
fn a_key_in_a_token_seals_the_audit_log_and_what_is_written_while_it_is_away_is_told() {
    let top = token_device("main") + &stanza("audit", "refuse_after = \"15s\"");
    let running = Running::start(Setup::hardware().with_top(&top));
    let (root, log) = (&running.root, running.site.audit_file());
    // Nothing was signed so far, and nobody waits for it.
    signing_key(root, "pkcs11", "main", "audit");
    reads(root);
    running.server.until_logged("checkpoints of the audit logs are signed by a key in a device");
    until(LONG, "a checkpoint by the token", || (kept_in_the_token(&running) > 0).then_some(()));
    let own_alone = {
        let keys = until(LONG, "its public key", || {
            let keys = fs::read_to_string(keep(&running, "public-key")).expect("a file");
            (keys.matches("BEGIN PUBLIC KEY").count() == 2).then_some(keys)
        });
        let path = running.site.folder().join("own-alone");
        let own = keys.rfind("-----BEGIN").expect("a key");
        fs::write(&path, &keys[own..]).expect("a file");
        path
    };
    let key = keep(&running, "public-key");
    let (code, said) = verify(&running, &key, None, &[&log]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = verify(&running, &own_alone, None, &[&log]);
    assert!(code == Some(1) && said.contains("which was not given"), "{said}");

    // Away: requests go on, and it is said; after a while they are refused, as the stanza wants it.
    let token = running.site.token.as_ref().expect("a token");
    token.pull_out();
    end_helpers(&running);
    reads(root);
    running.server.until_logged("checkpoints of the audit logs are not signed, and their lines not sealed");
    assert!(unsealed(root) >= 2 * ENOUGH as u64 - 10);
    until(LONG, "a refusal", || {
        let answer = root.get("sys/mounts");
        assert!([200, 500].contains(&answer.status), "{answer:?}");
        (answer.status == 500).then_some(())
    });
    token.put_back();
    until(LONG, "an answer", || (root.get("sys/mounts").status == 200).then_some(()));
    running.server.until_logged("checkpoints of the audit logs are signed again");
    let told = fs::read_to_string(&log).expect("a file");
    for act in ["does not sign", "signs again"] {
        let wanted = format!("the key of the audit logs' checkpoints {act}");
        until(LONG, &wanted, || fs::read_to_string(&log).expect("a file").contains(&wanted).then_some(()));
    }
    assert!(told.contains("sys/audit-chain/sign"));

    // A clean end is sealed to its last line, a crash is not; both are intact.
    let running = running.restart(|server| drop(server.stop()));
    let checkpoints = keep(&running, "checkpoints");
    let (code, said) = verify(&running, &key, Some(&checkpoints), &[&log]);
    assert_eq!(code, Some(0), "{said}");
    running.root.get("sys/mounts").expect(200);
    let running = running.restart(|server| server.kill());
    let (code, said) = verify(&running, &key, Some(&checkpoints), &[&log]);
    assert_eq!(code, Some(0), "{said}");
    let changed = running.site.folder().join("changed.log");
    let whole = fs::read_to_string(&log).expect("a file");
    fs::write(&changed, whole.replacen("managed-keys/pkcs11/audit", "managed-keys/pkcs11/other", 1)).expect("a file");
    assert_eq!(verify(&running, &key, None, &[&changed]).0, Some(1));
}

#[test]
fn another_key_and_the_servers_own_take_over_at_a_hangup() {
    let running = Running::start(Setup::hardware().with_top(&token_device("main")));
    let (root, log) = (&running.root, running.site.audit_file());
    signing_key(root, "pkcs11", "main", "first");
    signing_key(root, "pkcs11", "main", "second");
    let without = running.site.config();
    let mut before = 0;
    for name in ["first", "second"] {
        running.site.write_config(&(without.clone() + &stanza(name, "")));
        running.server.signal(Signal::HUP);
        until(LONG, "checkpoints by that key", || {
            reads(root);
            (kept_in_the_token(&running) > before).then_some(())
        });
        before = kept_in_the_token(&running);
    }
    running.site.write_config(&without);
    running.server.signal(Signal::HUP);
    let text = || fs::read_to_string(&log).expect("a file");
    let of_own = |text: &str| text.matches(r#""kept_in":"barrier""#).count();
    let earlier = of_own(&text());
    until(LONG, "checkpoints by the server's own key", || {
        reads(root);
        (of_own(&text()) > earlier).then_some(())
    });
    let key = keep(&running, "public-key");
    assert_eq!(fs::read_to_string(&key).expect("a file").matches("BEGIN PUBLIC KEY").count(), 3);
    let (code, said) = verify(&running, &key, None, &[&log]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_device_that_no_stanza_names_and_a_short_patience_are_refused_with_file_and_line() {
    for (more, said) in [
        (stanza("k", "").replace("\"main\"", "\"elsewhere\""), "audit_signing names the device \"elsewhere\""),
        (token_device("main") + &stanza("k", "refuse_after = \"2s\""), "refuse_after"),
        (token_device("main") + "audit_signing {\n device = \"main\"\n}\n", "key_label"),
    ] {
        let site = holdfast_tests::Site::make(Setup::hardware().with_top(&more));
        let refused = site.start_in_vain();
        assert!(refused.contains(said) && refused.contains(".hcl:"), "{refused}");
    }
}
