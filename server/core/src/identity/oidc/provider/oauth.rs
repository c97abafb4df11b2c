//! Answers in the words of OAuth 2.0 (RFC 6749, RFC 6750), and how a client says who it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Call, Response};

use super::map;

/// A request that is refused: a code for programs, and a text for people.
#[derive(Debug)]
pub struct Refusal {
    pub code: &'static str,
    pub why: String,
}

pub fn refuse(code: &'static str, why: impl Into<String>) -> Refusal {
    Refusal { code, why: why.into() }
}

pub const INVALID_REQUEST: &str = "invalid_request";
pub const INVALID_CLIENT: &str = "invalid_client";
pub const INVALID_GRANT: &str = "invalid_grant";
pub const ACCESS_DENIED: &str = "access_denied";

/// What stops a request: its refusal, or a failure of the server.
pub enum Stop {
    Refused(Refusal),
    Failed(holdfast_sdk::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl From<holdfast_sdk::Error> for Stop {
    fn from(error: holdfast_sdk::Error) -> Stop {
        Stop::Failed(error)
    }
}

impl Refusal {
    /// As the authorization endpoint answers.
    pub fn to_authorize(&self, state: &str) -> Response {
        let mut answer =
            map([("error", self.code.into()), ("error_description", self.why.clone().into()), ("state", state.into())]);
        if matches!(self.code, "request_not_supported" | "request_uri_not_supported") {
            answer.insert("state".into(), "".into());
        }
        Response { status: Some(400), ..Response::bare(answer) }
    }

    /// As the token endpoint answers.
    pub fn to_token(&self) -> Response {
        let answer = map([("error", self.code.into()), ("error_description", self.why.clone().into())]);
        let mut response = Response { status: Some(400), ..Response::bare(answer) };
        if self.code == INVALID_CLIENT {
            response.status = Some(401);
            response.headers.push(("www-authenticate".into(), "Basic".into()));
        }
        not_kept(response)
    }
}

/// No cache on the way keeps it.
pub fn not_kept(mut response: Response) -> Response {
    response.headers.push(("pragma".into(), "no-cache".into()));
    response
}

/// The id and the secret of `Authorization: Basic`.
pub fn basic(call: &Call<'_>) -> Option<(String, Secret<String>)> {
    let encoded = call.request.presented.basic.as_ref()?;
    let text = Secret::new(String::from_utf8(STANDARD.decode(encoded.expose()).ok()?).ok()?);
    let (id, secret) = text.expose().split_once(':')?;
    Some((unescaped(id)?, Secret::new(unescaped(secret)?)))
}

/// Id and secret are sent as a form has them (RFC 6749, 2.3.1).
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}
