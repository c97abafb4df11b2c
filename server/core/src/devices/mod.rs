//! Devices that the configuration names: keys of engines and of the server itself are in them.
//!
//! A [`Device`] is one of them, behind its helper process. Whatever is asked of it goes through [`Device::run`], which bounds
//! how much is asked at once and how long it is waited for, and knows whether the device is there. A device that was away
//! is found again by that alone: its helper opens it anew. [`bench`] measures it, [`trial`] tries what it says that it does.

pub mod bench;
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

pub use self::health::Health;

use self::pace::Pace;
use crate::calls::{Calls, PATIENCE, Turn, Unasked};
use crate::managed_keys::Seen;

/// Calls at a time; a helper carries out half of them, so that it never waits for the next one. Each has a thread.
const AT_ONCE: usize = 8;
/// Whether a device that is away is back is tried no more seldom than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
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
pub struct Devices {
    all: ArcSwap<Vec<Arc<Device>>>,
    /// Of a cluster, in which each has its own devices by the same names.
    node: Option<String>,
}

impl Devices {
    pub fn new(declared: Vec<Declared>, node: Option<&str>) -> Devices {
        let devices = Devices { all: ArcSwap::default(), node: node.map(str::to_owned) };
        devices.declare(declared);
        devices
    }

    /// What the configuration says by now. A device that stays keeps what is known of it.
    pub fn declare(&self, declared: Vec<Declared>) {
        let before = self.all.load_full();
        let kept = |declared: Declared| {
            let same = before.iter().find(|d| d.name == declared.name && d.declared().kind == declared.kind);
            match same {
                Some(device) => {
                    device.take(declared);
                    device.clone()
                }
                None => Arc::new(Device::new(declared, self.node.clone())),
            }
        };
        self.all.store(Arc::new(declared.into_iter().map(kept).collect()));
    }

    pub fn all(&self) -> Arc<Vec<Arc<Device>>> {
        self.all.load_full()
    }

    pub fn get(&self, name: &str) -> Option<Arc<Device>> {
        self.all.load().iter().find(|d| d.name == name).cloned()
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
            let whose = self.node.as_ref().map_or("the server".to_owned(), |node| format!("node {node}"));
            Error::bad_request(format!("no device {name:?} is in {whose}'s configuration; there are: {there_are}"))
        })
    }
}

/// One device.
pub struct Device {
    pub name: String,
    node: Option<String>,
    declared: ArcSwap<Declared>,
    calls: Arc<Calls<DeviceError>>,
    /// Rises when the device went away or was declared anew: what was known of its keys is not known any more.
    era: AtomicUsize,
    /// It was declared anew, and nobody has looked at it since.
    is_new: AtomicBool,
    info: Mutex<Option<(usize, Arc<DeviceInfo>)>>,
    /// Keys that were looked at, with the era and the time of it.
    keys: Mutex<HashMap<KeyRef, (usize, Instant, Arc<Seen>)>>,
    health: Mutex<Health>,
    pace: Pace,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

impl Device {
    fn new(declared: Declared, node: Option<String>) -> Device {
        Device {
            name: declared.name.clone(),
            node,
            declared: ArcSwap::from_pointee(declared),
            calls: Calls::new(AT_ONCE, LONGEST_PAUSE),
            era: AtomicUsize::new(0),
            is_new: AtomicBool::new(true),
            info: Mutex::default(),
            keys: Mutex::default(),
            health: Mutex::default(),
            pace: Pace::default(),
        }
    }

    fn take(&self, declared: Declared) {
        self.declared.store(Arc::new(declared));
        self.era.fetch_add(1, Ordering::Relaxed);
        self.is_new.store(true, Ordering::Relaxed);
    }

    /// As errors name it: in a cluster with the node whose it is.
    pub fn shown(&self) -> String {
        match &self.node {
            Some(node) => format!("'{}' of node {node}", self.name),
            None => format!("'{}'", self.name),
        }
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
        let act = Arc::new(act);
        let deadline = Instant::now() + PATIENCE;
        let mut pause = BUSY_PAUSE;
        loop {
            let turn = self.calls.enter(deadline).await.map_err(|why| self.unasked(why))?;
            let result = self.once(turn, proves, act.clone()).await;
            let Err(error) = result else { return result };
            if repeat == Repeat::Never || Instant::now() + pause >= deadline {
                return Err(error);
            }
            match error.class {
                // The next turn comes when it is known to be back, or is this call's to try.
                class if class.is_away() => {}
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
        turn: Turn<DeviceError>,
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
            let failed = result.as_ref().err();
            device.note(proves, took, failed);
            // What it has answered tells that it is there.
            if turn.ended(failed.filter(|error| error.class.is_away())) {
                device.era.fetch_add(1, Ordering::Relaxed);
            }
            result
        };
        self.pace.carry_out(asks).await.unwrap_or_else(|panicked| Err(DeviceError::new(Class::Failed, panicked)))
    }

    fn unasked(&self, why: Unasked<DeviceError>) -> DeviceError {
        match why {
            Unasked::Crowded | Unasked::Busy => {
                let text = format!("device {} has more to do than it can: tried again later", self.shown());
                DeviceError::new(Class::Busy, text)
            }
            Unasked::Away(absence) => {
                let (secs, error) = (absence.since.elapsed().as_secs(), absence.error);
                let text = format!(
                    "device {} is away for {secs} s, and is tried again in a moment: {}",
                    self.shown(),
                    error.text
                );
                DeviceError::new(error.class, text)
            }
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
