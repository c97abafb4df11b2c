//! What goes wrong, and how it is put right again.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use holdfast_tests::process::has_stopped;
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::until;

use super::clients::Clients;
use super::stores;
use crate::cluster::disturbed::{self, Faults};
use crate::cluster::network::Network;
use crate::cluster::nodes::{Nodes, WITHIN};
use holdfast_random::Random;

/// Writes that must go well when all is right again, before the next thing goes wrong.
const WRITES_BETWEEN: u64 = 10;
const YEAR_S: i64 = 365 * 24 * 3600;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and start again.
    KillLeader,
    KillOne,
    KillAll,
    /// Stop for a while (SIGSTOP), and go on as if nothing were.
    PauseLeader,
    PauseOne,
    /// Nobody hears it, and it hears nobody.
    IsolateLeader,
    /// Two parts that hear nothing of each other.
    Split,
    /// It hears nobody; or nobody hears it.
    Deaf,
    MuteLeader,
    /// Everything takes longer between them.
    Delay,
    /// Of what they send some is lost, and sent again later.
    Loss,
    /// It is off the network and back, many times within a moment.
    LooseCable,
    /// Each connection between members is lost, again and again.
    Reset,
    HandOver,
    /// The wall clock of one jumps, and comes back.
    WallClock,
    SlowDisk,
    /// Syncs fail until it is started again.
    BrokenDisk,
    /// The same with writes to the store's files.
    FailingWrites,
    /// Nothing can be written for want of room, for a while.
    FullDisk,
    /// Its machine sleeps: nothing runs, and the clock by which it measures how long something takes stands still.
    Sleep,
    /// Removed, its folder lost, and joined anew.
    Replace,
    /// Sealed by hand, and given its share again.
    SealLeader,
    /// Without its vote for a while.
    Demote,
    /// The keyring gets another term.
    Rotate,
    /// The root key and its share are new ones; a node that hears nothing of it meanwhile needs the new share.
    RotateRoot,
    /// The store's file is made anew while it serves, and the node may be killed amid that.
    Compact,
    /// All that is stored is put back as it was a moment ago.
    Restore,
}

impl Fault {
    pub const ALL: &[Fault] = &[
        Fault::KillLeader,
        Fault::KillOne,
        Fault::KillAll,
        Fault::PauseLeader,
        Fault::PauseOne,
        Fault::IsolateLeader,
        Fault::Split,
        Fault::Deaf,
        Fault::MuteLeader,
        Fault::Delay,
        Fault::Loss,
        Fault::Reset,
        Fault::HandOver,
        Fault::WallClock,
        Fault::SlowDisk,
        Fault::BrokenDisk,
        Fault::FailingWrites,
        Fault::FullDisk,
        Fault::Sleep,
        Fault::Replace,
        Fault::SealLeader,
        Fault::Demote,
        Fault::Rotate,
        Fault::RotateRoot,
        Fault::Compact,
        Fault::Restore,
    ];
    pub const OF_THE_NETWORK: &[Fault] = &[
        Fault::KillLeader,
        Fault::IsolateLeader,
        Fault::Split,
        Fault::Split,
        Fault::Deaf,
        Fault::MuteLeader,
        Fault::Delay,
        Fault::Loss,
        Fault::LooseCable,
        Fault::Reset,
        Fault::PauseLeader,
        Fault::Sleep,
    ];
    /// In which a node that stands by hears nothing of the active one.
    pub const OF_STANDBYS: &[Fault] = &[
        Fault::IsolateLeader,
        Fault::Split,
        Fault::Deaf,
        Fault::PauseOne,
        Fault::PauseLeader,
        Fault::Delay,
        Fault::Sleep,
        Fault::Rotate,
        Fault::Restore,
    ];
}

/// The lines of a log about the one that is named, `FILE:LINE:`.
fn around(log: &Path, said: &str) -> String {
    let named = said.split(&format!("{}:", log.display())).nth(1).and_then(|rest| rest.split(':').next()?.parse().ok());
    let first = named.map_or(0, |line: usize| line.saturating_sub(6));
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().skip(first).take(10).fold(String::new(), |all, line| all + line + "\n")
}

/// A cluster in which things go wrong.
pub struct Trouble {
    nodes: Nodes,
    network: Arc<dyn Network>,
    faults: Vec<Faults>,
}

