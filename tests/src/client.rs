//! A client of the API: JSON in, status and JSON out, over one connection that stays open.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;

use crate::{Address, Connection, audited};

/// A client with a token.
pub struct Client {
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    token: Option<String>,
    limit: Option<Duration>,
    connection: Mutex<Option<Connection>>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(address: Address, tls: Option<Arc<ClientConfig>>) -> Client {
        Client { address, tls, token: None, limit: None, connection: Mutex::new(None) }
    }

    /// The same server, asked with a token.
    pub fn with_token(&self, token: &str) -> Client {
        audited::secrets::sent_password(token);
        Client { token: Some(token.to_owned()), limit: self.limit, ..self.without_token() }
    }

    /// The same, which waits for an answer no longer than this.
    pub fn patient_for(self, limit: Duration) -> Client {
        Client { limit: Some(limit), connection: Mutex::new(None), ..self }
    }

    /// The same server, asked without a token.
    pub fn without_token(&self) -> Client {
        Client::new(self.address.clone(), self.tls.clone())
    }

    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or("")
    }

    /// A connection of its own.
    pub fn connect(&self) -> io::Result<Connection> {
        let connection = Connection::open(&self.address, self.tls.as_ref())?;
        if let Some(limit) = self.limit {
            connection.set_read_limit(limit);
        }
        Ok(connection)
    }

    /// The same behind a PROXY header.
    pub fn connect_behind(&self, header: &[u8]) -> io::Result<Connection> {
        Connection::open_behind(&self.address, self.tls.as_ref(), header)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, None)
    }

    #[track_caller]
    pub fn list(&self, path: &str) -> Reply {
        self.call("LIST", path, None)
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path, None)
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path, Some(&body))
    }

    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.try_call(method, path, body).unwrap_or_else(|e| panic!("{method} {path}: no answer: {e}"))
    }

    /// Ask; an error is one of the connection, and whether the request was carried out is then unknown.
    pub fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Reply> {
        let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        self.try_raw(method, &format!("/v1/{path}"), &[], &body)
    }

    /// Ask with a body as it is and further headers.
    pub fn try_raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Reply> {
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        audited::asked(&self.address, method, path, body);
        let mut all = headers.to_vec();
        if let Some(token) = &self.token {
            all.push(("X-Vault-Token", token));
        }
        if let Some(mut connection) = kept.take() {
            match exchange(&mut connection, method, path, &all, body) {
                Ok(reply) => {
                    *kept = stays(&reply).then_some(connection);
                    return Ok(reply);
                }
                // The server closed a connection that was idle; nothing was carried out.
                Err(_) if !connection.answered && matches!(method, "GET" | "LIST" | "HEAD") => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
                Err(e) => return Err(e),
            }
        }
        let mut connection = self.connect()?;
        let reply = exchange(&mut connection, method, path, &all, body)?;
        *kept = stays(&reply).then_some(connection);
        Ok(reply)
    }

    #[track_caller]
    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_raw(method, path, headers, body).unwrap_or_else(|e| panic!("{method} {path}: no answer: {e}"))
    }
}

fn exchange(
    connection: &mut Connection,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    connection.request(method, path, headers, body)?;
    let reply = connection.reply(method == "HEAD")?;
    audited::answered(&reply.body);
    Ok(reply)
}

fn stays(reply: &Reply) -> bool {
    reply.header("connection").is_none_or(|c| !c.eq_ignore_ascii_case("close"))
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; an empty one is null.
    #[track_caller]
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }

    /// The answer must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Reply {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The answer must be a failure with this status; its texts, joined.
    #[track_caller]
    pub fn refused(self, status: u16) -> String {
        let reply = self.expect(status);
        let json = reply.json();
        let errors = json["errors"].as_array().unwrap_or_else(|| panic!("no errors: {json}"));
        errors.iter().map(|e| e.as_str().unwrap_or("")).collect::<Vec<_>>().join("\n")
    }

    /// A member of the answer, by a JSON pointer.
    #[track_caller]
    pub fn at(&self, pointer: &str) -> Value {
        let json = self.json();
        json.pointer(pointer).cloned().unwrap_or_else(|| panic!("no {pointer} in {json}"))
    }

    /// A text of the answer, by a JSON pointer.
    #[track_caller]
    pub fn text_at(&self, pointer: &str) -> String {
        let value = self.at(pointer);
        value.as_str().unwrap_or_else(|| panic!("{pointer} is no text: {value}")).to_owned()
    }
}
