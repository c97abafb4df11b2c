//! `sys/intents/*` and `sys/clock*`: what operators see and decide of acts outside and of time.

use holdfast_sdk::{Call, Map, Response, Result, Routes, Value};

use super::System;
use crate::intents;
use crate::tx::Tx;

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("intents", "What is being made outside, or is to be undone.", |p| p.read(list).list(list))
        .path("intents/{id}", "Forget what is to be undone outside.", |p| {
            p.delete(forget).root_protected().describe(
                "Whoever forgets an intent has looked at the target and removed what it names. The clean-up of a \
                 disabled mount waits for its intents.",
            )
        })
        .path("intents/{id}/retry", "Undo it now.", |p| p.update(retry).root_protected())
        .path("clock", "Wall clock, boot time and cluster time.", |p| p.read(clock))
        .path("clock/confirm", "Say that the wall clock is right.", |p| {
            p.update(confirm).root_protected().describe(
                "When the wall clock jumps by more than five seconds against the time since the boot, nothing is \
                 ended in bulk until the clock is put right, is confirmed here, or was steady for ten minutes.",
            )
        })
}

/// Intents as `sys/jobs` and `sys/intents` show them.
pub fn intents_shown(tx: &mut Tx) -> Result<Value> {
    let all = intents::list(tx, intents::LISTED)?;
    Ok(all.iter().map(|(key, intent)| Value::Object(intents::shown(key, intent))).collect::<Vec<_>>().into())
}

fn list(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mut m = Map::new();
    let keys: Vec<String> = intents::list(tx, intents::LISTED)?.iter().map(|(key, _)| key.id()).collect();
    m.insert("keys".into(), keys.into());
    m.insert("intents".into(), intents_shown(tx)?);
    Ok(Response::data(m))
}

fn forget(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    intents::forget(tx, call.capture("id"))?;
    Ok(Response::empty())
}

fn retry(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let core = sys.core()?;
    intents::retry(tx, call.capture("id"), core.clock.cluster())?;
    core.intent_due.notify_one();
    Ok(Response::empty())
}

fn clock(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let shown = sys.core()?.clock.shown();
    let mut m = Map::new();
    m.insert("cluster_time".into(), shown.cluster.rfc3339().into());
    m.insert("wall_time".into(), shown.wall.rfc3339().into());
    m.insert("boot_secs".into(), shown.boot.as_secs().into());
    m.insert("expiry_paused".into(), shown.apart.is_some().into());
    if let Some((ahead, since, steady)) = shown.apart {
        m.insert("apart_secs".into(), ahead.into());
        m.insert("apart_since".into(), since.rfc3339().into());
        m.insert("steady_secs".into(), steady.as_secs().into());
    }
    Ok(Response::data(m))
}

/// It changes this server's mind, not the store: that time goes on is committed with what follows.
fn confirm(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let core = sys.core()?;
    if core.clock.confirm() {
        core.job_stored.notify_one();
    }
    Ok(Response::empty())
}
