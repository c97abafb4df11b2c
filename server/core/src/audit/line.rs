//! The audit lines, in the reference's JSON form.

use std::borrow::Cow;
use std::io::Write;

use hmac::{KeyInit, Mac};
use holdfast_chain::Checkpoint;
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Auth, Body, Error, Headers, Map, Operation, Response, Timestamp, Value, json};

use super::device::Device;
use super::options::Shape;
use super::own::{Act, Shown};
use crate::clock;
use crate::router::BUILTIN_VERSION;
use crate::settings::AuditedHeaders;

/// Of a usual request.
const COMMON_BYTES: usize = 1536;

type HmacSha256 = hmac::Hmac<sha2::Sha256>;

/// Hashes values with a device's salt.
#[derive(Clone)]
pub struct Hasher {
    keyed: HmacSha256,
    pub raw: bool,
    pub hmac_accessor: bool,
    pub elide_lists: bool,
}

impl Hasher {
    pub fn new(salt: &str, shape: &Shape) -> Hasher {
        let Shape { raw, hmac_accessor, elide_lists, .. } = *shape;
        let keyed = match HmacSha256::new_from_slice(salt.as_bytes()) {
            Ok(h) => h,
            // HMAC takes keys of every length.
            Err(_) => unreachable!(),
        };
        Hasher { keyed, raw, hmac_accessor, elide_lists }
    }

    /// `hmac-sha256:` and 64 hex digits.
    pub fn hash(&self, text: &str) -> String {
        let mut out = b"hmac-sha256:".to_vec();
        self.hash_onto(text, &mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    fn hash_onto(&self, text: &str, out: &mut Vec<u8>) {
        let mut mac = self.keyed.clone();
        mac.update(text.as_bytes());
        let mut digits = [0; 64];
        // It has the room that they need.
        let _cannot_fail = hex::encode_to_slice(mac.finalize().into_bytes(), &mut digits);
        out.extend_from_slice(&digits);
    }

    fn secret(&self, text: &str, out: &mut Vec<u8>) {
        if self.raw {
            return string(text, out);
        }
        if text.is_empty() {
            out.extend_from_slice(b"\"\"");
            return;
        }
        out.extend_from_slice(b"\"hmac-sha256:");
        self.hash_onto(text, out);
        out.push(b'"');
    }

    fn accessor(&self, text: &str, out: &mut Vec<u8>) {
        if self.hmac_accessor { self.secret(text, out) } else { string(text, out) }
    }

    fn value(&self, value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::String(s) => self.secret(s, out),
            Value::Array(items) => {
                out.push(b'[');
                for (i, v) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    self.value(v, out);
                }
                out.push(b']');
            }
            Value::Object(map) => self.map(map, &[], out),
            other => json::write_value(other, out),
        }
    }

    fn map(&self, map: &Map<String, Value>, plain: &[String], out: &mut Vec<u8>) {
        out.push(b'{');
        for (i, (k, v)) in map.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            string(k, out);
            out.push(b':');
            if plain.iter().any(|p| p == k) {
                json::write_value(v, out);
            } else {
                self.value(v, out);
            }
        }
        out.push(b'}');
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    json::write_text(text, out);
}

/// What is known of a token.
pub struct TokenFacts {
    pub token: Secret<String>,
    pub accessor: String,
    pub display_name: String,
    pub policies: Vec<String>,
    pub metadata: Vec<(String, String)>,
    pub entity_id: String,
    pub token_type: &'static str,
    pub ttl_secs: u64,
    pub issue_time: String,
    /// As Vault counts clients.
    pub client_id: String,
}

/// A token as it stands in lines, ready for each device that there was when it was first used.
pub struct KnownToken {
    devices: Vec<(u64, Texts)>,
    facts: TokenFacts,
    /// The policies as JSON.
    policies: Vec<u8>,
}

#[derive(Clone)]
struct Texts {
    /// The members of `auth` before the policies and behind `policy_results`.
    before: Vec<u8>,
    behind: Vec<u8>,
    /// The members of `request` that tell about the token.
    request: Vec<u8>,
}

