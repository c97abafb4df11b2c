#![forbid(unsafe_code)]
//! A cluster of nodes: openraft over the store.

pub mod raft;
