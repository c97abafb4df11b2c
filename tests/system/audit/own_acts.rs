//! What the server does by itself, in the audit logs of real servers: alone, and where three are one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::{Running, Setup, Storage, until};
use serde_json::{Value, json};

use super::{LONG, all_lines};
use crate::cluster::nodes::{Audited, Between, Nodes, WITHIN};

/// Response lines of the server's own, each act once: after a kill some that were told are told again, and say so.
fn own(log: &Path) -> Vec<Value> {
    let mut lines: Vec<Value> =
        all_lines(log).into_iter().filter(|l| l["actor"] == "system" && l["type"] == "response").collect();
    let mut told = BTreeSet::new();
    lines.retain(|l| told.insert(l["request"]["id"].as_str().unwrap_or_default().to_owned()) || l["recovered"] != true);
    lines
}

fn at<'l>(lines: &'l [Value], path: &str) -> Vec<&'l Value> {
    lines.iter().filter(|l| l["request"]["path"] == path).collect()
}

/// How often it was unsealed. On raft it says at the same path that it leads, as the only member does each time.
fn unseals(lines: &[Value]) -> usize {
    let all = at(lines, "sys/unseal");
    let led = all.iter().filter(|l| l["cause"].as_str().is_some_and(|c| c.starts_with("this node leads"))).count();
    let is_raft = Storage::of_this_run() == Storage::Raft;
    assert_eq!(led, if is_raft { all.len() - led } else { 0 }, "{all:#?}");
    all.len() - led
}

