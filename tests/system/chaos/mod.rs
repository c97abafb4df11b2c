//! A cluster under faults: real processes, real sockets, clients at all nodes. What they were answered must be what
//! one register for each key would have answered, and nothing that was acknowledged may be lost.
//!
//! The order of faults follows from a seed, which is printed. `HOLDFAST_CHAOS_MINUTES` lets it go on for so long,
//! `HOLDFAST_CHAOS_SEED` chooses the seed (`make chaos`).

mod clients;
mod faults;
mod stores;

use std::env;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use holdfast_tests::process::has_stopped;
use holdfast_tests::until;

use crate::cluster::disturbed;
use crate::cluster::network::{Network, namespaces};
use crate::cluster::nodes::WITHIN;
use clients::Clients;
use faults::{Fault, Trouble};
use holdfast_random::Random;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is no number: {n:?}")))
}

/// Let each of these faults happen once at least, in an order that follows from the seed.
fn suffer(count: usize, seed: u64, faults: &[Fault]) {
    suffer_with(count, seed, faults, With::default());
}

/// All faults where there is time for them, else these.
fn all_if_long(short: &'static [Fault]) -> &'static [Fault] {
    if number("HOLDFAST_CHAOS_MINUTES").is_some() { Fault::ALL } else { short }
}

/// The same where each node has a network namespace of its own, on a machine that lets us make some.
fn suffer_in_namespaces(count: usize, seed: u64, faults: &[Fault]) {
    namespaces::within(count, |made| {
        let network = made.map_err(|why| eprintln!("no network namespaces here, so by proxies: {why}")).ok();
        let network = network.map(|network| Arc::new(network) as Arc<dyn Network>);
        suffer_with(count, seed, faults, With { network, ..With::default() });
    });
}

/// How a cluster is started.
#[derive(Default)]
struct With {
    /// What is between the nodes, where it is not proxies.
    network: Option<Arc<dyn Network>>,
    /// More in the storage stanza of each node.
    storage: &'static str,
    /// By so much nodes that stand by may be behind.
    stale: Option<Duration>,
}

fn suffer_with(count: usize, seed: u64, faults: &[Fault], with: With) {
    let With { network, storage, stale } = with;
    let length = Duration::from_secs(60 * number("HOLDFAST_CHAOS_MINUTES").unwrap_or(0));
    let seed = number("HOLDFAST_CHAOS_SEED").unwrap_or(seed);
    let spent = Spent::begin();
    eprintln!("{count} nodes, HOLDFAST_CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let mut trouble = Trouble::start(count, network, storage);
    let clients = Clients::start(trouble.nodes(), seed, stale);
    loop {
        let mut round = faults.to_vec();
        random.shuffle(&mut round);
        for fault in round {
            trouble.make(fault, &mut random, &clients);
        }
        if clients.elapsed() >= length {
            break;
        }
    }
    let mut wrong = clients.end(trouble.nodes());
    let (differences, of_the_logs) = trouble.end();
    wrong.extend(differences);
    wrong.extend(of_the_logs);
    assert!(wrong.is_empty(), "seed {seed}: {} things were wrong:\n{}", wrong.len(), wrong.join("\n"));
    if length.is_zero() {
        spent.end();
    }
}

/// How long the tests of this harness run in this process, those beside each other counted once.
struct Spent {
    running: u32,
    since: Instant,
    before: Duration,
}

static SPENT: Mutex<Option<Spent>> = Mutex::new(None);

impl Spent {
    /// What all of them are to take where no length is given.
    const WANTED: Duration = Duration::from_secs(6 * 60);
    /// Other tests run beside them.
    const MOST: Duration = Duration::from_secs(12 * 60);

    fn so_far(&self) -> Duration {
        self.before + if self.running > 0 { self.since.elapsed() } else { Duration::ZERO }
    }

    fn begin() -> Running {
        let now = Instant::now();
        let mut spent = SPENT.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = spent.get_or_insert(Spent { running: 0, since: now, before: Duration::ZERO });
        if spent.running == 0 {
            spent.since = now;
        }
        spent.running += 1;
        Running
    }
}

/// A test that runs.
struct Running;

impl Running {
    fn end(self) {
        let so_far = SPENT.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Spent::so_far);
        let so_far = so_far.unwrap_or_default();
        eprintln!("{so_far:.1?} of {:?} are spent", Spent::WANTED);
        assert!(so_far < Spent::MOST, "the short form takes longer than it may: {so_far:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(spent) = &mut *SPENT.lock().unwrap_or_else(PoisonError::into_inner) {
            spent.running -= 1;
            if spent.running == 0 {
                spent.before += spent.since.elapsed();
            }
        }
    }
}

#[test]
fn a_token_that_one_node_has_lost_is_missed_in_its_store_and_by_no_client() {
    let (mut nodes, _network, _faults) = disturbed::start(3);
    nodes.until_all_vote();
    let lost = 1;
    assert_eq!(stores::differences(&mut nodes), Vec::<String>::new());
    let before = stores::entries(&nodes.stored(lost));
    nodes.start_all_again();
    let token = nodes.ask(0, "auth/token/create", json!({}), 200).text_at("/auth/client_token");
    assert_eq!(stores::differences(&mut nodes), Vec::<String>::new());
    let after = stores::entries(&nodes.stored(lost));
    stores::lose(&nodes.stored(lost), after.keys().filter(|key| !before.contains_key(*key)));
    // It is not to lead.
    [0, 2].iter().for_each(|n| nodes.launch(*n));
    [0, 2].iter().for_each(|n| nodes.give_share(*n));
    nodes.until_led();
    nodes.start_again(lost);
    until(WITHIN, "a node that passes on what it does not know", || {
        let asked = nodes.client(lost).with_token(&token).try_call("GET", "auth/token/lookup-self", None).ok();
        asked.filter(|reply| reply.status == 200)
    });
    let found = stores::differences(&mut nodes);
    assert!(found.iter().any(|what| what.contains("nodes 0 and 1 differ in")), "{found:?}");
}

#[test]
fn three_nodes_under_faults_answer_as_one_and_lose_nothing() {
    suffer(3, 3_141_592, Fault::ALL);
}

#[test]
fn five_nodes_under_faults_answer_as_one_and_lose_nothing() {
    suffer(5, 2_718_281, Fault::ALL);
}

#[test]
fn three_nodes_in_network_namespaces_answer_as_one_and_lose_nothing() {
    suffer_in_namespaces(3, 1_732_050, all_if_long(Fault::OF_THE_NETWORK));
}

#[test]
fn five_nodes_in_network_namespaces_answer_as_one_and_lose_nothing() {
    suffer_in_namespaces(5, 2_236_067, all_if_long(Fault::OF_THE_NETWORK));
}

#[test]
fn nodes_that_stand_by_are_not_staler_than_they_may_be() {
    let with = With { storage: "stale_reads = \"2s\"", stale: Some(Duration::from_secs(2)), ..With::default() };
    suffer_with(3, 1_414_213, Fault::OF_STANDBYS, with);
}

#[test]
fn a_leader_whose_machine_slept_does_not_answer_with_what_was_true_before() {
    let (nodes, network, faults) = disturbed::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let asleep = nodes.until_led();
    nodes.server(asleep).signal(Signal::STOP);
    // Not before: its clock would go back.
    until(WITHIN, "a process that has stopped", || has_stopped(nodes.server(asleep).pid()).then_some(()));
    let slept = Instant::now();
    let others: Vec<usize> = (0..3).filter(|n| *n != asleep).collect();
    until(WITHIN, "another leader", || others.iter().find(|n| nodes.says_it_leads(**n)));
    nodes.put(others[0], "kv/a", json!({"v": 2}));
    // It hears nothing of the others when it wakes, and its clock has stood still.
    network.separate(&[asleep]);
    faults[asleep].slept(slept.elapsed());
    nodes.server(asleep).signal(Signal::CONT);
    let root = nodes.root(asleep).patient_for(Duration::from_secs(2));
    for _ in 0..3 {
        if let Ok(answer) = root.try_call("GET", "kv/a", None) {
            assert_eq!(answer.status, 503, "{}", answer.text());
        }
    }
    network.heal();
    assert_eq!(nodes.read(asleep, "kv/a").at("/data/v"), 2);
}
