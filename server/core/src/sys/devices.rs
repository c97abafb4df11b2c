//! `sys/devices`: the devices of the configuration that hold keys, on the node that answers.

use std::sync::Arc;
use std::time::Duration;

use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{DeviceInfo, KeyInfo, KeyRef, PinTries};
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
