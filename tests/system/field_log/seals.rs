//! Reports about seals and HSMs (F076 to F090), on real SoftHSM tokens.

use std::thread;
use std::time::{Duration, Instant};

use holdfast_tests::program::{holdfast, run};
use holdfast_tests::token::{LABEL, PIN, library};
use holdfast_tests::{Client, Running, Setup, Site, until};
use rustix::process::Signal;
use serde_json::json;

const SIGN: &str = "sys/managed-keys/pkcs11/k/test/sign";

fn device(name: &str) -> String {
    format!(
        "device \"pkcs11\" \"{name}\" {{\n lib = \"{}\"\n token_label = \"{LABEL}\"\n pin = \"{PIN}\"\n}}\n",
        library().display()
    )
}

#[track_caller]
fn make_key(root: &Client, device: &str, label: &str) {
    let wanted = json!({
        "library": device, "key_label": label, "mechanism": "CKM_ECDSA", "curve": "P256", "allow_generate_key": true,
    });
    root.post("sys/managed-keys/pkcs11/k", wanted).expect(204);
}

/// F076: recovery shares open nothing, so a new root key of a device makes no shares up.
#[test]
fn a_new_root_key_of_a_device_makes_up_no_shares() {
    let running = Running::start(Setup::hardware());
    let (root, keys) = (&running.root, &running.keys);
    let asked = || json!({ "secret_shares": 1, "secret_threshold": 1 });
    let begun = root.post("sys/rotate/root/init", asked()).expect(200);
    let give = |share: &String| {
        let body = json!({ "key": share, "nonce": begun.at("/data/nonce") });
        root.post("sys/rotate/root/update", body).expect(200)
    };
    give(&keys.shares[0]);
    let done = give(&keys.shares[1]);
    assert_eq!(done.at("/data/complete"), true, "{done:?}");
    assert!(done.json()["data"]["keys"].as_array().is_none_or(Vec::is_empty), "{done:?}");
    // The shares are those of before.
    let begun = root.post("sys/rotate/root/init", asked()).expect(200);
    let body = json!({ "key": keys.shares[2], "nonce": begun.at("/data/nonce") });
    root.post("sys/rotate/root/update", body).expect(200);
}

/// F076, by the command line: it tells of no new shares where none are made.
#[test]
fn who_rotates_the_root_key_of_a_device_is_told_that_the_shares_did_not_change() {
    let running = Running::start(Setup::hardware());
    let (root, keys) = (&running.root, &running.keys);
    let rotate = |args: &[&str]| {
        let mut cli = running.site.cli(&holdfast(), &running.server, root.token());
        let said = run(cli.args(["operator", "rotate-keys"]).args(args));
        said.stderr.clone() + &said.good()
    };
    let begun = rotate(&["-init", "-key-shares=1", "-key-threshold=1"]);
    assert!(begun.contains("Rotation Progress") && !begun.to_lowercase().contains("new shares"), "{begun}");
    let nonce = root.get("sys/rotate/root/init").expect(200).text_at("/data/nonce");
    let nonce = format!("-nonce={nonce}");
    rotate(&[&nonce, &keys.shares[0]]);
    let done = rotate(&[&nonce, &keys.shares[1]]);
    assert!(done.contains("new root key") && done.contains("those of before count"), "{done}");
    assert!(!done.contains("new shares") && !done.contains("void"), "{done}");
    // Recovery shares are shares: of these there are new ones.
    let begun = rotate(&["-init", "-target=recovery", "-key-shares=2", "-key-threshold=2"]);
    assert!(begun.contains("New Shares") && begun.contains("shown in the clear"), "{begun}");
    let nonce = root.get("sys/rotate/recovery/init").expect(200).text_at("/data/nonce");
    let nonce = format!("-nonce={nonce}");
    rotate(&["-target=recovery", &nonce, &keys.shares[0]]);
    let done = rotate(&["-target=recovery", &nonce, &keys.shares[1]]);
    assert!(done.contains("Key 2: ") && done.contains("The new shares count from now on"), "{done}");
}

