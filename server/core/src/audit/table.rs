//! The devices that the API has made: one stored record. Whoever becomes active opens what it says.

use std::sync::Arc;

use holdfast_sdk::{Error, Place, Result, Transaction, record};
use holdfast_seal::Barrier;
use minicbor::{Decode, Encode};

use super::{Broker, Device, DeviceConfig, Devices, Kind};
use crate::layout::{SETTINGS, STORE};
use crate::tx::Tx;
use crate::{Core, Open, random};

const NAME: &[u8] = b"audit-devices";
/// Where the salts of declared devices are, each behind its path.
const SALT: &str = "audit-salt/";
/// Devices at most; each costs every request two lines.
const MOST: usize = 32;

/// All of them.
#[derive(Debug, Clone, Default, Encode, Decode)]
pub struct Table {
    #[n(0)]
    pub devices: Vec<Stored>,
}
record!(Table);

#[derive(Debug, Clone, Encode, Decode)]
pub struct Stored {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub uuid: [u8; 16],
    #[n(1)]
    kind: String,
    /// With a slash at its end.
    #[n(2)]
    pub path: String,
    #[n(3)]
    description: String,
    #[n(4)]
    local: bool,
    #[n(5)]
    options: Vec<(String, String)>,
    /// Keys the HMACs of its lines.
    #[n(6)]
    salt: String,
}

impl Stored {
    pub fn new(config: &DeviceConfig) -> Result<Stored> {
        Ok(Stored {
            uuid: random::uuid()?,
            kind: config.kind.word().to_owned(),
            path: config.path.clone(),
            description: config.description.clone(),
            local: config.local,
            options: config.options.clone(),
            salt: random::alphanumeric(32)?,
        })
    }

    pub fn salt(&self) -> &str {
        &self.salt
    }

    pub fn config(&self) -> Result<DeviceConfig> {
        let unknown = || Error::Internal(format!("an audit device of the unknown type {:?} is stored", self.kind));
        Ok(DeviceConfig {
            kind: Kind::of(&self.kind).ok_or_else(unknown)?,
            path: self.path.clone(),
            description: self.description.clone(),
            local: self.local,
            options: self.options.clone(),
        })
    }
}

pub fn load(tx: &mut Tx) -> Result<Table> {
    Ok(tx.within(STORE, |tx| record::get(tx, Place::Ordered(SETTINGS, NAME)))?.unwrap_or_default())
}

fn save(tx: &mut Tx, table: &Table) -> Result<()> {
    tx.within(STORE, |tx| record::put(tx, Place::Ordered(SETTINGS, NAME), table))
}

/// Refuse a path that is another device's, or above or below one.
pub fn check_free<'p>(path: &str, taken: impl Iterator<Item = &'p str>) -> Result<()> {
    let mut count = 0;
    for other in taken {
        if path.starts_with(other) || other.starts_with(path) {
            return Err(Error::bad_request("path already in use"));
        }
        count += 1;
    }
    match count {
        MOST.. => Err(Error::bad_request(format!("there are {MOST} audit devices at most"))),
        _ => Ok(()),
    }
}

/// Keep a device.
pub fn add(tx: &mut Tx, new: Stored) -> Result<()> {
    let mut table = load(tx)?;
    check_free(&new.path, table.devices.iter().map(|d| d.path.as_str()))?;
    table.devices.push(new);
    save(tx, &table)
}

/// Forget a device. True: there was one.
pub fn remove(tx: &mut Tx, path: &str) -> Result<bool> {
    let mut table = load(tx)?;
    let before = table.devices.len();
    table.devices.retain(|d| d.path != path);
    if table.devices.len() == before {
        return Ok(false);
    }
    save(tx, &table)?;
    Ok(true)
}

impl Core {
    /// The devices of a server that is being unsealed.
    pub(crate) async fn open_audit(&self, barrier: &Barrier) -> Result<Broker> {
        let broker = Broker::new(self.metrics.audit.clone());
        self.bring_up_to_date(&broker, barrier).await?;
        Ok(broker)
    }

