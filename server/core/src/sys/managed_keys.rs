//! `sys/managed-keys/TYPE/NAME`: keys that mounts use and never have.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_hsm::device::{DeviceErrorClass as Class, Hash, KeySpec, SignInput, SignMechanism};
use holdfast_hsm::software::keys;
use holdfast_hsm::verify::verify;
use holdfast_sdk::{
    Call, Error, ManagedKey, Map, Operation, Preparation, Prepared, Response, Result, Routes, Timestamp, parameters,
};
use holdfast_seal::locks::LockList;

use super::System;
use crate::devices::{Device, Repeat, refusal};
use crate::managed_keys::mechanism::{self, Mechanism};
use crate::managed_keys::{self, DeviceKey, Record, SOFTWARE, Seen, TYPES, print_of};
use crate::tx::Tx;
use crate::{random, router};

parameters! {
    pub struct Wanted {
        /// The device of the server's configuration that holds the key; with type software, nothing: the key is sealed here.
        library: Option<String>,
        /// The label of the key (CKA_LABEL). A key that is made gets it.
        key_label: Option<String>,
        /// The id of the key (CKA_ID) in hex, with or without 0x.
        key_id: Option<String>,
        /// What the key is for, as a number or name of PKCS#11: CKM_RSA_PKCS (0x0001), CKM_RSA_PKCS_PSS (0x000d), CKM_RSA_PKCS_OAEP (0x0009), CKM_ECDSA (0x1041), CKM_EDDSA (0x1057), CKM_AES_GCM (0x1087).
        mechanism: Option<String>,
        /// Bits of an RSA key that is made or expected: 2048, 3072 or 4096.
        key_bits: Option<i64>,
        /// The curve of an EC key that is made or expected: P256, P384 or P521.
        curve: Option<String>,
        /// Make the key if it is not there.
        allow_generate_key: Option<bool>,
        /// Take the key that is there, or make it anew, where another one was recorded.
        allow_replace_key: Option<bool>,
        /// Kept for clients: keys are made in devices and not brought there.
        allow_store_key: Option<bool>,
        /// Every mount of the namespace may use it.
        any_mount: Option<bool>,
        /// What it may be used for: encrypt, decrypt, sign, verify, wrap, unwrap, mac, random; empty: everything.
        usages: Option<Vec<String>>,
        /// The token's slot, if it is to be that of the device.
        slot: Option<String>,
        /// The token's label, if it is to be that of the device.
        token_label: Option<String>,
        /// Not used: the device's stanza says how it logs in.
        pin: Option<String>,
        /// Not used.
        max_parallel: Option<i64>,
        /// Not used: it is decided by what the token can do.
        force_rw_session: Option<bool>,
    }
}
parameters! {
    pub struct TestSign {
        /// sha2-256, sha2-384 or sha2-512.
        hash_algorithm: Option<String>,
        /// RSA: sign with PSS.
        use_pss: Option<bool>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("managed-keys/{type}", "List the managed keys of a type.", |p| p.list(list))
        .path("managed-keys/{type}/{name}", "A key that mounts use and never have.", |p| {
            p.read(read).write(exists, write).delete(delete).prepared(Operation::Update, find).describe(
                "A write looks for the key in its device, makes it if that is allowed, and records what it is. What is absent \
                 in the request stays as it is. Deleting forgets the record: a key in a device stays there, a key in software \
                 is gone.",
            )
        })
        .path("managed-keys/{type}/{name}/test/sign", "Sign something random by a managed key, and verify it.", |p| {
            p.update(signed).prepared(Operation::Update, sign)
        })
}

/// The type and the name of the path.
fn of_path<'c>(call: &'c Call<'_>) -> Result<(&'c str, String)> {
    Ok((kind(call)?, managed_keys::name(call.capture("name"))?))
}

