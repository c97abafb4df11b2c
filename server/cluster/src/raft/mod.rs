//! openraft, behind this module: nothing outside names one of its types. See docs/decisions/0005-openraft.md.
//!
//! * [`types`]: what openraft is told of us, and how an entry is written.
//! * [`log`], [`machine`]: the store's log and state machine as openraft calls them.
//! * [`network`]: its messages to other members.
//! * [`confirmed`]: a member that lacks what it has confirmed is noticed.
//! * [`trim`]: its log stays small.
//! * [`group`]: the running whole. [`sleep`], [`rest`]: when it may answer, and when it may not vote. [`heirs`]: to whom
//!   it hands the lead over.
//! * `sim`: all of that in a simulation, for tests.

mod confirmed;
mod group;
mod heirs;
mod log;
mod machine;
mod network;
mod rest;
#[cfg(test)]
mod sim;
mod sleep;
#[cfg(test)]
mod suite;
mod trim;
mod types;

pub use group::{Group, Settings};
pub use network::{Peers, Sent};
pub use types::members_of;
