//! A YubiHSM opened: one session, used by one call at a time, since the device does one thing at a time however many
//! sessions it has. What brings it back when the connector or the device was away, or the session has ended.

use super::channel::{AuthenticationKey, Beginning, CHALLENGE_BYTES, Channel, content, plain};
use super::config::YubiHsmConfig;
use super::connector::Connector;
use super::fault::{Fault, explain};
use super::log::{Doubts, Log};
use super::object::{Known, Object};
use super::protocol::{Capabilities, Command, ObjectType, Refusal};
use crate::device::{DeviceError, DeviceErrorClass as Class};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a call waits for the one before it.
const TURN: Duration = Duration::from_secs(8);
/// A YubiHSM ends a session that was not used for 30 s; one that was not used for so long is not tried any more.
const IDLE: Duration = Duration::from_secs(25);
/// How long most commands may take.
const USUAL: Duration = Duration::from_secs(8);
/// How long making an RSA key may take, and so long also what waits behind another session's.
const SLOW: Duration = Duration::from_secs(110);

/// Whether a call may be made a second time when nobody knows whether the first was carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Safe,
    Never,
}

/// A YubiHSM as configured.
pub(super) struct YubiHsm {
    pub(super) config: YubiHsmConfig,
    pub(super) doubts: Doubts,
    key: OnceLock<AuthenticationKey>,
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    in_use: bool,
    /// The password was wrong; it is not tried again.
    refused: Option<DeviceError>,
    /// The serial number of the device that was there before.
    serial: Option<u32>,
}

/// What a device says of itself to everybody.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) version: [u8; 3],
    pub(super) serial: u32,
    pub(super) log_size: u8,
    pub(super) log_used: u8,
    pub(super) algorithms: Vec<u8>,
}

/// An authenticated session.
pub(super) struct Session {
    connector: Connector,
    channel: Channel,
    last_used: Instant,
    pub(super) device: Device,
    /// The authentication key, whose capabilities and domains are the session's.
    pub(super) authority: Object,
    pub(super) known: Known,
    log: Option<Log>,
}

impl YubiHsm {
    pub(super) fn new(config: YubiHsmConfig) -> Result<Self, DeviceError> {
        config.address()?;
        Ok(Self {
            config,
            doubts: Doubts::default(),
            key: OnceLock::new(),
            state: Mutex::default(),
            free: Condvar::new(),
        })
    }

    /// Runs `act` in a session. If connector, device or session were away, another session is opened, once; what may not
    /// be done twice is asked again only if it certainly was not done.
    pub(super) fn run<T>(
        &self,
        what: &str,
        repeat: Repeat,
        mut act: impl FnMut(&mut Session) -> Result<T, Fault>,
    ) -> Result<T, DeviceError> {
        let mut kept = self.take_turn()?;
        let mut renewed = false;
        let result = loop {
            let known = kept.is_some();
            let session = match kept.take().filter(Session::is_fresh) {
                Some(session) => Ok(session),
                None => self.open(),
            };
            let attempt = session.and_then(|mut session| {
                let result = act(&mut session);
                if !result.as_ref().is_err_and(Fault::spoils_the_session) {
                    kept = Some(session);
                }
                result
            });
            match attempt {
                // A session that has just been opened tells how things are now.
                Err(fault)
                    if known
                        && !renewed
                        && fault.asks_for_a_new_session()
                        && (repeat == Repeat::Safe || fault.was_not_carried_out()) =>
                {
                    renewed = true;
                }
                other => break other,
            }
        };
        let result = result.map_err(|fault| explain(&self.config, what, fault));
        let mut state = self.state();
        if let Err(error) = &result
            && error.class == Class::PinWrong
        {
            state.refused = Some(error.clone());
        }
        state.serial = kept.as_ref().map(|session| session.device.serial).or(state.serial);
        state.session = kept;
        state.in_use = false;
        drop(state);
        self.free.notify_one();
        result
    }

