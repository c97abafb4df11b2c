//! How a device is: what its last calls said, and how long they took.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class, KeyRef};
use holdfast_sdk::Timestamp;

use super::{Device, Proves, Repeat, lock};
use crate::clock;
use crate::{Core, metrics};

/// How often devices are looked at. One that is well is asked when nobody has asked it for so long.
const LOOK: Duration = Duration::from_secs(10);
const QUIET_SECS: u64 = 60;
/// While the server is sealed nobody logs in to them.
const SEALED: Duration = Duration::from_secs(1);

/// What is known of a device.
#[derive(Debug, Clone, Default)]
pub struct Health {
    pub checked: Option<Timestamp>,
    /// When it did last what it was asked.
    pub well: Option<Timestamp>,
    /// Since when it does not, and what it says.
    pub trouble: Option<(Timestamp, String)>,
    /// What it says that an operator should know, although it does what it is asked.
    pub warnings: Vec<String>,
}

/// Whether the device itself is in trouble. What it refuses of a single key or call is none.
fn is_trouble(error: &DeviceError) -> bool {
    !matches!(
        error.class,
        Class::KeyMissing | Class::Unsupported | Class::Tampered | Class::Invalid | Class::Busy | Class::PolicyRefused
    )
}

impl Device {
    pub fn health(&self) -> Health {
        lock(&self.health).clone()
    }

    /// A call has ended.
    pub(super) fn note(&self, proves: Proves, took: Duration, failed: Option<&DeviceError>) {
        self.calls.figures.calls.took(took);
        let trouble = failed.filter(|error| is_trouble(error));
        if trouble.is_some() {
            self.calls.figures.failures.add(1);
        }
        let now = clock::now();
        let mut health = lock(&self.health);
        match trouble {
            None if proves == Proves::Nothing => return,
            None => {
                if health.trouble.take().is_some() {
                    tracing::info!(device = self.name, "the device is well again");
                }
                health.well = Some(now);
            }
            Some(error) => {
                if health.trouble.is_none() {
                    tracing::error!(device = self.name, "the device does not do what it is asked: {error}");
                }
                let since = health.trouble.as_ref().map_or(now, |(since, _)| *since);
                health.trouble = Some((since, error.text.clone()));
            }
        }
        health.checked = Some(now);
    }

    /// Ask for a key that nobody has: that needs the device, a session and the login, and changes nothing.
    pub async fn check(self: &Arc<Self>) -> Result<(), DeviceError> {
        let nobodys = || KeyRef::label("holdfast-nobodys-key");
        self.run(Repeat::Safe, move |client: &DeviceClient| client.find(nobodys()).map(drop)).await
    }

    /// Ask what it warns of. What is new is in the log, once.
    async fn look_for_warnings(self: &Arc<Self>) {
        let Ok(info) = self.ask(Repeat::Safe, Proves::Nothing, DeviceClient::info).await else { return };
        let mut health = lock(&self.health);
        for warning in info.warnings.iter().filter(|warning| !health.warnings.contains(warning)) {
            tracing::warn!(device = self.name, "{warning}");
        }
        health.warnings = info.warnings;
    }

    fn wants_a_look(&self, now: Timestamp) -> bool {
        let health = self.health();
        self.is_new.swap(false, Ordering::Relaxed)
            || health.trouble.is_some()
            || health.checked.is_none_or(|at| now.secs() >= at.secs() + QUIET_SECS)
    }

    pub fn figures(&self) -> metrics::Device<'_> {
        metrics::Device {
            name: &self.name,
            kind: self.declared().kind,
            healthy: self.health().trouble.is_none(),
            calls: &self.calls.figures.calls,
            failures: self.calls.figures.failures.get(),
            refused: self.calls.figures.refused.get(),
        }
    }
}

impl Core {
    /// Look at devices that nobody uses, and at those that do not answer, whenever the server has the root key.
    pub async fn watch_devices(self: Arc<Self>) {
        loop {
            if !matches!(self.present_root(), Ok(Some(_))) {
                tokio::time::sleep(SEALED).await;
                continue;
            }
            let now = clock::now();
            let mut looks = tokio::task::JoinSet::new();
            for device in self.devices.all().iter().filter(|device| device.wants_a_look(now)) {
                let device = device.clone();
                looks.spawn(async move {
                    if device.check().await.is_ok() {
                        device.look_for_warnings().await;
                    }
                });
            }
            while looks.join_next().await.is_some() {}
            tokio::time::sleep(LOOK).await;
        }
    }
}
