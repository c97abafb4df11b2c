//! Points in time and how the API writes them.

/// Unix time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

/// Days since 1970-01-01 to year, month, day (proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

fn days_of(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// A number with leading zeros; the log writes thousands of times a second, and `format!` shows there.
fn push_digits(text: &mut String, value: u64, width: u32) {
    for place in (0..width).rev() {
        text.push(char::from(b'0' + (value / 10u64.pow(place) % 10) as u8));
    }
}

impl Timestamp {
    pub fn from_secs(secs: u64) -> Timestamp {
        Timestamp(secs.saturating_mul(1_000_000_000))
    }

    /// Whole seconds since the epoch.
    pub fn secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    pub fn plus_secs(self, secs: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(secs.saturating_mul(1_000_000_000)))
    }

    /// RFC 3339 in UTC with nanoseconds, trailing zeros left out.
    pub fn rfc3339(self) -> String {
        let mut text = self.rfc3339_secs();
        let nanos = self.0 % 1_000_000_000;
        if nanos > 0 {
            text.pop();
            text.push('.');
            let (mut digits, mut rest) = (9, nanos);
            while rest.is_multiple_of(10) {
                rest /= 10;
                digits -= 1;
            }
            push_digits(&mut text, rest, digits);
            text.push('Z');
        }
        text
    }

    /// RFC 3339 in UTC with milliseconds, as logs show it.
    pub fn rfc3339_millis(self) -> String {
        let mut text = self.rfc3339_secs();
        text.pop();
        text.push('.');
        push_digits(&mut text, self.0 / 1_000_000 % 1000, 3);
        text.push('Z');
        text
    }

    /// RFC 3339 in UTC with whole seconds.
    pub fn rfc3339_secs(self) -> String {
        let secs = self.secs();
        let (y, m, d) = civil((secs / 86_400) as i64);
        let s = secs % 86_400;
        let mut text = String::with_capacity(30);
        push_digits(&mut text, y as u64, 4);
        for (mark, value) in [('-', m.into()), ('-', d.into()), ('T', s / 3600), (':', s / 60 % 60), (':', s % 60)] {
            text.push(mark);
            push_digits(&mut text, value, 2);
        }
        text.push('Z');
        text
    }

    /// An RFC 3339 text.
    pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
        let b = text.as_bytes();
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<u32>().ok();
        if b.len() < 20
            || b[4] != b'-'
            || b[7] != b'-'
            || !matches!(b[10], b'T' | b't' | b' ')
            || b[13] != b':'
            || b[16] != b':'
        {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut rest = text.get(19..)?;
        let mut nanos = 0u64;
        if let Some(fraction) = rest.strip_prefix('.') {
            let digits = fraction.len() - fraction.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let shown: String = fraction[..digits].chars().chain("000000000".chars()).take(9).collect();
            nanos = shown.parse().ok()?;
            rest = &fraction[digits..];
        }
        let offset = match rest {
            "Z" | "z" => 0,
            _ => {
                let sign = match rest.as_bytes().first()? {
                    b'+' => 1,
                    b'-' => -1,
                    _ => return None,
                };
                let (h, m) = rest.get(1..)?.split_once(':')?;
                sign * (h.parse::<i64>().ok()? * 3600 + m.parse::<i64>().ok()? * 60)
            }
        };
        let secs = days_of(year.into(), month, day) * 86_400 + i64::from(hour * 3600 + minute * 60 + second) - offset;
        Some(Timestamp(u64::try_from(secs).ok()?.checked_mul(1_000_000_000)? + nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        assert_eq!(Timestamp(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp(1_709_210_096_120_000_000).rfc3339(), "2024-02-29T12:34:56.12Z");
        assert_eq!(Timestamp(4_107_542_399_000_000_001).rfc3339(), "2100-02-28T23:59:59.000000001Z");
    }

    #[test]
    fn times_come_back_from_their_text() {
        for secs in (0..4_000_000_000u64).step_by(86_413_777) {
            let t = Timestamp(secs * 1_000_000_000 + 5000);
            assert_eq!(Timestamp::parse_rfc3339(&t.rfc3339()), Some(t));
        }
        assert_eq!(Timestamp::parse_rfc3339("1970-01-01T02:00:00+02:00"), Some(Timestamp(0)));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }
}
