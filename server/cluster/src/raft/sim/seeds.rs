//! Runs of many seeds.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::clients::Clients;
use super::node::{Cluster, Flaw, lock};
use super::told::Told;
use super::world::World;
use super::{checks, faults};
use crate::raft::Settings;

/// So many where nothing else is said.
const SEEDS: u64 = 200;
/// How long things go wrong, by the world's clock.
const TROUBLE: Duration = Duration::from_secs(9);

/// What came of a run.
struct Run {
    wrong: Vec<String>,
    said: Vec<String>,
    trace: u64,
    written: u64,
    read: u64,
    read_standing_by: u64,
}

/// What is among a run: each kind has other runs by the same seeds, so that those of the others stay what they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    DisksFillUp,
    /// Nodes that stand by answer reads too.
    StandbysRead,
}

impl Kind {
    /// The test that runs it.
    fn test(self) -> &'static str {
        match self {
            Kind::Plain => "whatever_goes_wrong_nothing",
            Kind::DisksFillUp => "whatever_goes_wrong_and_disks",
            Kind::StandbysRead => "whatever_goes_wrong_and_standbys",
        }
    }
}

fn run(seed: u64, flaw: Flaw) -> Run {
    run_with(seed, flaw, Kind::Plain)
}

fn run_with(seed: u64, flaw: Flaw, kind: Kind) -> Run {
    let count = if seed.is_multiple_of(3) { 5 } else { 3 };
    let world = World::new(seed, count);
    let settings = Settings {
        node_id: String::new(),
        joined_with: None,
        performance_multiplier: 5,
        snapshot_threshold: 10 + world.below(60),
        trailing_logs: 3 + world.below(40),
        trailing_log_bytes: if world.chance(70) { 1 << 20 } else { 4096 },
    };
    let cluster = Cluster::new(world.clone(), count, flaw, settings);
    cluster.disks_fill_up.store(kind == Kind::DisksFillUp, Ordering::SeqCst);
    let counts = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let ended = catch_unwind(AssertUnwindSafe(|| {
        world.run(async {
            cluster.found().await;
            cluster.begin_flaw();
            let clients = Clients::start(&cluster, kind == Kind::StandbysRead);
            world.spawn(None, checks::watch(cluster.clone()));
            faults::suffer(&cluster, TROUBLE).await;
            faults::heal(&cluster).await;
            clients.end().await;
            counts.0.store(clients.written.load(Ordering::SeqCst), Ordering::SeqCst);
            counts.1.store(clients.read.load(Ordering::SeqCst), Ordering::SeqCst);
            counts.2.store(clients.read_standing_by.load(Ordering::SeqCst), Ordering::SeqCst);
            checks::settled(&cluster).await;
        });
    }));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        cluster.is_wrong(format!("a panic: {}", text.unwrap_or_default()));
    }
    let trace = world.trace();
    cluster.forget();
    world.dissolve();
    let (written, read, read_standing_by) = (counts.0.into_inner(), counts.1.into_inner(), counts.2.into_inner());
    Run { wrong: cluster.wrong(), said: cluster.said(), trace, written, read, read_standing_by }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is no number: {n:?}")))
}

