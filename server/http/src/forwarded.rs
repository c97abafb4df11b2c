//! `X-Forwarded-For`, as a listener is configured.

use std::net::{IpAddr, SocketAddr};

use holdfast_config::Network;

#[derive(Debug, Clone, Default)]
pub struct ForwardedFor {
    /// Proxies whose word counts; empty: the header is not looked at.
    pub authorized: Vec<Network>,
    pub hop_skips: usize,
    pub reject_not_authorized: bool,
    pub reject_not_present: bool,
}

impl ForwardedFor {
    /// The client's address, or why the request is refused.
    pub fn client(&self, peer: SocketAddr, header: Option<&str>) -> Result<SocketAddr, &'static str> {
        if self.authorized.is_empty() {
            return Ok(peer);
        }
        if !self.authorized.iter().any(|n| n.contains(peer.ip())) {
            return match self.reject_not_authorized {
                true => Err("client address not authorized for x-forwarded-for, rejecting connection"),
                false => Ok(peer),
            };
        }
        let Some(header) = header.filter(|h| !h.trim().is_empty()) else {
            return match self.reject_not_present {
                true => Err("missing x-forwarded-for header and configured to reject when not present"),
                false => Ok(peer),
            };
        };
        let hops: Vec<&str> = header.split(',').map(str::trim).collect();
        let Some(at) = hops.len().checked_sub(1 + self.hop_skips) else {
            return Err("malformed x-forwarded-for header: fewer hops than are to be skipped");
        };
        let ip: IpAddr = hops[at].parse().map_err(|_| "malformed x-forwarded-for header")?;
        Ok(SocketAddr::new(ip, peer.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_of_an_authorised_proxy_counts() {
        let f = ForwardedFor {
            authorized: vec![Network::parse("127.0.0.0/8").unwrap()],
            reject_not_authorized: true,
            reject_not_present: true,
            hop_skips: 0,
        };
        let proxy: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(f.client(proxy, Some("6.6.6.6, 10.0.0.5")).unwrap().ip().to_string(), "10.0.0.5");
        assert!(f.client(proxy, None).is_err());
        assert!(f.client("10.1.1.1:9".parse().unwrap(), Some("1.1.1.1")).is_err());
        assert!(f.client(proxy, Some("nonsense")).is_err());
        let skip = ForwardedFor { hop_skips: 1, ..f };
        assert_eq!(skip.client(proxy, Some("6.6.6.6, 10.0.0.5")).unwrap().ip().to_string(), "6.6.6.6");
        assert!(skip.client(proxy, Some("6.6.6.6")).is_err());
    }
}
