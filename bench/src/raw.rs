//! The limit for devices: how often a second a token does something in a tight loop around its own library, without
//! anything of the server.
//!
//! `raw MODULE TOKEN_LABEL PIN_FILE OPERATION USERS SECONDS`, with one of `sign-p256`, `sign-rsa2048`, `decrypt-rsa2048`,
//! `decrypt-aes256`. It makes a key as the server makes them, uses it from USERS threads with a session each, destroys it
//! and prints the rate.

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// `secp256r1`, DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SECRET: [u8; 32] = [7; 32];
const IV_BYTES: usize = 12;

#[derive(Clone, Copy)]
enum Operation {
    SignP256,
    SignRsa,
    DecryptRsa,
    DecryptAes,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, token, pin_file, operation, users, seconds] = arguments.as_slice() else {
        return Err("usage: raw MODULE TOKEN_LABEL PIN_FILE OPERATION USERS SECONDS".into());
    };
    let operation = match operation.as_str() {
        "sign-p256" => Operation::SignP256,
        "sign-rsa2048" => Operation::SignRsa,
        "decrypt-rsa2048" => Operation::DecryptRsa,
        "decrypt-aes256" => Operation::DecryptAes,
        other => return Err(format!("unknown operation {other}").into()),
    };
    let library = Pkcs11::new(module)?;
    library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slot = library
        .get_slots_with_initialized_token()?
        .into_iter()
        .find(|slot| library.get_token_info(*slot).is_ok_and(|info| info.label() == token))
        .ok_or("no token of that label")?;
    let session = library.open_rw_session(slot)?;
    session.login(UserType::User, Some(&AuthPin::new(fs::read_to_string(pin_file)?.trim_end().into())))?;
    let key = Key::make(&session, operation)?;
    let sessions =
        (0..users.parse()?).map(|_| library.open_ro_session(slot)).collect::<cryptoki::error::Result<_>>()?;
    let rate = measure(&key, sessions, Duration::try_from_secs_f64(seconds.parse()?)?);
    key.destroy(&session)?;
    println!("{:.1}", rate?);
    Ok(())
}

/// Calls of all sessions together, a second.
fn measure(key: &Key, sessions: Vec<Session>, time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let count = std::thread::scope(|scope| {
        let users: Vec<_> = sessions
            .into_iter()
            .map(|session| {
                scope.spawn(move || {
                    let mut count = 0_u32;
                    while begin.elapsed() < time {
                        key.use_once(&session)?;
                        count += 1;
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(count)
                })
            })
            .collect();
        let mut all = 0.0;
        for user in users {
            all += f64::from(user.join().map_err(|_| "a thread panicked")??);
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(all)
    })?;
    Ok(count / begin.elapsed().as_secs_f64())
}

struct Key {
    operation: Operation,
    /// What is used, and its other half if it has one.
    handle: ObjectHandle,
    public: Option<ObjectHandle>,
    /// To be decrypted.
    sealed: Vec<u8>,
}

impl Key {
    fn make(session: &Session, operation: Operation) -> Result<Key> {
        let label = format!("raw-{}", std::process::id()).into_bytes();
        let named = || vec![Attribute::Token(true), Attribute::Label(label.clone()), Attribute::Id(label.clone())];
        let kept = |usage: &[Attribute]| {
            let protected = [Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)];
            [named(), protected.to_vec(), usage.to_vec()].concat()
        };
        let open = |more: &[Attribute]| [named(), vec![Attribute::Private(false)], more.to_vec()].concat();
        let rsa = [Attribute::ModulusBits(2048.into()), Attribute::PublicExponent(vec![1, 0, 1])];
        let (public, handle) = match operation {
            Operation::SignP256 => session.generate_key_pair(
                &Mechanism::EccKeyPairGen,
                &open(&[Attribute::Verify(true), Attribute::EcParams(P256.to_vec())]),
                &kept(&[Attribute::Sign(true)]),
            )?,
            Operation::SignRsa => session.generate_key_pair(
                &Mechanism::RsaPkcsKeyPairGen,
                &open(&[&[Attribute::Verify(true)][..], &rsa].concat()),
                &kept(&[Attribute::Sign(true)]),
            )?,
            Operation::DecryptRsa => session.generate_key_pair(
                &Mechanism::RsaPkcsKeyPairGen,
                &open(&[&[Attribute::Encrypt(true)][..], &rsa].concat()),
                &kept(&[Attribute::Decrypt(true)]),
            )?,
            Operation::DecryptAes => {
                let usage = [Attribute::Encrypt(true), Attribute::Decrypt(true), Attribute::ValueLen(32.into())];
                let handle = session.generate_key(&Mechanism::AesKeyGen, &kept(&usage))?;
                let mut key = Key { operation, handle, public: None, sealed: Vec::new() };
                let mut iv = [9; IV_BYTES];
                key.sealed = session.encrypt(&Mechanism::AesGcm(gcm(&mut iv)?), handle, &SECRET)?;
                return Ok(key);
            }
        };
        let sealed = match operation {
            Operation::DecryptRsa => session.encrypt(&Mechanism::RsaPkcsOaep(oaep()), public, &SECRET)?,
            _ => Vec::new(),
        };
        Ok(Key { operation, handle, public: Some(public), sealed })
    }

    fn use_once(&self, session: &Session) -> Result<()> {
        match self.operation {
            Operation::SignP256 => session.sign(&Mechanism::Ecdsa, self.handle, &SECRET).map(drop)?,
            // A DigestInfo of SHA-256 has 51 bytes; what they are makes no difference.
            Operation::SignRsa => session.sign(&Mechanism::RsaPkcs, self.handle, &[7; 51]).map(drop)?,
            Operation::DecryptRsa => {
                session.decrypt(&Mechanism::RsaPkcsOaep(oaep()), self.handle, &self.sealed).map(drop)?;
            }
            Operation::DecryptAes => {
                let mut iv = [9; IV_BYTES];
                session.decrypt(&Mechanism::AesGcm(gcm(&mut iv)?), self.handle, &self.sealed).map(drop)?;
            }
        }
        Ok(())
    }

    fn destroy(self, session: &Session) -> Result<()> {
        session.destroy_object(self.handle)?;
        self.public.map_or(Ok(()), |public| session.destroy_object(public))?;
        Ok(())
    }
}

fn oaep() -> PkcsOaepParams<'static> {
    // What SoftHSM does.
    PkcsOaepParams::new(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, PkcsOaepSource::empty())
}

fn gcm(iv: &mut [u8]) -> Result<GcmParams<'_>> {
    Ok(GcmParams::new(iv, &[], 128.into())?)
}
