//! Devices that take what they are asked and never answer, and such as answer with bytes that mean nothing, while the server
//! serves: a request fails in its time and says why, who needs no device notices nothing, and nobody restarts anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_tests::tpm::{Babbler, Tpm};
use holdfast_tests::yubihsm::Hsm;
use holdfast_tests::{Client, Running, until};
use rustix::process::Signal;
use serde_json::json;

use super::managed_keys::signing_key;
use super::{patient, status, until_healthy, with_tpm};
use crate::seal_kinds::{House, Kind, Stanza, name_of};
use crate::seal_yubihsm::with_hsm;

/// A request that needs a device waits no longer than this for one that hangs.
const DEADLINE: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(60);

/// What a device of this test does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Hangs,
    Babbles,
}

/// What can be told to hang or to babble.
enum Peer<'d> {
    Tpm(&'d mut Tpm),
    Hsm(&'d Hsm),
}

impl Peer<'_> {
    fn of(house: &mut House, kind: Kind) -> Peer<'_> {
        match kind {
            Kind::Tpm => Peer::Tpm(&mut house.tpm),
            Kind::YubiHsm => Peer::Hsm(&house.hsm),
            other => panic!("{other:?} does neither"),
        }
    }

    /// What is to be kept until the end.
    fn begin(&mut self, fault: Fault) -> Option<Babbler> {
        match (self, fault) {
            (Peer::Tpm(tpm), Fault::Hangs) => tpm.freeze(),
            (Peer::Tpm(tpm), Fault::Babbles) => return Some(tpm.babbles()),
            (Peer::Hsm(hsm), Fault::Hangs) => hsm.hang(true),
            (Peer::Hsm(hsm), Fault::Babbles) => hsm.babble(true),
        }
        None
    }

    fn end(&mut self, fault: Fault, babbler: Option<Babbler>) {
        match (self, fault) {
            (Peer::Tpm(tpm), Fault::Hangs) => tpm.go_on(),
            (Peer::Tpm(tpm), Fault::Babbles) => {
                assert!(babbler.is_some_and(|babbler| babbler.answers() > 0), "nobody has heard it");
                tpm.start_again();
            }
            (Peer::Hsm(hsm), Fault::Hangs) => hsm.hang(false),
            (Peer::Hsm(hsm), Fault::Babbles) => hsm.babble(false),
        }
    }
}

/// Do something while somebody else writes and reads at this mount of kv, and asks for the health.
fn while_others_go_on<T>(root: &Client, key: &str, act: impl FnOnce() -> T) -> T {
    // With a connection of its own.
    let (done, root) = (AtomicBool::new(false), root.with_token(root.token()));
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let (mut slowest, mut rounds) = ((Duration::ZERO, ""), 0);
            let mut timed = |what: &'static str, act: &dyn Fn()| {
                let begun = Instant::now();
                act();
                slowest = slowest.max((begun.elapsed(), what));
            };
            while !done.load(Ordering::SeqCst) || rounds == 0 {
                timed("a write", &|| {
                    let written = root.post(key, json!({ "round": rounds, "data": { "round": rounds } }));
                    assert!([200, 204].contains(&written.status), "{written:?}");
                });
                timed("a read", &|| drop(root.get(key).expect(200)));
                timed("the health", &|| drop(root.get("sys/health").expect(200)));
                rounds += 1;
            }
            (rounds, slowest)
        });
        let said = act();
        done.store(true, Ordering::SeqCst);
        let (rounds, slowest) = others.join().unwrap();
        assert!(slowest.0 < Duration::from_secs(5), "others waited {slowest:?}, in {rounds} rounds");
        said
    })
}

fn a_named_device(running: &mut Running, [kind, name]: [&str; 2], peer: &mut Peer<'_>) {
    let root = &patient(&running.root);
    signing_key(root, kind, name, "k");
    let sign = format!("sys/managed-keys/{kind}/k/test/sign");
    root.post(&sign, json!({})).expect(200);
    let metric = |healthy: u8| {
        let line = format!("holdfast_device_healthy{{device=\"{name}\",type=\"{kind}\"}} {healthy}\n");
        until(SOON, &line, || {
            root.get("sys/metrics?format=prometheus").expect(200).text().contains(&line).then_some(())
        });
    };
    for fault in [Fault::Hangs, Fault::Babbles] {
        println!("{name}: {fault:?}");
        // What is no YubiHSM's answer is no matter of the moment.
        let code = if (fault, kind) == (Fault::Babbles, "yubihsm") { 500 } else { 503 };
        let babbler = peer.begin(fault);
        let begun = Instant::now();
        let said = while_others_go_on(root, "secret/data/a", || root.post(&sign, json!({})).refused(code));
        println!("after {:?}: {said}", begun.elapsed());
        assert!(begun.elapsed() < DEADLINE, "{fault:?}: {:?}", begun.elapsed());
        assert!(said.contains("managed key \"k\"") && said.contains(name), "{said}");
        until_healthy(root, name, false);
        let error = status(root, name)["last_error"].as_str().expect("a text").to_owned();
        println!("{error}");
        assert!(says(&error, fault), "{fault:?}: {error}");
        metric(0);
        // By now it is away for long, and nobody else waits for it.
        until(SOON, "a refusal at once", || {
            let begun = Instant::now();
            root.post(&sign, json!({})).refused(code);
            (begun.elapsed() < Duration::from_secs(1)).then_some(())
        });
        peer.end(fault, babbler);
        until_healthy(root, name, true);
        metric(1);
        root.post(&sign, json!({})).expect(200);
        assert!(running.server.is_alive());
    }
}

