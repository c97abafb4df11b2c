//! `rotation_schedule`: five fields of cron, in UTC.

use std::collections::BTreeSet;

use holdfast_sdk::Timestamp;

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;
/// How far ahead a time is looked for: a 29 February may be eight years away.
const DAYS_AHEAD: u64 = 366 * 9;

/// What a schedule names: minutes, hours, days of the month, months, days of the week (0 is Sunday).
pub struct Schedule {
    minutes: BTreeSet<u64>,
    hours: BTreeSet<u64>,
    days: BTreeSet<u64>,
    months: BTreeSet<u64>,
    weekdays: BTreeSet<u64>,
    /// Where both days are named, one of them is enough.
    either_day: bool,
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("could not parse rotation_schedule {text:?}: five fields are wanted"));
        };
        let schedule = Schedule {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, MONTHS)?,
            weekdays: field(weekdays, 0, 7, WEEKDAYS)?.into_iter().map(|d| d % 7).collect(),
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        match schedule.after(Timestamp(0)) {
            Some(_) => Ok(schedule),
            None => Err(format!("rotation_schedule {text:?} names no time at all")),
        }
    }

    /// The first time behind `t`.
    pub fn after(&self, t: Timestamp) -> Option<Timestamp> {
        let start = (t.secs() / MINUTE + 1) * MINUTE;
        for day in start / DAY..start / DAY + DAYS_AHEAD {
            if !self.has_day(day) {
                continue;
            }
            for hour in &self.hours {
                for minute in &self.minutes {
                    let at = day * DAY + hour * 3600 + minute * MINUTE;
                    if at >= start {
                        return Some(Timestamp::from_secs(at));
                    }
                }
            }
        }
        None
    }

    fn has_day(&self, day: u64) -> bool {
        let text = Timestamp::from_secs(day * DAY).rfc3339();
        let number = |from: usize, to: usize| text.get(from..to).and_then(|s| s.parse().ok()).unwrap_or(0);
        // 1 January 1970 was a Thursday.
        let (of_month, of_week) = (self.days.contains(&number(8, 10)), self.weekdays.contains(&((day + 4) % 7)));
        let fits = if self.either_day { of_month || of_week } else { of_month && of_week };
        fits && self.months.contains(&number(5, 7))
    }
}

/// `*`, `a`, `a-b`, each with `/step`, joined by commas.
fn field(text: &str, least: u64, most: u64, names: &[&str]) -> Result<BTreeSet<u64>, String> {
    let wrong = || format!("rotation_schedule: {text:?} is none of {least} to {most}");
    let number = |word: &str| {
        let named = names.iter().position(|n| n.eq_ignore_ascii_case(word)).map(|at| at as u64 + least);
        named.or_else(|| word.parse().ok()).filter(|n| (least..=most).contains(n)).ok_or_else(wrong)
    };
    let mut out = BTreeSet::new();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|s| *s > 0).ok_or_else(wrong)?),
            None => (part, 1usize),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            None if part.contains('/') => (number(range)?, most),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(wrong());
        }
        out.extend((from..=to).step_by(step));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(schedule: &str, t: &str) -> String {
        let t = Timestamp::parse_rfc3339(t).unwrap();
        Schedule::parse(schedule).unwrap().after(t).unwrap().rfc3339_secs()
    }

    #[test]
    fn the_next_time_is_found() {
        for (schedule, t, next) in [
            ("0 0 * * *", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            ("*/15 9-17 * * mon-fri", "2026-03-06T17:50:00Z", "2026-03-09T09:00:00Z"),
            ("30 6 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T06:30:00Z"),
            ("0 0 1 * 0", "2026-03-02T00:00:00Z", "2026-03-08T00:00:00Z"),
            ("0 0 * * 7", "2026-03-02T00:00:00Z", "2026-03-08T00:00:00Z"),
            ("5,10 * * jan *", "2026-01-01T00:05:01Z", "2026-01-01T00:10:00Z"),
            ("@monthly", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
        ] {
            assert_eq!(after(schedule, t), next, "{schedule}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "5-1 * * * *", "*/0 * * * *", "0 0 31 2 *"]
        {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
