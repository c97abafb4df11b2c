//! The audit log: a line before a request is handled, and one before it is answered.
//!
//! With one or more devices at least one must have accepted a line, or the request fails; with
//! none there is no audit. Devices are declared in the configuration, or made by the API and stored ([`table`]).

mod device;
mod figures;
mod file;
mod line;
mod log_file;
mod opening;
mod options;
mod own;
mod passing;
mod remote;
pub(crate) mod sealing;
pub(crate) mod signing;
mod spool;
mod stream;
mod syncer;
pub(crate) mod table;
pub(crate) mod untold;
pub(crate) mod watch;

pub use device::{Device, Rules};
pub use figures::{Disk, Figures, Totals};
pub use line::{AuthFacts, Hasher, KnownToken, RequestFacts, TokenFacts};
pub use options::{DeviceConfig, Kind};
pub(crate) use own::Act;
pub use signing::SigningKey;
pub use spool::Spooled;
pub(crate) use untold::Batch;

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use holdfast_sdk::{Error, Response, Result, Timestamp};
use memchr::memchr_iter;
use tokio::sync::oneshot;

use self::line::Common;
use crate::metrics::Times;

/// All devices of an unsealed server.
#[derive(Default)]
pub struct Broker {
    devices: ArcSwap<Devices>,
    /// The number of the next device: none is given twice, so that what was made for one is never used for another.
    next: AtomicU64,
    /// Devices that were tested and are about to be stored.
    tested: Mutex<Vec<Weak<Device>>>,
    /// What the server did by itself and no device has taken yet.
    untold: untold::Untold,
    /// See [`Totals`].
    totals: Arc<Totals>,
    /// One change of the devices at a time.
    changing: tokio::sync::Mutex<()>,
}

pub type Devices = Vec<Arc<Device>>;

/// What is to be waited for until a line counts as accepted.
pub struct Pending {
    accepted: bool,
    /// Files that promise the line to be on the disk: one of them is waited for, unless none keeps its promise in time.
    synced: Vec<oneshot::Receiver<bool>>,
    /// Files that are about to have it: these are waited for, since they are as fast as memory is.
    local: Vec<oneshot::Receiver<bool>>,
    /// Others: one is enough, where no file has accepted the line.
    remote: Vec<oneshot::Receiver<bool>>,
}

impl Pending {
    /// No device of this machine has the line: whether another one accepts it is to be seen before anything is done.
    pub fn is_on_its_way(&self) -> bool {
        !self.accepted && self.local.is_empty() && self.synced.is_empty()
    }
}

/// Nothing was written, and nobody has to accept it.
impl Default for Pending {
    fn default() -> Pending {
        Pending { accepted: true, synced: Vec::new(), local: Vec::new(), remote: Vec::new() }
    }
}

/// Both lines of a usual request.
const LINES_BYTES: usize = 4096;
/// How long a sync is waited for where another device has the line. A disk that takes longer is waited for no more
/// until it is ready.
const SYNC_WITHIN: Duration = Duration::from_secs(2);
/// The same of a write. Who waits for its turn to write gives up sooner.
const LOCAL_WITHIN: Duration = Duration::from_secs(3);
/// How long what is still to be sent is waited for when the server is sealed.
const DRAIN: Duration = Duration::from_secs(2);

impl Broker {
    /// Without devices.
    pub fn new(totals: Arc<Totals>) -> Broker {
        Broker { totals, ..Broker::default() }
    }

