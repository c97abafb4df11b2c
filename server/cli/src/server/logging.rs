//! The server's log, on the standard error or in a file.

use std::sync::Arc;

use holdfast_config::{LogFormat, LogLevel, LogSettings};
use holdfast_core::log::{Format, Level, Log, LogFile, Rotation};

/// Start logging.
pub fn start(settings: &LogSettings) -> Result<Arc<Log>, String> {
    let level = match settings.level {
        LogLevel::Trace => Level::Trace,
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warn,
        LogLevel::Error => Level::Error,
    };
    let format = match settings.format {
        LogFormat::Json => Format::Json,
        LogFormat::Standard => Format::Standard,
    };
    let file = settings.file.as_ref().map(|path| {
        let rotation = Rotation {
            bytes: settings.rotate_bytes,
            age: Some(settings.rotate_duration),
            keep: settings.rotate_max_files,
        };
        LogFile::open(path, rotation).map_err(|e| format!("log_file {}: {e}", path.display()))
    });
    let log = Log::to(level, format, file.transpose()?);
    if let Err(e) = log.start() {
        eprintln!("the log cannot be started: {e}");
    }
    Ok(log)
}
