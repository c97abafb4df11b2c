//! `sys/devices`: the devices of the configuration that hold keys, on the node that answers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{Credential, DeviceInfo, EndorsementKey, Evidence, KeyInfo, KeyRef, PinTries, QuoteRequest};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::PcrBank;
use holdfast_sdk::{
    Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Timestamp, Value, parameters,
};
use serde_json::json;

use super::System;
use crate::devices::bench::{self, Measured};
use crate::devices::trial::{self, Outcome, Tried};
use crate::devices::{Device, Repeat, refusal};
use crate::tx::Tx;

/// Keys that are shown of a device.
const KEYS_SHOWN: usize = 256;
/// What a measurement of one operation takes, in seconds: usually, and at most.
const SECONDS: (i64, i64) = (1, 5);

parameters! {
    pub struct Bench {
        /// Seconds for each operation and number of users: 1 to 5.
        seconds: Option<i64>,
    }
}

parameters! {
    pub struct Quoted {
        /// The verifier's nonce, in hex: 1 to 64 bytes.
        nonce: Option<String>,
        /// Registers, as in "sha256:0,7+sha384:0".
        pcrs: Option<String>,
        /// Which endorsement key comes with it: rsa-2048, p256 or p384. Without it the first that has a certificate.
        endorsement_key_type: Option<String>,
    }
}

parameters! {
    pub struct Activated {
        /// TPMS_ID_OBJECT, in base64.
        credential_blob: Option<String>,
        /// The seed, encrypted to the endorsement key or agreed with it, in base64.
        encrypted_secret: Option<String>,
        /// Which endorsement key it was made for: rsa-2048 (also without it), p256 or p384.
        endorsement_key_type: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("devices", "Devices that hold keys, and how they are.", |p| p.read(list).list(list).root_protected())
        .path("devices/{name}", "What a device is and can do.", |p| {
            p.read(info).prepared(Operation::Read, ask_info).root_protected().describe(
                "What its library says: mechanisms, what follows from them for this server, and the keys that are there.",
            )
        })
        .path("devices/{name}/test", "Try what a device says that it can do.", |p| {
            p.update(tested).prepared(Operation::Update, test).root_protected().describe(
                "A key of each kind is made, used and destroyed again. Signatures are checked by the public key alone.",
            )
        })
        .path("devices/{name}/attest", "Let a TPM quote its registers.", |p| {
            p.update(attested).prepared(Operation::Update, attest).root_protected().describe(
                "The registers, signed by a key in the TPM over the verifier's nonce, with the endorsement key and its \
                 certificate. Nothing is judged here: that is the verifier's part (operator device attest).",
            )
        })
        .path("devices/{name}/activate", "Let a TPM open a credential.", |p| {
            p.update(activated).prepared(Operation::Update, activate).root_protected().describe(
                "A secret that was encrypted to the endorsement key and bound to the attestation key \
                 (TPM2_MakeCredential) comes out if both are in this TPM.",
            )
        })
        .path("devices/{name}/bench", "Measure a device.", |p| {
            p.update(measured).prepared(Operation::Update, measure).root_protected().describe(
                "Signatures and decryptions a second, by one user and by eight, with keys that are destroyed again.",
            )
        })
}

fn device(sys: &System, call: &Call<'_>) -> Result<Arc<Device>> {
    let name = call.capture("name");
    sys.core()?.devices.get(name).ok_or(Error::NotFound)
}

fn list(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let all = sys.core()?.devices.all();
    if all.is_empty() {
        return Err(Error::NotFound);
    }
    let mut m = Map::new();
    m.insert("keys".into(), all.iter().map(|d| Value::from(d.name.clone())).collect());
    let info: Map<String, Value> = all.iter().map(|d| (d.name.clone(), Value::Object(status(d)))).collect();
    m.insert("key_info".into(), Value::Object(info));
    Ok(Response::data(m))
}

/// How a device is.
fn status(device: &Device) -> Map<String, Value> {
    let (declared, health, figures) = (device.declared(), device.health(), device.figures());
    let time = |t: Option<Timestamp>| t.map_or(Value::Null, |t| t.rfc3339().into());
    let ms = |time: Duration| (time.as_micros() as f64 / 1000.0).into();
    let mut m = Map::new();
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    set("type", declared.kind.into());
    set("healthy", (health.checked.is_some() && health.trouble.is_none()).into());
    set("last_checked", time(health.checked));
    set("last_well", time(health.well));
    if let Some((since, why)) = &health.trouble {
        set("unhealthy_since", since.rfc3339().into());
        set("last_error", why.clone().into());
    }
    set("warnings", health.warnings.clone().into());
    set("calls", figures.calls.count.get().into());
    set("failures", figures.failures.into());
    set("refused", figures.refused.into());
    if let Some([median, _, p99]) = figures.calls.quantiles() {
        set("call_ms_median", ms(median));
        set("call_ms_p99", ms(p99));
    }
    set("namespaces", declared.namespaces.clone().into());
    m
}

struct Asked {
    info: Arc<DeviceInfo>,
    keys: Vec<KeyInfo>,
}

fn ask_info(sys: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let device = device(sys, call)?;
    Ok(Some(Box::pin(async move {
        let info = device.info().await.map_err(refusal)?;
        let every = |client: &DeviceClient| client.find(KeyRef::default());
        let keys = device.run(Repeat::Safe, every).await.map_err(refusal)?;
        let asked: Prepared = Arc::new(Asked { info, keys });
        Ok(asked)
    })))
}

fn prepared<'c, T: 'static>(call: &'c Call<'_>) -> Result<&'c T> {
    call.prepared.and_then(|p| p.downcast_ref::<T>()).ok_or_else(|| Error::internal("the device was not asked"))
}