    /// Have the devices that are declared and stored now.
    pub(crate) async fn follow_audit(&self, open: &Open) -> Result<()> {
        let barrier = Barrier::clone(&open.barrier.load());
        self.bring_up_to_date(&open.audit, &barrier).await?;
        // Tokens are kept as the devices show them; those of new ones would be computed for each line.
        open.sessions.clear();
        Ok(())
    }

    /// The configuration was read again: these devices are declared now.
    pub async fn declare_audit(&self, devices: Vec<DeviceConfig>) {
        self.options.audit.store(Arc::new(devices));
        // One that is made anew has them.
        self.readers.void();
        let Some(open) = self.open() else { return };
        if let Err(e) = self.follow_audit(&open).await {
            tracing::error!(error = %e, "the audit devices stay as they were");
        }
    }

    async fn bring_up_to_date(&self, broker: &Broker, barrier: &Barrier) -> Result<()> {
        let _one = broker.changing.lock().await;
        let before = broker.devices();
        let mut now = Devices::new();
        for config in self.options.audit.load().iter() {
            let kept = before.iter().find(|d| d.uuid.is_none() && d.config == *config);
            match kept {
                Some(device) => now.push(device.clone()),
                None => now.push(self.open_declared(broker, barrier, config).await?),
            }
        }
        let table = load(&mut Tx::read_only(self.store.view(), barrier.clone()))?;
        for stored in &table.devices {
            if let Err(e) = check_free(&stored.path, now.iter().map(|d| d.config.path.as_str())) {
                tracing::error!(device = %stored.path, error = %e, "an audit device of the API is not used beside a declared one");
                continue;
            }
            let kept = before.iter().find(|d| d.uuid == Some(stored.uuid)).cloned();
            match kept.or_else(|| broker.tested(&stored.uuid)) {
                Some(device) => now.push(device),
                None => {
                    let sealing = self.sealing(barrier, &stored.path).await?;
                    let made = (Some(stored.uuid), stored.salt.as_str(), sealing);
                    let opened = Device::open(broker, &self.options.audit_rules, stored.config()?, made, false).await;
                    now.push(opened.map_err(Error::Internal)?);
                }
            }
        }
        broker.devices.store(Arc::new(now));
        Ok(())
    }

    /// One that is new gets a test line; whether it works or not, it is one of the devices.
    async fn open_declared(&self, broker: &Broker, barrier: &Barrier, config: &DeviceConfig) -> Result<Arc<Device>> {
        let rules = &self.options.audit_rules;
        let (salt, is_new) = self.salt_of_declared(barrier, &config.path).await?;
        if is_new {
            let sealing = self.sealing(barrier, &config.path).await?;
            match Device::open(broker, rules, config.clone(), (None, &salt, sealing), true).await {
                Ok(device) => return Ok(device),
                Err(e) => tracing::error!(device = %config.path, error = %e, "a declared audit device does not work"),
            }
        }
        let sealing = self.sealing(barrier, &config.path).await?;
        Device::open(broker, rules, config.clone(), (None, &salt, sealing), false).await.map_err(Error::Internal)
    }

    /// The salt, and whether it was made just now.
    async fn salt_of_declared(&self, barrier: &Barrier, path: &str) -> Result<(String, bool)> {
        let name = format!("{SALT}{path}");
        let place = Place::Ordered(SETTINGS, name.as_bytes());
        let mut tx = Tx::new(self.store.view(), barrier.clone());
        tx.enter(STORE);
        if let Some(salt) = tx.get(place)? {
            return Ok((String::from_utf8(salt).map_err(Error::internal)?, false));
        }
        let salt = random::alphanumeric(32)?;
        tx.put(place, salt.clone().into_bytes())?;
        let ticket = self.store.propose(tx.into_proposal()?).map_err(Error::internal)?;
        ticket.committed().await.map_err(Error::internal)?;
        Ok((salt, true))
    }
}