fn kind<'c>(call: &'c Call<'_>) -> Result<&'c str> {
    let kind = call.capture("type");
    match TYPES.contains(&kind) {
        true => Ok(kind),
        false => {
            Err(Error::bad_request(format!("managed keys of type {kind:?} are not offered: use {}", TYPES.join(", "))))
        }
    }
}

fn list(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let kind = kind(call)?;
    let mut of_kind = Vec::new();
    for name in managed_keys::names(tx)? {
        if managed_keys::load(tx, &name)?.is_some_and(|key| key.kind == kind) {
            of_kind.push(name);
        }
    }
    Response::list(of_kind)
}

/// The key of the path, of its type.
fn load(tx: &mut Tx, call: &Call<'_>) -> Result<Option<Record>> {
    let (kind, name) = of_path(call)?;
    Ok(managed_keys::load(tx, &name)?.filter(|key| key.kind == kind))
}

fn exists(_: &System, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    match load(tx, call) {
        // Who may not write it is told that before what is wrong with it.
        Err(Error::BadRequest(_)) => Ok(Some(false)),
        found => Ok(Some(found?.is_some())),
    }
}

fn read(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let key = load(tx, call)?.ok_or(Error::NotFound)?;
    Ok(Response::data(shown(&key)))
}

fn shown(key: &Record) -> Map<String, holdfast_sdk::Value> {
    let mut m = Map::new();
    let mut set = |name: &str, value: holdfast_sdk::Value| {
        m.insert(name.into(), value);
    };
    set("name", key.name.clone().into());
    set("type", key.kind.clone().into());
    set("uuid", random::uuid_text(&key.uuid).into());
    set("library", key.library.clone().into());
    set("key_label", key.key_label.clone().into());
    set("key_id", key.key_id.clone().into());
    set("mechanism", key.mechanism.number().into());
    set("mechanism_name", key.mechanism.name().into());
    set("key_bits", key.key_bits.unwrap_or(0).into());
    set("curve", key.curve.clone().unwrap_or_default().into());
    set("allow_generate_key", key.allow_generate_key.into());
    set("allow_replace_key", key.allow_replace_key.into());
    set("allow_store_key", key.allow_store_key.into());
    set("any_mount", key.any_mount.into());
    set("usages", key.usages.clone().into());
    set("key_type", key.seen.kind.to_string().into());
    set("fingerprint", print_of(&key.seen).into());
    if let Some(public) = &key.seen.public {
        set("public_key", pem(public).into());
    }
    set("creation_time", Timestamp::from_secs(key.created).rfc3339().into());
    set("update_time", Timestamp::from_secs(key.updated).rfc3339().into());
    m
}

