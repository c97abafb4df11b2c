//! The suite against each backend.

use super::{Bench, Test, softhsm, suite::conformance};
use holdfast_hsm::DeviceClient;
use holdfast_hsm::pkcs11::Pkcs11Device;
use holdfast_hsm::software::{SoftwareConfig, SoftwareDevice};
use std::sync::Arc;

pub const TESTS: &[Test] = &[
    ("conformance_of_software", software),
    ("conformance_of_software_in_a_helper", software_in_a_helper),
    ("conformance_of_softhsm_in_process", softhsm_in_process),
    ("conformance_of_softhsm_in_a_helper", softhsm_in_a_helper),
];

fn software(_: &Bench) {
    let device = SoftwareDevice::new(&SoftwareConfig::default()).unwrap();
    conformance(&DeviceClient::in_process(Box::new(device)));
}

fn software_in_a_helper(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys").to_str().map(str::to_owned);
    conformance(&DeviceClient::spawned(Arc::clone(&bench.spawner), SoftwareConfig { path }));
}

fn softhsm_in_process(_: &Bench) {
    let device = Pkcs11Device::new(softhsm::token("suite-in-process"));
    conformance(&DeviceClient::in_process(Box::new(device)));
}

fn softhsm_in_a_helper(bench: &Bench) {
    conformance(&DeviceClient::spawned(Arc::clone(&bench.spawner), softhsm::token("suite-in-helper")));
}
