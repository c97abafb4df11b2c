//! Leases of what an engine makes outside: they end on time, whatever happens, and nothing is forgotten.

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::EngineTable;
use holdfast_sdk::{Operation, Value};
use holdfast_storage::Store;
use serde_json::json;
use support::by_hand::ByHand;
use support::outside::{LEASE_SECS, World};
use support::{Server, core};

const ENGINES: EngineTable =
    EngineTable { secrets: &[("outside", support::outside::outside)], auth: &[], databases: &[] };

struct Site {
    server: Server,
    clocks: Arc<ByHand>,
    world: Arc<World>,
}

impl Site {
    async fn new(world: &str) -> Site {
        let clocks = Arc::new(ByHand::default());
        let store = Store::open_on(None, 1 << 20).unwrap();
        let server = Server::initialise(core(store, ENGINES, clocks.clone(), Vec::new())).await;
        server.write("sys/mounts/db", json!({"type": "outside", "options": {"world": world}})).await.expect(204);
        Site { server, clocks, world: World::of(world) }
    }

    /// A new lease's id.
    async fn lease(&self) -> String {
        self.lease_by(&self.server.root).await
    }

    async fn lease_by(&self, token: &str) -> String {
        let made = self.server.ask(token, Operation::Read, "db/leased/a", Value::Null).await.expect(200);
        made["lease_id"].as_str().unwrap().to_owned()
    }

    async fn lookup(&self, lease: &str) -> support::Reply {
        self.server.write("sys/leases/lookup", json!({"lease_id": lease})).await
    }

    async fn revoke(&self, lease: &str, sync: bool) -> support::Reply {
        self.server.write("sys/leases/revoke", json!({"lease_id": lease, "sync": sync})).await
    }

    async fn live(&self) -> Value {
        self.server
            .ask(&self.server.root, Operation::Read, "sys/leases/count", json!({"type": "live"}))
            .await
            .expect(200)["data"]
            .clone()
    }

    async fn irrevocable(&self) -> Vec<Value> {
        let data = json!({"type": "irrevocable"});
        let found = self.server.ask(&self.server.root, Operation::Read, "sys/leases", data).await.expect(200);
        found["data"]["leases"].as_array().unwrap().clone()
    }

