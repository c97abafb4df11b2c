//! The limit for devices that have no library of a vendor's: how often a second our driver does something alone, in this process,
//! without a helper and without anything of the server.
//!
//! `driver tpm TCTI OPERATION USERS SECONDS`, `driver yubihsm CONNECTOR AUTH_KEY PASSWORD_FILE OPERATION USERS SECONDS`, with
//! one of `sign-p256`, `sign-rsa2048`, `unwrap`. It makes a key, uses it from USERS threads, destroys it and prints the
//! rate. `driver simulate-yubihsm PASSWORD_FILE` is a simulated YubiHSM that such a run, or a server, can ask: it prints its connector
//! and goes on until it is ended.

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use holdfast_hsm::device::{Hash, KeyDevice, KeyKind, KeyRef, KeySpec, KeyUsage, SignInput, SignMechanism};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::tpm::TpmConfig;
use holdfast_hsm::yubihsm::{YubiHsmConfig, YubiHsmDevice};
use holdfast_hsm::{DeviceClient, WrapKeyConfig, WrapKeyInfo};
use holdfast_tpm::TpmDevice;
use holdfast_yubihsm_simulator::Simulator;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const MESSAGE: [u8; 32] = [7; 32];
const PLACE: &[u8] = b"a bench";
/// Of the authentication key that is the server's, as docs/yubihsm.md makes it; everything that it could ask for.
const AUTH_KEY: u16 = 2;
const DOMAIN: u16 = 0b1;
const EVERYTHING: u64 = u64::MAX;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let keys = std::env::temp_dir().join(format!("holdfast-bench-keys-{}", std::process::id()));
    // It measures; what it makes protects nothing.
    holdfast_hsm::memory::allow_unlocked();
    match arguments.as_slice() {
        ["simulate-yubihsm", password_file] => simulate(&read(password_file)?),
        ["tpm", tcti, operation, users, seconds] => {
            fs::create_dir(&keys)?;
            let config = TpmConfig { keys: Some(keys.display().to_string()), ..TpmConfig::new(*tcti) };
            let wrapping = WrapKeyConfig::from(&config);
            let rate = measure(Box::new(TpmDevice::new(config)), &wrapping, operation, users, seconds);
            fs::remove_dir_all(&keys)?;
            println!("{:.1}", rate?);
            Ok(())
        }
        ["yubihsm", connector, auth_key, password_file, operation, users, seconds] => {
            let config = YubiHsmConfig {
                auth_key: auth_key.parse()?,
                password: Some(Secret::new(read(password_file)?)),
                key_label: Some("bench-driver-wrap".to_owned()),
                generate_key: true,
                ..YubiHsmConfig::new(*connector)
            };
            let wrapping = WrapKeyConfig::from(&config);
            println!("{:.1}", measure(Box::new(YubiHsmDevice::new(config)?), &wrapping, operation, users, seconds)?);
            Ok(())
        }
        _ => Err("usage: driver tpm TCTI OPERATION USERS SECONDS | driver yubihsm CONNECTOR AUTH_KEY PASSWORD_FILE OPERATION \
                  USERS SECONDS | driver simulate-yubihsm PASSWORD_FILE"
            .into()),
    }
}

fn read(file: &str) -> Result<String> {
    Ok(fs::read_to_string(file)?.trim_end().to_owned())
}

fn simulate(password: &str) -> Result<()> {
    let simulator = Simulator::start();
    simulator.authentication_key(AUTH_KEY, password, DOMAIN, EVERYTHING, EVERYTHING);
    println!("{}", simulator.connector());
    loop {
        std::thread::park();
    }
}

enum Task {
    Sign(KeyRef, SignMechanism),
    Unwrap(WrapKeyInfo, Vec<u8>),
}

fn measure(
    device: Box<dyn KeyDevice>,
    wrapping: &WrapKeyConfig,
    operation: &str,
    users: &str,
    seconds: &str,
) -> Result<f64> {
    let client = DeviceClient::in_process(device);
    let signs = |kind, mechanism| {
        let label = "bench-driver-sign".to_owned();
        let made = client.generate(KeySpec { label, id: None, kind, usage: KeyUsage::Sign })?;
        Ok::<_, Box<dyn Error + Send + Sync>>(Task::Sign(made.key_ref(), mechanism))
    };
    let task = match operation {
        "sign-p256" => signs(KeyKind::EcP256, SignMechanism::Ecdsa(Hash::Sha256))?,
        "sign-rsa2048" => signs(KeyKind::Rsa(2048), SignMechanism::RsaPkcs1(Hash::Sha256))?,
        "unwrap" => {
            let key = client.ensure_wrapping_key(wrapping)?;
            let wrapped = client.wrap(&key, &MESSAGE, PLACE)?;
            Task::Unwrap(key, wrapped)
        }
        other => return Err(format!("unknown operation {other}").into()),
    };
    let rate = calls(&client, &task, users.parse()?, Duration::try_from_secs_f64(seconds.parse()?)?);
    match &task {
        Task::Sign(key, _) => client.destroy(key.clone())?,
        Task::Unwrap(key, _) if wrapping.generate_key => client.destroy(KeyRef::label(&key.key_label))?,
        Task::Unwrap(..) => {}
    }
    rate
}

/// Calls of all users together, a second.
fn calls(client: &DeviceClient, task: &Task, users: usize, time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let one = || {
        let mut count = 0_u32;
        while begin.elapsed() < time {
            match task {
                Task::Sign(key, mechanism) => {
                    client.sign(key.clone(), *mechanism, SignInput::Message(MESSAGE.to_vec())).map(drop)?;
                }
                Task::Unwrap(key, wrapped) => client.unwrap(key, wrapped, PLACE).map(drop)?,
            }
            count += 1;
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(count)
    };
    let count = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..users).map(|_| scope.spawn(one)).collect();
        let mut all = 0.0;
        for thread in threads {
            all += f64::from(thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(all)
    })?;
    Ok(count / begin.elapsed().as_secs_f64())
}