impl KnownToken {
    pub(super) fn new<'d>(devices: impl Iterator<Item = &'d Device>, facts: TokenFacts) -> KnownToken {
        KnownToken {
            devices: devices.map(|d| (d.number, texts(&d.hasher, &facts))).collect(),
            policies: serde_json::to_vec(&facts.policies).unwrap_or_default(),
            facts,
        }
    }

    fn texts(&self, device: &Device) -> Cow<'_, Texts> {
        match self.devices.iter().find(|(number, _)| *number == device.number) {
            Some((_, texts)) => Cow::Borrowed(texts),
            None => Cow::Owned(texts(&device.hasher, &self.facts)),
        }
    }
}

fn texts(h: &Hasher, f: &TokenFacts) -> Texts {
    let (mut before, mut behind, mut request) = (Vec::new(), Vec::new(), Vec::new());
    let mut o = Object::inside(&mut before);
    h.secret(f.token.expose(), o.key("client_token"));
    // A batch token has none.
    if !f.accessor.is_empty() {
        h.accessor(&f.accessor, o.key("accessor"));
    }
    o.text("display_name", &f.display_name);
    let mut o = Object { out: &mut behind, first: false };
    if !f.metadata.is_empty() {
        let map: Map<String, Value> = f.metadata.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        let _cannot_fail = serde_json::to_writer(o.key("metadata"), &map);
    }
    o.text("entity_id", &f.entity_id);
    o.text("token_type", f.token_type);
    if f.ttl_secs > 0 {
        o.number("token_ttl", f.ttl_secs.into());
    }
    o.text("token_issue_time", &f.issue_time);
    let mut o = Object { out: &mut request, first: false };
    o.text("client_id", &f.client_id);
    h.secret(f.token.expose(), o.key("client_token"));
    if !f.accessor.is_empty() {
        h.accessor(&f.accessor, o.key("client_token_accessor"));
    }
    Texts { before, behind, request }
}

/// Who asked, as far as it is known.
#[derive(Default, Clone)]
pub struct AuthFacts {
    pub token: Option<std::sync::Arc<KnownToken>>,
    /// A token that was presented and is not known.
    pub presented: Option<String>,
    pub allowed: bool,
    pub granting: std::sync::Arc<[std::sync::Arc<str>]>,
    /// The id of the namespace that they are of; none: the root.
    pub policies_of: Option<String>,
    /// Policies that the token's entity has at this moment.
    pub identity_policies: std::sync::Arc<[String]>,
    /// Of a token with a limited number of them, this one too.
    pub remaining_uses: Option<i64>,
}

/// What was asked.
pub struct RequestFacts<'a> {
    pub id: &'a str,
    pub operation: Operation,
    pub path: &'a str,
    pub data: &'a Map<String, Value>,
    pub mount_point: &'a str,
    pub mount_type: &'a str,
    pub mount_accessor: &'a str,
    pub mount_class: &'a str,
    /// Its id, and its path.
    pub namespace: &'a str,
    pub namespace_path: &'a str,
    pub remote: Option<std::net::SocketAddr>,
    pub wrap_ttl_secs: u64,
    pub headers: &'a Headers,
    pub audited_headers: &'a AuditedHeaders,
    pub certificate_serial: Option<&'a str>,
    pub plain_request_keys: &'a [String],
    pub plain_response_keys: &'a [String],
    /// The client asked to override policies that may be overridden. There are none here: that it did is told.
    pub policy_override: bool,
    /// `host:port` of the member that passed the request on; empty: it came from its client.
    pub forwarded_from: &'a str,
    /// The node that answers, where that is one that stands by.
    pub node: &'a str,
}

/// Writes the members of an object with commas between them.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    /// The members alone, without braces.
    fn inside(out: &'a mut Vec<u8>) -> Self {
        Object { out, first: true }
    }
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, first: true }
    }
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }
    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            string(value, self.key(name));
        }
    }
    fn number(&mut self, name: &str, value: i128) {
        let _cannot_fail = write!(self.key(name), "{value}");
    }
    fn close(self) {
        self.out.push(b'}');
    }
}

