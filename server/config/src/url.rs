//! Addresses under which the server is reached.

/// Whether a text is `http(s)://HOST[:PORT]` with an optional path.
pub(crate) fn is_http_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or(text.strip_prefix("http://")) else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains(['@', ' ']) {
        return false;
    }
    match authority.rsplit_once(':') {
        // An address of IPv6 has colons within its brackets.
        Some((host, port)) if !port.ends_with(']') => is_host(host) && port.parse::<u16>().is_ok(),
        _ => is_host(authority),
    }
}

/// Whether a text is `HOST:PORT`; no host means all addresses.
pub(crate) fn is_listen_address(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) => (host.is_empty() || is_host(host)) && port.parse::<u16>().is_ok(),
        None => false,
    }
}

fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').unwrap_or_default();
        let address = inner.split('%').next().unwrap_or_default();
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

#[cfg(test)]
mod tests {
    use super::{is_http_url, is_listen_address};

    #[test]
    fn urls_and_listen_addresses_are_told_from_other_texts() {
        for url in ["http://127.0.0.1:8200", "https://a.b", "https://[::1]:8200/x", "https://[::1]"] {
            assert!(is_http_url(url), "{url}");
        }
        for text in ["", "127.0.0.1:8200", "ftp://a", "https://", "https://a:x", "https://a:99999", "https://u@a"] {
            assert!(!is_http_url(text), "{text}");
        }
        for address in ["127.0.0.1:8200", ":8200", "[::]:8200", "a.b:0", "[fe80::1%eth0]:1"] {
            assert!(is_listen_address(address), "{address}");
        }
        for text in ["", "127.0.0.1", "::1:8200", "a b:1", "a:99999", "{{ GetPrivateIP }}:8200"] {
            assert!(!is_listen_address(text), "{text}");
        }
    }
}