/// Run all of these on all processors, until `enough` says that it is.
fn run_all(
    seeds: impl Iterator<Item = u64> + Send,
    one: impl Fn(u64) -> Run + Sync,
    seen: impl Fn(u64, Run) -> bool + Sync,
) {
    let seeds = Mutex::new(seeds);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(seed) = lock(&seeds).next() else { return };
                    if !seen(seed, one(seed)) {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_and_all_agree() {
    all_is_well(number("HOLDFAST_SIM_SEEDS").unwrap_or(SEEDS), Kind::Plain);
}

#[test]
fn whatever_goes_wrong_and_disks_fill_up_nothing_is_lost_and_all_agree() {
    all_is_well(number("HOLDFAST_SIM_SEEDS").unwrap_or(SEEDS) / 5, Kind::DisksFillUp);
}

#[test]
fn whatever_goes_wrong_and_standbys_answer_reads_nothing_is_lost_and_all_agree() {
    all_is_well(number("HOLDFAST_SIM_SEEDS").unwrap_or(SEEDS) / 2, Kind::StandbysRead);
}

fn all_is_well(count: u64, kind: Kind) {
    let one = |seed| run_with(seed, Flaw::None, kind);
    if let Some(seed) = number("HOLDFAST_SIM_SEED") {
        let run = match env::var("HOLDFAST_SIM_TELL") {
            Ok(level) => {
                let level = level.parse().unwrap_or_else(|_| panic!("HOLDFAST_SIM_TELL is no level: {level:?}"));
                tracing::subscriber::with_default(Told(level), || one(seed))
            }
            Err(_) => one(seed),
        };
        eprintln!("{}", run.said.join("\n"));
        eprintln!("seed {seed}: {} written, {} read, trace {:x}", run.written, run.read, run.trace);
        assert!(run.wrong.is_empty(), "seed {seed}:\n{}", run.wrong.join("\n"));
        return;
    }
    let from = number("HOLDFAST_SIM_FROM").unwrap_or(1);
    let which = kind.test();
    let failed = Mutex::new(Vec::new());
    let (written, read, standing_by) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    run_all(from..from + count, one, |seed, run| {
        written.fetch_add(run.written, Ordering::SeqCst);
        read.fetch_add(run.read, Ordering::SeqCst);
        standing_by.fetch_add(run.read_standing_by, Ordering::SeqCst);
        if !run.wrong.is_empty() {
            let said = &run.wrong[0];
            eprintln!("HOLDFAST_SIM_SEED={seed} cargo test -p holdfast-cluster sim::seeds::{which}: {said}");
            lock(&failed).push(seed);
        }
        true
    });
    let (written, read, standing_by) = (written.into_inner(), read.into_inner(), standing_by.into_inner());
    eprintln!(
        "{count} seeds from {from} on: {written} writes acknowledged, {read} other acts, {standing_by} of them reads of \
         nodes that stood by"
    );
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
    // Runs in which nothing is done show nothing.
    assert!(written > count * 20, "{written}");
    assert_eq!(kind == Kind::StandbysRead, standing_by > 0, "{standing_by}");
}

#[test]
fn a_seed_is_always_the_same_run() {
    for seed in [3, 7, 11] {
        let (a, b) = (run(seed, Flaw::None), run(seed, Flaw::None));
        assert_eq!((a.trace, a.written, a.read), (b.trace, b.written, b.read), "seed {seed}");
        assert_eq!(a.said, b.said);
    }
}

/// Some flaws show seldom: so many seeds at most.
const MOST_SEEDS: u64 = 10 * SEEDS;

/// A seed by which a flaw is found, of those from `first` on.
fn found_by(flaw: Flaw, kind: Kind, first: u64) -> Option<u64> {
    let found = Mutex::new(None);
    run_all(
        first..first + MOST_SEEDS,
        |seed| run_with(seed, flaw, kind),
        |seed, run| {
            let mut found = lock(&found);
            if !run.wrong.is_empty() {
                eprintln!("{flaw:?}, seed {seed}: {}", run.wrong[0].lines().next().unwrap_or_default());
                *found = Some(seed);
            }
            found.is_none()
        },
    );
    found.into_inner().unwrap()
}

#[test]
fn disks_that_say_that_they_have_synced_and_have_not_are_found_out() {
    assert!(found_by(Flaw::DisksLie, Kind::Plain, 1).is_some());
}

#[test]
fn votes_that_are_not_kept_are_found_out() {
    assert!(found_by(Flaw::VotesAreNotKept, Kind::Plain, 1).is_some());
}

#[test]
fn reads_of_one_who_is_not_sure_to_lead_are_found_out() {
    // Of those from 1 on the first one is 647.
    assert!(found_by(Flaw::ReadsAreNotSure, Kind::Plain, 601).is_some());
}

#[test]
fn standbys_that_answer_with_what_they_have_are_found_out() {
    assert!(found_by(Flaw::StandbysAskNobody, Kind::StandbysRead, 1).is_some());
}

#[test]
fn indexes_of_one_who_is_not_sure_to_lead_are_found_out() {
    assert!(found_by(Flaw::IndexesAreNotSure, Kind::StandbysRead, 1).is_some());
}