/// What stands before the line, and its first members.
fn head<'a>(device: &Device, kind: &str, now: Timestamp, out: &'a mut Vec<u8>) -> Object<'a> {
    out.extend_from_slice(device.prefix());
    let mut o = Object::open(out);
    o.text("time", &now.rfc3339());
    o.text("type", kind);
    o
}

fn auth(device: &Device, a: &AuthFacts, out: &mut Vec<u8>) {
    let Some(known) = &a.token else {
        let allowed: &[u8] = if a.allowed { b"\"policy_results\":{\"allowed\":true}," } else { b"" };
        out.push(b'{');
        out.extend_from_slice(allowed);
        out.extend_from_slice(b"\"token_type\":\"default\"}");
        return;
    };
    let texts = known.texts(device);
    out.push(b'{');
    out.extend_from_slice(&texts.before);
    policies(known, &a.identity_policies, out);
    let _cannot_fail = write!(out, ",\"policy_results\":{{\"allowed\":{}", a.allowed);
    if !a.granting.is_empty() {
        out.extend_from_slice(b",\"granting_policies\":[");
        for (i, name) in a.granting.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"name\":");
            string(name, out);
            out.extend_from_slice(b",\"namespace_id\":");
            string(a.policies_of.as_deref().unwrap_or("root"), out);
            out.extend_from_slice(b",\"type\":\"acl\"}");
        }
        out.push(b']');
    }
    out.push(b'}');
    if let Some(left) = a.remaining_uses {
        let _cannot_fail = write!(out, ",\"remaining_uses\":{left}");
    }
    out.extend_from_slice(&texts.behind);
    out.push(b'}');
}

/// The policies of a request: all of them, the token's own, its entity's. An entity has those of its own namespace and no
/// other, so that `external_namespace_policies`, which processors of Vault's lines know, is never there.
fn policies(token: &KnownToken, of_entity: &[String], out: &mut Vec<u8>) {
    let mut o = Object { out, first: false };
    if of_entity.is_empty() {
        o.key("policies").extend_from_slice(&token.policies);
        o.key("token_policies").extend_from_slice(&token.policies);
        return;
    }
    let mut all: Vec<&String> = token.facts.policies.iter().chain(of_entity).collect();
    all.sort();
    all.dedup();
    let _cannot_fail = serde_json::to_writer(o.key("policies"), &all);
    o.key("token_policies").extend_from_slice(&token.policies);
    let _cannot_fail = serde_json::to_writer(o.key("identity_policies"), of_entity);
}

fn request(device: &Device, a: &AuthFacts, r: &RequestFacts<'_>, out: &mut Vec<u8>) {
    let h = &device.hasher;
    let mut o = Object::open(out);
    o.text("id", r.id);
    o.text("operation", r.operation.word());
    o.text("mount_point", r.mount_point);
    o.text("mount_type", r.mount_type);
    o.text("mount_accessor", r.mount_accessor);
    if !r.mount_type.is_empty() {
        o.text("mount_running_version", BUILTIN_VERSION);
    }
    o.text("mount_class", r.mount_class);
    if let Some(known) = &a.token {
        o.out.extend_from_slice(&known.texts(device).request);
    } else if let Some(token) = &a.presented {
        h.secret(token, o.key("client_token"));
    }
    let mut namespace = Object::open(o.key("namespace"));
    namespace.text("id", r.namespace);
    namespace.text("path", r.namespace_path);
    namespace.close();
    o.text("path", r.path);
    if !r.data.is_empty() {
        h.map(r.data, r.plain_request_keys, o.key("data"));
    }
    if r.policy_override {
        o.key("policy_override").extend_from_slice(b"true");
    }
    if let Some(remote) = r.remote {
        o.text("remote_address", &remote.ip().to_string());
        o.number("remote_port", remote.port().into());
    }
    if r.wrap_ttl_secs > 0 {
        o.number("wrap_ttl", r.wrap_ttl_secs.into());
    }
    headers(h, r, &mut o);
    o.text("client_certificate_serial_number", r.certificate_serial.unwrap_or(""));
    o.text("node", r.node);
    o.close();
}

