//! `sys/seal/rewrap`, `sys/seal/plan`: the locks of several seals, brought in line with the configuration.

use std::sync::Arc;

use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value};

use super::System;
use crate::tx::Tx;

pub fn routes(mut routes: Routes<System, Tx>) -> Routes<System, Tx> {
    // The second is the reference's.
    for path in ["seal/rewrap", "sealwrap/rewrap"] {
        routes = routes.path(path, "Wrap the root key anew by each seal.", |p| {
            p.read(progress).update(begun).prepared(Operation::Update, begin).root_protected().describe(
                "Each seal of the configuration, on each node, gets a lock around the root key; locks whose seal is gone are \
                 taken away, with a new root key. It goes on in the background.",
            )
        });
    }
    routes.path("seal/plan", "Try the seals that the configuration names by now.", |p| {
        p.update(planned).prepared(Operation::Update, plan).root_protected().describe(
            "Each node reads its configuration again, tries each seal's device, and says what would become of the locks. \
             Nothing is changed.",
        )
    })
}

fn progress(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::data(sys.core()?.rewrapping().shown()))
}

fn begin(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    Ok(Some(Box::pin(async move {
        let begun: Prepared = Arc::new(core.begin_rewrap()?.shown());
        Ok(begun)
    })))
}

fn plan(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    Ok(Some(Box::pin(async move {
        let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
        let planned: Prepared = Arc::new(core.plan_seals(&open).await?);
        Ok(planned)
    })))
}

fn prepared(call: &Call<'_>) -> Result<Response> {
    let made = call.prepared.and_then(|p| p.downcast_ref::<Map<String, Value>>());
    made.map(|m| Response::data(m.clone())).ok_or_else(|| Error::Internal("nothing was prepared".into()))
}

fn begun(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    prepared(call)
}

fn planned(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    prepared(call)
}
