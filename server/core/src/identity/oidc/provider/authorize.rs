//! `authorize`: somebody who is logged in to this server lets a client know.

use holdfast_sdk::{Call, Response, Result, parameters};

use super::clients::{self, Client};
use super::codes::{Challenge, Granted};
use super::oauth::{ACCESS_DENIED, INVALID_GRANT, INVALID_REQUEST, Refusal, Stop, refuse};
use super::providers::Provider;
use super::{OPENID, R, is_assigned, known_scopes, map, signing};
use crate::identity::IdentityBackend;
use crate::random;
use crate::tokens;
use crate::tx::Tx;

const CODE_CHARS: usize = 32;
/// Of a challenge and a verifier (RFC 7636, 4.1).
const CHALLENGE_CHARS: std::ops::RangeInclusive<usize> = 43..=128;

parameters! {
    pub struct Ask {
        /// What the client wants to know; `openid` is among it.
        scope: Option<String>,
        /// code.
        response_type: Option<String>,
        /// Which client.
        client_id: Option<String>,
        /// Where the person is sent back to.
        redirect_uri: Option<String>,
        /// Comes back with the answer.
        state: Option<String>,
        /// Comes back in the ID token.
        nonce: Option<String>,
        /// How many seconds ago the person may have logged in.
        max_age: Option<i64>,
        /// What the verifier at the token endpoint has to fit (RFC 7636).
        code_challenge: Option<String>,
        /// plain or S256.
        code_challenge_method: Option<String>,
        /// Not supported.
        request: Option<String>,
        /// Not supported.
        request_uri: Option<String>,
    }
}

pub fn routes(routes: R) -> R {
    routes.path("oidc/provider/{name}/authorize", "Let a client know who the caller is.", |p| {
        p.read(authorize).update(authorize)
    })
}

fn authorize(backend: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: Ask) -> Result<Response> {
    let state = p.state.clone().unwrap_or_default();
    match granted(tx, call, p) {
        Ok(granted) => {
            let code = random::alphanumeric(CODE_CHARS)?;
            backend.codes.keep(tx.namespace(), code.clone(), granted, call.now)?;
            Ok(Response::bare(map([("code", code.into()), ("state", state.into())])))
        }
        Err(Stop::Refused(refusal)) => Ok(refusal.to_authorize(&state)),
        Err(Stop::Failed(e)) => Err(e),
    }
}

fn granted(tx: &mut Tx, call: &Call<'_>, p: Ask) -> Result<Granted, Stop> {
    let invalid = |why: &str| refuse(INVALID_REQUEST, why);
    let provider = Provider::load(tx, call.capture("name"))?.ok_or_else(|| invalid("provider not found"))?;
    let scope = p.scope.unwrap_or_default();
    if !scope.split(' ').any(|s| s == OPENID) {
        return Err(invalid("scope parameter must contain the \"openid\" value").into());
    }
    match p.response_type.as_deref().unwrap_or("") {
        "code" => {}
        "" => return Err(invalid("response_type parameter is required").into()),
        _ => return Err(refuse("unsupported_response_type", "unsupported response_type value").into()),
    }
    let client_id = p.client_id.unwrap_or_default();
    if client_id.is_empty() {
        return Err(refuse("invalid_client_id", "client_id parameter is required").into());
    }
    let client = clients::by_id(tx, &client_id)?
        .ok_or_else(|| refuse("invalid_client_id", "client with client_id not found"))?;
    if !provider.allows(&client_id) {
        return Err(refuse("unauthorized_client", "client is not authorized to use the provider").into());
    }
    if !client.authorization_code {
        let why = "client not allowed to perform authorization code credential flow";
        return Err(refuse(INVALID_GRANT, why).into());
    }
    let redirect_uri = p.redirect_uri.unwrap_or_default();
    if redirect_uri.is_empty() {
        return Err(invalid("redirect_uri parameter is required").into());
    }
    if !is_allowed(&redirect_uri, &client.redirect_uris) {
        return Err(refuse("invalid_redirect_uri", "redirect_uri is not allowed for the client").into());
    }
    for (name, given) in [("request", &p.request), ("request_uri", &p.request_uri)] {
        if given.as_ref().is_some_and(|g| !g.is_empty()) {
            let code = if name == "request" { "request_not_supported" } else { "request_uri_not_supported" };
            return Err(refuse(code, format!("{name} parameter is not supported")).into());
        }
    }
    let who = signing::caller(tx, call)?
        .ok_or_else(|| refuse(ACCESS_DENIED, "identity entity must be associated with the request"))?;
    if !is_assigned(tx, &client, &who)? {
        return Err(refuse(ACCESS_DENIED, "identity entity not authorized by client assignment").into());
    }
    let challenge = challenge(&client, p.code_challenge, p.code_challenge_method.as_deref())?;
    let logged_in = match p.max_age {
        None => None,
        Some(..1) => return Err(invalid("max_age must be greater than zero").into()),
        Some(most) => Some(logged_in_within(tx, call, most)?),
    };
    Ok(Granted {
        client_id,
        entity: (call.caller.namespace, call.caller.entity_id.clone()),
        redirect_uri,
        nonce: p.nonce.unwrap_or_default(),
        scopes: known_scopes(&provider, &scope),
        provider: provider.name,
        logged_in,
        challenge,
    })
}

