//! A node that was off for ten years.

use serde_json::json;

use holdfast_tests::until;

use super::disturbed;
use super::nodes::WITHIN;

const TEN_YEARS_S: i64 = 10 * 366 * 24 * 3600;

#[test]
fn a_node_that_was_off_for_ten_years_votes_and_reads_again() {
    let (mut nodes, _network, faults) = disturbed::start(3);
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let off = (nodes.until_led() + 1) % 3;
    nodes.kill(off);
    nodes.put((off + 1) % 3, "kv/b", json!({"v": 2}));
    faults.iter().for_each(|f| f.wall_offset(TEN_YEARS_S));
    nodes.start_again(off);
    let now = until(WITHIN, "a clock", || {
        nodes.client(off).try_call("GET", "sys/health", None).ok()?.json()["server_time_utc"].as_i64()
    });
    assert!(now > 2_000_000_000, "it is {now}: the clock has not gone on");
    for (key, value) in [("a", 1), ("b", 2)] {
        assert_eq!(nodes.read(off, &format!("kv/{key}")).at("/data/v"), value);
    }
    // The others need its vote now.
    let other = (0..3).find(|n| *n != off && *n != nodes.until_led()).expect("a third node");
    nodes.kill(other);
    nodes.put(off, "kv/c", json!({"v": 3}));
    // It leads, too.
    let leader = nodes.until_led();
    if leader != off {
        nodes.change_lead();
    }
    assert_eq!(nodes.until_led(), off);
    assert_eq!(nodes.read(off, "kv/c").at("/data/v"), 3);
}
