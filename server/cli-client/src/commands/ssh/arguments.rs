//! Whom a line of ssh arguments leads to.

use std::net::{IpAddr, ToSocketAddrs};

/// Options of ssh that take a value, in the word itself or as the next one.
const WITH_VALUE: &str = "BbcDEeFIiJLlmOopQRSWw";

/// User and host of a session.
pub struct Target {
    pub user: String,
    host: String,
}

impl Target {
    /// Finds `[USER@]HOST`, and `-l USER`, as ssh itself would.
    pub fn of(args: &[String], own_name: Option<&str>) -> Result<Target, String> {
        let mut user = None;
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let Some(letters) = word.strip_prefix('-').filter(|l| !l.is_empty()) else {
                let (named, host) = match word.strip_prefix("ssh://").unwrap_or(word).rsplit_once('@') {
                    Some((named, host)) => (Some(named.to_string()), host),
                    None => (None, word.as_str()),
                };
                let user = named.or(user).or_else(|| own_name.map(str::to_string));
                let user = user.ok_or("no user is named: write USER@HOST")?;
                return Ok(Target { user, host: host.to_string() });
            };
            let Some(at) = letters.find(|c| WITH_VALUE.contains(c)) else {
                continue;
            };
            let (letter, rest) = (letters.as_bytes()[at], &letters[at + 1..]);
            let value = if rest.is_empty() { words.next().map(String::as_str) } else { Some(rest) };
            if letter == b'l' {
                user = value.map(str::to_string);
            }
        }
        Err("no host is named: write USER@HOST".to_string())
    }

    /// The host's address, which the engine binds a password to.
    pub fn address(&self) -> Result<String, String> {
        let host = self.host.trim_matches(['[', ']']);
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(address.to_string());
        }
        let found = (host, 22).to_socket_addrs().ok().and_then(|mut all| all.next());
        found.map(|a| a.ip().to_string()).ok_or_else(|| format!("failed to look up the address of {host}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(line: &str) -> Option<(String, String)> {
        let args: Vec<String> = line.split(' ').map(str::to_string).collect();
        Target::of(&args, Some("me")).ok().map(|t| (t.user, t.host))
    }

    #[test]
    fn user_and_host_are_found_between_options() {
        let pair = |u: &str, h: &str| Some((u.to_string(), h.to_string()));
        assert_eq!(target("ann@host"), pair("ann", "host"));
        assert_eq!(target("host uptime"), pair("me", "host"));
        assert_eq!(target("-p 2222 -l bob host"), pair("bob", "host"));
        assert_eq!(target("-vp2222 -A ann@host"), pair("ann", "host"));
        assert_eq!(target("-p 22"), None);
    }
}
