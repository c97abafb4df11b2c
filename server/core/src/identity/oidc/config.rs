//! `identity/oidc/config`: under which address tokens are issued.

use holdfast_sdk::{Call, Error, Place, Response, Result, parameters, record};
use minicbor::{Decode, Encode};

use super::{R, map};
use crate::identity::IdentityBackend;
use crate::layout::{IDENTITY, identity::OIDC_CONFIG};
use crate::namespaces;
use crate::tx::Tx;

parameters! {
    pub struct Write {
        /// Scheme, host and port that tokens name as their issuer; empty: the server's own.
        issuer: Option<String>,
    }
}

#[derive(Debug, Clone, Default, Encode, Decode)]
struct Config {
    #[n(0)]
    issuer: String,
}
holdfast_sdk::record!(Config);

pub fn routes(routes: R) -> R {
    routes.path("oidc/config", "Read and write what counts for all identity tokens.", |p| p.read(read).update(write))
}

fn load(tx: &mut Tx) -> Result<Config> {
    Ok(tx.within(IDENTITY, |tx| record::get(tx, Place::Ordered(OIDC_CONFIG, b"")))?.unwrap_or_default())
}

fn read(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    Ok(Response::data(map([("issuer", load(tx)?.issuer.into())])))
}

fn write(_: &IdentityBackend, tx: &mut Tx, _: &Call<'_>, p: Write) -> Result<Response> {
    let mut config = load(tx)?;
    let mut response = Response::empty();
    if let Some(given) = p.issuer {
        check_issuer(&given)?;
        if !given.is_empty() {
            response.warnings.push(EXPLICIT_ISSUER.into());
        }
        config.issuer = given;
    }
    tx.within(IDENTITY, |tx| record::put(tx, Place::Ordered(OIDC_CONFIG, b""), &config))?;
    Ok(response)
}

pub const EXPLICIT_ISSUER: &str = "If \"issuer\" is set explicitly, all tokens must be validated against that address, including those issued by \
     secondary clusters. Setting issuer to \"\" will restore the default behavior of using the cluster's api_addr as \
     the issuer.";

/// Empty, or a scheme, a host and a port.
pub fn check_issuer(given: &str) -> Result<()> {
    let authority = given.strip_prefix("https://").or_else(|| given.strip_prefix("http://"));
    let is_origin = |a: &str| {
        let (host, port) = match a.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (a, None),
        };
        !host.is_empty()
            && !host.contains(['/', '?', '#', '@', ' ', '\\'])
            && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    if given.is_empty() || authority.is_some_and(is_origin) {
        return Ok(());
    }
    Err(Error::bad_request(
        "invalid issuer, which must include only a scheme, host, and optional port (e.g. https://example.com:8200)",
    ))
}

/// The address that tokens of `config` are issued under.
pub fn issuer(backend: &IdentityBackend, tx: &mut Tx) -> Result<String> {
    let config = load(tx)?;
    Ok(format!("{}identity/oidc", base(backend, tx, &config.issuer, "v1")?))
}

/// Where the API (`v1`) or the pages (`ui/vault`) of the present namespace are, for those who know the server by
/// this issuer; empty: by its own address.
pub fn base(backend: &IdentityBackend, tx: &mut Tx, issuer: &str, part: &str) -> Result<String> {
    let core = backend.core()?;
    let origin = if issuer.is_empty() { core.node().api_addr.trim_end_matches('/') } else { issuer };
    Ok(format!("{origin}/{part}/{}", namespaces::path_of(tx, tx.namespace())?))
}
