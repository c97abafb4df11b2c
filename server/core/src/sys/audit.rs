//! `sys/audit`, `sys/audit-hash` and `sys/audit-chain`: the devices that every request is written down by.

use std::sync::Arc;

use holdfast_sdk::parameters::StringMap;
use holdfast_sdk::{Call, Error, Map, Operation, Preparation, Prepared, Response, Result, Routes, Value, parameters};
use holdfast_seal::Barrier;

use super::System;
use crate::audit::sealing;
use crate::audit::table::{self, Stored};
use crate::audit::{Device, DeviceConfig, Kind};
use crate::tx::{Effect, Tx};
use crate::{Core, Open, router};

parameters! {
    pub struct AuditDevice {
        /// Its type: file, socket, syslog or http.
        r#type: Option<String>,
        /// Words that say what it is for.
        description: Option<String>,
        /// Options of its type.
        options: Option<StringMap>,
        /// It is not replicated.
        local: Option<bool>,
    }
}
parameters! {
    pub struct Input {
        /// What is to be hashed.
        input: Option<String>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes
        .path("audit", "List the audit devices.", |p| p.read(list).root_protected())
        .path("audit/{path+}", "Make an audit device, or end one.", |p| {
            p.update(enable).prepared(Operation::Update, try_out).delete(disable).root_protected()
        })
        .path("audit-chain", "The keys that seal audit logs, and the last checkpoint of each.", |p| {
            p.read(chain).root_protected()
        })
        .path("audit-chain/rotate", "Sign checkpoints by a new key from now on.", |p| p.update(rotate).root_protected())
        .path("audit-hash/{path+}", "The hash of a text as an audit device shows it.", |p| p.update(hash))
}

fn open_of(core: &Core) -> Result<Arc<Open>> {
    core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))
}

fn list(sys: &System, _: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let devices = open_of(&*sys.core()?)?.audit.devices();
    Ok(Response::both(devices.iter().map(|d| (d.config.path.clone(), Value::Object(shown(&d.config)))).collect()))
}

fn shown(config: &DeviceConfig) -> Map<String, Value> {
    let mut d = Map::new();
    d.insert("description".into(), config.description.clone().into());
    d.insert("local".into(), config.local.into());
    let options = config.options.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
    d.insert("options".into(), Value::Object(options));
    d.insert("path".into(), config.path.clone().into());
    d.insert("type".into(), config.kind.word().into());
    d
}

/// A device that has taken its test line, and how it is to be stored.
struct Tested {
    device: Arc<Device>,
    stored: Stored,
}

/// Open the device, and send it a line.
fn try_out(sys: &System, tx: &mut Tx, call: &Call<'_>, p: AuditDevice) -> Result<Option<Preparation>> {
    let core = sys.core()?;
    let rules = core.options.audit_rules.clone();
    rules.check_creation().map_err(Error::bad_request)?;
    let path = router::mount_path(call.capture("path"))?;
    check_free(&core, tx, &path)?;
    let word = p.r#type.unwrap_or_default();
    let kind = Kind::of(&word).ok_or_else(|| Error::bad_request(format!("unknown backend type: {word:?}")))?;
    let config = DeviceConfig {
        kind,
        path,
        description: p.description.unwrap_or_default(),
        local: p.local.unwrap_or(false),
        options: p.options.unwrap_or_default().0,
    };
    rules.check(&config).map_err(Error::bad_request)?;
    let stored = Stored::new(&config)?;
    let open = open_of(&core)?;
    Ok(Some(Box::pin(async move {
        let sealing = core.sealing(&Barrier::clone(&open.barrier.load()), &stored.path).await?;
        let made = (Some(stored.uuid), stored.salt(), sealing);
        let device = Device::open(&open.audit, &rules, config, made, true).await.map_err(Error::bad_request)?;
        Ok(Arc::new(Tested { device, stored }) as Prepared)
    })))
}

/// Whether the path is free, of declared devices too.
fn check_free(core: &Core, tx: &mut Tx, path: &str) -> Result<()> {
    let (declared, stored) = (core.options.audit.load(), table::load(tx)?);
    let declared = declared.iter().map(|d| d.path.as_str());
    table::check_free(path, declared.chain(stored.devices.iter().map(|d| d.path.as_str())))
}

fn enable(sys: &System, tx: &mut Tx, call: &Call<'_>, _: AuditDevice) -> Result<Response> {
    let core = sys.core()?;
    let tested = call.prepared.and_then(|p| p.downcast_ref::<Tested>());
    let tested = tested.ok_or_else(|| Error::Internal("the device was not tested".into()))?;
    check_free(&core, tx, &tested.stored.path)?;
    table::add(tx, tested.stored.clone())?;
    open_of(&core)?.audit.is_tested(&tested.device);
    tx.effect(Effect::AuditDevices);
    Ok(Response::empty())
}

fn disable(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let path = router::mount_path(call.capture("path"))?;
    if sys.core()?.options.audit.load().iter().any(|device| device.path == path) {
        return Err(Error::bad_request("cannot disable configuration-managed audit device"));
    }
    if table::remove(tx, &path)? {
        tx.effect(Effect::AuditDevices);
    }
    Ok(Response::empty())
}

fn chain(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    let mut m = Map::new();
    m.insert("public_keys".into(), sealing::public_keys(tx)?.into());
    m.insert("checkpoints".into(), serde_json::to_value(sealing::checkpoints(tx)?).map_err(Error::internal)?);
    Ok(Response::data(m))
}

fn rotate(_: &System, tx: &mut Tx, _: &Call<'_>, _: ()) -> Result<Response> {
    sealing::SigningKeys::rotate(tx)?;
    tx.effect(Effect::AuditKey);
    Ok(Response::empty())
}

fn hash(sys: &System, _: &mut Tx, call: &Call<'_>, p: Input) -> Result<Response> {
    let input = p.input.filter(|i| !i.is_empty());
    let input = input.ok_or_else(|| Error::bad_request("the \"input\" parameter is empty"))?;
    let path = router::mount_path(call.capture("path"))?;
    let devices = open_of(&*sys.core()?)?.audit.devices();
    let device = devices.iter().find(|d| d.config.path == path);
    let device = device.ok_or_else(|| Error::bad_request(format!("unknown audit backend {path:?}")))?;
    let mut m = Map::new();
    m.insert("hash".into(), device.hasher.hash(&input).into());
    Ok(Response::both(m))
}
