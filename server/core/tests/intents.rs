//! Acts outside: whatever goes wrong at whatever step, no user is left that the store does not know.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_core::EngineTable;
use holdfast_sdk::Value;
use holdfast_storage::Store;
use holdfast_storage::sim::SimDisk;
use serde_json::json;
use support::by_hand::ByHand;
use support::outside::{Ending, TIME_OUT_SECS, World};
use support::{Reply, Server, core};

const ENGINES: EngineTable =
    EngineTable { secrets: &[("outside", support::outside::outside)], auth: &[], databases: &[] };
/// From its start until an intent is undone though nothing is heard of its request.
const DEADLINE_SECS: u64 = TIME_OUT_SECS + 10;
/// From an undoing to the second look.
const LOOK_AGAIN_SECS: u64 = 300;

struct Site {
    server: Server,
    disk: SimDisk,
    clocks: Arc<ByHand>,
    world: Arc<World>,
}

fn open(disk: &SimDisk) -> Store {
    Store::open_on(Some(Arc::new(disk.clone())), 1 << 20).unwrap()
}

impl Site {
    async fn new(world: &str) -> Site {
        let (disk, clocks) = (SimDisk::default(), Arc::new(ByHand::default()));
        let server = Server::initialise(core(open(&disk), ENGINES, clocks.clone(), Vec::new())).await;
        server.write("sys/mounts/db", json!({"type": "outside", "options": {"world": world}})).await.expect(204);
        Site { server, disk, clocks, world: World::of(world) }
    }

    async fn make_at(&self, target: &str) -> Reply {
        self.server.read(&format!("db/creds/{target}")).await
    }

    /// The same in a task of its own.
    fn making_at(&self, target: &str) -> tokio::task::JoinHandle<u16> {
        let (core, root, path) = (self.server.core.clone(), self.server.root.clone(), format!("db/creds/{target}"));
        tokio::spawn(async move {
            support::ask(&core, &root, holdfast_sdk::Operation::Read, &path, Value::Null).await.status
        })
    }

    /// The process ends here: what its disk had not synced is lost, and a new one begins.
    async fn stops_and_starts(&mut self, making: Option<tokio::task::JoinHandle<u16>>) {
        let disk = self.disk.power_cut(|| false);
        if let Some(making) = making {
            making.abort();
            assert!(making.await.unwrap_err().is_cancelled());
        }
        let next = core(open(&disk), ENGINES, self.clocks.clone(), Vec::new());
        let server = self.server.again(next).await;
        let before = Arc::downgrade(&std::mem::replace(&mut self.server, server).core);
        until(|| before.strong_count() == 0).await;
        self.disk = disk;
    }

    async fn intents(&self) -> Vec<Value> {
        let all = self.server.read("sys/intents").await.expect(200);
        all["data"]["intents"].as_array().unwrap().clone()
    }

    async fn known(&self) -> Vec<String> {
        let reply = self.server.list("db/users").await;
        match reply.status {
            404 => Vec::new(),
            _ => serde_json::from_value(reply.expect(200)["data"]["keys"].clone()).unwrap(),
        }
    }

