//! Which device: what a helper is told in its first message.

use crate::confinement::HelperLimits;
use crate::device::{DeviceError, KeyDevice};
use crate::memory::Secret;
use crate::pkcs11::{Pkcs11Config, Pkcs11Device};
use crate::software::{SoftwareConfig, SoftwareDevice};
use crate::spawner::Program;
use crate::tpm::TpmConfig;
use crate::yubihsm::{YubiHsmConfig, YubiHsmDevice};
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
    /// A TPM 2.0.
    #[n(2)]
    Tpm(#[n(0)] Box<TpmConfig>),
    /// A YubiHSM 2 behind its connector.
    #[n(3)]
    YubiHsm(#[n(0)] Box<YubiHsmConfig>),
}

/// Makes the device of a configuration: [`DeviceConfig::open`], or that of a program which has more kinds of devices.
pub type OpenDevice = fn(DeviceConfig) -> Result<Box<dyn KeyDevice>, DeviceError>;

impl DeviceConfig {
    /// The device in this process.
    ///
    /// # Errors
    /// `Config`, from the software device's file or a YubiHSM's address. PKCS#11 modules are loaded at the
    /// first call. `Unsupported` for a TPM, which is not of this crate.
    pub fn open(self) -> Result<Box<dyn KeyDevice>, DeviceError> {
        Ok(match self {
            Self::Pkcs11(config) => Box::new(Pkcs11Device::new(*config)),
            Self::Software(config) => Box::new(SoftwareDevice::new(&config)?),
            Self::YubiHsm(config) => Box::new(YubiHsmDevice::new(*config)?),
            Self::Tpm(_) => {
                return Err(DeviceError::unsupported(
                    "this program has no TPM: its helper is another one, holdfast-tpm-helper",
                ));
            }
        })
    }

    /// The program that its helper is.
    pub(crate) fn program(&self) -> Program {
        match self {
            Self::Pkcs11(_) | Self::Software(_) | Self::YubiHsm(_) => Program::Own,
            Self::Tpm(_) => Program::Tpm,
        }
    }

    /// What its helper may do beside what every helper may.
    pub(crate) fn limits(&self) -> HelperLimits {
        match self {
            Self::Pkcs11(config) => config.limits.clone(),
            Self::Software(_) => HelperLimits::default(),
            Self::Tpm(config) => config.limits.clone(),
            Self::YubiHsm(config) => config.limits.clone(),
        }
    }

    /// The variables of its library.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        match self {
            Self::Pkcs11(config) => &config.environment,
            Self::Software(_) | Self::Tpm(_) | Self::YubiHsm(_) => &[],
        }
    }

    /// For logs and error texts.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Pkcs11(config) => config.token_name(),
            Self::Software(_) => "the software device".to_owned(),
            Self::Tpm(config) => config.name(),
            Self::YubiHsm(config) => config.name(),
        }
    }

    /// Where the PIN stands, for a device that may have one.
    pub(crate) fn pin(&mut self) -> Option<&mut Option<Secret<String>>> {
        match self {
            Self::Pkcs11(config) => Some(&mut config.pin),
            Self::Tpm(config) => Some(&mut config.pin),
            Self::YubiHsm(config) => Some(&mut config.password),
            Self::Software(_) => None,
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

impl From<TpmConfig> for DeviceConfig {
    fn from(config: TpmConfig) -> Self {
        Self::Tpm(Box::new(config))
    }
}

impl From<YubiHsmConfig> for DeviceConfig {
    fn from(config: YubiHsmConfig) -> Self {
        Self::YubiHsm(Box::new(config))
    }
}
