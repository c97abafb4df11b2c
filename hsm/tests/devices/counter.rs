//! The counter of a TPM by which old copies of a store are told.

use super::swtpm::SwTpm;
use super::tpm::spawned;
use super::{Bench, Test};
use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{CounterAct, DeviceErrorClass as Class};
use holdfast_hsm::tpm::TpmConfig;

pub const TESTS: &[Test] = &[
    ("a_counter_of_a_tpm_goes_up_and_never_down", never_down),
    ("what_is_no_counter_of_a_tpm_is_not_counted_with", no_counter),
];

const INDEX: &str = "0x01800100";

fn counting(tpm: &SwTpm) -> TpmConfig {
    TpmConfig { rollback_counter: Some(0x0180_0100), ..tpm.config() }
}

fn never_down(bench: &Bench) {
    let mut tpm = SwTpm::start();
    let device = spawned(bench, counting(&tpm));
    let count = |act| device.counter(act);
    let raise = |to| device.counter(CounterAct::RaiseTo(to));
    assert_eq!(count(CounterAct::Read).unwrap(), None);
    assert_eq!(raise(1).unwrap_err().class, Class::KeyMissing);
    let first = count(CounterAct::Make).unwrap().unwrap();
    assert_eq!(count(CounterAct::Make).unwrap(), Some(first), "it was there");
    for _ in 0..2 {
        assert_eq!(raise(first + 1).unwrap(), Some(first + 1), "asked twice it is raised once");
    }
    for other in [first, first + 3, 0, u64::MAX] {
        assert_eq!(raise(other).unwrap_err().class, Class::Failed, "{other}");
    }
    // The power is gone, and the connection with it.
    tpm.restart();
    assert_eq!(count(CounterAct::Read).unwrap(), Some(first + 1));
    assert_eq!(raise(first + 2).unwrap(), Some(first + 2));
    device.log_out();
    tpm.tool("tpm2_nvundefine", &[INDEX, "-C", "o"]);
    assert_eq!(count(CounterAct::Read).unwrap(), None);
    assert_eq!(raise(first + 3).unwrap_err().class, Class::KeyMissing);
    assert!(count(CounterAct::Make).unwrap().unwrap() > first + 2, "one that is made anew begins above");
}

fn no_counter(bench: &Bench) {
    let tpm = SwTpm::start();
    let refused = |device: &DeviceClient, words: &str| {
        for act in [CounterAct::Read, CounterAct::Make, CounterAct::RaiseTo(1)] {
            let error = device.counter(act).unwrap_err();
            assert!(error.class == Class::Config && error.text.contains(words), "{error}");
        }
    };
    refused(&spawned(bench, tpm.config()), "no rollback_counter is configured");
    let define = |attributes: &str| {
        tpm.tool("tpm2_nvdefine", &[INDEX, "-C", "o", "-s", "8", "-a", attributes]);
    };
    let device = spawned(bench, counting(&tpm));
    for attributes in ["authread|authwrite", "nt=counter|ownerread|ownerwrite", "nt=counter|authread|authwrite|orderly"]
    {
        define(attributes);
        refused(&device, "none that the server can count with");
        device.log_out();
        tpm.tool("tpm2_nvundefine", &[INDEX, "-C", "o"]);
    }
    // One that was made by somebody else, and never raised.
    define("nt=counter|authread|authwrite|ownerread|no_da");
    assert_eq!(device.counter(CounterAct::Read).unwrap(), None);
    let first = device.counter(CounterAct::Make).unwrap().unwrap();
    assert_eq!(device.counter(CounterAct::RaiseTo(first + 1)).unwrap(), Some(first + 1));
}
