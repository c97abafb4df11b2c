//! Finds keys by label, id, or both, and joins the halves of pairs by their id.

use super::fault::Fault;
use super::session::{Repeat, Sessions, Work};
use crate::device::kind_of_curve;
use crate::device::{DeviceError, DeviceErrorClass as Class, Hash, KeyInfo, KeyKind, KeyRef};
use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::SessionState;
use std::collections::HashMap;
use std::sync::PoisonError;

/// Handles that were found before; emptied whenever they may have changed.
pub(super) type Handles = HashMap<(KeyRef, Half, Family), ObjectHandle>;
const MAX_HANDLES: usize = 256;
/// Of one search: a module that never stops listing is not followed.
const MAX_OBJECTS: usize = 10_000;

/// Which object of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Half {
    Secret,
    Private,
    Public,
}

/// CKA_KEY_TYPE, as far as it is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    Aes,
    Rsa,
    Ec,
    Edwards,
    /// A secret that signs, of this hash.
    Hmac(Hash),
    Other,
}

/// A key object on the token.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) handle: ObjectHandle,
    pub(super) half: Half,
    pub(super) family: Family,
    pub(super) label: String,
    pub(super) id: Vec<u8>,
}

/// All keys that match.
pub(super) fn find(sessions: &Sessions, key: &KeyRef) -> Result<Vec<KeyInfo>, DeviceError> {
    sessions.run(&format!("look for {key}"), Repeat::Safe, |work| {
        groups(objects(work, key)?).iter().map(|group| describe(work, group)).collect()
    })
}

/// The one object that is `half` of `key` and of one of the families.
pub(super) fn handle(work: &Work<'_>, key: &KeyRef, half: Half, family: Family) -> Result<ObjectHandle, Fault> {
    let place = (key.clone(), half, family);
    if let Some(handle) = work.handles.lock().unwrap_or_else(PoisonError::into_inner).get(&place) {
        return Ok(*handle);
    }
    let found = objects(work, key)?;
    let mut fitting: Vec<&Object> = found.iter().filter(|o| o.half == half && o.family == family).collect();
    if fitting.len() > 1 && key.label.is_some() {
        fitting.retain(|object| Some(&object.label) == key.label.as_ref());
    }
    let handle = match fitting[..] {
        [object] => object.handle,
        [] => return Err(missing(work, key, half, family, &found)?.into()),
        _ => {
            return Err(DeviceError::config(format!(
                "{} objects match {key}: give both 'key_label' and 'key_id' of the one that is meant",
                fitting.len()
            ))
            .into());
        }
    };
    let mut handles = work.handles.lock().unwrap_or_else(PoisonError::into_inner);
    if handles.len() >= MAX_HANDLES {
        handles.clear();
    }
    handles.insert(place, handle);
    Ok(handle)
}

/// All objects of the keys that match, the other halves too, whatever their label.
pub(super) fn objects(work: &Work<'_>, key: &KeyRef) -> Result<Vec<Object>, Fault> {
    let mut found = match (&key.id, &key.label) {
        (Some(id), _) => search(work, Attribute::Id(id.clone()))?,
        (None, Some(label)) => search(work, Attribute::Label(label.clone().into_bytes()))?,
        (None, None) => search(work, Attribute::Token(true))?,
    };
    if let (Some(_), Some(label)) = (&key.id, &key.label)
        && !found.iter().any(|object| object.label == *label)
    {
        found.clear();
    }
    if key.id.is_none() && key.label.is_some() {
        let mut ids: Vec<(Vec<u8>, Family)> = found.iter().map(|o| (o.id.clone(), o.family)).collect();
        ids.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        ids.dedup();
        for (id, family) in ids.into_iter().filter(|(id, _)| !id.is_empty()) {
            for object in search(work, Attribute::Id(id))? {
                let known = found.iter().any(|o| o.handle == object.handle);
                // A secret key has no other half: one of another label is another key.
                if !known && object.family == family && object.half != Half::Secret {
                    found.push(object);
                }
            }
        }
    }
    if found.is_empty() {
        ensure_logged_in(work)?;
    }
    Ok(found)
}

/// Without a login private objects are invisible, which must not look like their absence.
fn ensure_logged_in(work: &Work<'_>) -> Result<(), Fault> {
    if !work.login_required {
        return Ok(());
    }
    match work.session.get_session_info()?.session_state() {
        SessionState::RoUser | SessionState::RwUser => Ok(()),
        _ => Err(Fault::Module(Error::Pkcs11(RvError::UserNotLoggedIn, cryptoki::context::Function::FindObjects))),
    }
}

fn search(work: &Work<'_>, by: Attribute) -> Result<Vec<Object>, Fault> {
    let wanted = [Attribute::Token(true), by];
    // All before the first is read: a session searches or reads.
    let handles: Vec<_> = work.session.iter_objects(&wanted)?.take(MAX_OBJECTS + 1).collect::<Result<_, _>>()?;
    if handles.len() > MAX_OBJECTS {
        return Err(DeviceError::new(
            Class::Failed,
            format!("the token lists more than {MAX_OBJECTS} objects at once: name a key, or use a token with fewer"),
        )
        .into());
    }
    let mut objects = Vec::with_capacity(handles.len());
    for handle in handles {
        if let Some(object) = read(work, handle)? {
            objects.push(object);
        }
    }
    Ok(objects)
}