    async fn until_no_user(&self) {
        until(|| self.world.users().is_empty()).await;
        for _ in 0..500 {
            if self.server.list("sys/leases/lookup/db").await.status == 404 {
                assert!(
                    self.server.read("sys/intents").await.expect(200)["data"]["intents"].as_array().unwrap().is_empty()
                );
                assert_eq!(self.live().await["lease_count"], 0);
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("a lease is left without its user");
    }
}

async fn until(holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come to hold within ten seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_ends_with_its_lease_and_not_before() {
    let site = Site::new("ends").await;
    let lease = site.lease().await;
    assert!(lease.starts_with("db/leased/a/") && lease.len() == "db/leased/a/".len() + 24, "{lease}");
    let shown = site.lookup(&lease).await.expect(200)["data"].clone();
    assert_eq!((&shown["ttl"], &shown["renewable"]), (&json!(LEASE_SECS.0), &json!(true)));
    assert_eq!(site.live().await["counts"]["db/"]["roles"], json!({"a": 1}));
    site.clocks.pass(LEASE_SECS.0 - 1);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(site.world.users().len(), 1);
    site.clocks.pass(1);
    site.until_no_user().await;
    assert_eq!(site.lookup(&lease).await.status, 400);
    assert_eq!(site.server.list("db/users").await.status, 404, "the engine was told");
}

/// What a lease stands for cannot be brought back, and must not be left: it has its time, by cluster time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_its_time_whatever_the_wall_clock_says() {
    const TEN_YEARS: i64 = 10 * 365 * 24 * 3600;
    let site = Site::new("jumps").await;
    let before = site.lease().await;
    let until_paused = async |paused: bool| {
        for _ in 0..500 {
            if site.server.read("sys/clock").await.expect(200)["data"]["expiry_paused"] == paused {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("expiry is not as it should be");
    };
    for jump in [TEN_YEARS, 3600, -3600] {
        site.clocks.set_wall_by(jump);
        until_paused(true).await;
        let meanwhile = site.lease().await;
        for lease in [&before, &meanwhile] {
            let renewed = site.server.write("sys/leases/renew", json!({"lease_id": lease})).await.expect(200);
            assert_eq!(renewed["lease_duration"], LEASE_SECS.0, "after a jump of {jump} s");
            assert_eq!(site.lookup(lease).await.expect(200)["data"]["ttl"], LEASE_SECS.0);
        }
        site.clocks.set_wall_by(-jump);
        until_paused(false).await;
    }
    site.clocks.pass(LEASE_SECS.0 - 1);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(site.world.users().len(), 4);
    site.clocks.pass(1);
    site.until_no_user().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_moves_both_ends_up_to_the_maximum() {
    let site = Site::new("renews").await;
    let lease = site.lease().await;
    let user = site.world.users().remove(0);
    let renew = async |increment: Value| {
        let body = json!({"lease_id": lease, "increment": increment});
        site.server.write("sys/leases/renew", body).await
    };
    let end = || site.world.ends.lock().unwrap()[&user];
    let now = || holdfast_core::clock::Clocks::wall(&*site.clocks);
    assert_eq!(renew(json!("30m")).await.expect(200)["lease_duration"], 1800);
    assert_eq!(end(), now().plus_secs(1800));
    site.clocks.pass(LEASE_SECS.0 + 10);
    let capped = renew(json!("2h")).await.expect(200);
    assert_eq!(capped["lease_duration"], LEASE_SECS.1 - LEASE_SECS.0 - 10);
    assert_eq!(capped["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(renew(json!(60)).await.expect(200)["lease_duration"], 60, "a shorter one shortens");
    assert_eq!(renew(json!(-60)).await.status, 400);
    site.clocks.pass(61);
    site.until_no_user().await;
    assert_eq!(renew(json!(60)).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_token_ends_its_leases_however_many() {
    let site = Site::new("token").await;
    let token = site.server.token(&site.server.root, "auth/token/create", json!({})).await;
    for _ in 0..50 {
        site.lease_by(&token).await;
    }
    site.server.write("auth/token/revoke", json!({"token": token})).await.expect(204);
    site.until_no_user().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_one_use_left_gets_no_lease_and_leaves_no_user() {
    let site = Site::new("one-use").await;
    let token = site.server.token(&site.server.root, "auth/token/create", json!({"num_uses": 1})).await;
    assert_eq!(site.server.ask(&token, Operation::Read, "db/leased/a", Value::Null).await.status, 400);
    until(|| site.world.users().is_empty()).await;
    assert!(!site.server.is_good(&token).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_fails_leaves_the_lease_to_a_client_that_waits() {
    let site = Site::new("fails").await;
    let lease = site.lease().await;
    site.world.undo_fails(1);
    let refused = site.revoke(&lease, true).await.expect(400);
    assert!(refused.to_string().contains("the world cannot be reached"), "{refused}");
    assert_eq!(site.lookup(&lease).await.expect(200)["data"]["ttl"], LEASE_SECS.0);
    assert_eq!(site.live().await["lease_count"], 1);
    site.revoke(&lease, true).await.expect(204);
    assert!(site.world.users().is_empty());
    assert_eq!(site.lookup(&lease).await.status, 400);
    assert_eq!(site.revoke(&lease, true).await.status, 204, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_behind_is_tried_again_until_it_works() {
    let site = Site::new("behind").await;
    let lease = site.lease().await;
    site.world.undo_fails(3);
    site.revoke(&lease, false).await.expect(202);
    until(|| site.world.undoings.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    for _ in 0..20 {
        site.clocks.pass(2);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    site.until_no_user().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_revoked_is_listed_with_its_reason_and_can_be_forced_away() {
    let site = Site::new("irrevocable").await;
    let (lease, other) = (site.lease().await, site.lease().await);
    site.world.undo_fails(u32::MAX);
    site.revoke(&lease, false).await.expect(202);
    for _ in 0..400 {
        if !site.irrevocable().await.is_empty() {
            break;
        }
        // Asked for again, it is tried at once, unless the target is left alone for a minute.
        site.clocks.pass(61);
        site.revoke(&lease, false).await.expect(202);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let listed = site.irrevocable().await;
    assert_eq!(listed[0]["error"], "the world cannot be reached");
    let shown = site.lookup(listed[0]["lease_id"].as_str().unwrap()).await.expect(200);
    assert_eq!(shown["data"]["revocation"]["state"], "irrevocable");
    let gone = [&lease, &other];
    site.server.write("sys/leases/revoke-force/db", json!({})).await.expect(204);
    for lease in gone {
        assert_eq!(site.lookup(lease).await.status, 400);
    }
    assert!(site.irrevocable().await.is_empty());
    assert!(site.server.read("sys/intents").await.expect(200)["data"]["intents"].as_array().unwrap().is_empty());
    assert_eq!(site.world.users().len(), 2, "forgotten here, alive there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_while_sealed_is_revoked_at_the_unseal() {
    let site = Site::new("sealed").await;
    site.lease().await;
    site.server.core.seal_now().await;
    site.clocks.pass(LEASE_SECS.0 + 5);
    assert_eq!(site.world.users().len(), 1);
    site.server.seal_and_unseal().await;
    site.until_no_user().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_of_many_leases_ends_behind_and_spares_those_beside() {
    let site = Site::new("prefix").await;
    for _ in 0..300 {
        site.lease().await;
    }
    let beside = site.server.read("db/leased/beside").await.expect(200)["lease_id"].as_str().unwrap().to_owned();
    assert_eq!(site.live().await["counts"]["db/"], json!({"lease_count": 301, "roles": {"a": 300, "beside": 1}}));
    site.server.write("sys/leases/revoke-prefix/db/leased/a", json!({"sync": false})).await.expect(202);
    until(|| site.world.users().len() == 1).await;
    assert_eq!(site.lookup(&beside).await.status, 200);
    site.server.write("sys/leases/revoke-prefix/db", json!({})).await.expect(204);
    site.until_no_user().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_waits_for_the_end_of_a_prefix_however_many_leases_it_has() {
    let site = Site::new("prefix-waits").await;
    for _ in 0..300 {
        site.lease().await;
    }
    site.world.undo_fails(1);
    let refused = site.server.write("sys/leases/revoke-prefix/db/leased", json!({"sync": true})).await.expect(400);
    assert!(refused.to_string().contains("the world cannot be reached"), "{refused}");
    let left = site.world.users().len();
    assert!((172..300).contains(&left), "those behind the one that failed are as they were: {left}");
    assert_eq!(site.live().await["lease_count"], left);
    site.server.write("sys/leases/revoke-prefix/db/leased", json!({"sync": true})).await.expect(204);
    assert!(site.world.users().is_empty(), "it is done when it is answered");
    assert_eq!(site.live().await["lease_count"], 0);
    site.until_no_user().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forced_away_is_revoked_where_that_is_possible_however_many() {
    let site = Site::new("force-many").await;
    for _ in 0..300 {
        site.lease().await;
    }
    site.world.undo_fails(2);
    site.server.write("sys/leases/revoke-force/db", json!({})).await.expect(204);
    assert_eq!(site.world.users().len(), 2, "those that could not be revoked");
    assert_eq!(site.live().await["lease_count"], 0);
    assert_eq!(site.server.list("sys/leases/lookup/db").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_is_told_whether_anything_is_left_at_a_target() {
    let site = Site::new("left").await;
    let left =
        async |target: &str| site.server.read(&format!("db/left/{target}")).await.expect(200)["data"]["left"].clone();
    assert_eq!(left("a").await, false);
    let (first, second) = (site.lease().await, site.lease().await);
    assert_eq!((left("a").await, left("b").await), (json!(true), json!(false)));
    site.revoke(&first, true).await.expect(204);
    assert_eq!(left("a").await, true);
    site.world.undo_fails(1);
    site.revoke(&second, false).await.expect(202);
    until(|| site.world.undoings.load(std::sync::atomic::Ordering::SeqCst) == 2).await;
    assert_eq!(left("a").await, true, "its end has only begun");
    site.clocks.pass(61);
    site.until_no_user().await;
    assert_eq!(left("a").await, false);
    // What may have been made counts until nobody looks at it any more.
    site.world.acts_end("b", support::outside::Ending::AnswerLost);
    site.server.read("db/creds/b").await.expect(503);
    assert_eq!((left("a").await, left("b").await), (json!(false), json!(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_whose_leases_cannot_end_stays_whole() {
    let site = Site::new("mount").await;
    let lease = site.lease().await;
    site.world.undo_fails(1);
    site.server.delete("sys/mounts/db").await.expect(400);
    assert_eq!(site.lookup(&lease).await.status, 200);
    assert_eq!(site.world.users().len(), 1);
    site.server.delete("sys/mounts/db").await.expect(204);
    site.until_no_user().await;
    site.server.until_no_jobs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_mount_with_many_leases_is_cleaned_when_all_are_undone() {
    let site = Site::new("mount-of-many").await;
    for _ in 0..200 {
        site.lease().await;
    }
    site.world.undo_fails(1);
    site.server.delete("sys/mounts/db").await.expect(204);
    // Who waits is looked at again as the clock goes on, however long the others take.
    for _ in 0..600 {
        site.clocks.pass(2);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let jobs = site.server.read("sys/jobs").await.expect(200);
        if jobs["data"]["jobs"].as_array().unwrap().is_empty() {
            break;
        }
    }
    site.until_no_user().await;
    site.server.until_no_jobs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_without_anything_outside_ends_the_same_way() {
    let site = Site::new("notes").await;
    let note =
        async || site.server.write("db/note", json!({})).await.expect(200)["lease_id"].as_str().unwrap().to_owned();
    let lease = note().await;
    let renewed = site.server.write("sys/leases/renew", json!({"lease_id": lease})).await.expect(400);
    assert!(renewed.to_string().contains("lease is not renewable"));
    site.revoke(&lease, true).await.expect(204);
    assert_eq!(site.server.list("db/users").await.status, 404);
    note().await;
    site.clocks.pass(61);
    site.until_no_user().await;
    assert_eq!(site.server.list("db/users").await.status, 404);
}