impl Trouble {
    /// `storage`: more of the storage stanza of each node.
    pub fn start(count: usize, network: Option<Arc<dyn Network>>, storage: &'static str) -> Trouble {
        let (nodes, network, faults) = disturbed::start_with(count, network, storage);
        // Votes sooner than by default: this is no place to wait.
        let soon = json!({"server_stabilization_time": "1s"});
        nodes.ask(0, "sys/storage/raft/autopilot/configuration", soon, 204);
        nodes.until_all_vote();
        Trouble { nodes, network, faults }
    }

    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Let something go wrong for a while, put it right, and see that writes go on.
    pub fn make(&mut self, fault: Fault, random: &mut Random, clients: &Clients) {
        let one = random.index(self.nodes.count());
        let leader = self.nodes.led_now().unwrap_or(one);
        let lasts = Duration::from_millis(500 + random.index(2500) as u64);
        eprintln!("{:8.3} {fault:?}: node {one}, leader {leader}, {lasts:?}", clients.elapsed().as_secs_f64());
        match fault {
            Fault::KillLeader => self.kill(&[leader], lasts),
            Fault::KillOne => self.kill(&[one], lasts),
            Fault::KillAll => self.kill(&(0..self.nodes.count()).collect::<Vec<_>>(), Duration::ZERO),
            Fault::Rotate => drop(self.nodes.ask(one, "sys/rotate", json!({}), 204)),
            Fault::PauseLeader => self.pause(leader, lasts),
            Fault::PauseOne => self.pause(one, lasts),
            Fault::IsolateLeader => {
                self.network.separate(&[leader]);
                thread::sleep(lasts);
            }
            Fault::Split => {
                let mut all: Vec<usize> = (0..self.nodes.count()).collect();
                random.shuffle(&mut all);
                all.truncate(1 + random.index(all.len() - 1));
                self.network.separate(&all);
                thread::sleep(lasts);
            }
            Fault::Deaf => {
                self.network.deafen(one);
                thread::sleep(lasts);
            }
            Fault::MuteLeader => {
                self.network.mute(leader);
                thread::sleep(lasts);
            }
            Fault::Delay => {
                let takes = Duration::from_millis(5 + random.index(120) as u64);
                self.while_it_lasts(self.network.delay(takes), lasts);
            }
            Fault::Loss => {
                let of_a_thousand = 20 + random.index(180) as u64;
                self.while_it_lasts(self.network.lose(of_a_thousand), lasts);
            }
            Fault::LooseCable => {
                for _ in 0..8 {
                    self.network.separate(&[one]);
                    thread::sleep(lasts / 24);
                    self.network.heal();
                    thread::sleep(lasts / 12);
                }
            }
            Fault::Reset => {
                for _ in 0..5 {
                    self.network.reset();
                    thread::sleep(lasts / 5);
                }
            }
            Fault::HandOver => {
                // It may be refused: there may be nobody to take it.
                let _handed_over = self.nodes.root(one).try_call("POST", "sys/step-down", Some(&json!({})));
            }
            Fault::WallClock => {
                let jumps = [3600, -3600, 10 * YEAR_S];
                let who = [one, leader][random.index(2)];
                self.faults[who].wall_offset(jumps[random.index(jumps.len())]);
                thread::sleep(lasts);
            }
            Fault::SlowDisk => {
                let who = [one, leader][random.index(2)];
                self.faults[who].slow_disk(Duration::from_millis(20 + random.index(300) as u64));
                thread::sleep(lasts);
            }
            Fault::BrokenDisk | Fault::FailingWrites => {
                let who = [one, leader][random.index(2)];
                match fault {
                    Fault::BrokenDisk => {
                        clients.audit_fails(true);
                        self.faults[who].broken_disk(true);
                    }
                    _ => self.faults[who].failing_writes(true),
                }
                thread::sleep(lasts);
                self.faults[who].heal();
                self.kill(&[who], Duration::ZERO);
                clients.audit_fails(false);
            }
            Fault::Compact => {
                // One may be under way already.
                let _begun = self.nodes.root(leader).try_call(
                    "POST",
                    "sys/storage/compact",
                    Some(&json!({ "node": format!("n{one}") })),
                );
                if random.index(2) == 0 {
                    self.kill(&[one], Duration::ZERO);
                }
            }
            Fault::FullDisk => {
                let who = [one, leader][random.index(2)];
                self.faults[who].full_disk(true);
                thread::sleep(lasts);
            }
            Fault::Sleep => {
                self.nodes.server(leader).signal(Signal::STOP);
                // Not before: its clock would go back, as that of no machine does, and what it heard would be yet to come.
                let pid = self.nodes.server(leader).pid();
                until(WITHIN, "a process that has stopped", || has_stopped(pid).then_some(()));
                let stopped = Instant::now();
                thread::sleep(lasts);
                self.faults[leader].slept(stopped.elapsed());
                self.nodes.server(leader).signal(Signal::CONT);
            }
            Fault::Replace => self.replace(one.max(1)),
            Fault::RotateRoot => self.rotate_root((one != leader).then_some(one)),
            Fault::Restore => self.restore(clients),
            Fault::SealLeader => {
                // The lead may be elsewhere by now, and nothing is sealed.
                let _sealed = self.nodes.root(leader).try_call("PUT", "sys/seal", None);
                thread::sleep(lasts);
                self.nodes.give_share(leader);
            }
            Fault::Demote => {
                let name = json!({"server_id": format!("n{one}")});
                self.change("demote", &name);
                thread::sleep(lasts);
                self.change("promote", &name);
            }
        }
        self.network.heal();
        self.faults.iter().for_each(Faults::heal);
        let before = clients.written();
        until(WITHIN, "writes when all is right again", || {
            (clients.written() >= before + WRITES_BETWEEN).then_some(())
        });
        self.nodes.until_all_vote();
        self.until_all_serve();
    }

