//! Several seals at once: any one opens the store, those that are away are told of, and locks are added, made anew and taken
//! away without a moment in which the store does not open.

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use holdfast_core::bare::BareRequest;
use holdfast_core::{Core, InitRequest, OldRoutes, Options, Refusal, Seal, SealSource, Seals};
use holdfast_hsm::memory::{Key, allow_unlocked};
use holdfast_sdk::{Operation, Value};
use holdfast_seal::{DeviceRefusal, Lock, SealDevice, Wrapped, xaes};
use holdfast_storage::Store;
use holdfast_storage::disk::RealDisk;
use serde_json::json;
use support::ask;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Here,
    Away,
    /// It does not take its PIN.
    WrongPin,
    /// Calls do not return before it is here again.
    Hangs,
}

/// A stand-in for a token: a key in memory that wraps as a token does, and that can be taken away.
struct Token {
    key: Key,
    state: Mutex<State>,
    changed: std::sync::Condvar,
    unwraps: Mutex<usize>,
}

impl Token {
    fn new() -> Arc<Token> {
        allow_unlocked();
        let key = Key::random(32).unwrap();
        Arc::new(Token { key, state: Mutex::new(State::Here), changed: Default::default(), unwraps: Mutex::new(0) })
    }

    fn is(&self, state: State) {
        *self.state.lock().unwrap() = state;
        self.changed.notify_all();
    }

    fn answer<T>(&self, work: impl FnOnce() -> Result<T, DeviceRefusal>) -> Result<T, DeviceRefusal> {
        let refused = |text: &str, retry| Err(DeviceRefusal::new(text, retry));
        let state = self.changed.wait_while(self.state.lock().unwrap(), |state| *state == State::Hangs).unwrap();
        match *state {
            State::Away => refused("the token is away", true),
            State::WrongPin => refused("the PIN is wrong", false),
            State::Here | State::Hangs => work(),
        }
    }
}

impl SealDevice for Token {
    fn backend(&self) -> &str {
        "pkcs11"
    }
    fn wrap(&self, root: &Key, context: &[u8]) -> Result<Wrapped, DeviceRefusal> {
        self.answer(|| {
            Ok(Wrapped {
                key_label: "k".into(),
                key_id: String::new(),
                mechanism: "XAES-256-GCM".into(),
                public_part: None,
                ciphertext: xaes::seal(self.key.expose(), context, root.expose()).unwrap(),
            })
        })
    }
    fn unwrap(&self, lock: &Lock, context: &[u8]) -> Result<Key, DeviceRefusal> {
        *self.unwraps.lock().unwrap() += 1;
        self.answer(|| {
            let other = |_| DeviceRefusal::new("another key made it", true);
            let mut root = xaes::unseal(self.key.expose(), context, &lock.ciphertext, "the root key").map_err(other)?;
            Ok(Key::from_slice(&mut root).unwrap())
        })
    }
    fn place(&self) -> String {
        "a token in memory".into()
    }
}

/// What a configuration says: names and tokens in the order of their priorities.
type Stanzas<'a> = &'a [(&'a str, &'a Arc<Token>)];

fn seals(stanzas: Stanzas) -> Seals {
    let one = |(at, (name, token)): (usize, &(&str, &Arc<Token>))| {
        let name = (!name.is_empty()).then(|| (*name).to_owned());
        let device: Arc<dyn SealDevice> = (*token).clone();
        Seal::new(name, at as u32 + 1, device)
    };
    Seals { present: stanzas.iter().enumerate().map(one).collect(), former: None }
}

/// A configuration file that is read again.
#[derive(Default)]
struct File(Mutex<Option<Vec<(String, Arc<Token>)>>>);

impl File {
    fn say(&self, stanzas: Stanzas) {
        *self.0.lock().unwrap() = Some(stanzas.iter().map(|(n, t)| ((*n).to_owned(), (*t).clone())).collect());
    }
}

impl SealSource for File {
    fn read(&self) -> Result<Seals, String> {
        let said = self.0.lock().unwrap();
        let said = said.as_ref().ok_or("c.hcl:1:1: nothing is said")?;
        Ok(seals(&said.iter().map(|(name, token)| (name.as_str(), token)).collect::<Vec<_>>()))
    }
}

