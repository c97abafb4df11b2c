//! Three nodes as one service: real processes, killed while clients write.

mod audit_seals;
mod autopilot;
mod broken_disk;
mod clock_jumps;
mod compaction;
mod copied;
mod devices;
pub mod disturbed;
mod forwarded;
mod full_disk;
mod hvac;
mod joining;
mod log_size;
mod logins;
mod lost_devices;
mod lost_store;
mod members_port;
mod namespace_seals;
pub mod network;
mod new_keys;
mod newcomer;
mod node_key;
pub mod nodes;
mod one_token;
mod own_tokens;
mod own_tpms;
mod recover;
mod removed;
mod seal_migration;
mod seal_plan;
mod sealed_members;
mod several_seals;
mod several_shares;
mod slow_followers;
mod snapshots;
mod snapshots_s3;
mod standby_reads;
mod step_down;
mod stopped_followers;
mod strangers;
mod streams;
mod taken_over;
mod tls_join;
mod upgrade;
mod years_later;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use holdfast_tests::connection::free_port;
use holdfast_tests::process::cpu_time;
use holdfast_tests::program::holdfast;
use holdfast_tests::until;

use nodes::{Between, Nodes, WITHIN};

#[test]
fn nothing_that_was_acknowledged_is_lost_when_leaders_are_killed() {
    let mut nodes = Nodes::start(3);
    nodes.root(0).post("sys/mounts/kv", json!({"type": "kv"})).expect(204);
    nodes.until_all_vote();
    let (acknowledged, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (clients, acknowledged, stop) = (nodes.roots(), acknowledged.clone(), stop.clone());
        thread::spawn(move || {
            for n in 0_u32.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let client = &clients[n as usize % clients.len()];
                let written = client.try_call("POST", &format!("kv/{n}"), Some(&json!({"n": n})));
                match written {
                    Ok(reply) if reply.status == 204 => acknowledged.lock().unwrap().push(n),
                    _ => thread::sleep(Duration::from_millis(20)),
                }
            }
        })
    };
    for _ in 0..3 {
        let before = acknowledged.lock().unwrap().len();
        let leader = nodes.until_led();
        nodes.kill(leader);
        until(WITHIN, "writes behind the kill", || (acknowledged.lock().unwrap().len() > before + 20).then_some(()));
        nodes.start_again(leader);
        nodes.until_all_vote();
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    let acknowledged = acknowledged.lock().unwrap();
    for n in acknowledged.iter() {
        let reply = nodes.root(*n as usize % 3).get(&format!("kv/{n}"));
        assert_eq!(reply.expect(200).at("/data/n"), *n, "written and acknowledged: {n}");
    }
}

#[test]
fn every_node_answers_as_one_and_a_revoked_token_is_good_at_none() {
    let nodes = Nodes::start(3);
    let standby = (nodes.until_led() + 1) % 3;
    assert_eq!(nodes.client(standby).get("sys/health").status, 429);
    assert_eq!(nodes.client(standby).get("sys/health?standbyok=true").status, 200);
    let made = nodes.root(standby).post("auth/token/create", json!({"policies": ["default"]}));
    let token = made.expect(200).text_at("/auth/client_token").to_owned();
    for n in 0..3 {
        nodes.client(n).with_token(&token).get("auth/token/lookup-self").expect(200);
    }
    nodes.root(standby).post("auth/token/revoke", json!({"token": token})).expect(204);
    for n in 0..3 {
        assert_eq!(nodes.client(n).with_token(&token).get("auth/token/lookup-self").status, 403, "node {n}");
    }
    let sent = nodes.root(standby).raw("GET", "/v1/sys/mounts", &[("X-Vault-No-Request-Forwarding", "true")], b"");
    assert_eq!(sent.status, 307);
    assert!(sent.header("location").is_some_and(|l| l.ends_with("/v1/sys/mounts")));
}

/// Who waits for a change of the lead waits: each node used a whole core for it once.
#[test]
fn nodes_that_have_nothing_to_do_rest() {
    let nodes = Nodes::start(3);
    nodes.until_all_vote();
    let used = |n: usize| cpu_time(nodes.server(n).pid());
    let before: Vec<Duration> = (0..3).map(used).collect();
    let time = Duration::from_secs(4);
    thread::sleep(time);
    for (n, before) in before.into_iter().enumerate() {
        let share = (used(n) - before).div_duration_f64(time);
        assert!(share < 0.3, "node {n} uses {share:.2} of a core while nobody asks anything");
    }
}

