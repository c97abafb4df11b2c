//! `sys/storage/compact`: the store's file shrinks while the server serves.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value, parameters};

use super::System;
use crate::tx::Tx;

parameters! {
    pub struct Asked {
        /// The node of a cluster whose store is meant; the active one, if it is not given.
        node: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("storage/compact", "Give the store's unused room back to the file system.", |p| {
        let p = p.read(progress).prepared(Operation::Read, look);
        p.update(progress).prepared(Operation::Update, start).root_protected().describe(
            "A write begins it and answers at once, a read says how far it is. Meanwhile the server serves. The copy \
             takes as much room on the disk as what is stored, and is given up before that gets full. Each node of a \
             cluster has a file of its own: node says which one is meant.",
        )
    })
}

fn start(sys: &System, _: &mut Tx, _: &Call<'_>, p: Asked) -> Result<Option<Preparation>> {
    ask(sys, p, true)
}

fn look(sys: &System, _: &mut Tx, _: &Call<'_>, p: Asked) -> Result<Option<Preparation>> {
    ask(sys, p, false)
}

fn ask(sys: &System, p: Asked, begin: bool) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    Ok(Some(Box::pin(async move {
        let now = match p.node.filter(|node| !node.is_empty()) {
            Some(node) => core.compaction_of(&node, begin).await?,
            None if begin => core.compact()?,
            None => core.compaction(),
        };
        let now: Prepared = Arc::new(now);
        Ok(now)
    })))
}

fn progress(_: &System, _: &mut Tx, call: &Call<'_>, _: Asked) -> Result<Response> {
    let now = call.prepared.and_then(|p| p.downcast_ref::<Map<String, Value>>());
    Ok(Response::data(now.ok_or_else(|| Error::Internal("nothing was prepared".into()))?.clone()))
}
