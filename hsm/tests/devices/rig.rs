//! The part of the suite that needs a hand on the device: it is pulled out, given a wrong PIN, filled, and asked for its keys.

use super::suite::{Cell, Matrix, class, signing_key, spec, use_key, usual_key, wrapping};
use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{DeviceErrorClass as Class, KeyRef, KeyUsage};
use holdfast_tests::until;
use std::time::Duration;

/// What a test can do to a device from outside. Where it cannot, the cell of the page says so.
pub trait Rig {
    /// The device is gone for who is about to use it.
    fn pull_out(&mut self) -> Result<(), Cell>;
    fn put_back(&mut self);
    /// The same device, with its right PIN and with a wrong one.
    fn by_pins(&self, wrong: &str) -> Result<[DeviceClient; 2], Cell>;
    /// No room is left for another key.
    fn fill(&mut self) -> Result<(), Cell>;
    fn make_room(&mut self);
    /// Keys of each kind that it makes are asked for by who knows the PIN, and one that may come out does.
    fn asks_for_keys(&self) -> Cell;
}

pub fn with_hands_on(device: &DeviceClient, rig: &mut dyn Rig) -> Matrix {
    let rows = [
        ("removed, and put back", removed(device, rig)),
        ("a wrong PIN is tried once", wrong_pin(device, rig)),
        ("full: said, and no half of a key stays", full(device, rig)),
        ("keys do not come out", rig.asks_for_keys()),
    ];
    rows.map(|(what, cell)| (what.to_owned(), cell)).into()
}

fn removed(device: &DeviceClient, rig: &mut dyn Rig) -> Cell {
    let key = device.ensure_wrapping_key(&wrapping(device, "suite-removed")).unwrap();
    let wrapped = device.wrap(&key, b"root key", b"cluster").unwrap();
    let unwrap = || device.unwrap(&key, &wrapped, b"cluster").map(|opened| opened.expose().to_vec());
    assert_eq!(unwrap().unwrap(), b"root key");
    if let Err(cell) = rig.pull_out() {
        return cell;
    }
    // A module may go on with what it holds open; who comes next finds nothing.
    let error = unwrap().err().unwrap_or_else(|| {
        device.log_out();
        unwrap().expect_err("a device that is not there opens nothing")
    });
    assert!(error.is_transient() || error.class == Class::Config, "{error:?}");
    assert!(!error.text.is_empty() && !error.text.contains('\n'), "{error}");
    assert!(unwrap().is_err(), "it is still away");
    rig.put_back();
    let opened = until(Duration::from_secs(20), "the device that was put back", || unwrap().ok());
    assert_eq!(opened, b"root key");
    if key.key_label == "suite-removed" {
        device.destroy(KeyRef::label("suite-removed")).unwrap();
    }
    Cell::WORKS
}

fn wrong_pin(device: &DeviceClient, rig: &mut dyn Rig) -> Cell {
    const WRONG: &str = "wrong-1";
    // A TPM without a resource manager serves one at a time.
    device.log_out();
    let [right, wrong] = match rig.by_pins(WRONG) {
        Ok(pins) => pins,
        Err(cell) => return cell,
    };
    let key = right.ensure_wrapping_key(&wrapping(&right, "suite-pin")).unwrap();
    let wrapped = right.wrap(&key, b"root key", b"cluster").unwrap();
    right.log_out();
    // Most lock before twelve tries; those of SoftHSM, which does not, are counted in watched.rs.
    for _ in 0..12 {
        let error = wrong.unwrap(&key, &wrapped, b"cluster").map(drop).unwrap_err();
        assert_eq!(error.class, Class::PinWrong, "{error}");
        assert!(!error.text.contains(WRONG) && !error.text.contains('\n'), "{error}");
    }
    wrong.log_out();
    let opened = right.unwrap(&key, &wrapped, b"cluster").expect("the device is not locked");
    assert_eq!(opened.expose(), b"root key");
    if key.key_label == "suite-pin" {
        right.destroy(KeyRef::label("suite-pin")).unwrap();
    }
    right.log_out();
    Cell::WORKS
}

fn full(device: &DeviceClient, rig: &mut dyn Rig) -> Cell {
    let there = signing_key(device, "suite-there").unwrap_or_else(|| usual_key(device, "suite-there"));
    let usage = if there.public { KeyUsage::Sign } else { KeyUsage::Encrypt };
    let one_more = || device.generate(spec("suite-too-many", there.kind, usage));
    if let Err(cell) = rig.fill() {
        device.destroy(there.key_ref()).unwrap();
        return cell;
    }
    let refused = one_more().map(drop).map_err(|error| {
        assert!(error.text.contains("full"), "{error}");
        assert_ne!(class(Err::<(), _>(error)), Class::Busy, "to wait is of no use");
    });
    use_key(device, &there, b"while it is full".to_vec()).unwrap();
    device.log_out();
    use_key(device, &there, b"and by another helper".to_vec()).unwrap();
    rig.make_room();
    device.log_out();
    assert_eq!(device.find(KeyRef::label("suite-too-many")).unwrap(), [], "nothing stays of it");
    let made = one_more().expect("there is room again");
    for key in [there, made] {
        device.destroy(key.key_ref()).unwrap();
    }
    match refused {
        Err(()) => Cell::WORKS,
        Ok(()) => Cell::not_supported("it says that the key was made, and has lost it when its process ends"),
    }
}
