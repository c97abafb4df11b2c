//! How a client is set up: flags over environment over defaults.

use std::time::Duration;

use super::{Address, Error, Rehearse, Request, tls};
use crate::PROGRAM;
use crate::duration::Duration as Span;
use crate::environment::Environment;
use crate::flags::{Flags, parse_bool};
use crate::token_file::{self, Token};

const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";
/// The library of the reference tries twice more; its commands do so only where the environment says.
const DEFAULT_RETRIES: u32 = 0;
const DEFAULT_TIMEOUT_S: u64 = 60;
/// What `sys/wrapping/wrap` is asked for when no time is given.
const WRAP_DEFAULT: &str = "5m";

#[derive(Clone)]
pub struct Settings {
    pub address: Address,
    pub token: Option<Token>,
    /// Empty, or with a slash behind.
    pub namespace: String,
    pub headers: Vec<(String, String)>,
    pub wrap_ttl: Option<String>,
    pub wrap_by_default: bool,
    pub max_retries: u32,
    pub timeout: Duration,
    pub follow_redirect: bool,
    pub rehearse: Rehearse,
    pub tls: std::sync::Arc<tls::TlsSettings>,
}

impl Settings {
    /// `args` are looked at for the two flags that count even behind the arguments.
    pub fn of(flags: &Flags, args: &[String], environment: &Environment) -> Result<Settings, String> {
        let tls = std::sync::Arc::new(tls::TlsSettings::of(flags, environment)?);
        let either = |flag: &str, setting: &str| flags.text(flag).or(environment.text(setting));
        let address = flags
            .text("agent-address")
            .or(flags.text("address"))
            .or(environment.text("AGENT_ADDR"))
            .or(environment.text("ADDR"))
            .unwrap_or(DEFAULT_ADDRESS);
        let wrap_ttl = match flags.duration("wrap-ttl") {
            Some(ttl) => Some(ttl.long()),
            None => environment.text("WRAP_TTL").map(str::to_string),
        };
        let asked = |name: &str| {
            flags.bool(name) || args.iter().any(|a| a.trim_start_matches('-') == name && a.starts_with('-'))
        };
        let rehearse = match (asked("output-curl-string"), asked("output-policy")) {
            (true, _) => Rehearse::Curl,
            (_, true) => Rehearse::Policy,
            _ => Rehearse::No,
        };
        rate_limit(environment)?;
        Ok(Settings {
            address: Address::parse(address),
            token: token_file::current(environment).map_err(|e| format!("failed to read the token file: {e}"))?,
            namespace: namespace(either("namespace", "NAMESPACE").unwrap_or_default()),
            headers: headers(flags, environment)?,
            wrap_ttl,
            wrap_by_default: true,
            max_retries: max_retries(environment)?,
            timeout: timeout(environment)?,
            follow_redirect: !(flags.bool("disable-redirects") || switch(environment, "DISABLE_REDIRECTS")?),
            rehearse,
            tls,
        })
    }

    /// All headers of a request, in a fixed order.
    pub fn headers_of(&self, request: &Request) -> Result<Vec<(String, String)>, Error> {
        let mut headers = vec![("X-Vault-Request".to_string(), "true".to_string())];
        if let Some(token) = self.token.as_ref().filter(|t| !t.is_empty()) {
            if token.reveal().chars().any(|c| c.is_control() || !c.is_ascii()) {
                let why = format!("configured {PROGRAM} token contains non-printable characters and cannot be used");
                return Err(Error::Unusable(why));
            }
            headers.push(("X-Vault-Token".to_string(), token.reveal().to_string()));
        }
        headers.extend(self.headers_but_token(request));
        Ok(headers)
    }

    /// The headers that hold no secret of the client's own.
    pub fn headers_but_token(&self, request: &Request) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        let mut add = |name: &str, value: &str| headers.push((name.to_string(), value.to_string()));
        if !self.namespace.is_empty() {
            add("X-Vault-Namespace", &self.namespace);
        }
        let wraps_itself = self.wrap_by_default && request.path == "sys/wrapping/wrap";
        if let Some(ttl) = self.wrap_ttl.as_deref().or(wraps_itself.then_some(WRAP_DEFAULT)) {
            add("X-Vault-Wrap-TTL", ttl);
        }
        if let Some(kind) = request.content_type {
            add("Content-Type", kind);
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        headers
    }
}

