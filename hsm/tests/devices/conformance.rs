//! The suite against each backend, and the table of docs/hardware.md that comes of it.

use super::suite::{Matrix, Outcome, conformance};
use super::swtpm::SwTpm;
use super::{Bench, Test, modules, rigs, softhsm, speed, yubihsm};
use holdfast_hsm::DeviceClient;
use holdfast_hsm::pkcs11::Pkcs11Device;
use holdfast_hsm::software::{SoftwareConfig, SoftwareDevice};
use holdfast_hsm::yubihsm::YubiHsmDevice;
use holdfast_tpm::TpmDevice;
use holdfast_yubihsm_simulator::Simulator;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

pub const TESTS: &[Test] = &[
    ("conformance_of_software", software),
    ("conformance_of_software_in_a_helper", |bench| drop(software_in_a_helper(bench))),
    ("conformance_of_softhsm_in_process", softhsm_in_process),
    ("conformance_of_softhsm_in_a_helper", |bench| drop(softhsm_in_a_helper(bench))),
    ("conformance_of_opencryptoki", |bench| drop(opencryptoki(bench))),
    ("conformance_of_nss", |bench| drop(nss(bench))),
    ("conformance_of_tpm2_pkcs11", |bench| drop(tpm2_pkcs11(bench))),
    ("conformance_of_a_tpm_in_process", tpm_in_process),
    ("conformance_of_a_tpm_in_a_helper", |bench| drop(tpm_in_a_helper(bench))),
    ("conformance_of_a_simulated_yubihsm_in_process", yubihsm_in_process),
    ("conformance_of_a_simulated_yubihsm_in_a_helper", |bench| drop(yubihsm_in_a_helper(bench))),
    ("the_hardware_page_says_what_the_suite_found", page),
];

/// Devices that have been through the suite in this run.
static FOUND: Mutex<Vec<(&str, Matrix)>> = Mutex::new(Vec::new());

fn found(name: &'static str, run: impl FnOnce() -> Matrix) -> Matrix {
    let known = |name| FOUND.lock().unwrap().iter().find(|(known, _)| *known == name).map(|(_, matrix)| matrix.clone());
    known(name).unwrap_or_else(|| {
        let matrix = run();
        FOUND.lock().unwrap().push((name, matrix.clone()));
        matrix
    })
}

fn software(_: &Bench) {
    let device = SoftwareDevice::new(&SoftwareConfig::default()).unwrap();
    conformance(&DeviceClient::in_process(Box::new(device)));
}

fn software_in_a_helper(bench: &Bench) -> Matrix {
    found("software", || rigs::software(bench))
}

fn softhsm_in_process(_: &Bench) {
    let device = Pkcs11Device::new(softhsm::token("suite-in-process"));
    conformance(&DeviceClient::in_process(Box::new(device)));
}

fn softhsm_in_a_helper(bench: &Bench) -> Matrix {
    found("softhsm", || rigs::softhsm(bench))
}

fn opencryptoki(bench: &Bench) -> Matrix {
    found("opencryptoki", || modules::opencryptoki_matrix(bench))
}

fn nss(bench: &Bench) -> Matrix {
    found("nss", || rigs::nss(bench))
}

fn tpm2_pkcs11(bench: &Bench) -> Matrix {
    found("tpm2-pkcs11", || rigs::tpm2_pkcs11(bench))
}

fn tpm_in_process(_: &Bench) {
    let tpm = SwTpm::start();
    let keys = tempfile::tempdir().unwrap();
    conformance(&DeviceClient::in_process(Box::new(TpmDevice::new(tpm.config_with_keys(keys.path())))));
}

fn tpm_in_a_helper(bench: &Bench) -> Matrix {
    found("tpm", || rigs::tpm(bench))
}

fn yubihsm_in_process(_: &Bench) {
    let simulator = Simulator::start();
    let device = YubiHsmDevice::new(yubihsm::config(&simulator)).unwrap();
    conformance(&DeviceClient::in_process(Box::new(device)));
}

fn yubihsm_in_a_helper(bench: &Bench) -> Matrix {
    found("yubihsm", || rigs::yubihsm(bench))
}

const BEGIN: &str = "<!-- by the suite -->\n";
const END: &str = "<!-- to here -->\n";

/// HOLDFAST_WRITE_DOCS=1 writes it, and with HOLDFAST_MEASURE=1 the figures too: on a machine that does nothing else.
fn page(bench: &Bench) {
    speed::begin();
    let devices = [
        ("PKCS#11: SoftHSM 2", "softhsm", softhsm_in_a_helper(bench)),
        ("PKCS#11: opencryptoki, soft token", "opencryptoki", opencryptoki(bench)),
        ("PKCS#11: NSS softokn", "nss", nss(bench)),
        ("PKCS#11: tpm2-pkcs11, swtpm", "tpm2-pkcs11", tpm2_pkcs11(bench)),
        ("TPM 2.0: swtpm", "tpm", tpm_in_a_helper(bench)),
        ("YubiHSM 2 (simulator)", "yubihsm", yubihsm_in_a_helper(bench)),
        ("`device \"software\"`", "software", software_in_a_helper(bench)),
    ];
    let speeds = speed::recorded();
    let mut table = String::from("| |");
    devices.iter().for_each(|(name, ..)| write!(table, " {name} |").unwrap());
    table += "\n|---|";
    devices.iter().for_each(|_| table += "---|");
    let mut notes: Vec<String> = Vec::new();
    for (row, (operation, _)) in devices[0].2.iter().enumerate() {
        write!(table, "\n| {operation} |").unwrap();
        for (_, short, matrix) in &devices {
            let (same, cell) = &matrix[row];
            assert_eq!(same, operation, "all devices go through the same suite");
            write!(table, " {}", cell.words()).unwrap();
            let speed = speeds.get(&((*short).to_owned(), operation.clone()));
            if let Some(speed) = speed.filter(|_| cell.outcome == Outcome::Works) {
                write!(table, ", {speed}/s").unwrap();
            }
            if let Some(note) = &cell.note {
                let number = notes.iter().position(|known| known == note).unwrap_or(notes.len());
                if number == notes.len() {
                    notes.push(note.clone());
                }
                write!(table, " ({})", number + 1).unwrap();
            }
            table += " |";
        }
    }
    table += "\n\n";
    for (number, note) in notes.iter().enumerate() {
        writeln!(table, "({}) {note}.  ", number + 1).unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hardware.md");
    let text = fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the page has a place for the table");
    let (now, after) = rest.split_once(END).expect("the place has an end");
    if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
        fs::write(&file, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(now, table, "docs/hardware.md is out of date: run this test with HOLDFAST_WRITE_DOCS=1");
    }
}
