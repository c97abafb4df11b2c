#![forbid(unsafe_code)]
//! The kit of the whole-system tests: a server as a user runs it, and the clients to ask it.
//!
//! Nothing here knows the server's code: the binary of `HOLDFAST_BIN` is started with a
//! configuration file and spoken to over its sockets. What a test needs and does not find (a
//! program, a module, a right) makes it fail, never skip.
//!
//! ```no_run
//! use holdfast_tests::{Running, Setup};
//! use serde_json::json;
//!
//! let running = Running::start(Setup::hardware()); // SoftHSM, TLS, kv v2 at secret/
//! running.root.post("secret/data/app", json!({ "data": { "user": "alice" } })).expect(200);
//! ```

pub mod audited;
pub mod certificates;
pub mod client;
pub mod connection;
pub mod database;
pub mod gnupg;
pub mod hanging;
pub mod module;
pub mod nss;
pub mod object_store;
pub mod opencryptoki;
pub mod process;
pub mod program;
pub mod server;
pub mod site;
pub mod terminal;
pub mod tmpfs;
pub mod token;
pub mod tpm;
pub mod tpm2_pkcs11;
pub mod wait;
pub mod yubihsm;

pub use client::{Client, Reply};
pub use connection::{Address, Connection};
pub use server::Server;
pub use site::{Keys, Running, Seal, Setup, Site, Storage};
pub use terminal::Terminal;
pub use wait::until;
