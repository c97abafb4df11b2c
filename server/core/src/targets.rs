//! How many acts outside may be under way: all together, and at one target, so that one which hangs
//! leaves room for all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use holdfast_sdk::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Acts at a time,
const AT_ONCE: usize = 256;
/// and at one target of a mount. More wait.
const AT_ONE_TARGET: usize = 32;
/// With so many targets remembered, those at which nothing happens are forgotten.
const REMEMBERED: usize = 256;

type Target = ([u8; 16], String);

pub struct Targets {
    all: Arc<Semaphore>,
    each: Mutex<HashMap<Target, Weak<Semaphore>>>,
}

/// One act that may go on; until it is dropped.
pub struct Permit {
    _all: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
}

impl Default for Targets {
    fn default() -> Targets {
        Targets { all: Arc::new(Semaphore::new(AT_ONCE)), each: Mutex::default() }
    }
}

impl Targets {
    /// Wait until an act at a mount's target may go on.
    pub async fn enter(&self, mount: [u8; 16], target: &str) -> Result<Permit> {
        // First at the target: who waits there takes no room from others.
        let one = self.one(mount, target).acquire_owned().await.map_err(Error::internal)?;
        let all = self.all.clone().acquire_owned().await.map_err(Error::internal)?;
        Ok(Permit { _all: all, _one: one })
    }

    fn one(&self, mount: [u8; 16], target: &str) -> Arc<Semaphore> {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let known = (mount, target.to_owned());
        if let Some(semaphore) = each.get(&known).and_then(Weak::upgrade) {
            return semaphore;
        }
        if each.len() >= REMEMBERED {
            each.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = Arc::new(Semaphore::new(AT_ONE_TARGET));
        each.insert(known, Arc::downgrade(&semaphore));
        semaphore
    }
}
