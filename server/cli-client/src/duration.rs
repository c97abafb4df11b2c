//! Durations: how they are written on a command line, sent, and shown in tables.

/// A length of time in whole nanoseconds; negative where a caller may ask for one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug, Default)]
pub struct Duration {
    nanos: i64,
}

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

impl Duration {
    pub const ZERO: Duration = Duration { nanos: 0 };
    /// What `system` stands for in a mount's times: take the server's own.
    pub const SYSTEM: Duration = Duration { nanos: -1 };

    pub const fn seconds(seconds: i64) -> Duration {
        Duration { nanos: seconds.saturating_mul(SECOND) }
    }

    pub fn as_secs(self) -> i64 {
        self.nanos / SECOND
    }

    /// `90`, `1h30m`, `7d`, `-5`. A bare number is seconds.
    pub fn parse(text: &str) -> Result<Duration, String> {
        if text.is_empty() {
            return Ok(Duration::ZERO);
        }
        if let Some(days) = text.strip_suffix('d') {
            return whole(days).map(|n| Duration { nanos: n.saturating_mul(24 * HOUR) });
        }
        if text.ends_with(|c: char| c.is_ascii_digit()) {
            return whole(text).map(Duration::seconds);
        }
        parse_units(text).ok_or_else(|| format!("time: invalid duration {text:?}"))
    }

    /// As it is sent: `1h0m0s`, `1m30s`, `0s`.
    pub fn long(self) -> String {
        let nanos = self.nanos.unsigned_abs();
        let sign = if self.nanos < 0 { "-" } else { "" };
        if nanos < SECOND as u64 {
            return format!("{sign}{}", below_a_second(nanos));
        }
        let (hours, rest) = (nanos / HOUR as u64, nanos % HOUR as u64);
        let (minutes, rest) = (rest / MINUTE as u64, rest % MINUTE as u64);
        let seconds = fraction(rest, SECOND as u64);
        match (hours, minutes) {
            (0, 0) => format!("{sign}{seconds}s"),
            (0, m) => format!("{sign}{m}m{seconds}s"),
            (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
        }
    }

    /// As tables show it: `768h`, `1h30m`, `1m30s`, `0s`.
    pub fn short(self) -> String {
        let mut text = self.long();
        if text.ends_with("m0s") {
            text.truncate(text.len() - 2);
        }
        if text.ends_with("h0m") {
            text.truncate(text.len() - 2);
        }
        text
    }
}

fn whole(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
}

fn parse_units(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            _ => return None,
        };
        nanos += number * unit as f64;
        rest = &rest[letters..];
    }
    let nanos = nanos.round() as i64;
    Some(Duration { nanos: if negative { -nanos } else { nanos } })
}

fn below_a_second(nanos: u64) -> String {
    match nanos {
        0 => "0s".to_string(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => format!("{}µs", fraction(n, 1_000)),
        n => format!("{}ms", fraction(n, 1_000_000)),
    }
}

/// `value / unit` with as many decimals as it has.
fn fraction(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_seconds_and_units_add_up() {
        assert_eq!(Duration::parse("90"), Ok(Duration::seconds(90)));
        assert_eq!(Duration::parse("-5"), Ok(Duration::seconds(-5)));
        assert_eq!(Duration::parse("1h30m"), Ok(Duration::seconds(5400)));
        assert_eq!(Duration::parse("1.5h"), Ok(Duration::seconds(5400)));
        assert_eq!(Duration::parse("7d"), Ok(Duration::seconds(7 * 86400)));
        assert_eq!(Duration::parse(""), Ok(Duration::ZERO));
        assert_eq!(Duration::parse("x"), Err("time: invalid duration \"x\"".to_string()));
        assert!(Duration::parse("bad").is_err());
        assert!(Duration::parse("h").is_err());
    }

    #[test]
    fn a_table_leaves_out_what_is_zero_at_the_end() {
        for (seconds, long, short) in [
            (0, "0s", "0s"),
            (90, "1m30s", "1m30s"),
            (1800, "30m0s", "30m"),
            (3600, "1h0m0s", "1h"),
            (5400, "1h30m0s", "1h30m"),
            (3605, "1h0m5s", "1h0m5s"),
            (2764800, "768h0m0s", "768h"),
            (-5, "-5s", "-5s"),
        ] {
            assert_eq!(Duration::seconds(seconds).long(), long);
            assert_eq!(Duration::seconds(seconds).short(), short);
        }
        assert_eq!(Duration { nanos: 1_500_000 }.long(), "1.5ms");
        assert_eq!(Duration { nanos: 1_500_000_000 }.long(), "1.5s");
    }
}
