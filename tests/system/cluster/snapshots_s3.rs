//! Snapshots that go to an S3-compatible server by themselves: proven there, kept in number, brought back; and what
//! the server says when it cannot.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use holdfast_tests::certificates::{Authority, Certified};
use holdfast_tests::connection::free_port;
use holdfast_tests::object_store::{ACCESS_KEY, BUCKET, ObjectStore, SECRET_KEY};
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Client, Reply, until};

use super::disturbed;
use super::nodes::{Between, Nodes, WITHIN};

const CONFIG: &str = "sys/storage/raft/snapshot-auto/config/offsite";
const STATUS: &str = "sys/storage/raft/snapshot-auto/status/offsite";
const TOKEN: &str = "session-token-of-the-bucket";

/// Everything is logged.
struct Loud;

impl Between for Loud {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        Command::new(holdfast())
    }

    fn top(&self, _n: usize) -> String {
        "log_level = \"trace\"\n".into()
    }
}

fn one_node() -> Nodes {
    Nodes::start_with(vec![(free_port(), free_port())], Box::new(Loud))
}

/// A plan that makes one each second.
fn plan(store: &ObjectStore, more: Value) -> Value {
    let mut plan = store.plan();
    for (key, value) in [("interval", "1s".into()), ("retain", json!(2)), ("path_prefix", "a/b/".into())] {
        plan[key] = value;
    }
    plan["file_prefix"] = "hf".into();
    for (key, value) in more.as_object().expect("an object") {
        plan[key] = value.clone();
    }
    plan
}

fn snapshots(store: &ObjectStore) -> Vec<String> {
    store.keys().into_iter().filter(|key| key.starts_with("a/b/hf-")).collect()
}

#[track_caller]
fn until_error(root: &Client, wanted: &str) -> Reply {
    until(WITHIN, wanted, || {
        let status = root.get(STATUS).expect(200);
        status.text_at("/data/last_snapshot_error").contains(wanted).then_some(status)
    })
}

/// A new one is proven after this call.
#[track_caller]
fn until_proven(root: &Client) -> Reply {
    let proven = |status: &Reply| status.text_at("/data/last_proven");
    let before = proven(&root.get(STATUS).expect(200));
    until(WITHIN, "a proven snapshot", || {
        let status = root.get(STATUS).expect(200);
        (status.at("/data/consecutive_errors") == 0 && proven(&status) != before && !proven(&status).is_empty())
            .then_some(status)
    })
}

