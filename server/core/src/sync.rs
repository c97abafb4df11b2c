//! What the caches lock and count with. `tests/cache_model.rs` compiles them with other ones, which try
//! every order in which threads can run.

pub use std::hash::RandomState;
pub use std::sync::atomic::{AtomicU64, Ordering};
pub use std::sync::{Arc, PoisonError, RwLock};
