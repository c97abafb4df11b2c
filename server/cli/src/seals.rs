//! The seals of the configuration, set up: read at the start, at SIGHUP, and for `operator seal plan`.

use std::sync::{Arc, Mutex, PoisonError};

use holdfast_config::{Config, SealInUse, SealKind};
use holdfast_core::{Seal, SealSource, Seals};
use holdfast_hsm::Spawner;
use holdfast_seal::SealDevice;

use crate::seal_device::{DeviceSetUp, WrappingDevice};
use crate::static_key::StaticKeys;

/// Reads the configuration.
pub type Read = dyn Fn() -> Result<Config, String> + Send + Sync;

/// The seals as they were read last. One whose stanza is as it was keeps its helper, and what is known of its PIN.
pub struct ConfiguredSeals {
    spawner: Option<Arc<Spawner>>,
    read: Box<Read>,
    known: Mutex<Vec<Known>>,
}

struct Known {
    kind: SealKind,
    seal: Arc<Seal>,
    /// Where it has a helper.
    wrapping: Option<Arc<WrappingDevice>>,
}

impl ConfiguredSeals {
    pub fn new(spawner: Option<Arc<Spawner>>, read: Box<Read>) -> ConfiguredSeals {
        ConfiguredSeals { spawner, read, known: Mutex::default() }
    }

    /// The seals that a configuration names.
    pub fn of(&self, config: &Config) -> Result<Seals, String> {
        let in_use = config.seals_in_use().map_err(|e| e.to_string())?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut now, mut seals) = (Vec::new(), Seals::default());
        for seal in &in_use.present {
            seals.present.extend(self.one(seal, &known, &mut now)?);
        }
        if let Some(former) = &in_use.former {
            seals.former = self.one(former, &known, &mut now)?;
        }
        // Those before are kept beside: the plan of a change reads it while they are in use.
        let mut before = std::mem::take(&mut *known);
        before.retain(|old| !now.iter().any(|new: &Known| Arc::ptr_eq(&old.seal, &new.seal)));
        before.truncate(KEPT);
        now.append(&mut before);
        *known = now;
        Ok(seals)
    }

    fn one(&self, seal: &SealInUse<'_>, known: &[Known], now: &mut Vec<Known>) -> Result<Option<Arc<Seal>>, String> {
        let is_same = |k: &&Known| k.kind == *seal.kind && k.seal.name == seal.name && k.seal.priority == seal.priority;
        if let Some(Known { kind, seal, wrapping }) = known.iter().find(is_same) {
            now.push(Known { kind: kind.clone(), seal: seal.clone(), wrapping: wrapping.clone() });
            return Ok(Some(seal.clone()));
        }
        // Another name or place in the order is no reason to start a helper anew.
        let same_device = known.iter().find(|k| k.kind == *seal.kind).and_then(|k| k.wrapping.clone());
        let (device, wrapping): (Arc<dyn SealDevice>, _) = match (seal.kind, same_device) {
            (_, Some(wrapping)) => (wrapping.clone(), Some(wrapping)),
            (SealKind::Static(keys), None) => (Arc::new(StaticKeys::read(keys)?), None),
            (kind, None) => {
                let Some(set_up) = DeviceSetUp::of(kind) else { return Ok(None) };
                let wrapping = Arc::new(WrappingDevice::new(set_up, self.spawner.clone())?);
                (wrapping.clone(), Some(wrapping))
            }
        };
        let made = Seal::new(seal.name.clone(), seal.priority, device);
        now.push(Known { kind: seal.kind.clone(), seal: made.clone(), wrapping });
        Ok(Some(made))
    }

    /// Read the files of PINs again.
    pub fn read_pins_again(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter_map(|k| k.wrapping.as_ref()).for_each(|device| device.read_pin_again());
    }
}

/// Seals that were read before and are not named any more, at most: one of them may be in use still, and a PIN that it
/// refused is not tried again.
const KEPT: usize = 8;

impl SealSource for ConfiguredSeals {
    fn read(&self) -> Result<Seals, String> {
        self.of(&(self.read)()?)
    }
}