fn namespace(text: &str) -> String {
    match text.trim_matches('/') {
        "" | "root" => String::new(),
        path => format!("{path}/"),
    }
}

fn headers(flags: &Flags, environment: &Environment) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    for (name, value) in flags.pairs("header") {
        if name.to_lowercase().starts_with("x-vault-") {
            return Err(format!("failed to setup Headers[{name}]: names that begin with 'X-Vault-' are reserved"));
        }
        let fits = http::HeaderName::try_from(&name).is_ok() && http::HeaderValue::try_from(&value).is_ok();
        if !fits {
            return Err(format!("failed to setup Headers[{name}]: not a name and value that HTTP allows"));
        }
        headers.push((name, value));
    }
    let mut factors = flags.list("mfa");
    if factors.is_empty() {
        factors.extend(environment.text("MFA").map(str::to_string));
    }
    headers.extend(factors.into_iter().map(|f| ("X-Vault-MFA".to_string(), f)));
    if flags.bool("policy-override") {
        headers.push(("X-Vault-Policy-Override".to_string(), "true".to_string()));
    }
    Ok(headers)
}

fn max_retries(environment: &Environment) -> Result<u32, String> {
    match environment.text("MAX_RETRIES") {
        None => Ok(DEFAULT_RETRIES),
        Some(text) => text
            .parse()
            .map_err(|_| format!("failed to read environment: strconv.ParseInt: parsing {text:?}: invalid syntax")),
    }
}

fn timeout(environment: &Environment) -> Result<Duration, String> {
    let Some(text) = environment.text("CLIENT_TIMEOUT") else {
        return Ok(Duration::from_secs(DEFAULT_TIMEOUT_S));
    };
    match Span::parse(text).map(Span::as_secs) {
        Ok(seconds @ 0..) => Ok(Duration::from_secs(seconds as u64)),
        _ => Err(unparsed(environment, "CLIENT_TIMEOUT")),
    }
}

/// Checked only: one command sends too few requests to limit their rate.
fn rate_limit(environment: &Environment) -> Result<(), String> {
    let Some(text) = environment.text("RATE_LIMIT") else {
        return Ok(());
    };
    let (rate, burst) = text.split_once(':').unwrap_or((text, "1"));
    match (rate.parse::<f64>(), burst.parse::<u32>()) {
        (Ok(_), Ok(_)) => Ok(()),
        _ => Err(unparsed(environment, "RATE_LIMIT")),
    }
}

/// A boolean setting of the environment.
pub fn switch(environment: &Environment, name: &str) -> Result<bool, String> {
    match environment.text(name) {
        None => Ok(false),
        Some(text) => parse_bool(text).ok_or_else(|| unparsed(environment, name)),
    }
}

fn unparsed(environment: &Environment, name: &str) -> String {
    let variable = environment.setting(name).map_or_else(|| name.to_string(), |s| s.variable);
    format!("failed to read environment: could not parse {variable}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::of(&Flags::default(), &[], &Environment::of(pairs))
    }

    #[test]
    fn what_does_not_parse_is_refused() {
        for (name, value) in [
            ("VAULT_SKIP_VERIFY", "maybe"),
            ("BAO_CLIENT_TIMEOUT", "bad"),
            ("HOLDFAST_MAX_RETRIES", "x"),
            ("VAULT_RATE_LIMIT", "x"),
            ("VAULT_CACERT", "/nonexistent"),
            ("VAULT_CAPATH", "/nonexistent"),
            ("VAULT_CLIENT_CERT", "/nonexistent"),
        ] {
            assert!(
                settings(&[(name, value)]).err().is_some_and(|e| e.starts_with("failed to read environment")),
                "{name}"
            );
        }
    }

    #[test]
    fn an_agent_comes_before_the_server() {
        let s = settings(&[("VAULT_ADDR", "http://a"), ("VAULT_AGENT_ADDR", "http://b")]).ok().unwrap();
        assert_eq!(s.address.to_string(), "http://b");
        assert_eq!(settings(&[]).ok().unwrap().address.to_string(), DEFAULT_ADDRESS);
    }

    #[test]
    fn a_namespace_ends_in_a_slash_and_root_is_none() {
        assert_eq!(namespace("team"), "team/");
        assert_eq!(namespace("a/b/"), "a/b/");
        assert_eq!(namespace("root"), "");
    }
}
