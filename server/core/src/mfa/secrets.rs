//! What an entity's codes are made from: made by the user or by an administrator, shown once.
//!
//! The secrets of a method that was deleted are not looked for: nothing reads them, and they go with their entities.

use std::fmt::Write;

use holdfast_sdk::{Body, Call, Error, Place, Response, Result, Transaction, parameters, record};
use minicbor::{Decode, Encode};

use super::methods::{self, Kind, Method, Totp};
use super::totp::{Form, base32};
use super::{R, barcode};
use crate::identity::{IdentityBackend, map, store as identity};
use crate::layout::{IDENTITY, NamespaceId, SYSTEM, identity::MFA_SECRET};
use crate::random::{self, uuid_text};
use crate::tx::Tx;

/// Secrets of one entity at most.
const MOST: usize = 1000;

#[derive(Clone, Encode, Decode)]
pub struct Shared {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    /// As the method was when the secret was made: the app that holds it knows no other.
    #[n(1)]
    pub form: Form,
    /// The step of the last code that counted: it counts no more, nor does any before it.
    #[n(2)]
    pub used: Option<u64>,
}
holdfast_sdk::record!(Shared);

fn place(entity: &[u8; 16], method: &[u8; 16]) -> Vec<u8> {
    [entity.as_slice(), method].concat()
}

/// The secret of an entity of the present namespace.
pub fn load(tx: &mut Tx, entity: &[u8; 16], method: &[u8; 16]) -> Result<Option<Shared>> {
    tx.within(IDENTITY, |tx| record::get(tx, Place::Ordered(MFA_SECRET, &place(entity, method))))
}

pub fn save(tx: &mut Tx, entity: &[u8; 16], method: &[u8; 16], shared: &Shared) -> Result<()> {
    tx.within(IDENTITY, |tx| record::put(tx, Place::Ordered(MFA_SECRET, &place(entity, method)), shared))
}

fn all(tx: &mut Tx, entity: &[u8; 16]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let end = [entity.as_slice(), &[0xff; 17]].concat();
    tx.within(IDENTITY, |tx| tx.ordered(MFA_SECRET, entity, &end, MOST))
}

/// An entity is deleted.
pub fn forget_of_entity(tx: &mut Tx, entity: &[u8; 16]) -> Result<()> {
    for (key, _) in all(tx, entity)? {
        tx.within(IDENTITY, |tx| tx.delete(Place::Ordered(MFA_SECRET, &key)))?;
    }
    Ok(())
}

/// An entity becomes another, which keeps what it has.
pub fn take_over(tx: &mut Tx, from: &[u8; 16], to: &[u8; 16]) -> Result<()> {
    for (key, bytes) in all(tx, from)? {
        let Some(method) = key.last_chunk::<16>() else { continue };
        if load(tx, to, method)?.is_none() {
            tx.within(IDENTITY, |tx| tx.put(Place::Ordered(MFA_SECRET, &place(to, method)), bytes))?;
        }
    }
    Ok(())
}

parameters! {
    pub struct Own {
        /// The id of the method.
        method_id: Option<String>,
    }
}
parameters! {
    pub struct Anybodys {
        /// The id of the method.
        method_id: Option<String>,
        /// The id of the entity.
        entity_id: Option<String>,
    }
}

pub fn routes(routes: R) -> R {
    routes
        .path("mfa/method/totp/generate", "Make the caller's own secret.", |p| p.update(generate))
        .path("mfa/method/totp/admin-generate", "Make an entity's secret.", |p| p.update(admin_generate))
        .path("mfa/method/totp/admin-destroy", "Destroy an entity's secret.", |p| p.update(admin_destroy))
}

/// The method of a request, which has to be one of codes.
fn method(tx: &mut Tx, given: Option<String>) -> Result<(Method, Totp)> {
    let given = given.filter(|g| !g.is_empty()).ok_or_else(|| Error::bad_request("missing method ID"))?;
    let found = match random::parse_uuid(&given) {
        Some(id) => methods::find(tx, &id)?,
        None => None,
    };
    let absent = || Error::bad_request(format!("configuration for method ID {given:?} does not exist"));
    let (_, method) = found.ok_or_else(absent)?;
    match &method.kind {
        Kind::Totp(totp) => Ok((method.clone(), totp.clone())),
        other => Err(Error::bad_request(format!("generate not available for MFA type {:?}", other.word()))),
    }
}

/// The entity of a request, which is there.
fn entity(tx: &mut Tx, namespace: NamespaceId, given: &str, missing: &str) -> Result<[u8; 16]> {
    if given.is_empty() {
        return Err(Error::bad_request(missing));
    }
    let there = match identity::parse(given) {
        Some(id) => tx.within(SYSTEM.of(namespace), |tx| identity::entity(tx, &id))?.map(|e| e.id),
        None => None,
    };
    there.ok_or_else(|| Error::bad_request("invalid entity ID"))
}

fn generate(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Own) -> Result<Response> {
    let (method, totp) = method(tx, p.method_id)?;
    // An entity is of the namespace that its token is of.
    let namespace = call.caller.namespace;
    let entity = entity(tx, namespace, &call.caller.entity_id, "missing entityID")?;
    tx.within(SYSTEM.of(namespace), |tx| make(tx, &method, &totp, &entity))
}

fn admin_generate(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, p: Anybodys) -> Result<Response> {
    let (method, totp) = method(tx, p.method_id)?;
    let entity = entity(tx, tx.namespace(), p.entity_id.as_deref().unwrap_or(""), "missing entityID")?;
    make(tx, &method, &totp, &entity)
}

fn make(tx: &mut Tx, method: &Method, totp: &Totp, entity: &[u8; 16]) -> Result<Response> {
    if load(tx, entity, &method.id)?.is_some() {
        return Ok(Response::empty().warn(format!("Entity already has a secret for MFA method {:?}", method.name)));
    }
    if all(tx, entity)?.len() >= MOST {
        return Err(Error::bad_request(format!("an entity has room for {MOST} secrets")));
    }
    let bytes: [u8; 128] = random::bytes()?;
    let key = bytes[..usize::try_from(totp.key_bytes).unwrap_or(20).min(bytes.len())].to_vec();
    let url = address(totp, entity, &key);
    let image = match usize::try_from(totp.qr_pixels).unwrap_or(0) {
        0 => String::new(),
        pixels => barcode::png(&url, pixels)?,
    };
    save(tx, entity, &method.id, &Shared { key, form: totp.form, used: None })?;
    Ok(Response { body: Body::Data(map([("barcode", image.into()), ("url", url.into())])), ..Response::default() })
}

/// What apps for codes read.
fn address(totp: &Totp, entity: &[u8; 16], key: &[u8]) -> String {
    let issuer = escaped(&totp.issuer);
    let Form { algorithm, digits, period_secs, .. } = totp.form;
    format!(
        "otpauth://totp/{issuer}:{}?algorithm={}&digits={digits}&issuer={issuer}&period={period_secs}&secret={}",
        uuid_text(entity),
        algorithm.name(),
        base32(key)
    )
}

/// As RFC 3986 has it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => {
                let _cannot_fail = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

fn admin_destroy(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, p: Anybodys) -> Result<Response> {
    let (method, _) = method(tx, p.method_id)?;
    let entity = entity(tx, tx.namespace(), p.entity_id.as_deref().unwrap_or(""), "missing entity ID")?;
    tx.within(IDENTITY, |tx| tx.delete(Place::Ordered(MFA_SECRET, &place(&entity, &method.id))))?;
    Ok(Response::empty())
}
