//! Random bytes from the token.

use super::session::{Repeat, Sessions};
use crate::device::DeviceError;
use crate::memory::Secret;

pub(super) fn random(sessions: &Sessions, len: usize) -> Result<Secret<Vec<u8>>, DeviceError> {
    sessions.run(&format!("give {len} random bytes"), Repeat::Safe, |work| {
        let mut bytes = vec![0; len];
        work.session.generate_random_slice(&mut bytes)?;
        Ok(Secret::new(bytes))
    })
}
