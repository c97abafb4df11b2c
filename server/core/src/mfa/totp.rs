//! Time-based one-time passwords (RFC 6238, RFC 4226).

use aws_lc_rs::hmac;
use holdfast_hsm::memory::Secret;
use minicbor::{Decode, Encode};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Algorithm {
    #[n(0)]
    Sha1,
    #[n(1)]
    Sha256,
    #[n(2)]
    Sha512,
}

impl Algorithm {
    pub fn named(name: &str) -> Option<Algorithm> {
        [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|a| a.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
            Algorithm::Sha512 => "SHA512",
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

/// How codes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Form {
    #[n(0)]
    pub algorithm: Algorithm,
    /// 6 or 8.
    #[n(1)]
    pub digits: u32,
    /// How long a code is the current one.
    #[n(2)]
    pub period_secs: u64,
    /// How many periods before and behind the current one count too.
    #[n(3)]
    pub skew: u64,
}

impl Form {
    fn code(&self, key: &[u8], step: u64) -> Secret<String> {
        let mac = hmac::sign(&hmac::Key::new(self.algorithm.hmac(), key), &step.to_be_bytes());
        let mac = mac.as_ref();
        // Dynamic truncation, RFC 4226, 5.3.
        let at = usize::from(mac[mac.len() - 1] & 15);
        let number = mac[at..at + 4].iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) & 0x7fff_ffff;
        let width = self.digits as usize;
        Secret::new(format!("{:0width$}", number % 10_u32.pow(self.digits)))
    }

    /// The step that a code is of, among those that count at a time and lie behind `used`.
    pub fn step(&self, key: &[u8], code: &str, now_secs: u64, used: Option<u64>) -> Option<u64> {
        let current = now_secs / self.period_secs.max(1);
        let first = current.saturating_sub(self.skew);
        // All of them are looked at, whichever fits: the time tells nothing.
        let fits = |step: &u64| self.code(key, *step).ct_eq(code);
        let fitting: Vec<u64> = (first..=current.saturating_add(self.skew)).filter(fits).collect();
        fitting.into_iter().find(|step| used.is_none_or(|used| *step > used))
    }
}

/// Unpadded base32 (RFC 4648), as apps for codes read it.
pub fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut out = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(LETTERS[(held >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        out.push(char::from(LETTERS[(held << (5 - bits) & 31) as usize]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B.
    #[test]
    fn codes_are_those_of_the_standard() {
        let keys = [
            &b"12345678901234567890"[..],
            b"12345678901234567890123456789012",
            &[b"1234567890".repeat(6), b"1234".to_vec()].concat(),
        ];
        let algorithms = [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512];
        for (at, codes) in [
            (59, ["94287082", "46119246", "90693936"]),
            (1_111_111_109, ["07081804", "68084774", "25091201"]),
            (20_000_000_000, ["65353130", "77737706", "47863826"]),
        ] {
            for ((algorithm, key), code) in algorithms.iter().zip(keys).zip(codes) {
                let form = Form { algorithm: *algorithm, digits: 8, period_secs: 30, skew: 0 };
                assert_eq!(form.step(key, code, at, None), Some(at / 30), "{algorithm:?} at {at}");
                assert_eq!(form.step(key, code, at + 30, None), None);
            }
        }
    }

    #[test]
    fn a_code_counts_once_and_none_before_it() {
        let form = Form { algorithm: Algorithm::Sha1, digits: 6, period_secs: 30, skew: 1 };
        let (key, now) = (b"key".as_slice(), 3000);
        let code = |step: u64| form.code(key, step).expose().clone();
        assert_eq!(form.step(key, &code(101), now, None), Some(101));
        assert_eq!(form.step(key, &code(99), now, None), Some(99));
        assert_eq!(form.step(key, &code(98), now, None), None);
        assert_eq!(form.step(key, &code(100), now, Some(100)), None);
        assert_eq!(form.step(key, &code(99), now, Some(100)), None);
        assert_eq!(form.step(key, "", now, None), None);
    }

    #[test]
    fn base32_is_that_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }
}
