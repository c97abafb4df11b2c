//! Moving a store from one seal to another: whoever breaks it off at any point finds a store that opens by one of the
//! two, and is told by which.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_core::bare::BareRequest;
use holdfast_core::failpoint::SEAL_POINTS;
use holdfast_core::{Core, InitRequest, OldRoutes, Options, Seal};
use holdfast_hsm::memory::{Key, allow_unlocked};
use holdfast_sdk::{Operation, Value};
use holdfast_seal::{DeviceRefusal, Lock, SealDevice, Wrapped, xaes};
use holdfast_storage::Store;
use holdfast_storage::disk::{Disk, RealDisk, SimDisk};
use serde_json::json;
use support::ask;

/// A stand-in for a token: a key in memory that wraps as a token does, and that can be taken away.
struct KeyInMemory {
    kind: &'static str,
    key: Key,
    away: Mutex<bool>,
}

impl KeyInMemory {
    fn new(kind: &'static str) -> Arc<KeyInMemory> {
        allow_unlocked();
        Arc::new(KeyInMemory { kind, key: Key::random(32).unwrap(), away: Mutex::new(false) })
    }

    fn take_away(&self, away: bool) {
        *self.away.lock().unwrap() = away;
    }

    fn answer<T>(&self, work: impl FnOnce() -> Result<T, DeviceRefusal>) -> Result<T, DeviceRefusal> {
        if *self.away.lock().unwrap() {
            return Err(DeviceRefusal::new("the token is away", true));
        }
        work()
    }
}

impl SealDevice for KeyInMemory {
    fn backend(&self) -> &str {
        self.kind
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
        self.answer(|| {
            let other = |_| DeviceRefusal::new("another key made it", true);
            let mut root = xaes::unseal(self.key.expose(), context, &lock.ciphertext, "the root key").map_err(other)?;
            Ok(Key::from_slice(&mut root).unwrap())
        })
    }
}

type Device = Option<Arc<KeyInMemory>>;

/// What a configuration says: the seal that is to open the store, and the one that is disabled.
#[derive(Clone, Default)]
struct Seals {
    present: Device,
    former: Device,
}

impl Seals {
    fn of(present: &Device) -> Seals {
        Seals { present: present.clone(), former: None }
    }

    fn from(former: &Device, present: &Device) -> Seals {
        Seals { present: present.clone(), former: former.clone() }
    }
}

/// A server on a store in a folder, and its asking of the device.
struct Server(Arc<Core>, tokio::task::JoinHandle<()>);

impl Server {
    fn start(folder: &Path, seals: &Seals) -> Server {
        Server::start_on(Arc::new(RealDisk::open(folder).unwrap()), seals)
    }

    fn start_on(disk: Arc<dyn Disk>, seals: &Seals) -> Server {
        let as_seal = |d: &Device| d.clone().map(|d| Seal::alone(d));
        let store = Store::open_on(Some(disk), 1 << 20).unwrap();
        let core = Core::new(Options {
            seals: holdfast_core::Seals {
                present: as_seal(&seals.present).into_iter().collect(),
                former: as_seal(&seals.former),
            },
            ..support::options(store)
        });
        let asking = tokio::spawn(core.clone().unseal_with_device());
        Server(core, asking)
    }

