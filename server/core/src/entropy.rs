//! Random bytes of a seal's device, which are judged before they are used; and the randomness for the keys that the server makes for
//! itself: `entropy "seal"` mixes such bytes in.

use std::sync::atomic::Ordering;

use holdfast_hsm::health;
use holdfast_hsm::memory::Secret;
use holdfast_seal::{DeviceRefusal, Entropy, SEED_BYTES, SealDevice};

use crate::Core;
use crate::seal_state::{Refusal, failed};

impl Core {
    /// Mix the bytes of a seal's device into new keys from now on, or no longer.
    pub fn mix_entropy_of_seals(&self, mix: bool) {
        self.mixes_entropy.store(mix, Ordering::Relaxed);
    }

    /// For one act that makes keys. Where a device's bytes are to be in them, an act without is refused.
    pub(crate) async fn entropy(&self) -> Result<Entropy, Refusal> {
        if !self.mixes_entropy.load(Ordering::Relaxed) {
            return Ok(Entropy::platform());
        }
        let said = match self.seals().random(SEED_BYTES).await {
            Ok(Some(bytes)) => return Entropy::mixed_with(&bytes).map_err(failed),
            Ok(None) => "no seal has a device that gives random bytes".to_owned(),
            Err(refusal) => refusal.text,
        };
        Err(Refusal(
            503,
            format!(
                "new keys are to be mixed with a device's random bytes (entropy \"seal\"), and there are none: {said}. Nothing \
                 was changed: try again when the device answers, or take the stanza away and send SIGHUP"
            ),
        ))
    }
}

/// So many random bytes of a device; `None`: it gives none. With each draw go two more, by which the source is judged: a device that
/// is stuck or repeats itself gives nothing.
pub(crate) fn judged(device: &dyn SealDevice, bytes: usize) -> Result<Option<Secret<Vec<u8>>>, DeviceRefusal> {
    let draw = |bytes: usize| device.random(bytes as u32).transpose();
    let (Some(one), Some(other)) = (draw(health::DRAW_BYTES)?, draw(health::DRAW_BYTES)?) else { return Ok(None) };
    let Some(drawn) = draw(bytes)? else { return Ok(None) };
    if drawn.expose().len() != bytes || !health::looks_random_beside([&one, &other], &drawn) {
        let said = "the random bytes of the seal's device do not look like any: they are not used. Try it with `holdfast operator \
                    device test`, and have it looked at";
        return Err(DeviceRefusal::new(said, false));
    }
    Ok(Some(drawn))
}
