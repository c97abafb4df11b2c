//! Disks that fill up under members of a cluster.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use serde_json::json;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::tmpfs::Tmpfs;
use holdfast_tests::until;

use super::nodes::{Between, Nodes, WITHIN};

/// A small disk under each member's store.
#[derive(Clone, Default)]
struct SmallDisks(Rc<RefCell<Vec<Tmpfs>>>);

const MEGABYTES: u32 = 128;
/// Less than writes need.
const LEFT_BYTES: u64 = 2 << 20;

impl Between for SmallDisks {
    fn command(&self, n: usize, folder: &Path) -> Command {
        let mut disks = self.0.borrow_mut();
        if disks.len() == n {
            disks.push(Tmpfs::mount(&folder.join("data"), MEGABYTES));
        }
        Command::new(holdfast())
    }
}

#[test]
fn the_lead_goes_where_there_is_room_and_where_there_is_none_writes_stop_and_go_on_by_themselves() {
    let disks = SmallDisks::default();
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let nodes = Nodes::start_with(ports, Box::new(disks.clone()));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let full = nodes.until_led();
    let ballast = disks.0.borrow()[full].fill(LEFT_BYTES);
    until(WITHIN, "a leader with room", || nodes.led_now().filter(|now| *now != full));
    for n in 0..3 {
        nodes.put(n, &format!("kv/through-{n}"), json!({"v": n}));
    }
    drop(ballast);
    let ballast: Vec<_> = disks.0.borrow().iter().map(|disk| disk.fill(LEFT_BYTES)).collect();
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