fn info(sys: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let Asked { info, keys } = prepared(call)?;
    let device = device(sys, call)?;
    let mut m = status(&device);
    if device.health().warnings.is_empty() {
        // Nobody may have looked at it yet.
        m.insert("warnings".into(), info.warnings.clone().into());
    }
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    let can = &info.capabilities;
    set("module", info.module.clone().into());
    set("library", info.library.clone().into());
    set("token_label", info.token_label.clone().into());
    set("serial", info.serial.clone().into());
    set("model", info.model.clone().into());
    set("slot", info.slot.into());
    set("login_required", info.login_required.into());
    let tries = match info.pin_tries {
        PinTries::All => "all",
        PinTries::Fewer => "some were wrong",
        PinTries::Last => "one is left",
        PinTries::Locked => "locked",
    };
    set("pin_tries", tries.into());
    set("mechanisms", info.mechanisms.clone().into());
    let words = |all: &mut dyn Iterator<Item = String>| Value::from(all.collect::<Vec<String>>());
    set("makes", words(&mut can.generate.iter().map(ToString::to_string)));
    set("imports", words(&mut can.import.iter().map(ToString::to_string)));
    set("signs", words(&mut can.sign.iter().map(ToString::to_string)));
    set("encrypts", words(&mut can.cipher.iter().map(ToString::to_string)));
    set("agrees_on_keys", can.derive.into());
    set("gives_random_bytes", can.random.into());
    set("keys_total", keys.len().into());
    set("keys", keys.iter().take(KEYS_SHOWN).map(key).collect());
    Ok(Response::data(m))
}

fn key(key: &KeyInfo) -> Value {
    json!({
        "label": key.label,
        "id": hex::encode(&key.id),
        "type": key.kind.to_string(),
        "private": key.private,
        "extractable": key.extractable,
    })
}

