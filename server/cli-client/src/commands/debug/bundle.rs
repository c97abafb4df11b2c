//! A bundle of files: a folder of the user's alone, or one archive (tar in its POSIX form, gzip).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Bytes of a block of tar.
const BLOCK: usize = 512;
/// Bytes that a name may have.
const NAME: usize = 100;

/// Files by their names below the bundle's folder.
#[derive(Default)]
pub struct Bundle(Vec<(String, Vec<u8>)>);

impl Bundle {
    pub fn add(&mut self, name: impl Into<String>, content: Vec<u8>) {
        self.0.push((name.into(), content));
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Write a folder that is not there yet.
    pub fn write_folder(&self, folder: &Path) -> io::Result<()> {
        let private = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        if folder.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there already"));
        }
        private(folder)?;
        for (name, content) in &self.0 {
            let path = folder.join(name);
            private(path.parent().unwrap_or(folder))?;
            create(&path)?.write_all(content)?;
        }
        Ok(())
    }

    /// Write an archive whose files are in the folder `top`.
    pub fn write_archive(&self, file: &Path, top: &str, seconds: u64) -> io::Result<()> {
        let mut out = GzEncoder::new(create(file)?, Compression::default());
        for (name, content) in &self.0 {
            out.write_all(&header(&format!("{top}/{name}"), content.len(), seconds)?)?;
            out.write_all(content)?;
            out.write_all(&vec![0; content.len().next_multiple_of(BLOCK) - content.len()])?;
        }
        // Two empty blocks end it.
        out.write_all(&[0; 2 * BLOCK])?;
        out.finish()?.sync_all()
    }
}

fn create(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The header of a file: POSIX.1-1988 "ustar".
fn header(name: &str, length: usize, seconds: u64) -> io::Result<[u8; BLOCK]> {
    if name.len() > NAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is too long for an archive")));
    }
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{length:011o}\0"));
    put(136, &format!("{seconds:011o}\0"));
    // Blanks while the sum is made.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// A path without what a folder has and an archive has not.
pub fn archive_name(output: &str) -> PathBuf {
    match output.ends_with(".tar.gz") || output.ends_with(".tgz") {
        true => PathBuf::from(output),
        false => PathBuf::from(format!("{output}.tar.gz")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_tar_reads_what_was_written() {
        let folder = std::env::temp_dir().join(format!("holdfast-bundle-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let mut bundle = Bundle::default();
        bundle.add("index.json", b"{}".to_vec());
        bundle.add("2026-01-01T00-00-00Z/heap.prof", vec![7; 1000]);
        bundle.write_archive(&folder.join("b.tar.gz"), "b", 1_800_000_000).unwrap();
        let tar = std::process::Command::new("tar").arg("xzf").arg("b.tar.gz").current_dir(&folder).status().unwrap();
        assert!(tar.success());
        assert_eq!(fs::read(folder.join("b/2026-01-01T00-00-00Z/heap.prof")).unwrap(), vec![7; 1000]);
        assert_eq!(fs::read(folder.join("b/index.json")).unwrap(), b"{}");
        assert!(bundle.write_archive(&folder.join("b.tar.gz"), "b", 0).is_err(), "nothing is overwritten");
        fs::remove_dir_all(&folder).unwrap();
    }
}