/// Those that the log shall show, each with all of its values.
fn headers(h: &Hasher, r: &RequestFacts<'_>, o: &mut Object<'_>) {
    let present = |name: &&str| r.headers.iter().any(|(n, _)| n == name);
    let mut shown = r.audited_headers.names().filter(present).peekable();
    if shown.peek().is_none() {
        return;
    }
    let mut members = Object::open(o.key("headers"));
    for name in shown {
        let hashed = r.audited_headers.hmac(name) == Some(true);
        let list = members.key(name);
        list.push(b'[');
        for (i, (_, value)) in r.headers.iter().filter(|(n, _)| n == name).enumerate() {
            if i > 0 {
                list.push(b',');
            }
            if hashed { h.secret(value, list) } else { string(value, list) }
        }
        list.push(b']');
    }
    members.close();
}

/// What both lines of a request have, as one device shows it: the members `auth` and `request`.
#[derive(Clone)]
pub struct Common {
    bytes: Vec<u8>,
    /// Where the second one begins.
    request_at: usize,
}

impl Common {
    pub fn of(device: &Device, a: &AuthFacts, r: &RequestFacts<'_>) -> Common {
        let mut bytes = Vec::with_capacity(COMMON_BYTES);
        auth(device, a, &mut bytes);
        let request_at = bytes.len();
        request(device, a, r, &mut bytes);
        Common { bytes, request_at }
    }

    fn auth(&self) -> &[u8] {
        &self.bytes[..self.request_at]
    }

    fn request(&self) -> &[u8] {
        &self.bytes[self.request_at..]
    }
}

/// The line before a request is handled, with its line end.
pub fn request_line(
    device: &Device,
    now: Timestamp,
    common: &Common,
    r: &RequestFacts<'_>,
    error: Option<&Error>,
    out: &mut Vec<u8>,
) {
    let mut o = head(device, "request", now, out);
    o.key("auth").extend_from_slice(common.auth());
    o.key("request").extend_from_slice(common.request());
    o.text("error", &error.and_then(class).unwrap_or_default());
    o.text("forwarded_from", r.forwarded_from);
    o.close();
    out.push(b'\n');
}

