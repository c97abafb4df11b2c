//! Entries of a state machine as they are written for another one.
//!
//! `key length u32 | key | value length u32 | value`, one after the other; integers are big-endian.

use std::io;

use holdfast_storage::{Key, Value};

pub fn pack(entries: &[(Key, Value)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.iter().map(|(k, v)| 8 + k.len() + v.len()).sum());
    for (key, value) in entries {
        for part in [&key[..], &value[..]] {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part);
        }
    }
    out
}

/// What [`pack`] was given.
pub fn unpack(mut bytes: &[u8]) -> io::Result<Vec<(Key, Value)>> {
    fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        *bytes = rest;
        Some(part)
    }
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let entry = part(&mut bytes).and_then(|key| Some((Key::from(key), Value::from(part(&mut bytes)?))));
        entries.push(entry.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "entries that are cut off"))?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were_and_cut_ones_do_not() {
        let entries: Vec<(Key, Value)> = vec![(b"a"[..].into(), b""[..].into()), (b""[..].into(), b"value"[..].into())];
        let packed = pack(&entries);
        assert_eq!(unpack(&packed).unwrap(), entries);
        let whole = [0, 9, packed.len()];
        for cut in (0..=packed.len()).filter(|c| !whole.contains(c)) {
            assert!(unpack(&packed[..cut]).is_err(), "{cut}");
        }
    }
}