    /// The devices of this moment.
    pub fn devices(&self) -> Arc<Devices> {
        self.devices.load_full()
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// What the lines of one request tell.
    pub fn entry<'a>(&'a self, facts: &'a AuthFacts, about: &'a RequestFacts<'a>) -> Entry<'a> {
        let devices = self.devices();
        let common = devices.iter().map(|device| Common::of(device, facts, about)).collect();
        Entry { broker: self, devices, common, facts, about }
    }

    /// A token as each device's lines show it.
    pub fn known(&self, facts: TokenFacts) -> KnownToken {
        KnownToken::new(self.devices.load().iter().map(|device| &**device), facts)
    }

    /// Close and open the files again, after a rotation.
    pub async fn reopen(&self) {
        for device in self.devices().iter() {
            device.aside(Device::reopen).await;
        }
    }

    /// Acts of the server whose lines no device has taken yet.
    pub fn kept_late(&self) -> usize {
        self.untold.count()
    }

    /// Seal what the files have.
    pub async fn seal(&self) {
        for device in self.devices().iter().filter(|device| !device.is_remote()) {
            device.aside(Device::seal).await;
        }
    }

    /// Wait for a moment until remote devices have what they were given.
    pub async fn drain(&self) {
        drain(self.devices()).await;
    }

    /// A device that was tested is to be taken for the one that is stored with its UUID.
    pub fn is_tested(&self, device: &Arc<Device>) {
        let mut tested = self.tested.lock().unwrap_or_else(PoisonError::into_inner);
        tested.retain(|d| d.strong_count() > 0);
        tested.push(Arc::downgrade(device));
    }

    fn tested(&self, uuid: &[u8; 16]) -> Option<Arc<Device>> {
        let tested = self.tested.lock().unwrap_or_else(PoisonError::into_inner);
        tested.iter().filter_map(Weak::upgrade).find(|device| device.uuid.as_ref() == Some(uuid))
    }
}

/// Wait for a moment until remote devices have what they were given.
pub async fn drain(devices: Arc<Devices>) {
    let sent = async {
        while devices.iter().any(|device| device.waiting_bytes() > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _others_are_lost = tokio::time::timeout(DRAIN, sent).await;
}

/// The lines of one request.
pub struct Entry<'a> {
    broker: &'a Broker,
    /// That there were when the request came.
    devices: Arc<Devices>,
    /// What both lines have, for each of them.
    common: Vec<Common>,
    facts: &'a AuthFacts,
    about: &'a RequestFacts<'a>,
}

impl Entry<'_> {
    /// The line before the request is handled.
    pub fn request(&self, writes: bool, now: Timestamp, error: Option<&Error>) -> Result<Pending> {
        let line = |device: &Device, out: &mut Vec<u8>| self.request_line(device, now, error, out);
        let _timed = Timed(Instant::now(), &self.broker.totals.requests);
        write(&self.devices, line, |device, lines, urgent| device.append(lines, writes, urgent))
    }

    /// The line before the request is answered, to those devices that there are by now. Those of other requests may
    /// join it.
    pub fn response(&self, now: Timestamp, answer: Result<&Response, &Error>) -> Result<Pending> {
        let line = |device: &Device, out: &mut Vec<u8>| self.response_line(device, now, answer, out);
        let _timed = Timed(Instant::now(), &self.broker.totals.responses);
        write(&self.broker.devices.load(), line, Device::append_together)
    }

    /// Both lines of a request that has done nothing.
    pub fn both(
        &self,
        (asked, answered): (Timestamp, Timestamp),
        error: Option<&Error>,
        answer: Result<&Response, &Error>,
    ) -> Result<Pending> {
        let lines = |device: &Device, out: &mut Vec<u8>| {
            self.request_line(device, asked, error, out);
            self.response_line(device, answered, answer, out);
        };
        let start = Instant::now();
        let written = write(&self.devices, lines, Device::append_together);
        let took = start.elapsed();
        self.broker.totals.requests.took(took);
        self.broker.totals.responses.took(took);
        written
    }

    fn request_line(&self, device: &Device, now: Timestamp, error: Option<&Error>, out: &mut Vec<u8>) {
        line::request_line(device, now, &self.common(device), self.about, error, out);
    }

    fn response_line(&self, device: &Device, now: Timestamp, answer: Result<&Response, &Error>, out: &mut Vec<u8>) {
        line::response_line(device, now, &self.common(device), (self.facts, self.about), answer, out);
    }

    /// For a device, which may have been made since the request came.
    fn common(&self, device: &Device) -> Cow<'_, Common> {
        match self.devices.iter().position(|d| d.number == device.number).and_then(|at| self.common.get(at)) {
            Some(common) => Cow::Borrowed(common),
            None => Cow::Owned(Common::of(device, self.facts, self.about)),
        }
    }
}

