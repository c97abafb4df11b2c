//! Three nodes and one database: leaders are killed, stopped, cut off and replaced while users are made and end. In the
//! end the database has the users that leases stand for, and no others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_tests::database::Database;
use holdfast_tests::{Client, Reply, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::disturbed;
use crate::cluster::network::Network;
use crate::cluster::nodes::Nodes;
use holdfast_random::Random;

const CREATE: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
/// An intent that its leader left behind is undone after its deadline, 40 s later.
const SETTLED: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(90);
/// Clients that ask at a time, and so many more users are made behind each fault.
const CLIENTS: usize = 6;

/// How many runs with different faults, from which seed on; `HOLDFAST_FAULT_RUNS` and `HOLDFAST_FAULT_SEED` say others.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let first = number("HOLDFAST_FAULT_SEED").unwrap_or(1);
    first..first + number("HOLDFAST_FAULT_RUNS").unwrap_or(3)
}

#[test]
fn no_user_is_left_and_no_lease_forgotten_when_leaders_fail() {
    let database = Database::postgres();
    let (nodes, network, _faults) = disturbed::start(3);
    let mut cluster = Cluster { nodes: with_roles(nodes, &database, &[CREATE]), network };
    let mut known = BTreeMap::new();
    for seed in seeds() {
        println!("seed {seed}");
        known.extend(run(&mut cluster, &mut Random::new(seed)));
    }
    cluster.network.was_used().unwrap_or_else(|what| panic!("{what}"));
    let nodes = cluster.nodes;
    settle(&nodes);
    // Of each answer that somebody has, lease and user are there.
    let mut last = (0, 0, 0);
    let users = until(SETTLED, "as many users as leases", || {
        let users = database.made_users();
        let now = (users.len(), leases(&nodes, "long")?, leases(&nodes, "brief")?);
        if now != last {
            let states = states(&nodes.root(nodes.led_now()?))?;
            println!("{} users, {} long and {} brief leases, intents {states:?}", now.0, now.1, now.2);
            last = now;
        }
        (now.0 == now.1 + now.2).then_some(users)
    });
    for (lease, user) in &known {
        assert!(users.contains(user), "{user} of {lease} is gone");
    }
    println!("{} users, {} of them acknowledged and not revoked", users.len(), known.len());
    until(SOON, "a revocation of all", || {
        let root = nodes.root(nodes.led_now()?);
        let all = json!({ "sync": false });
        good(root.try_call("POST", "sys/leases/revoke-prefix/database/creds", Some(&all)))
    });
    let mut left = usize::MAX;
    until(SETTLED, "the end of all users", || {
        let users = database.made_users().len();
        if users != left {
            left = users;
            println!("{left} users are left");
        }
        (left == 0).then_some(())
    });
    until(SOON, "the end of all leases", || (leases(&nodes, "long") == Some(0)).then_some(()));
}

#[test]
fn a_leader_that_is_cut_off_while_it_revokes_leaves_no_lease_without_its_user() {
    let database = Database::postgres();
    let (nodes, network, _faults) = disturbed::start(3);
    let nodes = with_roles(nodes, &database, &[CREATE]);
    let cut_off = nodes.until_led();
    let others: Vec<usize> = (0..3).filter(|n| *n != cut_off).collect();
    let leases: Vec<String> = (0..8)
        .map(|_| {
            let root = nodes.root(cut_off);
            until(SOON, "a user", || good(root.try_call("GET", "database/creds/long", None))).text_at("/lease_id")
        })
        .collect();
    // Whoever stands by hands a renewal on, and the database knows of it.
    let renewal = json!({ "lease_id": leases[0], "increment": "30m" });
    let renewed =
        until(SOON, "a renewal", || good(nodes.root(others[0]).try_call("POST", "sys/leases/renew", Some(&renewal))));
    assert_eq!(renewed.at("/lease_duration"), 1800);
    let shortened =
        "SELECT count(*) FROM pg_user WHERE usename LIKE 'v-%' AND valuntil < now() + interval '31 minutes'";
    assert_eq!(database.sql(shortened), ["1"]);
    std::thread::scope(|scope| {
        database.hang();
        for lease in &leases {
            let root = nodes.root(cut_off);
            scope.spawn(move || root.try_call("POST", "sys/leases/revoke", Some(&json!({ "lease_id": lease }))));
        }
        until(SOON, "all revocations", || {
            (states(&nodes.root(cut_off))?.iter().filter(|s| *s == "open").count() == leases.len()).then_some(())
        });
        // The users go now, and what it writes about that is lost.
        network.separate(&[cut_off]);
        database.go_on();
        until_led_by_one_of(&nodes, &others);
        until(SOON, "the end of users", || (database.made_users().len() < leases.len()).then_some(()));
        network.heal();
    });
    until(SETTLED, "as many users as leases", || {
        (database.made_users().len() == self::leases(&nodes, "long")?).then_some(())
    });
}

