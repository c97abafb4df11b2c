//! `sys/storage/compact`: the store's file shrinks while the server serves.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value};
use holdfast_storage::{CompactError, CompactionInfo, Phase};

use super::System;
use crate::tx::Tx;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("storage/compact", "Give the store's unused room back to the file system.", |p| {
        p.read(progress).update(progress).prepared(Operation::Update, start).root_protected().describe(
            "A write begins it and answers at once, a read says how far it is. Meanwhile the server serves. The copy \
             takes as much room on the disk as what is stored, and is given up before that gets full.",
        )
    })
}

fn start(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    Ok(Some(Box::pin(async move {
        core.store.start_compaction().map_err(refused)?;
        let nothing: Prepared = Arc::new(());
        Ok(nothing)
    })))
}

fn refused(e: CompactError) -> Error {
    match e {
        CompactError::InMemory | CompactError::Running => Error::bad_request(e.to_string()),
        CompactError::Closed => Error::Unavailable(e.to_string()),
        other => Error::Internal(other.to_string()),
    }
}

fn progress(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::data(shown(&sys.core()?.store.compaction())))
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::None => "none",
        Phase::Copying => "copying",
        Phase::Finishing => "finishing",
        Phase::Done => "done",
        Phase::Failed => "failed",
    }
}

fn shown(info: &CompactionInfo) -> Map<String, Value> {
    let mut m = Map::new();
    m.insert("phase".into(), word(info.phase).into());
    m.insert("entries".into(), info.entries.into());
    m.insert("entries_copied".into(), info.entries_copied.into());
    m.insert("bytes_before".into(), info.bytes_before.into());
    m.insert("bytes_after".into(), info.bytes_after.into());
    m.insert("took_ms".into(), u64::try_from(info.took.as_millis()).unwrap_or(u64::MAX).into());
    m.insert("error".into(), info.error.clone().map_or(Value::Null, Value::from));
    m
}
