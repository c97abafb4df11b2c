//! Objects: what is on a YubiHSM, as far as the session's domains let it be seen.

use super::fault::Fault;
use super::protocol::{Capabilities, Command, ObjectType, domains_text, kind_of};
use super::session::Session;
use crate::device::{KeyInfo, KeyRef};
use std::collections::HashMap;

pub(super) const LABEL_BYTES: usize = 40;
const INFO_BYTES: usize = 8 + 2 + 2 + 2 + 1 + 1 + 1 + 1 + LABEL_BYTES + 8;
/// Of those that were found.
const MAX_KNOWN: usize = 256;

/// An object, as GET OBJECT INFO describes it.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) id: u16,
    pub(super) of: ObjectType,
    pub(super) algorithm: u8,
    pub(super) domains: u16,
    pub(super) capabilities: Capabilities,
    pub(super) delegated: Capabilities,
    pub(super) label: String,
}

/// Objects that this session has found before: looking a key up costs two commands.
#[derive(Default)]
pub(super) struct Known(HashMap<(KeyRef, ObjectType), Object>);

impl Known {
    pub(super) fn find(&self, key: &KeyRef, of: ObjectType) -> Option<&Object> {
        self.0.get(&(key.clone(), of))
    }

    pub(super) fn remember(&mut self, key: &KeyRef, object: &Object) {
        if self.0.len() >= MAX_KNOWN {
            self.0.clear();
        }
        self.0.insert((key.clone(), object.of), object.clone());
    }

    /// After anything that may have changed what is there.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

impl Object {
    /// One that may do nothing, until it is looked at.
    pub(super) fn nothing(id: u16, of: ObjectType) -> Self {
        let none = Capabilities::default();
        Self { id, of, algorithm: 0, domains: 0, capabilities: none, delegated: none, label: String::new() }
    }

    /// Looks at an object.
    pub(super) fn of(session: &mut Session, id: u16, of: ObjectType) -> Result<Self, Fault> {
        let [high, low] = id.to_be_bytes();
        let info = session.command(Command::GetObjectInfo, &[high, low, of as u8])?;
        if info.len() != INFO_BYTES {
            return Err(Fault::Garbled);
        }
        let number =
            |at: usize, bytes: usize| info[at..at + bytes].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let label = &info[18..18 + LABEL_BYTES];
        let length = label.iter().position(|byte| *byte == 0).unwrap_or(LABEL_BYTES);
        Ok(Self {
            id,
            of,
            capabilities: Capabilities(number(0, 8)),
            domains: number(12, 2) as u16,
            algorithm: info[15],
            label: String::from_utf8_lossy(&label[..length]).into_owned(),
            delegated: Capabilities(number(18 + LABEL_BYTES, 8)),
        })
    }

    /// All objects that hold keys for use and match.
    pub(super) fn matching(session: &mut Session, key: &KeyRef) -> Result<Vec<Self>, Fault> {
        let Some(filter) = filter(key) else { return Ok(Vec::new()) };
        let list = session.command(Command::ListObjects, &filter)?;
        let mut found = Vec::new();
        for entry in list.chunks_exact(4) {
            let id = u16::from_be_bytes([entry[0], entry[1]]);
            let Some(of) = ObjectType::of(entry[2]).filter(|of| *of != ObjectType::Authentication) else { continue };
            found.push(Self::of(session, id, of)?);
        }
        Ok(found)
    }

    pub(super) fn info(&self) -> KeyInfo {
        KeyInfo {
            label: self.label.clone(),
            id: self.id.to_be_bytes().to_vec(),
            kind: kind_of(self.algorithm),
            private: true,
            public: self.of == ObjectType::Asymmetric,
            extractable: self.capabilities.has(Capabilities::EXPORTABLE_UNDER_WRAP),
        }
    }

    /// For error texts.
    pub(super) fn name(&self) -> String {
        format!("key '{}' (id 0x{:04x}, domains {})", self.label, self.id, domains_text(self.domains))
    }
}

/// A label as the device has it: zeros after its end. `None`: it is longer than any.
pub(super) fn label_field(label: &str) -> Option<[u8; LABEL_BYTES]> {
    let mut field = [0; LABEL_BYTES];
    field.get_mut(..label.len())?.copy_from_slice(label.as_bytes());
    Some(field)
}

/// The object id in a key's id. `None`: no YubiHSM has such ids.
pub(super) fn object_id(id: &[u8]) -> Option<u16> {
    id.try_into().ok().map(u16::from_be_bytes)
}

/// What LIST OBJECTS is to look for. `None`: nothing can match.
fn filter(key: &KeyRef) -> Option<Vec<u8>> {
    const BY_ID: u8 = 0x01;
    const BY_LABEL: u8 = 0x06;
    let mut filter = Vec::new();
    if let Some(id) = &key.id {
        filter.push(BY_ID);
        filter.extend_from_slice(&object_id(id)?.to_be_bytes());
    }
    if let Some(label) = &key.label {
        filter.push(BY_LABEL);
        filter.extend_from_slice(&label_field(label)?);
    }
    Some(filter)
}
