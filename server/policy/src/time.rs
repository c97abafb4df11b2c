//! Points in time in policies: RFC 3339, or seconds since 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads `2030-01-02T03:04:05.5Z`, `2030-01-02T03:04:05+01:00` or a number of
/// seconds since 1970. A time before 1970 counts as 1970: it is past either
/// way.
pub(crate) fn point_in_time(text: &str) -> Option<SystemTime> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let seconds = Duration::from_secs(text.parse().ok()?);
        return UNIX_EPOCH.checked_add(seconds);
    }
    rfc3339(text)
}

fn rfc3339(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 20 {
        return None;
    }
    for (index, byte) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        if bytes[index] != byte {
            return None;
        }
    }
    let (year, month, day) = (digits(&text[..4])?, digits(&text[5..7])?, digits(&text[8..10])?);
    let (hour, minute, second) = (digits(&text[11..13])?, digits(&text[14..16])?, digits(&text[17..19])?);
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    // RFC 3339 allows a leap second, which counts as the next second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (nanoseconds, zone) = fraction(&text[19..])?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds)),
        Err(_) => Some(UNIX_EPOCH),
    }
}

fn digits(text: &str) -> Option<i64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Takes `.5` from the front; the nanoseconds and the rest.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    if end == 0 {
        return None;
    }
    let nanoseconds = format!("{:0<9.9}", &rest[..end]).parse().ok()?;
    Some((nanoseconds, &rest[end..]))
}

/// Seconds by which `Z`, `+01:00` or `-01:00` is before UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hour, minute) = zone[1..].split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute) = (digits(hour)?, digits(minute)?);
    (hour <= 23 && minute <= 59).then_some(sign * (hour * 3600 + minute * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days between 1970-01-01 and a day of the Gregorian calendar.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days_before_month = (153 * month + 2) / 5;
    const MARCH_OF_YEAR_0: i64 = 719_468;
    year * 365 + leap_days + days_before_month + day - 1 - MARCH_OF_YEAR_0
}

#[cfg(test)]
mod tests {
    use super::point_in_time;
    use std::time::UNIX_EPOCH;

    fn seconds(text: &str) -> f64 {
        let time = point_in_time(text).unwrap();
        time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    }

    #[test]
    fn rfc_3339_and_seconds_are_read() {
        assert_eq!(seconds("4102444800"), 4_102_444_800.0);
        assert_eq!(seconds("2100-01-01T00:00:00Z"), 4_102_444_800.0);
        assert_eq!(seconds("2100-01-01T01:00:00.5+01:00"), 4_102_444_800.5);
        assert_eq!(seconds("2099-12-31T22:30:00-01:30"), 4_102_444_800.0);
        assert_eq!(seconds("1970-01-01T00:00:00Z"), 0.0);
        assert_eq!(seconds("2000-02-29T12:34:56Z"), 951_827_696.0);
        assert_eq!(seconds("1960-01-01T00:00:00Z"), 0.0);
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "",
            "yesterday",
            "1h",
            "2100-01-01",
            "2100-01-01T00:00:00",
            "2100-01-01 00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2100-13-01T00:00:00Z",
            "2100-01-01T24:00:00Z",
            "2100-01-01T00:00:00.Z",
            "2100-01-01T00:00:00+1:00",
            "2100-01-01T00:00:00.5",
            "21é0-01-01T00:00:00Z",
            "99999999999999999999",
        ] {
            assert_eq!(point_in_time(text), None, "{text}");
        }
    }
}
