//! The server's log, on stderr.

use holdfast_config::{LogFormat, LogLevel};
use tracing_subscriber::filter::LevelFilter;

/// Start logging.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    let started = match format {
        LogFormat::Json => builder.json().with_ansi(false).try_init(),
        LogFormat::Standard => builder.with_ansi(false).try_init(),
    };
    if let Err(e) = started {
        eprintln!("the log cannot be started: {e}");
    }
}