#[test]
fn a_leader_that_was_stopped_before_its_statement_leaves_no_user_of_postgres_behind() {
    stopped_before_its_statement(Database::postgres(), &[CREATE]);
}

/// The intent is stored, the database is slow, and the leader stands still; another leads and undoes what was never
/// made; then the first one goes on.
fn stopped_before_its_statement(database: Database, creation: &[&str]) {
    let nodes = with_roles(Nodes::start(3), &database, creation);
    let stopped = nodes.until_led();
    let others: Vec<usize> = (0..3).filter(|n| *n != stopped).collect();
    database.hang();
    std::thread::scope(|scope| {
        let client = nodes.root(stopped);
        let asks = scope.spawn(move || client.try_call("GET", "database/creds/long", None));
        let root = nodes.root(stopped);
        until(SOON, "an intent", || states(&root)?.contains(&"open".to_owned()).then_some(()));
        nodes.server(stopped).signal(Signal::STOP);
        database.go_on();
        until_led_by_one_of(&nodes, &others);
        // Its deadline passes, and what it may have made is taken back.
        until(SETTLED, "the undoing", || {
            let states = states(&nodes.root(nodes.led_now()?))?;
            (!states.is_empty() && states.iter().all(|s| s == "undone")).then_some(())
        });
        nodes.server(stopped).signal(Signal::CONT);
        let answer = asks.join().expect("it does not panic");
        assert!(answer.as_ref().is_ok_and(|a| a.status != 200), "a user that nobody keeps was handed out: {answer:?}");
        // It has come back, and knows what the others know.
        until(SOON, "all nodes", || {
            let leader = nodes.client(stopped).try_call("GET", "sys/leader", None).ok()?;
            (leader.status == 200 && leader.at("/is_self") == false).then_some(())
        });
        assert_eq!(database.made_users(), [""; 0], "a user was made behind its undoing");
        assert_eq!(until(SOON, "the leases", || leases(&nodes, "long")), 0);
        // The engine goes on working.
        let made =
            until(SOON, "a user", || good(nodes.root(nodes.led_now()?).try_call("GET", "database/creds/long", None)));
        assert_eq!(database.made_users(), [made.text_at("/data/username")]);
    });
}

fn until_led_by_one_of(nodes: &Nodes, these: &[usize]) -> usize {
    until(SOON, "a leader", || these.iter().copied().find(|n| nodes.says_it_leads(*n)))
}

struct Cluster {
    nodes: Nodes,
    network: Arc<dyn Network>,
}

fn with_roles(nodes: Nodes, database: &Database, creation: &[&str]) -> Nodes {
    nodes.until_all_vote();
    let root = nodes.root(nodes.until_led());
    root.post("sys/mounts/database", json!({ "type": "database" })).expect(204);
    root.post("database/config/shop", database.config()).expect(204);
    for (role, ttl) in [("long", "1h"), ("brief", "3s")] {
        let body = json!({ "db_name": "shop", "creation_statements": creation, "default_ttl": ttl, "max_ttl": "1h" });
        root.post(&format!("database/roles/{role}"), body).expect(204);
    }
    nodes
}

/// Clients ask while one leader after another fails. Users by the leases that were handed out and not revoked.
fn run(cluster: &mut Cluster, chance: &mut Random) -> BTreeMap<String, String> {
    let (handed_out, made, over) = (Mutex::new(BTreeMap::new()), AtomicUsize::new(0), AtomicBool::new(false));
    let roots = cluster.nodes.roots();
    let seeds: Vec<u64> = (0..CLIENTS).map(|_| chance.next()).collect();
    std::thread::scope(|scope| {
        for seed in seeds {
            scope.spawn({
                let (roots, handed_out, made, over) = (&roots, &handed_out, &made, &over);
                move || work(roots, &mut Random::new(seed), (handed_out, made), over)
            });
        }
        let more = |than: usize| {
            until(SOON, "users behind a fault", || (made.load(Ordering::SeqCst) > than).then_some(()));
        };
        more(CLIENTS);
        for _ in 0..2 {
            let before = made.load(Ordering::SeqCst);
            fail(cluster, chance);
            more(before + CLIENTS);
        }
        over.store(true, Ordering::SeqCst);
    });
    let nodes = &cluster.nodes;
    nodes.until_all_vote();
    let known = handed_out.into_inner().unwrap();
    for lease in known.keys() {
        let asked = json!({ "lease_id": lease });
        let shown = until(SOON, "an answer about a lease", || {
            let shown = nodes.root(nodes.led_now()?).try_call("POST", "sys/leases/lookup", Some(&asked)).ok()?;
            (shown.status < 500).then_some(shown)
        });
        shown.expect(200);
    }
    known
}

