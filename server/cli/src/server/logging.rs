//! The server's log, on stderr.

use std::sync::Arc;

use holdfast_config::{LogFormat, LogLevel};
use holdfast_core::log::{Format, Level, Log};

/// Start logging.
pub fn start(level: LogLevel, format: LogFormat) -> Arc<Log> {
    let level = match level {
        LogLevel::Trace => Level::Trace,
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warn,
        LogLevel::Error => Level::Error,
    };
    let format = match format {
        LogFormat::Json => Format::Json,
        LogFormat::Standard => Format::Standard,
    };
    let log = Log::new(level, format);
    if let Err(e) = log.start() {
        eprintln!("the log cannot be started: {e}");
    }
    log
}
