//! QR codes as PNG images (ISO 15948), for apps that make codes.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use holdfast_sdk::{Error, Result};
use qrcodegen::{QrCode, QrCodeEcc};

/// Light modules around the code.
const MARGIN: usize = 4;
/// Pixels on a side at most.
const LARGEST: usize = 1000;

/// A text as a square image of about this many pixels, in base64.
pub fn png(text: &str, pixels: usize) -> Result<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).map_err(|_| Error::internal("too long for a QR code"))?;
    let modules = usize::try_from(code.size()).map_err(Error::internal)? + 2 * MARGIN;
    let scale = (pixels.min(LARGEST) / modules).max(1);
    let side = modules * scale;
    let dark = |row: usize, column: usize| {
        let module = |pixel: usize| i32::try_from(pixel / scale).unwrap_or(0) - MARGIN as i32;
        code.get_module(module(column), module(row))
    };
    let mut rows = Vec::with_capacity(side * (side + 1));
    for row in 0..side {
        // No filter.
        rows.push(0);
        rows.extend((0..side).map(|column| if dark(row, column) { 0 } else { 255 }));
    }
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&rows).map_err(Error::internal)?;
    let length = u32::try_from(side).map_err(Error::internal)?.to_be_bytes();
    let mut image = b"\x89PNG\r\n\x1a\n".to_vec();
    // Eight bits of grey for each pixel.
    chunk(&mut image, b"IHDR", &[&length[..], &length, &[8, 0, 0, 0, 0]].concat())?;
    chunk(&mut image, b"IDAT", &packed.finish().map_err(Error::internal)?)?;
    chunk(&mut image, b"IEND", &[])?;
    Ok(STANDARD.encode(image))
}

fn chunk(image: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) -> Result<()> {
    let mut sum = flate2::Crc::new();
    sum.update(kind);
    sum.update(data);
    image.extend_from_slice(&u32::try_from(data.len()).map_err(Error::internal)?.to_be_bytes());
    image.extend_from_slice(kind);
    image.extend_from_slice(data);
    image.extend_from_slice(&sum.sum().to_be_bytes());
    Ok(())
}
