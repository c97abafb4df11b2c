//! Stored passwords: what we make is Argon2id, what an operator brings may be bcrypt.
//!
//! Why these, and these costs: `docs/decisions/0004-password-hashing.md`.

use std::sync::{Mutex, PoisonError};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use holdfast_hsm::memory::Secret;
use holdfast_sdk::{Error, Result, uuid};
use minicbor::{Decode, Encode};
use subtle::ConstantTimeEq;

/// Longer passwords are refused: bcrypt looks at no more, and clients expect one limit.
pub const MAX_PASSWORD_BYTES: usize = 72;

/// OWASP's parameters of Argon2id for interactive logins.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Each step doubles the time: 12 takes a quarter of a second, 16 would take 4.
const MAX_BCRYPT_COST: u32 = 12;
const MIN_BCRYPT_COST: u32 = 4;

/// bcrypt's own alphabet; the last letter of a salt or a hash has bits that mean nothing.
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::BCRYPT,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// A password as it is kept.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum Password {
    #[n(0)]
    Argon2id {
        #[n(0)]
        memory_kib: u32,
        #[n(1)]
        passes: u32,
        #[n(2)]
        lanes: u32,
        #[cbor(n(3), with = "minicbor::bytes")]
        salt: [u8; 16],
        #[cbor(n(4), with = "minicbor::bytes")]
        hash: [u8; 32],
    },
    #[n(1)]
    Bcrypt {
        #[n(0)]
        cost: u32,
        #[cbor(n(1), with = "minicbor::bytes")]
        salt: [u8; 16],
        #[cbor(n(2), with = "minicbor::bytes")]
        hash: [u8; 23],
    },
}

impl Password {
    /// Hash a password. This takes tens of milliseconds and 19 MiB.
    ///
    /// # Errors
    /// If the system gives no randomness or no memory.
    pub fn hashed(password: &Secret<String>) -> Result<Password> {
        let salt: [u8; 16] = uuid::bytes()?;
        let hash = argon2id(password, MEMORY_KIB, PASSES, LANES, &salt)?;
        Ok(Password::Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt, hash })
    }

    /// A bcrypt hash in its usual form: `$2b$10$`, 22 letters of salt, 31 of hash.
    ///
    /// # Errors
    /// 400 if it is none, or one whose cost is too high.
    pub fn from_bcrypt(text: &str) -> Result<Password> {
        let refuse = || Error::bad_request("password_hash is not a valid bcrypt hash");
        let mut parts = text.split('$');
        let (Some(""), Some("2" | "2a" | "2b" | "2x" | "2y"), Some(cost), Some(body), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse());
        };
        if cost.len() != 2 || !cost.bytes().all(|b| b.is_ascii_digit()) || body.len() != 53 || !body.is_ascii() {
            return Err(refuse());
        }
        let cost: u32 = cost.parse().map_err(|_| refuse())?;
        if !(MIN_BCRYPT_COST..=31).contains(&cost) {
            return Err(refuse());
        }
        if cost > MAX_BCRYPT_COST {
            return Err(Error::bad_request(format!("bcrypt cost of {cost} exceeds maximum cost of {MAX_BCRYPT_COST}")));
        }
        let decode = |text: &str| BCRYPT_BASE64.decode(text).map_err(|_| refuse());
        let (salt, hash) = body.split_at(22);
        Ok(Password::Bcrypt {
            cost,
            salt: decode(salt)?.try_into().map_err(|_| refuse())?,
            hash: decode(hash)?.try_into().map_err(|_| refuse())?,
        })
    }

    /// What the password of a user who does not exist is checked against: as much work as for one who does.
    pub fn of_nobody() -> Password {
        Password::Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt: [0; 16], hash: [0; 32] }
    }

    /// Whether it is this password. As slow as [`hashed`](Password::hashed).
    ///
    /// # Errors
    /// If the system gives no memory.
    pub fn is(&self, password: &Secret<String>) -> Result<bool> {
        match self {
            Password::Argon2id { memory_kib, passes, lanes, salt, hash } => {
                Ok(argon2id(password, *memory_kib, *passes, *lanes, salt)?.ct_eq(hash).into())
            }
            Password::Bcrypt { cost, salt, hash } => {
                // The C form of the text, cut off where bcrypt ends to look.
                let text = password.expose().as_bytes();
                let mut used = [0; MAX_PASSWORD_BYTES];
                let len = text.len().min(MAX_PASSWORD_BYTES);
                used[..len].copy_from_slice(&text[..len]);
                let used = Secret::new(used);
                let made = bcrypt::bcrypt(*cost, *salt, &used.expose()[..(len + 1).min(MAX_PASSWORD_BYTES)]);
                Ok(made[..23].ct_eq(hash).into())
            }
        }
    }

    /// Whether a login should replace it by one of ours: then all users take the same time.
    pub fn is_outdated(&self) -> bool {
        match self {
            Password::Argon2id { memory_kib, passes, lanes, .. } => {
                (*memory_kib, *passes, *lanes) != (MEMORY_KIB, PASSES, LANES)
            }
            Password::Bcrypt { .. } => true,
        }
    }
}

