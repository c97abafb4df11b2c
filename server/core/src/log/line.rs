//! A line of the log, in the forms that readers of Vault's log know.

use std::fmt::{Debug, Write};

use holdfast_sdk::{Map, Timestamp, Value};
use tracing::Event;
use tracing::field::{Field, Visit};

use super::{Format, Level};

/// What one line says.
pub(super) struct Line {
    pub level: Level,
    time: Timestamp,
    logger: &'static str,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    pub fn new(time: Timestamp, logger: &'static str, event: &Event<'_>) -> Line {
        let level = Level::of(*event.metadata().level());
        let mut line = Line { level, time, logger, message: String::new(), fields: Vec::new() };
        event.record(&mut line);
        line
    }

    /// With its line end. Whatever the line tells about, it is one line.
    pub fn text(&self, format: Format) -> String {
        match format {
            Format::Standard => self.standard(),
            Format::Json => self.json(),
        }
    }

    fn standard(&self) -> String {
        let mark = match self.level {
            Level::Trace => "[TRACE]",
            Level::Debug => "[DEBUG]",
            Level::Info => "[INFO] ",
            Level::Warn => "[WARN] ",
            Level::Error => "[ERROR]",
        };
        let mut text = format!("{} {mark} {}: ", self.time.rfc3339_millis(), self.logger);
        printable(&self.message, &mut text);
        for (i, (name, value)) in self.fields.iter().enumerate() {
            text.push_str(if i == 0 { ": " } else { " " });
            text.push_str(name);
            text.push('=');
            match value {
                Value::String(s) if s.is_empty() || s.contains([' ', '"', '=']) || s.contains(char::is_control) => {
                    let _cannot_fail = write!(text, "{}", Value::from(s.as_str()));
                }
                Value::String(s) => text.push_str(s),
                other => {
                    let _cannot_fail = write!(text, "{other}");
                }
            }
        }
        text.push('\n');
        text
    }

    fn json(&self) -> String {
        let mut m = Map::new();
        m.insert("@level".into(), self.level.word().into());
        m.insert("@message".into(), self.message.as_str().into());
        m.insert("@module".into(), self.logger.into());
        m.insert("@timestamp".into(), self.time.rfc3339().into());
        m.extend(self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        format!("{}\n", Value::Object(m))
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

/// Nothing that a line tells about begins a line of its own.
fn printable(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}
