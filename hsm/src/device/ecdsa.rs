//! ECDSA signatures: PKCS#11's r ‖ s and the DER that certificates and Vault's API use.

use super::spki::{tagged, unsigned};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

/// DER (`Ecdsa-Sig-Value`) of r ‖ s, two halves of one length.
pub fn signature_to_der(raw: &[u8]) -> Vec<u8> {
    let (r, s) = raw.split_at(raw.len() / 2);
    tagged(SEQUENCE, &[unsigned(r), unsigned(s)].concat())
}

/// r ‖ s of a DER signature, each padded to `half_bytes` (32 for P-256, 48 for P-384, 66 for P-521);
/// `None` if it is no such signature.
pub fn signature_from_der(der: &[u8], half_bytes: usize) -> Option<Vec<u8>> {
    let (content, rest) = value(der, SEQUENCE)?;
    let (r, after) = value(content, INTEGER)?;
    let (s, end) = value(after, INTEGER)?;
    if !rest.is_empty() || !end.is_empty() {
        return None;
    }
    Some([padded(r, half_bytes)?, padded(s, half_bytes)?].concat())
}

/// The content of the value with this tag, and what follows it. Short lengths, and the
/// one-byte long form, are all that a signature of these curves needs.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (len, header) = match der {
        [t, len @ 0..=0x7F, ..] if *t == tag => (usize::from(*len), 2),
        [t, 0x81, len @ 0x80..=0xFF, ..] if *t == tag => (usize::from(*len), 3),
        _ => return None,
    };
    let content = der.get(header..header + len)?;
    Some((content, &der[header + len..]))
}

fn padded(number: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let number = number.strip_prefix(&[0]).unwrap_or(number);
    let missing = bytes.checked_sub(number.len())?;
    Some([&vec![0; missing][..], number].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_survive_the_way_to_der_and_back() {
        for (half, first, last) in
            [(32, 0, 1), (32, 0x80, 0), (48, 0xFF, 0xFF), (48, 1, 0x7F), (66, 0, 1), (66, 1, 0xFF)]
        {
            let mut raw = vec![0x11; half * 2];
            raw[0] = first;
            raw[half] = last;
            assert_eq!(signature_from_der(&signature_to_der(&raw), half), Some(raw));
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let der = signature_to_der(&[0x11; 64]);
        assert_eq!(signature_from_der(&der[..der.len() - 1], 32), None);
        assert_eq!(signature_from_der(&[&der[..], &[0]].concat(), 32), None);
        assert_eq!(signature_from_der(&signature_to_der(&[0x11; 96]), 32), None);
        assert_eq!(signature_from_der(b"", 32), None);
    }
}
