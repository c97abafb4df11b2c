//! Randomness for the keys that the server makes for itself: `entropy "seal"` mixes the bytes of a seal's device in.

use std::sync::atomic::Ordering;

use holdfast_seal::{Entropy, SEED_BYTES};

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
        let (seals, mut said) = (self.seals(), "no seal has a device that gives random bytes".to_owned());
        for seal in &seals.present {
            match seal.ask(|device| device.random(SEED_BYTES as u32).transpose()).await {
                Ok(Some(bytes)) => return Entropy::mixed_with(&bytes).map_err(failed),
                Ok(None) => {}
                Err(refusal) => said = refusal.text,
            }
        }
        Err(Refusal(
            503,
            format!(
                "new keys are to be mixed with a device's random bytes (entropy \"seal\"), and there are none: {said}. Nothing \
                 was changed: try again when the device answers, or take the stanza away and send SIGHUP"
            ),
        ))
    }
}
