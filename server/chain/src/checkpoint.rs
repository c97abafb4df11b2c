//! What seals the lines before it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::{PublicKey, PublicKeys, Signer};

/// A signed statement: line `seq` of this chain has this hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The incarnation of the chain.
    pub id: String,
    /// Whose log it is: node and device. Whose cluster, the key says that signs it.
    pub log: String,
    pub seq: u64,
    /// The hash of line `seq`.
    pub head: String,
    /// RFC 3339.
    pub time: String,
    /// The name of the key that signed it.
    pub key: String,
    /// Where that key is: `barrier` (in the store, sealed), or a device.
    pub kept_in: String,
    #[serde(default)]
    pub signature: String,
}

impl Checkpoint {
    /// Signed by `signer`.
    #[must_use]
    pub fn signed(self, signer: &Signer) -> Checkpoint {
        let unsigned = self.to_be_signed_by(signer.public());
        let signature = signer.sign(&unsigned.message());
        unsigned.with_signature(&signature)
    }

    /// The one that this key is to sign: [`Checkpoint::message`] is what it signs.
    #[must_use]
    pub fn to_be_signed_by(self, key: &PublicKey) -> Checkpoint {
        Checkpoint { key: key.id().to_owned(), ..self }
    }

    #[must_use]
    pub fn with_signature(self, signature: &[u8]) -> Checkpoint {
        Checkpoint { signature: STANDARD.encode(signature), ..self }
    }

    /// Whether one of the keys has signed it.
    pub fn is_signed_by(&self, keys: &PublicKeys) -> bool {
        keys.verify(&self.key, &self.message(), &self.signature)
    }

    /// The bytes that are signed: every member with its length, so that none can be read as part of another.
    pub fn message(&self) -> Vec<u8> {
        let seq = self.seq.to_string();
        let members = [&self.id, &self.log, &seq, &self.head, &self.time, &self.key, &self.kept_in];
        let mut out = b"holdfast audit checkpoint 1\n".to_vec();
        for member in members {
            out.extend_from_slice(format!("{}:{member}\n", member.len()).as_bytes());
        }
        out
    }
}