/// F010. Whoever is asked, a token has one time.
#[test]
fn a_token_that_is_renewed_is_the_same_on_all_nodes() {
    let nodes = Nodes::start(3);
    let active = nodes.until_led();
    let token = nodes.ask(active, "auth/token/create", json!({ "ttl": "1h", "policies": ["default"] }), 200);
    let token = token.text_at("/auth/client_token");
    let of_node = |n: usize| nodes.client(n).with_token(&token);
    let mut renewals = Vec::new();
    for n in (0..3).cycle().take(6) {
        of_node(n).post("auth/token/renew-self", json!({ "increment": "1h" })).expect(200);
        let seen: Vec<_> = (0..3)
            .map(|n| {
                let own = of_node(n).get("auth/token/lookup-self").expect(200);
                (own.at("/data/expire_time"), own.at("/data/last_renewal_time"), own.at("/data/last_renewal"))
            })
            .collect();
        assert!(seen.iter().all(|s| *s == seen[0]), "{seen:?}");
        renewals.extend(seen.into_iter().next());
    }
    renewals.dedup();
    assert_eq!(renewals.len(), 6, "each renewal is seen: {renewals:?}");
}

/// F178. What a standby passes on comes back as the active node has written it: each header once, wrapped there.
#[test]
fn what_a_standby_passes_on_has_the_headers_of_the_active_nodes_answer() {
    let nodes = Nodes::start(3);
    let active = nodes.until_led();
    nodes.put(active, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(active, "kv/a", json!({"v": 1}));
    let names = |n: usize, wrap: &[(&str, &str)]| {
        let reply = nodes.root(n).raw("GET", "/v1/kv/a", wrap, b"").expect(200);
        let mut names: Vec<String> = reply.headers.iter().map(|(name, _)| name.clone()).collect();
        // A node that stands by says what state it has read itself.
        names.retain(|name| !name.ends_with("-index"));
        names.sort();
        (names, reply)
    };
    for wrap in [&[][..], &[("X-Vault-Wrap-TTL", "60s")]] {
        let (own, _) = names(active, wrap);
        for standby in (0..3).filter(|n| *n != active) {
            let (passed_on, reply) = names(standby, wrap);
            assert_eq!(passed_on, own);
            let mut once = passed_on.clone();
            once.dedup();
            assert_eq!(once, passed_on);
            if !wrap.is_empty() {
                assert_eq!(reply.at("/data"), json!(null));
                let wrapping = nodes.client(active).with_token(&reply.text_at("/wrap_info/token"));
                assert_eq!(wrapping.post("sys/wrapping/unwrap", json!({})).expect(200).at("/data/v"), 1);
            }
        }
    }
}

#[test]
fn leadership_is_handed_over_without_an_error_and_all_nodes_come_back_from_a_loss_of_power() {
    let mut nodes = Nodes::start(3);
    nodes.until_all_vote();
    nodes.root(0).post("sys/mounts/kv", json!({"type": "kv"})).expect(204);
    nodes.root(1).post("kv/a", json!({"v": 1})).expect(204);
    let before = nodes.until_led();
    nodes.root(before).post("sys/step-down", json!({})).expect(204);
    let after = until(WITHIN, "another leader", || Some(nodes.until_led()).filter(|now| *now != before));
    assert_ne!(before, after);
    nodes.root(before).post("kv/b", json!({"v": 2})).expect(204);
    for n in 0..3 {
        nodes.kill(n);
    }
    for n in 0..3 {
        nodes.start_again(n);
    }
    nodes.until_led();
    for (key, value) in [("a", 1), ("b", 2)] {
        assert_eq!(nodes.root(2).get(&format!("kv/{key}")).expect(200).at("/data/v"), value);
    }
}

/// Members that find each other by a list.
struct Listed;

impl Between for Listed {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        Command::new(holdfast())
    }

    fn finds(&self, _n: usize, others: &[u16]) -> String {
        let list: Vec<String> = others.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let list = list.join(",");
        format!("retry_join {{\n auto_join = \"provider=static addrs={list}\"\n auto_join_scheme = \"http\"\n}}\n")
    }
}

#[test]
fn nodes_that_are_told_a_list_find_the_cluster_in_it() {
    let nodes = Nodes::start_with((0..3).map(|_| (free_port(), free_port())).collect(), Box::new(Listed));
    nodes.until_all_vote();
    nodes.put(2, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(1, "kv/a", json!({"v": 1}));
    assert_eq!(nodes.read(0, "kv/a").at("/data/v"), 1);
}
