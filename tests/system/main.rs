#![forbid(unsafe_code)]
//! Whole-system tests: the built binary, stock clients, a SoftHSM token, real files and sockets.
//!
//! Run by `make system`. What a test needs and does not find makes it fail.

mod clients;
mod http2;
mod start;