/// F077: a store of a device needs no recovery shares, what would need them says so, and the first rotation hands some out,
/// at once as there is nobody to wait for.
#[test]
fn a_store_without_recovery_shares_gets_its_first_by_whoever_may_do_everything() {
    let site = Site::make(Setup::hardware());
    let server = site.start();
    let none = json!({ "recovery_shares": 0, "recovery_threshold": 0 });
    let made = server.client().call("PUT", "sys/init", Some(&none)).expect(200);
    server.until_unsealed();
    let root = server.client().with_token(&made.text_at("/root_token"));
    root.post("sys/rotate/root", json!({})).expect(204);
    let said = root.post("sys/rotate/root/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).refused(400);
    assert!(said.contains("make recovery shares first"), "{said}");

    // Who may ask for a rotation of shares that others hold may not make shares for himself.
    let wanted = |verify: bool| json!({ "secret_shares": 3, "secret_threshold": 2, "require_verification": verify });
    let rules = r#"path "sys/rotate/*" { capabilities = ["create", "update", "read", "delete"] }"#;
    root.post("sys/policies/acl/rotates", json!({ "policy": rules })).expect(204);
    let made = root.post("auth/token/create", json!({ "policies": ["rotates"] })).expect(200);
    let rotates = root.with_token(&made.text_at("/auth/client_token"));
    assert!(rotates.post("sys/rotate/recovery/init", wanted(false)).refused(403).contains("sudo"));
    let shown = || root.get("sys/rotate/recovery/init").expect(200).json()["data"].clone();
    assert_eq!((&shown()["started"], &shown()["required"]), (&json!(false), &json!(0)));

    // With a verification they count when they were given back.
    let made = root.post("sys/rotate/recovery/init", wanted(true)).expect(200);
    assert_eq!((made.at("/data/complete"), made.at("/data/verification_required")), (json!(true), json!(true)));
    assert_eq!((&shown()["started"], &shown()["required"]), (&json!(true), &json!(0)));
    let shares: Vec<String> = serde_json::from_value(made.at("/data/keys")).expect("shares");
    assert_eq!(shares.len(), 3);
    for (n, share) in shares[..2].iter().enumerate() {
        let body = json!({ "key": share, "nonce": made.at("/data/verification_nonce") });
        let given = root.post("sys/rotate/recovery/verify", body).expect(200);
        assert_eq!(given.json()["data"]["complete"] == true, n == 1, "{given:?}");
    }
    assert_eq!((&shown()["started"], &shown()["required"]), (&json!(false), &json!(2)));

    // From now on their holders are asked, also after a restart.
    let server = site.start_after(server);
    server.until_unsealed();
    let root = server.client().with_token(root.token());
    let begun = root.post("sys/rotate/recovery/init", wanted(false)).expect(200);
    assert_eq!(begun.at("/data/started"), true);
    let give = |share: &str| {
        root.post("sys/rotate/recovery/update", json!({ "key": share, "nonce": begun.at("/data/nonce") }))
    };
    give(&shares[0]).expect(200);
    let done = give(&shares[2]).expect(200);
    assert_eq!((done.at("/data/complete"), done.at("/data/keys").as_array().map(Vec::len)), (json!(true), Some(3)));
}

/// F077, by the command line: the shares are printed, since nobody is asked for the last one.
#[test]
fn the_first_recovery_shares_are_printed_by_the_command_that_begins_the_rotation() {
    let site = Site::make(Setup::hardware());
    let server = site.start();
    let none = json!({ "recovery_shares": 0, "recovery_threshold": 0 });
    let made = server.client().call("PUT", "sys/init", Some(&none)).expect(200);
    server.until_unsealed();
    let token = made.text_at("/root_token");
    let mut rotate = site.cli(&holdfast(), &server, &token);
    rotate.args([
        "operator",
        "rotate-keys",
        "-init",
        "-target=recovery",
        "-key-shares=2",
        "-key-threshold=2",
        "-format=json",
    ]);
    let printed = run(&mut rotate).json();
    assert_eq!(printed["keys"].as_array().map(Vec::len), Some(2), "{printed}");
    let root = server.client().with_token(&token);
    assert_eq!(root.get("sys/rotate/recovery/init").expect(200).at("/data/required"), 2);
}

/// F081, F082: several devices and the seal on one token of one module, configurations read again and helpers killed
/// under load, and a stop in the middle of it.
#[test]
fn devices_of_one_module_are_declared_anew_and_killed_under_load_and_a_stop_ends_in_order() {
    let running = Running::start(Setup::hardware().with_top(&(device("one") + &device("two"))));
    let root = &running.root;
    make_key(root, "one", "under-load");
    let config = running.site.config();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let users: Vec<_> = (0..4)
            .map(|_| {
                let client = root.with_token(root.token()).patient_for(Duration::from_secs(60));
                let stop = &stop;
                scope.spawn(move || {
                    let mut signed = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        client.post(SIGN, json!({})).expect(200);
                        signed += 1;
                    }
                    signed
                })
            })
            .collect();
        for round in 0..12 {
            let more = if round % 2 == 0 { device("three") } else { String::new() };
            running.site.write_config(&format!("{config}\n{more}"));
            running.server.signal(Signal::HUP);
            if round % 3 == 0 {
                for pid in holdfast_tests::process::helpers(running.server.pid()) {
                    holdfast_tests::process::signal(pid, Signal::KILL);
                }
            }
            thread::sleep(Duration::from_millis(300));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let signed: usize = users.into_iter().map(|user| user.join().unwrap()).sum();
        assert!(signed > 20, "{signed} signatures in four seconds");
    });
    let client = root.with_token(root.token());
    let last =
        thread::spawn(move || while client.try_call("POST", SIGN, Some(&json!({}))).is_ok_and(|r| r.status == 200) {});
    thread::sleep(Duration::from_millis(300));
    let log = running.server.stop();
    last.join().unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

