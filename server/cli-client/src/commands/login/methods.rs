//! The methods that `login` knows: how each turns its configuration into a login.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::oidc;
use crate::PROGRAM;
use crate::call::Call;
use crate::client::{Client, Error};
use crate::secret::{Auth, Secret};
use crate::token_file::Token;

/// What a method is given, by name; it takes out what it uses.
pub type Config = BTreeMap<String, String>;

/// A method, by the name of its type.
pub struct Method {
    pub name: &'static str,
    pub login: fn(&Call, &Client, &mut Config) -> Result<Option<Secret>, Trouble>,
    /// What it takes, for the help.
    takes: &'static str,
}

/// Why a login did not come about.
pub enum Trouble {
    Said(String),
    Client(Error),
}

const TOKEN: &str = "  token=<string>\n      The token. Without it, it is asked for on the terminal.";
const PASSWORD: &str = "  username=<string>\n      Who logs in.\n\n  password=<string>\n      The password. Without it, it is asked for on the terminal.";
const CERTIFICATE: &str = "  name=<string>\n      The role to log in by. Without it, any that the certificate fits.\n\n  The certificate is the one of -client-cert and -client-key.";
const JWT: &str = "  role=<string>\n      The role to log in by. Without it, the method's default.\n\n  jwt=<string>\n      The token of the other system. Without it, the login goes through a browser.\n\n  port=<string>, listenaddress=<string>, callbackhost=<string>, callbackport=<string>\n      Where the browser comes back to: 8250 on localhost.\n\n  skip_browser=<bool>\n      Only print where to go.";

/// Their names, for the shell to offer.
pub const NAMES: [&str; 7] = ["token", "userpass", "ldap", "radius", "cert", "oidc", "github"];

static METHODS: [Method; 7] = [
    Method { name: "token", login: by_token, takes: TOKEN },
    Method { name: "userpass", login: by_password, takes: PASSWORD },
    Method { name: "ldap", login: by_password, takes: PASSWORD },
    Method { name: "radius", login: by_password, takes: PASSWORD },
    Method { name: "cert", login: by_certificate, takes: CERTIFICATE },
    Method { name: "oidc", login: oidc::login, takes: JWT },
    Method { name: "github", login: by_github, takes: TOKEN },
];

/// The method of this name.
pub fn method(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|m| m.name == name)
}

/// How to log in by a method, for `auth help`.
pub fn usage(method: &Method) -> String {
    format!("Usage: {PROGRAM} login -method={} [CONFIG K=V...]\n\nConfiguration:\n\n{}", method.name, method.takes)
}

fn by_token(call: &Call, client: &Client, config: &mut Config) -> Result<Option<Secret>, Trouble> {
    let token = match config.remove("token") {
        Some(token) => token,
        None => asked(call, "Token").map_err(|why| {
            let hint = "a token is asked for on a terminal only; the argument - reads it from stdin";
            Trouble::Said(format!("{hint}: {why}"))
        })?,
    };
    let token = Token::new(token.trim());
    if token.is_empty() {
        return Err(Trouble::Said("a token must be given, it cannot be empty".to_string()));
    }
    let known = client.lookup(token.clone()).map_err(|e| match e {
        Error::Rehearsed(text) => Trouble::Client(Error::Rehearsed(text)),
        e => Trouble::Said(format!("error looking up token: {e}")),
    })?;
    Ok(known.map(|known| Secret::of_auth(auth_of(&token, &known))))
}

/// The login that a token's lookup amounts to.
fn auth_of(token: &Token, known: &Secret) -> Auth {
    let field = |name: &str| known.get(name).cloned().unwrap_or(Value::Null);
    let mut auth = Map::new();
    auth.insert("client_token".into(), token.reveal().into());
    auth.insert("accessor".into(), field("accessor"));
    let mut policies: Vec<Value> = field("policies").as_array().cloned().unwrap_or_default();
    auth.insert("token_policies".into(), policies.clone().into());
    let identity = field("identity_policies").as_array().cloned();
    policies.extend(identity.iter().flatten().cloned());
    auth.insert("policies".into(), policies.into());
    auth.insert("identity_policies".into(), identity.map_or(Value::Null, Value::from));
    auth.insert("metadata".into(), field("meta"));
    auth.insert("lease_duration".into(), field("ttl").as_i64().unwrap_or(0).into());
    auth.insert("renewable".into(), field("renewable").as_bool().unwrap_or(false).into());
    Auth(auth)
}

fn by_password(call: &Call, client: &Client, config: &mut Config) -> Result<Option<Secret>, Trouble> {
    let username = match config.remove("username") {
        Some(name) => name,
        None => match call.environment.text("USERNAME").or(call.environment.text("LDAP_USERNAME")) {
            Some(name) => name.to_string(),
            None => return Err(Trouble::Said("'username' must be specified".to_string())),
        },
    };
    let password = match config.remove("password") {
        Some(password) => password,
        None => asked(call, "Password").map_err(Trouble::Said)?,
    };
    let mount = config.get("mount").map_or("userpass", String::as_str);
    let path = format!("auth/{mount}/login/{username}");
    client.write(&path, &json!({ "password": password })).map_err(Trouble::Client)
}

fn by_certificate(_: &Call, client: &Client, config: &mut Config) -> Result<Option<Secret>, Trouble> {
    let name = config.remove("name");
    let mount = config.get("mount").map_or("cert", String::as_str);
    let body = name.map_or_else(|| json!({}), |name| json!({ "name": name }));
    client.write(&format!("auth/{mount}/login"), &body).map_err(Trouble::Client)
}

fn by_github(call: &Call, client: &Client, config: &mut Config) -> Result<Option<Secret>, Trouble> {
    let token = match config.remove("token") {
        Some(token) => token,
        None => asked(call, "GitHub Personal Access Token").map_err(Trouble::Said)?,
    };
    let mount = config.get("mount").map_or("github", String::as_str);
    client.write(&format!("auth/{mount}/login"), &json!({ "token": token })).map_err(Trouble::Client)
}
/// Asks the person at the terminal, unless that is forbidden.
fn asked(call: &Call, what: &str) -> Result<String, String> {
    if call.flags.bool("non-interactive") {
        return Err("it is missing, and -non-interactive forbids to ask for it".to_string());
    }
    let answer = call.console.ask_hidden(&format!("{what} (will be hidden): "));
    answer.map(|a| a.to_string()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_offers_every_method() {
        assert!(METHODS.iter().map(|m| m.name).eq(NAMES));
    }
}
