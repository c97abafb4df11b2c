//! The log alone: what a crash leaves, what damage looks like, segments, failed appends.

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_storage::StoreError;
use holdfast_storage::disk::{Disk, SimDisk};
use holdfast_storage::log::{AppendError, Log, MAX_ENTRY_BYTES, SEGMENT_BYTES};
use support::Random;

const ID: [u8; 16] = *b"store-of-a-test!";
const FIRST: &str = "log-0000000000000001";
/// Bytes of a segment's and an entry's header.
const HEADER: usize = 40;
const ENTRY: usize = 32;
/// Payloads without padding, so that each bit matters.
const PAYLOAD: usize = 24;

/// Indexes and payloads as they were replayed.
type Entries = Vec<(u64, Vec<u8>)>;

fn open_after(disk: &SimDisk, applied: u64) -> Result<(Log, Entries), StoreError> {
    let mut entries = Vec::new();
    let log = Log::open(Arc::new(disk.clone()), ID, applied, |e| {
        assert_eq!(e.term, 7);
        entries.push((e.index, e.payload.to_vec()));
        Ok(())
    })?;
    Ok((log, entries))
}

fn open(disk: &SimDisk) -> Result<(Log, Entries), StoreError> {
    open_after(disk, 0)
}

fn payload(index: u64) -> Vec<u8> {
    Random::new(index).bytes(PAYLOAD)
}

/// A log with this many entries in each group.
fn log_of(groups: &[u64]) -> SimDisk {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    for &size in groups {
        let payloads: Vec<Vec<u8>> = (0..size).map(|i| payload(log.next_index() + i)).collect();
        log.append(7, &payloads).unwrap();
    }
    disk
}

fn expected(last: u64) -> Entries {
    (1..=last).map(|i| (i, payload(i))).collect()
}

/// A copy that shares nothing with the original.
fn copy(disk: &SimDisk) -> SimDisk {
    disk.power_cut(|| true)
}

/// Entries that are large enough to fill segments: two in each.
fn large(index: u64) -> Vec<u8> {
    let mut bytes = vec![index as u8; 6 << 20];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes
}

fn damaged(result: Result<(Log, Entries), StoreError>) -> (PathBuf, String) {
    match result {
        Err(StoreError::Damaged { path, detail }) => (path, detail),
        Err(other) => panic!("another error: {other}"),
        Ok((_, entries)) => panic!("opened with {} entries", entries.len()),
    }
}

/// The log works from here on: an entry goes in and comes back.
fn goes_on(disk: &SimDisk, mut log: Log, mut entries: Entries) {
    let index = log.next_index();
    assert_eq!(index, entries.last().map_or(0, |(i, _)| *i) + 1);
    log.append(7, &[b"goes on".to_vec()]).unwrap();
    entries.push((index, b"goes on".to_vec()));
    assert_eq!(open(&disk.power_cut(|| false)).unwrap().1, entries);
}

#[test]
fn what_was_appended_comes_back() {
    let disk = log_of(&[1, 3, 1]);
    let (log, entries) = open(&disk).unwrap();
    assert_eq!(entries, expected(5));
    goes_on(&disk, log, entries);
    assert_eq!(open_after(&disk, 2).unwrap().1[0].0, 3, "what is applied is not replayed");
}

#[test]
fn a_torn_tail_of_every_length_is_cut() {
    let whole = log_of(&[1, 1, 3]);
    let (start, size) = (HEADER + 2 * (ENTRY + PAYLOAD), ENTRY + PAYLOAD);
    for length in 0..3 * size {
        for garbage in [false, true] {
            if garbage && length % 4 != 0 {
                continue;
            }
            let disk = copy(&whole);
            disk.tamper(FIRST, |bytes| {
                let torn = &mut bytes[start + length..start + 3 * size];
                torn.fill(0);
                if garbage {
                    torn.copy_from_slice(&Random::new(length as u64).bytes(torn.len()));
                }
            });
            let (log, entries) = open(&disk).unwrap_or_else(|e| panic!("{length} bytes: {e}"));
            assert_eq!(entries, expected(2 + (length / size) as u64), "{length} bytes");
            if length % 24 == 0 {
                goes_on(&disk, log, entries);
            }
        }
    }
}

#[test]
fn what_is_behind_a_torn_entry_of_the_same_group_never_comes_back() {
    let disk = log_of(&[1, 3]);
    let second = HEADER + ENTRY + PAYLOAD;
    disk.tamper(FIRST, |bytes| bytes[second + 10] ^= 1);
    let (mut log, entries) = open(&disk).unwrap();
    assert_eq!(entries, expected(1));
    // As long as the torn one: without clearing, the old third entry would be sound behind it.
    log.append(7, &[payload(2)]).unwrap();
    assert_eq!(open(&disk).unwrap().1, expected(2));
}

