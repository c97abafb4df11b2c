//! `listener "tcp"`, and what listeners have in common.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_hcl::Block;

use crate::stanza::Stanza;
use crate::url::is_listen_address;
use crate::{ConfigError, ConfigErrorKind, Network, ResponseHeaders, UnixListener, Warning, headers};

/// Where the server listens.
#[derive(Clone, Debug, PartialEq)]
pub enum Listener {
    /// `listener "tcp"`
    Tcp(Box<TcpListener>),
    /// `listener "unix"`
    Unix(UnixListener),
}

/// `listener "tcp"`: an address, TLS, whom to believe, and bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpListener {
    /// `HOST:PORT`; no host means all addresses.
    pub address: String,
    /// `HOST:PORT` for the other nodes; `None`: the port behind `address`'s.
    pub cluster_address: Option<String>,
    /// TLS; `None` with `tls_disable`.
    pub tls: Option<TlsSettings>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// From whom a PROXY header is believed.
    pub proxy_protocol_authorized: Vec<Network>,
    /// From whom `X-Forwarded-For` is believed; empty: the header is not read.
    pub forwarded_for_authorized: Vec<Network>,
    /// How many hops at the end of `X-Forwarded-For` are passed over.
    pub forwarded_for_hop_skips: u64,
    /// Refuse a request with the header from somebody else.
    pub forwarded_for_reject_not_authorized: bool,
    /// Refuse a request without the header.
    pub forwarded_for_reject_not_present: bool,
    /// The largest body in bytes; `None`: the server's `max_request_size`.
    pub max_request_size_bytes: Option<u64>,
    /// How long a request may take; `None`: the server's.
    pub max_request_duration: Option<Duration>,
    /// The most memory that a body's JSON may need, in bytes.
    pub max_request_json_memory_bytes: u64,
    /// The most strings in a body's JSON.
    pub max_request_json_strings: u64,
    /// Refuse requests without `X-Vault-Request: true`.
    pub require_request_header: bool,
    /// How long reading a whole request may take.
    pub http_read_timeout: Duration,
    /// How long reading its head may take.
    pub http_read_header_timeout: Duration,
    /// How long writing an answer may take; `None`: no bound of its own.
    pub http_write_timeout: Option<Duration>,
    /// How long a connection may stay without a request.
    pub http_idle_timeout: Duration,
    /// `sys/metrics` needs no token here.
    pub unauthenticated_metrics_access: bool,
    /// This listener answers `sys/metrics` only.
    pub metrics_only: bool,
    /// This listener does not answer `sys/metrics`.
    pub disallow_metrics: bool,
    /// `sys/pprof` needs no token here.
    pub unauthenticated_profiling_access: bool,
    /// `sys/in-flight-req` needs no token here.
    pub unauthenticated_in_flight_access: bool,
    /// Headers added to answers.
    pub custom_response_headers: Vec<ResponseHeaders>,
    /// `sys/rekey` without a token is refused.
    pub disable_unauthed_rekey_endpoints: bool,
    /// `sys/generate-root` without a token is refused.
    pub disable_unauthed_generate_root_endpoints: bool,
    /// The namespace that is the root for who comes here; empty: none.
    pub chroot_namespace: String,
    /// Addresses are left out of unauthenticated answers.
    pub redact_addresses: bool,
    /// The cluster's name is left out of unauthenticated answers.
    pub redact_cluster_name: bool,
    /// The version is left out of unauthenticated answers.
    pub redact_version: bool,
}

/// The TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// The certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
    /// The CAs of client certificates, PEM; `None`: the system's.
    pub client_ca_file: Option<PathBuf>,
    /// The oldest version.
    pub min_version: TlsVersion,
    /// The newest version; `None`: the newest that exists.
    pub max_version: Option<TlsVersion>,
    /// Names of cipher suites for TLS 1.2; empty: the good ones.
    pub cipher_suites: Vec<String>,
    /// A client must show a certificate that one of the CAs signed.
    pub require_and_verify_client_cert: bool,
    /// Clients are not asked for certificates.
    pub disable_client_certs: bool,
    /// The files are read again when they change.
    pub auto_reload: bool,
}

/// A version of TLS. Older ones are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// What is made of a PROXY header at the start of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ProxyProtocol {
    /// None is expected.
    #[default]
    Off,
    /// It counts, whoever sends it.
    UseAlways,
    /// It counts from those authorized, and is passed over from others.
    AllowAuthorized,
    /// From others than those authorized the connection is refused.
    DenyUnauthorized,
}

