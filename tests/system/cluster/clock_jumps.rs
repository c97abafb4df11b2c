//! Clocks of single members that jump, and a leader whose machine stood still for an hour: what has a time to live has it
//! by the time of the cluster, neither more nor less.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_tests::database::Database;
use holdfast_tests::process::has_stopped;
use holdfast_tests::until;
use rustix::process::Signal;
use serde_json::json;

use super::disturbed::{self, Faults};
use super::network::Network;
use super::nodes::{Nodes, WITHIN};

const HOUR_S: i64 = 3600;
const JUMPS_S: [i64; 3] = [HOUR_S, -HOUR_S, 10 * 366 * 24 * HOUR_S];
/// What tokens and leases have here.
const TTL: Duration = Duration::from_secs(1800);

/// Three nodes, and a database whose users are what leases stand for.
struct Site {
    nodes: Nodes,
    network: Arc<dyn Network>,
    faults: Vec<Faults>,
    database: Database,
}

impl Site {
    fn new() -> Site {
        let (nodes, network, faults) = disturbed::start(3);
        let site = Site { nodes, network, faults, database: Database::redis() };
        site.nodes.until_all_vote();
        site.nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
        site.nodes.put(0, "sys/mounts/database", json!({"type": "database"}));
        site.nodes.put(0, "database/config/shop", site.database.config());
        for (role, ttl_s) in [("brief", TTL.as_secs()), ("long", 10 * 3600)] {
            let body = json!({
                "db_name": "shop", "creation_statements": ["~things:*", "+get"], "default_ttl": ttl_s, "max_ttl": "20h",
            });
            site.nodes.put(0, &format!("database/roles/{role}"), body);
        }
        site
    }

    /// A token with a time to live, asked for at a node.
    fn token(&self, node: usize, ttl: Duration) -> String {
        let wanted = json!({"ttl": format!("{}s", ttl.as_secs()), "policies": ["default"]});
        self.nodes.ask(node, "auth/token/create", wanted, 200).text_at("/auth/client_token")
    }

    /// A user of the database, and the lease that it lasts by.
    fn user(&self, node: usize, role: &str) -> (String, String) {
        let made = self.nodes.read(node, &format!("database/creds/{role}"));
        (made.text_at("/data/username"), made.text_at("/lease_id"))
    }

    /// What a node says of a token: whether it is good, once somebody says so.
    fn is_good(&self, node: usize, token: &str) -> bool {
        let client = self.nodes.client(node).with_token(token);
        until(WITHIN, "an answer about a token", || {
            match client.try_call("GET", "auth/token/lookup-self", None).ok()?.status {
                200 => Some(true),
                403 => Some(false),
                _ => None,
            }
        })
    }

    #[track_caller]
    fn is_good_at_all(&self, token: &str, good: bool, when: &str) {
        for node in 0..self.nodes.count() {
            assert_eq!(self.is_good(node, token), good, "at node {node} {when}");
        }
    }

    /// A lease can be renewed, and its user is there.
    fn lives(&self, (user, lease): &(String, String), when: &str) {
        let renewed = self.nodes.ask(0, "sys/leases/renew", json!({ "lease_id": lease }), 200);
        assert_eq!(renewed.at("/lease_duration"), TTL.as_secs(), "{when}");
        assert!(self.database.made_users().contains(user), "a user ended early {when}");
    }

    fn is_paused(&self, node: usize) -> Option<bool> {
        let root = self.nodes.root(node);
        root.try_call("GET", "sys/clock", None).ok().filter(|r| r.status == 200)?.at("/data/expiry_paused").as_bool()
    }

    /// Let this one lead: the one that does can hand over to no other.
    fn lead_by(&self, node: usize) {
        let now = self.nodes.until_led();
        if now == node {
            return;
        }
        let third: Vec<usize> = (0..3).filter(|n| ![now, node].contains(n)).collect();
        self.network.separate(&third);
        self.nodes.change_lead();
        self.network.heal();
        assert_eq!(self.nodes.until_led(), node);
    }

