//! The loggers: which parts of the program log under which name, and from which level on.

use std::sync::atomic::{AtomicU8, Ordering};

/// Name, and the modules that log under it; a module belongs to the longest path that it starts with.
const LOGGERS: &[(&str, &[&str])] = &[
    ("audit", &["holdfast_core::audit"]),
    // All that is nobody else's.
    ("core", &[""]),
    ("expiration", &["holdfast_core::expiry", "holdfast_core::background"]),
    ("http", &["holdfast_http", "hyper", "h2", "rustls"]),
    ("identity", &["holdfast_core::identity"]),
    ("jobs", &["holdfast_core::jobs"]),
    ("policy", &["holdfast_core::policies", "holdfast_policy"]),
    (
        "seals",
        &[
            "holdfast_core::seal_state",
            "holdfast_core::init",
            "holdfast_core::ceremony",
            "holdfast_seal",
            "holdfast_hsm",
        ],
    ),
    ("secrets.kv", &["holdfast_kv"]),
    ("storage", &["holdfast_storage"]),
    ("system", &["holdfast_core::sys"]),
    ("token", &["holdfast_core::tokens"]),
];

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    const ALL: [Level; 5] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];

    /// Reads a level as the API names it, in any case.
    pub fn parse(text: &str) -> Option<Level> {
        match text.trim().to_ascii_lowercase().as_str() {
            "trace" => Some(Level::Trace),
            "debug" => Some(Level::Debug),
            "info" | "notice" => Some(Level::Info),
            "warn" | "warning" => Some(Level::Warn),
            "error" | "err" => Some(Level::Error),
            _ => None,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }

    pub(super) fn of(level: tracing::Level) -> Level {
        match level {
            tracing::Level::TRACE => Level::Trace,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::INFO => Level::Info,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::ERROR => Level::Error,
        }
    }

    fn from_number(n: u8) -> Level {
        Level::ALL.get(usize::from(n)).copied().unwrap_or(Level::Info)
    }
}

/// There is no logger of that name.
#[derive(Debug, thiserror::Error)]
#[error("logger {0:?} not found")]
pub struct LoggerError(pub String);

/// The level of each logger.
pub(super) struct Loggers {
    configured: Level,
    levels: [AtomicU8; LOGGERS.len()],
}

impl Loggers {
    pub fn new(configured: Level) -> Loggers {
        Loggers { configured, levels: std::array::from_fn(|_| AtomicU8::new(configured as u8)) }
    }

    /// The logger of a module.
    pub fn of(module: &str) -> usize {
        let length = |paths: &[&str]| paths.iter().filter(|p| module.starts_with(**p)).map(|p| p.len() + 1).max();
        let by_length = LOGGERS.iter().enumerate().filter_map(|(i, (_, paths))| Some((length(paths)?, i)));
        by_length.max().map_or(0, |(_, i)| i)
    }

    pub fn name(logger: usize) -> &'static str {
        LOGGERS.get(logger).map_or("core", |(name, _)| name)
    }

    pub fn level(&self, logger: usize) -> Level {
        self.levels.get(logger).map_or(self.configured, |l| Level::from_number(l.load(Ordering::Relaxed)))
    }

    pub fn levels(&self) -> impl Iterator<Item = (&'static str, Level)> + '_ {
        LOGGERS.iter().enumerate().map(|(i, (name, _))| (*name, self.level(i)))
    }

    pub fn set(&self, logger: Option<&str>, level: Option<Level>) -> Result<(), LoggerError> {
        let level = level.unwrap_or(self.configured) as u8;
        let mut found = false;
        for ((name, _), at) in LOGGERS.iter().zip(&self.levels) {
            if logger.is_none_or(|l| l == *name) {
                at.store(level, Ordering::Relaxed);
                found = true;
            }
        }
        if found { Ok(()) } else { Err(LoggerError(logger.unwrap_or("").to_owned())) }
    }
}
