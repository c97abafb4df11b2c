#![forbid(unsafe_code)]
//! Listeners, TLS, and the mapping between HTTP and the core's requests.
//!
//! hyper reads and writes; [`request`] maps; [`holdfast_core::Core`] answers. A client that hangs
//! up cancels nothing: each request runs in a task of its own.

mod archive;
mod body;
mod connections;
mod content;
mod cors;
mod forward;
mod forwarded;
mod listener;
mod minded;
mod path;
mod proxy_protocol;
mod query;
mod redact;
mod request;
mod response_headers;
mod scope;
mod standing_by;
pub mod tls;

pub use archive::remove_left as remove_left_archives;
pub use forward::Front;
pub use forwarded::ForwardedFor;
pub use listener::{Address, ListenerOptions, Listening, Owner, bind};
pub use proxy_protocol::{Proxies, ProxyError, proxy_header};
pub use redact::Redact;
pub use request::decode;
pub use response_headers::{CurrentHeaders, ResponseHeaders};
pub use scope::Scope;
