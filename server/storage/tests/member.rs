//! A member's store: what its log holds after it was cut, forgotten and opened again, and what takes a store over.

mod support;

use std::sync::{Arc, Once, mpsc};
use std::time::Duration;

use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::{
    Agreeing, Agreement, CommitError, Committed, Disagreement, Mark, Proposal, RESTORE_KEY, RaftLog, Record, Replica,
    Store, StoreError, Value, Vote, Write, payload, staged_key,
};
use support::Random;

const ENTRY: usize = 1 << 20;

fn open(disk: &SimDisk) -> (Store, Replica) {
    Store::open_member_on(Some(Arc::new(disk.clone()) as Arc<dyn Disk>), ENTRY).unwrap()
}

/// Give an order and wait until it is on the disk.
fn done(order: impl FnOnce(holdfast_storage::Done)) -> std::io::Result<()> {
    let (sender, outcome) = mpsc::channel();
    order(Box::new(move |result| sender.send(result).unwrap()));
    outcome.recv().unwrap()
}

fn record(term: u64, index: u64) -> Record {
    let payload: Value = [&[payload::BLANK][..], format!("{term}.{index}").as_bytes()].concat().into();
    Record { mark: Mark { term, index }, payload }
}

fn append(log: &RaftLog, records: Vec<Record>) {
    done(|d| log.append(records, d)).unwrap();
}

fn all(log: &RaftLog) -> Vec<Record> {
    log.read(0, u64::MAX, usize::MAX).unwrap()
}

#[test]
fn what_was_cut_off_is_gone_and_what_came_in_its_place_is_there_after_a_loss_of_power() {
    let disk = SimDisk::default();
    let (_store, replica) = open(&disk);
    let log = replica.log();
    let vote = Vote { term: 1, node: "n1".into(), committed: true };
    done(|d| log.save_vote(vote, d)).unwrap();
    append(log, (1..=5).map(|i| record(1, i)).collect());
    done(|d| log.truncate_after(2, d)).unwrap();
    append(log, vec![record(2, 3), record(2, 4)]);
    let wanted = vec![record(1, 1), record(1, 2), record(2, 3), record(2, 4)];
    assert_eq!(all(log), wanted);
    let (_store, again) = open(&disk.power_cut(|| false));
    assert_eq!(all(again.log()), wanted);
    assert_eq!(again.log().ends(), (None, Some(Mark { term: 2, index: 4 })));
}

#[test]
fn entries_that_do_not_follow_are_refused() {
    let (_store, replica) = open(&SimDisk::default());
    append(replica.log(), vec![record(1, 1)]);
    assert!(done(|d| replica.log().append(vec![record(1, 3)], d)).is_err());
    append(replica.log(), vec![record(1, 2)]);
}

#[test]
fn the_vote_and_what_was_forgotten_are_known_after_a_loss_of_power() {
    let disk = SimDisk::default();
    let (_store, replica) = open(&disk);
    let log = replica.log();
    append(log, (1..=9).map(|i| record(1, i)).collect());
    let vote = Vote { term: 7, node: "n1".into(), committed: true };
    done(|d| log.save_vote(vote.clone(), d)).unwrap();
    done(|d| log.purge(Mark { term: 1, index: 6 }, d)).unwrap();
    let (_store, again) = open(&disk.power_cut(|| false));
    assert_eq!(again.log().vote(), Some(vote));
    assert_eq!(again.log().ends(), (Some(Mark { term: 1, index: 6 }), Some(Mark { term: 1, index: 9 })));
    assert_eq!(all(again.log()), (7..=9).map(|i| record(1, i)).collect::<Vec<_>>());
    // Everything, and more than there is: as after a snapshot from elsewhere.
    done(|d| again.log().purge(Mark { term: 3, index: 20 }, d)).unwrap();
    append(again.log(), vec![record(3, 21)]);
    assert_eq!(all(again.log()), [record(3, 21)]);
}

