//! The server's own log: levels that an operator changes while the server runs, and clients that read along.
//!
//! Every line goes to the standard error or a file, if its logger's level lets it, and to each [`Watch`] by the watch's
//! own level. A line never holds a secret; that is the duty of whoever writes it.

mod file;
mod line;
mod loggers;
mod watch;

pub use file::{LogFile, Rotation};
pub use loggers::{Level, LoggerError};
pub use watch::{TooManyWatches, Watch};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::clock;
use loggers::Loggers;
use watch::Watches;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text for people: `TIME [LEVEL] LOGGER: MESSAGE: KEY=VALUE`.
    Standard,
    /// A JSON object: `@timestamp @level @module @message`, and the keys.
    Json,
}

impl Format {
    /// Reads a form as the API names it.
    pub fn parse(text: &str) -> Option<Format> {
        match text {
            "" | "standard" => Some(Format::Standard),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

/// The log of a server.
pub struct Log {
    loggers: Loggers,
    format: Format,
    /// `None`: the standard error.
    file: Option<LogFile>,
    watches: Mutex<Watches>,
}

impl Log {
    /// A log whose loggers begin, and are set back to, at `level`.
    pub fn new(level: Level, format: Format) -> Arc<Log> {
        Log::to(level, format, None)
    }

    /// The same into a file.
    pub fn to(level: Level, format: Format, file: Option<LogFile>) -> Arc<Log> {
        Arc::new(Log { loggers: Loggers::new(level), format, file, watches: Mutex::new(Watches::default()) })
    }

    /// Open the file anew, if the log has one: it may have been moved away.
    pub fn reopen(&self) {
        if let Some(file) = &self.file {
            file.reopen();
        }
    }

    /// From now on every line of this process goes through this log.
    pub fn start(self: &Arc<Log>) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Lines(self.clone())))
    }

    /// All loggers, by name, and their levels.
    pub fn levels(&self) -> impl Iterator<Item = (&'static str, Level)> + '_ {
        self.loggers.levels()
    }

    /// Change a logger's level, or all; without a level, back to the one that was configured.
    pub fn set_level(&self, logger: Option<&str>, level: Option<Level>) -> Result<(), LoggerError> {
        self.loggers.set(logger, level)?;
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    /// Read along from `level` on.
    pub fn watch(&self, level: Level, format: Format) -> Result<Watch, TooManyWatches> {
        let watch = self.watches().add(level, format)?;
        tracing::callsite::rebuild_interest_cache();
        Ok(watch)
    }

    /// End all that read along.
    pub fn end_watches(&self) {
        self.watches().clear();
        tracing::callsite::rebuild_interest_cache();
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The least important line of a module that anybody wants.
    fn wanted(&self, module: &str) -> Level {
        let own = self.loggers.level(Loggers::of(module));
        let wanted = self.watches().least().map_or(own, |w| w.min(own));
        // Libraries trace what passes through them: secrets, and each line on its way to a watch.
        match module {
            m if m.starts_with("holdfast") => wanted,
            // It tells every step that it takes.
            m if m.starts_with("openraft") => wanted.max(Level::Warn),
            _ => wanted.max(Level::Info),
        }
    }
}

/// The log as `tracing` speaks to it.
struct Lines(Arc<Log>);

impl<S: Subscriber> Layer<S> for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked once for each place that logs, and again whenever a level changes.
        let wanted = self.0.wanted(metadata.target());
        if Level::of(*metadata.level()) >= wanted { Interest::always() } else { Interest::never() }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let log = &self.0;
        let logger = Loggers::of(event.metadata().target());
        let line = line::Line::new(clock::now(), Loggers::name(logger), event);
        if line.level >= log.loggers.level(logger) {
            let text = line.text(log.format);
            match &log.file {
                Some(file) => file.write(&text),
                None => file::say(&text),
            }
        }
        log.watches().pass(&line);
    }
}

#[cfg(test)]
mod tests;
