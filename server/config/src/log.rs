//! The server's own log.

use std::path::PathBuf;
use std::time::Duration;

use crate::listener::set;
use crate::stanza::Stanza;
use crate::{ConfigError, ConfigErrorKind, Offer, Warning};

/// What is logged, how and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// From which level on.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
    /// Into which file; `None`: the standard error.
    pub file: Option<PathBuf>,
    /// When the file is this large, another is begun; `None`: never.
    pub rotate_bytes: Option<u64>,
    /// When the file is this old, another is begun.
    pub rotate_duration: Duration,
    /// How many old files are kept; `None`: all.
    pub rotate_max_files: Option<u64>,
}

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// For finding faults.
    Debug,
    /// What happens.
    Info,
    /// What may become a fault.
    Warn,
    /// What failed.
    Error,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Standard,
    /// One JSON object.
    Json,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            level: LogLevel::Info,
            format: LogFormat::Standard,
            file: None,
            rotate_bytes: None,
            rotate_duration: Duration::from_secs(86_400),
            rotate_max_files: None,
        }
    }
}

impl LogLevel {
    /// Reads a level as flags, files and variables name it.
    pub fn parse(text: &str) -> Option<LogLevel> {
        match text.to_ascii_lowercase().as_str() {
            "trace" => Some(LogLevel::Trace),
            "debug" => Some(LogLevel::Debug),
            "info" | "notice" => Some(LogLevel::Info),
            "warn" | "warning" => Some(LogLevel::Warn),
            "error" | "err" => Some(LogLevel::Error),
            _ => None,
        }
    }
}

impl LogFormat {
    /// Reads a form as flags, files and variables name it.
    pub fn parse(text: &str) -> Option<LogFormat> {
        match text.to_ascii_lowercase().as_str() {
            "standard" => Some(LogFormat::Standard),
            "json" => Some(LogFormat::Json),
            _ => None,
        }
    }
}

const LEVELS: &str = "one of trace, debug, info, warn, error";
const FORMATS: &str = "one of standard, json";

/// Reads the keys of one file.
pub(crate) fn read(s: &mut Stanza<'_>, log: &mut LogSettings, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    if let Some(text) = s.text("log_level")? {
        log.level = LogLevel::parse(&text).ok_or_else(|| s.wrong("log_level", &text, LEVELS))?;
    }
    if let Some(text) = s.text("log_format")? {
        log.format = LogFormat::parse(&text).ok_or_else(|| s.wrong("log_format", &text, FORMATS))?;
    }
    if let Some(file) = s.path("log_file")? {
        log.file = Some(file);
    }
    if let Some(bytes) = s.number("log_rotate_bytes")? {
        log.rotate_bytes = (bytes > 0).then_some(bytes);
    }
    set(&mut log.rotate_duration, crate::listener::positive(s, "log_rotate_duration")?);
    if let Some(files) = s.number("log_rotate_max_files")? {
        log.rotate_max_files = (files > 0).then_some(files);
    }
    s.ignored(&["log_requests_level"], "requests are written down by the audit devices", warnings);
    Ok(())
}

/// Takes what the environment has, which counts more than the files.
pub(crate) fn environment(log: &mut LogSettings, offer: &Offer<'_>) -> Result<(), ConfigError> {
    let wrong = |name: String, expected: &str| {
        let expected = expected.to_owned();
        ConfigError::without_place(ConfigErrorKind::Environment { name, expected })
    };
    if let Some((name, text)) = offer.variable("LOG_LEVEL") {
        log.level = LogLevel::parse(&text).ok_or_else(|| wrong(name, LEVELS))?;
    }
    if let Some((name, text)) = offer.variable("LOG_FORMAT") {
        log.format = LogFormat::parse(&text).ok_or_else(|| wrong(name, FORMATS))?;
    }
    Ok(())
}