/// Power goes before each change of the disk in turn, which keeps any part of what was not synced.
#[test]
fn a_vote_is_the_former_one_or_the_new_one_wherever_power_goes_and_the_new_one_once_it_was_kept() {
    let vote = |term: u64| Vote { term, node: "n1".repeat(term as usize % 3 + 1), committed: term.is_multiple_of(2) };
    for seed in 0..40_u64 {
        let mut random = Random::new(seed);
        let mut disk = SimDisk::default();
        let mut kept = 0;
        for _ in 0..6 {
            let (_store, replica) = open(&disk);
            let (cut, taken) = mpsc::channel();
            let mut dice = Random::new(seed + kept);
            disk.before_step(disk.steps() + random.below(40), move |disk| {
                cut.send(disk.power_cut(|| dice.chance(50))).unwrap();
            });
            let mut written = kept;
            let after = loop {
                if let Ok(after) = taken.try_recv() {
                    break after;
                }
                written += 1;
                done(|d| replica.log().save_vote(vote(written), d)).unwrap();
            };
            let (_store, again) = open(&after);
            let found = again.log().vote().map_or(0, |found| found.term);
            assert!(found <= written && found + 1 >= written, "seed {seed}: {found} of {written}");
            if found > 0 {
                assert_eq!(again.log().vote(), Some(vote(found)), "seed {seed}");
            }
            kept = found;
            again.log().close();
            disk = after;
        }
    }
}

