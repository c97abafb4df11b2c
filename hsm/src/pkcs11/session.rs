//! Sessions: a small pool, one login for all of them, and what brings them back when
//! the device was away.

use super::Pkcs11Config;
use super::abilities::{Ability, Listed, Refusals};
use super::fault::{Fault, Remedy, explain, is_refusal, remedy};
use super::find::Handles;
use super::module::{Module, Opened};
use super::quirks::Quirks;
use super::token::{self, TokenInfo};
use crate::device::{DeviceError, DeviceErrorClass as Class};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use std::cell::Cell;
use std::fmt::Display;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Sessions open at once. Small devices have 16 for all their users.
pub(super) const MAX_SESSIONS: usize = 4;
/// How long a call waits for one of them.
const SESSION_WAIT: Duration = Duration::from_secs(8);

/// Whether a call may be made a second time when it is not known if the first was
/// carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It only reads, or twice is the same as once.
    Safe,
    /// It makes or destroys something.
    Never,
}

/// What a capability works with.
pub(super) struct Work<'a> {
    pub(super) session: &'a Session,
    pub(super) listed: &'a Listed,
    pub(super) quirks: Quirks,
    pub(super) login_required: bool,
    pub(super) handles: &'a Mutex<Handles>,
    /// The session may be in the middle of something.
    spoilt: Cell<bool>,
}

impl Work<'_> {
    /// The session is not to be used again.
    pub(super) fn spoil(&self) {
        self.spoilt.set(true);
    }
}

/// The sessions of one token.
pub(super) struct Sessions {
    pub(super) config: Pkcs11Config,
    module: Arc<Module>,
    pool: Mutex<Pool>,
    returned: Condvar,
    handles: Mutex<Handles>,
    /// What the token lists and does not do.
    pub(super) refusals: Refusals,
}

#[derive(Default)]
struct Pool {
    /// Of the module, when the sessions were opened.
    generation: u64,
    token: Option<Token>,
    /// Of the token that was chosen last.
    quirks: Quirks,
    idle: Vec<Session>,
    /// In use by calls.
    busy: usize,
    /// Counts resets: a session taken before the last one is not put back.
    epoch: u64,
    login: Login,
}

#[derive(Clone)]
struct Token {
    slot: Slot,
    info: TokenInfo,
    listed: Arc<Listed>,
}

#[derive(Default)]
enum Login {
    #[default]
    Needed,
    Done,
    /// The token refused: not tried again for the life of this value.
    Refused(DeviceError),
}

impl Sessions {
    pub(super) fn new(config: Pkcs11Config) -> Self {
        Self {
            module: Module::shared(&config),
            config,
            pool: Mutex::default(),
            returned: Condvar::new(),
            handles: Mutex::default(),
            refusals: Refusals::default(),
        }
    }

