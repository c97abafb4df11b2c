//! `sys/internal/counters/*`: how many tokens and entities there are.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value};
use holdfast_storage::prefix_end;
use serde_json::json;

use super::System;
use crate::Core;
use crate::layout::{TOKEN, TOKENS};
use crate::tx::Tx;

/// Entries that one step of a count looks at.
const STEP: usize = 1000;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("internal/counters/tokens", "How many service tokens are stored.", |p| {
            p.read(tokens).prepared(Operation::Read, count_tokens)
        })
        .path("internal/counters/entities", "How many entities there are.", |p| p.read(entities))
        .path("internal/counters/requests", "Kept for clients; requests are counted in sys/metrics.", |p| {
            p.read(requests)
        })
}

/// Batch tokens are not stored; one that has ended counts until it is swept.
fn count_tokens(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    Ok(Some(Box::pin(async move {
        let counted = tokio::task::spawn_blocking(move || core.stored_tokens()).await.map_err(Error::internal)??;
        let counted: Prepared = Arc::new(counted);
        Ok(counted)
    })))
}

impl Core {
    /// Counted by their keys: nothing is decrypted.
    fn stored_tokens(&self) -> Result<u64> {
        let view = self.store.view();
        let prefix = [&TOKENS.prefix()[..], &[TOKEN.0]].concat();
        let end = prefix_end(&prefix);
        let (mut start, mut counted) = (prefix, 0);
        loop {
            let step = view.range(&start, end.as_deref(), STEP).map_err(Error::internal)?;
            counted += step.len() as u64;
            match step.last() {
                Some((last, _)) if step.len() == STEP => start = [last, &[0][..]].concat(),
                _ => return Ok(counted),
            }
        }
    }
}

fn total(of: &str, total: u64) -> Map<String, Value> {
    let mut m = Map::new();
    m.insert("counters".into(), json!({of: {"total": total}}));
    m
}

fn tokens(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let counted = call.prepared.and_then(|p| p.downcast_ref::<u64>());
    let counted = counted.ok_or_else(|| Error::Internal("the tokens were not counted".into()))?;
    Ok(Response::data(total("service_tokens", *counted)))
}

/// Nothing makes entities yet.
fn entities(_: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::data(total("entities", 0)))
}

fn requests(_: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Err(Error::Status(404, vec!["The functionality has been removed on this path".into()]))
}