fn test(sys: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Option<Preparation>> {
    let device = device(sys, call)?;
    Ok(Some(Box::pin(async move {
        let tried: Prepared = Arc::new(trial::run(&device).await?);
        Ok(tried)
    })))
}

fn tested(_: &System, _: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let tried: &Vec<Tried> = prepared(call)?;
    let failed = tried.iter().filter(|t| matches!(t.outcome, Outcome::Failed(_))).count();
    let shown = |t: &Tried| {
        let (outcome, error) = match &t.outcome {
            Outcome::Works => ("works", None),
            Outcome::NotSupported => ("not supported by the device", None),
            Outcome::Failed(why) => ("failed", Some(why.clone())),
        };
        let mut row = json!({"what": t.what, "outcome": outcome, "ms": t.took.as_micros() as f64 / 1000.0});
        if let Some(error) = error {
            row["error"] = error.into();
        }
        row
    };
    let mut m = Map::new();
    m.insert("works".into(), (failed == 0).into());
    m.insert("tried".into(), tried.iter().map(shown).collect());
    Ok(Response::data(m))
}

fn measure(sys: &System, _: &mut Tx, call: &Call<'_>, p: Bench) -> Result<Option<Preparation>> {
    let device = device(sys, call)?;
    let seconds = p.seconds.unwrap_or(SECONDS.0);
    if !(1..=SECONDS.1).contains(&seconds) {
        return Err(Error::bad_request(format!("'seconds' is 1 to {}", SECONDS.1)));
    }
    let each = Duration::from_secs(seconds.unsigned_abs());
    Ok(Some(Box::pin(async move {
        let measured: Prepared = Arc::new(bench::run(&device, each).await?);
        Ok(measured)
    })))
}

fn measured(_: &System, _: &mut Tx, call: &Call<'_>, _: Bench) -> Result<Response> {
    let all: &Vec<Measured> = prepared(call)?;
    let ms = |time: Duration| time.as_micros() as f64 / 1000.0;
    let shown = |one: &Measured| {
        json!({
            "what": one.what,
            "users": one.users,
            "times": one.times,
            "per_second": (one.times as f64 / one.took.as_secs_f64() * 10.0).round() / 10.0,
            "median_ms": ms(one.median),
            "p99_ms": ms(one.p99),
        })
    };
    Ok(Response::data(Map::from_iter([("measured".to_owned(), all.iter().map(shown).collect())])))
}

fn attest(sys: &System, _: &mut Tx, call: &Call<'_>, p: Quoted) -> Result<Option<Preparation>> {
    let device = device(sys, call)?;
    let nonce = hex::decode(p.nonce.unwrap_or_default()).ok().filter(|nonce| (1..=64).contains(&nonce.len()));
    let nonce = nonce.ok_or_else(|| Error::bad_request("'nonce' is to be 1 to 64 bytes in hex"))?;
    let pcrs = PcrBank::parse(&p.pcrs.unwrap_or_default());
    let pcrs = pcrs.ok_or_else(|| Error::bad_request("'pcrs' is to name registers, as in \"sha256:0,7\""))?;
    let request = QuoteRequest { nonce, pcrs, endorsement: endorsement(p.endorsement_key_type)? };
    Ok(Some(Box::pin(async move {
        let quote = move |client: &DeviceClient| client.attest(request.clone());
        let evidence: Prepared = Arc::new(device.run(Repeat::Safe, quote).await.map_err(refusal)?);
        Ok(evidence)
    })))
}

fn endorsement(name: Option<String>) -> Result<Option<EndorsementKey>> {
    let known = |name: String| {
        let unknown = || Error::bad_request("'endorsement_key_type' is to be rsa-2048, p256 or p384");
        EndorsementKey::from_name(&name).ok_or_else(unknown)
    };
    name.filter(|name| !name.is_empty()).map(known).transpose()
}

fn attested(_: &System, _: &mut Tx, call: &Call<'_>, _: Quoted) -> Result<Response> {
    let evidence: &Evidence = prepared(call)?;
    let mut pcrs = Map::new();
    for register in &evidence.values {
        let bank = pcrs.entry(register.hash.to_string()).or_insert_with(|| json!({}));
        bank[register.index.to_string()] = hex::encode(&register.value).into();
    }
    let mut m = Map::new();
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    set("endorsement_key_type", evidence.endorsement.to_string().into());
    set("endorsement_key", STANDARD.encode(&evidence.endorsement_key).into());
    set("endorsement_certificate", evidence.certificate.as_ref().map_or(Value::Null, |c| STANDARD.encode(c).into()));
    set("attestation_key", STANDARD.encode(&evidence.attestation_key).into());
    set("quoted", STANDARD.encode(&evidence.quoted).into());
    set("signature", STANDARD.encode(&evidence.signature).into());
    set("pcrs", Value::Object(pcrs));
    Ok(Response::data(m))
}

fn activate(sys: &System, _: &mut Tx, call: &Call<'_>, p: Activated) -> Result<Option<Preparation>> {
    let device = device(sys, call)?;
    let bytes = |text: Option<String>, name: &str| {
        let bytes = STANDARD.decode(text.unwrap_or_default()).ok().filter(|bytes| !bytes.is_empty());
        bytes.ok_or_else(|| Error::bad_request(format!("'{name}' is to be base64")))
    };
    let credential = Credential {
        blob: bytes(p.credential_blob, "credential_blob")?,
        secret: bytes(p.encrypted_secret, "encrypted_secret")?,
        endorsement: endorsement(p.endorsement_key_type)?.unwrap_or(EndorsementKey::Rsa2048),
    };
    Ok(Some(Box::pin(async move {
        let open = move |client: &DeviceClient| client.activate(credential.clone());
        let opened: Prepared = Arc::new(device.run(Repeat::Safe, open).await.map_err(refusal)?);
        Ok(opened)
    })))
}

fn activated(_: &System, _: &mut Tx, call: &Call<'_>, _: Activated) -> Result<Response> {
    let secret: &Secret<Vec<u8>> = prepared(call)?;
    Ok(Response::data(Map::from_iter([("secret".to_owned(), STANDARD.encode(secret.expose()).into())])))
}
