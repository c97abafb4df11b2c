//! Files that configuration of an engine names.

use std::fs;
use std::io;
use std::path::Path;

use holdfast_hsm::{FileUse, with_reason};

/// Reads a file. The server's process has rules of its own about files; an error says so where they are the reason.
///
/// # Errors
/// What the system says.
pub fn read_file(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    fs::read(path).map_err(|error| with_reason(error, path, FileUse::Read))
}