/// F085: many at once share a few sessions; what a killed server left behind keeps the next one from nothing.
#[test]
fn forty_signatures_at_once_and_a_kill_leave_the_token_free() {
    let running = Running::start(Setup::hardware().with_top(&device("main")));
    make_key(&running.root, "main", "forty");
    let forty = |root: &Client| {
        thread::scope(|scope| {
            for _ in 0..40 {
                let client = root.with_token(root.token()).patient_for(Duration::from_secs(60));
                scope.spawn(move || client.post(SIGN, json!({})).expect(200));
            }
        });
    };
    forty(&running.root);
    let running = running.restart(|server| server.kill());
    forty(&running.root);
}

/// F090: two servers with one token, each with four users who sign as fast as they are answered.
#[test]
fn two_servers_use_one_token_at_once() {
    let running = Running::start(Setup::hardware().with_top(&device("main")));
    make_key(&running.root, "main", "of-the-first");
    let other = Site::make(Setup::shamir().with_top(&device("main")));
    let mut command = other.server_command();
    command.env("SOFTHSM2_CONF", running.site.token.as_ref().expect("a token").conf());
    let server = holdfast_tests::Server::start(&mut command, other.folder(), 1, other.client_config());
    let keys = other.initialise(&server.client());
    for share in &keys.shares[..2] {
        server.client().call("PUT", "sys/unseal", Some(&json!({ "key": share }))).expect(200);
    }
    let second = server.client().with_token(&keys.root_token);
    make_key(&second, "main", "of-the-second");
    let slowest = thread::scope(|scope| {
        let users: Vec<_> = [&running.root, &second]
            .into_iter()
            .flat_map(|root| (0..4).map(move |_| root))
            .map(|root| {
                let client = root.with_token(root.token()).patient_for(Duration::from_secs(60));
                scope.spawn(move || {
                    let mut slowest = Duration::ZERO;
                    for _ in 0..50 {
                        let begun = Instant::now();
                        client.post(SIGN, json!({})).expect(200);
                        slowest = slowest.max(begun.elapsed());
                    }
                    slowest
                })
            })
            .collect();
        users.into_iter().map(|user| user.join().unwrap()).max().unwrap()
    });
    assert!(slowest < Duration::from_secs(20), "a signature took {slowest:?}");
    // Keys that the other one made are seen without a restart.
    second
        .post(
            "sys/managed-keys/pkcs11/first",
            json!({"library": "main", "key_label": "of-the-first", "mechanism": "CKM_ECDSA"}),
        )
        .expect(204);
    second.post("sys/managed-keys/pkcs11/first/test/sign", json!({})).expect(200);
}

/// F079, F083: a device by a slot that holds another token is refused with both names; one whose token comes later is found.
#[test]
fn a_slot_that_holds_another_token_is_said_with_both_names_and_a_token_that_comes_is_found() {
    let elsewhere = device("later").replace(LABEL, "made-later");
    let running = Running::start(Setup::hardware().with_top(&elsewhere));
    let root = &running.root;
    let status = || root.get("sys/devices").expect(200).at("/data/key_info/later");
    until(Duration::from_secs(30), "the trouble", || {
        let text = status()["last_error"].as_str()?.to_owned();
        (text.contains("made-later") && text.contains(LABEL)).then_some(())
    });
    let conf = running.site.token.as_ref().expect("a token").conf();
    let mut init = holdfast_tests::program::command("softhsm2-util");
    init.args(["--init-token", "--free", "--label", "made-later", "--pin", PIN, "--so-pin", "security-officer"]);
    run(init.env("SOFTHSM2_CONF", &conf)).good();
    until(Duration::from_secs(60), "the token that came", || (status()["healthy"] == true).then_some(()));
    let slot = root.get("sys/devices/later").expect(200).at("/data/slot");

    let by_slot = device("later").replace("token_label", &format!("slot = \"{slot}\"\n token_label"));
    running.site.write_config(&running.site.config().replace(&elsewhere, &by_slot));
    running.server.signal(Signal::HUP);
    until(Duration::from_secs(60), "the other token", || {
        let text = status()["last_error"].as_str()?.to_owned();
        (text.contains("'made-later'") && text.contains(&format!("'{LABEL}'"))).then_some(())
    });
    let mut list = running.site.cli(&holdfast(), &running.server, &running.keys.root_token);
    let listed = run(list.args(["operator", "device", "list"])).good();
    assert!(listed.contains("false") && listed.contains("made-later"), "{listed}");
}