#[test]
fn a_life_of_a_server_is_in_its_log_and_the_chain_holds() {
    let running = Running::start(Setup::shamir().without_tls());
    let log = running.site.audit_file();
    let made = running.root.post("auth/token/create", json!({"ttl": "1s", "policies": ["default"]})).expect(200);
    let token = made.text_at("/auth/client_token").to_owned();
    until(LONG, "the end of a token", || (!at(&own(&log), "auth/token/revoke-accessor").is_empty()).then_some(()));
    running.root.post("sys/mounts/gone", json!({"type": "kv"})).expect(204);
    running.root.delete("sys/mounts/gone").expect(204);
    until(LONG, "the clean-up", || own(&log).iter().any(|l| l["request"]["data"]["path"] == "gone/").then_some(()));
    let running = running.restart(|server| drop(server.stop()));
    let lines = own(&log);
    let causes: Vec<&Value> = at(&lines, "sys/seal").into_iter().map(|l| &l["cause"]).collect();
    assert_eq!(causes, ["the server stops"]);
    assert_eq!(unseals(&lines), 2, "{lines:#?}");
    // One that was killed says nothing of it; that it was unsealed again is told.
    let running = running.restart(|server| server.kill());
    let lines = own(&log);
    assert_eq!((at(&lines, "sys/seal").len(), unseals(&lines)), (1, 3));
    let text = std::fs::read_to_string(&log).expect("a file");
    assert!(!text.contains(&token) && !text.contains(running.root.token()));
    let keep = |word: &str| super::chain::keep(&running, word);
    let (key, checkpoints) = (keep("public-key"), keep("checkpoints"));
    let (code, said) = super::chain::verify(&running, &key, Some(&checkpoints), &[&log]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn in_a_cluster_the_one_that_leads_writes_and_another_says_when_it_takes_over() {
    let mut nodes = Nodes::start_with((0..3).map(|_| (free_port(), free_port())).collect(), Box::new(Audited));
    nodes.until_all_vote();
    let logs: Vec<_> = (0..3).map(|n| nodes.stored(n).with_file_name("audit.log")).collect();
    let leader = nodes.until_led();
    let led = |n: usize| {
        let lines = own(&logs[n]);
        let causes = at(&lines, "sys/unseal").into_iter().map(|l| l["cause"].as_str().unwrap_or_default().to_owned());
        causes.filter(|c| c.starts_with("this node leads the cluster, in term ")).count()
    };
    assert!(led(leader) >= 1, "{:#?}", own(&logs[leader]));
    // Each says in its own log why it was unsealed, whatever it does in the cluster.
    for log in &logs {
        let is_unsealing = |line: &Value| {
            ["the store was initialised", "enough shares were given"].iter().any(|why| line["cause"] == *why)
        };
        until(WITHIN, "the line of the unsealing", || {
            at(&own(log), "sys/unseal").into_iter().any(is_unsealing).then_some(())
        });
    }
    let expired = |accessor: &str| -> usize {
        let of = |log| {
            own(log).iter().filter(|l| l["request"]["data"]["display_name"] == format!("token-{accessor}")).count()
        };
        logs.iter().map(|log| of(log)).sum()
    };
    let short = |name: &str| json!({"ttl": "1s", "policies": ["default"], "display_name": name});
    nodes.ask(leader, "auth/token/create", short("first"), 200);
    until(WITHIN, "one line of the first", || (expired("first") > 0).then_some(()));
    assert_eq!(expired("first"), 1);
    // It hands over: it says so, and the next one says that it leads.
    let before: Vec<usize> = (0..3).map(led).collect();
    nodes.change_lead();
    let lines = own(&logs[leader]);
    assert!(!at(&lines, "sys/step-down").is_empty(), "{lines:#?}");
    let next = nodes.until_led();
    until(WITHIN, "the line of who leads now", || (led(next) > before[next]).then_some(()));
    // It is killed: the next one ends what is due, once.
    nodes.ask(next, "auth/token/create", json!({"ttl": "8s", "policies": ["default"], "display_name": "second"}), 200);
    let before: Vec<usize> = (0..3).map(led).collect();
    nodes.kill(next);
    let last = nodes.until_led();
    until(WITHIN, "the line of the last", || (led(last) > before[last]).then_some(()));
    until(WITHIN, "one line of the second", || (expired("second") > 0).then_some(()));
    assert_eq!(expired("second"), 1);

    // What comes through another node says so in the line of the one that leads.
    let other = (0..3).find(|n| ![next, last].contains(n)).expect("three nodes");
    nodes.put(other, "sys/mounts/through", json!({"type": "kv"}));
    let through = |kind: &str| {
        let lines = all_lines(&logs[last]);
        lines.into_iter().find(|l| l["type"] == kind && l["request"]["path"] == "sys/mounts/through")
    };
    let asked = through("request").expect("the line of who leads");
    assert_eq!(asked["forwarded_from"], format!("127.0.0.1:{}", nodes.member_port(other)), "{asked}");
    assert_eq!(through("response").expect("its answer")["forwarded"], true);

    // One stepped down, one was killed, one leads: each log is whole by what the last leader exports.
    let folder = tempfile::tempdir().expect("a folder");
    let cli = |words: &[&str]| {
        let mut cli = command(holdfast());
        cli.env("HOME", folder.path()).env("VAULT_ADDR", format!("http://127.0.0.1:{}", nodes.port(last)));
        run(cli.env("VAULT_TOKEN", nodes.root(last).token()).arg("audit").args(words))
    };
    let (key, checkpoints) = (folder.path().join("key.pem"), folder.path().join("checkpoints"));
    std::fs::write(&key, cli(&["public-key"]).good()).expect("a file");
    // The one that leads since a moment ago puts those of its own log into the store within seconds.
    let exported = until(WITHIN, "checkpoints of three logs", || {
        let text = cli(&["checkpoints"]).good();
        let all: Value = serde_json::from_str(&text).expect("a list");
        let logs: BTreeSet<&str> = all.as_array()?.iter().filter_map(|c| c["log"].as_str()).collect();
        (logs.len() == 3).then_some(text)
    });
    std::fs::write(&checkpoints, exported).expect("a file");
    for (n, log) in logs.iter().enumerate() {
        // Cut to whole lines: the one that leads writes on.
        let copy = folder.path().join(format!("{n}.log"));
        let text = std::fs::read_to_string(log).expect("a file");
        std::fs::write(&copy, &text[..=text.rfind('\n').expect("a line")]).expect("a copy");
        let (key, checkpoints) =
            (format!("-public-key={}", key.display()), format!("-checkpoints={}", checkpoints.display()));
        let output = cli(&["verify", &key, &checkpoints, &copy.display().to_string()]);
        assert_eq!(output.code, Some(0), "node {n} of {leader}, {next}, {last}: {output:?}");
    }
}

#[test]
fn whatever_ended_before_a_kill_is_told_after_it() {
    const TOKENS: usize = 300;
    let running = Running::start(Setup::shamir().without_tls());
    let log = running.site.audit_file();
    for n in 0..TOKENS {
        let made = json!({"ttl": "4s", "policies": ["default"], "display_name": format!("n{n}")});
        running.root.post("auth/token/create", made).expect(200);
    }
    let told = || {
        let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in own(&log) {
            if let Some(name) = line["request"]["data"]["display_name"].as_str().filter(|n| n.starts_with("token-n")) {
                told.entry(name.to_owned()).or_default().push(line);
            }
        }
        told
    };
    until(LONG, "the first end", || (!told().is_empty()).then_some(()));
    let running = running.restart(|server| server.kill());
    until(LONG, "all ends", || (told().len() == TOKENS).then_some(()));
    // Once, or again with the id that it had, and marked.
    for (name, lines) in told() {
        let ids: BTreeSet<_> = lines.iter().map(|l| l["request"]["id"].to_string()).collect();
        let first = lines.iter().filter(|l| l["recovered"] != true).count();
        assert!(ids.len() == 1 && first <= 1, "{name}: {lines:#?}");
    }
    drop(running);
}

/// A peer of an audit device that may be away.
#[derive(Default)]
struct Peer {
    lines: Arc<Mutex<Vec<Value>>>,
    open: Arc<Mutex<Vec<UnixStream>>>,
}

impl Peer {
    fn listen(&self, at: &Path) {
        let listener = UnixListener::bind(at).expect("a socket");
        let (lines, open) = (self.lines.clone(), self.open.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                open.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone().expect("a stream"));
                let lines = lines.clone();
                thread::spawn(move || {
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        let line = serde_json::from_str(&line).expect("a line");
                        lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    }
                });
            }
        });
    }

    /// Whoever comes finds nobody any more.
    fn goes(&self, from: &Path) {
        fs::remove_file(from).expect("a socket");
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _may_be_closed = stream.shutdown(Shutdown::Both);
        }
    }

    /// Response lines of the server's own about a token.
    fn own(&self, display_name: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let own = lines.iter().filter(|l| l["actor"] == "system" && l["type"] == "response");
        own.filter(|l| l["request"]["data"]["display_name"] == display_name).cloned().collect()
    }
}

