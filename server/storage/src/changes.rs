//! Changes as a log entry's payload has them.

use crate::state::Change;
use crate::{Key, Value};

pub(crate) fn encoded_len(changes: &[Change]) -> usize {
    5 + changes.iter().map(|(k, v)| 9 + k.len() + v.as_ref().map_or(0, |v| v.len())).sum::<usize>()
}

/// A log entry's payload: version, count, then for each change the key and the value if there is one.
pub(crate) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len(changes));
    out.push(1);
    encode_changes(&mut out, changes.len(), changes.iter());
    out
}

/// The count of changes, and the changes.
pub(crate) fn encode_changes<'c>(out: &mut Vec<u8>, count: usize, changes: impl Iterator<Item = &'c Change>) {
    out.extend_from_slice(&(count as u32).to_le_bytes());
    for (key, value) in changes {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        match value {
            Some(v) => {
                out.push(1);
                out.extend_from_slice(&(v.len() as u32).to_le_bytes());
                out.extend_from_slice(v);
            }
            None => out.push(0),
        }
    }
}

/// The changes of a log entry, or `None` if the payload is not one.
pub(crate) fn decode(b: &[u8]) -> Option<Vec<Change>> {
    decode_changes(b.strip_prefix(&[1])?)
}

/// As [`encode_changes`] wrote them.
pub(crate) fn decode_changes(mut b: &[u8]) -> Option<Vec<Change>> {
    fn take<'a>(b: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (head, rest) = b.split_at_checked(n)?;
        *b = rest;
        Some(head)
    }
    fn number(b: &mut &[u8]) -> Option<usize> {
        Some(u32::from_le_bytes(take(b, 4)?.try_into().ok()?) as usize)
    }
    let count = number(&mut b)?;
    let mut changes = Vec::new();
    for _ in 0..count {
        let len = number(&mut b)?;
        let key = Key::from(take(&mut b, len)?);
        let value = match take(&mut b, 1)? {
            [0] => None,
            [1] => {
                let len = number(&mut b)?;
                Some(Value::from(take(&mut b, len)?))
            }
            _ => return None,
        };
        changes.push((key, value));
    }
    b.is_empty().then_some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_back_as_it_was_and_no_other_bytes_are_one() {
        let changes: Vec<Change> = vec![
            (Key::from(&b"a"[..]), Some(Value::from(&b"1"[..]))),
            (Key::from(&b""[..]), None),
            (Key::from(&b"long"[..]), Some(Value::from(vec![9; 70_000]))),
            (Key::from(&b"empty"[..]), Some(Value::from(&b""[..]))),
        ];
        for n in 0..=changes.len() {
            let bytes = encode(&changes[..n]);
            assert!(bytes.len() <= encoded_len(&changes[..n]));
            assert_eq!(decode(&bytes).unwrap(), &changes[..n]);
            for cut in 0..bytes.len().min(60) {
                assert!(decode(&bytes[..cut]).is_none(), "{n} changes, {cut} bytes");
            }
            assert!(decode(&[&bytes[..], &[0]].concat()).is_none());
        }
    }
}
