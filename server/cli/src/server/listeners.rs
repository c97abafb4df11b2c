//! Listeners as the configuration describes them.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use holdfast_config::{Config, Listener, TcpListener, TlsVersion, UnixListener};
use holdfast_core::OldRoutes;
use holdfast_hsm::account::{self, AccountError};
use holdfast_http::tls::{Certificates, TlsOptions};
use holdfast_http::{
    Address, CurrentHeaders, ForwardedFor, ListenerOptions, Owner, Proxies, Redact, ResponseHeaders, Scope,
};

/// A listener before it is bound.
pub struct Planned {
    pub address: Address,
    pub options: ListenerOptions,
    pub certificates: Option<Arc<Certificates>>,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Read the certificate files again when they change.
    pub auto_reload: bool,
}

pub fn plan(config: &Config) -> Result<Vec<Planned>, String> {
    config.listeners.iter().map(|l| one(config, l)).collect()
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let text = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    let mut found = text.to_socket_addrs().map_err(|e| format!("listener address {text}: {e}"))?;
    found.next().ok_or_else(|| format!("listener address {text} names no address"))
}

fn one(config: &Config, listener: &Listener) -> Result<Planned, String> {
    let base = ListenerOptions {
        max_request_bytes: config.max_request_size_bytes,
        max_request_duration: config.max_request_duration,
        ..ListenerOptions::default()
    };
    match listener {
        Listener::Unix(u) => Ok(Planned {
            address: Address::Unix { path: u.path.clone(), mode: u.socket_mode, owner: owner(u)? },
            options: ListenerOptions { old_routes: without_tokens(u, owner(u)?), ..base },
            certificates: None,
            tls: None,
            auto_reload: false,
        }),
        Listener::Tcp(t) => tcp(base, t),
    }
}

/// Losing every token is not the end: at a socket that only the server's own user (and root) can open, holders of shares
/// make a root token without one.
fn without_tokens(u: &UnixListener, owner: Owner) -> OldRoutes {
    let is_own = owner.user.is_none_or(|user| user == rustix::process::geteuid().as_raw());
    let is_alone = u.socket_mode.unwrap_or(SOCKET_MODE) & 0o077 == 0;
    OldRoutes { rekey: false, generate_root: is_own && is_alone }
}

/// Of a socket whose stanza says nothing.
const SOCKET_MODE: u32 = 0o600;

fn owner(u: &UnixListener) -> Result<Owner, String> {
    let of = |key: &str, e: AccountError| format!("listener {}: {key}: {e}", u.path.display());
    let user = u.socket_user.as_deref().map(account::user).transpose().map_err(|e| of("socket_user", e))?;
    let group = u.socket_group.as_deref().map(account::group).transpose().map_err(|e| of("socket_group", e))?;
    Ok(Owner { user: user.map(|u| u.id), group })
}

/// What a listener is asked for and would not do is refused, not passed over.
fn refuse_what_is_missing(t: &TcpListener) -> Result<(), String> {
    if t.metrics_only && t.disallow_metrics {
        return Err("listener: metrics_only and disallow_metrics together leave nothing to answer".into());
    }
    Ok(())
}

/// `custom_response_headers`, with a word about those that cannot be.
fn response_headers(t: &TcpListener) -> ResponseHeaders {
    let (headers, left_out) = ResponseHeaders::new(&t.custom_response_headers);
    for name in left_out {
        tracing::warn!(listener = t.address, header = name, "custom_response_headers: this header is the server's own");
    }
    headers
}

fn tcp(base: ListenerOptions, t: &TcpListener) -> Result<Planned, String> {
    refuse_what_is_missing(t)?;
    let options = ListenerOptions {
        max_request_bytes: t.max_request_size_bytes.unwrap_or(base.max_request_bytes),
        max_request_duration: t.max_request_duration.unwrap_or(base.max_request_duration),
        max_json_strings: t.max_request_json_strings,
        max_json_bytes: t.max_request_json_memory_bytes,
        read_header_timeout: t.http_read_header_timeout,
        read_timeout: t.http_read_timeout,
        idle_timeout: t.http_idle_timeout,
        require_request_header: t.require_request_header,
        unauthenticated_metrics: t.unauthenticated_metrics_access,
        unauthenticated_in_flight: t.unauthenticated_in_flight_access,
        old_routes: OldRoutes {
            rekey: !t.disable_unauthed_rekey_endpoints,
            generate_root: !t.disable_unauthed_generate_root_endpoints,
        },
        forwarded_for: ForwardedFor {
            authorized: t.forwarded_for_authorized.clone(),
            hop_skips: usize::try_from(t.forwarded_for_hop_skips).unwrap_or(usize::MAX),
            reject_not_authorized: t.forwarded_for_reject_not_authorized,
            reject_not_present: t.forwarded_for_reject_not_present,
        },
        proxies: Proxies { behavior: t.proxy_protocol, authorized: t.proxy_protocol_authorized.clone() },
        write_timeout: t.http_write_timeout,
        scope: Scope { metrics_only: t.metrics_only, disallow_metrics: t.disallow_metrics },
        redact: Redact {
            addresses: t.redact_addresses,
            cluster_name: t.redact_cluster_name,
            version: t.redact_version,
        },
        response_headers: CurrentHeaders::new(response_headers(t)),
        chroot_namespace: t.chroot_namespace.trim_matches('/').to_owned(),
    };
    let certificates = match &t.tls {
        None => None,
        Some(tls) => {
            let max = tls.max_version.unwrap_or(TlsVersion::Tls13);
            let options = TlsOptions {
                cert_file: tls.cert_file.clone(),
                key_file: tls.key_file.clone(),
                client_ca_file: tls.client_ca_file.clone(),
                require_client_cert: tls.require_and_verify_client_cert,
                disable_client_certs: tls.disable_client_certs,
                tls12: tls.min_version <= TlsVersion::Tls12,
                tls13: max >= TlsVersion::Tls13,
                cipher_suites: tls.cipher_suites.clone(),
            };
            Some(Certificates::load(options).map_err(|e| e.to_string())?)
        }
    };
    let tls = certificates.as_ref().map(|c| c.config()).transpose().map_err(|e| e.to_string())?;
    Ok(Planned {
        address: Address::Tcp(resolve(&t.address)?),
        options,
        certificates,
        tls,
        auto_reload: t.tls.as_ref().is_some_and(|t| t.auto_reload),
    })
}

/// What SIGHUP reads again of listeners: `custom_response_headers`. Their order in the configuration says which is which; one
/// whose address is another by now stays as it is.
pub fn follow_headers(planned: &[Planned], config: &Config) {
    for (planned, listener) in planned.iter().zip(&config.listeners) {
        if let Listener::Tcp(t) = listener
            && matches!(planned.address, Address::Tcp(was) if resolve(&t.address).is_ok_and(|now| now == was))
        {
            planned.options.response_headers.replace(response_headers(t));
        }
    }
}