    /// New keys, of which one node that is cut off hears too late, if one is named.
    fn rotate_root(&mut self, cut_off: Option<usize>) {
        if let Some(one) = cut_off {
            self.network.separate(&[one]);
        }
        self.nodes.new_share();
        self.network.heal();
    }

    /// A node that has missed new keys is sealed when it hears of them.
    fn until_all_serve(&self) {
        until(WITHIN, "nodes that are unsealed", || {
            let sealed = (0..self.nodes.count()).filter(|n| self.nodes.is_sealed(*n) != Some(false));
            let sealed: Vec<usize> = sealed.collect();
            sealed.iter().for_each(|n| self.nodes.try_share(*n));
            sealed.is_empty().then_some(())
        });
    }

    /// A snapshot is made and restored while nobody acts, so that nobody has seen what came after it.
    fn restore(&self, clients: &Clients) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("moment.snap");
        let _nobody_acts = clients.pause();
        for what in ["save", "restore"] {
            until(WITHIN, what, || {
                let leader = self.nodes.led_now()?;
                let mut snapshot = command(holdfast());
                snapshot.args(["operator", "raft", "snapshot", what]).arg(&file);
                snapshot
                    .env("HOLDFAST_ADDR", self.nodes.url(leader))
                    .env("HOLDFAST_TOKEN", self.nodes.root(leader).token());
                // The lead may be elsewhere by now.
                (run(&mut snapshot).code == Some(0)).then_some(())
            });
        }
    }

    /// Wait, if it could be done here at all.
    fn while_it_lasts(&self, is_possible: bool, lasts: Duration) {
        match is_possible {
            true => thread::sleep(lasts),
            false => eprintln!("         left out: this kernel has no netem"),
        }
    }

    fn kill(&mut self, all: &[usize], lasts: Duration) {
        for n in all {
            self.nodes.kill(*n);
        }
        thread::sleep(lasts);
        self.nodes.start_all_again();
    }

    fn pause(&self, n: usize, lasts: Duration) {
        self.nodes.server(n).signal(Signal::STOP);
        thread::sleep(lasts);
        self.nodes.server(n).signal(Signal::CONT);
    }

    /// Change a member. It is not known whether one that was not answered was done: then it is refused the next time.
    fn change(&self, how: &str, name: &serde_json::Value) {
        until(WITHIN, "a member that is changed", || {
            let path = format!("sys/storage/raft/{how}");
            let changed = self.nodes.root(self.nodes.led_now()?).try_call("POST", &path, Some(name)).ok()?;
            let is_so = changed.text().contains("is not a voter") || changed.text().contains("is not a non-voter");
            (changed.status == 204 || is_so).then_some(())
        });
    }

    fn replace(&mut self, n: usize) {
        let name = json!({"server_id": format!("n{n}")});
        until(WITHIN, "a member that is removed", || {
            let leader = self.nodes.led_now()?;
            let removed = self.nodes.root(leader).try_call("POST", "sys/storage/raft/remove-peer", Some(&name)).ok()?;
            (removed.status == 204).then_some(())
        });
        self.nodes.kill(n);
        self.nodes.lose_folder(n);
        self.nodes.start_all_again();
    }

    /// End all nodes, and say what is wrong with their stores, and what with their audit logs.
    pub fn end(mut self) -> (Vec<String>, Vec<String>) {
        // All faults have reached whom they should.
        self.network.was_used().unwrap_or_else(|what| panic!("{what}"));
        let key = tempfile::NamedTempFile::new().expect("a file for a public key");
        let nodes = &mut self.nodes;
        let keys = until(WITHIN, "the public key of the audit logs", || {
            let leader = nodes.led_now()?;
            let mut asks = command(holdfast());
            asks.args(["audit", "public-key"]).env("VAULT_ADDR", nodes.url(leader));
            asks.env("VAULT_TOKEN", nodes.root(leader).token());
            Some(run(&mut asks)).filter(|output| output.code == Some(0))
        });
        fs::write(key.path(), keys.stdout).expect("a file");
        let (differences, mut wrong) = (stores::differences(nodes), Vec::new());
        for n in 0..nodes.count() {
            let mut verifies = command(holdfast());
            verifies.args(["audit", "verify"]).arg(format!("-public-key={}", key.path().display()));
            let output = run(verifies.arg(nodes.audit_log(n)));
            if output.code != Some(0) {
                let said = output.stdout + &output.stderr;
                wrong.push(format!("the audit log of node {n}: {said}{}", around(&nodes.audit_log(n), &said)));
            }
        }
        (differences, wrong)
    }
}