/// The line before a request is answered, with its line end.
pub fn response_line(
    device: &Device,
    now: Timestamp,
    common: &Common,
    (a, r): (&AuthFacts, &RequestFacts<'_>),
    answer: Result<&Response, &Error>,
    out: &mut Vec<u8>,
) {
    let h = &device.hasher;
    let mut o = head(device, "response", now, out);
    match answer.ok().and_then(|response| response.auth.as_ref()).filter(|_| a.token.is_none()) {
        // Who has logged in is known now.
        Some(of_login) => new_auth(h, of_login, of_login.entity_created, o.key("auth")),
        None => o.key("auth").extend_from_slice(common.auth()),
    }
    o.key("request").extend_from_slice(common.request());
    let mut shown = Object::open(o.key("response"));
    shown.text("mount_point", r.mount_point);
    shown.text("mount_type", r.mount_type);
    shown.text("mount_accessor", r.mount_accessor);
    if !r.mount_type.is_empty() {
        shown.text("mount_running_plugin_version", BUILTIN_VERSION);
    }
    shown.text("mount_class", r.mount_class);
    match answer {
        Ok(response) => body(h, r, response, &mut shown),
        Err(e) => {
            let text = e.to_string();
            if class(e).is_some() && !text.is_empty() {
                let mut data = Object::open(shown.key("data"));
                h.secret(&text, data.key("error"));
                data.close();
            }
        }
    }
    shown.close();
    if let Err(e) = answer {
        o.text("error", &class(e).unwrap_or_default());
    }
    if !r.forwarded_from.is_empty() {
        // By whom, the request's line says.
        o.key("forwarded").extend_from_slice(b"true");
    }
    o.close();
    out.push(b'\n');
}

/// Both lines of what the server did by itself, with their line ends. `again`: they may be there already.
pub fn own_lines(device: &Device, act: &Act, again: bool, out: &mut Vec<u8>) {
    for kind in ["request", "response"] {
        let mut o = head(device, kind, act.time(), out);
        // No client can write these: a line with them is the server's own.
        o.text("actor", "system");
        o.text("cause", &act.cause);
        if again {
            o.key("recovered").extend_from_slice(b"true");
        }
        o.key("auth").extend_from_slice(
            b"{\"display_name\":\"system\",\"policy_results\":{\"allowed\":true},\"token_type\":\"default\"}",
        );
        let mut request = Object::open(o.key("request"));
        request.text("id", &act.id);
        request.text("operation", &act.operation);
        request.text("mount_point", &act.mount_point);
        let mut namespace = Object::open(request.key("namespace"));
        namespace.text("id", &act.namespace_id);
        namespace.text("path", &act.namespace_path);
        namespace.close();
        request.text("path", &act.path);
        own_data(&device.hasher, &act.data, None, &mut request);
        request.close();
        if kind == "response" {
            let mut response = Object::open(o.key("response"));
            response.text("mount_point", &act.mount_point);
            own_data(&device.hasher, &act.outcome, act.error.as_deref(), &mut response);
            response.close();
            o.text("error", act.error.as_ref().map_or("", |_| "it failed"));
        }
        o.close();
        out.push(b'\n');
    }
}

fn own_data(h: &Hasher, members: &[(String, Shown)], error: Option<&str>, of: &mut Object<'_>) {
    if members.is_empty() && error.is_none() {
        return;
    }
    let mut data = Object::open(of.key("data"));
    for (name, shown) in members {
        match shown {
            Shown::Plain(text) => string(text, data.key(name)),
            Shown::Hashed(text) => h.secret(text, data.key(name)),
            Shown::Accessor(text) => h.accessor(text, data.key(name)),
            Shown::Number(n) => data.number(name, (*n).into()),
        }
    }
    if let Some(error) = error {
        h.secret(error, data.key("error"));
    }
    data.close();
}

/// The line that a new device is tried with, with its line end.
pub fn test_line(prefix: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix.as_bytes());
    let mut o = Object::open(out);
    o.text("time", &clock::now().rfc3339());
    o.text("type", "request");
    o.key("auth").extend_from_slice(b"{\"token_type\":\"default\"}");
    let mut request = Object::open(o.key("request"));
    if let Ok(id) = crate::random::uuid() {
        request.text("id", &crate::random::uuid_text(&id));
    }
    request.text("operation", "update");
    request.key("namespace").extend_from_slice(b"{\"id\":\"root\"}");
    request.text("path", "sys/audit/test");
    request.close();
    o.close();
    out.push(b'\n');
}

/// The line that seals those before it, with its line end.
pub fn checkpoint_line(prefix: &str, checkpoint: &Checkpoint, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix.as_bytes());
    let mut o = Object::open(out);
    o.text("time", &checkpoint.time);
    o.text("type", "checkpoint");
    // Whoever reads lines of Vault looks for these.
    o.key("auth").extend_from_slice(b"{\"token_type\":\"default\"}");
    o.key("request").extend_from_slice(
        b"{\"operation\":\"update\",\"namespace\":{\"id\":\"root\"},\"path\":\"sys/audit/checkpoint\"}",
    );
    let _cannot_fail = serde_json::to_writer(o.key("checkpoint"), checkpoint);
    o.close();
    out.push(b'\n');
}

/// What a line says of a failure in plain. What the client was told may repeat what it has sent: that is hashed.
/// None: that nothing was found is no failure.
fn class(e: &Error) -> Option<Cow<'static, str>> {
    let one = |text: &str| Some(Cow::Owned(format!("1 error occurred:\n\t* {text}\n\n")));
    match e {
        Error::NotFound => None,
        Error::PermissionDenied | Error::Status(403, _) => one("permission denied"),
        Error::LoginRefused(_) => Some(Cow::Borrowed("invalid credentials")),
        Error::UnsupportedOperation | Error::Status(405, _) => one("unsupported operation"),
        Error::UnsupportedPath | Error::Status(404, _) => one("unsupported path"),
        Error::Status(429, _) => one("quota exceeded"),
        Error::BadRequest(_) | Error::Status(400..=499, _) => one("invalid request"),
        other => Some(Cow::Owned(other.to_string())),
    }
}

