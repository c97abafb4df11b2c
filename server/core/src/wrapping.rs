//! Response wrapping: the real answer waits in the cubbyhole of a one-use token, and the client is
//! given that token.
//!
//! Wrapping and unwrapping happen in the transaction of their request: what a request changes and
//! the token that holds its answer are one commit, and so are an answer's reading and its token's end.

use std::time::Duration;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{
    Auth, Body, Error, Lease, Map, Request, Response, Result, Timestamp, TokenId, TokenType, Value, WrapInfo, json,
};

use crate::answer::envelope;
use crate::cubbyhole::{self, RESPONSE};
use crate::namespaces;
use crate::tokens::{self, Issue, RESPONSE_WRAPPING, TokenEntry};
use crate::tx::Tx;

/// Unwraps an answer; the wrapping token itself may ask.
pub const UNWRAP: &str = "sys/wrapping/unwrap";
/// Routes that are about a wrapping token and say so before anything else.
const ABOUT_A_TOKEN: [&str; 3] = ["sys/wrapping/lookup", UNWRAP, "sys/wrapping/rewrap"];
/// In the stored record, beside the answer: the type of the mount that gave it, and its status
/// where that is not 200.
const MOUNT_TYPE: &str = "mount_type";
const STATUS: &str = "status";

/// An answer that waits.
pub struct Wrapped {
    pub id: TokenId,
    pub entry: TokenEntry,
}

/// What the three routes about a wrapping token ask of every request, whoever sends it and by
/// whatever verb: that it names one that is still good.
pub fn check(tx: &mut Tx, request: &Request, now: Timestamp) -> Result<()> {
    if ABOUT_A_TOKEN.contains(&request.path.trim_end_matches('/')) {
        find(tx, request, now)?;
    }
    Ok(())
}

/// The wrapping token that a request names in its body, or is sent with.
pub fn find(tx: &mut Tx, request: &Request, now: Timestamp) -> Result<Wrapped> {
    let refused = |text: &str| Error::Status(403, vec![format!("error validating wrapping token: {text}")]);
    let token = match request.data.get("token") {
        None | Some(Value::Null) => request.token.as_ref().map_or("", |t| t.expose().as_str()),
        Some(Value::String(t)) if t.is_empty() => return Err(refused("empty token in request body")),
        Some(Value::String(t)) => t,
        Some(_) => return Err(refused("could not decode token in request body")),
    };
    let id = tokens::id_of(tx, token)?.ok_or_else(invalid)?;
    let own = request.token.as_ref().is_some_and(|t| t.expose() == token);
    if !own && !namespaces::is_within(tx, id.namespace, &request.namespace)? {
        return Err(invalid());
    }
    match tokens::load_valid(tx, &id, now)?.filter(TokenEntry::is_wrapping) {
        Some(entry) => Ok(Wrapped { id, entry }),
        None => Err(invalid()),
    }
}

fn invalid() -> Error {
    Error::bad_request("wrapping token is not valid or does not exist")
}

/// Store an answer and give the wrapping token, which has the name of whom it was made for, instead. What has no envelope goes out as it is.
pub fn wrap(
    tx: &mut Tx,
    mut response: Response,
    ttl: Duration,
    request: &Request,
    (mount_type, caller): (&str, &str),
    now: Timestamp,
) -> Result<Response> {
    let worth_it = match response.body {
        Body::Data(_) | Body::Both(_) => true,
        Body::None => response.auth.is_some() || !response.warnings.is_empty(),
        Body::Bare(_) | Body::Raw { .. } | Body::Stream { .. } => false,
    };
    if !worth_it || response.wrap_info.is_some() {
        return Ok(response);
    }
    // The fields at the top level are for old clients, which do not unwrap.
    if let Body::Both(data) = response.body {
        response.body = Body::Data(data);
    }
    let mut text = envelope(&response, &request.id, "");
    text.pop();
    let text = String::from_utf8(text).map_err(Error::internal)?;
    let mut record = Map::new();
    record.insert(RESPONSE.into(), text.into());
    record.insert(MOUNT_TYPE.into(), response.mount_type.as_deref().unwrap_or(mount_type).into());
    if let Some(status) = response.status {
        record.insert(STATUS.into(), status.into());
    }
    // Whoever logs in is nobody before.
    let of_login = response.auth.as_ref().map_or("", |auth| auth.display_name.as_str());
    let name = if caller.is_empty() { of_login } else { caller };
    let stored = store(tx, &record, whole_secs(ttl), (&request.path, name), now)?;
    let info = WrapInfo {
        wrapped_accessor: response.auth.map(|a| a.accessor).or(response.accessor).unwrap_or_default(),
        ..stored
    };
    Ok(Response { wrap_info: Some(info), ..Response::default() })
}

/// A token's TTL counts whole seconds, at least one.
fn whole_secs(ttl: Duration) -> u64 {
    ttl.as_secs().max(1)
}

fn store(
    tx: &mut Tx,
    record: &Map<String, Value>,
    ttl_secs: u64,
    (path, display_name): (&str, &str),
    now: Timestamp,
) -> Result<WrapInfo> {
    let issue = Issue {
        policies: vec![RESPONSE_WRAPPING.into()],
        path: path.to_owned(),
        display_name: display_name.to_owned(),
        num_uses: 1,
        ttl_secs,
        explicit_max_ttl_secs: ttl_secs,
        ..Issue::default()
    };
    let token = tokens::new_service_id(tx)?;
    let mut entry = TokenEntry::new(issue, tokens::new_accessor(tx)?, now);
    let id = tokens::store(tx, &token, &mut entry)?;
    cubbyhole::put(tx, &id, RESPONSE, record)?;
    Ok(WrapInfo {
        token: Secret::new(token),
        accessor: entry.accessor,
        ttl_secs,
        creation_time: now.rfc3339(),
        creation_path: path.to_owned(),
        wrapped_accessor: String::new(),
    })
}