    /// Runs `act` with a session that is logged in where the token wants that. What went
    /// away in the meantime is opened again, at most once as sessions and once as module.
    pub(super) fn run<T>(
        &self,
        what: &dyn Display,
        repeat: Repeat,
        act: impl Fn(&Work<'_>) -> Result<T, Fault>,
    ) -> Result<T, DeviceError> {
        self.with_recovery(what, |opened| {
            let lease = self.lease(opened).map_err(|fault| (fault, Repeat::Safe))?;
            let work = Work {
                session: &lease.session,
                listed: &lease.listed,
                quirks: lease.quirks,
                login_required: lease.login_required,
                handles: &self.handles,
                spoilt: Cell::new(false),
            };
            let result = act(&work);
            let reusable = !work.spoilt.get() && !matches!(result, Err(Fault::Module(_)));
            self.give_back(lease, reusable);
            result.map_err(|fault| (fault, repeat))
        })
    }

    /// The same for something that not every token can do: only if it is listed, and what comes of it is remembered.
    pub(super) fn try_to<T>(
        &self,
        ability: Ability,
        what: &dyn Display,
        repeat: Repeat,
        act: impl Fn(&Work<'_>) -> Result<T, Fault>,
    ) -> Result<T, DeviceError> {
        self.run(what, repeat, |work| {
            work.listed.require(ability)?;
            let result = act(work);
            match &result {
                Ok(_) => self.refusals.worked(ability),
                Err(fault) if is_refusal(fault) => self.refusals.refused(ability),
                Err(_) => {}
            }
            result
        })
    }

    /// Runs `act` on the token's slot, without session or login.
    pub(super) fn look<T>(
        &self,
        what: &dyn Display,
        act: impl Fn(&Opened<'_>, Slot) -> Result<T, Fault>,
    ) -> Result<T, DeviceError> {
        self.with_recovery(what, |opened| {
            let (slot, _) = token::choose(opened, &self.config).map_err(|fault| (fault, Repeat::Safe))?;
            act(opened, slot).map_err(|fault| (fault, Repeat::Safe))
        })
    }

    /// Closes all sessions (those in use, when their call is done), which logs out: a
    /// token ends an application's login with its last session. `C_Logout` would log out
    /// every other user of the token in this process too.
    pub(super) fn close(&self) {
        let Ok(opened) = self.module.open() else {
            return;
        };
        self.reset(&mut self.pool(), opened.generation);
    }

    /// Lets go of every key that is in use, where that is needed before one is destroyed.
    pub(super) fn let_go(&self) -> Result<(), DeviceError> {
        if !self.pool().quirks.keys_stay_in_use {
            return Ok(());
        }
        let generation = self.module.open()?.generation;
        self.reset(&mut self.pool(), generation);
        self.module.reopen(generation)
    }

    fn with_recovery<T>(
        &self,
        what: &dyn Display,
        attempt: impl Fn(&Opened<'_>) -> Result<T, (Fault, Repeat)>,
    ) -> Result<T, DeviceError> {
        let (mut sessions_renewed, mut module_renewed) = (false, false);
        loop {
            let opened = self.module.open()?;
            let (fault, may_repeat) = match attempt(&opened) {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            let quirks = self.pool().quirks;
            let remedy = match remedy(&fault, quirks) {
                // No room was not the trouble: it may have lost its device.
                Remedy::Sessions if sessions_renewed && quirks.keys_stay_in_use => Remedy::Module,
                remedy => remedy,
            };
            let generation = opened.generation;
            if remedy != Remedy::None {
                self.reset(&mut self.pool(), generation);
            }
            drop(opened);
            let again = match remedy {
                Remedy::None => false,
                Remedy::Sessions => !std::mem::replace(&mut sessions_renewed, true),
                Remedy::SessionsUnsure => may_repeat == Repeat::Safe && !std::mem::replace(&mut sessions_renewed, true),
                Remedy::Module if module_renewed => false,
                Remedy::Module => {
                    module_renewed = true;
                    self.module.reopen(generation)?;
                    may_repeat == Repeat::Safe
                }
            };
            if !again {
                return Err(explain(&self.config, what, fault));
            }
        }
    }

    fn lease(&self, opened: &Opened<'_>) -> Result<Lease, Fault> {
        let (mut pool, waited) = self
            .returned
            .wait_timeout_while(self.pool(), SESSION_WAIT, |pool| pool.busy >= pool.quirks.sessions)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Fault::Final(DeviceError::new(
                Class::Busy,
                format!(
                    "all {} sessions of {} have been in use for {} s: tried again later",
                    pool.quirks.sessions,
                    self.config.token_name(),
                    SESSION_WAIT.as_secs()
                ),
            )));
        }
        if pool.generation != opened.generation {
            self.forget(&mut pool);
            pool.generation = opened.generation;
        }
        let Token { slot, info, listed } = match &pool.token {
            Some(token) => token.clone(),
            None => {
                let (slot, info) = token::choose(opened, &self.config)?;
                pool.quirks = Quirks::of(&opened.context.get_library_info()?, &info);
                let listed = Arc::new(Listed::ask(&opened.context, slot, pool.quirks)?);
                pool.token.insert(Token { slot, info, listed }).clone()
            }
        };
        if pool.busy == 0 && pool.idle.is_empty() {
            // With its last session an application is logged out.
            pool.login.expire();
        }
        let session = match pool.idle.pop() {
            Some(session) => session,
            None if info.write_protected() => opened.context.open_ro_session_no_drop(slot)?,
            None => opened.context.open_rw_session_no_drop(slot)?,
        };
        let login_required = info.login_required();
        if login_required && let Err(fault) = self.log_in(&mut pool, opened, slot, &session) {
            // Closing may fail if the device is away; then there is nothing to close.
            let _ = session.close();
            return Err(fault);
        }
        pool.busy += 1;
        Ok(Lease { session, listed, quirks: pool.quirks, login_required, epoch: pool.epoch })
    }

    /// Puts a session back, or closes it if it may be in the middle of something.
    fn give_back(&self, lease: Lease, reusable: bool) {
        let mut pool = self.pool();
        pool.busy -= 1;
        if reusable && lease.epoch == pool.epoch {
            pool.idle.push(lease.session);
        } else {
            end(lease.session, lease.quirks);
        }
        drop(pool);
        self.returned.notify_one();
    }

    /// One try for the life of the configuration: tokens lock after a few wrong ones.
    fn log_in(&self, pool: &mut Pool, opened: &Opened<'_>, slot: Slot, session: &Session) -> Result<(), Fault> {
        match &pool.login {
            Login::Done => return Ok(()),
            Login::Refused(error) => return Err(Fault::Final(error.clone())),
            Login::Needed => {}
        }
        let refused = |class, text: &str| {
            let error = DeviceError::new(class, format!("{text} ({})", self.config.token_name()));
            (Login::Refused(error.clone()), Fault::Final(error))
        };
        let token = opened.token_info(slot)?;
        if token.user_pin_locked() {
            let (login, fault) =
                refused(Class::PinLocked, "the token's PIN is locked: unlock it with the security officer's PIN");
            pool.login = login;
            return Err(fault);
        }
        if token.user_pin_final_try() {
            let (login, fault) = refused(
                Class::PinLocked,
                "the token has one PIN try left, which is not risked: log in once with the vendor's tool, then restart",
            );
            pool.login = login;
            return Err(fault);
        }
        let pin = match &self.config.pin {
            Some(pin) => Some(AuthPin::from(pin.expose().clone())),
            None if token.protected_authentication_path() => None,
            None => {
                return Err(Fault::Final(DeviceError::new(
                    Class::NeedsLogin,
                    format!("{} needs a login: set 'pin', 'pin_file' or 'pin_env'", self.config.token_name()),
                )));
            }
        };
        match session.login(UserType::User, pin.as_ref()) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                pool.login = Login::Done;
                Ok(())
            }
            Err(Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinExpired,
                _,
            )) => {
                let (login, fault) = refused(
                    Class::PinWrong,
                    "the PIN is wrong: it was tried once and is not tried again; correct 'pin', 'pin_file' or 'pin_env' and reload",
                );
                pool.login = login;
                Err(fault)
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => {
                let (login, fault) =
                    refused(Class::PinLocked, "the token's PIN is locked: unlock it with the security officer's PIN");
                pool.login = login;
                Err(fault)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Closes what is idle and forgets the rest; a refused PIN is remembered.
    fn reset(&self, pool: &mut Pool, generation: u64) {
        if pool.generation == generation {
            let quirks = pool.quirks;
            pool.idle.drain(..).for_each(|session| end(session, quirks));
        }
        self.forget(pool);
    }

    /// Forgets sessions without closing them: their handles belong to an earlier
    /// initialisation and may have been given out anew.
    fn forget(&self, pool: &mut Pool) {
        pool.idle.clear();
        pool.token = None;
        pool.epoch += 1;
        pool.login.expire();
        self.refusals.forget();
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        if self.pool.get_mut().is_ok_and(|pool| !pool.idle.is_empty()) {
            self.close();
        }
    }
}

/// Closes a session. That may fail if the device is away; then there is nothing to close.
fn end(session: Session, quirks: Quirks) {
    if quirks.keys_stay_in_use {
        // It is the only one.
        let _ = session.logout();
    }
    let _ = session.close();
}

impl Login {
    fn expire(&mut self) {
        if matches!(self, Self::Done) {
            *self = Self::Needed;
        }
    }
}

struct Lease {
    session: Session,
    listed: Arc<Listed>,
    quirks: Quirks,
    login_required: bool,
    epoch: u64,
}
