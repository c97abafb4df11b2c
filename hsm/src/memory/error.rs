//! What can go wrong with protected memory.

use std::io;

/// An error of the memory layer. The texts are one line each and name the next step.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The operating system refuses to lock memory.
    #[error(
        "cannot lock memory ({cause}): give the program the right with 'setcap cap_ipc_lock=ep <program>' \
         or 'LimitMEMLOCK=infinity' in its systemd unit, or set 'disable_mlock = true' if swap is off or encrypted"
    )]
    Lock {
        /// What the operating system said.
        cause: io::Error,
    },
    /// Every slot that could hold a key of this size is taken.
    #[error(
        "no slot left for a key of {bytes} bytes: {slots_used} of {slots_total} slots of protected memory are in use"
    )]
    ArenaFull {
        /// Length of the key that found no slot.
        bytes: usize,
        /// Slots taken, all size classes together.
        slots_used: usize,
        /// Slots there are, all size classes together.
        slots_total: usize,
    },
    /// A key must have 1 to [`MAX_KEY_BYTES`](super::MAX_KEY_BYTES) bytes.
    #[error("a key of {bytes} bytes cannot be held: protected memory takes 1 to {max} bytes")]
    Length {
        /// The length asked for.
        bytes: usize,
        /// The largest length.
        max: usize,
    },
    /// The operating system's random source failed.
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// A system call that protects the process failed.
    #[error("cannot {what}: {cause}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the operating system said.
        cause: io::Error,
    },
}
