//! Devices that the configuration names: keys of engines and of the server itself are in them.
//!
//! A [`Device`] is one of them, behind its helper process. Whatever is asked of it goes through [`Device::run`], which bounds
//! how much is asked at once and how long it is waited for, and knows whether the device is there. A device that was away
//! is found again by that alone: its helper opens it anew. [`bench`] measures it, [`trial`] tries what it says that it does.

pub mod bench;
mod breaker;
mod health;
mod pace;
pub mod trial;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, DeviceInfo, KeyRef};
use holdfast_sdk::Error;
use tokio::sync::{Notify, Semaphore};

pub use self::health::Health;

use self::breaker::{Breaker, Way};
use self::health::Figures;
use self::pace::Pace;
use crate::managed_keys::Seen;

/// Calls at a time; a helper carries out half of them, so that it never waits for the next one. Each has a thread.
const AT_ONCE: usize = 8;
/// Calls that wait for their turn. More are refused.
const WAITING: usize = 256;
/// How long a call waits for its turn, and for a device that went away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two calls to a device that is busy: at first, doubled up to a second.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How long it is believed that a key is still the one that was found.
const BELIEVED: Duration = Duration::from_secs(60);
/// Keys that are remembered.
const KEYS: usize = 256;

/// A device as the configuration declares it.
pub struct Declared {
    pub name: String,
    /// `pkcs11`, `tpm`, `yubihsm`, `software`.
    pub kind: &'static str,
    /// The client, or why there is none yet: a PIN that cannot be read.
    pub client: Result<DeviceClient, String>,
    pub token_label: Option<String>,
    pub slot: Option<u64>,
    /// Paths of namespaces beside the root whose managed keys may be in it, without a slash at their end.
    pub namespaces: Vec<String>,
}

/// Whether a call may be made again when it is not known whether it was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    Safe,
    Never,
}

/// What a call that goes well says of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proves {
    Well,
    /// It needs no login: a device whose PIN is wrong answers it too.
    Nothing,
}

/// All devices of the configuration.
#[derive(Default)]
pub struct Devices(ArcSwap<Vec<Arc<Device>>>);

impl Devices {
    pub fn new(declared: Vec<Declared>) -> Devices {
        let devices = Devices::default();
        devices.declare(declared);
        devices
    }

    /// What the configuration says by now. A device that stays keeps what is known of it.
    pub fn declare(&self, declared: Vec<Declared>) {
        let before = self.0.load_full();
        let kept = |declared: Declared| {
            let same = before.iter().find(|d| d.name == declared.name && d.declared().kind == declared.kind);
            match same {
                Some(device) => {
                    device.take(declared);
                    device.clone()
                }
                None => Arc::new(Device::new(declared)),
            }
        };
        self.0.store(Arc::new(declared.into_iter().map(kept).collect()));
    }

    pub fn all(&self) -> Arc<Vec<Arc<Device>>> {
        self.0.load_full()
    }

    pub fn get(&self, name: &str) -> Option<Arc<Device>> {
        self.0.load().iter().find(|d| d.name == name).cloned()
    }

