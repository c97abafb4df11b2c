//! How fast a device is, with one user and with eight, as its users see it: through the queue, the helper and the library.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_hsm::device::{
    Capabilities, CipherMechanism, Ciphertext, DeviceError, DeviceErrorClass, Hash, KeyKind, KeyRef, KeyUsage,
    SignInput, SignMechanism,
};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::TpmConfig;
use holdfast_hsm::{DeviceClient, WrapKeyConfig, WrapKeyInfo};
use holdfast_sdk::Result;

use super::trial::{destroy, temporary};
use super::{Device, Repeat, refusal};

const USERS: [usize; 2] = [1, 8];

/// What was measured of one operation.
pub struct Measured {
    pub what: String,
    pub users: usize,
    pub times: u64,
    pub took: Duration,
    /// Of single calls.
    pub median: Duration,
    pub p99: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Sign(KeyKind, SignMechanism),
    Decrypt(KeyKind, CipherMechanism),
}

const OPERATIONS: [Operation; 4] = [
    Operation::Sign(KeyKind::EcP256, SignMechanism::Ecdsa(Hash::Sha256)),
    Operation::Sign(KeyKind::Rsa(2048), SignMechanism::RsaPkcs1(Hash::Sha256)),
    Operation::Decrypt(KeyKind::Rsa(2048), CipherMechanism::RsaOaepSha256),
    Operation::Decrypt(KeyKind::Aes(256), CipherMechanism::AesGcm),
];

/// What is done over and over, with a key that is there.
#[derive(Clone)]
enum Task {
    Sign(KeyRef, SignMechanism),
    Decrypt(KeyRef, Ciphertext),
    /// A root key, as a seal's device opens it.
    Unwrap(WrapKeyInfo, Vec<u8>),
}

/// What is wrapped, and for whom: bytes that are nobody's.
const WRAPPED: &[u8] = &[7; 32];
const PLACE: &[u8] = b"a bench";

impl Task {
    fn once(&self, client: &DeviceClient) -> std::result::Result<(), DeviceError> {
        match self {
            Task::Sign(key, mechanism) => {
                client.sign(key.clone(), *mechanism, SignInput::Message(WRAPPED.to_vec())).map(drop)
            }
            Task::Decrypt(key, sealed) => client.decrypt(key.clone(), sealed.mechanism, &sealed.bytes, &[]).map(drop),
            Task::Unwrap(key, wrapped) => client.unwrap(key, wrapped, PLACE).map(drop),
        }
    }
}

/// Measure what the device has, each for so long.
pub async fn run(device: &Arc<Device>, each: Duration) -> Result<Vec<Measured>> {
    // A device that lets nobody in has nothing to show.
    device.check().await.map_err(refusal)?;
    let info = device.info().await.map_err(refusal)?;
    let can = &info.capabilities;
    let mut all = Vec::new();
    for operation in OPERATIONS {
        let (kind, usage, has) = match operation {
            Operation::Sign(kind, mechanism) => (kind, KeyUsage::Sign, can.sign.contains(&mechanism)),
            Operation::Decrypt(kind, mechanism) => (kind, KeyUsage::Encrypt, can.cipher.contains(&mechanism)),
        };
        if !has || !can.generate.contains(&kind) {
            continue;
        }
        let label = temporary(device, kind, usage).await.map_err(refusal)?;
        let measured = of_one(device, operation, KeyRef::label(&label), each).await;
        // The key goes whatever came of it.
        let destroyed = destroy(device, label).await;
        all.extend(measured.map_err(refusal)?);
        destroyed.map_err(refusal)?;
    }
    all.extend(unwraps(device, can, each).await.map_err(refusal)?);
    Ok(all)
}

async fn of_one(device: &Arc<Device>, operation: Operation, key: KeyRef, each: Duration) -> Found {
    match operation {
        Operation::Sign(kind, mechanism) => {
            timed(device, format!("{kind}: sign, {mechanism}"), Task::Sign(key, mechanism), each).await
        }
        Operation::Decrypt(kind, mechanism) => {
            let of = key.clone();
            let seal =
                move |client: &DeviceClient| client.encrypt(of.clone(), mechanism, Secret::new(WRAPPED.to_vec()), &[]);
            let sealed = device.run(Repeat::Safe, seal).await?;
            timed(device, format!("{kind}: decrypt, {}", sealed.mechanism), Task::Decrypt(key, sealed), each).await
        }
    }
}

/// Of devices that wrap in a way of their own, which no key of an engine uses: a TPM below its root, a YubiHSM.
async fn unwraps(device: &Arc<Device>, can: &Capabilities, each: Duration) -> Found {
    let (config, of_its_own) = if can.cipher.contains(&CipherMechanism::TpmSeal) {
        // It has one key for that, which is always there.
        let of_the_root = WrapKeyConfig {
            key_label: Some(TpmConfig::ROOT_LABEL.to_owned()),
            mechanism: Some(CipherMechanism::TpmSeal.name().to_owned()),
            ..WrapKeyConfig::default()
        };
        (of_the_root, None)
    } else if can.cipher.contains(&CipherMechanism::YubiHsmWrap) && can.generate.contains(&KeyKind::AesCcm(256)) {
        let label = temporary(device, KeyKind::AesCcm(256), KeyUsage::Encrypt).await?;
        let mechanism = Some(CipherMechanism::YubiHsmWrap.name().to_owned());
        (WrapKeyConfig { key_label: Some(label.clone()), mechanism, ..WrapKeyConfig::default() }, Some(label))
    } else {
        return Ok(Vec::new());
    };
    let wrap = move |client: &DeviceClient| {
        let key = client.ensure_wrapping_key(&config)?;
        let wrapped = client.wrap(&key, WRAPPED, PLACE)?;
        Ok((key, wrapped))
    };
    let measured = match device.run(Repeat::Safe, wrap).await {
        Ok((key, wrapped)) => {
            let what = format!("unwrap a root key, {}", key.mechanism);
            timed(device, what, Task::Unwrap(key, wrapped), each).await
        }
        Err(error) => Err(error),
    };
    if let Some(label) = of_its_own {
        destroy(device, label).await?;
    }
    measured
}

type Found = std::result::Result<Vec<Measured>, DeviceError>;

async fn timed(device: &Arc<Device>, what: String, task: Task, each: Duration) -> Found {
    let mut all = Vec::new();
    for users in USERS {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..users {
            let (device, task) = (device.clone(), task.clone());
            tasks.spawn(async move {
                let mut calls = Vec::new();
                while begun.elapsed() < each {
                    let task = task.clone();
                    let call = Instant::now();
                    device.run(Repeat::Safe, move |client| task.once(client)).await?;
                    calls.push(call.elapsed());
                }
                Ok::<_, DeviceError>(calls)
            });
        }
        let mut calls = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.map_err(|e| DeviceError::new(DeviceErrorClass::Failed, e.to_string()));
            calls.extend(ended??);
        }
        let took = begun.elapsed();
        calls.sort_unstable();
        let at = |share: f64| calls.get(((calls.len() as f64 * share) as usize).min(calls.len().saturating_sub(1)));
        all.push(Measured {
            what: what.clone(),
            users,
            times: calls.len() as u64,
            took,
            median: at(0.5).copied().unwrap_or_default(),
            p99: at(0.99).copied().unwrap_or_default(),
        });
    }
    Ok(all)
}
