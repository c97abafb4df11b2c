//! What a handler answers.

use std::task::{Context, Poll};

use holdfast_hsm::memory::Secret;
use serde_json::{Map, Value};

/// The form of an answer's body.
#[derive(Default)]
pub enum Body {
    /// 204.
    #[default]
    None,
    /// `data` in the envelope.
    Data(Map<String, Value>),
    /// As `Data`, and the fields also at the top level, for old clients.
    Both(Map<String, Value>),
    /// A bare object without envelope.
    Bare(Map<String, Value>),
    /// Something else than JSON.
    Raw { content_type: String, bytes: Vec<u8> },
    /// Bytes that come for as long as the client reads.
    Stream { content_type: String, chunks: Box<dyn Chunks> },
}

/// Where the bytes of a [`Body::Stream`] come from. Dropping it tells that nobody reads any more.
pub trait Chunks: Send + Sync {
    /// The next bytes; `None` is the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>>;
}

/// A lease on what was answered.
#[derive(Debug, Clone, Default)]
pub struct Lease {
    pub id: String,
    pub ttl_secs: u64,
    pub renewable: bool,
}

/// A lease that the core is to make for what is answered: what was made ends with it.
#[derive(Debug, Clone)]
pub struct NewLease {
    pub ttl_secs: u64,
    pub renewable: bool,
    /// What is ended with it. With an empty target nothing is outside: the engine's records are all there is.
    pub outside: crate::Outside,
    /// Under which name live leases are counted: a role's.
    pub counted_as: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenType {
    #[default]
    Service,
    Batch,
}

impl TokenType {
    pub fn word(self) -> &'static str {
        match self {
            TokenType::Service => "service",
            TokenType::Batch => "batch",
        }
    }
}

/// A token that the answer hands out or renews.
pub struct Auth {
    pub client_token: Secret<String>,
    pub accessor: String,
    pub policies: Vec<String>,
    pub token_policies: Vec<String>,
    pub identity_policies: Vec<String>,
    /// The login was to leave the policy `default` out.
    pub no_default_policy: bool,
    pub metadata: Map<String, Value>,
    pub display_name: String,
    pub lease_secs: u64,
    pub renewable: bool,
    pub entity_id: String,
    /// The entity is new with this login.
    pub entity_created: bool,
    pub token_type: TokenType,
    pub orphan: bool,
    pub num_uses: i64,
}

/// Where a wrapped answer waits.
pub struct WrapInfo {
    pub token: Secret<String>,
    pub accessor: String,
    pub ttl_secs: u64,
    pub creation_time: String,
    pub creation_path: String,
    pub wrapped_accessor: String,
}

#[derive(Default)]
pub struct Response {
    pub body: Body,
    pub auth: Option<Auth>,
    /// The login needs a second factor: what, and the id to bring it with.
    pub mfa_requirement: Option<Map<String, Value>>,
    /// A caller logged in: the core makes `auth` of it.
    pub login: Option<Box<crate::Login>>,
    pub lease: Option<Lease>,
    /// The core makes `lease` of it.
    pub new_lease: Option<Box<NewLease>>,
    pub wrap_info: Option<WrapInfo>,
    /// The accessor of what is answered, if that has one beside a token's: shown with an answer that is wrapped.
    pub accessor: Option<String>,
    pub warnings: Vec<String>,
    /// Instead of 200 or 204.
    pub status: Option<u16>,
    /// Instead of the type of the mount that answers: an unwrapped answer keeps its own.
    pub mount_type: Option<String>,
    pub headers: Vec<(String, String)>,
}

impl Response {
    /// 204.
    pub fn empty() -> Response {
        Response::default()
    }

    pub fn data(data: Map<String, Value>) -> Response {
        Response { body: Body::Data(data), ..Response::default() }
    }

    pub fn both(data: Map<String, Value>) -> Response {
        Response { body: Body::Both(data), ..Response::default() }
    }

    pub fn bare(data: Map<String, Value>) -> Response {
        Response { body: Body::Bare(data), ..Response::default() }
    }

    /// A login, of which the core makes a token.
    pub fn login(login: crate::Login) -> Response {
        Response { login: Some(Box::new(login)), ..Response::default() }
    }

    /// A list: 404 if there is nothing.
    pub fn list(keys: Vec<String>) -> crate::Result<Response> {
        if keys.is_empty() {
            return Err(crate::Error::NotFound);
        }
        let mut data = Map::new();
        data.insert("keys".into(), keys.into());
        Ok(Response::data(data))
    }

    /// 404 that still has something to say (a deleted version's metadata, a hint).
    pub fn gone(body: Body, warnings: Vec<String>) -> Response {
        Response { body, warnings, status: Some(404), ..Response::default() }
    }

    pub fn warn(mut self, text: impl Into<String>) -> Response {
        self.warnings.push(text.into());
        self
    }
}
