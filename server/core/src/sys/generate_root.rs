//! `sys/generate-root-token`: a root token when enough shares agree; and `sys/decode-token`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value, parameters};

use super::System;
use crate::ceremony::{self, Attempt, covered};
use crate::init::root_token;
use crate::tx::Tx;

parameters! {
    pub struct Wanted {
        /// The one-time password that covers the token, as long as it; left out: one is made.
        otp: Option<String>,
        /// An OpenPGP public key in base64 that the token is encrypted to instead.
        pgp_key: Option<String>,
    }
}
parameters! {
    pub struct Given {
        /// A share.
        key: Option<String>,
        /// The number of the attempt.
        nonce: Option<String>,
    }
}
parameters! {
    pub struct Covered {
        /// The covered token, in base64.
        encoded_token: Option<String>,
        /// The one-time password.
        otp: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("generate-root-token/attempt", "Make a root token by shares: begin, look, or give up.", |p| {
            p.read(status)
                .update(begun)
                .prepared(Operation::Update, begin)
                .delete(cancelled)
                .prepared(Operation::Delete, cancel)
        })
        .path("generate-root-token/update", "Give a share.", |p| p.update(stored).prepared(Operation::Update, give))
        .path("decode-token", "Uncover a token with its one-time password.", |p| p.update(decode).unauthenticated())
}

fn begin(sys: &System, tx: &mut Tx, _: &Call<'_>, p: Wanted) -> Result<Option<Preparation>> {
    let (core, of) = (sys.core()?, tx.namespace());
    let (otp, pgp_key) = (Secret::new(p.otp.unwrap_or_default()), p.pgp_key.unwrap_or_default());
    Ok(Some(Box::pin(async move {
        let attempt: Prepared = Arc::new(core.begin_root_generation(of, otp.expose(), &pgp_key).await?);
        Ok(attempt)
    })))
}

fn cancel(sys: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let (core, of) = (sys.core()?, tx.namespace());
    Ok(Some(Box::pin(async move {
        core.cancel_root_generation(of).await?;
        let nothing: Prepared = Arc::new(());
        Ok(nothing)
    })))
}

fn give(sys: &System, tx: &mut Tx, _: &Call<'_>, p: Given) -> Result<Option<Preparation>> {
    let (core, of) = (sys.core()?, tx.namespace());
    let required = |name: &str| Error::bad_request(format!("{name} is required"));
    let key = p.key.filter(|k| !k.is_empty()).ok_or_else(|| required("key"))?;
    let nonce = p.nonce.filter(|n| !n.is_empty()).ok_or_else(|| required("nonce"))?;
    let share = ceremony::share(&key);
    let share = share.ok_or_else(|| Error::bad_request("'key' must be a valid hex or base64 string"))?;
    Ok(Some(Box::pin(async move {
        let attempt: Prepared = Arc::new(core.give_generation_share(of, &nonce, share).await?);
        Ok(attempt)
    })))
}

fn attempt<'c>(call: &Call<'c>) -> Result<&'c Attempt> {
    let attempt = call.prepared.and_then(|p| p.downcast_ref::<Attempt>());
    attempt.ok_or_else(|| Error::Internal("nothing was prepared".into()))
}

fn begun(_: &System, _: &mut Tx, call: &Call<'_>, _: Wanted) -> Result<Response> {
    shown(attempt(call)?)
}

fn status(sys: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    shown(&sys.core()?.root_generation(tx.namespace())?)
}

fn cancelled(_: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::empty())
}

fn shown(a: &Attempt) -> Result<Response> {
    let mut m = Map::new();
    m.insert("started".into(), a.started.into());
    m.insert("complete".into(), false.into());
    m.insert("progress".into(), a.given.into());
    m.insert("required".into(), a.required.into());
    m.insert("otp".into(), a.otp.as_ref().map_or_else(String::new, |o| o.expose().clone()).into());
    m.insert("otp_length".into(), a.token_bytes.into());
    if a.started {
        m.insert("nonce".into(), a.nonce.clone().into());
        m.insert("pgp_fingerprint".into(), a.fingerprint.clone().into());
    }
    Ok(Response::data(m))
}

/// The token is stored in the commit that reveals it.
fn stored(_: &System, tx: &mut Tx, call: &Call<'_>, _: Given) -> Result<Response> {
    let a = attempt(call)?;
    let mut m = Map::new();
    if let Some(made) = &a.made {
        root_token(tx, made.token.expose(), call.now)?;
    }
    let encoded = a.made.as_ref().map_or("", |m| m.encoded.as_str());
    m.insert("started".into(), true.into());
    m.insert("complete".into(), a.made.is_some().into());
    m.insert("progress".into(), a.given.into());
    m.insert("required".into(), a.required.into());
    m.insert("nonce".into(), a.nonce.clone().into());
    m.insert("pgp_fingerprint".into(), a.fingerprint.clone().into());
    m.insert("encoded_token".into(), encoded.into());
    Ok(Response::data(m))
}

fn decode(_: &System, _: &mut Tx, _: &Call<'_>, p: Covered) -> Result<Response> {
    let (Some(encoded), Some(otp)) = (p.encoded_token.filter(|t| !t.is_empty()), p.otp.filter(|o| !o.is_empty()))
    else {
        return Err(Error::bad_request("provided 'encoded_token' or 'otp' is empty"));
    };
    let bytes = STANDARD_NO_PAD.decode(encoded.trim_end_matches('='));
    let bytes = bytes.map_err(|e| Error::bad_request(format!("error decoding base64'd token: {e}")))?;
    if bytes.len() != otp.len() {
        let (token, otp) = (bytes.len(), otp.len());
        return Err(Error::bad_request(format!("the token is {token} bytes long and the one-time password {otp}")));
    }
    let token = String::from_utf8(covered(&bytes, otp.as_bytes()))
        .map_err(|_| Error::bad_request("this password does not uncover a token"))?;
    let mut m = Map::new();
    m.insert("token".into(), Value::from(token));
    Ok(Response::data(m))
}