    async fn bare(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = serde_json::to_vec(&body).unwrap();
        let request = BareRequest { method, path, query: &[], body: &body, old_routes: OldRoutes::default() };
        let answer = self.0.bare(&request).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    async fn status(&self) -> Value {
        self.bare("GET", "sys/seal-status", Value::Null).await.1
    }

    async fn give(&self, share: &str, migrate: bool) -> (u16, Value) {
        self.bare("PUT", "sys/unseal", json!({"key": share, "migrate": migrate})).await
    }

    /// Give shares until one is refused; the last answer.
    async fn give_all(&self, shares: &[String], migrate: bool) -> (u16, Value) {
        let mut last = (0, Value::Null);
        for share in shares {
            last = self.give(share, migrate).await;
            if last.0 != 200 {
                break;
            }
        }
        last
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            let status = self.status().await;
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("never {what}: {}", self.status().await);
    }

    async fn until_unsealed(&self) {
        self.until("unsealed", |s| s["sealed"] == false).await;
    }

    async fn stop(self) {
        self.0.seal_to_stop().await;
        self.1.abort();
        let _ended_by_that = self.1.await;
        self.0.shut_down();
        // The folder is free for the next one when nothing of this one is left.
        let left = Arc::downgrade(&self.0);
        drop(self.0);
        for _ in 0..1000 {
            if left.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("something of a server that was stopped goes on");
    }

    async fn read_secret(&self, token: &str) {
        let read = ask(&self.0, token, Operation::Read, "cubbyhole/kept", Value::Null).await.expect(200);
        assert_eq!(read["data"]["k"], "v");
    }
}

/// A store that was sealed so, with something in it; its root token and its shares.
struct House {
    folder: tempfile::TempDir,
    /// In place of the folder.
    simulated: Option<SimDisk>,
    root: String,
    shares: Vec<String>,
}

impl House {
    async fn build(seal: &Device, form: &str) -> House {
        House::build_on(None, seal, form).await
    }

    async fn build_on(simulated: Option<SimDisk>, seal: &Device, form: &str) -> House {
        let empty = House { folder: tempfile::tempdir().unwrap(), simulated, root: String::new(), shares: Vec::new() };
        let server = empty.start(&Seals::of(seal));
        let request = match seal {
            None => InitRequest { secret_shares: 3, secret_threshold: 2, ..InitRequest::default() },
            Some(_) => InitRequest {
                recovery_shares: 3,
                recovery_threshold: 2,
                recovery_form: Some(form.into()),
                ..InitRequest::default()
            },
        };
        let made = server.0.initialise(&request).await.unwrap();
        let keys = if seal.is_some() { &made.recovery_keys } else { &made.keys };
        let shares: Vec<String> = keys.iter().map(|k| hex::encode(k.expose())).collect();
        if seal.is_none() {
            server.give_all(&shares[..2], false).await;
        }
        let root = made.root_token.expose().clone();
        ask(&server.0, &root, Operation::Update, "cubbyhole/kept", json!({"k": "v"})).await.expect(204);
        server.stop().await;
        House { root, shares, ..empty }
    }

    fn start(&self, seals: &Seals) -> Server {
        match &self.simulated {
            Some(disk) => Server::start_on(Arc::new(disk.clone()), seals),
            None => Server::start(self.folder.path(), seals),
        }
    }

    /// The same store as another disk holds it.
    fn on(&self, disk: SimDisk) -> House {
        House {
            folder: tempfile::tempdir().unwrap(),
            simulated: Some(disk),
            root: self.root.clone(),
            shares: self.shares.clone(),
        }
    }

    /// With the configuration of a migration that was broken off: whether the former seal opens the store still. It can then be gone on
    /// with, and be left.
    async fn opens_one_way(&self, seals: &Seals) -> bool {
        let Seals { former: before, present: after } = seals;
        let server = self.start(seals);
        let decided = |s: &Value| s["migration"] == true || s["sealed"] == false || after.is_none();
        let is_old = server.until("decided", decided).await["migration"] == true;
        server.stop().await;
        if is_old {
            match before {
                None => self.opens_by_shares().await,
                Some(_) => self.opens_by(before).await,
            }
            self.migrate(seals, before.as_ref().map_or("shamir", |d| d.kind)).await;
        }
        match after {
            None => self.opens_by_shares().await,
            Some(_) => self.opens_by(after).await,
        }
        is_old
    }

    /// Move the store, with everything that is said on the way.
    async fn migrate(&self, seals: &Seals, from: &str) {
        let server = self.start(seals);
        let to = seals.present.as_ref().map_or("shamir", |d| d.kind);
        let status = server.until("waiting", |s| s["migration"] == true).await;
        assert_eq!(
            (&status["sealed"], &status["type"], &status["migration_from"], &status["t"], &status["n"]),
            (&json!(true), &json!(to), &json!(from), &json!(2), &json!(3))
        );
        let trouble = status["seal_trouble"].as_str().unwrap();
        assert!(trouble.contains(from) && trouble.contains(to) && trouble.contains("-migrate"), "{trouble}");
        let (code, status) = server.give_all(&self.shares[..2], true).await;
        assert_eq!((code, &status["sealed"], &status["migration"]), (200, &json!(false), &json!(false)), "{status}");
        server.read_secret(&self.root).await;
        server.stop().await;
    }

    /// The store opens by this device alone, and its shares authorise.
    async fn opens_by(&self, device: &Device) {
        let server = self.start(&Seals::of(device));
        server.until_unsealed().await;
        server.read_secret(&self.root).await;
        let status = server.status().await;
        assert_eq!((&status["recovery_seal"], &status["migration"]), (&json!(true), &json!(false)));
        let init = json!({"secret_shares": 3, "secret_threshold": 2});
        let begun = ask(&server.0, &self.root, Operation::Update, "sys/rotate/recovery/init", init).await.expect(200);
        let cancelled = ask(&server.0, &self.root, Operation::Delete, "sys/rotate/recovery/init", Value::Null).await;
        assert!(begun["data"]["required"] == 2 && cancelled.status < 300, "{begun} {}", cancelled.body);
        server.stop().await;
    }

    /// The store opens by its shares alone.
    async fn opens_by_shares(&self) {
        let server = self.start(&Seals::default());
        let status = server.status().await;
        assert_eq!((&status["type"], &status["migration"], &status["t"]), (&json!("shamir"), &json!(false), &json!(2)));
        let (code, status) = server.give_all(&self.shares[1..], false).await;
        assert_eq!((code, &status["sealed"]), (200, &json!(false)), "{status}");
        server.read_secret(&self.root).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_goes_from_shares_to_a_device_to_another_kind_to_another_of_its_kind_and_back_to_shares() {
    let [one, two, three] = ["pkcs11", "tpm", "tpm"].map(|kind| Some(KeyInMemory::new(kind)));
    let house = House::build(&None, "").await;
    house.migrate(&Seals::of(&one), "shamir").await;
    house.opens_by(&one).await;
    house.migrate(&Seals::from(&one, &two), "pkcs11").await;
    house.opens_by(&two).await;
    house.migrate(&Seals::from(&two, &three), "tpm").await;
    house.opens_by(&three).await;
    house.migrate(&Seals::from(&three, &None), "tpm").await;
    house.opens_by_shares().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_migration_the_former_seal_opens_nothing_and_its_stanza_does_no_harm() {
    let [one, two] = ["pkcs11", "pkcs11"].map(|kind| Some(KeyInMemory::new(kind)));
    let house = House::build(&None, "").await;
    house.migrate(&Seals::of(&one), "shamir").await;
    let server = house.start(&Seals::default());
    let (code, said) = server.give(&house.shares[0], false).await;
    assert!(code == 400 && said.to_string().contains("authorise"), "{said}");
    server.stop().await;
    house.migrate(&Seals::from(&one, &two), "pkcs11").await;
    // The stanza that is left over: the new one opens.
    let server = house.start(&Seals::from(&one, &two));
    server.until_unsealed().await;
    assert_eq!(server.give(&house.shares[0], true).await.0, 500);
    server.stop().await;
    let server = house.start(&Seals::of(&one));
    let status = server.until("said", |s| s["seal_trouble"].is_string()).await;
    assert_eq!(status["sealed"], true, "{status}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn escrowed_shares_stay_a_lock_beside_another_device_and_take_a_store_out_of_one_that_is_gone() {
    let [one, two] = ["pkcs11", "tpm"].map(|kind| Some(KeyInMemory::new(kind)));
    let house = House::build(&one, "escrow").await;
    house.migrate(&Seals::from(&one, &two), "pkcs11").await;
    two.as_ref().unwrap().take_away(true);
    let server = house.start(&Seals::of(&two));
    server.until("away", |s| s["seal_trouble"].as_str().is_some_and(|t| t.contains("away"))).await;
    let (code, status) = server.give_all(&house.shares[..2], false).await;
    assert_eq!((code, &status["sealed"]), (200, &json!(false)), "{status}");
    server.stop().await;
    // Its device does not come back.
    house.migrate(&Seals::from(&two, &None), "tpm").await;
    house.opens_by_shares().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_gives_nothing_or_something_wrong_changes_nothing() {
    let [one, two] = ["pkcs11", "tpm"].map(|kind| Some(KeyInMemory::new(kind)));
    let house = House::build(&None, "").await;
    let foreign = House::build(&None, "").await;

    // Without `migrate`, and with shares of another store.
    let server = house.start(&Seals::of(&one));
    let (code, said) = server.give(&house.shares[0], false).await;
    assert!(code == 400 && said.to_string().contains("seal migration is pending"), "{said}");
    assert_eq!(server.status().await["progress"], 0);
    let (code, said) = server.give_all(&foreign.shares[..2], true).await;
    assert!(code == 400 && said.to_string().contains("another cluster"), "{said}");
    // The new device is away.
    one.as_ref().unwrap().take_away(true);
    let (code, said) = server.give_all(&house.shares[..2], true).await;
    assert!(code == 500 && said.to_string().contains("the token is away"), "{said}");
    assert_eq!((&server.status().await["sealed"], &server.status().await["migration"]), (&json!(true), &json!(true)));
    one.as_ref().unwrap().take_away(false);
    server.stop().await;
    house.opens_by_shares().await;

    // `migrate` where nothing is to be migrated.
    let server = house.start(&Seals::default());
    let (code, said) = server.give(&house.shares[0], true).await;
    assert!(code == 500 && said.to_string().contains("no migration seal found"), "{said}");
    server.stop().await;

    house.migrate(&Seals::of(&one), "shamir").await;
    // No stanza of the former seal; one of another; and none at all.
    for seals in [Seals::of(&two), Seals::default(), Seals::from(&two, &None)] {
        let server = house.start(&seals);
        let status = server.until("said", |s| s["seal_trouble"].is_string()).await;
        assert_eq!(status["migration"], false, "{status}");
        assert!(status["seal_trouble"].as_str().unwrap().contains("seal stanza"), "{status}");
        assert_eq!(server.give(&house.shares[0], true).await.0, 500);
        server.stop().await;
    }
    // The former device is away, and recovery keys of another store.
    let server = house.start(&Seals::from(&one, &two));
    one.as_ref().unwrap().take_away(true);
    let (code, said) = server.give_all(&house.shares[..2], true).await;
    assert!(code == 503 && said.to_string().contains("the token is away"), "{said}");
    one.as_ref().unwrap().take_away(false);
    let (code, said) = server.give_all(&foreign.shares[..2], true).await;
    assert!(code == 400 && said.to_string().contains("another cluster"), "{said}");
    server.stop().await;
    house.opens_by(&one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_recovery_shares_says_that_nobody_can_agree() {
    let one = Some(KeyInMemory::new("pkcs11"));
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Seals::of(&one));
    server.0.initialise(&InitRequest::default()).await.unwrap();
    server.stop().await;
    let server = Server::start(folder.path(), &Seals::from(&one, &None));
    let (code, said) = server.give(&"ab".repeat(33), true).await;
    assert!(code == 400 && said.to_string().contains("initialised without"), "{said}");
    server.stop().await;
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

/// Migrate, and keep what the disk holds at each point; each copy is then what a kill at that point leaves.
async fn broken_off_everywhere(before: Device, after: Device) {
    let house = House::build(&before, "authorise").await;
    let seals = Seals::from(&before, &after);
    let server = house.start(&seals);
    server.until("waiting", |s| s["migration"] == true).await;
    let copies = tempfile::tempdir().unwrap();
    let points: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    server.0.failpoints.set({
        let (points, from, to) = (points.clone(), house.folder.path().to_owned(), copies.path().to_owned());
        move |point| {
            if !points.lock().unwrap().contains(&point) {
                copy(&from, &to.join(point));
                points.lock().unwrap().push(point);
            }
            Box::pin(async {})
        }
    });
    let (code, status) = server.give_all(&house.shares[..2], true).await;
    assert_eq!((code, &status["sealed"]), (200, &json!(false)), "{status}");
    server.0.failpoints.clear();
    server.stop().await;
    assert_eq!(*points.lock().unwrap(), SEAL_POINTS);

    for point in SEAL_POINTS {
        let at = House {
            folder: tempfile::tempdir_in(copies.path()).unwrap(),
            simulated: None,
            root: house.root.clone(),
            shares: house.shares.clone(),
        };
        copy(&copies.path().join(point), at.folder.path());
        // With the same configuration: seal-status says which way it opens.
        let is_old = at.opens_one_way(&seals).await;
        if ["agreed", "wrapped"].contains(&point) {
            assert!(is_old, "{point}: nothing was committed yet");
        }
        assert!(point != "committed" || !is_old, "what was committed is lost");
        println!("killed at {point}: {}", if is_old { "the former seal opens" } else { "the new seal opens" });
    }
}

/// What the disk holds if the process is killed before its next step, and if power goes there and takes what was not synced.
struct Broken {
    killed: SimDisk,
    unpowered: SimDisk,
    was_answered: bool,
}

/// Each change of the disk is a step, from the last share to the checkpoint with which the server ends: it is broken off before each.
async fn broken_off_at_each_write(before: Device, after: Device) {
    let house = House::build_on(Some(SimDisk::default()), &before, "authorise").await;
    let built = house.simulated.clone().unwrap();
    let seals = Seals::from(&before, &after);
    let mut seen = [0, 0];
    for step in 0.. {
        let disk = built.power_cut(|| true);
        let at = house.on(disk.clone());
        let server = at.start(&seals);
        server.until("waiting", |s| s["migration"] == true).await;
        server.give(&at.shares[0], true).await;
        let (slot, answered): (Arc<Mutex<Option<Broken>>>, Arc<AtomicBool>) = Default::default();
        let (found, is_answered) = (slot.clone(), answered.clone());
        disk.before_step(disk.steps() + step, move |disk| {
            let was_answered = is_answered.load(Ordering::SeqCst);
            let (killed, unpowered) = (disk.power_cut(|| true), disk.power_cut(|| false));
            *found.lock().unwrap() = Some(Broken { killed, unpowered, was_answered });
        });
        let (code, status) = server.give(&at.shares[1], true).await;
        assert_eq!((code, &status["sealed"]), (200, &json!(false)), "{status}");
        answered.store(true, Ordering::SeqCst);
        server.stop().await;
        let Some(Broken { killed, unpowered, was_answered }) = slot.lock().unwrap().take() else { break };
        for disk in [killed, unpowered] {
            let is_old = house.on(disk).opens_one_way(&seals).await;
            assert!(step > 0 || is_old, "nothing was written yet");
            assert!(!is_old || !was_answered, "step {step}: what was answered is lost");
            seen[usize::from(is_old)] += 1;
        }
    }
    println!(
        "killed and without power at each step: the new seal opened {} times, the former one {}",
        seen[0], seen[1]
    );
    assert!(seen[0] > 0 && seen[1] > 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_broken_off_before_any_write_to_the_disk_opens_one_way_or_the_other() {
    let device = |kind| Some(KeyInMemory::new(kind));
    broken_off_at_each_write(None, device("pkcs11")).await;
    broken_off_at_each_write(device("pkcs11"), None).await;
    broken_off_at_each_write(device("pkcs11"), device("tpm")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_broken_off_at_any_point_leaves_a_store_that_opens_one_way_or_the_other() {
    let device = |kind| Some(KeyInMemory::new(kind));
    broken_off_everywhere(None, device("pkcs11")).await;
    broken_off_everywhere(device("pkcs11"), None).await;
    broken_off_everywhere(device("pkcs11"), device("tpm")).await;
    broken_off_everywhere(device("pkcs11"), device("pkcs11")).await;
}
