//! Reads that nodes answer while they stand by: as the active node would, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::{Client, Reply, until};

use super::disturbed;
use super::nodes::{Between, Nodes, WITHIN};

/// Nodes with an audit log each, whose figures anybody may see.
struct Observed {
    /// More of the storage stanza.
    storage: &'static str,
    audit: bool,
}

impl Between for Observed {
    fn command(&self, _n: usize, folder: &Path) -> Command {
        let mut command = Command::new(holdfast());
        command.current_dir(folder);
        command
    }

    fn finds(&self, _n: usize, others: &[u16]) -> String {
        let one = |port: &u16| format!("retry_join {{\n leader_api_addr = \"http://127.0.0.1:{port}\"\n}}\n");
        others.iter().map(one).collect::<String>() + self.storage
    }

    fn listens_with(&self, _n: usize) -> String {
        "telemetry {\n unauthenticated_metrics_access = true\n }".into()
    }

    fn top(&self, _n: usize) -> String {
        let device = "audit \"file\" \"main\" {\n options {\n file_path = \"audit.log\"\n }\n}\n";
        if self.audit { device.into() } else { String::new() }
    }
}

fn observed(storage: &'static str) -> Nodes {
    started(Observed { storage, audit: true })
}

fn started(observed: Observed) -> Nodes {
    let nodes = Nodes::start_with((0..3).map(|_| (free_port(), free_port())).collect(), Box::new(observed));
    nodes.until_all_vote();
    nodes
}

