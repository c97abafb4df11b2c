//! Chores: what a mount does outside by itself, when it is time (a password that is changed every day).
//!
//! The core asks [`Backend::chores`](crate::Backend::chores) of every mount twice a second, so that has to be
//! cheap where nothing is due: an index by time. Each chore then goes the way of a request that acts outside:
//! [`begin_chore`](crate::Backend::begin_chore) in a transaction that stores the intent,
//! [`effect`](crate::Backend::effect), and [`end_chore`](crate::Backend::end_chore) in the transaction that ends
//! the intent, also when it failed: the engine says there when it is due again.