/// A token that the answer hands out; where it stands for the caller, that the entity is new is told too.
fn new_auth(h: &Hasher, auth: &Auth, entity_created: bool, out: &mut Vec<u8>) {
    let mut a = Object::open(out);
    // Whoever renews by an accessor is not told the token.
    if !auth.client_token.expose().is_empty() {
        h.secret(auth.client_token.expose(), a.key("client_token"));
    }
    if !auth.accessor.is_empty() {
        h.accessor(&auth.accessor, a.key("accessor"));
    }
    a.text("display_name", &auth.display_name);
    let _cannot_fail = serde_json::to_writer(a.key("policies"), &auth.policies);
    let _cannot_fail = serde_json::to_writer(a.key("token_policies"), &auth.token_policies);
    if !auth.identity_policies.is_empty() {
        let _cannot_fail = serde_json::to_writer(a.key("identity_policies"), &auth.identity_policies);
    }
    if auth.no_default_policy {
        a.key("no_default_policy").extend_from_slice(b"true");
    }
    if !auth.metadata.is_empty() {
        json::write_map(&auth.metadata, a.key("metadata"));
    }
    if auth.num_uses > 0 {
        a.number("num_uses", auth.num_uses.into());
    }
    a.text("entity_id", &auth.entity_id);
    if entity_created {
        a.key("entity_created").extend_from_slice(b"true");
    }
    a.text("token_type", auth.token_type.word());
    if auth.lease_secs > 0 {
        a.number("token_ttl", auth.lease_secs.into());
    }
    a.close();
}

fn body(h: &Hasher, r: &RequestFacts<'_>, response: &Response, o: &mut Object<'_>) {
    if let Some(auth) = &response.auth {
        new_auth(h, auth, false, o.key("auth"));
    }
    if let Some(w) = &response.wrap_info {
        let mut i = Object::open(o.key("wrap_info"));
        i.number("ttl", w.ttl_secs.into());
        h.secret(w.token.expose(), i.key("token"));
        h.accessor(&w.accessor, i.key("accessor"));
        i.text("creation_time", &w.creation_time);
        i.text("creation_path", &w.creation_path);
        if !w.wrapped_accessor.is_empty() {
            h.accessor(&w.wrapped_accessor, i.key("wrapped_accessor"));
        }
        i.close();
    } else if let Body::Data(map) | Body::Both(map) | Body::Bare(map) = &response.body {
        let listing = matches!(r.operation, Operation::List | Operation::Scan);
        if h.elide_lists && listing {
            let counted: Map<String, Value> = map
                .iter()
                .map(|(k, v)| {
                    let count = match v {
                        Value::Array(a) if k == "keys" => Value::from(a.len()),
                        Value::Object(m) if k == "key_info" => Value::from(m.len()),
                        other => other.clone(),
                    };
                    (k.clone(), count)
                })
                .collect();
            h.map(&counted, r.plain_response_keys, o.key("data"));
        } else {
            h.map(map, r.plain_response_keys, o.key("data"));
        }
    }
    if let Body::Raw { content_type, bytes } = &response.body {
        let mut data = Object::open(o.key("data"));
        h.secret(content_type, data.key("http_content_type"));
        h.secret(&String::from_utf8_lossy(bytes), data.key("http_raw_body"));
        data.number("http_status_code", response.status.unwrap_or(200).into());
        data.close();
    }
    if let Some(lease) = &response.lease {
        let mut secret = Object::open(o.key("secret"));
        secret.text("lease_id", &lease.id);
        secret.close();
    }
    if !response.warnings.is_empty() {
        let _cannot_fail = serde_json::to_writer(o.key("warnings"), &response.warnings);
    }
}
