//! Messages as bytes (CBOR). Buffers that may hold secrets are wiped.

use super::{DeviceError, DeviceErrorClass};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

/// The message as bytes. The buffer starts large enough for most calls, so that it
/// seldom moves while secrets are in it.
pub(crate) fn encode<T: Encode<()>>(message: &T) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let Ok(()) = minicbor::encode(message, &mut *bytes) else {
        unreachable!("writing to memory does not fail, and no message refuses to be encoded")
    };
    bytes
}

/// The message in these bytes.
pub(crate) fn decode<'a, T: Decode<'a, ()>>(bytes: &'a [u8]) -> Result<T, DeviceError> {
    minicbor::decode(bytes).map_err(|cause| {
        DeviceError::new(
            DeviceErrorClass::Failed,
            format!(
                "a message of the device helper cannot be read ({cause}): server and helper must be the same program"
            ),
        )
    })
}

/// `Secret<Vec<u8>>` inside a message. Only messages encode it: the type has no `Encode`.
pub(crate) mod secret_bytes {
    use crate::memory::Secret;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub(crate) fn encode<C, W: Write>(
        secret: &Secret<Vec<u8>>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(secret.expose())?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Secret<Vec<u8>>, DecodeError> {
        Ok(Secret::new(d.bytes()?.to_vec()))
    }
}

/// `Option<Secret<String>>` inside a message.
pub(crate) mod secret_text {
    use crate::memory::Secret;
    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::{Error as EncodeError, Write};
    use minicbor::{Decoder, Encoder};

    pub(crate) fn encode<C, W: Write>(
        secret: &Option<Secret<String>>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        match secret {
            Some(text) => e.str(text.expose())?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Option<Secret<String>>, DecodeError> {
        if d.datatype()? == minicbor::data::Type::Null {
            d.null()?;
            return Ok(None);
        }
        Ok(Some(Secret::new(d.str()?.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Answer, Call, CipherMechanism, KeyRef};
    use crate::memory::Secret;

    #[test]
    fn a_call_with_a_secret_comes_out_as_it_went_in() {
        let call = Call::Encrypt {
            key: KeyRef { label: Some("root".into()), id: Some(vec![1, 2]) },
            mechanism: CipherMechanism::AesGcm,
            plaintext: Secret::new(vec![9; 32]),
            aad: b"cluster".to_vec(),
        };
        let bytes = encode(&call);
        let Call::Encrypt { key, mechanism, plaintext, aad } = decode(&bytes).unwrap() else { panic!("another call") };
        assert_eq!(key, KeyRef { label: Some("root".into()), id: Some(vec![1, 2]) });
        assert_eq!(mechanism, CipherMechanism::AesGcm);
        assert!(plaintext.ct_eq([9; 32]));
        assert_eq!(aad, b"cluster");
    }

    #[test]
    fn results_travel_both_ways() {
        let good: Result<Answer, DeviceError> = Ok(Answer::Verified(true));
        assert!(matches!(decode::<Result<Answer, DeviceError>>(&encode(&good)), Ok(Ok(Answer::Verified(true)))));
        let bad: Result<Answer, DeviceError> = Err(DeviceError::new(DeviceErrorClass::PinWrong, "wrong"));
        let Ok(Err(error)) = decode::<Result<Answer, DeviceError>>(&encode(&bad)) else { panic!("no error") };
        assert_eq!(error.class, DeviceErrorClass::PinWrong);
        assert!(decode::<Call>(b"\xff\xff").is_err());
    }
}