    /// What it says of itself without a session.
    pub(super) fn device(&self) -> Result<Device, DeviceError> {
        let asked = Connector::new(&self.config).map_err(Fault::from).and_then(|mut connector| device(&mut connector));
        asked.map_err(|fault| explain(&self.config, "ask for information", fault))
    }

    /// Ends the session; the next call opens another.
    pub(super) fn close(&self) {
        let session = self.state().session.take();
        if let Some(mut session) = session {
            // If it cannot be closed, the device ends it by itself.
            let _ended = session.command(Command::CloseSession, &[]);
        }
    }

    fn take_turn(&self) -> Result<Option<Session>, DeviceError> {
        let (mut state, waited) = self
            .free
            .wait_timeout_while(self.state(), TURN, |state| state.in_use)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = &state.refused {
            return Err(refused.clone());
        }
        if waited.timed_out() {
            let text = format!(
                "{} has been busy with another call for {} s: tried again later",
                self.config.name(),
                TURN.as_secs()
            );
            return Err(DeviceError::new(Class::Busy, text));
        }
        state.in_use = true;
        Ok(state.session.take())
    }

    fn open(&self) -> Result<Session, Fault> {
        let config = &self.config;
        let password = config.password.as_ref().ok_or_else(|| {
            let text = format!("{} wants a password for {}: set 'password_file'", config.name(), config.who());
            DeviceError::new(Class::NeedsLogin, text)
        })?;
        let mut connector = Connector::new(config)?;
        let device = device(&mut connector)?;
        self.is_the_one_that_is_meant(&device)?;
        let key = self.key.get_or_init(|| AuthenticationKey::from_password(password));
        let channel = authenticate(config, &mut connector, key, &device)?;
        let log = config.log_file.as_deref().map(|file| Log::new(file, device.serial, self.doubts.clone()));
        let authority = Object::nothing(config.auth_key, ObjectType::Authentication);
        let last_used = Instant::now();
        let mut session = Session { connector, channel, last_used, device, authority, known: Known::default(), log };
        // In the log of a device that logs everything, the session's opening alone takes three places.
        session.keep_log()?;
        session.authority = Object::of(&mut session, config.auth_key, ObjectType::Authentication)?;
        Ok(session)
    }

