//! When a password is changed: every so often, or by a schedule.

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{Call, Error, Result, Timestamp};

use crate::roles::seconds;
use crate::schedule::Schedule;

/// A rotation window is not shorter.
const LEAST_WINDOW_SECS: u64 = 3600;
/// Pauses between changes that failed: the first, and the longest.
const PAUSES_SECS: (u64, u64) = (10, 3600);
/// What is kept of an error.
const ERROR_CHARS: usize = 500;

/// `rotation_period`, `rotation_schedule`, `rotation_window`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times {
    /// 0: by the schedule.
    pub period_secs: u64,
    /// Empty: by the period.
    pub schedule: String,
    /// How long after its time a scheduled change may begin; 0: any time.
    pub window_secs: u64,
}

/// What a request says about them.
pub struct Given {
    pub period: Option<Seconds>,
    pub schedule: Option<String>,
    pub window: Option<Seconds>,
}

impl Times {
    pub fn are_set(&self) -> bool {
        self.period_secs > 0 || !self.schedule.is_empty()
    }

    /// A period of `least_secs` at least; none where that is 0 and 0 is given.
    pub fn change(&mut self, call: &Call<'_>, given: Given, least_secs: u64, may_be_none: bool) -> Result<()> {
        let given_schedule = given.schedule;
        let schedule = given_schedule.clone().filter(|s| !s.is_empty());
        let period = given.period.map(|p| seconds(call, "rotation_period", p)).transpose()?;
        if period.is_some_and(|p| p > 0 || !may_be_none) && schedule.is_some() {
            return Err(Error::bad_request(
                "mutually exclusive fields rotation_period and rotation_schedule were both specified",
            ));
        }
        match period {
            Some(0) if may_be_none => self.period_secs = 0,
            Some(period) if period < least_secs => {
                return Err(Error::bad_request(format!("rotation_period must be {least_secs} seconds or more")));
            }
            Some(period) => *self = Times { period_secs: period, ..Times::default() },
            None => {}
        }
        match schedule {
            Some(schedule) => {
                Schedule::parse(&schedule).map_err(Error::bad_request)?;
                (self.period_secs, self.schedule) = (0, schedule);
            }
            None if given_schedule.is_some() && may_be_none => {
                (self.schedule, self.window_secs) = (String::new(), 0);
            }
            None => {}
        }
        if let Some(window) = given.window {
            let window = seconds(call, "rotation_window", window)?;
            if self.schedule.is_empty() && (window > 0 || !may_be_none) {
                return Err(Error::bad_request("rotation_window is invalid with use of rotation_period"));
            }
            if window > 0 && window < LEAST_WINDOW_SECS {
                return Err(Error::bad_request(format!("rotation_window must be {LEAST_WINDOW_SECS} seconds or more")));
            }
            self.window_secs = window;
        }
        Ok(())
    }

    /// When the next change is due after one then. A time whose window is over is left out.
    pub fn next(&self, last: Timestamp, now: Timestamp) -> Result<Timestamp> {
        if self.schedule.is_empty() {
            return Ok(last.plus_secs(self.period_secs));
        }
        let schedule = Schedule::parse(&self.schedule).map_err(Error::Internal)?;
        let none = || Error::internal("the schedule has no further time");
        let behind = match self.window_secs {
            0 => last,
            // Right behind the last moment that is too early to count at `now`.
            window => last.max(Timestamp::from_secs(now.secs().saturating_sub(window + 1))),
        };
        schedule.after(behind).ok_or_else(none)
    }
}

/// How long a change that has failed so often is left alone.
pub fn pause_secs(failures: u32) -> u64 {
    PAUSES_SECS.0.saturating_mul(1 << failures.min(16)).min(PAUSES_SECS.1)
}

/// What is kept of an error.
pub fn shortened(error: &str) -> String {
    error.chars().take(ERROR_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Wednesday, 3:00.
    const THREE: u64 = 1_700_017_200;
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    #[test]
    fn a_time_that_was_missed_is_left_out_and_the_next_is_not() {
        let daily = |window_secs| Times { schedule: "0 3 * * *".into(), window_secs, ..Times::default() };
        let next = |window, last: u64, now: u64| {
            daily(window).next(Timestamp::from_secs(last), Timestamp::from_secs(now)).unwrap().secs()
        };
        for now in [THREE + 1, THREE + DAY - 1, THREE + DAY, THREE + DAY + HOUR] {
            assert_eq!(next(HOUR, THREE, now), THREE + DAY, "{now}");
        }
        for days in 2..5 {
            let missed = THREE + (days - 1) * DAY + HOUR + 1;
            assert_eq!(next(HOUR, THREE, missed), THREE + days * DAY);
            assert_eq!(next(HOUR, THREE, THREE + days * DAY), THREE + days * DAY, "it is due when its time comes");
            assert_eq!(next(0, THREE, missed), THREE + DAY, "without a window it is made up for");
        }
    }
}
