//! `sys/mfa/validate`: the second factors of a login that waits.

use std::sync::Arc;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value, parameters};

use super::System;
use crate::logins;
use crate::mfa::{Claim, Factors};
use crate::tx::Tx;

/// Methods that a request brings codes for.
const MOST: usize = 64;

parameters! {
    pub struct Validate {
        /// What the login answered.
        mfa_request_id: Option<String>,
        /// Codes, in lists of one, by the id or the name of their method.
        mfa_payload: Option<Map<String, Value>>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("mfa/validate", "Bring the second factors of a login.", |p| {
        p.update(validate).prepared(Operation::Update, claim).unauthenticated()
    })
}

/// One request at a time validates a login.
fn claim(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Validate) -> Result<Option<Preparation>> {
    let id = p.mfa_request_id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::bad_request("missing request ID"))?;
    factors(p.mfa_payload)?;
    let open = sys.core()?.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let claim = Claim::new(&open.second_factors, tx.namespace(), &id, call.now)?;
    let claim: Prepared = Arc::new(claim.ok_or_else(|| Error::bad_request("invalid request ID"))?);
    Ok(Some(Box::pin(async move { Ok(claim) })))
}

fn factors(payload: Option<Map<String, Value>>) -> Result<Factors> {
    let invalid = || Error::bad_request("invalid mfa payload");
    let payload = payload.unwrap_or_default();
    if payload.len() > MOST {
        return Err(invalid());
    }
    let code = |value: Value| match value {
        Value::String(text) => Ok(Secret::new(text)),
        Value::Number(number) => Ok(Secret::new(number.to_string())),
        _ => Err(invalid()),
    };
    let codes = |value: Value| match value {
        Value::Array(codes) => codes.into_iter().map(code).collect(),
        Value::Null => Ok(Vec::new()),
        _ => Err(invalid()),
    };
    payload.into_iter().map(|(method, value)| Ok((method, codes(value)?))).collect()
}

fn validate(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Validate) -> Result<Response> {
    let claim = call.prepared.and_then(|p| p.downcast_ref::<Claim>());
    let claim = claim.ok_or_else(|| Error::bad_request("invalid request ID"))?;
    let core = sys.core()?;
    let response = logins::validate(&core, tx, &claim.waiting, &factors(p.mfa_payload)?, call.now)?;
    claim.succeeded();
    Ok(response)
}