#[test]
fn a_flipped_bit_in_an_entry_with_later_ones_is_refused_with_the_file_named() {
    let whole = log_of(&[1, 1, 1, 1]);
    // Every bit of an entry, and one in each byte of two more.
    let all = 0..(ENTRY + PAYLOAD) * 8;
    let some = (ENTRY + PAYLOAD..3 * (ENTRY + PAYLOAD)).map(|byte| byte * 8 + byte % 8);
    for bit in all.chain(some) {
        let disk = copy(&whole);
        disk.tamper(FIRST, |bytes| bytes[HEADER + bit / 8] ^= 1 << (bit % 8));
        let (path, detail) = damaged(open(&disk));
        assert_eq!(path, disk.path(FIRST), "bit {bit}");
        let entry = bit / 8 / (ENTRY + PAYLOAD) + 1;
        assert!(detail.contains(&format!("entry {entry} cannot be read")), "bit {bit}: {detail}");
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_refused() {
    let whole = log_of(&[1]);
    for bit in 0..36 * 8 {
        let disk = copy(&whole);
        disk.tamper(FIRST, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        assert_eq!(damaged(open(&disk)).0, disk.path(FIRST), "bit {bit}");
    }
}

#[test]
fn damage_in_the_middle_is_refused_whatever_its_length() {
    let whole = log_of(&[1; 12]);
    let size = ENTRY + PAYLOAD;
    for (from, to) in [(1, 2), (1, 5), (4, 11), (10, 11)] {
        for fill in [0, 0xff] {
            let disk = copy(&whole);
            disk.tamper(FIRST, |bytes| bytes[HEADER + from * size..HEADER + to * size].fill(fill));
            let (path, detail) = damaged(open(&disk));
            assert_eq!(path, disk.path(FIRST));
            assert!(detail.contains(&format!("entry {} cannot be read", from + 1)), "{detail}");
        }
    }
}

#[test]
fn damage_in_an_earlier_segment_names_that_segment() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    for i in 1..=5 {
        log.append(7, &[large(i)]).unwrap();
    }
    let at = HEADER + ENTRY + (6 << 20) + 100;
    disk.tamper(FIRST, |bytes| bytes[at] ^= 1);
    let (path, detail) = damaged(open(&disk));
    assert_eq!((path, detail.as_str()), (disk.path(FIRST), "entry 2 cannot be read, and 3 follows"));
    // What a checkpoint holds is not needed.
    assert_eq!(open_after(&disk, 2).unwrap().1.len(), 3);
    assert_eq!(damaged(open_after(&disk, 1)).0, disk.path(FIRST));
}

#[test]
fn damage_before_an_unfinished_segment_is_refused() {
    let disk = log_of(&[1, 1]);
    // A crash while the next segment was made; its name says that both entries were durable.
    disk.open("log-0000000000000003", true).unwrap();
    assert_eq!(open(&copy(&disk)).unwrap().1, expected(2));
    disk.tamper(FIRST, |bytes| bytes[HEADER + ENTRY + PAYLOAD + 40] ^= 1);
    assert_eq!(damaged(open(&disk)).0, disk.path(FIRST));
}

#[test]
fn a_cut_off_file_is_refused() {
    let whole = log_of(&[1, 1, 1]);
    for length in [1, 39, 40, 41, HEADER + ENTRY + PAYLOAD, HEADER + 3 * (ENTRY + PAYLOAD), SEGMENT_BYTES as usize - 1]
    {
        let disk = copy(&whole);
        disk.tamper(FIRST, |bytes| bytes.truncate(length));
        assert_eq!(damaged(open(&disk)).0, disk.path(FIRST), "{length} bytes");
    }
    // One that is longer than usual, for a large entry, is cut to any length behind that entry.
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.append(7, &[vec![1; SEGMENT_BYTES as usize + 3]]).unwrap();
    disk.tamper(FIRST, |bytes| bytes.truncate(HEADER + ENTRY + SEGMENT_BYTES as usize + 3));
    assert_eq!(open(&disk).unwrap().1.len(), 1);
    disk.open(FIRST, false).unwrap().set_len(1 << 50).unwrap();
    assert_eq!(damaged(open(&disk)).0, disk.path(FIRST), "a length that does not fit into memory");
}

#[test]
fn segments_roll_over_and_a_missing_one_is_refused() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    for i in 1..=7 {
        log.append(7, &[large(i)]).unwrap();
    }
    let names: Vec<String> = disk.list().unwrap();
    assert_eq!(names, [1, 3, 5, 7].map(|i| format!("log-{i:016x}")));
    let entries = open(&disk).unwrap().1;
    assert!(entries.iter().map(|(i, p)| (*i, p.clone())).eq((1..=7).map(|i| (i, large(i)))));

    for (missing, next) in [(0, 1), (1, 2), (2, 3)] {
        let disk = copy(&disk);
        disk.remove(&names[missing]).unwrap();
        let (path, detail) = damaged(open(&disk));
        assert_eq!(path, disk.path(&names[next]));
        assert!(detail.contains("are missing before it"), "{detail}");
    }
    for name in ["log-1", "log-00000000000000zz", "log-0000000000000000", "log-+000000000000001"] {
        let disk = copy(&disk);
        disk.open(name, true).unwrap();
        assert_eq!(damaged(open(&disk)).0, disk.path(name));
    }
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let disk = log_of(&[1]);
    let (mut log, _) = open(&disk).unwrap();
    let huge = vec![9; SEGMENT_BYTES as usize + 12345];
    log.append(7, std::slice::from_ref(&huge)).unwrap();
    log.append(7, &[payload(3)]).unwrap();
    let entries = open(&disk.power_cut(|| false)).unwrap().1;
    assert_eq!(entries.len(), 3);
    assert!(entries[1] == (2, huge));
    assert_eq!(entries[2], (3, payload(3)));

    let too_large = log.append(7, &[vec![0; MAX_ENTRY_BYTES + 1]]);
    assert!(matches!(too_large, Err(AppendError::Nothing(_))), "it could not be read back");
    log.append(7, &[payload(4)]).unwrap();
    assert_eq!(open(&disk).unwrap().1.len(), 4);
}

#[test]
fn segments_are_forgotten_only_when_a_checkpoint_holds_all_of_them() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    for i in 1..=7 {
        log.append(7, &[large(i)]).unwrap();
    }
    for (through, left) in [(0, 4), (1, 4), (2, 3), (3, 3), (6, 1), (7, 1), (100, 1)] {
        log.forget_through(through).unwrap();
        assert_eq!(disk.list().unwrap().len(), left, "through {through}");
        let (log, entries) = open_after(&disk.power_cut(|| false), through.min(7)).unwrap();
        assert_eq!(log.next_index(), 8);
        assert_eq!(entries.len() as u64, 7 - through.min(7));
    }
    assert!(matches!(damaged(open(&disk)), (_, detail) if detail.contains("entries 1 to 6 are missing")));
}