#[test]
fn on_a_full_disk_a_vote_waits_for_room_and_is_given_up_when_the_log_is_closed() {
    let disk = SimDisk::default();
    let (_store, replica) = open(&disk);
    let order = |term: u64| {
        let (sender, outcome) = mpsc::channel();
        let vote = Vote { term, node: "n1".into(), committed: false };
        replica.log().save_vote(vote, Box::new(move |result| sender.send(result).unwrap()));
        outcome
    };
    order(1).recv().unwrap().unwrap();
    disk.limit_room(Some(0));
    let outcome = order(2);
    let waited = outcome.recv_timeout(Duration::from_millis(300));
    assert_eq!(waited.unwrap_err(), mpsc::RecvTimeoutError::Timeout);
    disk.limit_room(None);
    outcome.recv().unwrap().unwrap();
    disk.limit_room(Some(0));
    let outcome = order(3);
    replica.log().close();
    assert_eq!(outcome.recv().unwrap().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    disk.limit_room(None);
    let (_store, again) = open(&disk.power_cut(|| false));
    assert_eq!(again.log().vote().map(|v| v.term), Some(2));
}

/// Whatever is proposed is agreed on: the only member of a cluster.
struct Alone(Replica, std::sync::Mutex<u64>);

impl Agreement for Alone {
    fn commit(&self, _term: u64, payload: Vec<u8>) -> Agreeing {
        let mut index = self.1.lock().unwrap();
        *index += 1;
        let entry = Committed { mark: Mark { term: 2, index: *index }, payload: payload.into() };
        let applied = self.0.apply(vec![entry]);
        Box::pin(async { applied.await.map_err(|e| Disagreement::Unknown(e.to_string())) })
    }
}

fn put(key: &[u8], value: &[u8]) -> Write {
    Write::Put(key.into(), value.into())
}

async fn commit(store: &Store, writes: Vec<Write>) {
    let proposal = Proposal { view_index: store.view().index(), writes, ..Proposal::default() };
    store.propose(proposal).unwrap().committed().await.unwrap();
}

/// Agrees on the first entry, and ends with the next one in its hands, which others may have by then.
struct Ends(Alone, Once);

impl Agreement for Ends {
    fn commit(&self, term: u64, payload: Vec<u8>) -> Agreeing {
        match self.1.is_completed() {
            true => Box::pin(async { panic!("on purpose: the proposing thread ends") }),
            false => {
                self.1.call_once(|| {});
                self.0.commit(term, payload)
            }
        }
    }
}

#[tokio::test]
async fn what_was_handed_to_the_others_and_never_answered_is_not_said_to_be_refused() {
    let (store, replica) = open(&SimDisk::default());
    replica.found(Vec::new()).await.unwrap();
    replica.agree(Arc::new(Ends(Alone(replica.clone(), 1.into()), Once::new())));
    store.take_over(2).await.unwrap();
    let propose = |view_index, writes| store.propose(Proposal { view_index, writes, ..Proposal::default() });
    let handed_over = propose(store.view().index(), vec![put(b"a", b"1")]).unwrap();
    let outcome = handed_over.committed().await;
    assert!(matches!(outcome, Err(CommitError::Unknown(_))), "{outcome:?}");
    // What nobody has taken was not written, and who only reads has written nothing.
    let queued = propose(store.view().index(), vec![put(b"b", b"1")]).unwrap();
    let reads = propose(store.view_in_flight().index(), Vec::new()).unwrap();
    store.close();
    for refused in [queued, reads] {
        let outcome = refused.committed().await;
        assert!(matches!(outcome, Err(CommitError::Closed)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_store_that_was_nobodys_becomes_a_members_and_not_the_other_way_round() {
    let disk = SimDisk::default();
    let store = Store::open_on(Some(Arc::new(disk.clone())), ENTRY).unwrap();
    commit(&store, vec![put(b"a", b"1")]).await;
    let before = store.view().index();
    drop(store);
    let (store, replica) = open(&disk);
    assert_eq!(replica.state(), None);
    assert!(!replica.is_empty());
    assert!(store.propose(Proposal::default()).is_err(), "nothing is proposed by one that is not the active one");
    replica.found(b"members".to_vec()).await.unwrap();
    let (mark, _) = replica.state().unwrap();
    assert_eq!(mark, Mark { term: 1, index: before });
    replica.agree(Arc::new(Alone(replica.clone(), mark.index.into())));
    store.take_over(2).await.unwrap();
    commit(&store, vec![put(b"b", b"2")]).await;
    assert_eq!(store.snapshot().get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(store.snapshot().get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
    drop((store, replica));
    let refused = Store::open_on(Some(Arc::new(disk)), ENTRY);
    assert!(matches!(refused, Err(StoreError::Member { .. })));
}

/// Before it agrees on anything, entries of another member come: they were in the log already.
struct Behind(Replica, std::sync::Mutex<Vec<Committed>>, std::sync::Mutex<Vec<u64>>);

impl Agreement for Behind {
    fn commit(&self, term: u64, payload: Vec<u8>) -> Agreeing {
        self.2.lock().unwrap().push(term);
        let mut entries = std::mem::take(&mut *self.1.lock().unwrap());
        let index = self.0.state().unwrap().0.index + entries.len() as u64 + 1;
        entries.push(Committed { mark: Mark { term, index }, payload: payload.into() });
        let applied = self.0.apply(entries);
        Box::pin(async { applied.await.map_err(|e| Disagreement::Unknown(e.to_string())) })
    }
}

/// An entry of another member, with a version of its own, that changes nothing.
fn foreign(index: u64, version: u64) -> Committed {
    let payload = [&[payload::VERSIONED][..], &version.to_le_bytes(), &0_u32.to_le_bytes()].concat();
    Committed { mark: Mark { term: 2, index }, payload: payload.into() }
}

#[tokio::test]
async fn a_member_that_takes_over_is_behind_what_others_had_in_the_log_and_finds_every_conflict() {
    let (store, replica) = open(&SimDisk::default());
    replica.found(Vec::new()).await.unwrap();
    let earlier = (2..=9).map(|index| foreign(index, index * 10)).collect();
    let agreement = Arc::new(Behind(replica.clone(), std::sync::Mutex::new(earlier), std::sync::Mutex::default()));
    replica.agree(agreement.clone());
    store.take_over(3).await.unwrap();
    let read_at = store.view().index();
    assert!(read_at > 90, "{read_at}");
    let add = |at| Proposal {
        view_index: at,
        reads: vec![(b"counter"[..].into(), at)],
        writes: vec![put(b"counter", b"1")],
        ..Proposal::default()
    };
    store.propose(add(read_at)).unwrap().committed().await.unwrap();
    assert!(store.propose(add(read_at)).is_err(), "it has not seen the first one");
    assert!(agreement.2.lock().unwrap().iter().all(|term| *term == 3), "each is agreed on in the term of taking over");
}

// Found by the simulation (seed 538): entries were forgotten that no disk had in another form.
#[tokio::test]
async fn a_checkpoint_that_fails_is_none_and_the_log_keeps_what_it_should_have_held() {
    let disk = SimDisk::default();
    let (_store, replica) = open(&disk);
    replica.apply(vec![foreign(1, 1), foreign(2, 2)]).await.unwrap();
    assert_eq!(replica.checkpoint().await.unwrap().index, 2);
    replica.apply(vec![foreign(3, 3)]).await.unwrap();
    disk.fail_sync(true);
    assert!(replica.checkpoint().await.is_err());
    disk.fail_sync(false);
    // Not later either: what the failed sync should have written is lost.
    assert!(replica.checkpoint().await.is_err());
    assert_eq!(replica.checkpointed().index, 2);
    let (_store, again) = open(&disk.power_cut(|| false));
    assert_eq!(again.state().unwrap().0.index, 2);
}

#[tokio::test]
async fn what_was_read_before_a_member_took_over_is_void() {
    let (store, replica) = open(&SimDisk::default());
    replica.found(Vec::new()).await.unwrap();
    replica.agree(Arc::new(Alone(replica.clone(), 1.into())));
    store.take_over(2).await.unwrap();
    let old = store.view().index();
    store.stand_by();
    store.take_over(2).await.unwrap();
    let stale = Proposal {
        view_index: old,
        reads: vec![(b"x"[..].into(), old)],
        writes: vec![put(b"x", b"1")],
        ..Proposal::default()
    };
    assert!(store.propose(stale).is_err());
    commit(&store, vec![put(b"x", b"2")]).await;
}

/// F074: openraft #1894.
#[test]
fn what_is_left_over_of_an_earlier_cluster_is_removed_or_refused_by_name() {
    let earlier = SimDisk::default();
    drop(open(&earlier));
    let file = earlier.open("state.redb", false).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let leave = |disk: &SimDisk, name: &str| {
        let left = disk.open(name, true).unwrap();
        left.write_at(0, &bytes).unwrap();
        left.sync().unwrap();
        disk.sync_folder().unwrap();
    };
    let disk = SimDisk::default();
    leave(&disk, "state.redb.received-7");
    leave(&disk, "state.redb.received-7.sums");
    let (_store, replica) = open(&disk);
    assert_eq!(replica.state(), None);
    let names = disk.list().unwrap();
    assert!(!names.iter().any(|n| n.contains("received")), "{names:?}");
    let disk = SimDisk::default();
    leave(&disk, "state.redb");
    let refused = Store::open_member_on(Some(Arc::new(disk) as Arc<dyn Disk>), ENTRY).err().unwrap();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("/sim/format"), "{refused}");
}

/// Agrees on everything, until it waits for a word and then does not lead.
struct Halting(Alone, std::sync::atomic::AtomicBool, Arc<tokio::sync::Notify>);

impl Agreement for Halting {
    fn commit(&self, term: u64, payload: Vec<u8>) -> Agreeing {
        if !self.1.load(std::sync::atomic::Ordering::SeqCst) {
            return self.0.commit(term, payload);
        }
        let word = self.2.clone();
        Box::pin(async move {
            word.notified().await;
            Err(Disagreement::NotLeader)
        })
    }
}

#[tokio::test]
async fn who_has_read_what_is_in_flight_is_not_told_that_it_came_to_be_by_a_snapshot_from_elsewhere() {
    let (store, replica) = open(&SimDisk::default());
    replica.found(Vec::new()).await.unwrap();
    let word = Arc::new(tokio::sync::Notify::new());
    let halting = Arc::new(Halting(Alone(replica.clone(), 1.into()), false.into(), word.clone()));
    replica.agree(halting.clone());
    store.take_over(2).await.unwrap();
    halting.1.store(true, std::sync::atomic::Ordering::SeqCst);
    let written = Proposal { view_index: store.view().index(), writes: vec![put(b"a", b"1")], ..Proposal::default() };
    let written = store.propose(written).unwrap();
    let view = store.view_in_flight();
    assert_eq!(view.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    let at = view.index();
    let read = Proposal { view_index: at, reads: vec![(b"a"[..].into(), at)], ..Proposal::default() };
    let read = store.propose(read).unwrap();
    // Another one led meanwhile, and sends all that it has.
    let mut received = replica.receive().unwrap();
    received.is_version(at + 100);
    received.place(Mark { term: 3, index: 50 }, Vec::new());
    replica.install(received).await.unwrap();
    assert!(matches!(read.committed().await, Err(CommitError::Retry)));
    word.notify_one();
    assert!(matches!(written.committed().await, Err(CommitError::NotActive)));
    assert_eq!(store.snapshot().get(b"a").unwrap(), None);
}

#[tokio::test]
async fn a_restore_replaces_everything_in_one_step() {
    let disk = SimDisk::default();
    let (store, replica) = open(&disk);
    replica.found(Vec::new()).await.unwrap();
    replica.agree(Arc::new(Alone(replica.clone(), 1.into())));
    store.take_over(2).await.unwrap();
    commit(&store, vec![put(b"\x01old", b"1"), put(b"\x01both", b"1")]).await;
    let id = [9; 16];
    commit(&store, vec![put(&staged_key(&id, b"\x01both"), b"2"), put(&staged_key(&id, b"\x01new"), b"2")]).await;
    commit(&store, vec![put(&staged_key(&[8; 16], b"\x01given up"), b"3")]).await;
    commit(&store, vec![put(RESTORE_KEY, &id)]).await;
    let entries = store.snapshot().range(b"", None, 100).unwrap();
    let keys: Vec<_> = entries.iter().map(|(k, v)| (&k[..], &v[..])).collect();
    assert_eq!(keys, [(&b"\x01both"[..], &b"2"[..]), (&b"\x01new"[..], &b"2"[..])]);
}
