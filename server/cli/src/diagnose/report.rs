//! What was looked at and what was found, as a tree that is printed or given as JSON.

use std::fmt::Write;

use holdfast_core::clock;
use serde_json::{Map, Value};

/// How it is. The worst one counts for what stands above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Skipped,
    Ok,
    Warn,
    Fail,
}

impl Status {
    fn shown(self) -> &'static str {
        match self {
            Status::Skipped => "skipped",
            Status::Ok => "success",
            Status::Warn => "warning",
            Status::Fail => "failure",
        }
    }

    /// As the reference's JSON has it.
    fn word(self) -> &'static str {
        match self {
            Status::Skipped => "invalid",
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Check {
    name: String,
    status: Status,
    message: String,
    /// What to do.
    advice: String,
    /// What was seen, for who asks for everything.
    seen: Vec<String>,
    time: String,
    children: Vec<Check>,
}

impl Check {
    fn new(name: &str, status: Status, message: impl Into<String>, advice: &str) -> Check {
        Check {
            name: name.to_owned(),
            status,
            message: message.into(),
            advice: advice.to_owned(),
            seen: Vec::new(),
            time: clock::now().rfc3339(),
            children: Vec::new(),
        }
    }

    pub fn ok(name: &str, message: impl Into<String>) -> Check {
        Check::new(name, Status::Ok, message, "")
    }

    pub fn warn(name: &str, message: impl Into<String>, advice: &str) -> Check {
        Check::new(name, Status::Warn, message, advice)
    }

    pub fn fail(name: &str, message: impl Into<String>, advice: &str) -> Check {
        Check::new(name, Status::Fail, message, advice)
    }

    pub fn skipped(name: &str, message: impl Into<String>) -> Check {
        Check::new(name, Status::Skipped, message, "")
    }

    /// Several that belong together.
    pub fn of(name: &str, children: Vec<Check>) -> Check {
        let worst = children.iter().map(|c| c.status).max().unwrap_or(Status::Skipped);
        Check { children, ..Check::new(name, worst, "", "") }
    }

    /// The same, which has failed after all.
    pub fn failing(self, message: impl Into<String>, advice: &str) -> Check {
        Check { status: Status::Fail, message: message.into(), advice: advice.to_owned(), ..self }
    }

    pub fn seen(mut self, what: impl Into<String>) -> Check {
        self.seen.push(what.into());
        self
    }

    pub fn status(&self) -> Status {
        self.status
    }

    /// The tree as people read it. `all`: with what was seen.
    pub fn tree(&self, colours: bool, all: bool) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, colours, all);
        out
    }

    fn write(&self, out: &mut String, depth: usize, colours: bool, all: bool) {
        let indent = "  ".repeat(depth);
        let (on, off) = match (colours, self.status) {
            (false, _) => ("", ""),
            (true, Status::Skipped) => ("\x1b[90m", "\x1b[0m"),
            (true, Status::Ok) => ("\x1b[32m", "\x1b[0m"),
            (true, Status::Warn) => ("\x1b[33m", "\x1b[0m"),
            (true, Status::Fail) => ("\x1b[31m", "\x1b[0m"),
        };
        let colon = if self.message.is_empty() { "" } else { ": " };
        // Writing into a text does not fail.
        let _ = writeln!(out, "{indent}{on}[ {} ]{off} {}{colon}{}", self.status.shown(), self.name, self.message);
        if !self.advice.is_empty() {
            let _ = writeln!(out, "{indent}    {}", self.advice);
        }
        if all {
            for line in &self.seen {
                let _ = writeln!(out, "{indent}    ({line})");
            }
        }
        for child in &self.children {
            child.write(out, depth + 1, colours, all);
        }
    }

    pub fn json(&self, all: bool) -> Value {
        let mut m = Map::new();
        let mut set = |name: &str, value: Value| {
            m.insert(name.into(), value);
        };
        set("time", self.time.clone().into());
        set("name", self.name.clone().into());
        set("status", self.status.word().into());
        match self.status {
            Status::Warn if !self.message.is_empty() => set("warnings", vec![self.message.clone()].into()),
            _ if !self.message.is_empty() => set("message", self.message.clone().into()),
            _ => {}
        }
        set("Advice", self.advice.clone().into());
        if all && !self.seen.is_empty() {
            set("seen", self.seen.clone().into());
        }
        if !self.children.is_empty() {
            set("children", self.children.iter().map(|c| c.json(all)).collect());
        }
        Value::Object(m)
    }
}