#[test]
fn a_removed_segment_that_comes_back_after_a_power_cut_harms_nothing() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    for i in 1..=7 {
        log.append(7, &[large(i)]).unwrap();
    }
    let mut random = Random::new(1);
    for _ in 0..8 {
        let disk = copy(&disk);
        let (mut log, _) = open_after(&disk, 5).unwrap();
        disk.fail_sync(true);
        log.forget_through(5).unwrap_err();
        disk.fail_sync(false);
        let (_, entries) = open_after(&disk.power_cut(|| random.chance(50)), 5).unwrap();
        assert_eq!(entries.len(), 2);
    }
}

#[test]
fn another_stores_log_is_refused() {
    let disk = log_of(&[1]);
    let foreign =
        |disk: &SimDisk| Log::open(Arc::new(disk.clone()), [1; 16], 0, |_| Ok(())).map(|log| (log, Vec::new()));
    assert_eq!(damaged(foreign(&disk)).0, disk.path(FIRST));
    // Also one without entries, which is not taken for one that a crash left.
    disk.tamper(FIRST, |bytes| bytes[HEADER..].fill(0));
    assert_eq!(damaged(foreign(&disk)).0, disk.path(FIRST));
}

#[test]
fn a_failed_append_is_nothing_and_the_next_one_takes_its_place() {
    let disk = log_of(&[1]);
    let (mut log, _) = open(&disk).unwrap();
    for room in [0, 10, 200] {
        disk.limit_room(Some(room));
        let three = [vec![1; 100], vec![2; 100], vec![3; 100]];
        let failed = log.append(7, &three).unwrap_err();
        assert!(matches!(failed, AppendError::Nothing(_) | AppendError::Unknown(_)), "{failed}");
        disk.limit_room(None);
    }
    log.append(7, &[payload(2)]).unwrap();
    assert_eq!(open(&disk.power_cut(|| true)).unwrap().1, expected(2));
    assert_eq!(open(&disk.power_cut(|| false)).unwrap().1, expected(2));
}

