//! The limit for durable writes: how often a second one thread can append 4 KiB to a file and wait for the disk.
//!
//! `fsync FOLDER SECONDS` makes a file in FOLDER, appends to it for that time, removes it, and prints the rate.

use std::error::Error;
use std::fs::{File, remove_file};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK_BYTES: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, seconds] = arguments.as_slice() else {
        return Err("usage: fsync FOLDER SECONDS".into());
    };
    let path = Path::new(folder).join(format!("fsync-{}", std::process::id()));
    let rate = measure(&path, Duration::try_from_secs_f64(seconds.parse()?)?);
    remove_file(&path)?;
    println!("{:.1}", rate?);
    Ok(())
}

fn measure(path: &Path, time: Duration) -> std::io::Result<f64> {
    // The content counts for nothing; zeros could be left out by a clever disk.
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|i| (i * 31 + i / 256) as u8).collect();
    let mut file = File::create_new(path)?;
    let begin = Instant::now();
    let mut count = 0u32;
    while begin.elapsed() < time {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}