/// Memory of earlier hashes, as many as there were turns at a time. Each thread's heap would else keep 19 MiB.
static ROOM: Mutex<Vec<Vec<Block>>> = Mutex::new(Vec::new());

fn argon2id(password: &Secret<String>, memory_kib: u32, passes: u32, lanes: u32, salt: &[u8]) -> Result<[u8; 32]> {
    let failed = |e: argon2::Error| Error::Internal(format!("the password cannot be hashed: {e}"));
    let mut hash = [0; 32];
    let params = Params::new(memory_kib, passes, lanes, Some(hash.len())).map_err(failed)?;
    let blocks = params.block_count();
    let mut room = ROOM.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
    room.resize(blocks, Block::default());
    let done = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        password.expose().as_bytes(),
        salt,
        &mut hash,
        &mut room[..],
    );
    // What is left in it belongs to the password.
    room.fill(Block::default());
    ROOM.lock().unwrap_or_else(PoisonError::into_inner).push(room);
    done.map_err(failed)?;
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_hashed_password_is_that_password_alone() {
        let (a, b) = (Password::hashed(&secret("pw")).unwrap(), Password::hashed(&secret("pw")).unwrap());
        assert!(a.is(&secret("pw")).unwrap() && !a.is(&secret("Pw")).unwrap() && !a.is(&secret("")).unwrap());
        assert!(a != b, "each has a salt of its own");
        assert!(!Password::of_nobody().is(&secret("")).unwrap());
    }

    /// Known answers: crypt_blowfish's own, and OpenBSD's.
    #[test]
    fn bcrypt_hashes_of_other_programs_are_understood() {
        for (hash, password) in [
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
            ("$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "U*U*"),
            ("$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a", "U*U*U"),
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy", ""),
            ("$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.", ""),
        ] {
            let stored = Password::from_bcrypt(hash).unwrap();
            assert!(stored.is(&secret(password)).unwrap(), "{hash} {password}");
            assert!(!stored.is(&secret("other")).unwrap(), "{hash}");
        }
        let long = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored";
        let stored = Password::from_bcrypt("$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui").unwrap();
        assert!(stored.is(&secret(long)).unwrap() && stored.is(&secret(&long[..72])).unwrap());
    }

    #[test]
    fn what_is_no_bcrypt_hash_or_too_dear_is_refused() {
        let good = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        assert!(Password::from_bcrypt(good).is_ok());
        assert!(Password::from_bcrypt(&good.replace("$2b$", "$2$")).is_ok());
        for bad in [
            "",
            "nope",
            &good[..59],
            &format!("{good}x"),
            &good.replace("2b", "1b"),
            &good.replace("$05$", "$03$"),
            &good.replace("$05$", "$32$"),
            &good.replace("$05$", "$13$"),
            &good.replace("$05$", "$+5$"),
            &good.replace('E', "!"),
            &good.replace("CC", "é"),
        ] {
            assert!(matches!(Password::from_bcrypt(bad), Err(Error::BadRequest(_))), "{bad}");
        }
    }
}
