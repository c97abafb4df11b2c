//! Random bytes from the device: a DRBG that its true random source seeds.

use super::fault::Fault;
use super::protocol::{Capabilities, Command};
use super::session::{Repeat, YubiHsm};
use crate::device::DeviceError;
use crate::memory::Secret;

/// So many fit into an answer with room to spare.
const AT_ONCE: usize = 1024;

pub(super) fn random(hsm: &YubiHsm, len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
    hsm.run(&format!("give {len} random bytes"), Repeat::Safe, |session| {
        session.may(Capabilities::GET_PSEUDO_RANDOM, None)?;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let wanted = AT_ONCE.min(len - bytes.len());
            let given = session.command(Command::GetPseudoRandom, &(wanted as u16).to_be_bytes())?;
            if given.len() != wanted {
                return Err(Fault::Garbled);
            }
            bytes.extend_from_slice(&given);
        }
        Ok(Secret::new(bytes))
    })
}
