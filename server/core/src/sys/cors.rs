//! `sys/config/cors`: which web pages of other origins may speak with the server.

use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Transaction, parameters, record};
use minicbor::{Decode, Encode};

use super::System;
use crate::layout::{SETTINGS, STORE};
use crate::tx::Tx;

/// Where the settings are.
pub(super) const NAME: &[u8] = b"cors";

/// Origins, and headers beside the usual ones, that may be allowed.
const MOST: usize = 100;

/// Request headers that a page may always send.
const HEADERS: &[&str] = &[
    "Content-Type",
    "Authorization",
    "X-Vault-Token",
    "X-Vault-MFA",
    "X-Vault-No-Request-Forwarding",
    "X-Vault-Wrap-Format",
    "X-Vault-Wrap-TTL",
    "X-Requested-With",
    "X-Vault-AWS-IAM-Server-ID",
    "X-Vault-Policy-Override",
];

/// What is allowed to pages of other origins; nothing is until it is configured.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Cors {
    /// `*` alone: any.
    #[n(0)]
    pub origins: Vec<String>,
    /// Beside those that are always allowed.
    #[n(1)]
    more_headers: Vec<String>,
    #[n(2)]
    pub credentials: bool,
}
holdfast_sdk::record!(Cors);

parameters! {
    pub struct Settings {
        /// Origins, or * for any.
        allowed_origins: Option<Vec<String>>,
        /// Request headers that pages may send, beside the usual ones.
        allowed_headers: Option<Vec<String>>,
        /// Whether pages may send credentials.
        allow_credentials: Option<bool>,
        /// Kept for clients; a write turns it on, a delete off.
        enable: Option<bool>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("config/cors", "Which web pages of other origins may speak with the server.", |p| {
        p.read(read).update(write).delete(delete).root_protected()
    })
}

/// Whether HTTP allows a header of that name (RFC 9110, 5.6.2).
pub(super) fn is_header_name(name: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(is_token)
}

impl Cors {
    /// All request headers that a page may send.
    pub fn headers(&self) -> Vec<String> {
        HEADERS.iter().map(|h| (*h).to_owned()).chain(self.more_headers.iter().cloned()).collect()
    }

    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|o| o == "*" || o.eq_ignore_ascii_case(origin))
    }
}

pub fn load(tx: &mut Tx) -> Result<Option<Cors>> {
    tx.within(STORE, |tx| record::get(tx, Place::Ordered(SETTINGS, NAME)))
}

fn read(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mut m = Map::new();
    match load(tx)? {
        None => {
            m.insert("enabled".into(), false.into());
        }
        Some(cors) => {
            m.insert("enabled".into(), true.into());
            m.insert("allowed_origins".into(), cors.origins.clone().into());
            m.insert("allowed_headers".into(), cors.headers().into());
            m.insert("allow_credentials".into(), cors.credentials.into());
        }
    }
    Ok(Response::both(m))
}

fn write(_: &System, tx: &mut Tx, _: &Call<'_>, p: Settings) -> Result<Response> {
    let origins: Vec<String> = p.allowed_origins.unwrap_or_default().into_iter().filter(|o| !o.is_empty()).collect();
    if origins.is_empty() {
        return Err(Error::bad_request("at least one origin or the wildcard must be provided"));
    }
    if origins.len() > 1 && origins.iter().any(|o| o == "*") {
        return Err(Error::bad_request("to allow all origins the '*' must be the only value for allowed_origins"));
    }
    let more_headers: Vec<String> =
        p.allowed_headers.unwrap_or_default().into_iter().filter(|h| !h.is_empty()).collect();
    // One that cannot stand in a header would take the whole header away.
    if let Some(wrong) = more_headers.iter().find(|h| !is_header_name(h)) {
        return Err(Error::bad_request(format!("allowed_headers: {wrong:?} is no name of a header")));
    }
    if let Some(wrong) = origins.iter().find(|o| o.bytes().any(|b| !b.is_ascii_graphic())) {
        return Err(Error::bad_request(format!("allowed_origins: {wrong:?} is no origin")));
    }
    if origins.len().max(more_headers.len()) > MOST {
        return Err(Error::bad_request(format!("at most {MOST} origins and {MOST} headers can be allowed")));
    }
    let cors = Cors { origins, more_headers, credentials: p.allow_credentials.unwrap_or(false) };
    tx.within(STORE, |tx| record::put(tx, Place::Ordered(SETTINGS, NAME), &cors))?;
    Ok(Response::empty())
}

fn delete(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    tx.within(STORE, |tx| tx.delete(Place::Ordered(SETTINGS, NAME)))?;
    Ok(Response::empty())
}
