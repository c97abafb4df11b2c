//! Clocks that jump: nothing lives longer than it should, and nothing is ended in bulk by mistake.

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::bare::BareRequest;
use holdfast_core::{EngineTable, OldRoutes};
use holdfast_sdk::{Operation, Value};
use holdfast_storage::Store;
use holdfast_storage::sim::SimDisk;
use serde_json::json;
use support::by_hand::ByHand;
use support::{Server, core};

const ENGINES: EngineTable = EngineTable { secrets: &[], auth: &[], databases: &[] };
const HOUR: i64 = 3600;
const TEN_YEARS: i64 = 10 * 365 * 24 * HOUR;

struct Site {
    server: Server,
    clocks: Arc<ByHand>,
    disk: SimDisk,
}

fn open(disk: &SimDisk) -> Store {
    Store::open_on(Some(Arc::new(disk.clone())), 1 << 20).unwrap()
}

impl Site {
    async fn new() -> Site {
        let (clocks, disk) = (Arc::new(ByHand::default()), SimDisk::default());
        let server = Server::initialise(core(open(&disk), ENGINES, clocks.clone(), Vec::new())).await;
        Site { server, clocks, disk }
    }

    /// A token that ends in an hour.
    async fn token(&self) -> String {
        let made =
            self.server.write("auth/token/create", json!({"ttl": "1h", "policies": "default"})).await.expect(200);
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    async fn is_good(&self, token: &str) -> bool {
        self.server.ask(token, Operation::Read, "auth/token/lookup-self", Value::Null).await.status == 200
    }

    /// How many tokens were swept.
    fn swept(&self) -> u64 {
        self.server.core.metrics.tokens_expired.get()
    }

    async fn clock(&self) -> Value {
        self.server.read("sys/clock").await.expect(200)["data"].clone()
    }

    async fn until_swept(&self, count: u64) {
        for _ in 0..500 {
            if self.swept() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} tokens were swept, not {count}", self.swept());
    }

    async fn until_paused(&self, paused: bool) {
        for _ in 0..500 {
            if self.clock().await["expiry_paused"] == paused {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", self.clock().await);
    }

    async fn health(&self) -> Value {
        let request =
            BareRequest { method: "GET", path: "sys/health", query: &[], body: b"", old_routes: OldRoutes::default() };
        serde_json::from_slice(&self.server.core.bare(&request).await.unwrap().body).unwrap()
    }

    fn metrics(&self) -> String {
        self.server.core.metrics.prometheus(&self.server.core.metrics_now())
    }
}

/// Longer than the pause between two looks of the server.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_end_when_time_passes_and_are_swept() {
    let site = Site::new().await;
    let token = site.token().await;
    site.clocks.pass(3599);
    assert!(site.is_good(&token).await);
    site.clocks.pass(1);
    assert!(!site.is_good(&token).await);
    site.until_swept(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_ahead_ends_tokens_and_sweeps_none_of_them() {
    let site = Site::new().await;
    let token = site.token().await;
    assert!(site.health().await.get("clock_apart_secs").is_none());
    site.clocks.set_wall_by(24 * HOUR);
    assert!(!site.is_good(&token).await, "past its end by the wall clock");
    site.until_paused(true).await;
    a_while().await;
    assert_eq!(site.swept(), 0);
    assert_eq!(site.health().await["clock_apart_secs"], 24 * HOUR);
    assert!(site.metrics().contains("\nholdfast_expiry_paused 1\n"));
    assert!(site.metrics().contains(&format!("\nholdfast_clock_apart_seconds {}\n", 24 * HOUR)));
    site.clocks.set_wall_by(-24 * HOUR);
    site.until_paused(false).await;
    assert!(site.is_good(&token).await, "the clock was put right");
    assert!(site.metrics().contains("\nholdfast_clock_pauses 1\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_wrong_hour_does_not_outlive_its_time_when_the_clock_is_put_right() {
    let site = Site::new().await;
    let renewed = site.token().await;
    site.clocks.set_wall_by(HOUR / 2);
    let made = site.token().await;
    assert!(site.is_good(&made).await, "as long as the clock says so");
    site.server.ask(&renewed, Operation::Update, "auth/token/renew-self", Value::Null).await.expect(200);
    site.clocks.set_wall_by(-HOUR / 2);
    assert!(!site.is_good(&made).await);
    assert!(!site.is_good(&renewed).await);
    // A step within what clocks may differ is no wrong hour.
    site.clocks.set_wall_by(4);
    let made = site.token().await;
    site.clocks.set_wall_by(-4);
    assert!(site.is_good(&made).await);
    site.clocks.pass(3600 + 4);
    assert!(!site.is_good(&made).await);
}

/// It is refused at once; that its leases and its record go needs an end by cluster time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_issued_ten_years_ahead_is_swept_when_its_time_is_over() {
    let site = Site::new().await;
    site.clocks.set_wall_by(TEN_YEARS);
    site.until_paused(true).await;
    let made = site.token().await;
    let renewed = site.token().await;
    site.server.ask(&renewed, Operation::Update, "auth/token/renew-self", Value::Null).await.expect(200);
    site.clocks.set_wall_by(-TEN_YEARS);
    site.until_paused(false).await;
    assert!(!site.is_good(&made).await && !site.is_good(&renewed).await);
    site.clocks.pass(3500);
    a_while().await;
    assert_eq!(site.swept(), 0);
    site.clocks.pass(101);
    site.until_swept(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_issued_while_the_clock_was_in_doubt_has_its_time_when_it_is_believed() {
    let site = Site::new().await;
    site.clocks.set_wall_by(24 * HOUR);
    site.until_paused(true).await;
    let made = site.token().await;
    site.server.write("sys/clock/confirm", Value::Null).await.expect(204);
    site.until_paused(false).await;
    a_while().await;
    assert!(site.is_good(&made).await);
    assert_eq!(site.swept(), 0);
    site.clocks.pass(3601);
    assert!(!site.is_good(&made).await);
    site.until_swept(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_back_gives_no_token_a_longer_life() {
    let site = Site::new().await;
    let token = site.token().await;
    site.clocks.set_wall_by(-48 * HOUR);
    site.until_paused(true).await;
    assert_eq!(site.health().await["clock_apart_secs"], -48 * HOUR);
    site.clocks.pass(500);
    assert!(site.is_good(&token).await);
    let later = site.token().await;
    site.clocks.pass(3100);
    assert!(!site.is_good(&token).await, "time goes on with the time since the boot");
    assert!(site.is_good(&later).await);
    // It has kept its course for ten minutes meanwhile.
    site.until_paused(false).await;
    site.until_swept(1).await;
    site.clocks.pass(500);
    assert!(!site.is_good(&later).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_past_its_end_is_swept_when_an_operator_confirms_the_clock() {
    let site = Site::new().await;
    site.token().await;
    site.clocks.set_wall_by(24 * HOUR);
    site.until_paused(true).await;
    let shown = site.clock().await;
    assert_eq!(shown["apart_secs"], 24 * HOUR);
    assert_ne!(shown["cluster_time"], shown["wall_time"]);
    a_while().await;
    assert_eq!(site.swept(), 0);
    let nobody = site.server.write("auth/token/create", json!({"policies": "default"})).await.expect(200);
    let nobody = nobody["auth"]["client_token"].as_str().unwrap();
    site.server.ask(nobody, Operation::Update, "sys/clock/confirm", Value::Null).await.expect(403);
    site.server.write("sys/clock/confirm", Value::Null).await.expect(204);
    site.until_swept(1).await;
    let shown = site.clock().await;
    assert_eq!((&shown["expiry_paused"], &shown["cluster_time"]), (&json!(false), &shown["wall_time"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_while_the_server_is_down_brings_no_token_back() {
    let mut site = Site::new().await;
    let (ended, lives) = (site.token().await, site.token().await);
    site.clocks.pass(3000);
    site.server.ask(&lives, Operation::Update, "auth/token/renew-self", Value::Null).await.expect(200);
    site.clocks.pass(1000);
    // Something is committed, and the time with it.
    site.server.write("sys/config/cors", json!({"allowed_origins": "https://a"})).await.expect(204);
    site.disk = site.disk.power_cut(|| false);
    site.clocks.set_wall_by(-24 * HOUR);
    site.server = site.server.again(core(open(&site.disk), ENGINES, site.clocks.clone(), Vec::new())).await;
    site.until_paused(true).await;
    assert!(!site.is_good(&ended).await);
    assert!(site.is_good(&lives).await);
    site.clocks.pass(2601);
    assert!(!site.is_good(&lives).await);
}

/// A server that was off while time passed, and one whose clock is wrong when it is started: nobody can tell them apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_years_later_sweeps_nothing_until_its_clock_is_confirmed_steady_or_right() {
    for (truth, outcome) in [("wrong", true), ("off, confirmed", false), ("off, steady", false)] {
        let mut site = Site::new().await;
        let token = site.token().await;
        site.server.write("sys/config/cors", json!({"allowed_origins": "https://a"})).await.expect(204);
        site.disk = site.disk.power_cut(|| false);
        site.clocks.set_wall_by(TEN_YEARS);
        site.server = site.server.again(core(open(&site.disk), ENGINES, site.clocks.clone(), Vec::new())).await;
        site.until_paused(true).await;
        assert!(!site.is_good(&token).await, "past its end by the wall clock");
        a_while().await;
        assert_eq!(site.swept(), 0);
        let shown = site.clock().await;
        assert!(shown["apart_secs"].as_i64().unwrap() >= TEN_YEARS - 5, "{shown}");
        match truth {
            "wrong" => site.clocks.set_wall_by(-TEN_YEARS),
            "off, confirmed" => {
                site.server.write("sys/clock/confirm", Value::Null).await.expect(204);
            }
            _ => site.clocks.pass(601),
        }
        site.until_paused(false).await;
        assert_eq!(site.is_good(&token).await, outcome, "{truth}");
        site.until_swept(u64::from(!outcome)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_off_for_less_than_a_day_goes_on_at_once() {
    let mut site = Site::new().await;
    site.token().await;
    site.server.write("sys/config/cors", json!({"allowed_origins": "https://a"})).await.expect(204);
    site.disk = site.disk.power_cut(|| false);
    site.clocks.set_wall_by(23 * HOUR);
    site.server = site.server.again(core(open(&site.disk), ENGINES, site.clocks.clone(), Vec::new())).await;
    site.until_swept(1).await;
    assert_eq!(site.clock().await["expiry_paused"], false);
}

/// A union of policies is kept: what it was compiled without must not count again, nor the other way round.
#[tokio::test]
async fn a_wall_clock_that_jumps_ends_no_policy_and_time_that_passes_does() {
    let site = Site::new().await;
    let server = &site.server;
    let write = async |name: &str, rules: &str, ttl: &str| {
        server.write(&format!("sys/policies/acl/{name}"), json!({"policy": rules, "ttl": ttl})).await.expect(204);
    };
    write("reads", r#"path "sys/host-info" { capabilities = ["read"] }"#, "30m").await;
    write("bans", r#"path "sys/mounts" { capabilities = ["deny"] }"#, "30m").await;
    write("mounts", r#"path "sys/mounts" { capabilities = ["read"] }"#, "0").await;
    let token = server.token(&server.root, "auth/token/create", json!({"policies": ["reads", "bans", "mounts"]})).await;
    let may = async |path: &str| server.ask(&token, Operation::Read, path, Value::Null).await.status == 200;
    let both = async || (may("sys/host-info").await, may("sys/mounts").await);

    assert_eq!(both().await, (true, false));
    site.clocks.set_wall_by(HOUR);
    assert_eq!(both().await, (true, false), "the wall clock alone is ahead");
    assert_eq!(server.read("sys/policies/acl/bans").await.status, 200);
    site.clocks.set_wall_by(-HOUR);
    assert_eq!(both().await, (true, false));
    site.clocks.pass(31 * 60);
    assert_eq!(both().await, (false, true));
    assert_eq!(server.read("sys/policies/acl/bans").await.status, 404);
    site.clocks.set_wall_by(-HOUR);
    assert_eq!(both().await, (false, true), "cluster time does not go back");
}