#[test]
fn snapshots_in_a_bucket_are_proven_old_ones_go_and_one_comes_back_in_another_cluster() {
    let store = ObjectStore::start();
    let mut nodes = one_node();
    let root = nodes.root(0);
    root.post("sys/mounts/kv", json!({"type": "kv"})).expect(204);
    // More than one part of 8 MiB.
    for n in 0..20 {
        let mut bytes = [0; 400_000];
        getrandom::fill(&mut bytes).expect("randomness");
        root.post(&format!("kv/large-{n}"), json!({"v": hex::encode(bytes)})).expect(204);
    }
    root.post("kv/a", json!({"v": 1})).expect(204);
    let foreign = ["a/b/hf-1.snap.old", "a/b/hf-x.snap", "a/b/other-1.snap", "a/hf-1.snap", "hf-1.snap"];
    foreign.iter().for_each(|key| store.put(key, "not a snapshot"));

    root.post(CONFIG, plan(&store, json!({}))).expect(204);
    let first = until(WITHIN, "a snapshot", || snapshots(&store).into_iter().find(|k| !foreign.contains(&k.as_str())));
    until_proven(&root);
    let ours = || store.keys().into_iter().filter(|key| !foreign.contains(&key.as_str())).collect::<Vec<_>>();
    until(WITHIN, "the first one is let go", || (!ours().contains(&first) && ours().len() == 2).then_some(()));
    // With a long interval, what is there stays.
    root.post(CONFIG, json!({"interval": "24h"})).expect(204);
    let kept = until(WITHIN, "the last one", || {
        let (before, url) = (ours(), root.get(STATUS).expect(200).text_at("/data/last_snapshot_url"));
        let key = url.strip_prefix(&format!("s3://{BUCKET}/"))?.to_owned();
        (store.uploads() == 0 && before.last() == Some(&key) && before == ours()).then_some(key)
    });
    let keys = store.keys();
    assert!(foreign.iter().all(|key| keys.contains(&(*key).to_owned())), "{keys:?}");
    let status = root.get(STATUS).expect(200);
    assert!(status.at("/data/last_proven_entries").as_u64().is_some_and(|n| n > 20), "{}", status.text());
    let health = nodes.client(0).get("sys/health").expect(200).json();
    assert!(health["last_proven_backup_age_secs"].as_u64().is_some_and(|age| age < 3600), "{health}");
    let scratch = fs::read_dir(nodes.stored(0))
        .unwrap()
        .filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().starts_with("snapshot-proof"));
    assert_eq!(scratch.count(), 0, "nothing is left beside the store");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("from-s3.snap");
    store.download(&kept, &file);
    let mut fresh = Nodes::start(1);
    let snapshot = |nodes: &Nodes, args: &[&str]| {
        let mut snapshot = command(holdfast());
        snapshot.args(["operator", "raft", "snapshot"]).args(args).arg(&file);
        let address = format!("http://127.0.0.1:{}", nodes.port(0));
        run(snapshot.env("HOLDFAST_ADDR", address).env("HOLDFAST_TOKEN", nodes.root(0).token()))
    };
    assert_eq!(snapshot(&nodes, &["verify", "-format=json"]).json()["opens"], true);
    snapshot(&fresh, &["restore", "-force"]).good();
    until(WITHIN, "a sealed node", || fresh.is_sealed(0).filter(|sealed| *sealed));
    fresh.take_keys_of(&nodes);
    fresh.give_share(0);
    assert_eq!(fresh.read(0, "kv/a").at("/data/v"), 1);
    nodes.kill(0);
}

#[test]
fn the_secrets_of_a_bucket_are_shown_nowhere_and_the_store_does_not_show_them_either() {
    let store = ObjectStore::start();
    let mut nodes = one_node();
    let root = nodes.root(0);
    let wanted = plan(&store, json!({"aws_session_token": TOKEN}));
    root.post(CONFIG, wanted).expect(204);
    until_proven(&root);
    let shown = root.get(CONFIG).expect(200);
    assert_eq!(shown.at("/data/aws_access_key_id"), ACCESS_KEY);
    assert_eq!(
        (shown.at("/data/storage_type"), shown.at("/data/aws_s3_force_path_style")),
        (json!("aws-s3"), json!(true))
    );
    let status = root.get(STATUS).expect(200);
    // A wrong key makes the server say what it was asked; that is not repeated.
    root.post(CONFIG, json!({"aws_secret_access_key": "another-s3cr3t"})).expect(204);
    let failed = until_error(&root, "SignatureDoesNotMatch");
    let log = nodes.server(0).log();
    nodes.kill(0);
    let mut stored = Vec::new();
    let mut folders = vec![nodes.stored(0)];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() { folders.push(path) } else { stored.extend(fs::read(path).unwrap()) }
        }
    }
    assert!(log.contains("SignatureDoesNotMatch") && stored.len() > 1000);
    for secret in [SECRET_KEY, TOKEN, "another-s3cr3t", "X-Amz-Signature"] {
        for (place, text) in
            [("config", shown.text()), ("status", status.text()), ("error", failed.text()), ("log", log.clone())]
        {
            assert!(!text.contains(secret), "{secret} is in the {place}");
        }
        assert!(!stored.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret} is in the store");
    }
}

