//! Answers as bytes: the envelope, errors and their statuses.

use std::io::Write;

use holdfast_sdk::{Auth, Body, Chunks, Error, Map, Response, Value, json};

/// What the HTTP layer sends.
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
    pub headers: Vec<(String, String)>,
    /// Comes behind the body, for as long as the client reads.
    pub stream: Option<Box<dyn Chunks>>,
}

impl Answer {
    pub fn json(status: u16, body: Vec<u8>) -> Answer {
        Answer { status, content_type: "application/json".into(), body, headers: Vec::new(), stream: None }
    }

    pub fn bare(status: u16, map: &Map<String, Value>) -> Answer {
        Answer::json(status, to_vec(map))
    }

    pub fn errors(status: u16, texts: &[String]) -> Answer {
        let mut body = b"{\"errors\":".to_vec();
        let _cannot_fail = serde_json::to_writer(&mut body, texts);
        body.extend_from_slice(b"}\n");
        Answer::json(status, body)
    }

    pub fn error(status: u16, text: &str) -> Answer {
        Answer::errors(status, &[text.to_owned()])
    }

    /// The server has no keys.
    pub fn sealed() -> Answer {
        Answer::error(503, "Vault is sealed")
    }

    /// The answer to a failed request.
    pub fn failure(error: &Error) -> Answer {
        let listed = |text: &str| format!("1 error occurred:\n\t* {text}\n\n");
        match error {
            Error::BadRequest(texts) => Answer::errors(400, texts),
            Error::PermissionDenied => Answer::error(403, "permission denied"),
            Error::LoginRefused(text) => Answer::error(400, text),
            Error::NotFound => Answer::errors(404, &[]),
            Error::UnsupportedPath => Answer::error(404, &listed("unsupported path")),
            Error::UnsupportedOperation => Answer::error(405, &listed("unsupported operation")),
            Error::Status(status, texts) => Answer::errors(*status, texts),
            Error::Conflict => Answer::error(503, "too many requests change the same thing; try again"),
            Error::Unavailable(text) => Answer::error(503, text),
            Error::Internal(text) | Error::Unreachable(text) => Answer::error(500, &listed(text)),
        }
    }

    /// The answer to a request that was carried out.
    pub fn success(response: Response, request_id: &str, mount_type: &str) -> Answer {
        let status = response.status;
        let answer = match &response.body {
            Body::Bare(map) => Answer::bare(status.unwrap_or(200), map),
            Body::Raw { .. } | Body::Stream { .. } => Answer::json(status.unwrap_or(200), Vec::new()),
            Body::None
                if response.auth.is_none()
                    && response.lease.is_none()
                    && response.wrap_info.is_none()
                    && response.warnings.is_empty()
                    && status.is_none_or(|s| s == 204 || s == 202) =>
            {
                match status {
                    Some(202) => Answer { content_type: String::new(), ..Answer::json(202, Vec::new()) },
                    _ => Answer::json(204, Vec::new()),
                }
            }
            _ => {
                let mount_type = response.mount_type.as_deref().unwrap_or(mount_type);
                Answer::json(status.unwrap_or(200), envelope(&response, request_id, mount_type))
            }
        };
        let answer = Answer { headers: response.headers, ..answer };
        match response.body {
            Body::Raw { content_type, bytes } => Answer { content_type, body: bytes, ..answer },
            Body::Stream { content_type, chunks } => Answer { content_type, stream: Some(chunks), ..answer },
            _ => answer,
        }
    }
}

fn to_vec(map: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    json::write_map(map, &mut out);
    out.push(b'\n');
    out
}

/// The keys of every answer.
const ENVELOPE: &[&str] =
    &["request_id", "lease_id", "renewable", "lease_duration", "data", "wrap_info", "warnings", "auth", "mount_type"];

