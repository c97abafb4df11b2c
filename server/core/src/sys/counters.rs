//! `sys/internal/counters/*`: how many tokens and entities there are.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Table};
use holdfast_storage::prefix_end;
use serde_json::json;

use super::System;
use crate::Core;
use crate::layout::{IDENTITY, Scope, TOKEN, TOKENS, identity};
use crate::tx::Tx;

/// Entries that one step of a count looks at.
const STEP: usize = 1000;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("internal/counters/tokens", "How many service tokens are stored.", |p| {
            p.read(tokens).prepared(Operation::Read, count_tokens)
        })
        .path("internal/counters/entities", "How many entities there are.", |p| {
            p.read(entities).prepared(Operation::Read, count_entities)
        })
        .path("internal/counters/requests", "Kept for clients; requests are counted in sys/metrics.", |p| {
            p.read(requests)
        })
}

/// Batch tokens are not stored; one that has ended counts until it is swept.
fn count_tokens(sys: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    count(sys, TOKENS.of(tx.namespace()), TOKEN)
}

fn count_entities(sys: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    count(sys, IDENTITY.of(tx.namespace()), identity::ENTITY)
}

fn count(sys: &System, scope: Scope, table: Table) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    Ok(Some(Box::pin(async move {
        let counted = tokio::task::spawn_blocking(move || core.stored(scope, table)).await;
        let counted: Prepared = Arc::new(counted.map_err(Error::internal)??);
        Ok(counted)
    })))
}

impl Core {
    /// The records of a table, counted by their keys: nothing is decrypted.
    fn stored(&self, scope: Scope, table: Table) -> Result<u64> {
        let view = self.store.view();
        let prefix = [&scope.prefix()[..], &[table.0]].concat();
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

fn total(call: &Call<'_>, of: &str) -> Result<Response> {
    let counted = call.prepared.and_then(|p| p.downcast_ref::<u64>());
    let counted = counted.ok_or_else(|| Error::Internal("nothing was counted".into()))?;
    let mut m = Map::new();
    m.insert("counters".into(), json!({of: {"total": counted}}));
    Ok(Response::data(m))
}

fn tokens(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    total(call, "service_tokens")
}

fn entities(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    total(call, "entities")
}

fn requests(_: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Err(Error::Status(404, vec!["The functionality has been removed on this path".into()]))
}
