//! `sys/loggers` and `sys/monitor`: the levels of the server's log, and reading along.

use holdfast_sdk::{Body, Call, Error, Map, Response, Result, Routes, Value, parameters};

use super::System;
use crate::log::{Format, Level, Log};
use crate::tx::Tx;

parameters! {
    pub struct Verbosity {
        /// trace, debug, info, warn or error.
        level: Option<String>,
    }
}
parameters! {
    pub struct Followed {
        /// From which level on lines are sent; info if it is left out.
        log_level: Option<String>,
        /// standard or json.
        log_format: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("loggers", "From which level on all loggers of this node log.", |p| {
            p.read(all).update(set_all).delete(reset_all)
        })
        .path("loggers/{name}", "From which level on a logger of this node logs.", |p| {
            p.read(one).update(set_one).delete(reset_one)
        })
        .path("monitor", "Follow the log of this node.", |p| p.read(monitor))
}

fn levels(log: &Log, wanted: impl Fn(&str) -> bool) -> Response {
    let shown: Map<String, Value> = log
        .levels()
        .filter(|(name, _)| wanted(name))
        .map(|(name, level)| (name.to_owned(), level.word().into()))
        .collect();
    Response::data(shown)
}

fn all(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(levels(&sys.core()?.log, |_| true))
}

/// Of a logger that is not there, nothing.
fn one(sys: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    Ok(levels(&sys.core()?.log, |name| name == call.capture("name")))
}

fn set(sys: &System, logger: Option<&str>, level: Option<Level>) -> Result<Response> {
    let log = &sys.core()?.log;
    log.set_level(logger, level).map_err(|e| Error::bad_request(e.to_string()))?;
    Ok(Response::empty())
}

fn level(p: &Verbosity) -> Result<Level> {
    let text = p.level.as_deref().ok_or_else(|| Error::bad_request("level is required"))?;
    if text.is_empty() {
        return Err(Error::bad_request("level is empty"));
    }
    Level::parse(text).ok_or_else(|| Error::bad_request(format!("invalid level provided: unknown log level: {text}")))
}

fn set_all(sys: &System, _: &mut Tx, _: &Call<'_>, p: Verbosity) -> Result<Response> {
    set(sys, None, Some(level(&p)?))
}

fn set_one(sys: &System, _: &mut Tx, call: &Call<'_>, p: Verbosity) -> Result<Response> {
    set(sys, Some(call.capture("name")), Some(level(&p)?))
}

fn reset_all(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    set(sys, None, None)
}

fn reset_one(sys: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    set(sys, Some(call.capture("name")), None)
}

/// The answer goes on until the client hangs up, the server is sealed or stops.
fn monitor(sys: &System, _: &mut Tx, _: &Call<'_>, p: Followed) -> Result<Response> {
    let level = match p.log_level.as_deref() {
        None | Some("") => Level::Info,
        Some(text) => Level::parse(text).ok_or_else(|| Error::bad_request("unknown log level"))?,
    };
    let format = Format::parse(p.log_format.as_deref().unwrap_or(""));
    let format = format.ok_or_else(|| Error::bad_request("unknown log format"))?;
    let watch = sys.core()?.log.watch(level, format).map_err(|e| Error::Unavailable(e.to_string()))?;
    let content_type = "text/plain; charset=utf-8".to_owned();
    Ok(Response { body: Body::Stream { content_type, chunks: Box::new(watch) }, ..Response::default() })
}
