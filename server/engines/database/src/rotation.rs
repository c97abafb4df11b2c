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

    /// When the next change is due after one then.
    pub fn next(&self, last: Timestamp, now: Timestamp) -> Result<Timestamp> {
        if self.schedule.is_empty() {
            return Ok(last.plus_secs(self.period_secs));
        }
        let schedule = Schedule::parse(&self.schedule).map_err(Error::Internal)?;
        let none = || Error::internal("the schedule has no further time");
        let due = schedule.after(last).ok_or_else(none)?;
        let too_late = self.window_secs > 0 && now > due.plus_secs(self.window_secs);
        if too_late { schedule.after(now).ok_or_else(none) } else { Ok(due) }
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
