//! `sys/rotate/root` and `sys/rotate/recovery`: new shares, and a new root key.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_hsm::memory::Secret;
use holdfast_sdk::parameters::Names;
use holdfast_sdk::{
    Call, Error, Map, Operation, Parameters, Preparation, Prepared, Response, Result, Routes, Value, parameters,
};

use super::System;
use crate::Core;
use crate::ceremony::{self, Asked, Outcome, Progress, Target};
use crate::layout::{NamespaceId, ROOT};
use crate::tx::Tx;

parameters! {
    pub struct Wanted {
        /// How many new shares are made.
        secret_shares: Option<i64>,
        /// How many of them are needed.
        secret_threshold: Option<i64>,
        /// OpenPGP public keys in base64 that the shares are encrypted to, in order.
        pgp_keys: Option<Names>,
        /// Keep the encrypted shares on the server.
        backup: Option<bool>,
        /// The new shares count when they were given back.
        require_verification: Option<bool>,
    }
}
parameters! {
    pub struct Given {
        /// A share.
        key: Option<String>,
        /// The number of the rotation.
        nonce: Option<String>,
    }
}

pub fn routes(mut routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes = routes.path("rotate/root", "Make a new root key under the present locks.", |p| {
        p.update(replaced).prepared(Operation::Update, replace).root_protected()
    });
    for target in ["root", "recovery"] {
        let at = |what: &str| format!("rotate/{target}/{what}");
        routes = routes
            .path(&at("init"), "Make new shares: begin, look, or give up.", |p| {
                p.read(status)
                    .update(begun::<Wanted>)
                    .prepared(Operation::Update, begin)
                    .delete(done)
                    .prepared(Operation::Delete, cancel)
            })
            .path(&at("update"), "Give a present share.", |p| {
                p.update(begun::<Given>).prepared(Operation::Update, give)
            })
            .path(&at("verify"), "Give a new share back.", |p| {
                p.read(verification)
                    .update(begun::<Given>)
                    .prepared(Operation::Update, verify)
                    .delete(begun::<()>)
                    .prepared(Operation::Delete, restart)
            })
            .path(&at("backup"), KEPT, |p| p.read(backup).delete(forget_backup));
    }
    for old in ["rekey/backup", "rekey/recovery-key-backup"] {
        routes = routes.path(old, KEPT, |p| p.read(backup).delete(forget_backup));
    }
    routes
}

const KEPT: &str = "The encrypted shares that the server keeps.";

fn target(path: &str) -> Target {
    if path.contains("/recovery") { Target::Recovery } else { Target::Root }
}

/// An answer that was made before the transaction.
fn prepared(answer: Map<String, Value>, warnings: Vec<String>) -> Prepared {
    Arc::new((answer, warnings))
}

/// Answers what was prepared.
fn begun<P: Parameters>(_: &System, _: &mut Tx, call: &Call<'_>, _: P) -> Result<Response> {
    let made = call.prepared.and_then(|p| p.downcast_ref::<(Map<String, Value>, Vec<String>)>());
    let (answer, warnings) = made.ok_or_else(|| Error::Internal("nothing was prepared".into()))?;
    Ok(warnings.iter().fold(Response::data(answer.clone()), |response, text| response.warn(text.clone())))
}

/// Nothing, or which seals have not wrapped the new key.
fn replaced(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let made = call.prepared.and_then(|p| p.downcast_ref::<(Map<String, Value>, Vec<String>)>());
    match made {
        Some((_, left)) if !left.is_empty() => {
            let mut m = Map::new();
            m.insert("seals_left".into(), left.clone().into());
            Ok(left.iter().fold(Response::data(m), |response, text| response.warn(text.clone())))
        }
        _ => Ok(Response::empty()),
    }
}

fn done(_: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::empty())
}

fn replace(sys: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let (core, of) = (sys.core()?, tx.namespace());
    Ok(Some(Box::pin(async move {
        let changed = core.replace_root_key(of).await?;
        match changed.doubt {
            None => Ok(prepared(Map::new(), changed.left)),
            Some(why) => Err(Error::Unavailable(why)),
        }
    })))
}

fn begin(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Wanted) -> Result<Option<Preparation>> {
    let (core, of, target) = (sys.core()?, tx.namespace(), target(&call.request.path));
    let asked = Asked {
        shares: p.secret_shares.unwrap_or(0),
        threshold: p.secret_threshold.unwrap_or(0),
        pgp_keys: p.pgp_keys.unwrap_or_default().0,
        backup: p.backup.unwrap_or(false),
        verify: p.require_verification.unwrap_or(false),
    };
    let sudo = call.caller.sudo;
    Ok(Some(Box::pin(async move { Ok(answer(core.begin_rotation(of, target, &asked, sudo).await?, shown)) })))
}

fn cancel(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let (core, of, target) = (sys.core()?, tx.namespace(), target(&call.request.path));
    Ok(Some(Box::pin(async move {
        core.cancel_rotation(of, target).await?;
        Ok(prepared(Map::new(), Vec::new()))
    })))
}

/// The nonce and the share of a request; without a rotation they do not matter.
fn given(core: &Core, of: NamespaceId, target: Target, p: Given) -> Result<(String, Secret<Vec<u8>>)> {
    if core.rotation(of, target)?.0.is_none() {
        return Err(Error::bad_request("no rotation in progress"));
    }
    let missing = |name: &str| Error::bad_request(format!("missing required field '{name}'"));
    let key = p.key.filter(|k| !k.is_empty()).ok_or_else(|| missing("key"))?;
    let nonce = p.nonce.filter(|n| !n.is_empty()).ok_or_else(|| missing("nonce"))?;
    let share = ceremony::share(&key);
    Ok((nonce, share.ok_or_else(|| Error::bad_request("'key' must be a valid hex or base64 string"))?))
}