#[test]
fn what_a_bucket_refuses_is_in_the_status_and_is_mended_without_a_hand() {
    let mut store = ObjectStore::start();
    let nodes = one_node();
    let root = nodes.root(0);
    for (wrong, says) in [
        (json!({"aws_s3_bucket": ""}), "aws_s3_bucket is required"),
        (json!({"aws_secret_access_key": ""}), "aws_secret_access_key is required"),
        (json!({"local_max_space": 1}), "local_max_space is for storage_type local"),
        (json!({"aws_s3_kms_key": "k"}), "aws_s3_enable_kms"),
        (json!({"aws_s3_endpoint": "https://127.0.0.1"}), "aws_s3_disable_tls"),
        (json!({"path_prefix": "a/../b"}), "path_prefix"),
        (json!({"storage_type": "azure-blob"}), "is not offered"),
        (json!({"storage_type": "local", "path_prefix": "/x", "local_max_space": 1}), "is for storage_type aws-s3"),
    ] {
        let text = root.post(CONFIG, plan(&store, wrong)).refused(400);
        assert!(text.contains(says) && !text.contains(SECRET_KEY), "{says}: {text}");
    }
    root.get(CONFIG).expect(404);

    root.post(CONFIG, plan(&store, json!({"aws_secret_access_key": "wrong"}))).expect(204);
    until_error(&root, "SignatureDoesNotMatch");
    root.post(CONFIG, json!({"aws_secret_access_key": SECRET_KEY, "aws_s3_bucket": "missing"})).expect(204);
    until_error(&root, "NoSuchBucket");
    assert_eq!((root.get(STATUS).text_at("/data/last_proven"), store.keys().len()), (String::new(), 0));
    let another = json!({"aws_s3_bucket": BUCKET, "aws_access_key_id": "nobody:here"});
    assert!(root.post(CONFIG, another).refused(400).contains("aws_secret_access_key is required"));
    root.post(CONFIG, json!({"aws_s3_bucket": BUCKET})).expect(204);
    until_proven(&root);

    store.stop();
    until_error(&root, "cannot be reached");
    store.go();
    until_proven(&root);
    root.post(CONFIG, json!({"interval": "24h"})).expect(204);
    until(WITHIN, "no upload that is left", || (store.uploads() == 0).then_some(()));
}

#[test]
fn a_snapshot_that_the_bucket_gives_back_changed_does_not_count_and_older_ones_stay() {
    let store = ObjectStore::start();
    let nodes = one_node();
    let root = nodes.root(0);
    let liar = Liar::before(store.port());
    root.post(CONFIG, plan(&store, json!({"retain": 1, "aws_s3_endpoint": format!("127.0.0.1:{}", liar.port)})))
        .expect(204);
    until_proven(&root);
    liar.lies.store(true, Ordering::SeqCst);
    until_error(&root, "not what was sent");
    let (kept, lied) = (store.keys(), liar.told.load(Ordering::SeqCst));
    assert_eq!(kept.len(), 1, "the proven one is there, and no other: {kept:?}");
    let url = root.get(STATUS).expect(200).text_at("/data/last_snapshot_url");
    assert_eq!(url, format!("s3://{BUCKET}/{}", kept[0]));
    until(WITHIN, "another lie", || (liar.told.load(Ordering::SeqCst) > lied).then_some(()));
    until(WITHIN, "its end", || (store.keys() == kept).then_some(()));
    liar.lies.store(false, Ordering::SeqCst);
    until_proven(&root);
    until(WITHIN, "the new one alone", || {
        let keys = store.keys();
        (keys.len() == 1 && keys != kept).then_some(())
    });
}

/// What a node that died has begun is taken away by the next that leads.
#[test]
fn an_upload_that_a_killed_node_has_left_is_taken_away() {
    let store = ObjectStore::start();
    let mut nodes = one_node();
    let root = nodes.root(0);
    let liar = Liar::before(store.port());
    root.post(CONFIG, plan(&store, json!({"retain": 5, "aws_s3_endpoint": format!("127.0.0.1:{}", liar.port)})))
        .expect(204);
    until_proven(&root);
    // From now on nothing is read back: the upload ends, and its proof never comes.
    liar.hangs.store(true, Ordering::SeqCst);
    let held = until(WITHIN, "a proof that hangs", || (liar.held.load(Ordering::SeqCst) > 0).then(|| store.keys()));
    nodes.kill(0);
    liar.hangs.store(false, Ordering::SeqCst);
    let unproven = held.last().expect("an object").clone();
    assert!(store.keys().contains(&unproven));
    nodes.start_again(0);
    until_proven(&nodes.root(0));
    assert!(!store.keys().contains(&unproven), "nobody has proven {unproven}");
    assert_eq!(store.uploads(), 0);
}