fn pem(spki: &[u8]) -> String {
    let text = STANDARD.encode(spki);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// What a write is to find or make.
struct Plan {
    /// Complete but for what is found: that of `before`, or none.
    key: Record,
    before: Option<Record>,
    device: Option<Arc<Device>>,
    warnings: Vec<String>,
}

/// The record that a write asks for. What is absent stays as it is.
fn plan(sys: &System, tx: &mut Tx, call: &Call<'_>, p: &Wanted) -> Result<Plan> {
    let (kind, name) = of_path(call)?;
    managed_keys::are_known_to_all(&*sys.core()?)?;
    let before = managed_keys::load(tx, &name)?;
    if let Some(other) = before.as_ref().filter(|key| key.kind != kind) {
        let text =
            format!("there is a managed key {name:?} of type {} already: names are shared by all types", other.kind);
        return Err(Error::bad_request(text));
    }
    if before.is_none() && managed_keys::names(tx)?.len() >= managed_keys::MOST {
        return Err(Error::bad_request(format!("a namespace has at most {} managed keys", managed_keys::MOST)));
    }
    let text = |given: &Option<String>, before: Option<&String>| {
        given.clone().or_else(|| before.cloned()).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let library = text(&p.library, before.as_ref().map(|b| &b.library));
    if library.is_empty() && kind != SOFTWARE {
        return Err(Error::bad_request("'library' is required: the name of a device of the server's configuration"));
    }
    let mut warnings = Vec::new();
    let device = match library.as_str() {
        "" => None,
        library => Some(managed_keys::device_for(tx, &sys.core()?.devices, library)?),
    };
    if let Some(device) = &device {
        of_that_token(device, kind, p, &mut warnings)?;
    }
    let key_bits = match p.key_bits {
        None => before.as_ref().and_then(|b| b.key_bits),
        Some(0) => None,
        Some(bits) => Some(u32::try_from(bits).map_err(|_| Error::bad_request("'key_bits' is no number of bits"))?),
    };
    let curve = Some(text(&p.curve, before.as_ref().and_then(|b| b.curve.as_ref()))).filter(|curve| !curve.is_empty());
    let mechanism = match p.mechanism.as_deref().filter(|m| !m.trim().is_empty()) {
        Some(given) => Mechanism::parse(given)?,
        None => before.as_ref().map(|b| b.mechanism).ok_or_else(|| Error::bad_request("'mechanism' is required"))?,
    };
    if let Some(kind) = mechanism.wanted(key_bits, curve.as_deref())? {
        managed_keys::kind_is_known_to_all(&*sys.core()?, kind)?;
    }
    let usages = p.usages.clone().or_else(|| before.as_ref().map(|b| b.usages.clone())).unwrap_or_default();
    if let Some(other) = usages.iter().find(|usage| !mechanism::USAGES.contains(&usage.as_str())) {
        let text = format!("usage {other:?} is not one of {}", mechanism::USAGES.join(", "));
        return Err(Error::bad_request(text));
    }
    let flag = |given: Option<bool>, before: fn(&Record) -> bool, base: &Option<Record>| {
        given.or_else(|| base.as_ref().map(before)).unwrap_or(false)
    };
    let now = call.cluster_now.secs();
    let key = Record {
        uuid: before.as_ref().map_or_else(random::uuid, |b| Ok(b.uuid))?,
        name,
        kind: kind.to_owned(),
        key_label: text(&p.key_label, before.as_ref().map(|b| &b.key_label)),
        key_id: text(&p.key_id, before.as_ref().map(|b| &b.key_id)),
        library,
        mechanism,
        key_bits,
        curve,
        allow_generate_key: flag(p.allow_generate_key, |b| b.allow_generate_key, &before),
        allow_replace_key: flag(p.allow_replace_key, |b| b.allow_replace_key, &before),
        allow_store_key: flag(p.allow_store_key, |b| b.allow_store_key, &before),
        any_mount: flag(p.any_mount, |b| b.any_mount, &before),
        usages,
        seen: before
            .as_ref()
            .map_or(Seen { kind: holdfast_hsm::device::KeyKind::Other, public: None, id: Vec::new() }, |b| {
                b.seen.clone()
            }),
        private: before.as_ref().map_or_else(Vec::new, |b| b.private.clone()),
        created: before.as_ref().map_or(now, |b| b.created),
        updated: now,
        revision: before.as_ref().map_or(0, |b| b.revision.saturating_add(1)),
    };
    if device.is_some() {
        key.key_ref()?;
    }
    Ok(Plan { key, before, device, warnings })
}

/// Clients of Vault say the token with the key; here the device's stanza does.
fn of_that_token(device: &Device, kind: &str, p: &Wanted, warnings: &mut Vec<String>) -> Result<()> {
    let declared = device.declared();
    if declared.kind != kind {
        let text = format!("device {:?} is of type {}, not {kind}", device.name, declared.kind);
        return Err(Error::bad_request(text));
    }
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let slot = given(&p.slot).map(|text| (text.parse().ok(), text));
    if let Some((number, text)) = slot
        && declared.slot.is_some_and(|own| number != Some(own))
    {
        return Err(Error::bad_request(format!("slot {text:?} is not that of device {:?}", device.name)));
    }
    if let Some(label) = given(&p.token_label)
        && declared.token_label.as_ref().is_some_and(|own| *own != label)
    {
        return Err(Error::bad_request(format!("token_label {label:?} is not that of device {:?}", device.name)));
    }
    if given(&p.pin).is_some() {
        warnings.push("'pin' is not used and not kept: the device's stanza says how it logs in".to_owned());
    }
    Ok(())
}

/// What was found or made for a write.
struct Found {
    seen: Seen,
    /// Of a key in software that was made.
    private: Option<holdfast_hsm::memory::Secret<Vec<u8>>>,
    /// Of the record that it was found for.
    revision: u64,
    made: bool,
}

fn find(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Wanted) -> Result<Option<Preparation>> {
    let plan = plan(sys, tx, call, &p)?;
    let core = sys.core()?;
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    let locks = core.own_locks(&open).map_err(|e| Error::Internal(e.1))?;
    let slow = sys.slow.clone();
    Ok(Some(Box::pin(async move {
        let found = match plan.device.clone() {
            Some(device) => in_device(&plan, &device, &locks).await?,
            None => {
                // One at a time: making RSA keys takes a processor.
                let _turn = slow.acquire().await.map_err(Error::internal)?;
                in_software(&plan).await?
            }
        };
        let found: Prepared = Arc::new(found);
        Ok(found)
    })))
}

async fn in_software(plan: &Plan) -> Result<Found> {
    let key = &plan.key;
    let wanted = key.mechanism.wanted(key.key_bits, key.curve.as_deref())?;
    if let Some(before) = plan.before.as_ref().filter(|b| b.is_in_software()) {
        let same = key.mechanism.fits(before.seen.kind) && wanted.is_none_or(|wanted| wanted == before.seen.kind);
        if same {
            return Ok(Found { seen: before.seen.clone(), private: None, revision: key.revision, made: false });
        }
    }
    if plan.before.is_some() && !key.allow_replace_key {
        return Err(Error::bad_request(
            "another kind of key takes the place of the one that is there: that needs allow_replace_key",
        ));
    }
    if !key.allow_generate_key {
        return Err(Error::bad_request("a key in software is made here: set allow_generate_key"));
    }
    let kind = wanted.ok_or_else(|| which(key))?;
    let made = tokio::task::spawn_blocking(move || keys::generate(kind)).await.map_err(Error::internal)?;
    let made = made.map_err(refusal)?;
    let seen = Seen { kind, public: made.public, id: Vec::new() };
    Ok(Found { seen, private: Some(made.private), revision: key.revision, made: true })
}

/// What is missing to make a key.
fn which(key: &Record) -> Error {
    let what = if key.mechanism == Mechanism::Ecdsa {
        "'curve' (P256, P384 or P521)"
    } else {
        "'key_bits' (2048, 3072 or 4096)"
    };
    Error::bad_request(format!("a key for {} is to be made: set {what}", key.mechanism.name()))
}

/// Find the key in its device, or make it.
async fn in_device(plan: &Plan, device: &Arc<Device>, locks: &LockList) -> Result<Found> {
    let key = &plan.key;
    let wanted = key.mechanism.wanted(key.key_bits, key.curve.as_deref())?;
    let name = key.key_ref()?;
    // What was recorded of the same key; a write that names another one begins anew.
    let recorded = plan
        .before
        .as_ref()
        .filter(|b| (&b.library, &b.key_label, &b.key_id) == (&key.library, &key.key_label, &key.key_id));
    let (seen, made) = match DeviceKey::look(device, &name).await {
        Ok(seen) => (seen, false),
        Err(e) if e.class == Class::KeyMissing && key.allow_generate_key => {
            if recorded.is_some() && !key.allow_replace_key {
                return Err(Error::bad_request(format!(
                    "the {name} that was recorded is not in device {:?} any more; allow_replace_key makes another one in its \
                     place ({})",
                    device.name, e.text
                )));
            }
            (make(plan, device, wanted.ok_or_else(|| which(key))?).await?, true)
        }
        Err(e) if e.class == Class::KeyMissing => {
            return Err(Error::bad_request(format!(
                "{}: correct key_label and key_id, or set allow_generate_key",
                e.text
            )));
        }
        Err(e) => return Err(refusal(e)),
    };
    if !key.mechanism.fits(seen.kind) || wanted.is_some_and(|wanted| wanted != seen.kind) {
        let asked = wanted.map_or_else(|| format!("one for {}", key.mechanism.name()), |kind| kind.to_string());
        return Err(Error::bad_request(format!(
            "the {name} of device {:?} is {}, and {asked} is asked for",
            device.name, seen.kind
        )));
    }
    if matches!(seen.kind, holdfast_hsm::device::KeyKind::Rsa(..2048)) {
        return Err(Error::bad_request(format!(
            "the {name} of device {:?} is {}, which is too weak: RSA keys have 2048 bits and more",
            device.name, seen.kind
        )));
    }
    if managed_keys::opens_the_store(locks, device.declared().kind, &name, &seen) {
        return Err(Error::bad_request(format!(
            "the {name} of device {:?} opens this store: it is for nothing else",
            device.name
        )));
    }
    if let Some(recorded) = recorded
        && recorded.seen != seen
        && !key.allow_replace_key
    {
        return Err(Error::bad_request(format!(
            "the {name} of device {:?} is another key than the one that was recorded ({} now, {} then); allow_replace_key takes it",
            device.name,
            print_of(&seen),
            print_of(&recorded.seen)
        )));
    }
    device.forget_key(&name);
    Ok(Found { seen, private: None, revision: key.revision, made })
}

async fn make(plan: &Plan, device: &Arc<Device>, kind: holdfast_hsm::device::KeyKind) -> Result<Seen> {
    let key = &plan.key;
    if key.key_label.is_empty() {
        return Err(Error::bad_request("a key that is to be made needs a 'key_label'"));
    }
    let name = key.key_ref()?;
    let spec = KeySpec { label: key.key_label.clone(), id: name.id.clone(), kind, usage: key.mechanism.usage() };
    tracing::info!(device = device.name, label = key.key_label, %kind, "making a managed key");
    match device.run(Repeat::Never, move |client| client.generate(spec.clone())).await {
        Ok(made) if made.extractable => {
            let text = format!("device {:?} made a key that it would let out: do not use it", device.name);
            return Err(Error::Internal(text));
        }
        // Another request has just made it.
        Err(e) if e.class == Class::Invalid => return DeviceKey::look(device, &name).await.map_err(|_| refusal(e)),
        made => made.map_err(refusal)?,
    };
    DeviceKey::look(device, &name).await.map_err(refusal)
}

fn write(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Wanted) -> Result<Response> {
    let Plan { mut key, warnings, before, .. } = plan(sys, tx, call, &p)?;
    let changed = || Error::Unavailable("the managed key has just been changed; try again".into());
    let found: &Found = call.prepared.and_then(|p| p.downcast_ref()).ok_or_else(changed)?;
    if found.revision != key.revision {
        return Err(changed());
    }
    managed_keys::kind_is_known_to_all(&*sys.core()?, found.seen.kind)?;
    let mut response = Response::empty();
    for warning in warnings {
        response = response.warn(warning);
    }
    if before.as_ref().is_some_and(|before| before.seen != found.seen) {
        response = response
            .warn("another key was recorded in the place of the one before: who has its public key needs the new one");
    }
    if found.made && key.is_in_software() {
        response = response.warn("the key is in software: who has the store and what opens it has the key");
    }
    key.seen = found.seen.clone();
    match &found.private {
        Some(private) => key.private = private.expose().clone(),
        None if !key.is_in_software() => key.private.clear(),
        None => {}
    }
    managed_keys::save(tx, &key)?;
    Ok(response)
}

fn delete(_: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let Some(key) = load(tx, call)? else { return Ok(Response::empty()) };
    if let Some(mount) = router::load(tx)?.iter().find(|mount| mount.allowed_managed_keys.contains(&key.name)) {
        return Err(Error::bad_request(format!(
            "managed key {:?} is allowed on {}: take it from the mount's allowed_managed_keys first",
            key.name,
            mount.full_path()
        )));
    }
    managed_keys::forget(tx, &key)?;
    Ok(Response::empty())
}

/// What a trial has shown.
struct Signed {
    scheme: SignMechanism,
    took: std::time::Duration,
}

fn sign(sys: &System, tx: &mut Tx, call: &Call<'_>, p: TestSign) -> Result<Option<Preparation>> {
    let record = load(tx, call)?.ok_or(Error::NotFound)?;
    let scheme = scheme(&record, &p)?;
    let key = managed_keys::open(tx, &sys.core()?.devices, record)?;
    Ok(Some(Box::pin(async move {
        key.check_scheme(scheme).await?;
        let input = SignInput::Message(random::bytes::<32>()?.to_vec());
        let begun = std::time::Instant::now();
        let signature = key.sign(scheme, input.clone()).await?;
        let took = begun.elapsed();
        // Whoever may use it for what: this is about whether it works.
        let verified = key.public_key().map(|public| verify(key.kind(), public, scheme, &input, &signature));
        if !verified.transpose().map_err(refusal)?.unwrap_or(false) {
            return Err(Error::Internal(format!("managed key {:?}: its signature does not verify", key.name())));
        }
        let signed: Prepared = Arc::new(Signed { scheme, took });
        Ok(signed)
    })))
}

fn scheme(key: &Record, p: &TestSign) -> Result<SignMechanism> {
    let hash = match p.hash_algorithm.as_deref().filter(|h| !h.is_empty()) {
        // The curve's own.
        None if key.seen.kind == holdfast_hsm::device::KeyKind::EcP384 => Hash::Sha384,
        None if key.seen.kind == holdfast_hsm::device::KeyKind::EcP521 => Hash::Sha512,
        None | Some("sha2-256") => Hash::Sha256,
        Some("sha2-384") => Hash::Sha384,
        Some("sha2-512") => Hash::Sha512,
        Some(other) => {
            return Err(Error::bad_request(format!("hash_algorithm {other:?} is not sha2-256, sha2-384 or sha2-512")));
        }
    };
    let pss = p.use_pss.unwrap_or(key.mechanism == Mechanism::RsaPss);
    match key.mechanism {
        Mechanism::RsaPkcs | Mechanism::RsaPss if pss => Ok(SignMechanism::RsaPss(hash)),
        Mechanism::RsaPkcs | Mechanism::RsaPss => Ok(SignMechanism::RsaPkcs1(hash)),
        Mechanism::Ecdsa => Ok(SignMechanism::Ecdsa(hash)),
        Mechanism::Eddsa => Ok(SignMechanism::Ed25519),
        Mechanism::RsaOaep | Mechanism::AesGcm => Err(Error::bad_request(format!(
            "managed key {:?} is for {} and does not sign",
            key.name,
            key.mechanism.name()
        ))),
    }
}

fn signed(_: &System, _: &mut Tx, call: &Call<'_>, _: TestSign) -> Result<Response> {
    let signed: &Signed =
        call.prepared.and_then(|p| p.downcast_ref()).ok_or_else(|| Error::internal("nothing was signed"))?;
    let mut m = Map::new();
    m.insert("verified".into(), true.into());
    m.insert("scheme".into(), signed.scheme.to_string().into());
    m.insert("ms".into(), (signed.took.as_micros() as f64 / 1000.0).into());
    Ok(Response::data(m))
}
