//! `identity/mfa/method/*`: kinds of second factors.
//!
//! Codes (TOTP) are checked here. Duo, Okta and PingID are configured as clients expect it, and no login passes by
//! them: nothing of this server asks these services.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::{Call, Error, Map, Place, Response, Result, Routes, Transaction, Value, parameters, record};
use minicbor::{Decode, Encode};

use super::totp::{Algorithm, Form};
use super::{R, enforcements, id_of};
use crate::identity::{IdentityBackend, map};
use crate::layout::{IDENTITY, NamespaceId, SYSTEM, identity::MFA_METHOD};
use crate::namespaces;
use crate::random::{self, uuid_text};
use crate::tx::Tx;

/// Methods of a namespace.
const MOST: usize = 1000;

#[derive(Clone, Encode, Decode)]
pub struct Method {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// What it may be called instead of its id; empty: it has none.
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub kind: Kind,
}
holdfast_sdk::record!(Method);

#[derive(Clone, Encode, Decode)]
pub enum Kind {
    #[n(0)]
    Totp(#[n(0)] Totp),
    #[n(1)]
    Duo(#[n(0)] Duo),
    #[n(2)]
    Okta(#[n(0)] Okta),
    #[n(3)]
    PingId(#[n(0)] PingId),
}

#[derive(Clone, Encode, Decode)]
pub struct Totp {
    /// Whose codes they are, as apps show it.
    #[n(0)]
    pub issuer: String,
    #[n(1)]
    pub form: Form,
    #[n(2)]
    pub key_bytes: u64,
    /// Pixels of the image; 0: none.
    #[n(3)]
    pub qr_pixels: u64,
    #[n(4)]
    pub attempts: u64,
}

#[derive(Clone, Encode, Decode)]
pub struct Duo {
    #[n(0)]
    username_format: String,
    #[n(1)]
    secret_key: String,
    #[n(2)]
    integration_key: String,
    #[n(3)]
    api_hostname: String,
    #[n(4)]
    push_info: String,
    #[n(5)]
    use_passcode: bool,
}

#[derive(Clone, Encode, Decode)]
pub struct Okta {
    #[n(0)]
    username_format: String,
    #[n(1)]
    org_name: String,
    #[n(2)]
    api_token: String,
    #[n(3)]
    base_url: String,
    #[n(4)]
    primary_email: bool,
}

#[derive(Clone, Encode, Decode)]
pub struct PingId {
    #[n(0)]
    username_format: String,
    /// The lines of the settings' file.
    #[n(1)]
    settings: Vec<(String, String)>,
}

impl Kind {
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Totp(_) => "totp",
            Kind::Duo(_) => "duo",
            Kind::Okta(_) => "okta",
            Kind::PingId(_) => "pingid",
        }
    }

    /// Whether a login needs a code for it.
    pub fn uses_passcode(&self) -> bool {
        match self {
            Kind::Totp(_) => true,
            Kind::Duo(duo) => duo.use_passcode,
            Kind::Okta(_) | Kind::PingId(_) => false,
        }
    }

    /// Without secrets.
    fn shown(&self) -> Map<String, Value> {
        match self {
            Kind::Totp(t) => map([
                ("issuer", t.issuer.clone().into()),
                ("period", t.form.period_secs.into()),
                ("digits", t.form.digits.into()),
                ("skew", t.form.skew.into()),
                ("algorithm", t.form.algorithm.name().into()),
                ("key_size", t.key_bytes.into()),
                ("qr_size", t.qr_pixels.into()),
                ("max_validation_attempts", t.attempts.into()),
            ]),
            Kind::Duo(d) => map([
                ("mount_accessor", "".into()),
                ("username_format", d.username_format.clone().into()),
                ("api_hostname", d.api_hostname.clone().into()),
                ("pushinfo", d.push_info.clone().into()),
                ("use_passcode", d.use_passcode.into()),
            ]),
            Kind::Okta(o) => map([
                ("mount_accessor", "".into()),
                ("username_format", o.username_format.clone().into()),
                ("org_name", o.org_name.clone().into()),
                ("base_url", o.base_url.clone().into()),
            ]),
            Kind::PingId(p) => {
                let setting = |name: &str| p.settings.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v);
                map([
                    ("use_signature", (setting("use_signature") == "true").into()),
                    ("idp_url", setting("idp_url").into()),
                    ("org_alias", setting("org_alias").into()),
                    ("admin_url", setting("admin_url").into()),
                    ("authenticator_url", setting("authenticator_url").into()),
                ])
            }
        }
    }
}

fn shown(tx: &mut Tx, namespace: NamespaceId, method: &Method) -> Result<Map<String, Value>> {
    let (id, path) = tx.within(SYSTEM.of(namespace), |tx| {
        Ok::<_, Error>((namespaces::id(tx)?, namespaces::path_of(tx, namespace)?))
    })?;
    let mut m = method.kind.shown();
    m.extend(map([
        ("type", method.kind.word().into()),
        ("id", uuid_text(&method.id).into()),
        ("name", method.name.clone().into()),
        ("namespace_id", id.into()),
        ("namespace_path", path.into()),
    ]));
    Ok(m)
}

fn of_namespace(tx: &mut Tx, id: &[u8; 16]) -> Result<Option<Method>> {
    tx.within(IDENTITY, |tx| record::get(tx, Place::Ordered(MFA_METHOD, id)))
}

/// A method by its id, of this namespace or of one above it, and whose it is.
pub fn find(tx: &mut Tx, id: &[u8; 16]) -> Result<Option<(NamespaceId, Method)>> {
    for namespace in namespaces::upwards(tx)? {
        if let Some(method) = tx.within(SYSTEM.of(namespace), |tx| of_namespace(tx, id))? {
            return Ok(Some((namespace, method)));
        }
    }
    Ok(None)
}

/// All methods that count in this namespace, with those above it.
fn visible(tx: &mut Tx) -> Result<Vec<(NamespaceId, Method)>> {
    let mut found = Vec::new();
    for namespace in namespaces::upwards(tx)? {
        let own = tx.within(IDENTITY.of(namespace), |tx| tx.ordered(MFA_METHOD, &[], &[], MOST))?;
        for (_, bytes) in own {
            found.push((namespace, record::read(&bytes)?));
        }
    }
    Ok(found)
}

parameters! {
    pub struct WriteTotp {
        /// What it may be called instead of its id.
        method_name: Option<String>,
        /// Whose codes they are, as apps show it.
        issuer: Option<String>,
        /// How long a code counts; 30 seconds where none is given.
        period: Option<Seconds>,
        /// Bytes of a secret; 20 where none is given.
        key_size: Option<i64>,
        /// Pixels of the image for apps; 200 where none is given, 0: no image.
        qr_size: Option<i64>,
        /// SHA1, SHA256 or SHA512.
        algorithm: Option<String>,
        /// 6 or 8.
        digits: Option<i64>,
        /// Periods before and behind the present one that count too: 0 or 1.
        skew: Option<i64>,
        /// Codes that may be tried in a period; 5 where none is given.
        max_validation_attempts: Option<i64>,
    }
}
parameters! {
    pub struct WriteDuo {
        /// What it may be called instead of its id.
        method_name: Option<String>,
        /// How a user is called there, with values of the entity.
        username_format: Option<String>,
        /// The integration's secret.
        secret_key: Option<String>,
        /// The integration's key.
        integration_key: Option<String>,
        /// The host of the API.
        api_hostname: Option<String>,
        /// Shown with a push.
        push_info: Option<String>,
        /// Whether a code is asked for instead of a push.
        use_passcode: Option<bool>,
    }
}
parameters! {
    pub struct WriteOkta {
        /// What it may be called instead of its id.
        method_name: Option<String>,
        /// How a user is called there, with values of the entity.
        username_format: Option<String>,
        /// The organisation.
        org_name: Option<String>,
        /// A token of the API.
        api_token: Option<String>,
        /// The domain of the API.
        base_url: Option<String>,
        /// Whether only the first address of a user counts.
        primary_email: Option<bool>,
        /// The old form of base_url.
        production: Option<bool>,
    }
}
parameters! {
    pub struct WritePingId {
        /// What it may be called instead of its id.
        method_name: Option<String>,
        /// How a user is called there, with values of the entity.
        username_format: Option<String>,
        /// The settings' file, in base64.
        settings_file_base64: Option<String>,
    }
}

pub fn routes(routes: R) -> R {
    let routes = routes.path("mfa/method", "List the second factors.", |p| p.list(list));
    let routes = kind(routes, "totp", write_totp);
    let routes = kind(routes, "duo", write_duo);
    let routes = kind(routes, "okta", write_okta);
    let routes = kind(routes, "pingid", write_pingid);
    routes.path("mfa/method/{method_id}", "Read a second factor.", |p| p.read(read))
}

type Write<P> = fn(&IdentityBackend, &mut Tx, &Call<'_>, P) -> Result<Response>;

/// The routes of the methods of a kind.
fn kind<P: holdfast_sdk::Parameters + 'static>(routes: R, kind: &str, write: Write<P>) -> Routes<IdentityBackend, Tx> {
    let all = format!("mfa/method/{kind}");
    routes.path(&all, "List the second factors of a kind, and make one.", |p| p.list(list).update(write)).path(
        &format!("{all}/{{method_id}}"),
        "Read, write and delete a second factor.",
        |p| p.read(read).update(write).delete(delete),
    )
}

/// The kind that a route is about; none: all.
fn kind_of<'c>(call: &'c Call<'_>) -> Option<&'c str> {
    let rest = call.path.strip_prefix("mfa/method/")?;
    let first = rest.split('/').next().filter(|f| !f.is_empty())?;
    (random::parse_uuid(first).is_none()).then_some(first)
}

fn list(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let kind = kind_of(call);
    let (mut keys, mut info) = (Vec::new(), Map::new());
    for (namespace, method) in visible(tx)? {
        if kind.is_none_or(|k| k == method.kind.word()) {
            keys.push(uuid_text(&method.id));
            info.insert(uuid_text(&method.id), Value::Object(shown(tx, namespace, &method)?));
        }
    }
    let mut response = Response::list(keys)?;
    if let holdfast_sdk::Body::Data(data) = &mut response.body {
        data.insert("key_info".into(), Value::Object(info));
    }
    Ok(response)
}

fn read(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let (namespace, method) = find(tx, &id_of(call.capture("method_id"))?)?.ok_or(Error::NotFound)?;
    if let Some(kind) = kind_of(call).filter(|k| *k != method.kind.word()) {
        return Err(Error::bad_request(format!("failed to find the method ID under MFA type {kind}.")));
    }
    Ok(Response::data(shown(tx, namespace, &method)?))
}

/// The method that a write is about: by its id, or by its name; none: a new one.
fn before(tx: &mut Tx, call: &Call<'_>, name: Option<&str>) -> Result<Option<Method>> {
    match call.captures.get("method_id") {
        Some(id) => of_namespace(tx, &id_of(id)?)?.ok_or(Error::NotFound).map(Some),
        None => {
            let here = tx.namespace();
            let own = visible(tx)?.into_iter().filter(|(namespace, _)| *namespace == here).map(|(_, m)| m);
            let own: Vec<Method> = own.collect();
            if let Some(name) = name.filter(|n| !n.is_empty())
                && let Some(found) = own.iter().find(|m| m.name == name)
            {
                return Ok(Some(found.clone()));
            }
            if own.len() >= MOST {
                return Err(Error::bad_request(format!("a namespace has room for {MOST} second factors")));
            }
            Ok(None)
        }
    }
}

fn save(tx: &mut Tx, call: &Call<'_>, name: Option<String>, kind: Kind) -> Result<Response> {
    let before = before(tx, call, name.as_deref())?;
    if before.as_ref().is_some_and(|b| b.kind.word() != kind.word()) {
        return Err(Error::bad_request("the method is of another type"));
    }
    let method = match before {
        Some(b) => Method { name: name.unwrap_or(b.name), kind, ..b },
        None => Method { id: random::uuid()?, name: name.unwrap_or_default(), kind },
    };
    tx.within(IDENTITY, |tx| record::put(tx, Place::Ordered(MFA_METHOD, &method.id), &method))?;
    match call.captures.get("method_id") {
        Some(_) => Ok(Response::empty()),
        None => Ok(Response::data(map([("method_id", uuid_text(&method.id).into())]))),
    }
}

/// A text that has to be there.
fn needed(given: Option<String>, why: &str) -> Result<String> {
    given.filter(|text| !text.is_empty()).ok_or_else(|| Error::bad_request(why))
}

fn write_totp(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: WriteTotp) -> Result<Response> {
    let refuse = |why: &str| Err(Error::bad_request(why));
    let issuer = needed(p.issuer, "issuer must be set")?;
    let algorithm = match Algorithm::named(p.algorithm.as_deref().unwrap_or("SHA1")) {
        Some(algorithm) => algorithm,
        None => return refuse("unrecognized algorithm"),
    };
    let digits = match p.digits.unwrap_or(6) {
        6 => 6,
        8 => 8,
        _ => return refuse("digits can only be 6 or 8"),
    };
    let period_secs = match p.period.map_or(30, |s| s.0) {
        0 => return refuse("period must be greater than zero"),
        secs => match u64::try_from(secs) {
            Ok(secs) if secs <= LONGEST_PERIOD_SECS => secs,
            Ok(_) => return refuse("a code may count for an hour at most"),
            Err(_) => return refuse("error converting input for field \"period\": it is negative"),
        },
    };
    let key_bytes = match p.key_size.unwrap_or(20) {
        ..1 => return refuse("key_size must be greater than zero"),
        bytes @ 1..=MOST_KEY_BYTES => bytes.unsigned_abs(),
        _ => return refuse("key_size is too large"),
    };
    let skew = match p.skew.unwrap_or(1) {
        skew @ 0..=1 => skew.unsigned_abs(),
        _ => return refuse("skew must be 0 or 1"),
    };
    let attempts = match p.max_validation_attempts.unwrap_or(0) {
        ..0 => return refuse("max_validation_attempts must be greater than zero"),
        0 => 5,
        attempts => attempts.unsigned_abs(),
    };
    let qr_pixels = u64::try_from(p.qr_size.unwrap_or(200)).unwrap_or(0);
    let form = Form { algorithm, digits, period_secs, skew };
    save(tx, call, p.method_name, Kind::Totp(Totp { issuer, form, key_bytes, qr_pixels, attempts }))
}

/// Of a code.
const LONGEST_PERIOD_SECS: u64 = 3600;
/// A longer key than a hash's block is hashed to one.
const MOST_KEY_BYTES: i64 = 128;

fn write_duo(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: WriteDuo) -> Result<Response> {
    let duo = Duo {
        secret_key: needed(p.secret_key, "secret_key is empty")?,
        integration_key: needed(p.integration_key, "integration_key is empty")?,
        api_hostname: needed(p.api_hostname, "api_hostname is empty")?,
        username_format: p.username_format.unwrap_or_default(),
        push_info: p.push_info.unwrap_or_default(),
        use_passcode: p.use_passcode.unwrap_or(false),
    };
    save(tx, call, p.method_name, Kind::Duo(duo))
}

fn write_okta(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: WriteOkta) -> Result<Response> {
    let okta = Okta {
        org_name: needed(p.org_name, "org_name must be set")?,
        api_token: needed(p.api_token, "api_token must be set")?,
        username_format: p.username_format.unwrap_or_default(),
        base_url: p.base_url.unwrap_or_default(),
        primary_email: p.primary_email.unwrap_or(false),
    };
    save(tx, call, p.method_name, Kind::Okta(okta))
}

fn write_pingid(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, p: WritePingId) -> Result<Response> {
    let file = needed(p.settings_file_base64, "settings_file_base64 is empty")?;
    let bytes = STANDARD.decode(file).map_err(|_| Error::bad_request("illegal base64 data"))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut settings = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (name, value) = line.split_once('=').ok_or_else(|| {
            Error::bad_request("pingid settings file contains a line that is not in key=value format")
        })?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    let pingid = PingId { username_format: p.username_format.unwrap_or_default(), settings };
    save(tx, call, p.method_name, Kind::PingId(pingid))
}

fn delete(_: &IdentityBackend, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    // As clients of the reference know it, these two are failures of the server.
    let refused = |why: String| Err(Error::Status(500, vec![format!("1 error occurred:\n\t* {why}\n\n")]));
    let id = id_of(call.capture("method_id"))?;
    let Some(method) = of_namespace(tx, &id)? else {
        // One of a namespace above is no business of this one.
        return Ok(Response::empty());
    };
    if kind_of(call).is_some_and(|k| k != method.kind.word()) {
        return refused("method type does not match the MFA config type".into());
    }
    if let Some(user) = enforcements::using(tx, &id)? {
        return refused(format!("methodID is still used by an enforcement configuration with ID: {user}"));
    }
    tx.within(IDENTITY, |tx| tx.delete(Place::Ordered(MFA_METHOD, &id)))?;
    Ok(Response::empty())
}