/// Whoever is at the other end of the line takes nothing more, or says nothing more, and closes nothing.
#[test]
fn a_bucket_that_stops_in_the_middle_is_given_up_and_said_and_the_next_round_goes_well() {
    let store = ObjectStore::start();
    let nodes = one_node();
    let root = nodes.root(0);
    // A part that no buffer of a socket takes as a whole.
    root.post("sys/mounts/kv", json!({"type": "kv"})).expect(204);
    for n in 0..8 {
        let mut bytes = [0; 400_000];
        getrandom::fill(&mut bytes).expect("randomness");
        root.post(&format!("kv/large-{n}"), json!({"v": hex::encode(bytes)})).expect(204);
    }
    let liar = Liar::before(store.port());
    let endpoint = format!("127.0.0.1:{}", liar.port);
    let wanted = plan(&store, json!({"retain": 2, "aws_s3_endpoint": endpoint, "aws_s3_timeout": "5s"}));
    root.post(CONFIG, wanted).expect(204);
    assert_eq!(root.get(CONFIG).expect(200).at("/data/aws_s3_timeout"), 5);
    assert!(root.post(CONFIG, json!({"aws_s3_timeout": "1s"})).refused(400).contains("5 seconds to an hour"));
    until_proven(&root);
    let scratch = || -> Vec<String> {
        let names = fs::read_dir(nodes.stored(0)).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("snapshot-proof")).collect()
    };
    let health = || nodes.client(0).get("sys/health").expect(200).json();
    for (stops, error) in [
        (&liar.takes, "cannot send a part: the server took nothing more"),
        (&liar.gives, "cannot read the snapshot back: the server took nothing more"),
    ] {
        let before = stops.times.load(Ordering::SeqCst);
        stops.now.store(true, Ordering::SeqCst);
        let failed = until_error(&root, error);
        assert!(
            failed.text_at("/data/last_snapshot_error").contains("within 5 s (aws_s3_timeout)"),
            "{}",
            failed.text()
        );
        assert!(stops.times.load(Ordering::SeqCst) > before);
        // One try after the other: each is the only one, and none leaves its file.
        until(WITHIN, "a count of tries that failed", || {
            let health = health();
            let tries = health["backup_failed_tries"].as_u64()?;
            (tries >= 2 && health["last_proven_backup_age_secs"].is_u64()).then_some(())
        });
        let metrics = root.get("sys/metrics?format=prometheus").expect(200).text();
        let tries = metrics.lines().find_map(|l| l.strip_prefix("holdfast_backup_failed_tries "));
        assert!(tries.is_some_and(|n| n.parse::<f64>().unwrap() >= 2.0), "{tries:?}");
        until(WITHIN, "no file of a try that failed", || scratch().is_empty().then_some(()));
        stops.now.store(false, Ordering::SeqCst);
        until_proven(&root);
        until(WITHIN, "nothing that says more of it", || health().get("backup_failed_tries").is_none().then_some(()));
    }
    root.post(CONFIG, json!({"interval": "24h"})).expect(204);
    until(WITHIN, "no upload that is left, and none but the proven ones", || {
        (store.uploads() == 0 && store.keys().len() == 2 && scratch().is_empty()).then_some(())
    });
}

/// A node that believes these authorities, or the machine's.
struct Believes(Option<PathBuf>);

impl Between for Believes {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        let mut command = Command::new(holdfast());
        if let Some(ca) = &self.0 {
            command.env("SSL_CERT_FILE", ca);
        }
        command
    }
}

/// nginx, which speaks TLS in front of a server.
struct Front(Child);

