#![forbid(unsafe_code)]
//! What an engine or an auth method is written against.
//!
//! A [`Backend`] is a table of routes with typed handlers ([`routes`]). A handler reads and writes
//! through a [`Transaction`] that shows it its own mount alone; it never sees the router, another
//! engine, HTTP or a file. `apply` may run more than once and must be pure on the transaction; what
//! is slow or random is computed once in `prepare`.

mod address;
mod backend;
pub mod chore;
pub mod duration;
mod error;
mod file;
pub mod json;
pub mod lease;
mod login;
mod managed_key;
pub mod names;
mod outside;
pub mod parameters;
mod request;
mod response;
pub mod routes;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod token_parameters;
mod transaction;
pub mod uuid;

pub use address::{AddressBlock, NoAddressBlock};
pub use backend::{Backend, Class, Preparation, Prepared};
pub use error::Error;
pub use file::read_file;
pub use login::{Alias, Login, LoginTokenType, Renewal};
pub use managed_key::{CipherMechanism, Ciphertext, Hash, KeyKind, ManagedKey, SignInput, SignMechanism};
pub use outside::{Act, Done, Failure, Means, Outside, Work};
pub use parameters::{Field, Kind, Parameter, Parameters};
pub use request::{Call, Caller, Captures, Headers, Operation, Presented, Request, TokenId};
pub use response::{Auth, Body, Chunks, Lease, NewLease, Response, TokenType, WrapInfo};
pub use routes::{Found, Route, Routes};
pub use time::Timestamp;
pub use token_parameters::{OldNames, TokenFields, TokenParameters};
pub use transaction::{LAST_USES, Place, Record, Table, Transaction, record};

pub use serde_json::{Map, Value};

/// The transaction that a handler of an engine is given.
pub type Tx = dyn Transaction;

/// A result of a handler.
pub type Result<T, E = Error> = std::result::Result<T, E>;