impl Default for TcpListener {
    fn default() -> TcpListener {
        TcpListener {
            address: "127.0.0.1:8200".to_owned(),
            cluster_address: None,
            tls: None,
            proxy_protocol: ProxyProtocol::Off,
            proxy_protocol_authorized: Vec::new(),
            forwarded_for_authorized: Vec::new(),
            forwarded_for_hop_skips: 0,
            forwarded_for_reject_not_authorized: true,
            forwarded_for_reject_not_present: true,
            max_request_size_bytes: None,
            max_request_duration: None,
            max_request_json_memory_bytes: 33_816_576,
            max_request_json_strings: 1000,
            require_request_header: false,
            http_read_timeout: Duration::from_secs(30),
            http_read_header_timeout: Duration::from_secs(10),
            http_write_timeout: None,
            http_idle_timeout: Duration::from_secs(300),
            unauthenticated_metrics_access: false,
            metrics_only: false,
            disallow_metrics: false,
            unauthenticated_profiling_access: false,
            unauthenticated_in_flight_access: false,
            custom_response_headers: Vec::new(),
            disable_unauthed_rekey_endpoints: true,
            disable_unauthed_generate_root_endpoints: true,
            chroot_namespace: String::new(),
            redact_addresses: false,
            redact_cluster_name: false,
            redact_version: false,
        }
    }
}

/// Reads one `listener` block.
pub(crate) fn read(top: &Stanza<'_>, block: &Block<'_>, warnings: &mut Vec<Warning>) -> Result<Listener, ConfigError> {
    let mut stanza = top.inner("listener", block);
    let listener = match block.label(0) {
        "tcp" => Listener::Tcp(Box::new(tcp(&mut stanza, warnings)?)),
        "unix" => Listener::Unix(crate::listener_unix::read(&mut stanza)?),
        other => {
            let kind = ConfigErrorKind::NotOffered {
                what: "listener",
                name: other.to_owned(),
                offered: "tcp, unix".to_owned(),
            };
            return Err(top.error(block.labels[0].position, kind));
        }
    };
    stanza.finish(warnings);
    Ok(listener)
}

fn tcp(s: &mut Stanza<'_>, warnings: &mut Vec<Warning>) -> Result<TcpListener, ConfigError> {
    let mut tcp = TcpListener::default();
    if let Some(address) = listen_address(s, "address")? {
        tcp.address = address;
    }
    tcp.cluster_address = listen_address(s, "cluster_address")?;
    tcp.tls = tls(s, warnings)?;
    read_proxies(s, &mut tcp)?;
    read_bounds(s, &mut tcp)?;
    read_access(s, &mut tcp, warnings)?;
    tcp.custom_response_headers = headers::read(s, warnings)?;
    s.ignored(&["proxy_api", "agent_api", "role"], "it is for the agent and the proxy", warnings);
    Ok(tcp)
}

fn tls(s: &mut Stanza<'_>, warnings: &mut Vec<Warning>) -> Result<Option<TlsSettings>, ConfigError> {
    let versions = [("tls12", TlsVersion::Tls12), ("tls13", TlsVersion::Tls13)];
    let disabled = s.bool("tls_disable")?.unwrap_or(false);
    let cert_file = s.path("tls_cert_file")?;
    let key_file = s.path("tls_key_file")?;
    let mut tls = TlsSettings {
        client_ca_file: s.path("tls_client_ca_file")?,
        min_version: s.choice("tls_min_version", &versions)?.unwrap_or_default(),
        max_version: s.choice("tls_max_version", &versions)?,
        cipher_suites: s.strings("tls_cipher_suites")?.unwrap_or_default(),
        require_and_verify_client_cert: s.bool("tls_require_and_verify_client_cert")?.unwrap_or(false),
        disable_client_certs: s.bool("tls_disable_client_certs")?.unwrap_or(false),
        auto_reload: s.bool("tls_auto_reload")?.unwrap_or(false),
        ..TlsSettings::default()
    };
    s.ignored(&["tls_prefer_server_cipher_suites"], "the server's order always counts", warnings);
    s.ignored(
        &[
            "tls_acme_ca_directory",
            "tls_acme_ca_root",
            "tls_acme_cache_path",
            "tls_acme_disable_alpn_challenge",
            "tls_acme_disable_http_challenge",
            "tls_acme_domains",
            "tls_acme_eab_key_id",
            "tls_acme_eab_mac_key",
            "tls_acme_email",
            "tls_acme_key_type",
            "tls_acme_test_ca_directory",
        ],
        "certificates are not fetched by ACME; set tls_cert_file and tls_key_file",
        warnings,
    );
    if tls.max_version.is_some_and(|max| max < tls.min_version) {
        let text = "tls_max_version is older than tls_min_version; no client could connect";
        return Err(s.at("tls_max_version", ConfigErrorKind::Conflict(text.to_owned())));
    }
    if tls.require_and_verify_client_cert && tls.disable_client_certs {
        return Err(both(s, "tls_require_and_verify_client_cert", "tls_disable_client_certs"));
    }
    if disabled {
        return Ok(None);
    }
    let next = "set tls_cert_file and tls_key_file, or tls_disable = true where nobody can listen in";
    tls.cert_file = cert_file.ok_or_else(|| s.missing("tls_cert_file", next))?;
    tls.key_file = key_file.ok_or_else(|| s.missing("tls_key_file", next))?;
    Ok(Some(tls))
}