impl Drop for Front {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn speaks_tls(folder: &Path, certified: &Certified, (port, server): (u16, u16)) -> Front {
    let (at, cert, key) = (folder.display(), certified.cert.display(), certified.key.display());
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/log;\nevents {{}}\nhttp {{\n access_log off;\n \
         client_max_body_size 0; client_body_temp_path {at}/1; proxy_temp_path {at}/2; fastcgi_temp_path {at}/3;\n \
         uwsgi_temp_path {at}/4; scgi_temp_path {at}/5;\n server {{\n listen 127.0.0.1:{port} ssl;\n \
         ssl_certificate {cert}; ssl_certificate_key {key};\n location / {{\n proxy_pass http://127.0.0.1:{server};\n \
         proxy_set_header Host $http_host; }} }} }}\n"
    );
    fs::write(folder.join("nginx.conf"), config).unwrap();
    let mut nginx = Command::new("/usr/sbin/nginx");
    let child = nginx.arg("-e").arg(folder.join("log")).arg("-c").arg(folder.join("nginx.conf")).spawn();
    let front = Front(child.expect("nginx is there: `make setup` installs it"));
    until(WITHIN, "nginx", || TcpStream::connect(("127.0.0.1", port)).ok());
    front
}

#[test]
fn over_tls_a_bucket_is_believed_by_its_authority_alone() {
    let store = ObjectStore::start();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::make(folder.path());
    let port = free_port();
    let _front = speaks_tls(folder.path(), &authority.server("bucket"), (port, store.port()));
    let over = json!({"aws_s3_endpoint": format!("https://localhost:{port}"), "aws_s3_disable_tls": false});
    let start = |ca| Nodes::start_with(vec![(free_port(), free_port())], Box::new(Believes(ca)));
    let stranger = start(None);
    stranger.root(0).post(CONFIG, plan(&store, over.clone())).expect(204);
    until_error(&stranger.root(0), "UnknownIssuer");
    assert!(store.keys().is_empty());
    let nodes = start(Some(authority.ca()));
    nodes.root(0).post(CONFIG, plan(&store, over)).expect(204);
    until_proven(&nodes.root(0));
    assert_eq!(nodes.root(0).get(CONFIG).expect(200).at("/data/aws_s3_endpoint"), format!("localhost:{port}"));
}

/// In front of a server: what is asked passes, and objects that are read come changed, or not at all; or it stops in
/// the middle of an object, one way or the other.
struct Liar {
    port: u16,
    takes: Stops,
    gives: Stops,
    lies: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
    told: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
}

/// Nothing goes on behind the first bytes of an object.
#[derive(Clone, Default)]
struct Stops {
    now: Arc<AtomicBool>,
    times: Arc<AtomicUsize>,
}

impl Stops {
    const BEHIND: usize = 64 << 10;

    /// Hold what comes as long as it stops; both ends stay open, and nothing is read from either.
    fn hold(&self, passed: usize) {
        if passed < Stops::BEHIND || !self.now.load(Ordering::SeqCst) {
            return;
        }
        self.times.fetch_add(1, Ordering::SeqCst);
        while self.now.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Liar {
    fn before(server: u16) -> Liar {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let liar = Liar {
            port,
            takes: Stops::default(),
            gives: Stops::default(),
            lies: Arc::default(),
            hangs: Arc::default(),
            told: Arc::default(),
            held: Arc::default(),
        };
        let (takes, gives) = (liar.takes.clone(), liar.gives.clone());
        let (lies, hangs, told, held) = (liar.lies.clone(), liar.hangs.clone(), liar.told.clone(), liar.held.clone());
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let reads = Arc::new(AtomicBool::new(false));
                let (from, mut to, noted) = (client.try_clone().unwrap(), server.try_clone().unwrap(), reads.clone());
                let (hangs, held) = (hangs.clone(), held.clone());
                let (takes, gives) = (takes.clone(), gives.clone());
                thread::spawn(move || {
                    let mut passed = 0;
                    pass(from, &mut to, |bytes| {
                        let is_begin =
                            ["PUT /", "GET /", "POST /", "DELETE /"].iter().any(|m| bytes.starts_with(m.as_bytes()));
                        passed = if is_begin { 0 } else { passed + bytes.len() };
                        takes.hold(passed);
                        let is_read = bytes.starts_with(b"GET /") && bytes.windows(6).any(|w| w == b".snap?");
                        noted.store(is_read, Ordering::SeqCst);
                        if is_read && hangs.load(Ordering::SeqCst) {
                            held.fetch_add(1, Ordering::SeqCst);
                            return false;
                        }
                        true
                    });
                });
                let (lies, told) = (lies.clone(), told.clone());
                let mut client = client;
                thread::spawn(move || {
                    let mut passed = 0;
                    pass(server, &mut client, |bytes| {
                        passed = if bytes.starts_with(b"HTTP/") { 0 } else { passed + bytes.len() };
                        gives.hold(passed);
                        // The last byte of the first piece that is more than the head.
                        let is_head = bytes.starts_with(b"HTTP/") && bytes.ends_with(b"\r\n\r\n");
                        if lies.load(Ordering::SeqCst) && !is_head && reads.swap(false, Ordering::SeqCst) {
                            *bytes.last_mut().unwrap() ^= 1;
                            told.fetch_add(1, Ordering::SeqCst);
                        }
                        true
                    });
                });
            }
        });
        liar
    }
}