    /// Wait until all intents are in this state, and how many there are is right.
    async fn until(&self, count: usize, state: &str) -> Vec<Value> {
        for _ in 0..500 {
            let intents = self.intents().await;
            if intents.len() == count && intents.iter().all(|i| i["state"] == state) {
                return intents;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no {count} intents that are {state}: {:?}", self.intents().await);
    }

    /// Everything comes to rest: what was made and is not known is gone, and what is undone is forgotten.
    async fn settles(&self) {
        self.forgets().await;
        assert_eq!(self.world.users(), self.known().await);
    }

    /// Every intent is undone, looked at again and forgotten.
    async fn forgets(&self) {
        self.until(self.intents().await.len(), "undone").await;
        self.clocks.pass(DEADLINE_SECS + LOOK_AGAIN_SECS + 1);
        self.until(0, "").await;
    }
}

/// Hold requests up at a point until told to go on; says when one is there.
struct Held {
    there: Arc<AtomicBool>,
    goes_on: tokio::sync::watch::Sender<bool>,
}

impl Held {
    fn at(site: &Site, point: &'static str) -> Held {
        let there = Arc::new(AtomicBool::new(false));
        let goes_on = tokio::sync::watch::Sender::new(false);
        let (told, on) = (there.clone(), goes_on.subscribe());
        site.server.core.failpoints.set(move |reached| {
            let (told, mut on) = (told.clone(), on.clone());
            Box::pin(async move {
                if reached == point {
                    told.store(true, Ordering::SeqCst);
                    let _gone = on.wait_for(|on| *on).await;
                }
            })
        });
        Held { there, goes_on }
    }

    async fn until_there(&self) {
        until(|| self.there.load(Ordering::SeqCst)).await;
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
async fn an_act_that_works_leaves_its_user_and_no_intent() {
    let site = Site::new("works").await;
    let made = site.make_at("a").await.expect(200);
    assert_eq!(made["data"]["username"], "user-0");
    assert_eq!((site.world.users(), site.known().await), (vec!["user-0".into()], vec!["user-0".into()]));
    assert!(site.intents().await.is_empty());
    assert_eq!(site.world.undoings.load(Ordering::SeqCst), 0);
    assert_eq!(site.make_at("none").await.expect(200)["data"], json!({}), "nothing had to be made");
    assert_eq!(site.world.acts.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_that_made_nothing_is_forgotten_at_once() {
    let site = Site::new("refused").await;
    site.world.acts_end("a", Ending::Refused);
    assert_eq!(site.make_at("a").await.expect(400)["errors"][0], "the world refuses");
    assert!(site.intents().await.is_empty());
    assert_eq!(site.world.undoings.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_whose_answer_was_lost_is_undone_and_looked_at_once_more() {
    let site = Site::new("lost").await;
    site.world.acts_end("a", Ending::AnswerLost);
    site.make_at("a").await.expect(503);
    let undone = site.until(1, "undone").await;
    assert!(site.world.users().is_empty(), "it did not wait for the deadline");
    assert_eq!((&undone[0]["target"], &undone[0]["name"]), (&json!("a"), &json!("user-0")));
    assert_eq!(site.world.undoings.load(Ordering::SeqCst), 1);
    // Somebody's late packet makes the user after all.
    site.clocks.pass(LOOK_AGAIN_SECS - 1);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(site.intents().await.len(), 1);
    site.settles().await;
    assert_eq!(site.world.undoings.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_for_a_request_that_fails_afterwards_is_undone() {
    let site = Site::new("handler").await;
    site.world.handler_fails(true);
    site.make_at("a").await.expect(400);
    site.settles().await;
    assert!(site.world.users().is_empty());
    assert_eq!(site.world.acts.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_for_a_request_whose_commit_fails_is_undone() {
    let site = Site::new("commit").await;
    let held = Held::at(&site, "acted");
    let making = site.making_at("a");
    held.until_there().await;
    site.disk.limit_room(Some(0));
    held.goes_on.send_replace(true);
    assert_eq!(making.await.unwrap(), 507);
    assert_eq!(site.world.users(), ["user-0"]);
    site.disk.limit_room(None);
    // It could not even be given back: its deadline is what is left.
    site.until(1, "open").await;
    site.clocks.pass(DEADLINE_SECS + 1);
    site.settles().await;
    assert!(site.world.users().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_before_its_act_has_nothing_to_undo_and_that_counts_as_done() {
    let mut site = Site::new("stops-before").await;
    let held = Held::at(&site, "intended");
    let making = site.making_at("a");
    held.until_there().await;
    site.stops_and_starts(Some(making)).await;
    site.until(1, "open").await;
    site.clocks.pass(DEADLINE_SECS - 5);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(site.world.undoings.load(Ordering::SeqCst), 0, "not before its deadline");
    site.clocks.pass(6);
    site.settles().await;
    assert_eq!((site.world.acts.load(Ordering::SeqCst), site.world.undoings.load(Ordering::SeqCst)), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_made_that_stops_before_its_commit_is_undone_by_the_next() {
    let mut site = Site::new("stops-after").await;
    let held = Held::at(&site, "acted");
    let making = site.making_at("a");
    held.until_there().await;
    site.stops_and_starts(Some(making)).await;
    assert_eq!(site.world.users(), ["user-0"]);
    site.clocks.pass(DEADLINE_SECS + 1);
    site.settles().await;
    assert!(site.world.users().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_while_it_undoes_is_followed_by_one_that_does_it() {
    let mut site = Site::new("stops-undoing").await;
    site.world.acts_end("a", Ending::AnswerLost);
    site.world.undo_hangs(true);
    site.make_at("a").await.expect(503);
    until(|| site.world.undoings.load(Ordering::SeqCst) == 1).await;
    site.until(1, "undoing").await;
    site.stops_and_starts(None).await;
    site.world.undo_hangs(false);
    site.clocks.pass(71);
    site.settles().await;
    assert!(site.world.users().is_empty());
    assert_eq!(site.world.undoings.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_ends_acts_and_undoings_and_what_they_left_is_undone_after_the_unseal() {
    let site = Site::new("seal").await;
    site.world.acts_end("a", Ending::HangsAfter);
    let making = site.making_at("a");
    until(|| site.world.users().len() == 1).await;
    let begin = std::time::Instant::now();
    site.server.seal_and_unseal().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "no act holds the seal up");
    assert_eq!(making.await.unwrap(), 503);
    site.until(1, "open").await;
    site.world.undo_hangs(true);
    site.clocks.pass(DEADLINE_SECS + 1);
    until(|| site.world.undoings.load(Ordering::SeqCst) == 1).await;
    site.server.seal_and_unseal().await;
    site.world.undo_hangs(false);
    site.until(1, "undoing").await;
    site.clocks.pass(71);
    site.settles().await;
    assert!(site.world.users().is_empty());
}

impl Site {
    async fn lease(&self) -> String {
        let made = self.server.read("db/leased/a").await.expect(200);
        made["lease_id"].as_str().unwrap().to_owned()
    }

    /// A client that waits for the end of a lease, in a task of its own.
    fn revoking(&self, lease: &str) -> tokio::task::JoinHandle<u16> {
        let (core, root, body) = (self.server.core.clone(), self.server.root.clone(), json!({"lease_id": lease}));
        let update = holdfast_sdk::Operation::Update;
        tokio::spawn(async move { support::ask(&core, &root, update, "sys/leases/revoke", body).await.status })
    }

    /// A lease is there, or none is and nothing is left of it.
    async fn has_lease(&self, lease: &str) -> bool {
        match self.server.write("sys/leases/lookup", json!({"lease_id": lease})).await.status {
            200 => true,
            400 => {
                let live = json!({"type": "live"});
                let read = holdfast_sdk::Operation::Read;
                let live = self.server.ask(&self.server.root, read, "sys/leases/count", live).await.expect(200);
                assert_eq!(live["data"]["lease_count"], 0);
                false
            }
            other => panic!("a lookup answers {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_user_was_revoked_by_a_process_that_stopped_ends_with_the_next() {
    let mut site = Site::new("stops-revoking").await;
    let lease = site.lease().await;
    let held = Held::at(&site, "acted");
    let revoking = site.revoking(&lease);
    held.until_there().await;
    assert!(site.world.users().is_empty());
    site.stops_and_starts(Some(revoking)).await;
    assert!(site.has_lease(&lease).await, "its end is not noted");
    assert_eq!(site.until(1, "open").await[0]["lease_id"], json!(lease));
    site.clocks.pass(71);
    site.until(0, "").await;
    assert!(!site.has_lease(&lease).await);
    assert!(site.known().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_a_seal_broke_off_goes_on_after_the_unseal() {
    let site = Site::new("seal-revoking").await;
    let lease = site.lease().await;
    site.world.undo_hangs(true);
    let revoking = site.revoking(&lease);
    until(|| site.world.undoings.load(Ordering::SeqCst) == 1).await;
    site.server.seal_and_unseal().await;
    assert!(revoking.await.unwrap() >= 400);
    site.world.undo_hangs(false);
    assert!(site.has_lease(&lease).await);
    // Its time may be over meanwhile: it ends once.
    site.clocks.pass(601);
    site.until(0, "").await;
    assert!(!site.has_lease(&lease).await && site.world.users().is_empty());
}

/// A target at which several fail is left alone for some seconds from when the last has failed, which may be after the
/// clock was moved: then nobody but this moves it on.
async fn until_it_is_tried(site: &Site, tries: u64) {
    for polls in 1..=3000 {
        if site.world.undoings.load(Ordering::SeqCst) == tries {
            return;
        }
        if polls % 200 == 0 {
            site.clocks.pass(8);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it is not tried {tries} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undoing_is_tried_again_after_pauses_that_grow() {
    let site = Site::new("pauses").await;
    site.world.acts_end("a", Ending::AnswerLost);
    site.world.undo_fails(6);
    site.make_at("a").await.expect(503);
    let mut pauses = Vec::new();
    for tries in 1..=6u64 {
        until_it_is_tried(&site, tries).await;
        let intent = loop {
            let intent = site.until(1, "undoing").await.remove(0);
            if intent["tries"] == tries {
                break intent;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(intent["last_error"], "the world cannot be reached");
        let at = |name: &str| holdfast_sdk::Timestamp::parse_rfc3339(intent[name].as_str().unwrap()).unwrap();
        let now = holdfast_core::clock::Clocks::wall(&*site.clocks);
        pauses.push(Duration::from_nanos(at("next_look").0.saturating_sub(now.0)));
        site.clocks.pass(pauses.last().unwrap().as_secs() + 1);
    }
    for (n, pause) in pauses.iter().enumerate() {
        let whole = Duration::from_secs(1 << n);
        assert!(*pause <= whole && *pause + Duration::from_millis(2) >= whole / 2, "{pauses:?}");
    }
    until_it_is_tried(&site, 7).await;
    site.settles().await;
    assert!(site.world.users().is_empty());
    let metrics = site.server.core.metrics.prometheus(&site.server.core.metrics_now());
    assert!(metrics.contains("\nholdfast_intent_undo_failures 6\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_act_that_comes_after_its_intent_was_undone_leaves_nothing() {
    let site = Site::new("late").await;
    // Held up before it begins: it does not begin any more.
    let held = Held::at(&site, "intended");
    let making = site.making_at("a");
    held.until_there().await;
    site.clocks.pass(DEADLINE_SECS + 1);
    site.until(1, "undone").await;
    held.goes_on.send_replace(true);
    assert_eq!(making.await.unwrap(), 503);
    assert_eq!(site.world.acts.load(Ordering::SeqCst), 0);
    site.settles().await;
    // Under way when it is undone, looked at again and forgotten.
    site.server.core.failpoints.clear();
    site.world.acts_end("a", Ending::HangsBefore);
    let making = site.making_at("a");
    until(|| site.world.acts.load(Ordering::SeqCst) == 1).await;
    site.clocks.pass(DEADLINE_SECS + 1);
    site.settles().await;
    site.world.go_on();
    assert_eq!(making.await.unwrap(), 503);
    site.settles().await;
    assert!(site.world.users().is_empty() && site.known().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_hangs_holds_up_nobody_else() {
    let site = Site::new("hangs").await;
    site.world.acts_end("dead", Ending::HangsBefore);
    let waiting: Vec<_> = (0..300).map(|_| site.making_at("dead")).collect();
    until(|| site.world.acts.load(Ordering::SeqCst) == 32).await;
    let made = tokio::time::timeout(Duration::from_secs(5), site.make_at("alive")).await.unwrap();
    made.expect(200);
    assert_eq!(site.world.acts.load(Ordering::SeqCst), 33, "one more, and no more at the dead one");
    site.world.go_on();
    for one in waiting {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(site.world.users().len(), 301);
    assert_eq!(site.world.users(), site.known().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_where_much_cannot_be_undone_holds_up_no_other() {
    let site = Site::new("much").await;
    site.world.acts_end("dead", Ending::AnswerLost);
    site.world.acts_end("alive", Ending::AnswerLost);
    site.world.undo_hangs_at("dead");
    // More than the server looks at in one round.
    let lost: Vec<_> = (0..1200).map(|_| site.making_at("dead")).collect();
    for one in lost {
        assert_eq!(one.await.unwrap(), 503);
    }
    until(|| site.world.undoings.load(Ordering::SeqCst) == 8).await;
    for _ in 0..200 {
        site.making_at("alive").await.unwrap();
    }
    until(|| site.world.users().len() == 1200).await;
    assert_eq!(site.world.undoings.load(Ordering::SeqCst), 208, "eight at a time where it hangs");
    // When the target answers again everything is undone.
    site.world.undo_hangs_at("");
    site.world.go_on();
    for _ in 0..600 {
        if site.world.users().is_empty() {
            break;
        }
        site.clocks.pass(6);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(site.world.users().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_fails_is_left_alone_for_a_while() {
    let site = Site::new("breaker").await;
    site.world.acts_end("a", Ending::AnswerLost);
    site.world.undo_fails(1000);
    for _ in 0..40 {
        site.make_at("a").await.expect(503);
    }
    until(|| site.world.undoings.load(Ordering::SeqCst) >= 4).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let tried = site.world.undoings.load(Ordering::SeqCst);
    assert!(tried < 40, "{tried} of 40 were tried at a target that does not work");
    site.world.undo_fails(0);
    for _ in 0..200 {
        if site.world.users().is_empty() {
            break;
        }
        site.clocks.pass(30);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(site.world.users().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_is_disabled_during_an_act_waits_until_what_it_made_is_undone() {
    let site = Site::new("disabled").await;
    site.world.acts_end("a", Ending::HangsAfter);
    site.world.undo_fails(1);
    let making = site.making_at("a");
    until(|| site.world.users().len() == 1).await;
    site.server.delete("sys/mounts/db").await.expect(204);
    site.world.go_on();
    assert_eq!(making.await.unwrap(), 404);
    until(|| site.world.undoings.load(Ordering::SeqCst) == 1).await;
    let jobs = || async { site.server.read("sys/jobs").await.expect(200)["data"]["jobs"].as_array().unwrap().clone() };
    while jobs().await[0]["last_error"].is_null() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(jobs().await[0]["last_error"].as_str().unwrap().contains("\"user-0\""), "{:?}", jobs().await);
    site.clocks.pass(2);
    site.until(1, "undone").await;
    assert!(site.world.users().is_empty());
    site.forgets().await;
    site.clocks.pass(1);
    site.server.until_no_jobs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_retry_and_forget_what_cannot_be_undone() {
    let site = Site::new("operator").await;
    site.world.acts_end("a", Ending::AnswerLost);
    site.world.undo_fails(1000);
    site.make_at("a").await.expect(503);
    until(|| site.world.undoings.load(Ordering::SeqCst) == 1).await;
    let id = site.until(1, "undoing").await[0]["id"].as_str().unwrap().to_owned();
    site.server.write(&format!("sys/intents/{id}/retry"), Value::Null).await.expect(204);
    until(|| site.world.undoings.load(Ordering::SeqCst) == 2).await;
    site.server.delete("sys/intents/no-such-thing").await.expect(404);
    site.server.delete(&format!("sys/intents/{id}")).await.expect(204);
    assert!(site.intents().await.is_empty());
    site.server.delete(&format!("sys/intents/{id}")).await.expect(404);
    assert_eq!(site.world.users(), ["user-0"], "as the operator said");

    site.world.acts_end("a", Ending::HangsAfter);
    let making = site.making_at("a");
    until(|| site.world.users().len() == 2).await;
    let id = site.until(1, "open").await[0]["id"].as_str().unwrap().to_owned();
    site.server.delete(&format!("sys/intents/{id}")).await.expect(400);
    site.server.write(&format!("sys/intents/{id}/retry"), Value::Null).await.expect(400);
    site.world.go_on();
    assert_eq!(making.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_makes_no_deadline_pass() {
    let site = Site::new("jumps").await;
    site.world.acts_end("a", Ending::HangsAfter);
    let making = site.making_at("a");
    until(|| site.world.users().len() == 1).await;
    site.clocks.set_wall_by(86_400);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(site.world.undoings.load(Ordering::SeqCst), 0);
    site.world.go_on();
    assert_eq!(making.await.unwrap(), 200);
    // What is given back is undone, though the clock is in doubt.
    site.world.acts_end("a", Ending::AnswerLost);
    site.make_at("a").await.expect(503);
    site.settles().await;
}
