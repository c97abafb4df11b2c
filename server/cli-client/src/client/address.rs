//! Where the server is, and the URLs of its paths.

use std::fmt;

/// An address as it was given: `https://host:port`, `http://…`, `unix:///path`, with or without a
/// path before `/v1`.
#[derive(Clone)]
pub struct Address {
    text: String,
    scheme: String,
    authority: String,
    base: String,
}

/// One URL of the API.
#[derive(Clone)]
pub struct Url {
    pub scheme: String,
    pub authority: String,
    /// Path and query, escaped.
    pub target: String,
}

impl Address {
    pub fn parse(text: &str) -> Address {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_lowercase(), rest),
            None => (String::new(), text),
        };
        let (authority, base) = match scheme.as_str() {
            "unix" => (rest.to_string(), String::new()),
            "" => (String::new(), rest.to_string()),
            _ => match rest.split_once('/') {
                Some((authority, base)) => (authority.to_string(), format!("/{base}")),
                None => (rest.to_string(), String::new()),
            },
        };
        Address { text: text.to_string(), scheme, authority, base }
    }

    /// The URL of an API path. The path is cleaned of `.`, `..` and doubled slashes.
    pub fn url(&self, path: &str, query: &[(String, String)]) -> Url {
        let joined = format!("{}/v1/{path}", self.base);
        let rooted = !self.scheme.is_empty();
        let mut target = escaped_path(&cleaned(&joined, rooted));
        if !query.is_empty() {
            let mut pairs: Vec<String> =
                query.iter().map(|(k, v)| format!("{}={}", escaped_query(k), escaped_query(v))).collect();
            pairs.sort();
            target.push('?');
            target.push_str(&pairs.join("&"));
        }
        Url { scheme: self.scheme.clone(), authority: self.authority.clone(), target }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    pub fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// Host and port of a TCP address.
    pub fn host_and_port(&self) -> (&str, u16) {
        let default = if self.is_tls() { 443 } else { 80 };
        let authority = self.authority.rsplit('@').next().unwrap_or_default();
        match authority.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                (host.trim_matches(['[', ']']), port.parse().unwrap_or(default))
            }
            _ => (authority.trim_matches(['[', ']']), default),
        }
    }

    /// Where a redirect's `Location` leads from here.
    pub fn follow(&self, location: &str) -> Option<Url> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(Url { target: location.to_string(), ..self.clone() });
        }
        let (scheme, rest) = location.split_once("://")?;
        let (authority, target) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, "/"),
        };
        Some(Url { scheme: scheme.to_lowercase(), authority: authority.to_string(), target: target.to_string() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme.as_str() {
            "" => f.write_str(&self.target),
            "unix" => write!(f, "http://localhost{}", self.target),
            scheme => write!(f, "{scheme}://{}{}", self.authority, self.target),
        }
    }
}

/// `a/./b//c/../d/` as `a/b/d`.
fn cleaned(path: &str, rooted: bool) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let root = if rooted { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

fn escaped_path(path: &str) -> String {
    escaped(path, b"-_.~$&+,/:;=@", false)
}

fn escaped_query(text: &str) -> String {
    escaped(text, b"-_.~", true)
}

fn escaped(text: &str, kept: &[u8], plus_for_blank: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' if plus_for_blank => out.push('+'),
            b if b.is_ascii_alphanumeric() || kept.contains(&b) => out.push(b as char),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(address: &str, path: &str) -> String {
        Address::parse(address).url(path, &[]).to_string()
    }

    #[test]
    fn paths_are_cleaned_and_escaped() {
        assert_eq!(url("http://h:1", "secret/../x/"), "http://h:1/v1/x");
        assert_eq!(url("http://h:1/", "a b/c%41"), "http://h:1/v1/a%20b/c%2541");
        assert_eq!(url("https://h/v1", "a"), "https://h/v1/v1/a");
        assert_eq!(url("nonsense", "sys/seal-status"), "nonsense/v1/sys/seal-status");
        assert_eq!(url("unix:///run/s", "a"), "http://localhost/v1/a");
    }

    #[test]
    fn a_query_is_in_order_and_escaped() {
        let query = [("list".to_string(), "true".to_string()), ("after".to_string(), "a b&".to_string())];
        assert_eq!(Address::parse("http://h").url("p", &query).to_string(), "http://h/v1/p?after=a+b%26&list=true");
    }

    #[test]
    fn ports_have_defaults_and_brackets_are_taken_off() {
        let pair = |a: &str| {
            let url = Address::parse(a).url("x", &[]);
            let (host, port) = url.host_and_port();
            (host.to_string(), port)
        };
        assert_eq!(pair("https://h"), ("h".to_string(), 443));
        assert_eq!(pair("http://[::1]:8200"), ("::1".to_string(), 8200));
        assert_eq!(pair("http://[::1]"), ("::1".to_string(), 80));
    }

    #[test]
    fn a_redirect_may_name_a_host_or_only_a_path() {
        let here = Address::parse("https://a:1").url("x", &[]);
        assert_eq!(here.follow("/v1/y?z=1").unwrap().to_string(), "https://a:1/v1/y?z=1");
        assert_eq!(here.follow("http://b:2/v1/y").unwrap().to_string(), "http://b:2/v1/y");
        assert!(here.follow("y").is_none());
    }
}