/// Takes the time until it is dropped.
struct Timed<'t>(Instant, &'t Times);

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.1.since(self.0);
    }
}

/// Write lines to every device. `make` makes them as the device shows them.
fn write(
    devices: &Devices,
    make: impl Fn(&Device, &mut Vec<u8>),
    append: impl Fn(&Device, &[u8], bool) -> Option<Appended>,
) -> Result<Pending> {
    if devices.is_empty() {
        return Ok(Pending::default());
    }
    let mut pending = Pending { accepted: false, ..Pending::default() };
    let mut some = false;
    let mut buffer = Vec::with_capacity(LINES_BYTES);
    // Files first: what one of them has need not wait for others.
    for device in devices.iter().filter(|d| !d.is_remote()).chain(devices.iter().filter(|d| d.is_remote())) {
        buffer.clear();
        make(device, &mut buffer);
        match append(device, &buffer, !some) {
            Some(Appended::Done) => (pending.accepted, some) = (true, true),
            Some(Appended::Synced(receiver)) => {
                pending.synced.push(receiver);
                some = true;
            }
            Some(Appended::Local(receiver)) => {
                pending.local.push(receiver);
                some = true;
            }
            Some(Appended::Remote(receiver)) => pending.remote.push(receiver),
            None => {}
        }
    }
    if pending.is_on_its_way() && pending.remote.is_empty() { Err(refused()) } else { Ok(pending) }
}

/// How many lines these are.
fn count(lines: &[u8]) -> usize {
    memchr_iter(b'\n', lines).count()
}

/// What became of lines at a device that did not refuse them.
pub enum Appended {
    Done,
    /// They are written, and will be synced as the device promises.
    Synced(oneshot::Receiver<bool>),
    /// They will be written at once.
    Local(oneshot::Receiver<bool>),
    /// They will be sent, or be there when whoever is slow lets them.
    Remote(oneshot::Receiver<bool>),
}

/// Nobody took the line: the request is not carried out, or its answer not given.
pub fn refused() -> Error {
    Error::Status(500, vec!["internal error".into()])
}

/// Wait until a device has done all that it promised: one that syncs has synced, where there is one. Only when each of
/// these has failed, or none was ready in time, is the word of another enough: a slow disk is not to stop the server
/// while another device has the line.
pub async fn accepted(mut pending: Pending) -> Result<()> {
    let others = pending.accepted || pending.local.len() + pending.synced.len() + pending.remote.len() > 1;
    for local in std::mem::take(&mut pending.local) {
        pending.accepted |= match others {
            false => local.await.unwrap_or(false),
            // Whoever writes there may not come back.
            true => tokio::time::timeout(LOCAL_WITHIN, local).await.is_ok_and(|written| written.unwrap_or(false)),
        };
    }
    if !pending.synced.is_empty() {
        let others = pending.accepted || !pending.remote.is_empty();
        let synced = first_of(&mut pending.synced);
        let done = match others {
            false => synced.await,
            true => tokio::time::timeout(SYNC_WITHIN, synced).await.unwrap_or(false),
        };
        if done {
            return Ok(());
        }
    }
    if pending.accepted {
        return Ok(());
    }
    let mut waiting = pending.remote;
    // These may still be ready before the others are.
    waiting.append(&mut pending.synced);
    if first_of(&mut waiting).await { Ok(()) } else { Err(refused()) }
}

/// Whether one of them says yes, as soon as one does. Those that have said nothing yet are left.
async fn first_of(waiting: &mut Vec<oneshot::Receiver<bool>>) -> bool {
    poll_fn(|cx| {
        let mut yes = false;
        waiting.retain_mut(|receiver| match Pin::new(receiver).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(sent) => {
                yes |= sent.unwrap_or(false);
                false
            }
        });
        match (yes, waiting.is_empty()) {
            (true, _) => Poll::Ready(true),
            (false, true) => Poll::Ready(false),
            (false, false) => Poll::Pending,
        }
    })
    .await
}
