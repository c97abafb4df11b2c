//! Which device: what a helper is told in its first message.

use crate::confinement::HelperLimits;
use crate::device::{DeviceError, KeyDevice};
use crate::pkcs11::{Pkcs11Config, Pkcs11Device};
use crate::software::{SoftwareConfig, SoftwareDevice};
use minicbor::{Decode, Encode};

/// A device as configured.
#[derive(Debug, Encode, Decode)]
pub enum DeviceConfig {
    /// A token behind a PKCS#11 library.
    #[n(0)]
    Pkcs11(#[n(0)] Box<Pkcs11Config>),
    /// Keys in software, for development only.
    #[n(1)]
    Software(#[n(0)] SoftwareConfig),
}

impl DeviceConfig {
    /// The device in this process.
    ///
    /// # Errors
    /// `Config`, from the software device's file. PKCS#11 modules are loaded at the
    /// first call.
    pub fn open(self) -> Result<Box<dyn KeyDevice>, DeviceError> {
        Ok(match self {
            Self::Pkcs11(config) => Box::new(Pkcs11Device::new(*config)),
            Self::Software(config) => Box::new(SoftwareDevice::new(&config)?),
        })
    }

    /// What its helper may do beside what every helper may.
    pub(crate) fn limits(&self) -> HelperLimits {
        match self {
            Self::Pkcs11(config) => config.limits.clone(),
            Self::Software(_) => HelperLimits::default(),
        }
    }

    /// For logs and error texts.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Pkcs11(config) => config.token_name(),
            Self::Software(_) => "the software device".to_owned(),
        }
    }
}

impl From<Pkcs11Config> for DeviceConfig {
    fn from(config: Pkcs11Config) -> Self {
        Self::Pkcs11(Box::new(config))
    }
}

impl From<SoftwareConfig> for DeviceConfig {
    fn from(config: SoftwareConfig) -> Self {
        Self::Software(config)
    }
}
