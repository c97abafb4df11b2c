//! Durations as the API and the files write them.

use std::time::Duration;

use crate::{Node, Value};

/// The units and their length in nanoseconds; those of two letters first, so
/// that `ms` is not read as `m`.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads a duration: seconds (`90`), or numbers with units (`1h30m`, `7d`,
/// `1.5s`, `250ms`). Nothing is zero. `None` if it is something else,
/// negative, or longer than a [`Duration`] of whole `u64` seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Duration::ZERO);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let mut total = 0_u128;
    let mut rest = text;
    while !rest.is_empty() {
        let (term, behind) = term(rest)?;
        total = total.checked_add(term)?;
        rest = behind;
    }
    let seconds = u64::try_from(total / 1_000_000_000).ok()?;
    let nanoseconds = u32::try_from(total % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, nanoseconds))
}

/// One number with its unit in nanoseconds, and what stands behind it.
fn term(text: &str) -> Option<(u128, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let (unit, nanoseconds) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut total = match whole {
        "" => 0,
        whole => whole.parse::<u128>().ok()?.checked_mul(*nanoseconds)?,
    };
    let mut scale = *nanoseconds;
    for digit in fraction.chars() {
        scale /= 10;
        total = total.checked_add(u128::from(digit.to_digit(10)?) * scale)?;
    }
    Some((total, &rest[unit.len()..]))
}

impl Node {
    /// The duration, if it is a number of seconds or a string that
    /// [`duration`] reads. A fraction of a second in a number is dropped, as
    /// the reference does.
    pub fn as_duration(&self) -> Option<Duration> {
        match &self.value {
            Value::String(text) => duration(text),
            Value::Number(number) => match number.as_i64() {
                Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
                None => Duration::try_from_secs_f64(number.as_f64().trunc()).ok(),
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::duration;

    #[test]
    fn seconds_and_units_are_read() {
        let seconds = |text| duration(text).unwrap().as_secs_f64();
        assert_eq!(seconds(""), 0.0);
        assert_eq!(seconds("90"), 90.0);
        assert_eq!(seconds("90s"), 90.0);
        assert_eq!(seconds("1h30m"), 5400.0);
        assert_eq!(seconds("7d"), 604_800.0);
        assert_eq!(seconds("1.5h"), 5400.0);
        assert_eq!(seconds(".5s"), 0.5);
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("3us"), Some(Duration::from_micros(3)));
    }

    #[test]
    fn anything_else_is_none() {
        for text in ["long", "-5", "-1h", "h", "1h 30m", "1w", "1.2.3s", ".s", "1e3s", "99999999999999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(duration("18446744073709551616"), None);
    }
}