/// The waiting answer. Its token ends with this.
pub fn unwrap(tx: &mut Tx, wrapped: &Wrapped) -> Result<Response> {
    let record = take(tx, wrapped)?;
    let status = record.get(STATUS).and_then(Value::as_u64).and_then(|s| u16::try_from(s).ok());
    let answer = json::read(text(&record, RESPONSE).as_bytes())?;
    Ok(Response { status, mount_type: Some(text(&record, MOUNT_TYPE)), ..response_of(answer) })
}

/// Move the waiting answer to a new token with the TTL of the old one, or a shorter one.
pub fn rewrap(
    tx: &mut Tx,
    wrapped: &Wrapped,
    shorter: Option<Duration>,
    caller: &str,
    now: Timestamp,
) -> Result<WrapInfo> {
    let record = take(tx, wrapped)?;
    let ttl_secs = wrapped.entry.creation_ttl_secs.min(shorter.map_or(u64::MAX, whole_secs));
    store(tx, &record, ttl_secs, (&wrapped.entry.path, caller), now)
}

fn take(tx: &mut Tx, wrapped: &Wrapped) -> Result<Map<String, Value>> {
    let record = cubbyhole::get(tx, &wrapped.id, RESPONSE)?.ok_or_else(invalid)?;
    tokens::revoke_tree(tx, &wrapped.id)?;
    Ok(record)
}

/// An answer from its envelope.
fn response_of(mut answer: Map<String, Value>) -> Response {
    let mut response = Response::default();
    if let Some(Value::Object(data)) = answer.remove("data") {
        response.body = Body::Data(data);
    }
    if let Some(Value::Object(auth)) = answer.remove("auth") {
        response.auth = Some(auth_of(auth));
    }
    let lease = Lease {
        id: text(&answer, "lease_id"),
        ttl_secs: number(&answer, "lease_duration"),
        renewable: switch(&answer, "renewable"),
    };
    if !lease.id.is_empty() || lease.ttl_secs > 0 {
        response.lease = Some(lease);
    }
    response.warnings = texts(&answer, "warnings");
    response
}

fn auth_of(auth: Map<String, Value>) -> Auth {
    Auth {
        client_token: Secret::new(text(&auth, "client_token")),
        entity_created: false,
        accessor: text(&auth, "accessor"),
        policies: texts(&auth, "policies"),
        token_policies: texts(&auth, "token_policies"),
        identity_policies: texts(&auth, "identity_policies"),
        no_default_policy: false,
        metadata: auth.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default(),
        display_name: String::new(),
        lease_secs: number(&auth, "lease_duration"),
        renewable: switch(&auth, "renewable"),
        entity_id: text(&auth, "entity_id"),
        token_type: if text(&auth, "token_type") == TokenType::Batch.word() {
            TokenType::Batch
        } else {
            TokenType::Service
        },
        orphan: switch(&auth, "orphan"),
        num_uses: auth.get("num_uses").and_then(Value::as_i64).unwrap_or(0),
    }
}

fn text(m: &Map<String, Value>, name: &str) -> String {
    m.get(name).and_then(Value::as_str).unwrap_or("").to_owned()
}

fn number(m: &Map<String, Value>, name: &str) -> u64 {
    m.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn switch(m: &Map<String, Value>, name: &str) -> bool {
    m.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn texts(m: &Map<String, Value>, name: &str) -> Vec<String> {
    let list = m.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn through_the_envelope(response: &Response) -> Response {
        let text = envelope(response, "an-id", "kv");
        response_of(serde_json::from_slice(&text).unwrap())
    }

    #[test]
    fn an_answer_comes_out_as_it_went_in() {
        let data = json!({"n": 1.50, "big": 12345678901234567890u64, "l": [null, {"k": "ü"}]});
        let mut before = Response::data(data.as_object().unwrap().clone()).warn("careful");
        before.lease = Some(Lease { id: "db/creds/r/x".into(), ttl_secs: 60, renewable: true });
        before.auth = Some(Auth {
            client_token: Secret::new("hvb.x".into()),
            entity_created: false,
            accessor: "a".into(),
            policies: vec!["default".into(), "p".into()],
            token_policies: vec!["default".into()],
            identity_policies: vec!["p".into()],
            no_default_policy: false,
            metadata: json!({"k": "v"}).as_object().unwrap().clone(),
            display_name: String::new(),
            lease_secs: 3600,
            renewable: true,
            entity_id: "e".into(),
            token_type: TokenType::Batch,
            orphan: true,
            num_uses: 7,
        });
        let after = through_the_envelope(&before);
        assert_eq!(envelope(&after, "an-id", "kv"), envelope(&before, "an-id", "kv"));
    }

    #[test]
    fn an_answer_without_data_stays_without() {
        let after = through_the_envelope(&Response::empty().warn("only that"));
        assert!(matches!(after.body, Body::None));
        assert!(after.auth.is_none() && after.lease.is_none());
        assert!(matches!(through_the_envelope(&Response::data(Map::new())).body, Body::Data(m) if m.is_empty()));
    }
}
