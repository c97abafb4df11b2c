//! One audit device: how its lines look, and where they go.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::file::FileDevice;
use super::line::{self, Hasher};
use super::options::{DeviceConfig, Target};
use super::remote::{Peer, Remote};
use super::sealing::Sealing;
use super::{Appended, Broker, Disk, Figures, Spooled, count};

/// What audit devices may be.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `unsafe_allow_api_audit_creation`: `true` lets the API make any, `false` none.
    pub api_creation: Option<bool>,
    /// `allow_audit_log_prefixing`
    pub prefixes: bool,
    /// `audit_directories`: where the API may put files, unless it may put them anywhere.
    pub directories: Arc<[PathBuf]>,
}

impl Default for Rules {
    fn default() -> Rules {
        let usual = ["/var/log/vault", "/var/log/openbao", "/var/log/holdfast"];
        Rules { api_creation: None, prefixes: false, directories: usual.into_iter().map(PathBuf::from).collect() }
    }
}

impl Rules {
    /// Whether the API may make devices at all.
    pub fn check_creation(&self) -> Result<(), String> {
        match self.api_creation {
            Some(false) => {
                Err("cannot enable audit device via API (unsafe_allow_api_audit_creation is false); use declarative, \
                 config-based audit device management instead"
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with a device as it is described.
    pub fn check(&self, config: &DeviceConfig) -> Result<(), String> {
        let prefixed = config.option("prefix").is_some_and(|p| !p.is_empty());
        if prefixed && !self.prefixes {
            return Err("audit log prefixing is not allowed: set allow_audit_log_prefixing = true to allow it".into());
        }
        config.shape()?;
        config.spool()?;
        config.target().map(drop)
    }

    fn within(&self) -> Option<Arc<[PathBuf]>> {
        (self.api_creation != Some(true)).then(|| self.directories.clone())
    }
}

pub struct Device {
    /// Never that of another device of this broker.
    pub number: u64,
    /// Of a device that is stored. None: it is declared.
    pub uuid: Option<[u8; 16]>,
    pub config: DeviceConfig,
    pub hasher: Hasher,
    prefix: String,
    sink: Sink,
    pub figures: Arc<Figures>,
    /// Something is done with its file that may take its time.
    aside: Arc<tokio::sync::Mutex<()>>,
}

/// How long what is done with a file beside its lines is waited for.
const ASIDE_WITHIN: Duration = Duration::from_secs(2);

enum Sink {
    File(FileSink),
    Remote(Remote),
}

type FileSink = Arc<FileDevice>;

impl Device {
    /// Open a device. With `test` it must work, and has had a test line if its options do not say otherwise;
    /// without it, one that does not work is there and refuses lines until it does.
    pub async fn open(
        broker: &Broker,
        rules: &Rules,
        config: DeviceConfig,
        (uuid, salt, sealing): (Option<[u8; 16]>, &str, Sealing),
        test: bool,
    ) -> Result<Arc<Device>, String> {
        let shape = config.shape()?;
        let hasher = Hasher::new(salt, &shape);
        let (target, prefix) = (config.target()?, shape.prefix);
        let figures = broker.totals.of(&config.path);
        let tests = test && !config.skips_test();
        let test_line = {
            let mut out = Vec::new();
            line::test_line(&prefix, &mut out);
            out
        };
        let sink = match target {
            Target::File(target) => {
                let within = uuid.and_then(|_| rules.within());
                let made = FileDevice::new(target, within, (prefix.clone(), sealing, figures.clone()))?;
                Sink::File(open_file(made, &figures, test, tests.then_some(&test_line))?)
            }
            other => {
                let Some(mut peer) = Peer::of(other)? else { return Err("an unknown target".into()) };
                if tests && let Err(e) = peer.send(&test_line).await {
                    return Err(format!("audit backend failed test message: {}", e.text));
                }
                Sink::Remote(match config.spool()? {
                    None => Remote::start(peer, figures.clone()),
                    Some(spool) => {
                        let within = uuid.and_then(|_| rules.within());
                        Remote::start_spooled(peer, (spool, within), figures.clone(), test).await?
                    }
                })
            }
        };
        Ok(Arc::new(Device {
            number: broker.number(),
            uuid,
            config,
            hasher,
            prefix,
            sink,
            figures,
            aside: Arc::default(),
        }))
    }

    pub fn prefix(&self) -> &[u8] {
        self.prefix.as_bytes()
    }

    pub fn is_remote(&self) -> bool {
        matches!(self.sink, Sink::Remote(_))
    }

    /// Append lines. None: they were refused.
    pub fn append(&self, lines: &[u8], writes: bool, urgent: bool) -> Option<Appended> {
        match &self.sink {
            Sink::File(file) => self.taken_by_file(file.append(lines, writes), lines),
            Sink::Remote(remote) => self.queued(remote, lines, urgent),
        }
    }

    /// The same for lines that only an answer waits for: those of other requests may join them.
    pub fn append_together(&self, lines: &[u8], urgent: bool) -> Option<Appended> {
        match &self.sink {
            Sink::File(file) => self.taken_by_file(file.append_together(lines, &self.figures), lines),
            Sink::Remote(remote) => self.queued(remote, lines, urgent),
        }
    }

    fn taken_by_file(&self, written: std::io::Result<Appended>, lines: &[u8]) -> Option<Appended> {
        match written {
            Ok(Appended::Done) => {
                self.figures.took(count(lines));
                Some(Appended::Done)
            }
            // Whoever tells the receiver counts them.
            Ok(other) => Some(other),
            Err(e) => {
                self.figures.refused(&e);
                None
            }
        }
    }

    fn queued(&self, remote: &Remote, lines: &[u8], urgent: bool) -> Option<Appended> {
        match remote.append(lines, urgent) {
            Ok(receiver) => Some(Appended::Remote(receiver)),
            Err(e) => {
                self.figures.refused(&e);
                None
            }
        }
    }

    /// Do something with its file that waits for the disk, on a thread where that holds up nobody, one thing at a time.
    /// Done or not, the caller goes on after two seconds.
    pub async fn aside<R: Send + 'static>(
        self: &Arc<Self>,
        what: impl FnOnce(&Device) -> R + Send + 'static,
    ) -> Option<R> {
        let Ok(turn) = tokio::time::timeout(ASIDE_WITHIN, self.aside.clone().lock_owned()).await else {
            self.figures.refused(&"what is done with its file does not come back: its disk may be away");
            return None;
        };
        let device = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _until_it_is_done = turn;
            what(&device)
        });
        tokio::time::timeout(ASIDE_WITHIN, done).await.ok()?.ok()
    }

    /// Open its file again.
    pub fn reopen(&self) {
        if let Sink::File(file) = &self.sink
            && let Err(e) = file.reopen()
        {
            self.figures.refused(&e);
        }
    }

    pub(super) fn file(&self) -> Option<&FileDevice> {
        match &self.sink {
            Sink::File(file) => Some(file),
            Sink::Remote(_) => None,
        }
    }

    /// Seal all that its file has.
    pub fn seal(&self) {
        if let Some(file) = self.file()
            && let Err(e) = file.seal(true)
        {
            self.figures.refused(&e);
        }
    }

    pub(super) fn sealing(&self) -> Option<&Sealing> {
        self.file().map(FileDevice::sealing)
    }

    /// How full the disk is that its lines are written to: a file's, or a spool's.
    pub fn disk(&self) -> Option<Disk> {
        match &self.sink {
            Sink::File(file) => file.disk(),
            Sink::Remote(remote) => remote.disk(),
        }
    }

    pub fn waiting_bytes(&self) -> usize {
        self.waiting().1
    }

    /// How its spool does, if it has one.
    pub fn spooled(&self) -> Option<Spooled> {
        match &self.sink {
            Sink::File(_) => None,
            Sink::Remote(remote) => remote.spooled(),
        }
    }

    /// Writes that wait to be sent, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        match &self.sink {
            Sink::File(file) => file.waiting(),
            Sink::Remote(remote) => remote.waiting(),
        }
    }
}

fn open_file(
    file: FileDevice,
    figures: &Figures,
    must_work: bool,
    test_line: Option<&Vec<u8>>,
) -> Result<FileSink, String> {
    match file.reopen() {
        Ok(()) => {}
        Err(e) if must_work => return Err(e.to_string()),
        Err(e) => figures.refused(&e),
    }
    let file = Arc::new(file);
    // Standard output shows no test.
    if let Some(line) = test_line.filter(|_| !file.is_stdout()) {
        file.append(line, true).map_err(|e| format!("audit backend failed test message: {e}"))?;
    }
    Ok(file)
}
