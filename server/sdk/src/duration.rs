//! Durations as the API takes and prints them: integer seconds, `"90"`, `"1h30m"`, `"7d"`.

/// Parse a duration text into signed nanoseconds. A bare number counts seconds.
pub fn parse(text: &str) -> Option<i128> {
    let text = text.trim();
    if text.is_empty() {
        return Some(0);
    }
    if let Ok(secs) = text.parse::<i64>() {
        return Some(i128::from(secs) * 1_000_000_000);
    }
    let (negative, mut rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, mut after) = rest.split_at(whole);
        let mut fraction = "";
        if let Some(f) = after.strip_prefix('.') {
            let n = f.len() - f.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            (fraction, after) = f.split_at(n);
        }
        if digits.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_len = after.len() - after.trim_start_matches(|c: char| c.is_alphabetic()).len();
        let (unit, next) = after.split_at(unit_len);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            // As in the reference: days stand alone.
            "d" if total == 0 && next.is_empty() && fraction.is_empty() => 86_400_000_000_000,
            _ => return None,
        };
        let whole: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        if !fraction.is_empty() && fraction.len() <= 18 {
            let scale = 10i128.pow(fraction.len() as u32);
            total = total.checked_add(fraction.parse::<i128>().ok()?.checked_mul(unit)? / scale)?;
        }
        rest = next;
    }
    if total > i128::from(i64::MAX) {
        return None;
    }
    Some(if negative { -total } else { total })
}

/// As Go prints a `time.Duration`: `1h0m0s`, `1.5s`, `0s`.
pub fn go_text(nanos: i128) -> String {
    if nanos < 0 {
        return format!("-{}", go_text(-nanos));
    }
    let n = nanos as u128;
    let fraction = |value: u128, unit: u128, name: &str| {
        let (whole, part) = (value / unit, value % unit);
        if part == 0 {
            return format!("{whole}{name}");
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{part:0width$}");
        format!("{whole}.{}{name}", digits.trim_end_matches('0'))
    };
    match n {
        0 => "0s".into(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => fraction(n, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(n, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (n / 60_000_000_000, n % 60_000_000_000);
            let secs = fraction(rest, 1_000_000_000, "s");
            match minutes {
                0 => secs,
                1..60 => format!("{minutes}m{secs}"),
                _ => format!("{}h{}m{secs}", minutes / 60, minutes % 60),
            }
        }
    }
}

/// Whole seconds without the parts that are zero: `1h`, `90m`, `5s`.
pub fn short_text(secs: u64) -> String {
    let text = go_text(i128::from(secs) * 1_000_000_000);
    let text = text.strip_suffix("m0s").map_or(text.clone(), |t| format!("{t}m"));
    text.strip_suffix("h0m").map_or(text.clone(), |t| format!("{t}h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_duration_is_read() {
        for (text, secs) in [("90", 90), ("1h30m", 5400), ("7d", 604_800), ("-5s", -5), ("", 0), ("1.5m", 90)] {
            assert_eq!(parse(text), Some(secs * 1_000_000_000), "{text}");
        }
        assert_eq!(parse("300ms"), Some(300_000_000));
        for bad in ["x", "1x", "h", "1h3", "1..5s", "-", "1d12h", "99999999999999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (61_000_000_000, "1m1s"),
            (2_500_000, "2.5ms"),
        ] {
            assert_eq!(go_text(nanos), text);
        }
    }
}
