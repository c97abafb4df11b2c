//! Where secrets live.
//!
//! Two tiers. [`Key`] is for what opens everything else (root key, keyring, hot
//! engine keys, PINs): it lives in a locked, guarded, undumped arena with a
//! bounded number of slots. [`Secret`] is for what passes through (tokens, request
//! and answer data): ordinary heap, wiped on drop, never printed by accident.
//!
//! Under both lie [`WipingAllocator`], which wipes what it frees, and the process
//! itself: [`lock_process`], [`harden_process`], [`scrub_stack`], [`trim_heap`].
//!
//! ```
//! use holdfast_hsm::memory::{Key, Secret, allow_unlocked};
//!
//! allow_unlocked(); // what `-dev` and `disable_mlock` do
//! let key = Key::random(32)?;
//! assert_eq!(key.expose().len(), 32);
//! assert_eq!(format!("{key:?}"), "Key(..)");
//!
//! let token = Secret::new(String::from("hvs.abc"));
//! assert!(token.ct_eq("hvs.abc"));
//! # Ok::<(), holdfast_hsm::memory::MemoryError>(())
//! ```

mod allocator;
mod arena;
mod error;
mod key;
mod process;
mod secret;

pub use allocator::{WipingAllocator, trim_heap};
pub use arena::{ArenaUsage, ClassUsage, allow_unlocked, arena_usage};
pub use error::MemoryError;
pub use key::{Key, MAX_KEY_BYTES};
pub(crate) use process::lock_present_only;
pub use process::{harden_process, lock_process, scrub_stack};
pub use secret::Secret;
