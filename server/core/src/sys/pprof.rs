//! `sys/pprof`: profiles of this process, for who looks for where its time goes. What the reference's runtime has and this
//! program has not is said by name.

use std::sync::Arc;

use holdfast_sdk::{Body, Call, Error, Operation, Preparation, Prepared, Response, Result, Routes, parameters};

use super::System;
use crate::profile;
use crate::tx::Tx;

parameters! {
    pub struct Sampled {
        /// For how many seconds; 30 if it is left out, and 60 at most.
        seconds: Option<i64>,
    }
}

const USUAL_SECS: i64 = 30;
const TEXT: &str = "text/plain; charset=utf-8";

/// Kinds that are there.
const KINDS: [(&str, &str); 5] = [
    ("cmdline", "the command line, without what could be a secret"),
    ("goroutine", "threads, with their state and CPU time, as text"),
    ("heap", "memory by the kernel's count, as text"),
    ("profile", "CPU profile of ?seconds=30, pprof's protobuf (go tool pprof, speedscope)"),
    ("threadcreate", "the same as goroutine"),
];

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    let mut routes = routes.path("pprof", "Which profiles there are.", |p| p.read(other).root_protected()).path(
        "pprof/profile",
        "Where the process spends its CPU time.",
        |p| p.read(cpu).prepared(Operation::Read, sample).root_protected(),
    );
    for (path, about) in OTHERS {
        routes = routes.path(path, about, |p| p.read(other).root_protected());
    }
    // With a slash behind, as the reference has its index.
    routes.path("pprof/{kind...}", "Which profiles there are.", |p| p.read(other).root_protected())
}

/// Those beside the CPU profile, and what clients of the reference ask for and is none here.
const OTHERS: [(&str, &str); 9] = [
    ("pprof/allocs", "Not counted by this server."),
    ("pprof/block", "Not counted by this server."),
    ("pprof/cmdline", "The command line, without what could be a secret."),
    ("pprof/goroutine", "Threads, with their state and CPU time."),
    ("pprof/heap", "Memory by the kernel's count."),
    ("pprof/mutex", "Not counted by this server."),
    ("pprof/symbol", "Names are in the profiles already."),
    ("pprof/threadcreate", "Threads, with their state and CPU time."),
    ("pprof/trace", "Not counted by this server."),
];

fn raw(content_type: &str, bytes: Vec<u8>) -> Response {
    Response { body: Body::Raw { content_type: content_type.into(), bytes }, ..Response::default() }
}

fn index() -> Response {
    let lines: String = KINDS.iter().map(|(kind, about)| format!("sys/pprof/{kind}\t{about}\n")).collect();
    raw(TEXT, lines.into_bytes())
}

/// Time passes: not in a transaction.
fn sample(_: &System, _: &mut Tx, _: &Call<'_>, p: Sampled) -> Result<Option<Preparation>> {
    let seconds = p.seconds.unwrap_or(USUAL_SECS);
    let seconds = u64::try_from(seconds).ok().filter(|s| (1..=profile::LONGEST_SECS).contains(s)).ok_or_else(|| {
        Error::bad_request(format!("seconds is to be between 1 and {}, not {seconds}", profile::LONGEST_SECS))
    })?;
    Ok(Some(Box::pin(async move {
        let made: Prepared = Arc::new(profile::cpu(seconds).await?);
        Ok(made)
    })))
}

fn cpu(_: &System, _: &mut Tx, call: &Call<'_>, _: Sampled) -> Result<Response> {
    let made = call.prepared.and_then(|p| p.downcast_ref::<Vec<u8>>());
    Ok(raw("application/octet-stream", made.ok_or_else(|| Error::Internal("nothing was sampled".into()))?.clone()))
}

fn other(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    match call.path.trim_start_matches("pprof").trim_matches('/') {
        "" => Ok(index()),
        "cmdline" => Ok(raw(TEXT, profile::command_line().into_bytes())),
        "goroutine" | "threadcreate" => Ok(raw(TEXT, profile::threads()?.into_bytes())),
        "heap" => Ok(raw(TEXT, profile::memory()?.into_bytes())),
        // Go's clients ask which addresses mean what; names are in the profile already.
        "symbol" => Ok(raw(TEXT, b"num_symbols: 0\n".to_vec())),
        kind @ ("allocs" | "block" | "mutex" | "trace") => Err(Error::bad_request(format!(
            "no profile {kind:?}: this server is no Go program, and does not count that; there are cmdline, goroutine, heap, \
             profile and threadcreate"
        ))),
        _ => Err(Error::UnsupportedPath),
    }
}
