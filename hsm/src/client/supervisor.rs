//! Keeps one helper running for a device: starts it, ends it when it hangs, starts it
//! again with back-off, and remembers a PIN that was refused.

use super::link::{Link, Outcome};
use super::waits;
use crate::config::DeviceConfig;
use crate::confinement::kernel_confines_files;
use crate::device::{Answer, Call, DeviceError, DeviceErrorClass as Class};
use crate::memory::Secret;
use crate::spawner::Spawner;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

/// After the second death in a row; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A pause up to this long is waited for within the call.
const PATIENCE: Duration = Duration::from_secs(1);
/// Making a key (RSA-4096 on a smart card) takes this many times as long.
const SLOW_FACTOR: u32 = 12;

pub(super) struct Supervisor {
    spawner: Arc<Spawner>,
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    config: DeviceConfig,
    link: Option<Arc<Link>>,
    /// Deaths since the last answer.
    deaths: u32,
    not_before: Option<Instant>,
    /// Counts configurations, so that an answer to an old one refuses nothing.
    revision: u64,
    /// The PIN was refused; nothing that needs it is asked until the configuration changes.
    refused: Option<DeviceError>,
}

impl State {
    /// The configuration is another: a helper with the old one ends, and nothing is held against the new one.
    fn changed(&mut self) {
        self.refused = None;
        self.deaths = 0;
        self.not_before = None;
        self.revision += 1;
        if let Some(link) = self.link.take() {
            link.end();
        }
    }
}

impl Supervisor {
    pub(super) fn new(spawner: Arc<Spawner>, config: DeviceConfig, timeout: Duration) -> Self {
        if let DeviceConfig::Software(_) = &config {
            tracing::warn!("keys are in SOFTWARE, not in a device: for development only, never for real secrets");
        }
        if !kernel_confines_files() {
            tracing::warn!("this kernel has no Landlock: a device helper may use every file that its user may");
        }
        let state = State { config, link: None, deaths: 0, not_before: None, revision: 0, refused: None };
        Self { spawner, timeout, state: Mutex::new(state) }
    }

    pub(super) fn call(&self, call: &Call) -> Result<Answer, DeviceError> {
        let timeout = match call {
            Call::Generate(_) | Call::Import { .. } => self.timeout * SLOW_FACTOR,
            _ => self.timeout,
        };
        let mut repeats_left = u32::from(call.is_idempotent());
        loop {
            let (link, revision) = self.link(call)?;
            match link.ask(call, timeout) {
                Outcome::Answered(result) => {
                    self.answered(&link, &result, revision);
                    return result;
                }
                Outcome::TimedOut => {
                    self.lost(&link, "did not answer in time");
                    return Err(self.error(
                        Class::Timeout,
                        call,
                        &format!(
                            "no answer within {} s; the helper was ended and starts again with the next call",
                            timeout.as_secs_f32()
                        ),
                    ));
                }
                Outcome::Died => {
                    self.lost(&link, "ended unexpectedly");
                    if repeats_left == 0 {
                        return Err(self.error(
                            Class::HelperDied,
                            call,
                            "the helper process ended during the call; it starts again with the next one. If it keeps ending, the module is at fault: see the system log",
                        ));
                    }
                    repeats_left -= 1;
                }
            }
        }
    }

    pub(super) fn reconfigure(&self, config: DeviceConfig) {
        let mut state = self.state();
        state.config = config;
        state.changed();
    }

    /// Takes another PIN, if it is another: `false` if not. What was refused is refused still then.
    pub(super) fn take_pin(&self, pin: Secret<String>) -> bool {
        let mut state = self.state();
        let Some(place) = state.config.pin() else { return false };
        let known = place.as_ref().map_or(&b""[..], |pin| pin.expose().as_bytes());
        if bool::from(known.ct_eq(pin.expose().as_bytes())) {
            return false;
        }
        *place = Some(pin);
        state.changed();
        true
    }

    pub(super) fn close(&self) {
        if let Some(link) = self.state().link.take() {
            link.end();
        }
    }

    pub(super) fn helper_pid(&self) -> Option<u32> {
        self.state().link.as_ref().filter(|link| !link.is_dead()).map(|link| link.pid)
    }

    /// The helper's link, started if there is none.
    fn link(&self, call: &Call) -> Result<(Arc<Link>, u64), DeviceError> {
        let mut state = self.state();
        if let Some(error) = state.refused.as_ref().filter(|_| !matches!(call, Call::Info)) {
            return Err(error.clone());
        }
        if let Some(link) = &state.link {
            if !link.seems_dead() {
                return Ok((Arc::clone(link), state.revision));
            }
            self.forget(&mut state, "ended unexpectedly");
        }
        if let Some(pause) = state.not_before.and_then(|at| at.checked_duration_since(Instant::now())) {
            if pause > PATIENCE {
                let text = format!(
                    "device helper of {} ended {} times in a row and starts again in {} s: see the system log, the module is at fault",
                    state.config.name(),
                    state.deaths,
                    pause.as_secs() + 1
                );
                return Err(DeviceError::new(Class::HelperDied, text));
            }
            // Others that call meanwhile wait for the same helper.
            waits::for_long(|| thread::sleep(pause));
        }
        let helper = waits::for_long(|| self.spawner.start_helper(state.config.program()))?;
        let number = helper.number;
        match waits::for_long(|| Link::open(helper, &state.config, self.timeout)) {
            Ok(link) => {
                let link = Arc::new(link);
                state.link = Some(Arc::clone(&link));
                Ok((link, state.revision))
            }
            Err(cause) => {
                self.spawner.kill(number);
                count_death(&mut state);
                let text =
                    format!("device helper of {} cannot be reached ({cause}): tried again later", state.config.name());
                Err(DeviceError::new(Class::HelperDied, text))
            }
        }
    }

    fn answered(&self, link: &Arc<Link>, result: &Result<Answer, DeviceError>, revision: u64) {
        let mut state = self.state();
        state.deaths = 0;
        state.not_before = None;
        if let Err(error) = result
            && matches!(error.class, Class::PinWrong | Class::PinLocked)
            && state.revision == revision
        {
            state.refused = Some(error.clone());
        }
        // What was missing may come back in another place of the file system, which this helper's rules do not know:
        // the next call gets a new one.
        let missing = matches!(result, Err(error) if matches!(error.class, Class::Config | Class::Gone));
        if missing && state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            state.link = None;
            link.end();
        }
    }

    /// Takes a helper out of use, if that has not happened yet.
    fn lost(&self, link: &Arc<Link>, how: &str) {
        let mut state = self.state();
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            self.forget(&mut state, how);
        }
    }

    fn forget(&self, state: &mut State, how: &str) {
        if let Some(link) = state.link.take() {
            link.end();
            self.spawner.kill(link.number);
            count_death(state);
            tracing::warn!(device = state.config.name(), pid = link.pid, deaths = state.deaths, "device helper {how}");
        }
    }

    fn error(&self, class: Class, call: &Call, text: &str) -> DeviceError {
        DeviceError::new(class, format!("'{}' on {}: {text}", call.name(), self.state().config.name()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody starts a helper.
            Err(TryLockError::WouldBlock) => {
                waits::for_long(|| self.state.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }
}

/// The first death costs no pause: the call is repeated at once.
fn count_death(state: &mut State) {
    state.deaths += 1;
    let pause = match state.deaths {
        1 => return,
        deaths => FIRST_PAUSE.saturating_mul(1 << (deaths - 2).min(16)).min(LONGEST_PAUSE),
    };
    state.not_before = Some(Instant::now() + pause);
}
