//! Disks that fill up under members of a cluster.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use serde_json::json;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::tmpfs::{Ballast, Tmpfs};
use holdfast_tests::until;

use super::nodes::{Between, Nodes, WITHIN};

/// A small disk under each member's store.
#[derive(Clone)]
struct SmallDisks {
    disks: Rc<RefCell<Vec<Tmpfs>>>,
    megabytes: u32,
}

/// Less than writes need.
const LEFT_BYTES: u64 = 2 << 20;

impl SmallDisks {
    fn of(megabytes: u32) -> SmallDisks {
        SmallDisks { disks: Rc::default(), megabytes }
    }

    fn start(&self) -> Nodes {
        let ports = (0..3).map(|_| (free_port(), free_port())).collect();
        let nodes = Nodes::start_with(ports, Box::new(self.clone()));
        nodes.until_all_vote();
        nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
        nodes
    }

    fn fill(&self, n: usize, leave_bytes: u64) -> Ballast {
        self.disks.borrow()[n].fill(leave_bytes)
    }

    fn fill_all(&self, leave_bytes: u64) -> Vec<Ballast> {
        self.disks.borrow().iter().map(|disk| disk.fill(leave_bytes)).collect()
    }
}

impl Between for SmallDisks {
    fn command(&self, n: usize, folder: &Path) -> Command {
        let mut disks = self.disks.borrow_mut();
        if disks.len() == n {
            disks.push(Tmpfs::mount(&folder.join("data"), self.megabytes));
        }
        Command::new(holdfast())
    }
}

#[test]
fn the_lead_goes_where_there_is_room_and_where_there_is_none_writes_stop_and_go_on_by_themselves() {
    let disks = SmallDisks::of(128);
    let nodes = disks.start();
    nodes.put(0, "kv/a", json!({"v": 1}));
    let full = nodes.until_led();
    let ballast = disks.fill(full, LEFT_BYTES);
    until(WITHIN, "a leader with room", || nodes.led_now().filter(|now| *now != full));
    for n in 0..3 {
        nodes.put(n, &format!("kv/through-{n}"), json!({"v": n}));
    }
    drop(ballast);
    let ballast = disks.fill_all(LEFT_BYTES);
    let refused = nodes.ask(full, "kv/b", json!({"v": 1}), 507);
    assert!(refused.text().contains("full") && refused.text().contains("go on by themselves"), "{}", refused.text());
    // What is there can be read through all.
    for n in 0..3 {
        assert_eq!(nodes.read(n, "kv/a").at("/data/v"), 1);
        assert_eq!(nodes.read(n, &format!("kv/through-{n}")).at("/data/v"), n);
    }
    drop(ballast);
    nodes.put(full, "kv/b", json!({"v": 2}));
    for n in 0..3 {
        assert_eq!(nodes.read(n, "kv/b").at("/data/v"), 2);
    }
    nodes.until_all_vote();
}

/// A twentieth of 256 MiB is 12.8 MiB; the lead goes where there is less than that and a piece of the log (16 MiB).
#[test]
fn at_95_percent_writes_stop_and_before_that_the_lead_goes_without_a_write_that_is_refused() {
    const MIB: u64 = 1 << 20;
    let disks = SmallDisks::of(256);
    let nodes = disks.start();
    let writes = |which: &str| {
        for i in 0..20 {
            let n = i % 3;
            let reply = nodes.root(n).try_call("POST", &format!("kv/{which}-{i}"), Some(&json!({"v": i})));
            // A node that has lost the lead just now says so; nobody says that a disk is full.
            let status = reply.map_or(0, |reply| reply.status);
            assert!([204, 503].contains(&status), "{which} {i} by node {n}: {status}");
        }
    };
    let leads = nodes.until_led();
    let ballast = disks.fill(leads, 40 * MIB);
    writes("at-84");
    assert_eq!(nodes.until_led(), leads, "there is room enough to lead");
    drop(ballast);
    let ballast = disks.fill(leads, 20 * MIB);
    writes("at-92");
    until(WITHIN, "a leader with room", || nodes.led_now().filter(|now| *now != leads));
    writes("by-another");
    drop(ballast);
    let ballast = disks.fill_all(15 * MIB);
    nodes.put(0, "kv/at-94", json!({"v": 1}));
    drop(ballast);
    let ballast = disks.fill_all(11 * MIB);
    nodes.ask(0, "kv/at-96", json!({"v": 1}), 507);
    drop(ballast);
    nodes.put(0, "kv/again", json!({"v": 1}));
}