#[test]
fn an_append_that_failed_half_way_does_not_come_back_behind_a_later_one() {
    // A disk that writes half of it, and then not even zeroes, until there is room again.
    let disk = log_of(&[1]);
    let (mut log, _) = open(&disk).unwrap();
    disk.limit_room(Some(0));
    let failed = log.append(7, &[payload(2), payload(3), payload(4)]).unwrap_err();
    assert!(matches!(failed, AppendError::Unknown(_)), "{failed}");
    disk.limit_room(None);
    let donor = log_of(&[1, 3]);
    let mut left = vec![0; HEADER + 4 * (ENTRY + PAYLOAD)];
    donor.open(FIRST, false).unwrap().read_at(0, &mut left).unwrap();
    disk.tamper(FIRST, |bytes| bytes[..left.len()].copy_from_slice(&left));
    // It may come back, and only as long as nothing else was written.
    assert_eq!(open(&copy(&disk)).unwrap().1, expected(4));
    log.append(7, &[payload(2)]).unwrap();
    assert_eq!(open(&disk.power_cut(|| true)).unwrap().1, expected(2));
}

#[test]
fn a_segment_that_could_not_be_made_again_larger_is_not_written_to() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    // The first segment is made, and its first entry fails.
    disk.limit_room(Some(SEGMENT_BYTES + 100));
    log.append(7, &[vec![1; 1000]]).unwrap_err();
    // Made again for a larger entry, for which there is no room.
    log.append(7, &[vec![2; SEGMENT_BYTES as usize * 2]]).unwrap_err();
    disk.limit_room(None);
    log.append(7, &[payload(1)]).unwrap();
    assert_eq!(open(&disk.power_cut(|| false)).unwrap().1, expected(1));
}

#[test]
fn after_a_failed_sync_the_log_takes_no_more() {
    let disk = log_of(&[1]);
    disk.keep_cache();
    let (mut log, _) = open(&disk).unwrap();
    disk.fail_sync(true);
    let failed = log.append(7, &[payload(2)]).unwrap_err();
    assert!(matches!(failed, AppendError::Broken { unknown: true, .. }), "{failed}");
    disk.fail_sync(false);
    let refused = log.append(7, &[payload(2)]).unwrap_err();
    assert!(matches!(refused, AppendError::Broken { unknown: false, .. }), "{refused}");

    // The power is cut: it was lost.
    assert_eq!(open(&disk.power_cut(|| true)).unwrap().1, expected(1));
    // Only the process ends: what the page cache still has is made durable before it is shown.
    let (_, entries) = open(&disk).unwrap();
    assert_eq!(entries, expected(2));
    assert_eq!(open(&disk.power_cut(|| false)).unwrap().1, expected(2));
}

#[test]
fn a_header_whose_sync_failed_is_written_again() {
    let disk = SimDisk::default();
    disk.keep_cache();
    let (mut log, _) = open(&disk).unwrap();
    for fail_at in 1.. {
        let before = disk.steps();
        let failing = disk.clone();
        disk.before_step(before + fail_at, move |_| failing.fail_sync(true));
        let result = log.append(7, &[payload(1)]);
        disk.fail_sync(false);
        if result.is_ok() {
            break;
        }
        // The process starts again, on the same page cache.
        let (mut again, entries) = open(&disk).unwrap();
        if entries.is_empty() {
            again.append(7, &[payload(1)]).unwrap();
        }
        assert_eq!(open(&disk.power_cut(|| false)).unwrap().1, expected(1), "step {fail_at}");
        drop((again, log));
        for name in disk.list().unwrap() {
            disk.remove(&name).unwrap();
        }
        log = open(&disk).unwrap().0;
    }
}

#[test]
fn a_power_cut_at_every_step_of_an_append_loses_nothing_that_was_acknowledged() {
    for step in 0..36 {
        for seed in 0..2 {
            let disk = SimDisk::default();
            let (mut log, _) = open(&disk).unwrap();
            let image = Arc::new(std::sync::Mutex::new(None));
            let (slot, mut random) = (image.clone(), Random::new(step * 10 + seed));
            let done = Arc::new(std::sync::atomic::AtomicU64::new(0));
            let acknowledged = done.clone();
            disk.before_step(step, move |disk| {
                let done = acknowledged.load(std::sync::atomic::Ordering::SeqCst);
                *slot.lock().unwrap() = Some((done, disk.power_cut(|| random.chance(50))));
            });
            for i in 1..=6 {
                let size = if i % 3 == 0 { 9 << 20 } else { 700 };
                log.append(7, &[vec![i as u8; size]]).unwrap();
                done.store(i, std::sync::atomic::Ordering::SeqCst);
            }
            let Some((done, cut)) = image.lock().unwrap().take() else { continue };
            let (_, entries) = open(&cut).unwrap_or_else(|e| panic!("step {step}, seed {seed}: {e}"));
            assert!(entries.len() as u64 >= done, "step {step}, seed {seed}");
            assert!(entries.iter().all(|(i, p)| p.iter().all(|b| u64::from(*b) == *i)));
        }
    }
}