/// The object, if it is a key.
pub(super) fn read(work: &Work<'_>, handle: ObjectHandle) -> Result<Option<Object>, Fault> {
    let wanted = [AttributeType::Class, AttributeType::KeyType, AttributeType::Label, AttributeType::Id];
    let (mut half, mut family, mut label, mut id) = (None, Family::Other, String::new(), Vec::new());
    let class_only = work.session.get_attributes(handle, &wanted[..1])?;
    if let Some(Attribute::Class(class)) = class_only.first() {
        half = match *class {
            ObjectClass::SECRET_KEY => Some(Half::Secret),
            ObjectClass::PRIVATE_KEY => Some(Half::Private),
            ObjectClass::PUBLIC_KEY => Some(Half::Public),
            _ => None,
        };
    }
    let Some(half) = half else { return Ok(None) };
    for attribute in work.session.get_attributes(handle, &wanted[1..])? {
        match attribute {
            Attribute::KeyType(KeyType::AES) => family = Family::Aes,
            Attribute::KeyType(KeyType::RSA) => family = Family::Rsa,
            Attribute::KeyType(KeyType::EC) => family = Family::Ec,
            Attribute::KeyType(KeyType::EC_EDWARDS) => family = Family::Edwards,
            // `cryptoki` 0.12 reads CKK_SHA384_HMAC and CKK_SHA512_HMAC as CKK_SHA256_HMAC too.
            Attribute::KeyType(KeyType::GENERIC_SECRET | KeyType::SHA256_HMAC) if half == Half::Secret => {
                family = hash_of_secret(work, handle)?.map_or(Family::Other, Family::Hmac);
            }
            Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned(),
            Attribute::Id(bytes) => id = bytes,
            _ => {}
        }
    }
    Ok(Some(Object { handle, half, family, label, id }))
}

/// The hash that a secret is for: the one whose tags are as long as it. None if it signs nothing.
fn hash_of_secret(work: &Work<'_>, handle: ObjectHandle) -> Result<Option<Hash>, Fault> {
    let (mut signs, mut bytes) = (false, 0);
    for attribute in work.session.get_attributes(handle, &[AttributeType::Sign, AttributeType::ValueLen])? {
        match attribute {
            Attribute::Sign(does) => signs = does,
            Attribute::ValueLen(length) => bytes = usize::from(length),
            _ => {}
        }
    }
    let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
    Ok(hashes.into_iter().find(|hash| signs && hash.digest_bytes() == bytes))
}

/// Objects of one key together: same id and family; without an id, same label.
pub(super) fn groups(objects: Vec<Object>) -> Vec<Vec<Object>> {
    let mut groups: Vec<Vec<Object>> = Vec::new();
    for object in objects {
        let home = groups.iter_mut().find(|group| {
            let first = &group[0];
            let same_name = first.id == object.id && (!object.id.is_empty() || first.label == object.label);
            same_name && first.family == object.family && !group.iter().any(|o| o.half == object.half)
        });
        match home {
            Some(group) => group.push(object),
            None => groups.push(vec![object]),
        }
    }
    groups
}

/// What a group of objects is, as one key.
pub(super) fn describe(work: &Work<'_>, group: &[Object]) -> Result<KeyInfo, Fault> {
    let main = group.iter().find(|o| o.half != Half::Public).unwrap_or(&group[0]);
    let mut info = KeyInfo {
        label: main.label.clone(),
        id: main.id.clone(),
        kind: if let Family::Hmac(hash) = main.family { KeyKind::Hmac(hash) } else { KeyKind::Other },
        private: main.half != Half::Public,
        public: group.iter().any(|o| o.half == Half::Public),
        extractable: false,
    };
    let size = match main.family {
        Family::Aes => AttributeType::ValueLen,
        Family::Rsa => AttributeType::Modulus,
        _ => AttributeType::EcParams,
    };
    let mut wanted = Vec::from_iter((!matches!(main.family, Family::Hmac(_))).then_some(size));
    if info.private {
        wanted.push(AttributeType::Extractable);
    }
    for attribute in work.session.get_attributes(main.handle, &wanted)? {
        match attribute {
            Attribute::ValueLen(bytes) => info.kind = KeyKind::Aes(usize::from(bytes) as u32 * 8),
            Attribute::Modulus(modulus) => {
                let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
                info.kind = KeyKind::Rsa((modulus.len() - zeros) as u32 * 8);
            }
            Attribute::EcParams(_) if main.family == Family::Edwards => info.kind = KeyKind::Ed25519,
            Attribute::EcParams(params) => info.kind = kind_of_curve(&params).unwrap_or(KeyKind::Other),
            Attribute::Extractable(extractable) => info.extractable = extractable,
            _ => {}
        }
    }
    Ok(info)
}

/// The error for a key that is not there, which names what is there under a half-right
/// name.
fn missing(work: &Work<'_>, key: &KeyRef, half: Half, family: Family, found: &[Object]) -> Result<DeviceError, Fault> {
    let what = match (half, family) {
        (Half::Secret, _) => "secret key",
        (Half::Private, _) => "private key",
        (Half::Public, _) => "public key",
    };
    let mut hint = String::from("check 'key_label' and 'key_id', or set 'generate_key'");
    if let Some(other) = found.first() {
        hint = format!("what is there is the {:?} half of a {:?} key", other.half, other.family);
    } else if let (Some(id), Some(_)) = (&key.id, &key.label) {
        if let Some(other) = search(work, Attribute::Id(id.clone()))?.first() {
            hint = format!("that id belongs to key '{}': correct 'key_label' or leave it out", other.label);
        } else if let Some(other) = objects(work, &KeyRef { id: None, label: key.label.clone() })?.first() {
            hint = format!("that label belongs to id 0x{}: correct 'key_id' or leave it out", hex::encode(&other.id));
        }
    }
    Ok(DeviceError::new(Class::KeyMissing, format!("no {what} ({family:?}) matches {key}: {hint}")))
}