    /// How many tokens and leases a node has ended because their time was over.
    fn ended_by(&self, node: usize) -> (u64, u64) {
        let page = self.nodes.client(node).get("sys/metrics?format=prometheus").expect(200).text();
        let of = |name: &str| {
            let found = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            found.unwrap_or_else(|| panic!("no {name} in {page}"))
        };
        (of("holdfast_tokens_expired "), of("holdfast_leases_expired "))
    }

    fn ended(&self) -> (u64, u64) {
        let each = (0..self.nodes.count()).map(|node| self.ended_by(node));
        each.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    fn all_pass(&self, time: Duration) {
        self.faults.iter().for_each(|faults| faults.pass(time));
    }
}

/// Whatever was given before and meanwhile has its time: what it stands for is there until then, and not for longer.
fn a_clock_jumps(of_leader: bool) {
    let site = Site::new();
    let (mut tokens, mut users) = (Vec::new(), Vec::new());
    for jump_s in JUMPS_S {
        let leader = site.nodes.until_led();
        let jumps = if of_leader { leader } else { (leader + 1) % 3 };
        let other = (jumps + 1) % 3;
        let before = (site.token(jumps, TTL), site.user(jumps, "brief"));
        site.faults[jumps].wall_offset(jump_s);
        if of_leader {
            until(WITHIN, "a clock that is in doubt", || (site.is_paused(jumps)?).then_some(()));
        }
        let when =
            &*format!("while the clock of {} is off by {jump_s} s", if of_leader { "the leader" } else { "one" });
        let meanwhile = (site.token(other, TTL), site.user(other, "brief"));
        site.is_good_at_all(&meanwhile.0, true, when);
        // By the clock of the one who judges it is over; nothing ends for it.
        site.is_good_at_all(&before.0, !of_leader || jump_s < 0, when);
        site.lives(&before.1, when);
        site.lives(&meanwhile.1, when);

        // The one that jumped gets the lead, or loses it.
        match of_leader {
            true => site.nodes.change_lead(),
            false => site.lead_by(jumps),
        }
        let when = &*format!("{when}, behind a change of the lead");
        if !of_leader {
            until(WITHIN, "a clock that is in doubt", || (site.is_paused(jumps)?).then_some(()));
        }
        site.is_good_at_all(&before.0, of_leader || jump_s < 0, when);
        // One that the future has issued is refused by all who know better.
        site.is_good_at_all(&meanwhile.0, jump_s < 0, when);
        site.lives(&before.1, when);
        site.lives(&meanwhile.1, when);

        site.faults[jumps].wall_offset(0);
        until(WITHIN, "a clock that is right", || (!site.is_paused(site.nodes.led_now()?)?).then_some(()));
        site.is_good_at_all(&before.0, true, "when all clocks are right again");
        tokens.extend([before.0, meanwhile.0]);
        users.extend([before.1, meanwhile.1]);
    }
    assert_eq!(site.ended(), (0, 0), "nothing was over");
    assert_eq!(site.database.made_users().len(), users.len());
    site.all_pass(TTL + Duration::from_secs(60));
    until(WITHIN, "the end of all users", || site.database.made_users().is_empty().then_some(()));
    until(WITHIN, "the end of all", || (site.ended() == (tokens.len() as u64, users.len() as u64)).then_some(()));
    for token in &tokens {
        site.is_good_at_all(token, false, "past its time");
    }
}

#[test]
fn a_leaders_clock_that_jumps_ends_nothing_early_and_lets_nothing_live_on() {
    a_clock_jumps(true);
}

#[test]
fn a_followers_clock_that_jumps_ends_nothing_early_and_lets_nothing_live_on_when_it_leads() {
    a_clock_jumps(false);
}

#[test]
fn a_member_that_starts_with_its_clock_years_ahead_ends_nothing_when_it_leads() {
    let mut site = Site::new();
    let ahead_s = JUMPS_S[2];
    let starts = (site.nodes.until_led() + 1) % 3;
    let before = (site.token(starts, TTL), site.user(starts, "brief"));
    site.nodes.kill(starts);
    site.faults[starts].wall_offset(ahead_s);
    site.nodes.start_again(starts);
    site.lead_by(starts);
    until(WITHIN, "a clock that is in doubt", || (site.is_paused(starts)?).then_some(()));
    site.nodes.server(starts).until_logged("more than a day ahead of the time that the store knows");
    let when = "while one leads that has started with its clock years ahead";
    site.is_good_at_all(&before.0, false, when);
    site.lives(&before.1, when);
    // The next one that leads knows nothing of it.
    site.nodes.change_lead();
    let meanwhile = site.user(site.nodes.until_led(), "brief");
    site.is_good_at_all(&before.0, true, "when another one leads");
    site.faults[starts].wall_offset(0);
    site.lives(&before.1, "when all clocks are right again");
    assert_eq!(site.ended(), (0, 0), "nothing was over");
    site.all_pass(TTL + Duration::from_secs(60));
    until(WITHIN, "the end of both users", || site.database.made_users().is_empty().then_some(()));
    assert_ne!(before.1.0, meanwhile.0);
}

#[test]
fn a_leader_that_stood_still_for_an_hour_serves_nothing_of_before_and_ends_nothing_again() {
    const HOUR: Duration = Duration::from_secs(3600);
    let site = Site::new();
    let (nodes, network) = (&site.nodes, &site.network);
    nodes.put(0, "kv/a", json!({"v": 1}));
    let (ends, lives, revoked) = (site.token(0, TTL), site.token(1, 10 * HOUR), site.token(2, 10 * HOUR));
    let (brief, long) = (site.user(0, "brief"), site.user(1, "long"));

    let still = nodes.until_led();
    nodes.server(still).signal(Signal::STOP);
    until(WITHIN, "a process that has stopped", || has_stopped(nodes.server(still).pid()).then_some(()));
    let stopped = Instant::now();
    let others: Vec<usize> = (0..3).filter(|n| *n != still).collect();
    let leader = until(WITHIN, "another leader", || others.iter().copied().find(|n| nodes.says_it_leads(*n)));
    nodes.put(leader, "kv/a", json!({"v": 2}));
    nodes.ask(leader, "auth/token/revoke", json!({ "token": revoked }), 204);
    site.all_pass(HOUR);
    until(WITHIN, "the end of a user", || (site.database.made_users() == [long.0.clone()]).then_some(()));
    let by_others = || {
        let each = others.iter().map(|n| site.ended_by(*n));
        each.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    };
    until(WITHIN, "the end of what was over", || (by_others() == (1, 1)).then_some(()));

    // It wakes, hears nobody for a while, and the clock by which it would know that it leads has stood still.
    network.separate(&[still]);
    site.faults[still].slept(stopped.elapsed());
    nodes.server(still).signal(Signal::CONT);
    let patience = Duration::from_secs(2);
    for token in [nodes.root(0).token(), &ends, &revoked, &lives] {
        let client = nodes.client(still).with_token(token).patient_for(patience);
        for path in ["kv/a", "auth/token/lookup-self"] {
            if let Ok(answer) = client.try_call("GET", path, None) {
                assert!([403, 503].contains(&answer.status), "{path}: {}: {}", answer.status, answer.text());
            }
        }
    }
    let written = nodes.root(still).patient_for(patience).try_call("POST", "kv/c", Some(&json!({"v": 3})));
    // Without an answer nobody knows what becomes of it.
    assert!(written.as_ref().map_or(true, |answer| answer.status == 503), "{written:?}");

    network.heal();
    assert_eq!(nodes.read(still, "kv/a").at("/data/v"), 2);
    assert!(!nodes.says_it_leads(still), "it has stepped down");
    site.is_good_at_all(&revoked, false, "as it was revoked meanwhile");
    site.is_good_at_all(&ends, false, "as it was over meanwhile");
    site.is_good_at_all(&lives, true, "as it has hours left");
    // Nor does it end anything when it leads again.
    site.lead_by(still);
    nodes.put(still, "kv/b", json!({"v": 1}));
    assert_eq!(site.ended_by(still), (0, 0));
    assert_eq!(by_others(), (1, 1));
    assert_eq!(site.database.made_users(), [long.0]);
    assert_ne!(brief.1, long.1);
}
