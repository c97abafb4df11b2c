//! How fast a device does what it does, with one user: measured by the suite where HOLDFAST_MEASURE is set, and kept in
//! `docs/hardware-speed.tsv`, from which the page takes the figures.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_secs(1);

/// What the suite measured of the device that it has in hand: the row, and times a second.
static MEASURED: Mutex<Vec<(String, f64)>> = Mutex::new(Vec::new());

fn is_asked_for() -> bool {
    std::env::var_os("HOLDFAST_MEASURE").is_some()
}

/// Does it for a second, or once if it takes longer.
pub fn measure(row: &str, mut work: impl FnMut()) {
    if !is_asked_for() {
        return;
    }
    let begun = Instant::now();
    let mut times = 0_u32;
    while times == 0 || begun.elapsed() < EACH {
        work();
        times += 1;
    }
    MEASURED.lock().unwrap().push((row.to_owned(), f64::from(times) / begun.elapsed().as_secs_f64()));
}

/// What was measured since the last time belongs to no device that the page names.
pub fn forget() {
    MEASURED.lock().unwrap().clear();
}

/// What was measured since belongs to this device. Also in another process of this program.
pub fn keep(device: &str) {
    let measured = std::mem::take(&mut *MEASURED.lock().unwrap());
    if measured.is_empty() {
        return;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path()).unwrap();
    for (row, per_second) in measured {
        writeln!(file, "{device}\t{row}\t{}", rounded(per_second)).unwrap();
    }
}

/// Two digits say all that there is to say.
fn rounded(per_second: f64) -> f64 {
    let unit = 10_f64.powf(per_second.max(0.01).log10().floor() - 1.0);
    let rounded = (per_second / unit).round() * unit;
    (rounded * 100.0).round() / 100.0
}

/// Figures are measured anew.
pub fn begin() {
    if is_asked_for() {
        let _none_yet = fs::remove_file(path());
    }
}

/// By device and row.
pub fn recorded() -> HashMap<(String, String), String> {
    let text = fs::read_to_string(path()).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let [device, row, figure] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        Some(((device.to_owned(), row.to_owned()), figure.to_owned()))
    });
    lines.collect()
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hardware-speed.tsv")
}