struct Server {
    core: Arc<Core>,
    asking: tokio::task::JoinHandle<()>,
    file: Arc<File>,
}

impl Server {
    fn start(folder: &Path, stanzas: Stanzas) -> Server {
        let store = Store::open_on(Some(Arc::new(RealDisk::open(folder).unwrap())), 1 << 20).unwrap();
        let file = Arc::new(File::default());
        let options = Options { seals: seals(stanzas), seal_source: Some(file.clone()), ..support::options(store) };
        let core = Core::new(options);
        let asking = tokio::spawn(core.clone().unseal_with_device());
        Server { core, asking, file }
    }

    async fn status(&self) -> Value {
        let old_routes = OldRoutes::default();
        let request = BareRequest { method: "GET", path: "sys/seal-status", query: &[], body: b"", old_routes };
        let answer = self.core.bare(&request).await.expect("a route without a token");
        serde_json::from_slice(&answer.body).unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..2000 {
            let status = self.status().await;
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("never {what}: {}", self.status().await);
    }

    async fn stop(self) {
        self.core.seal_to_stop().await;
        self.asking.abort();
        let _ended_by_that = self.asking.await;
        self.core.shut_down();
        // The folder is free for the next one when nothing of this one is left.
        let left = Arc::downgrade(&self.core);
        drop(self.core);
        for _ in 0..1000 {
            if left.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("something of a server that was stopped goes on");
    }
}

/// A store with something in it.
struct House {
    folder: tempfile::TempDir,
    root: String,
    /// Recovery shares, in hex.
    shares: Vec<String>,
}

impl House {
    async fn build(stanzas: Stanzas<'_>, form: &str) -> House {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), stanzas);
        let request = InitRequest {
            recovery_shares: 3,
            recovery_threshold: 2,
            recovery_form: Some(form.into()),
            ..InitRequest::default()
        };
        let made = server.core.initialise(&request).await.unwrap();
        let root = made.root_token.expose().clone();
        let shares = made.recovery_keys.iter().map(|share| hex::encode(share.expose())).collect();
        ask(&server.core, &root, Operation::Update, "cubbyhole/kept", json!({"k": "v"})).await.expect(204);
        server.stop().await;
        House { folder, root, shares }
    }

    /// A server that has opened the store.
    async fn open(&self, stanzas: Stanzas<'_>) -> Server {
        let server = Server::start(self.folder.path(), stanzas);
        server.until("unsealed", |s| s["sealed"] == false).await;
        let read = ask(&server.core, &self.root, Operation::Read, "cubbyhole/kept", Value::Null).await.expect(200);
        assert_eq!(read["data"]["k"], "v");
        server
    }

    async fn opens_by(&self, stanzas: Stanzas<'_>) {
        self.open(stanzas).await.stop().await;
    }

    /// It does not open, and why.
    async fn stays_sealed(&self, stanzas: Stanzas<'_>) -> String {
        let server = Server::start(self.folder.path(), stanzas);
        let status = server.until("said", |s| s["seal_trouble"].is_string()).await;
        assert_eq!(status["sealed"], true, "{status}");
        server.stop().await;
        status["seal_trouble"].as_str().unwrap().to_owned()
    }

    async fn write(&self, server: &Server, path: &str) -> support::Reply {
        ask(&server.core, &self.root, Operation::Update, path, json!({})).await
    }

    async fn backends(&self, server: &Server) -> Value {
        let _checked = server.core.check_device().await;
        ask(&server.core, &self.root, Operation::Read, "sys/seal-backend-status", Value::Null).await.expect(200)["data"]
            .clone()
    }

    async fn rewrap(&self, server: &Server) -> Value {
        self.write(server, "sys/seal/rewrap").await.expect(200);
        loop {
            let now = ask(&server.core, &self.root, Operation::Read, "sys/seal/rewrap", Value::Null).await.expect(200);
            if now["data"]["is_running"] == false {
                return now["data"].clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

/// `name outcome` of each.
fn outcomes(done: &Value) -> Vec<String> {
    assert!(done.get("error").is_none(), "{done}");
    let one = |of: &Value| format!("{} {}", of["name"].as_str().unwrap(), of["outcome"].as_str().unwrap());
    done["seals"].as_array().unwrap().iter().map(one).collect()
}

fn backend<'v>(status: &'v Value, name: &str) -> &'v Value {
    let all = status["backends"].as_array().unwrap();
    all.iter().find(|b| b["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_of_three_opens_the_store_and_one_that_is_away_is_told_of() {
    let [a, b, c] = [Token::new(), Token::new(), Token::new()];
    let all: Stanzas = &[("a", &a), ("b", &b), ("c", &c)];
    let house = House::build(all, "authorise").await;
    for (away, opens) in [([&a, &b], "c"), ([&b, &c], "a"), ([&c, &a], "b")] {
        away.iter().for_each(|token| token.is(State::Away));
        let server = house.open(all).await;
        let status = house.backends(&server).await;
        assert_eq!((&status["healthy"], &status["fully_wrapped"]), (&json!(false), &json!(true)), "{status}");
        for name in ["a", "b", "c"] {
            let of = backend(&status, name);
            assert_eq!(of["healthy"], name == opens, "{of}");
            assert_eq!(of["unhealthy_since"].is_string(), name != opens, "{of}");
        }
        assert_eq!(server.status().await["type"], "multiseal");
        let text = server.core.metrics.prometheus(&server.core.metrics_now());
        assert!(text.contains(&format!("holdfast_seal_device_healthy{{seal=\"{opens}\"}} 1")), "{text}");
        assert_eq!(text.matches("holdfast_seal_device_healthy{").count(), 3, "{text}");
        server.stop().await;
        away.iter().for_each(|token| token.is(State::Here));
    }
    [&a, &b, &c].iter().for_each(|token| token.is(State::Away));
    let trouble = house.stays_sealed(all).await;
    for name in ["a", "b", "c"] {
        assert!(trouble.contains(&format!("seal \"{name}\": the token is away")), "{trouble}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_hangs_does_not_hold_up_the_others_and_a_refused_pin_is_not_tried_again() {
    let [a, b] = [Token::new(), Token::new()];
    let both: Stanzas = &[("a", &a), ("b", &b)];
    let house = House::build(both, "authorise").await;
    a.is(State::Hangs);
    let server = house.open(both).await;
    a.is(State::Here);
    server.stop().await;

    // The one is tried again and again, the other's PIN once.
    a.is(State::WrongPin);
    b.is(State::Away);
    let (before, server) = (*a.unwraps.lock().unwrap(), Server::start(house.folder.path(), both));
    server.until("said", |s| s["seal_trouble"].as_str().is_some_and(|t| t.contains("PIN is wrong"))).await;
    let asked = *b.unwraps.lock().unwrap();
    while *b.unwraps.lock().unwrap() < asked + 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(*a.unwraps.lock().unwrap(), before + 1);
    let status = server.status().await;
    assert!(status["seal_trouble"].as_str().unwrap().contains("PIN is wrong"), "{status}");
    b.is(State::Here);
    server.until("unsealed", |s| s["sealed"] == false).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_that_was_away_when_the_root_key_was_made_anew_is_named_and_repaired() {
    let [a, b] = [Token::new(), Token::new()];
    let both: Stanzas = &[("a", &a), ("b", &b)];
    let house = House::build(both, "authorise").await;
    a.is(State::Away);
    let server = house.open(both).await;
    let rotated = house.write(&server, "sys/rotate/root").await.expect(200);
    let warning = rotated["warnings"][0].as_str().unwrap();
    assert!(warning.contains("\"a\"") && warning.contains("rewrap") && warning.contains("away"), "{warning}");
    let status = house.backends(&server).await;
    assert_eq!((&status["fully_wrapped"], &backend(&status, "a")["wrapped"]), (&json!(false), &json!(false)));
    // With none of them there is no new root key.
    b.is(State::Away);
    house.write(&server, "sys/rotate/root").await.expect(500);
    b.is(State::Here);
    assert_eq!(outcomes(&house.rewrap(&server).await), ["a failed", "b good"]);
    server.stop().await;

    // It is here again, and its lock holds the root key of before.
    a.is(State::Here);
    b.is(State::Away);
    let trouble = house.stays_sealed(both).await;
    assert!(trouble.contains("seal \"b\": the token is away"), "{trouble}");
    assert!(house.stays_sealed(&[("a", &a)]).await.contains("former root key"));
    b.is(State::Here);
    let server = house.open(both).await;
    assert_eq!(house.backends(&server).await["fully_wrapped"], false);
    assert_eq!(outcomes(&house.rewrap(&server).await), ["a wrapped", "b good"]);
    assert_eq!(house.backends(&server).await["fully_wrapped"], true);
    house.write(&server, "sys/rotate/root").await.expect(204);
    server.stop().await;
    house.opens_by(&[("a", &a)]).await;
    house.opens_by(&[("b", &b)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_is_added_replaces_another_and_what_is_left_of_that_goes_by_an_act_alone() {
    let [a, b] = [Token::new(), Token::new()];
    // As stores are today: one, without a name.
    let house = House::build(&[("", &a)], "authorise").await;
    let server = house.open(&[("new", &b), ("old", &a)]).await;
    let status = house.backends(&server).await;
    assert_eq!(
        (&status["fully_wrapped"], &backend(&status, "new")["wrapped"]),
        (&json!(false), &json!(false)),
        "{status}"
    );
    assert_eq!(outcomes(&house.rewrap(&server).await), ["new wrapped", "old renamed"]);
    assert_eq!(outcomes(&house.rewrap(&server).await), ["new good", "old good"]);
    let status = house.backends(&server).await;
    assert_eq!((&status["fully_wrapped"], &status["healthy"]), (&json!(true), &json!(true)), "{status}");
    assert_eq!(
        (&backend(&status, "old")["priority"], &backend(&status, "old")["place"]),
        (&json!(2), &json!("a token in memory"))
    );
    server.stop().await;
    house.opens_by(&[("old", &a)]).await;

    // Its stanza is taken away: the lock is still there, and it is said so.
    let server = house.open(&[("new", &b)]).await;
    let status = house.backends(&server).await;
    assert_eq!((&status["fully_wrapped"], &backend(&status, "old")["configured"]), (&json!(false), &json!(false)));
    let refused = house.write(&server, "sys/rotate/root").await.expect(400);
    assert!(refused["errors"][0].as_str().unwrap().contains("operator seal rewrap"), "{refused}");
    server.stop().await;
    house.opens_by(&[("old", &a)]).await;
    let server = house.open(&[("new", &b)]).await;
    assert_eq!(outcomes(&house.rewrap(&server).await), ["new good", "\"old\" (pkcs11) removed"]);
    assert_eq!(house.backends(&server).await["backends"].as_array().unwrap().len(), 1);
    server.stop().await;
    house.opens_by(&[("new", &b)]).await;
    // The name may go, and come back.
    house.opens_by(&[("", &b)]).await;
    house.stays_sealed(&[("old", &a)]).await;
    // A seal that opens nothing yet does not take the place of the only one.
    house.stays_sealed(&[("third", &Token::new())]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_lock_stays_while_a_new_one_is_missing_and_escrowed_shares_have_to_be_there() {
    let [a, b, c] = [Token::new(), Token::new(), Token::new()];
    let house = House::build(&[("a", &a), ("b", &b)], "escrow").await;
    // `b` is to be replaced by `c`, which does not work.
    c.is(State::Away);
    let server = house.open(&[("a", &a), ("c", &c)]).await;
    let done = house.rewrap(&server).await;
    assert_eq!(outcomes(&done), ["a good", "c failed", "\"b\" (pkcs11) kept"]);
    assert!(done["seals"][2]["error"].as_str().unwrap().contains("not all seals"), "{done}");
    c.is(State::Here);
    // A new root key is locked by the shares too.
    let done = house.rewrap(&server).await;
    assert_eq!(outcomes(&done), ["a good", "c wrapped", "\"b\" (pkcs11) kept"]);
    assert!(done["seals"][2]["error"].as_str().unwrap().contains("rotate the recovery shares"), "{done}");
    server.stop().await;
    for stanzas in [&[("b", &b)], &[("c", &c)]] {
        house.opens_by(stanzas).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_a_device_that_is_gone_for_good_goes_with_new_escrowed_shares() {
    let [a, b] = [Token::new(), Token::new()];
    let house = House::build(&[("a", &a), ("b", &b)], "escrow").await;
    // `b` is broken, and its stanza is taken away.
    let server = house.open(&[("a", &a)]).await;
    let done = house.rewrap(&server).await;
    assert_eq!(outcomes(&done), ["a good", "\"b\" (pkcs11) kept"]);
    let new_root = house.write(&server, "sys/rotate/root").await.expect(400);
    assert!(new_root["errors"][0].as_str().unwrap().contains("no seal stanza names the lock \"b\""), "{new_root}");

    let update = |path: &'static str, body: Value| ask(&server.core, &house.root, Operation::Update, path, body);
    let wanted = json!({"secret_shares": 2, "secret_threshold": 2});
    let begun = update("sys/rotate/recovery/init", wanted).await.expect(200);
    let give = |share: &str| json!({"key": share, "nonce": begun["data"]["nonce"]});
    update("sys/rotate/recovery/update", give(&house.shares[0])).await.expect(200);
    let done = update("sys/rotate/recovery/update", give(&house.shares[1])).await.expect(200);
    assert_eq!(done["data"]["complete"], true, "{done}");
    assert!(
        done["warnings"][0].as_str().unwrap().contains("\"b\" (pkcs11), which no seal stanza names, was taken away")
    );
    let fresh: Vec<String> = serde_json::from_value(done["data"]["keys"].clone()).unwrap();

    let status = house.backends(&server).await;
    assert!(status["backends"].as_array().unwrap().iter().all(|backend| backend["name"] != "b"), "{status}");
    assert_eq!(outcomes(&house.rewrap(&server).await), ["a good"]);
    house.write(&server, "sys/rotate/root").await.expect(204);
    server.stop().await;
    house.opens_by(&[("a", &a)]).await;
    house.stays_sealed(&[("b", &b)]).await;
    // The new shares open it too, and the former ones do not.
    a.is(State::Away);
    let server = Server::start(house.folder.path(), &[("a", &a)]);
    server.until("said", |s| s["seal_trouble"].is_string()).await;
    for (shares, opens) in [(&house.shares[..2], false), (&fresh[..], true)] {
        for share in shares {
            let body = json!({"key": share}).to_string();
            let old_routes = OldRoutes::default();
            let request =
                BareRequest { method: "PUT", path: "sys/unseal", query: &[], body: body.as_bytes(), old_routes };
            let _answer = server.core.bare(&request).await.expect("a route without a token");
        }
        assert_eq!(server.status().await["sealed"] == false, opens);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_tries_what_the_file_says_by_now_and_changes_nothing() {
    let [a, b] = [Token::new(), Token::new()];
    let house = House::build(&[("a", &a)], "authorise").await;
    let server = house.open(&[("a", &a)]).await;
    let before = house.backends(&server).await["backends"][0]["id"].clone();
    let plan = || async {
        let planned = house.write(&server, "sys/seal/plan").await.expect(200)["data"].clone();
        (planned["possible"] == true, planned["nodes"][0].clone())
    };
    let would = |of: &Value| of["would"].as_str().unwrap().to_owned();
    let (possible, node) = plan().await;
    assert!(!possible && node["error"].as_str().unwrap().contains("c.hcl:1:1"), "{node}");

    server.file.say(&[("b", &b), ("a", &a)]);
    let (possible, node) = plan().await;
    assert!(possible && would(&node).contains("opens by a"), "{node}");
    assert!(would(&node["seals"][0]).contains("makes a lock") && would(&node["seals"][1]).contains("opens the store"));
    assert_eq!(node["locks"][0]["would"], "stays", "{node}");

    b.is(State::WrongPin);
    let (possible, node) = plan().await;
    assert!(!possible && node["seals"][0]["steps"][0]["error"] == "the PIN is wrong", "{node}");
    assert_eq!(node["seals"][1]["works"], true);
    b.is(State::Here);

    // The only one that opens the store is left out.
    for stanzas in [&[("b", &b)][..], &[]] {
        server.file.say(stanzas);
        let (possible, node) = plan().await;
        assert!(!possible && would(&node).contains("would stay sealed"), "{node}");
    }
    let status = house.backends(&server).await;
    assert_eq!((status["backends"].as_array().unwrap().len(), &status["backends"][0]["id"]), (1, &before), "{status}");

    // Without a restart: the server takes what the file says, and its locks follow.
    server.file.say(&[("b", &b), ("a", &a)]);
    server.core.declare_seals(server.file.read().unwrap());
    assert_eq!(outcomes(&house.rewrap(&server).await), ["b wrapped", "a renamed"]);
    server.file.say(&[("b", &b)]);
    let (possible, node) = plan().await;
    assert!(possible && node["locks"].as_array().unwrap().iter().any(|l| would(l).contains("taken away")), "{node}");
    server.stop().await;
    house.opens_by(&[("b", &b)]).await;

    // With shares there is nothing to wrap anew.
    let shares = Core::new(support::options(Store::open_on(None, 1 << 20).unwrap()));
    let Err(Refusal(status, _)) = shares.begin_rewrap() else { panic!("a sealed server wraps nothing") };
    assert_eq!(status, 503);
}

/// What is in a folder, as a disk holds it after a kill.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrapping_anew_that_is_broken_off_at_any_step_leaves_a_store_that_opens_and_can_be_gone_on_with() {
    let [a, b, c] = [Token::new(), Token::new(), Token::new()];
    let house = House::build(&[("a", &a), ("b", &b)], "authorise").await;
    // One goes, one comes: both steps in one run.
    let after: Stanzas = &[("a", &a), ("c", &c)];
    let server = house.open(after).await;
    let copies = tempfile::tempdir().unwrap();
    let points: Arc<Mutex<Vec<String>>> = Arc::default();
    server.core.failpoints.set({
        let (points, from, to) = (points.clone(), house.folder.path().to_owned(), copies.path().to_owned());
        move |point| {
            let mut points = points.lock().unwrap();
            let name = format!("{}-{point}", points.len());
            copy(&from, &to.join(&name));
            points.push(name);
            Box::pin(async {})
        }
    });
    // Not by a request, which has points of its own.
    server.core.begin_rewrap().unwrap();
    while server.core.rewrapping().is_running {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let done = Value::Object(server.core.rewrapping().shown());
    assert_eq!(outcomes(&done), ["a good", "c wrapped", "\"b\" (pkcs11) removed"]);
    server.core.failpoints.clear();
    server.stop().await;
    let points = points.lock().unwrap().clone();
    assert_eq!(points, ["0-wrapped", "1-proposed", "2-committed", "3-proposed", "4-committed"]);
    for point in points {
        let (root, shares) = (house.root.clone(), house.shares.clone());
        let at = House { folder: tempfile::tempdir_in(copies.path()).unwrap(), root, shares };
        copy(&copies.path().join(&point), at.folder.path());
        // What was there and stays opens in any case; what goes does until the last commit.
        at.opens_by(&[("a", &a)]).await;
        match point.as_str() {
            "0-wrapped" => at.opens_by(&[("b", &b)]).await,
            "2-committed" => {
                at.opens_by(&[("b", &b)]).await;
                at.opens_by(&[("c", &c)]).await;
            }
            "4-committed" => drop(at.stays_sealed(&[("b", &b)]).await),
            // On the disk or not: it is one of both.
            _ => {}
        }
        let server = at.open(after).await;
        let done = at.rewrap(&server).await;
        assert_eq!(done["entries"]["failed"], 0, "{point}: {done}");
        server.stop().await;
        at.opens_by(&[("c", &c)]).await;
        at.stays_sealed(&[("b", &b)]).await;
    }
}