type Known<'a> = (&'a Mutex<BTreeMap<String, String>>, &'a AtomicUsize);

fn work(roots: &[Client], chance: &mut Random, (handed_out, made): Known<'_>, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let client = &roots[chance.index(roots.len())];
        match chance.index(10) {
            0..=4 => {
                if let Some(user) = good(client.try_call("GET", "database/creds/long", None)) {
                    handed_out.lock().unwrap().insert(user.text_at("/lease_id"), user.text_at("/data/username"));
                    made.fetch_add(1, Ordering::SeqCst);
                }
            }
            5..=6 => {
                good(client.try_call("GET", "database/creds/brief", None));
            }
            _ => {
                // What is being revoked nobody counts on any more, whatever the answer is.
                let chosen = handed_out.lock().unwrap().pop_first();
                if let Some((lease, _)) = chosen {
                    let sync = chance.index(3) > 0;
                    good(client.try_call("POST", "sys/leases/revoke", Some(&json!({"lease_id": lease, "sync": sync}))));
                }
            }
        }
    }
}

fn good(answer: std::io::Result<Reply>) -> Option<Reply> {
    match answer {
        Ok(reply) if reply.status < 300 => Some(reply),
        _ => {
            // The nodes are choosing a leader.
            std::thread::sleep(Duration::from_millis(20));
            None
        }
    }
}

/// The leader is killed, or stands still or is cut off until another leads, or hands over.
fn fail(Cluster { nodes, network }: &mut Cluster, chance: &mut Random) {
    let leader = nodes.until_led();
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    let a_while = Duration::from_millis(chance.index(1500) as u64);
    match chance.index(8) {
        0 | 1 => {
            println!("  node {leader} is killed");
            nodes.kill(leader);
            until_led_by_one_of(nodes, &others);
            nodes.start_again(leader);
        }
        2 | 3 => {
            println!("  node {leader} is stopped, and goes on when another leads");
            nodes.server(leader).signal(Signal::STOP);
            until_led_by_one_of(nodes, &others);
            std::thread::sleep(a_while);
            nodes.server(leader).signal(Signal::CONT);
        }
        4..=6 => {
            // Clients and the database hear it all the same.
            let is_deaf_too = chance.index(3) > 0;
            let heard = if is_deaf_too { "and hears nobody" } else { "but hears them" };
            println!("  node {leader} is heard by no other {heard}, until another leads");
            match is_deaf_too {
                true => network.separate(&[leader]),
                false => network.mute(leader),
            }
            until_led_by_one_of(nodes, &others);
            std::thread::sleep(a_while);
            network.heal();
        }
        _ => {
            println!("  node {leader} hands over");
            good(nodes.root(leader).try_call("POST", "sys/step-down", Some(&json!({}))));
        }
    }
}

/// The states of all intents; none: nobody says.
fn states(root: &Client) -> Option<Vec<String>> {
    let reply = root.try_call("GET", "sys/intents", None).ok().filter(|r| r.status == 200)?;
    let intents = reply.at("/data/intents");
    let of = |i: &Value| i["state"].as_str().unwrap_or("").to_owned();
    Some(intents.as_array()?.iter().map(of).collect())
}

/// What broke off is taken back.
fn settle(nodes: &Nodes) {
    until(SETTLED, "the undoing of what broke off", || {
        states(&nodes.root(nodes.led_now()?))?.iter().all(|s| s == "undone").then_some(())
    });
}

/// How many leases of a role there are; none: nobody says.
fn leases(nodes: &Nodes, role: &str) -> Option<usize> {
    let path = format!("sys/leases/lookup/database/creds/{role}?list=true");
    let reply = nodes.root(nodes.led_now()?).try_call("GET", &path, None).ok()?;
    match reply.status {
        404 => Some(0),
        200 => Some(reply.at("/data/keys").as_array().expect("a list").len()),
        _ => None,
    }
}