/// The only audit device of each node is a socket in its folder.
struct BySocket(Arc<[Peer; 3]>);

impl Between for BySocket {
    fn command(&self, n: usize, folder: &Path) -> Command {
        self.0[n].listen(&folder.join("peer"));
        Audited.command(n, folder)
    }

    fn top(&self, _n: usize) -> String {
        "audit \"socket\" \"peer\" {\n options {\n address = \"peer\"\n socket_type = \"unix\"\n skip_test = true\n }\n}\n".into()
    }
}

#[test]
fn what_the_one_that_led_could_not_tell_before_it_was_killed_the_next_one_tells() {
    let peers: Arc<[Peer; 3]> = Arc::default();
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut nodes = Nodes::start_with(ports, Box::new(BySocket(peers.clone())));
    nodes.until_all_vote();
    let leader = nodes.until_led();
    let made = json!({"ttl": "3s", "policies": ["default"], "display_name": "untold"});
    nodes.ask(leader, "auth/token/create", made, 200);
    peers[leader].goes(&nodes.stored(leader).with_file_name("peer"));
    // The token ends, and nobody is there who would hear of it.
    nodes.server(leader).until_logged("no audit device takes the lines of what the server did by itself");
    nodes.kill(leader);
    let next = nodes.until_led();
    let told = until(WITHIN, "the line of who comes next", || peers[next].own("token-untold").pop());
    assert_eq!((&told["recovered"], &told["cause"]), (&json!(true), &json!("the token's time is over")));
    assert!(peers[leader].own("token-untold").is_empty());
    // Once it was told, nobody tells it again.
    nodes.change_lead();
    let last = nodes.until_led();
    let made = json!({"ttl": "1s", "policies": ["default"], "display_name": "later"});
    nodes.ask(last, "auth/token/create", made, 200);
    until(WITHIN, "a later line", || peers[last].own("token-later").pop());
    let times: usize = peers.iter().map(|peer| peer.own("token-untold").len()).sum();
    assert_eq!(times, 1);
}
