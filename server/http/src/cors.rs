//! Requests of web pages of other origins (the Fetch standard, CORS protocol).

use holdfast_core::settings::Cors;
use holdfast_core::{Answer, Core};
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderValue};

/// Methods that a page may use.
const METHODS: &[&str] = &["DELETE", "GET", "OPTIONS", "POST", "PUT", "LIST", "SCAN"];

/// What CORS makes of a request.
pub enum Verdict {
    /// It does not concern CORS.
    Foreign,
    /// The answer gets these headers.
    Allowed(Vec<(String, String)>),
    /// It is answered at once.
    Answered(Answer),
}

pub fn judge(core: &Core, method: &Method, headers: &HeaderMap) -> Verdict {
    let Some(origin) = headers.get(header::ORIGIN) else { return Verdict::Foreign };
    match core.cors() {
        Ok(None) => Verdict::Foreign,
        Ok(Some(cors)) => apply(&cors, origin, method, headers),
        Err(e) => Verdict::Answered(Answer::failure(&e)),
    }
}

fn apply(cors: &Cors, origin: &HeaderValue, method: &Method, headers: &HeaderMap) -> Verdict {
    let origin = match origin.to_str() {
        Ok(o) if cors.allows(o) => o,
        _ => return Verdict::Answered(Answer::error(403, "origin not allowed")),
    };
    let mut out =
        vec![("Access-Control-Allow-Origin".to_owned(), origin.to_owned()), ("Vary".to_owned(), "Origin".to_owned())];
    if cors.credentials {
        out.push(("Access-Control-Allow-Credentials".to_owned(), "true".to_owned()));
    }
    if *method != Method::OPTIONS {
        return Verdict::Allowed(out);
    }
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).and_then(|m| m.to_str().ok());
    if !asked.is_some_and(|m| METHODS.contains(&m)) {
        return Verdict::Answered(Answer::errors(405, &[]));
    }
    out.push(("Access-Control-Allow-Methods".to_owned(), METHODS.join(",")));
    out.push(("Access-Control-Allow-Headers".to_owned(), cors.headers().join(",")));
    out.push(("Access-Control-Max-Age".to_owned(), "300".to_owned()));
    Verdict::Answered(Answer { content_type: String::new(), headers: out, ..Answer::json(200, Vec::new()) })
}