fn read_proxies(s: &mut Stanza<'_>, tcp: &mut TcpListener) -> Result<(), ConfigError> {
    let behaviors = [
        ("use_always", ProxyProtocol::UseAlways),
        ("allow_authorized", ProxyProtocol::AllowAuthorized),
        ("deny_unauthorized", ProxyProtocol::DenyUnauthorized),
    ];
    tcp.proxy_protocol = s.choice("proxy_protocol_behavior", &behaviors)?.unwrap_or_default();
    tcp.proxy_protocol_authorized = networks(s, "proxy_protocol_authorized_addrs")?;
    let asks = matches!(tcp.proxy_protocol, ProxyProtocol::AllowAuthorized | ProxyProtocol::DenyUnauthorized);
    if asks && tcp.proxy_protocol_authorized.is_empty() {
        let next = "name the addresses of your load balancers";
        return Err(s.missing("proxy_protocol_authorized_addrs", next));
    }
    tcp.forwarded_for_authorized = networks(s, "x_forwarded_for_authorized_addrs")?;
    set(&mut tcp.forwarded_for_hop_skips, s.number("x_forwarded_for_hop_skips")?);
    set(&mut tcp.forwarded_for_reject_not_authorized, s.bool("x_forwarded_for_reject_not_authorized")?);
    set(&mut tcp.forwarded_for_reject_not_present, s.bool("x_forwarded_for_reject_not_present")?);
    Ok(())
}

fn read_bounds(s: &mut Stanza<'_>, tcp: &mut TcpListener) -> Result<(), ConfigError> {
    tcp.max_request_size_bytes = s.size("max_request_size")?;
    tcp.max_request_duration = positive(s, "max_request_duration")?;
    set(&mut tcp.max_request_json_memory_bytes, s.size("max_request_json_memory")?);
    set(&mut tcp.max_request_json_strings, s.size("max_request_json_strings")?);
    set(&mut tcp.http_read_timeout, positive(s, "http_read_timeout")?);
    set(&mut tcp.http_read_header_timeout, positive(s, "http_read_header_timeout")?);
    tcp.http_write_timeout = s.duration("http_write_timeout")?.filter(|d| !d.is_zero());
    set(&mut tcp.http_idle_timeout, positive(s, "http_idle_timeout")?);
    Ok(())
}

fn read_access(s: &mut Stanza<'_>, tcp: &mut TcpListener, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    set(&mut tcp.require_request_header, s.bool("require_request_header")?);
    set(&mut tcp.disable_unauthed_rekey_endpoints, s.bool("disable_unauthed_rekey_endpoints")?);
    set(&mut tcp.disable_unauthed_generate_root_endpoints, s.bool("disable_unauthed_generate_root_endpoints")?);
    set(&mut tcp.chroot_namespace, s.text("chroot_namespace")?);
    set(&mut tcp.redact_addresses, s.bool("redact_addresses")?);
    set(&mut tcp.redact_cluster_name, s.bool("redact_cluster_name")?);
    set(&mut tcp.redact_version, s.bool("redact_version")?);
    if let Some(mut telemetry) = s.block("telemetry")? {
        let access = telemetry.bool("unauthenticated_metrics_access")?;
        set(&mut tcp.unauthenticated_metrics_access, access);
        set(&mut tcp.metrics_only, telemetry.bool("metrics_only")?);
        set(&mut tcp.disallow_metrics, telemetry.bool("disallow_metrics")?);
        telemetry.finish(warnings);
    }
    if let Some(mut profiling) = s.block("profiling")? {
        let access = profiling.bool("unauthenticated_pprof_access")?;
        set(&mut tcp.unauthenticated_profiling_access, access);
        profiling.finish(warnings);
    }
    if let Some(mut in_flight) = s.block("inflight_requests_logging")? {
        let access = in_flight.bool("unauthenticated_in_flight_requests_access")?;
        set(&mut tcp.unauthenticated_in_flight_access, access);
        in_flight.finish(warnings);
    }
    Ok(())
}

fn listen_address(s: &mut Stanza<'_>, key: &'static str) -> Result<Option<String>, ConfigError> {
    match s.text(key)? {
        Some(text) if !is_listen_address(&text) => {
            Err(s.wrong(key, &text, "HOST:PORT, as in \"0.0.0.0:8200\" or \"[::]:8200\""))
        }
        address => Ok(address),
    }
}

fn networks(s: &mut Stanza<'_>, key: &'static str) -> Result<Vec<Network>, ConfigError> {
    let texts = s.strings(key)?.unwrap_or_default();
    let network = |text: &String| {
        Network::parse(text).ok_or_else(|| s.wrong(key, text, "an address or network, as in \"10.0.0.0/8\""))
    };
    texts.iter().map(network).collect()
}

/// A duration that is not zero: there must be a bound.
pub(crate) fn positive(s: &mut Stanza<'_>, key: &'static str) -> Result<Option<Duration>, ConfigError> {
    match s.duration(key)? {
        Some(Duration::ZERO) => Err(s.wrong(key, "0", "more than 0; the bound cannot be turned off")),
        duration => Ok(duration),
    }
}

/// Takes a value if there is one.
pub(crate) fn set<T>(into: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *into = value;
    }
}

fn both(s: &Stanza<'_>, first: &'static str, second: &'static str) -> ConfigError {
    let stanza = s.name.clone();
    s.at(second, ConfigErrorKind::Both { stanza, first, second })
}
