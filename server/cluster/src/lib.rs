#![forbid(unsafe_code)]
//! A cluster of nodes: openraft over the store, and what nodes say to each other.
//!
//! * [`raft`]: agreement. Nothing else names a type of openraft.
//! * [`identity`], [`tls`]: the key by which others know a node, and channels on which both sides have shown theirs.
//! * [`frame`], [`links`], [`listener`]: what goes over a channel, and both of its ends. [`heard`]: whom a node hears.
//!   [`incarnations`]: which process counts as a member, where there are two with its key.
//! * [`forward`]: clients' requests, from a node that stands by to the active one.
//! * [`api`]: the API of a node whose cluster is to be joined.
//! * [`node`]: this node, as the core sees it.
//! * [`recover`]: members that are stopped and have lost the others for good.

mod api;
mod forward;
mod frame;
mod heard;
pub mod identity;
mod incarnations;
mod links;
mod listener;
pub mod node;
mod places;
pub mod raft;
mod read_index;
pub mod recover;
mod snapshot;
mod tls;

pub use identity::{KeyKeeper, KeyKept};
pub use node::{Node, Set};
