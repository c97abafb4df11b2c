//! A segment of the log as a disk gives it back.

use std::sync::Arc;

use holdfast_storage::disk::SimDisk;
use holdfast_storage::log::Log;

const ID: [u8; 16] = *b"store-of-a-test!";
const SEGMENT: &str = "log-0000000000000001";
/// What a change says: where, and the new byte.
const CHANGE_BYTES: usize = 4;

pub(crate) const SEEDS: &[&[u8]] = &[
    &[0, 0, 0, 40, 1, 0, 0, 72, 0xff],
    &[0, 0, 0, 8, 0, 0, 1, 0, 0x80, 0, 0, 200, 7],
    &[1, b'H', b'F', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
];

/// The first byte even: changes (three bytes of where, one of what) to a good segment of three entries; odd: the rest is
/// the segment. It is refused, or cut where it is torn; what is replayed comes from the first on, without a gap. (That no
/// byte of an entry is another is for its checksum here, and for the barrier above.)
pub fn log_segment(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    let disk = good();
    let changed = how % 2 == 0;
    disk.tamper(SEGMENT, |bytes| match changed {
        true => {
            for change in rest.chunks_exact(CHANGE_BYTES) {
                let at = u32::from_be_bytes([0, change[0], change[1], change[2]]) as usize % bytes.len().min(1024);
                bytes[at] = change[3];
            }
        }
        false => *bytes = rest.to_vec(),
    });
    let mut seen = Vec::new();
    let opened = Log::open(Arc::new(disk), ID, 0, |entry| {
        seen.push(entry.index);
        Ok(())
    });
    assert!(seen.iter().zip(1..).all(|(index, n)| *index == n), "entries out of order: {seen:?}");
    if let Ok(log) = opened {
        assert_eq!(log.next_index(), seen.len() as u64 + 1);
    }
}

fn payload_of(index: u64) -> Vec<u8> {
    vec![index as u8; 24]
}

fn good() -> SimDisk {
    let disk = SimDisk::default();
    if let Ok(mut log) = Log::open(Arc::new(disk.clone()), ID, 0, |_| Ok(())) {
        for index in 1..=3 {
            assert!(log.append(7, &[payload_of(index)]).is_ok(), "a log on a disk in memory takes an entry");
        }
    }
    disk
}