#[test]
fn a_tpm_that_hangs_or_babbles_costs_its_own_users_alone_and_is_well_afterwards() {
    let (mut tpm, mut running) = with_tpm();
    let mut peer = Peer::Tpm(&mut tpm);
    a_named_device(&mut running, ["tpm", "chip"], &mut peer);
}

#[test]
fn a_connector_that_hangs_or_babbles_costs_its_own_users_alone_and_is_well_afterwards() {
    let (hsm, mut running) = with_hsm("");
    a_named_device(&mut running, ["yubihsm", "hsm"], &mut Peer::Hsm(&hsm));
}

/// The seal's device, while the store is open, and at a start.
fn a_seal(kind: Kind) {
    let mut house = House::build(&[Stanza::Named(kind, 1)]);
    let name = name_of(kind);
    for fault in [Fault::Hangs, Fault::Babbles] {
        println!("{name}: {fault:?}");
        let mut server = house.site.start();
        server.until_unsealed();
        let root = patient(&house.root(&server));
        until(SOON, "a first check", || house.backend(&server, &name)["last_opened"].as_str().map(drop));
        let babbler = Peer::of(&mut house, kind).begin(fault);
        server.signal(Signal::HUP);
        let said = while_others_go_on(&root, "kv/a", || {
            until(SOON, "the fault is told", || {
                let backend = house.backend(&server, &name);
                (backend["healthy"] == false).then(|| backend["last_error"].as_str().unwrap_or_default().to_owned())
            })
        });
        println!("{said}");
        assert!(says(&said, fault), "{said}");
        assert_eq!(root.get("sys/health").expect(200).at("/seals_failing"), 1);
        let metric = format!("holdfast_seal_device_healthy{{seal=\"{name}\"}} 0\n");
        assert!(root.get("sys/metrics?format=prometheus").expect(200).text().contains(&metric));
        let begun = Instant::now();
        let refused = while_others_go_on(&root, "kv/a", || root.post("sys/rotate/root", json!({})));
        println!("after {:?}: {}", begun.elapsed(), refused.text());
        assert!(refused.status >= 500, "{refused:?}");
        assert!(begun.elapsed() < DEADLINE, "{fault:?}: {:?}", begun.elapsed());
        Peer::of(&mut house, kind).end(fault, babbler);
        server.signal(Signal::HUP);
        until(SOON, "it is well again", || (house.backend(&server, &name)["healthy"] == true).then_some(()));
        assert!(root.get("sys/health").expect(200).json().get("seals_failing").is_none());
        root.post("sys/rotate/root", json!({})).expect(204);
        house.is_kept(&server);
        assert!(server.is_alive());
        server.stop();

        // At a start it stays sealed, says why, and opens by itself as soon as it can.
        let babbler = Peer::of(&mut house, kind).begin(fault);
        let server = house.site.start();
        let client = server.client();
        let said = until(SOON, "a reason", || {
            let status = client.get("sys/seal-status").expect(200).json();
            assert_eq!(status["sealed"], true, "{status}");
            status["seal_trouble"].as_str().map(str::to_owned)
        });
        println!("{said}");
        assert!(says(&said, fault), "{said}");
        Peer::of(&mut house, kind).end(fault, babbler);
        server.until_unsealed();
        house.is_kept(&server);
        server.stop();
    }
}

/// Whether an operator reads out of it what is the matter.
fn says(said: &str, fault: Fault) -> bool {
    match fault {
        Fault::Hangs => said.contains("no answer"),
        Fault::Babbles => said.contains("answer"),
    }
}

#[test]
fn a_tpm_that_hangs_or_babbles_is_told_by_the_seal_and_opens_the_store_afterwards() {
    a_seal(Kind::Tpm);
}

#[test]
fn a_connector_that_hangs_or_babbles_is_told_by_the_seal_and_opens_the_store_afterwards() {
    a_seal(Kind::YubiHsm);
}
