//! Objects and where they are kept.

use std::collections::BTreeMap;

use crate::code::Refusal;

pub const LABEL_BYTES: usize = 40;
/// Places for objects.
pub const RECORDS: usize = 256;

pub const GENERATED: u8 = 0x01;
pub const IMPORTED: u8 = 0x02;

/// An object.
#[derive(Clone)]
pub struct Object {
    pub kind: u8,
    pub id: u16,
    pub label: [u8; LABEL_BYTES],
    pub domains: u16,
    pub capabilities: u64,
    pub delegated: u64,
    pub algorithm: u8,
    pub origin: u8,
    pub sequence: u8,
    /// PKCS#8 of a pair, the bytes of a secret key, both halves of an authentication key.
    pub secret: Vec<u8>,
}

impl Object {
    /// As GET OBJECT INFO gives it.
    pub fn info(&self) -> Vec<u8> {
        let mut info = Vec::new();
        info.extend_from_slice(&self.capabilities.to_be_bytes());
        info.extend_from_slice(&self.id.to_be_bytes());
        info.extend_from_slice(&(self.secret.len() as u16).to_be_bytes());
        info.extend_from_slice(&self.domains.to_be_bytes());
        info.extend_from_slice(&[self.kind, self.algorithm, self.sequence, self.origin]);
        info.extend_from_slice(&self.label);
        info.extend_from_slice(&self.delegated.to_be_bytes());
        info
    }
}

pub struct Objects {
    all: BTreeMap<(u8, u16), Object>,
    sequences: BTreeMap<(u8, u16), u8>,
    /// How many there may be.
    pub room: usize,
}

impl Objects {
    pub fn new() -> Objects {
        Objects { all: BTreeMap::new(), sequences: BTreeMap::new(), room: RECORDS }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// One that shares a domain with the session.
    pub fn find(&self, kind: u8, id: u16, domains: u16) -> Result<&Object, Refusal> {
        self.all.get(&(kind, id)).filter(|object| object.domains & domains != 0).ok_or(Refusal::ObjectNotFound)
    }

    pub fn any(&self, kind: u8, id: u16) -> Option<&Object> {
        self.all.get(&(kind, id))
    }

    pub fn all(&self) -> impl Iterator<Item = &Object> {
        self.all.values()
    }

    /// Id 0 lets the device choose.
    pub fn add(&mut self, mut object: Object) -> Result<u16, Refusal> {
        if object.id == 0 {
            let mut bytes = [0; 2];
            loop {
                getrandom::fill(&mut bytes).expect("random bytes");
                object.id = u16::from_be_bytes(bytes);
                let taken = self.all.contains_key(&(object.kind, object.id));
                if !taken && (1..0xffff).contains(&object.id) {
                    break;
                }
            }
        }
        let place = (object.kind, object.id);
        if self.all.contains_key(&place) {
            return Err(Refusal::ObjectExists);
        }
        if self.all.len() >= self.room {
            return Err(Refusal::StorageFailed);
        }
        // How often there was an object of this type and id.
        let sequence = self.sequences.entry(place).and_modify(|number| *number = number.wrapping_add(1)).or_insert(0);
        object.sequence = *sequence;
        let id = object.id;
        self.all.insert(place, object);
        Ok(id)
    }

    pub fn remove(&mut self, kind: u8, id: u16) {
        self.all.remove(&(kind, id));
    }
}