/// Pass on what comes, changed; what is not to pass is dropped.
fn pass(mut from: TcpStream, to: &mut TcpStream, mut change: impl FnMut(&mut [u8]) -> bool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(n) = from.read(&mut bytes) {
        if n == 0 {
            break;
        }
        if change(&mut bytes[..n]) && to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _closed_already = to.shutdown(Shutdown::Both);
}

/// Of three nodes the one that leads makes them, whoever that is, and what one has begun that was killed is taken away
/// by another.
#[test]
fn a_plan_goes_on_at_the_next_leader_one_an_interval_and_nothing_is_left_behind() {
    const INTERVAL: u64 = 2;
    let store = ObjectStore::start();
    let (mut nodes, network, _faults) = disturbed::start(3);
    nodes.until_all_vote();
    let liar = Liar::before(store.port());
    let endpoint = format!("127.0.0.1:{}", liar.port);
    let wanted = json!({"retain": 500, "interval": format!("{INTERVAL}s"), "aws_s3_endpoint": endpoint});
    nodes.ask(0, CONFIG, plan(&store, wanted), 204);
    let made = || -> Vec<u64> {
        let seconds = |key: String| key.strip_prefix("a/b/hf-")?.strip_suffix(".snap")?.parse().ok();
        snapshots(&store).into_iter().filter_map(seconds).collect()
    };
    let until_more = |more: usize| {
        let before = made().len();
        until(WITHIN, "more snapshots", || (made().len() >= before + more).then_some(()));
    };
    until_more(2);
    // Killed between an upload and its proof.
    liar.hangs.store(true, Ordering::SeqCst);
    let held = liar.held.load(Ordering::SeqCst);
    until(WITHIN, "a proof that hangs", || (liar.held.load(Ordering::SeqCst) > held).then_some(()));
    let unproven = snapshots(&store).into_iter().max().expect("an object");
    let killed = nodes.until_led();
    nodes.kill(killed);
    liar.hangs.store(false, Ordering::SeqCst);
    until_more(2);
    assert!(!store.keys().contains(&unproven), "nobody has proven {unproven}");
    nodes.start_again(killed);
    nodes.until_all_vote();
    // Cut off: it makes none beside the next one.
    let alone = nodes.until_led();
    network.separate(&[alone]);
    let others: Vec<usize> = (0..3).filter(|n| *n != alone).collect();
    until(WITHIN, "another leader", || others.iter().find(|n| nodes.says_it_leads(**n)));
    until_more(3);
    network.heal();
    nodes.until_all_vote();
    until_more(2);
    // What was not proven by the one that was cut off is there until it is taken away, and what went wrong is told until the next
    // that goes well.
    until(WITHIN, "one an interval", || {
        let mut times = made();
        times.sort_unstable();
        times.windows(2).all(|two| two[1] - two[0] >= INTERVAL).then_some(())
    });
    until(WITHIN, "a snapshot that went well", || {
        nodes.read(0, STATUS).text_at("/data/last_snapshot_error").is_empty().then_some(())
    });
    // What a leader that was cut off has begun is taken away with a later snapshot.
    until(WITHIN, "no upload that is left", || (store.uploads() == 0).then_some(()));
}
