//! How fast a device is, with one user and with eight, as its users see it: through the queue, the helper and the library.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_hsm::device::{CipherMechanism, DeviceError, Hash, KeyKind, KeyRef, KeyUsage, SignInput, SignMechanism};
use holdfast_hsm::memory::Secret;
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
    Ok(all)
}

async fn of_one(
    device: &Arc<Device>,
    operation: Operation,
    key: KeyRef,
    each: Duration,
) -> std::result::Result<Vec<Measured>, DeviceError> {
    let (what, sealed) = match operation {
        Operation::Sign(kind, mechanism) => (format!("{kind}: sign, {mechanism}"), None),
        Operation::Decrypt(kind, mechanism) => {
            let key = key.clone();
            let sealed = device
                .run(Repeat::Safe, move |client| client.encrypt(key.clone(), mechanism, Secret::new(vec![7; 32]), &[]));
            let sealed = sealed.await?;
            (format!("{kind}: decrypt, {}", sealed.mechanism), Some(sealed))
        }
    };
    let mut all = Vec::new();
    for users in USERS {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..users {
            let (device, key, sealed) = (device.clone(), key.clone(), sealed.clone());
            tasks.spawn(async move {
                let mut calls = Vec::new();
                while begun.elapsed() < each {
                    let (key, sealed) = (key.clone(), sealed.clone());
                    let call = Instant::now();
                    let done = device.run(Repeat::Safe, move |client| match (operation, &sealed) {
                        (Operation::Sign(_, mechanism), _) => {
                            client.sign(key.clone(), mechanism, SignInput::Message(vec![7; 32])).map(drop)
                        }
                        (Operation::Decrypt(..), Some(sealed)) => {
                            client.decrypt(key.clone(), sealed.mechanism, &sealed.bytes, &[]).map(drop)
                        }
                        (Operation::Decrypt(..), None) => Ok(()),
                    });
                    done.await?;
                    calls.push(call.elapsed());
                }
                Ok::<_, DeviceError>(calls)
            });
        }
        let mut calls = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            let ended =
                ended.map_err(|e| DeviceError::new(holdfast_hsm::device::DeviceErrorClass::Failed, e.to_string()));
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