fn challenge(client: &Client, given: Option<String>, method: Option<&str>) -> Result<Option<Challenge>, Refusal> {
    let Some(given) = given.filter(|g| !g.is_empty()) else {
        return match client.is_confidential() {
            true => Ok(None),
            false => Err(refuse(INVALID_REQUEST, "PKCE is required for public clients")),
        };
    };
    let made: fn(String) -> Challenge = match method.unwrap_or("plain") {
        "plain" => Challenge::Plain,
        "S256" => Challenge::S256,
        _ => return Err(refuse(INVALID_REQUEST, "invalid code_challenge_method")),
    };
    match CHALLENGE_CHARS.contains(&given.len()) {
        true => Ok(Some(made(given))),
        false => Err(refuse(INVALID_REQUEST, "invalid code_challenge")),
    }
}

/// When the caller's token was made, if that is no longer ago than the client wants.
fn logged_in_within(tx: &mut Tx, call: &Call<'_>, secs: i64) -> Result<u64, Stop> {
    let token = call.request.token.as_ref().map_or("", |t| t.expose().as_str());
    let held = tokens::read(tx, token)?.ok_or(holdfast_sdk::Error::PermissionDenied)?;
    let made = held.entry.issued().secs();
    match call.now.secs().saturating_sub(made) > secs.unsigned_abs() {
        true => Err(refuse("max_age_violation", "active re-authentication is required by max_age").into()),
        false => Ok(made),
    }
}

/// A redirect is one that was declared, to the letter; on the machine itself any port will do (RFC 8252, 7.3).
fn is_allowed(uri: &str, declared: &[String]) -> bool {
    match without_port(uri) {
        Some(uri) => declared.iter().any(|d| without_port(d).as_ref() == Some(&uri)),
        None => declared.iter().any(|d| d == uri),
    }
}

/// An address of the machine itself, without its port. None: it is of another.
fn without_port(uri: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]").then_some((scheme, host, path))
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn a_redirect_is_one_that_was_declared() {
        let declared = ["https://app.example/cb", "http://127.0.0.1/cb", "http://localhost:7/x?a=1"].map(str::to_owned);
        for good in
            ["https://app.example/cb", "http://127.0.0.1:5555/cb", "http://127.0.0.1/cb", "http://localhost/x?a=1"]
        {
            assert!(is_allowed(good, &declared), "{good}");
        }
        for bad in [
            "https://app.example:443/cb",
            "https://app.example/cb/",
            "https://app.example.evil/cb",
            "http://127.0.0.1:5555/other",
            "http://127.0.0.1:5555/cb?x=1",
            "https://127.0.0.1/cb",
            "http://localhost/cb",
            "http://localhost:7@evil.example/x?a=1",
            "http://127.0.0.1:80.evil.example/cb",
            "http://127.0.0.1#@evil.example/cb",
            "",
        ] {
            assert!(!is_allowed(bad, &declared), "{bad}");
        }
    }
}