/// The answer's object, with its line end.
pub(crate) fn envelope(r: &Response, request_id: &str, mount_type: &str) -> Vec<u8> {
    let body = &r.body;
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"request_id\":");
    // The id belongs to the answer that waits wrapped.
    json::write_text(if r.wrap_info.is_some() { "" } else { request_id }, &mut out);
    let (lease_id, ttl, renewable) = match &r.lease {
        Some(l) => (l.id.as_str(), l.ttl_secs, l.renewable),
        None => ("", 0, false),
    };
    out.extend_from_slice(b",\"lease_id\":");
    json::write_text(lease_id, &mut out);
    let _cannot_fail = write!(out, ",\"renewable\":{renewable},\"lease_duration\":{ttl},\"data\":");
    match body {
        Body::Data(map) | Body::Both(map) if r.wrap_info.is_none() => json::write_map(map, &mut out),
        _ => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"wrap_info\":");
    match &r.wrap_info {
        None => out.extend_from_slice(b"null"),
        Some(w) => {
            let mut m = Map::new();
            m.insert("token".into(), w.token.expose().clone().into());
            m.insert("accessor".into(), w.accessor.clone().into());
            m.insert("ttl".into(), w.ttl_secs.into());
            m.insert("creation_time".into(), w.creation_time.clone().into());
            m.insert("creation_path".into(), w.creation_path.clone().into());
            if !w.wrapped_accessor.is_empty() {
                m.insert("wrapped_accessor".into(), w.wrapped_accessor.clone().into());
            }
            json::write_map(&m, &mut out);
        }
    }
    out.extend_from_slice(b",\"warnings\":");
    if r.warnings.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        let _cannot_fail = serde_json::to_writer(&mut out, &r.warnings);
    }
    out.extend_from_slice(b",\"auth\":");
    match &r.auth {
        Some(a) if r.wrap_info.is_none() => auth(&mut out, a),
        None if r.wrap_info.is_none() && r.mfa_requirement.is_some() => {
            needs_more(&mut out, r.mfa_requirement.as_ref())
        }
        _ => out.extend_from_slice(b"null"),
    }
    if !mount_type.is_empty() {
        out.extend_from_slice(b",\"mount_type\":");
        json::write_text(mount_type, &mut out);
    }
    if let Body::Both(map) = body {
        // A client's own words (a path `data` of sys/capabilities) do not replace what belongs to the envelope.
        for (k, v) in map.iter().filter(|(k, _)| !ENVELOPE.contains(&k.as_str())) {
            out.push(b',');
            json::write_text(k, &mut out);
            out.push(b':');
            json::write_value(v, &mut out);
        }
    }
    out.extend_from_slice(b"}\n");
    out
}

/// Of a login that gives no token yet.
fn needs_more(out: &mut Vec<u8>, requirement: Option<&Map<String, Value>>) {
    out.extend_from_slice(
        b"{\"client_token\":\"\",\"accessor\":\"\",\"policies\":null,\"metadata\":null,\"lease_duration\":0,\
          \"renewable\":false,\"entity_id\":\"\",\"token_type\":\"default\",\"orphan\":false,\"mfa_requirement\":",
    );
    match requirement {
        Some(map) => json::write_map(map, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"num_uses\":0}");
}

fn auth(out: &mut Vec<u8>, a: &Auth) {
    let mut m = Map::new();
    let mut set = |k: &str, v: Value| {
        m.insert(k.into(), v);
    };
    set("client_token", a.client_token.expose().clone().into());
    set("accessor", a.accessor.clone().into());
    set("policies", a.policies.clone().into());
    set("token_policies", a.token_policies.clone().into());
    if !a.identity_policies.is_empty() {
        set("identity_policies", a.identity_policies.clone().into());
    }
    set("metadata", if a.metadata.is_empty() { Value::Null } else { Value::Object(a.metadata.clone()) });
    set("lease_duration", a.lease_secs.into());
    set("renewable", a.renewable.into());
    set("entity_id", a.entity_id.clone().into());
    set("token_type", a.token_type.word().into());
    set("orphan", a.orphan.into());
    set("mfa_requirement", Value::Null);
    set("num_uses", a.num_uses.into());
    json::write_map(&m, out);
}
