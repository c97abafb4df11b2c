//! `seal "static"`: the root key is wrapped by a key that the operator gave. It is no hardware, and for those who
//! come from the reference with such a seal, or let something else guard the key.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use holdfast_config::{Pin, PinSource, StaticKey, StaticSeal};
use holdfast_hsm::memory::{Key, Secret};
use holdfast_hsm::{FileUse, with_reason};
use holdfast_seal::{DeviceRefusal, Lock, SealDevice, Wrapped, xaes};

const MECHANISM: &str = "XAES-256-GCM";
const KEY_BYTES: usize = 32;

/// A key and the name that locks know it by.
struct Named {
    id: String,
    key: Key,
}

/// The key that wraps, and the one before it, which still opens.
pub struct StaticKeys {
    current: Named,
    previous: Option<Named>,
}

impl StaticKeys {
    /// Read the keys from where the stanza says they are. Memory has to be locked by now.
    pub fn read(seal: &StaticSeal) -> Result<StaticKeys, String> {
        tracing::warn!(
            "seal \"static\": the wrapping key is given to the server, not kept in hardware; whoever has it and the store \
             has everything"
        );
        let previous = seal.previous.as_ref().map(named).transpose()?;
        let current = named(&seal.current)?;
        if previous.as_ref().is_some_and(|p| p.id == current.id) {
            return Err("seal \"static\": current_key_id and previous_key_id name the same key".into());
        }
        Ok(StaticKeys { current, previous })
    }
}

fn named(key: &StaticKey) -> Result<Named, String> {
    let refused = |text: String| format!("seal \"static\": the key {:?} {text}", key.id);
    let given: Secret<Vec<u8>> = Secret::new(match &key.key {
        PinSource::Given(p) => Pin::expose(p).as_bytes().to_vec(),
        PinSource::File(path) => {
            let read = std::fs::read(path).map_err(|e| with_reason(e, path, FileUse::Read));
            read.map_err(|e| refused(format!("cannot be read from {}: {e}", path.display())))?
        }
        PinSource::Environment(name) => std::env::var_os(name)
            .map(std::os::unix::ffi::OsStringExt::into_vec)
            .ok_or_else(|| refused(format!("is to come from the variable {name}, which is not set")))?,
    });
    let mut bytes = decoded(given.expose()).ok_or_else(|| {
        refused("is no AES-256 key: give 32 bytes as they are, in hex or in base64 (openssl rand -out FILE 32)".into())
    })?;
    let locked = Key::from_slice(&mut bytes).map_err(|e| refused(format!("cannot be kept: {e}")))?;
    Ok(Named { id: key.id.clone(), key: locked })
}

/// 32 bytes as they are, in hex, or in either kind of base64; a line's end behind the text does not count.
fn decoded(given: &[u8]) -> Option<Vec<u8>> {
    if given.len() == KEY_BYTES {
        return Some(given.to_vec());
    }
    let text = given.trim_ascii_end();
    let unpadded = text.strip_suffix(b"=").unwrap_or(text);
    let bytes = match text.len() {
        64 => hex::decode(text).ok(),
        43 | 44 => STANDARD_NO_PAD.decode(unpadded).or_else(|_| URL_SAFE_NO_PAD.decode(unpadded)).ok(),
        KEY_BYTES => Some(text.to_vec()),
        _ => None,
    };
    bytes.filter(|b| b.len() == KEY_BYTES)
}

impl SealDevice for StaticKeys {
    fn backend(&self) -> &str {
        "static"
    }

    fn names(&self, lock: &Lock) -> bool {
        lock.key_label == self.current.id
    }

    fn wrap(&self, root: &Key, context: &[u8]) -> Result<Wrapped, DeviceRefusal> {
        let ciphertext = xaes::seal(self.current.key.expose(), context, root.expose()).map_err(refusal)?;
        Ok(Wrapped {
            ciphertext,
            key_label: self.current.id.clone(),
            key_id: String::new(),
            mechanism: MECHANISM.into(),
            public_part: None,
        })
    }

    fn unwrap(&self, lock: &Lock, context: &[u8]) -> Result<Key, DeviceRefusal> {
        let known = [Some(&self.current), self.previous.as_ref()];
        let Some(named) = known.into_iter().flatten().find(|k| k.id == lock.key_label) else {
            return Err(refusal(format!(
                "this store is sealed by the key {:?}, and the seal stanza gives another: give it as previous_key",
                lock.key_label
            )));
        };
        let mut root = xaes::unseal(named.key.expose(), context, &lock.ciphertext, "the root key").map_err(|_| {
            refusal(format!("the key {:?} of the seal stanza is not the one that sealed this store", named.id))
        })?;
        Key::from_slice(&mut root).map_err(refusal)
    }
}

/// Asking again gives the same keys.
fn refusal(e: impl ToString) -> DeviceRefusal {
    DeviceRefusal::new(e.to_string(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_in_each_of_its_forms_and_nothing_else_is_one() {
        let key: Vec<u8> = (200..232).collect();
        let forms = [
            key.clone(),
            hex::encode(&key).into_bytes(),
            format!("{}\n", hex::encode(&key)).into_bytes(),
            STANDARD_NO_PAD.encode(&key).into_bytes(),
            format!("{}=\n", STANDARD_NO_PAD.encode(&key)).into_bytes(),
            URL_SAFE_NO_PAD.encode(&key).into_bytes(),
        ];
        for form in forms {
            assert_eq!(decoded(&form).as_ref(), Some(&key), "{}", String::from_utf8_lossy(&form));
        }
        for wrong in [&b""[..], b"short", &[7; 31], &[7; 33], &[b'x'; 64], &[b'!'; 43], &[b'a'; 66]] {
            assert_eq!(decoded(wrong), None);
        }
    }

    fn stanza(current: (&str, u8), previous: Option<(&str, u8)>) -> StaticSeal {
        let key = |(id, byte): (&str, u8)| StaticKey {
            id: id.into(),
            key: PinSource::Given(Pin::new(hex::encode([byte; KEY_BYTES]))),
        };
        StaticSeal { current: key(current), previous: previous.map(key) }
    }

    #[test]
    fn the_key_before_still_opens_and_others_say_which_is_needed() {
        holdfast_hsm::memory::allow_unlocked();
        let root = Key::random(32).unwrap();
        let first = StaticKeys::read(&stanza(("k1", 1), None)).unwrap();
        let lock = first.wrap(&root, b"context").unwrap().into_lock("static");
        for seal in [stanza(("k1", 1), None), stanza(("k2", 2), Some(("k1", 1)))] {
            assert_eq!(StaticKeys::read(&seal).unwrap().unwrap(&lock, b"context").unwrap().expose(), root.expose());
        }
        let refusal = |seal: StaticSeal, context: &[u8]| {
            StaticKeys::read(&seal).unwrap().unwrap(&lock, context).map(|_| ()).unwrap_err().text
        };
        assert!(refusal(stanza(("k2", 2), None), b"context").contains("sealed by the key \"k1\""));
        assert!(refusal(stanza(("k1", 9), None), b"context").contains("is not the one"));
        assert!(refusal(stanza(("k1", 1), None), b"another").contains("is not the one"));
        assert!(StaticKeys::read(&stanza(("k1", 1), Some(("k1", 2)))).is_err());
    }
}