    fn is_the_one_that_is_meant(&self, device: &Device) -> Result<(), DeviceError> {
        let wanted = self.config.serial;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != device.serial) {
            let text = format!(
                "the YubiHSM at {} has the serial number {}, and {wanted} is meant: it was exchanged; plug in the other one, or \
                 correct 'serial'",
                self.config.connector, device.serial
            );
            return Err(DeviceError::new(Class::Gone, text));
        }
        let before = self.state().serial;
        if let Some(before) = before.filter(|before| *before != device.serial) {
            tracing::warn!(before, now = device.serial, "the YubiHSM was exchanged for another");
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn is_fresh(&self) -> bool {
        self.last_used.elapsed() < IDLE && !self.channel.is_used_up()
    }

    /// Has the device carry a command out. A log that is full is kept first, and the command then asked again: the device
    /// has not done it.
    pub(super) fn command(&mut self, command: Command, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let answer = match self.exchange(command, data) {
            Err(Fault::Refused(Refusal::LogFull)) if self.log.is_some() => {
                self.keep_log()?;
                self.exchange(command, data)
            }
            other => other,
        };
        let due = self.log.as_mut().is_some_and(|log| log.is_due());
        if due && answer.is_ok() {
            // What was asked is done: trouble with the log is said when the log is full.
            let _kept_next_time = self.keep_log();
        }
        answer
    }

    fn exchange(&mut self, command: Command, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let message = self.channel.seal(command, data);
        let within = match command {
            Command::GenerateAsymmetricKey => SLOW,
            _ => USUAL,
        };
        let answer = self.connector.ask(&message, within)?;
        self.last_used = Instant::now();
        self.channel.open(&answer, command)
    }

    /// Writes the device's log to its file, and then lets the device forget it.
    fn keep_log(&mut self) -> Result<(), Fault> {
        let Some(mut log) = self.log.take() else { return Ok(()) };
        let kept = self.exchange(Command::GetLogEntries, &[]).and_then(|entries| match log.keep(&entries)? {
            Some(index) => self.exchange(Command::SetLogIndex, &index.to_be_bytes()).map(drop),
            None => Ok(()),
        });
        self.log = Some(log);
        match kept {
            Err(Fault::Refused(Refusal::InsufficientPermissions)) => {
                let text = "'log_file' is set, and the authentication key may not read the device's log: give it the capability \
                            get-log-entries, or take 'log_file' away";
                Err(DeviceError::new(Class::PolicyRefused, text).into())
            }
            other => other,
        }
    }

    /// Refuses what the device would refuse, with the name of what is missing: the session may do it, and so may the object.
    pub(super) fn may(&self, wanted: Capabilities, object: Option<&Object>) -> Result<(), Fault> {
        let missing = self.authority.capabilities.lacks(wanted);
        let of = match (missing.is_empty(), object) {
            (false, _) => format!("authentication key {}", self.authority.id),
            (true, None) => return Ok(()),
            (true, Some(object)) => object.name(),
        };
        let missing = match object {
            Some(object) if missing.is_empty() => object.capabilities.lacks(wanted),
            _ => missing,
        };
        if missing.is_empty() {
            return Ok(());
        }
        let text = format!(
            "{of} on the YubiHSM {} has not the capability {}: it is given when an object is made, so make another one with it",
            self.device.serial,
            missing.join(", ")
        );
        Err(DeviceError::new(Class::PolicyRefused, text).into())
    }
}

fn authenticate(
    config: &YubiHsmConfig,
    connector: &mut Connector,
    key: &AuthenticationKey,
    device: &Device,
) -> Result<Channel, Fault> {
    let mut challenge = [0; CHALLENGE_BYTES];
    getrandom::fill(&mut challenge)
        .map_err(|error| DeviceError::new(Class::Failed, format!("no random bytes for a session: {error}")))?;
    let data = [&config.auth_key.to_be_bytes()[..], &challenge].concat();
    // What waits behind another session's RSA key waits long.
    let answer = connector.ask(&plain(Command::CreateSession, &data), USUAL)?;
    let answer = content(&answer, Command::CreateSession).map_err(|fault| match fault {
        Fault::Refused(Refusal::ObjectNotFound) => DeviceError::new(
            Class::NeedsLogin,
            format!(
                "the YubiHSM {} at {} has no {}: correct 'auth_key'; if it was there, the device was reset, and its keys are gone",
                device.serial,
                config.connector,
                config.who()
            ),
        )
        .into(),
        other => other,
    })?;
    let Some(beginning) = Beginning::new(key, challenge, answer) else {
        let text = format!(
            "the password of {} is not the one that the YubiHSM {} at {} knows: it was tried once and is not tried again; correct \
             'password_file'. If it was right before, the device was reset or exchanged",
            config.who(),
            device.serial,
            config.connector
        );
        return Err(DeviceError::new(Class::PinWrong, text).into());
    };
    let (message, channel) = beginning.authenticate();
    let answer = connector.ask(&message, USUAL)?;
    content(&answer, Command::AuthenticateSession)?;
    Ok(channel)
}

/// DEVICE INFO, which needs no session. Nobody vouches for it.
fn device(connector: &mut Connector) -> Result<Device, Fault> {
    let answer = connector.ask(&plain(Command::DeviceInfo, &[]), USUAL)?;
    match content(&answer, Command::DeviceInfo)? {
        [major, minor, patch, s0, s1, s2, s3, log_size, log_used, algorithms @ ..] => Ok(Device {
            version: [*major, *minor, *patch],
            serial: u32::from_be_bytes([*s0, *s1, *s2, *s3]),
            log_size: *log_size,
            log_used: *log_used,
            algorithms: algorithms.to_vec(),
        }),
        _ => Err(Fault::Garbled),
    }
}
