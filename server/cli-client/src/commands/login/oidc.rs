//! `login -method=oidc`: through a browser, which the provider sends back to a port opened here; or
//! with `jwt=` by a token of the other system at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::methods::{Config, Trouble};
use crate::call::Call;
use crate::client::{Client, Request};
use crate::output::plain;
use crate::secret::Secret;

/// How long somebody may take at the provider.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How long one connection may take to say its request, and how long that may be.
const REQUEST_TIME: Duration = Duration::from_secs(5);
const REQUEST_MAX_BYTES: u64 = 16 << 10;
const POLL_WAIT: Duration = Duration::from_millis(100);
const CALLBACK_PATH: &str = "/oidc/callback";

pub fn login(call: &Call, client: &Client, config: &mut Config) -> Result<Option<Secret>, Trouble> {
    let mount = config.get("mount").map_or("oidc", String::as_str).to_string();
    let role = config.remove("role").unwrap_or_default();
    if let Some(jwt) = config.remove("jwt") {
        let body = json!({ "role": role, "jwt": jwt });
        return client.write(&format!("auth/{mount}/login"), &body).map_err(Trouble::Client);
    }
    let mut setting = |name: &str, default: &str| config.remove(name).unwrap_or_else(|| default.to_string());
    let port = setting("port", "8250");
    let address = setting("listenaddress", "localhost");
    let callback_host = setting("callbackhost", "localhost");
    let callback_port = setting("callbackport", &port);
    let callback_method = setting("callbackmethod", "http");
    let skip_browser = setting("skip_browser", "false") == "true" || call.flags.bool("non-interactive");

    let redirect = format!("{callback_method}://{callback_host}:{callback_port}{CALLBACK_PATH}");
    let nonce = nonce().map_err(Trouble::Said)?;
    let url = auth_url(client, &mount, &role, &redirect, &nonce)?;
    let listener = TcpListener::bind(format!("{address}:{port}")).map_err(|e| {
        Trouble::Said(format!("cannot listen on {address}:{port}, where the browser comes back to: {e}"))
    })?;
    call.console.warn(format_args!("Log in at your provider, at this address:\n\n    {url}\n"));
    if !skip_browser && !opened_in_browser(&url) {
        call.console.warn("No browser could be started; open the address in one yourself.");
    }
    call.console.warn("Waiting for the login to be done there ...\n");
    let answered = wait_for_browser(&listener).map_err(Trouble::Said)?;
    let mut request = Request::new("GET", format!("auth/{mount}{CALLBACK_PATH}"));
    for name in ["state", "code", "id_token"] {
        if let Some((_, value)) = answered.parameters.iter().find(|(n, _)| n == name) {
            request = request.query(name, value.as_str());
        }
    }
    let secret = client.secret(request.query("client_nonce", nonce));
    answered.say(secret.is_ok());
    secret.map_err(Trouble::Client)
}

fn nonce() -> Result<String, String> {
    let mut bytes = [0u8; 20];
    getrandom::fill(&mut bytes).map_err(|e| format!("no randomness: {e}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn auth_url(client: &Client, mount: &str, role: &str, redirect: &str, nonce: &str) -> Result<String, Trouble> {
    let body = json!({ "role": role, "redirect_uri": redirect, "client_nonce": nonce });
    let secret = client.write(&format!("auth/{mount}/oidc/auth_url"), &body).map_err(Trouble::Client)?;
    let url = secret.as_ref().and_then(|s| s.get("auth_url")).filter(|u| !u.is_null()).map(plain);
    url.filter(|u: &String| !u.is_empty()).ok_or_else(|| {
        Trouble::Said(format!(
            "the server gives no address to log in at for role {role:?} and the redirect {redirect}; the role may not allow it"
        ))
    })
}

fn opened_in_browser(url: &str) -> bool {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let started =
        Process::new(opener).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    started.is_ok()
}

/// What the browser brought, and the connection that it waits on.
struct Answered {
    parameters: Vec<(String, String)>,
    connection: TcpStream,
}

impl Answered {
    /// Tells the person in the browser how it went; that it is seen is not needed.
    fn say(mut self, went_well: bool) {
        let text = if went_well {
            "You are logged in. This page can be closed."
        } else {
            "The login failed. The terminal says why."
        };
        let _ = respond(&mut self.connection, "200 OK", text);
    }
}

fn wait_for_browser(listener: &TcpListener) -> Result<Answered, String> {
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match listener.accept() {
            Ok((connection, _)) => {
                if let Some(answered) = answered(connection) {
                    return Ok(answered);
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::thread::sleep(POLL_WAIT),
            Err(e) => return Err(e.to_string()),
        }
    }
    Err("nobody came back from the provider within five minutes".to_string())
}

/// The parameters of a call to the callback; anything else is sent away.
fn answered(mut connection: TcpStream) -> Option<Answered> {
    connection.set_nonblocking(false).ok()?;
    connection.set_read_timeout(Some(REQUEST_TIME)).ok()?;
    connection.set_write_timeout(Some(REQUEST_TIME)).ok()?;
    let mut lines = BufReader::new((&mut connection).take(REQUEST_MAX_BYTES)).lines();
    let first = lines.next()?.ok()?;
    // The rest is read too: a connection closed on unread bytes is cut off.
    while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
    drop(lines);
    match parameters(&first) {
        Some(parameters) => Some(Answered { parameters, connection }),
        None => {
            let _ = respond(&mut connection, "404 Not Found", "There is nothing here.");
            None
        }
    }
}

fn respond(connection: &mut TcpStream, status: &str, text: &str) -> std::io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// The query of `GET /oidc/callback?… HTTP/1.1`, if it has a state.
fn parameters(request_line: &str) -> Option<Vec<(String, String)>> {
    let mut words = request_line.split(' ');
    let target = words.next().filter(|method| *method == "GET").and(words.next())?;
    let query = target.strip_prefix(CALLBACK_PATH)?.strip_prefix('?')?;
    let pairs: Vec<_> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (unescaped(name), unescaped(value)))
        .collect();
    pairs.iter().any(|(name, _)| name == "state").then_some(pairs)
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let hex =
            behind.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        let (byte, behind) = match (first, hex) {
            (b'%', Some(byte)) => (byte, &behind[2..]),
            (b'+', _) => (b' ', behind),
            (byte, _) => (byte, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_with_a_state_to_the_callback_counts() {
        let pairs = parameters("GET /oidc/callback?state=st_1&code=a%2Fb+c HTTP/1.1").unwrap();
        assert_eq!(pairs, [("state".to_string(), "st_1".to_string()), ("code".to_string(), "a/b c".to_string())]);
        assert!(parameters("GET /favicon.ico HTTP/1.1").is_none());
        assert!(parameters("GET /oidc/callback?code=x HTTP/1.1").is_none());
        assert!(parameters("POST /oidc/callback?state=x HTTP/1.1").is_none());
        assert!(parameters("").is_none());
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescaped("a%2"), "a%2");
        assert_eq!(unescaped("%zz%41"), "%zzA");
    }
}