    /// Log out of all and end their helpers, as sealing does. The next call opens a device anew.
    pub fn log_out(&self) {
        for device in self.all().iter() {
            if let Ok(client) = &device.declared().client {
                client.log_out();
            }
            device.era.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The device of that name, or a refusal that names those that there are.
    pub fn named(&self, name: &str) -> Result<Arc<Device>, Error> {
        self.get(name).ok_or_else(|| {
            let all = self.all();
            let names: Vec<&str> = all.iter().map(|d| d.name.as_str()).collect();
            let there_are = if names.is_empty() { "it names none".to_owned() } else { names.join(", ") };
            Error::bad_request(format!("no device {name:?} is in the server's configuration; there are: {there_are}"))
        })
    }
}

/// One device.
pub struct Device {
    pub name: String,
    declared: ArcSwap<Declared>,
    breaker: Mutex<Breaker>,
    /// Woken when a call has ended that the breaker learned from.
    learned: Notify,
    turns: Semaphore,
    waiting: AtomicUsize,
    /// Rises when the device went away or was declared anew: what was known of its keys is not known any more.
    era: AtomicUsize,
    /// It was declared anew, and nobody has looked at it since.
    is_new: AtomicBool,
    info: Mutex<Option<(usize, Arc<DeviceInfo>)>>,
    /// Keys that were looked at, with the era and the time of it.
    keys: Mutex<HashMap<KeyRef, (usize, Instant, Arc<Seen>)>>,
    figures: Figures,
    pace: Pace,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

impl Device {
    fn new(declared: Declared) -> Device {
        Device {
            name: declared.name.clone(),
            declared: ArcSwap::from_pointee(declared),
            breaker: Mutex::default(),
            learned: Notify::new(),
            turns: Semaphore::new(AT_ONCE),
            waiting: AtomicUsize::new(0),
            era: AtomicUsize::new(0),
            is_new: AtomicBool::new(true),
            info: Mutex::default(),
            keys: Mutex::default(),
            figures: Figures::default(),
            pace: Pace::default(),
        }
    }

    fn take(&self, declared: Declared) {
        self.declared.store(Arc::new(declared));
        self.era.fetch_add(1, Ordering::Relaxed);
        self.is_new.store(true, Ordering::Relaxed);
    }

    pub fn declared(&self) -> Arc<Declared> {
        self.declared.load_full()
    }

    /// Another number since the device went away, or was declared anew.
    pub fn era(&self) -> usize {
        self.era.load(Ordering::Relaxed)
    }

    /// What it is and can do, as it said in this era.
    pub async fn info(self: &Arc<Self>) -> Result<Arc<DeviceInfo>, DeviceError> {
        let era = self.era();
        let known = lock(&self.info).as_ref().filter(|(of, _)| *of == era).map(|(_, info)| info.clone());
        if let Some(info) = known {
            return Ok(info);
        }
        let info = Arc::new(self.ask(Repeat::Safe, Proves::Nothing, DeviceClient::info).await?);
        *lock(&self.info) = Some((era, info.clone()));
        Ok(info)
    }

    /// A key as it was found a moment ago.
    pub fn known_key(&self, key: &KeyRef) -> Option<Arc<Seen>> {
        let keys = lock(&self.keys);
        let (era, at, seen) = keys.get(key)?;
        (*era == self.era() && at.elapsed() < BELIEVED).then(|| seen.clone())
    }

    /// A key was found, when it was this era.
    pub fn note_key(&self, key: KeyRef, era: usize, seen: Arc<Seen>) {
        let mut keys = lock(&self.keys);
        if keys.len() >= KEYS {
            keys.clear();
        }
        keys.insert(key, (era, Instant::now(), seen));
    }

    pub fn forget_key(&self, key: &KeyRef) {
        lock(&self.keys).remove(key);
    }

    /// Ask the device something. The future may be dropped; what was sent to the device is carried out then all the same.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        repeat: Repeat,
        act: impl Fn(&DeviceClient) -> Result<T, DeviceError> + Send + Sync + 'static,
    ) -> Result<T, DeviceError> {
        self.ask(repeat, Proves::Well, act).await
    }

    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        repeat: Repeat,
        proves: Proves,
        act: impl Fn(&DeviceClient) -> Result<T, DeviceError> + Send + Sync + 'static,
    ) -> Result<T, DeviceError> {
        let _waits = Waits::begin(self)?;
        let act = Arc::new(act);
        let deadline = Instant::now() + PATIENCE;
        let mut pause = BUSY_PAUSE;
        loop {
            let turn = tokio::time::timeout_at(deadline.into(), self.turns.acquire());
            let turn = turn.await.map_err(|_| self.busy())?.map_err(|_| self.busy())?;
            let now = Instant::now();
            let learned = self.learned.notified();
            let way = lock(&self.breaker).enter(now);
            let tries = match way {
                Way::Go => false,
                Way::Try => true,
                Way::Refused(error) => {
                    self.figures.refused.add(1);
                    return Err(self.away(&error));
                }
                Way::Wait(until) => {
                    // Others may be in the middle of what this one waits for.
                    drop(turn);
                    if now >= deadline {
                        self.figures.refused.add(1);
                        return Err(self.away_too_long());
                    }
                    tokio::select! {
                        () = tokio::time::sleep_until(until.min(deadline).into()) => {}
                        () = learned => {}
                    }
                    continue;
                }
            };
            let trying = Trying { device: self, tries, ended: false };
            let result = self.once(proves, act.clone()).await;
            trying.ended(result.as_ref().err());
            drop(turn);
            let Err(error) = result else { return result };
            if repeat == Repeat::Never || Instant::now() + pause >= deadline {
                return Err(error);
            }
            match error.class {
                // The breaker says when to go on.
                _ if breaker::is_away(&error) => {}
                Class::Busy => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                _ => return Err(error),
            }
        }
    }

    async fn once<T: Send + 'static>(
        self: &Arc<Self>,
        proves: Proves,
        act: Arc<impl Fn(&DeviceClient) -> Result<T, DeviceError> + Send + Sync + 'static>,
    ) -> Result<T, DeviceError> {
        let declared = self.declared();
        let device = self.clone();
        let asks = move || {
            let (result, took) = device.pace.times(|| match &declared.client {
                Ok(client) => act(client),
                Err(why) => Err(DeviceError::config(why.clone())),
            });
            device.figures.note(&device.name, proves, took, result.as_ref().err());
            result
        };
        self.pace.carry_out(asks).await.unwrap_or_else(|panicked| Err(DeviceError::new(Class::Failed, panicked)))
    }

