//! Times in a layout of Go's: `2006-01-02 15:04:05`. UTC.

use holdfast_sdk::Timestamp;

/// Parts of a layout, the longer first where one begins like another.
const PARTS: &[&str] = &[
    "2006",
    "January",
    "Monday",
    "Jan",
    "Mon",
    "MST",
    "-07:00",
    "-0700",
    "Z07:00",
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "15",
    "PM",
    "pm",
    ".000000000",
    ".000000",
    ".000",
    "1",
    "2",
    "3",
    "4",
    "5",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// A time taken apart.
struct Parts {
    year: u64,
    month: usize,
    day: u64,
    weekday: &'static str,
    hour: u64,
    minute: u64,
    second: u64,
    nanos: u64,
}

pub fn format(layout: &str, t: Timestamp) -> String {
    let parts = take_apart(t);
    let (mut out, mut rest) = (String::new(), layout);
    while let Some(c) = rest.chars().next() {
        match PARTS.iter().find(|p| rest.starts_with(**p)) {
            Some(part) => {
                out.push_str(&shown(part, &parts));
                rest = &rest[part.len()..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

fn take_apart(t: Timestamp) -> Parts {
    // `2023-11-14T22:13:20.123456789Z`, or without the fraction.
    let text = t.rfc3339();
    let number = |from: usize, to: usize| text.get(from..to).and_then(|s| s.parse().ok()).unwrap_or(0);
    let days = usize::try_from(t.secs() / 86_400).unwrap_or(0);
    Parts {
        year: number(0, 4),
        month: usize::try_from(number(5, 7)).unwrap_or(1),
        day: number(8, 10),
        weekday: DAYS[days % 7],
        hour: number(11, 13),
        minute: number(14, 16),
        second: number(17, 19),
        nanos: t.0 % 1_000_000_000,
    }
}

fn shown(part: &str, p: &Parts) -> String {
    let month = MONTHS[(p.month + 11) % 12];
    let twelve = (p.hour + 11) % 12 + 1;
    match part {
        "2006" => format!("{:04}", p.year),
        "06" => format!("{:02}", p.year % 100),
        "January" => month.into(),
        "Jan" => month[..3].into(),
        "01" => format!("{:02}", p.month),
        "1" => p.month.to_string(),
        "02" => format!("{:02}", p.day),
        "2" => p.day.to_string(),
        "Monday" => p.weekday.into(),
        "Mon" => p.weekday[..3].into(),
        "15" => format!("{:02}", p.hour),
        "03" => format!("{twelve:02}"),
        "3" => twelve.to_string(),
        "04" => format!("{:02}", p.minute),
        "4" => p.minute.to_string(),
        "05" => format!("{:02}", p.second),
        "5" => p.second.to_string(),
        "PM" => if p.hour < 12 { "AM" } else { "PM" }.into(),
        "pm" => if p.hour < 12 { "am" } else { "pm" }.into(),
        "MST" => "UTC".into(),
        "-07:00" => "+00:00".into(),
        "-0700" => "+0000".into(),
        "Z07:00" => "Z".into(),
        ".000000000" => format!(".{:09}", p.nanos),
        ".000000" => format!(".{:06}", p.nanos / 1000),
        _ => format!(".{:03}", p.nanos / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_filled_in() {
        let t = Timestamp(1_700_000_000_123_456_789);
        for (layout, text) in [
            ("2006-01-02 15:04:05-0700", "2023-11-14 22:13:20+0000"),
            ("Mon, 2 Jan 06 3:4:5.000 PM", "Tue, 14 Nov 23 10:13:20.123 PM"),
            ("Monday January 1 MST Z07:00", "Tuesday November 11 UTC Z"),
            ("20060102150405", "20231114221320"),
        ] {
            assert_eq!(format(layout, t), text, "{layout}");
        }
    }
}
