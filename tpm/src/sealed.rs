//! What a sealed secret looks like outside the TPM.
//!
//! `length of the header (2 bytes) ‖ header (CBOR) ‖ AES-256-GCM`. The header holds the object in which the TPM has sealed
//! the AES key, and what it was bound to; it is part of the associated data, so that nothing of it can be changed.

use crate::pcr::Measurement;
use crate::quorum::Quorum;
use holdfast_hsm::device::{DeviceError, DeviceErrorClass as Class};
use minicbor::{Decode, Encode};

/// The object, and what there is to know about it.
#[derive(Debug, Encode, Decode)]
pub(crate) struct Header {
    /// Name of the storage root key that it is below.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) root: Vec<u8>,
    /// TPMT_PUBLIC of the object.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) public: Vec<u8>,
    /// TPM2B_PRIVATE of it, without the length.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub(crate) private: Vec<u8>,
    /// The measurements at that time. Without an approver it opens under these alone.
    #[n(3)]
    pub(crate) measured: Vec<Measurement>,
    /// SubjectPublicKeyInfo of who may approve other measurements.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub(crate) approver: Option<Vec<u8>>,
    /// Whether a PIN is wanted too.
    #[n(5)]
    pub(crate) pin: bool,
    /// Who has to sign first.
    #[n(6)]
    pub(crate) quorum: Option<Quorum>,
}

/// A sealed secret, taken apart.
pub(crate) struct Parts<'a> {
    pub(crate) header: Header,
    /// As it stands there, for the associated data.
    pub(crate) header_bytes: &'a [u8],
    pub(crate) ciphertext: &'a [u8],
}

impl Header {
    /// Length and header, to which the ciphertext is appended.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, DeviceError> {
        let too_long = || DeviceError::new(Class::Failed, "the sealed object is longer than a TPM can make it");
        let encoded = minicbor::to_vec(self).map_err(|_| too_long())?;
        let length = u16::try_from(encoded.len()).map_err(|_| too_long())?;
        Ok([&length.to_be_bytes()[..], &encoded].concat())
    }
}

/// Takes a sealed secret apart; `None` if it is none.
pub(crate) fn parse(bytes: &[u8]) -> Option<Parts<'_>> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (encoded, ciphertext) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let header = minicbor::decode(encoded).ok()?;
    Some(Parts { header, header_bytes: &bytes[..2 + encoded.len()], ciphertext })
}