    fn busy(&self) -> DeviceError {
        let text = format!("device '{}' has more to do than it can: tried again later", self.name);
        DeviceError::new(Class::Busy, text)
    }

    fn away(&self, error: &DeviceError) -> DeviceError {
        let text = format!("device '{}' is away, and is tried again in a moment: {}", self.name, error.text);
        DeviceError::new(error.class, text)
    }

    fn away_too_long(&self) -> DeviceError {
        let health = self.health();
        let why = health.trouble.map_or_else(String::new, |(_, why)| format!(": {why}"));
        let text = format!("device '{}' did not come back within {} s{why}", self.name, PATIENCE.as_secs());
        DeviceError::new(Class::Gone, text)
    }
}

/// A call in [`Device::run`], for as long as it is there.
struct Waits<'d>(&'d Device);

impl<'d> Waits<'d> {
    fn begin(device: &'d Device) -> Result<Waits<'d>, DeviceError> {
        let waits = Waits(device);
        if device.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            device.figures.refused.add(1);
            return Err(device.busy());
        }
        Ok(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that is at the device.
struct Trying<'d> {
    device: &'d Device,
    tries: bool,
    ended: bool,
}

impl Trying<'_> {
    fn ended(mut self, failed: Option<&DeviceError>) {
        self.ended = true;
        let mut breaker = lock(&self.device.breaker);
        let was_away = breaker.is_open();
        breaker.note(Instant::now(), failed, self.tries);
        if !was_away && breaker.is_open() {
            self.device.era.fetch_add(1, Ordering::Relaxed);
        }
        drop(breaker);
        self.device.learned.notify_waiters();
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if !self.ended && self.tries {
            lock(&self.device.breaker).give_up();
            self.device.learned.notify_waiters();
        }
    }
}

/// A device's refusal as a client is told.
pub fn refusal(error: DeviceError) -> Error {
    match error.class {
        Class::Unsupported | Class::Invalid | Class::KeyMissing | Class::Tampered => Error::bad_request(error.text),
        Class::Failed => Error::Internal(error.text),
        // It may be well again by itself, or when an operator has mended it.
        _ => Error::Unavailable(error.text),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
