//! As much of tar (POSIX ustar) as a snapshot needs: plain files of known lengths, one after the other.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// Names are short.
const NAME: usize = 100;

/// The header of a file.
pub fn header(name: &str, len: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len().min(NAME)].copy_from_slice(&name.as_bytes()[..name.len().min(NAME)]);
    let mut octal = |at: usize, width: usize, value: u64| {
        let text = format!("{value:0width$o}", width = width - 1);
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    octal(100, 8, 0o600);
    octal(108, 8, 0);
    octal(116, 8, 0);
    octal(124, 12, len);
    octal(136, 12, 0);
    block[148..156].fill(b' ');
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
    block
}

/// Zeroes behind a file of this length.
fn padding(len: u64) -> usize {
    (BLOCK - (len % BLOCK as u64) as usize) % BLOCK
}

/// What follows a file's content.
pub fn end_file(to: &mut impl Write, len: u64) -> io::Result<()> {
    to.write_all(&[0; BLOCK][..padding(len)])
}

pub fn end_archive(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

/// Bytes behind the last file at most.
const REST: u64 = 1 << 20;

/// Read an archive, file by file. `read` gets a file's name and exactly its content.
pub fn read(mut from: impl Read, mut read: impl FnMut(&str, &mut dyn Read, u64) -> io::Result<()>) -> io::Result<()> {
    let broken = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    loop {
        let mut block = [0; BLOCK];
        from.read_exact(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            // To the end, where whoever packed it has put a sum of all of it.
            let rest = io::copy(&mut (&mut from).take(REST), &mut io::sink())?;
            return if rest < REST { Ok(()) } else { Err(broken("something follows the archive")) };
        }
        let mut blank = block;
        blank[148..156].fill(b' ');
        let sum: u64 = blank.iter().map(|b| u64::from(*b)).sum();
        let number = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).ok()?;
            u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
        };
        if number(&block[148..156]) != Some(sum) {
            return Err(broken("a file's header in the archive is broken"));
        }
        let len = number(&block[124..136]).ok_or_else(|| broken("a file of no length is in the archive"))?;
        let name = String::from_utf8_lossy(block[..NAME].split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        let mut content = (&mut from).take(len);
        read(&name, &mut content, len)?;
        if content.limit() > 0 {
            io::copy(&mut content, &mut io::sink())?;
        }
        if content.limit() > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = vec![0; padding(len)];
        from.read_exact(&mut rest)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_as_they_were_and_a_cut_archive_does_not() {
        let mut archive = Vec::new();
        let files: [(&str, Vec<u8>); 3] = [("a", vec![1; 700]), ("empty", Vec::new()), ("b", vec![2; 512])];
        for (name, content) in &files {
            archive.extend_from_slice(&header(name, content.len() as u64));
            archive.extend_from_slice(content);
            end_file(&mut archive, content.len() as u64).unwrap();
        }
        end_archive(&mut archive).unwrap();
        let mut found = Vec::new();
        read(&archive[..], |name, content, _| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            found.push((name.to_owned(), bytes));
            Ok(())
        })
        .unwrap();
        assert_eq!(found.len(), 3);
        for ((name, content), (got, bytes)) in files.iter().zip(&found) {
            assert_eq!((*name, content), (got.as_str(), bytes));
        }
        for cut in [0, 100, 513, 1500, 2100] {
            assert!(read(&archive[..cut], |_, _, _| Ok(())).is_err(), "{cut}");
        }
        archive[0] ^= 1;
        assert!(read(&archive[..], |_, _, _| Ok(())).is_err());
    }
}