fn give(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Given) -> Result<Option<Preparation>> {
    let (core, of, target) = (sys.core()?, tx.namespace(), target(&call.request.path));
    let (nonce, share) = given(&core, of, target, p)?;
    Ok(Some(Box::pin(async move { Ok(answer(core.give_rotation_share(of, target, &nonce, share).await?, shown)) })))
}

fn verify(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Given) -> Result<Option<Preparation>> {
    let (core, of, target) = (sys.core()?, tx.namespace(), target(&call.request.path));
    let (nonce, share) = given(&core, of, target, p)?;
    Ok(Some(Box::pin(async move {
        Ok(answer(core.verify_rotation_share(of, target, &nonce, share).await?, verification_shown))
    })))
}

fn restart(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let (core, of, target) = (sys.core()?, tx.namespace(), target(&call.request.path));
    Ok(Some(Box::pin(async move {
        Ok(prepared(verification_shown(&core.restart_verification(of, target).await?), Vec::new()))
    })))
}

fn answer(outcome: Outcome, more: fn(&Progress) -> Map<String, Value>) -> Prepared {
    match outcome {
        Outcome::More(progress) => prepared(more(&progress), Vec::new()),
        Outcome::Complete { progress, keys, warnings } => prepared(complete(&progress, &keys), warnings),
        Outcome::Verified { nonce, warnings } => {
            let mut m = Map::new();
            m.insert("complete".into(), true.into());
            m.insert("nonce".into(), nonce.into());
            prepared(m, warnings)
        }
    }
}

/// A rotation that is under way.
fn shown(p: &Progress) -> Map<String, Value> {
    let mut m = Map::new();
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    set("n", p.shares.into());
    set("nonce", p.nonce.clone().into());
    set("progress", p.given.into());
    set("required", p.required.into());
    set("started", true.into());
    set("t", p.threshold.into());
    set("verification_nonce", p.verification_nonce.clone().into());
    set("verification_required", p.verify.into());
    if !p.fingerprints.is_empty() {
        set("pgp_fingerprints", p.fingerprints.clone().into());
        set("backup", p.backup.into());
    }
    m
}

/// What came out, in the forms that clients know.
pub(crate) fn complete(p: &Progress, keys: &[Secret<Vec<u8>>]) -> Map<String, Value> {
    let mut m = Map::new();
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    set("backup", p.backup.into());
    set("complete", true.into());
    set("keys", keys.iter().map(|k| hex::encode(k.expose())).collect::<Vec<_>>().into());
    set("keys_base64", keys.iter().map(|k| STANDARD.encode(k.expose())).collect::<Vec<_>>().into());
    set("nonce", p.nonce.clone().into());
    set("pgp_fingerprints", fingerprints(p));
    set("verification_nonce", p.verification_nonce.clone().into());
    set("verification_required", p.verify.into());
    m
}

pub(crate) fn fingerprints(p: &Progress) -> Value {
    if p.fingerprints.is_empty() { Value::Null } else { p.fingerprints.clone().into() }
}

pub(crate) fn verification_shown(p: &Progress) -> Map<String, Value> {
    let mut m = Map::new();
    m.insert("n".into(), p.shares.into());
    m.insert("nonce".into(), p.verification_nonce.clone().into());
    m.insert("progress".into(), p.verified.into());
    m.insert("started".into(), true.into());
    m.insert("t".into(), p.threshold.into());
    m
}

fn status(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let (core, of, target) = (sys.core()?, tx.namespace(), target(&call.request.path));
    if target == Target::Recovery && (of != ROOT || !core.has_device()) {
        return Err(Error::bad_request("recovery not supported: shares open this store"));
    }
    Ok(Response::data(match core.rotation(of, target)? {
        (Some(progress), _) => shown(&progress),
        (None, required) => {
            let mut m = Map::new();
            m.insert("n".into(), 0.into());
            m.insert("required".into(), required.into());
            m.insert("started".into(), false.into());
            m.insert("t".into(), 0.into());
            m
        }
    }))
}

fn verification(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let progress = sys.core()?.rotation(tx.namespace(), target(&call.request.path))?.0;
    let progress = progress.ok_or_else(|| Error::bad_request("no rotation configuration found"))?;
    if progress.verification_nonce.is_empty() {
        return Err(Error::bad_request("no rotation verification in progress"));
    }
    Ok(Response::data(verification_shown(&progress)))
}

fn backup(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let kept = sys.core()?.shares_backup(tx, target(&call.request.path))?;
    let kept = kept.ok_or_else(|| Error::bad_request("no backed-up keys found"))?;
    let by_key = |encode: fn(&Vec<u8>) -> String| -> Value {
        let lists =
            kept.keys.iter().map(|(f, shares)| (f.clone(), shares.iter().map(encode).collect::<Vec<_>>().into()));
        Value::Object(lists.collect())
    };
    let mut m = Map::new();
    m.insert("keys".into(), by_key(|s| hex::encode(s)));
    m.insert("keys_base64".into(), by_key(|s| STANDARD.encode(s)));
    m.insert("nonce".into(), kept.nonce.clone().into());
    Ok(Response::both(m))
}

fn forget_backup(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    sys.core()?.forget_shares_backup(tx, target(&call.request.path))?;
    Ok(Response::empty())
}