/// With a mount of kv version 2 and a secret in it.
fn with_a_secret(nodes: &Nodes) {
    nodes.put(0, "sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}}));
    let root = nodes.root(0);
    until(WITHIN, "version 2", || root.try_call("GET", "secret/data/none", None).ok().filter(|r| r.status == 404));
    nodes.put(0, "secret/data/a", json!({"data": {"v": 1}}));
}

/// Answers of a node that stands by say what state they are of; those of reads at the active one do not.
fn is_from_here(reply: &Reply) -> bool {
    reply.status == 200 && reply.header("x-vault-index").is_some()
}

/// Ask until the node itself answers: it passes on what it cannot answer at the moment, and the first request of a
/// token in an hour.
fn here(client: &Client, path: &str) -> Reply {
    let (method, path) = match path.strip_suffix('/') {
        Some(folder) => ("LIST", folder),
        None => ("GET", path),
    };
    until(WITHIN, path, || client.try_call(method, path, None).ok().filter(is_from_here))
}

fn standbys(nodes: &Nodes) -> Vec<usize> {
    let active = nodes.until_led();
    (0..nodes.count()).filter(|n| *n != active).collect()
}

fn figure(nodes: &Nodes, n: usize, name: &str) -> f64 {
    let page = nodes.client(n).get("sys/metrics?format=prometheus").expect(200).text();
    let line = page.lines().find(|l| l.split([' ', '{']).next() == Some(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The lines of a request in a node's audit log.
fn audited(nodes: &Nodes, n: usize, request: &str) -> Vec<Value> {
    let log = fs::read_to_string(nodes.audit_log(n)).unwrap_or_default();
    let lines = log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    lines.filter(|l| l["request"]["id"] == request).collect()
}

/// An answer without what differs between any two.
fn said(reply: &Reply) -> Value {
    let mut json = reply.json();
    json.as_object_mut().expect("an object").remove("request_id");
    json
}

#[test]
fn a_read_is_answered_by_the_node_that_is_asked_with_what_the_active_one_says_and_its_own_audit_lines() {
    let nodes = observed("");
    with_a_secret(&nodes);
    nodes.put(0, "sys/mounts/one", json!({"type": "kv"}));
    nodes.put(0, "one/x/y", json!({"v": 1}));
    nodes.put(0, "identity/entity", json!({"name": "somebody"}));
    let active = nodes.until_led();
    for n in standbys(&nodes) {
        let root = nodes.root(n);
        for path in [
            "secret/data/a",
            "secret/metadata/a",
            "secret/metadata/",
            "secret/subkeys/a",
            "secret/config",
            "one/x/y",
            "one/x/",
            "auth/token/lookup-self",
            "sys/internal/ui/mounts",
            "sys/internal/ui/mounts/secret",
            "sys/internal/ui/resultant-acl",
            "identity/entity/name/somebody",
            "identity/entity/name/",
        ] {
            let reply = here(&root, path);
            let (method, bare) = path.strip_suffix('/').map_or(("GET", path), |folder| ("LIST", folder));
            let of_active = until(WITHIN, path, || {
                nodes.root(active).try_call(method, bare, None).ok().filter(|r| r.status == 200)
            });
            assert_eq!(said(&reply), said(&of_active), "{path}");
            let names = |r: &Reply| {
                let mut names: Vec<String> = r.headers.iter().map(|(n, _)| n.clone()).collect();
                names.retain(|n| !n.ends_with("-index"));
                names.sort();
                names
            };
            assert_eq!(names(&reply), names(&of_active), "{path}");
            assert_eq!(reply.header("x-vault-index"), reply.header("x-holdfast-index"));
            let request = reply.text_at("/request_id");
            let lines = until(WITHIN, "its lines", || Some(audited(&nodes, n, &request)).filter(|l| l.len() == 2));
            for line in lines {
                assert_eq!(line["request"]["node"], json!(format!("n{n}")), "{line}");
            }
            assert!(audited(&nodes, active, &request).is_empty());
            let of_active = audited(&nodes, active, &of_active.text_at("/request_id"));
            assert!(of_active.iter().all(|l| l["request"]["node"].is_null()));
        }
        assert!(figure(&nodes, n, "holdfast_standby_reads") >= 13.0);
        // What is not there is said by the active node, and what is refused.
        for (client, path, status) in [
            (nodes.root(n), "secret/data/none", 404),
            (nodes.client(n), "secret/data/a", 403),
            (nodes.client(n).with_token("hvs.nobody"), "secret/data/a", 403),
        ] {
            let reply = client.get(path);
            assert_eq!((reply.status, is_from_here(&reply)), (status, false));
        }
    }
}

#[test]
fn what_is_written_anywhere_is_read_at_once_at_every_node() {
    let nodes = observed("");
    with_a_secret(&nodes);
    let roots = nodes.roots();
    let mut from_standbys = 0;
    for n in 2..200_u64 {
        let written = until(WITHIN, "a write", || {
            let body = json!({"data": {"v": n}});
            roots[n as usize % 3].try_call("POST", "secret/data/a", Some(&body)).ok().filter(|r| r.status == 200)
        });
        let state = written.header("x-vault-index").expect("a state").to_owned();
        for root in &roots {
            let reply = root.raw("GET", "/v1/secret/data/a", &[("X-Vault-Index", &state)], b"").expect(200);
            assert_eq!(reply.at("/data/data/v"), n);
            from_standbys += u64::from(is_from_here(&reply));
        }
    }
    assert!(from_standbys > 200, "{from_standbys} of them were answered by nodes that stand by");
}

#[test]
fn a_token_that_was_revoked_at_another_node_is_refused_at_once() {
    let nodes = observed("");
    let ask = |n: usize, path: &str, body: Value| nodes.ask(n, path, body, 200);
    for round in 0..30 {
        let made = ask(round % 3, "auth/token/create", json!({"policies": ["default"]}));
        let token = made.text_at("/auth/client_token");
        let holders: Vec<Client> = (0..3).map(|n| nodes.client(n).with_token(&token)).collect();
        for n in standbys(&nodes) {
            here(&holders[n], "auth/token/lookup-self");
        }
        let revoked = nodes.root(round % 3).post("auth/token/revoke", json!({"token": token}));
        assert!([200, 204].contains(&revoked.status), "{}", revoked.text());
        for holder in &holders {
            assert_eq!(holder.get("auth/token/lookup-self").status, 403);
        }
    }
}

#[test]
fn a_node_that_was_cut_off_answers_nothing_and_takes_no_token_that_was_revoked_meanwhile() {
    let (nodes, network, _) = disturbed::start(3);
    nodes.until_all_vote();
    with_a_secret(&nodes);
    let made = nodes.ask(0, "auth/token/create", json!({"policies": ["default"]}), 200);
    let token = made.text_at("/auth/client_token");
    let cut = standbys(&nodes)[0];
    let holder = nodes.client(cut).with_token(&token);
    here(&holder, "auth/token/lookup-self");
    here(&nodes.root(cut), "secret/data/a");
    network.separate(&[cut]);
    let other = (0..3).find(|n| *n != cut).unwrap();
    nodes.ask(other, "auth/token/revoke", json!({"token": token}), 204);
    nodes.put(other, "secret/data/a", json!({"data": {"v": 2}}));
    let asked = Instant::now();
    for (client, path) in [(&holder, "auth/token/lookup-self"), (&nodes.root(cut), "secret/data/a")] {
        let client = client.without_token().with_token(client.token()).patient_for(Duration::from_secs(3));
        if let Ok(reply) = client.try_call("GET", path, None) {
            assert_eq!(reply.status, 503, "{path}: {}", reply.text());
        }
    }
    assert!(asked.elapsed() < WITHIN);
    network.heal();
    // Whatever it knows by now, the first answer is right.
    let first = until(WITHIN, "an answer", || {
        holder.try_call("GET", "auth/token/lookup-self", None).ok().filter(|r| r.status != 503)
    });
    assert_eq!(first.status, 403, "{}", first.text());
    let read = nodes.read(cut, "secret/data/a");
    assert_eq!(read.at("/data/data/v"), 2);
    assert_eq!(here(&nodes.root(cut), "secret/data/a").at("/data/data/v"), 2);
}

#[test]
fn policies_and_mounts_count_at_every_node_as_soon_as_they_are_answered() {
    let nodes = observed("");
    with_a_secret(&nodes);
    let policy =
        |capability: &str| json!({"policy": format!("path \"secret/*\" {{ capabilities = [\"{capability}\"] }}")});
    nodes.put(0, "sys/policies/acl/app", policy("read"));
    let made = nodes.ask(0, "auth/token/create", json!({"policies": ["app"]}), 200);
    let holders: Vec<Client> =
        (0..3).map(|n| nodes.client(n).with_token(&made.text_at("/auth/client_token"))).collect();
    let standbys = standbys(&nodes);
    for round in 0..20 {
        for n in &standbys {
            here(&holders[*n], "secret/data/a");
        }
        nodes.put(round % 3, "sys/policies/acl/app", policy("deny"));
        for holder in &holders {
            assert_eq!(holder.get("secret/data/a").status, 403);
        }
        nodes.put(round % 3, "sys/policies/acl/app", policy("read"));
        for holder in &holders {
            assert_eq!(holder.get("secret/data/a").status, 200);
        }
    }
    for n in &standbys {
        here(&nodes.root(*n), "secret/data/a");
    }
    nodes.root(standbys[0]).delete("sys/mounts/secret").expect(204);
    for n in 0..3 {
        assert_eq!(nodes.root(n).get("secret/data/a").status, 404);
    }
    nodes.put(standbys[1], "sys/mounts/secret", json!({"type": "kv"}));
    nodes.put(standbys[1], "secret/data/a", json!({"v": "of version 1"}));
    for n in &standbys {
        assert_eq!(here(&nodes.root(*n), "secret/data/a").at("/data/v"), "of version 1");
    }
}

/// Readers of all nodes that look whether they see what was acknowledged before they asked.
struct Readers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    from_standbys: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Readers {
    fn start(nodes: &Nodes) -> Readers {
        let (stop, acknowledged, from_standbys) = Default::default();
        let mut readers = Readers { stop, acknowledged, from_standbys, threads: Vec::new() };
        for root in nodes.roots() {
            let (stop, acknowledged) = (readers.stop.clone(), readers.acknowledged.clone());
            let from_standbys = readers.from_standbys.clone();
            readers.threads.push(thread::spawn(move || {
                let mut last = 0;
                while !stop.load(Ordering::SeqCst) {
                    let before = acknowledged.load(Ordering::SeqCst).max(last);
                    let Ok(reply) = root.try_call("GET", "secret/data/a", None) else { continue };
                    if reply.status != 200 {
                        assert_eq!(reply.status, 503, "{}", reply.text());
                        thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                    last = reply.at("/data/data/v").as_u64().expect("a number");
                    assert!(last >= before, "{last} was read behind {before}");
                    from_standbys.fetch_add(u64::from(is_from_here(&reply)), Ordering::SeqCst);
                }
            }));
        }
        readers
    }

    /// Writes go on, and nodes that stand by answer again.
    fn until_they_read_on(&self, nodes: &Nodes, value: &mut u64) {
        let writer = nodes.until_led();
        let before = self.from_standbys.load(Ordering::SeqCst);
        until(WITHIN, "reads of nodes that stand by", || {
            *value += 1;
            nodes.put(writer, "secret/data/a", json!({"data": {"v": *value}}));
            self.acknowledged.fetch_max(*value, Ordering::SeqCst);
            (self.from_standbys.load(Ordering::SeqCst) > before + 20).then_some(())
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("readers see what is true");
        }
    }
}

#[test]
fn reads_go_on_and_are_right_while_keys_change_and_the_lead_moves() {
    let mut nodes = observed("");
    with_a_secret(&nodes);
    let readers = Readers::start(&nodes);
    let mut value = 1;
    readers.until_they_read_on(&nodes, &mut value);
    for _ in 0..3 {
        nodes.ask(value as usize % 3, "sys/rotate", json!({}), 204);
        readers.until_they_read_on(&nodes, &mut value);
    }
    nodes.new_share();
    readers.until_they_read_on(&nodes, &mut value);
    for _ in 0..3 {
        nodes.change_lead();
        readers.until_they_read_on(&nodes, &mut value);
    }
    let killed = standbys(&nodes)[0];
    nodes.kill(killed);
    readers.until_they_read_on(&nodes, &mut value);
    nodes.start_again(killed);
    here(&nodes.root(killed), "secret/data/a");
    readers.end();
}

#[test]
fn a_sealed_node_reads_nothing_and_what_was_restored_is_read_at_every_node() {
    let nodes = observed("");
    with_a_secret(&nodes);
    let active = nodes.until_led();
    let archive = nodes.root(active).get("sys/storage/raft/snapshot").expect(200).body;
    let written = nodes.ask(active, "secret/data/a", json!({"data": {"v": 2}}), 200);
    let state = written.header("x-vault-index").expect("a state").to_owned();
    for n in standbys(&nodes) {
        assert_eq!(here(&nodes.root(n), "secret/data/a").at("/data/data/v"), 2);
    }
    let restored = nodes.root(active).raw("POST", "/v1/sys/storage/raft/snapshot", &[], &archive);
    assert!([200, 204].contains(&restored.status), "{}", restored.text());
    for n in 0..3 {
        let read = nodes.read(n, "secret/data/a");
        assert_eq!(read.at("/data/data/v"), 1, "node {n}");
    }
    for n in standbys(&nodes) {
        let reply = here(&nodes.root(n), "secret/data/a");
        assert_eq!(reply.at("/data/data/v"), 1, "node {n}");
        // A state from before the restore is none of this store any more.
        let refused = nodes.root(n).raw("GET", "/v1/secret/data/a", &[("X-Holdfast-Index", &state)], b"");
        assert_eq!(refused.status, 412, "{}", refused.text());
    }
    // The active node is sealed, and no other.
    let sealed = nodes.until_led();
    nodes.root(sealed).post("sys/seal", json!({})).expect(204);
    until(WITHIN, "a sealed node", || nodes.is_sealed(sealed).filter(|is| *is));
    assert_eq!(nodes.root(sealed).get("secret/data/a").status, 503);
    for n in standbys(&nodes).into_iter().filter(|n| *n != sealed) {
        assert_eq!(here(&nodes.root(n), "secret/data/a").at("/data/data/v"), 1);
    }
    nodes.give_share(sealed);
    until(WITHIN, "a node that reads again", || {
        let leads = nodes.led_now()? == sealed;
        let reply = nodes.root(sealed).try_call("GET", "secret/data/a", None).ok()?;
        (leads || is_from_here(&reply)).then_some(())
    });
}

#[test]
fn a_state_that_is_not_reached_is_412_or_asked_of_the_active_node() {
    let nodes = observed("");
    with_a_secret(&nodes);
    let standby = standbys(&nodes)[0];
    let state = here(&nodes.root(standby), "secret/data/a").header("x-vault-index").expect("a state").to_owned();
    let mut later = STANDARD.decode(&state).unwrap();
    let at = later.len() - 8;
    let index = u64::from_be_bytes(later[at..].try_into().unwrap());
    later[at..].copy_from_slice(&(index + 1_000_000).to_be_bytes());
    let later = STANDARD.encode(&later);
    let mut foreign = STANDARD.decode(&state).unwrap();
    foreign[1] ^= 1;
    let foreign = STANDARD.encode(&foreign);
    let ask = |headers: &[(&str, &str)]| nodes.root(standby).raw("GET", "/v1/secret/data/a", headers, b"");
    for name in ["X-Vault-Index", "X-Holdfast-Index"] {
        assert!(is_from_here(&ask(&[(name, &state)]).expect(200)));
        let before = figure(&nodes, standby, "holdfast_standby_reads");
        for given in [&later, &foreign] {
            ask(&[(name, given)]).expect(412);
        }
        assert_eq!(figure(&nodes, standby, "holdfast_standby_reads"), before + 2.0, "by this node");
        ask(&[(name, &later), ("X-Vault-Inconsistent", "forward-active-node")]).expect(412);
        assert_eq!(figure(&nodes, standby, "holdfast_standby_reads"), before + 2.0, "by the active one");
        ask(&[(name, "AAAA")]).expect(400);
    }
}

#[test]
fn stale_reads_go_on_without_the_active_node_for_so_long_and_no_longer() {
    const STALE: Duration = Duration::from_secs(8);
    let mut nodes = observed("stale_reads = \"8s\"");
    with_a_secret(&nodes);
    let reader = standbys(&nodes)[0];
    let root = nodes.root(reader).patient_for(Duration::from_secs(2));
    here(&root, "secret/data/a");
    for n in (0..3).filter(|n| *n != reader) {
        nodes.kill(n);
    }
    let alone = Instant::now();
    let mut last = None;
    loop {
        match root.try_call("GET", "secret/data/a", None) {
            Ok(reply) if reply.status == 200 => {
                assert!(is_from_here(&reply));
                last = Some(alone.elapsed());
            }
            _ if alone.elapsed() > STALE => break,
            _ => {}
        }
    }
    let last = last.expect("reads without the active node");
    assert!(last > STALE / 4, "they went on for {last:?}");
    assert!(last <= STALE + Duration::from_secs(1), "they went on for {last:?}");
    nodes.start_all_again();
    for n in standbys(&nodes) {
        here(&nodes.root(n), "secret/data/a");
    }
}

#[test]
fn no_declared_route_leaves_anything_behind_and_uses_are_counted_by_the_active_node() {
    // The active node's audit log would have the store keep its checkpoints.
    let nodes = started(Observed { storage: "", audit: false });
    with_a_secret(&nodes);
    nodes.put(0, "sys/mounts/one", json!({"type": "kv"}));
    nodes.put(0, "one/a", json!({"v": 1}));
    nodes.put(0, "sys/auth/userpass", json!({"type": "userpass"}));
    nodes.put(0, "identity/entity", json!({"name": "a"}));
    nodes.put(0, "identity/group", json!({"name": "a"}));
    let standby = standbys(&nodes)[0];
    let root = nodes.root(standby);
    let document = nodes.read(standby, "sys/internal/specs/openapi").json();
    let id_of = |kind: &str| nodes.read(standby, &format!("identity/{kind}/name/a")).text_at("/data/id");
    let (entity, group) = (id_of("entity"), id_of("group"));
    let mut asked = Vec::new();
    for (pattern, item) in document["paths"].as_object().unwrap() {
        if item["x-holdfast-reads-anywhere"] != true {
            continue;
        }
        let id = if pattern.starts_with("/identity/group") { &group } else { &entity };
        let name = if pattern.contains("internal/ui/mounts") { "secret" } else { "a" };
        let path = pattern.trim_start_matches('/').replace("{id}", id).replace("{path}", name).replace("{name}", "a");
        assert!(!path.contains('{'), "{path}: say what stands for its parameters");
        asked.extend([("GET", path.clone()), ("LIST", path)]);
    }
    assert!(asked.len() >= 30, "{} are declared", asked.len());
    let ask_all = || {
        let answers = asked.iter().map(|(method, path)| root.try_call(method, path, None).expect("an answer"));
        let mut answered: Vec<&String> =
            answers.zip(&asked).filter(|(r, _)| is_from_here(r)).map(|(_, (_, path))| path).collect();
        answered.dedup();
        answered.len()
    };
    until(WITHIN, "answers of the node itself", || (ask_all() >= 15).then_some(()));
    // What was noted of the uses that were passed on is written by and by; then nothing is.
    let active = nodes.until_led();
    let version = || figure(&nodes, active, "holdfast_storage_applied_index");
    let leases = || figure(&nodes, active, "vault_expire_num_leases");
    let settled = || {
        let before = version();
        thread::sleep(Duration::from_secs(3));
        (version() == before).then_some((before, leases()))
    };
    let before = until(WITHIN, "a store that rests", settled);
    for _ in 0..5 {
        assert!(ask_all() >= 15);
    }
    assert_eq!((version(), leases()), before);
    let made = nodes.ask(0, "auth/token/create", json!({"policies": ["root"], "num_uses": 20}), 200);
    let limited = nodes.client(standby).with_token(&made.text_at("/auth/client_token"));
    for left in (1..20).rev() {
        let reply = limited.get("auth/token/lookup-self").expect(200);
        assert_eq!((reply.at("/data/num_uses"), is_from_here(&reply)), (json!(left), false));
    }
    // The last use ends it before it is looked up.
    limited.get("auth/token/lookup-self").expect(403);
}

#[test]
fn what_is_limited_by_rate_is_counted_by_the_active_node_and_the_setting_ends_it_all() {
    let nodes = observed("");
    with_a_secret(&nodes);
    let standby = standbys(&nodes)[0];
    let root = nodes.root(standby);
    here(&root, "secret/data/a");
    nodes.put(0, "sys/quotas/rate-limit/few", json!({"path": "secret/", "rate": 1000}));
    for _ in 0..20 {
        assert!(!is_from_here(&root.get("secret/data/a").expect(200)));
    }
    here(&root, "auth/token/lookup-self");
    root.delete("sys/quotas/rate-limit/few").expect(204);
    here(&root, "secret/data/a");
    drop(nodes);

    let nodes = observed("standby_reads = false");
    with_a_secret(&nodes);
    let root = nodes.root(standbys(&nodes)[0]);
    for _ in 0..50 {
        assert!(!is_from_here(&root.get("secret/data/a").expect(200)));
    }
}
