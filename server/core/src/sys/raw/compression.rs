//! Compressed entries: a mark, then gzip.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use holdfast_sdk::{Error, Result};

/// Stands before what is compressed with gzip.
const GZIP: u8 = b'G';
/// The first bytes of what gzip makes.
const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// An entry that becomes larger is refused.
const LARGEST: u64 = 32 << 20;

pub fn is_compressed(stored: &[u8]) -> bool {
    stored.split_first().is_some_and(|(mark, rest)| *mark == GZIP && rest.starts_with(&MAGIC))
}

pub fn compress(value: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(vec![GZIP], Compression::best());
    encoder.write_all(value).map_err(Error::internal)?;
    encoder.finish().map_err(Error::internal)
}

/// What is not compressed comes back as it is.
pub fn decompress(stored: Vec<u8>) -> Result<Vec<u8>> {
    if stored.is_empty() {
        return Err(Error::bad_request("'data' being decompressed is empty"));
    }
    if !is_compressed(&stored) {
        return Ok(stored);
    }
    let mut value = Vec::new();
    let read = GzDecoder::new(&stored[1..]).take(LARGEST + 1).read_to_end(&mut value);
    read.map_err(|e| Error::bad_request(format!("the entry cannot be decompressed: {e}")))?;
    if value.len() as u64 > LARGEST {
        return Err(Error::bad_request("the entry is too large when it is decompressed"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_comes_back_and_a_bomb_does_not() {
        let stored = compress(b"zzzzzzzz").unwrap();
        assert!(is_compressed(&stored));
        assert_eq!(decompress(stored).unwrap(), b"zzzzzzzz");
        assert_eq!(decompress(b"plain".to_vec()).unwrap(), b"plain");
        assert_eq!(decompress(b"Gplain".to_vec()).unwrap(), b"Gplain");
        assert!(decompress(Vec::new()).is_err());
        let bomb = compress(&vec![0; LARGEST as usize + 1]).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert!(decompress(bomb).is_err());
        let mut broken = compress(b"zzzzzzzz").unwrap();
        broken.truncate(12);
        assert!(decompress(broken).is_err());
    }
}
