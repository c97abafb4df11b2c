//! Where the server listens: whether it can, and whether clients would believe its certificate.

use std::fs;
use std::net::{SocketAddr, TcpListener as Socket, ToSocketAddrs};
use std::path::Path;

use holdfast_config::{Config, Listener, TcpListener, TlsSettings, UnixListener};
use holdfast_http::tls::{Certificates, TlsOptions};
use rustix::fs::{Access, access};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::report::Check;

/// A certificate that ends sooner is told of.
const SOON_DAYS: i64 = 30;
const DAY_SECS: i64 = 86_400;

pub fn check(config: &Config, held: Option<u32>) -> Check {
    const NAME: &str = "Start Listeners";
    if config.listeners.is_empty() {
        return Check::fail(
            NAME,
            "no listener stanza",
            "Add one: listener \"tcp\" { address = \"127.0.0.1:8200\" … }.",
        );
    }
    let all = config.listeners.iter().flat_map(|l| match l {
        Listener::Tcp(t) => [tls(t), binds(&t.address, held)],
        Listener::Unix(u) => [Check::skipped("Check Listener TLS", u.path.display().to_string()), socket_file(u)],
    });
    Check::of(NAME, all.collect())
}

/// Whether something can listen there.
pub fn binds(address: &str, held: Option<u32>) -> Check {
    const NAME: &str = "Create Listener";
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    let found: Vec<SocketAddr> = match full.to_socket_addrs() {
        Ok(found) => found.collect(),
        Err(e) => return Check::fail(NAME, format!("{address}: {e}"), "Correct the address."),
    };
    match Socket::bind(&*found) {
        Ok(_) => Check::ok(NAME, format!("{address} can be listened on")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && held.is_some() => {
            Check::ok(NAME, format!("{address} is in use, and a server has this store open"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Check::fail(
            NAME,
            format!("{address} is in use"),
            "End the process that listens there (ss -ltnp), or choose another address; -skip=listener leaves this out.",
        ),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Check::fail(
            NAME,
            format!("{address}: {e}"),
            "Ports below 1024 need CAP_NET_BIND_SERVICE: AmbientCapabilities in the unit, or another port.",
        ),
        Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => {
            Check::fail(NAME, format!("{address}: {e}"), "No interface of this machine has the address: correct it.")
        }
        Err(e) => Check::fail(NAME, format!("{address}: {e}"), "Correct the address."),
    }
}

fn socket_file(u: &UnixListener) -> Check {
    const NAME: &str = "Create Listener";
    let folder = u.path.parent().unwrap_or(Path::new("/"));
    match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Check::ok(NAME, format!("{} can be made", u.path.display())),
        Err(e) => Check::fail(
            NAME,
            format!("{}: nobody may make it there: {e}", u.path.display()),
            "Make the folder (RuntimeDirectory= in the unit), owned by the server's user.",
        ),
    }
}

fn tls(t: &TcpListener) -> Check {
    const NAME: &str = "Check Listener TLS";
    let Some(settings) = &t.tls else {
        return Check::warn(
            NAME,
            format!("listener at {}: TLS is disabled", t.address),
            "Secrets and tokens cross the network as they are. Set tls_cert_file and tls_key_file, unless something before it \
             on this machine speaks TLS.",
        );
    };
    let options = TlsOptions {
        cert_file: settings.cert_file.clone(),
        key_file: settings.key_file.clone(),
        client_ca_file: settings.client_ca_file.clone(),
        require_client_cert: settings.require_and_verify_client_cert,
        disable_client_certs: settings.disable_client_certs,
        tls12: true,
        tls13: true,
        cipher_suites: settings.cipher_suites.clone(),
    };
    // It reads both files, and looks whether the key is the certificate's.
    if let Err(e) = Certificates::load(options).and_then(|c| c.config().map(drop)) {
        return Check::fail(
            NAME,
            format!("{}: {e}", t.address),
            "Give the certificate with its chain, and the key that it was made for, both PEM.",
        );
    }
    match chain(settings) {
        Ok(chain) => of_chain(NAME, &t.address, &chain),
        Err(e) => Check::fail(NAME, format!("{}: {e}", t.address), "Give a certificate in PEM."),
    }
}

fn chain(settings: &TlsSettings) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = fs::read(&settings.cert_file).map_err(|e| format!("{}: {e}", settings.cert_file.display()))?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn of_chain(name: &str, address: &str, chain: &[CertificateDer<'_>]) -> Check {
    let parsed: Vec<X509Certificate<'_>> =
        chain.iter().filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, c)| c)).collect();
    let (Some(leaf), true) = (parsed.first(), parsed.len() == chain.len()) else {
        return Check::fail(name, format!("{address}: a certificate cannot be read"), "Give certificates of X.509.");
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    for c in &parsed {
        let (from, to) = (c.validity().not_before.timestamp(), c.validity().not_after.timestamp());
        let who = c.subject().to_string();
        if now < from {
            return Check::fail(
                name,
                format!("{address}: the certificate of {who:?} does not count yet"),
                "Look at the clock, or give one that counts.",
            );
        }
        if now > to {
            return Check::fail(
                name,
                format!("{address}: the certificate of {who:?} ended {} days ago", (now - to) / DAY_SECS),
                "Give a new one, then SIGHUP.",
            );
        }
        if to - now < SOON_DAYS * DAY_SECS {
            return Check::warn(
                name,
                format!("{address}: the certificate of {who:?} ends in {} days", (to - now) / DAY_SECS),
                "Give a new one, then SIGHUP.",
            );
        }
    }
    if leaf.subject_alternative_name().ok().flatten().is_none() {
        return Check::fail(
            name,
            format!("{address}: the certificate names no hosts (subjectAltName)"),
            "Clients look for the host there alone: let it be made with DNS names or addresses.",
        );
    }
    if parsed.windows(2).any(|pair| pair[0].issuer() != pair[1].subject()) {
        return Check::fail(
            name,
            format!("{address}: the chain is broken: a certificate is not followed by its issuer's"),
            "The file begins with the server's certificate; each further one is of who signed the one before.",
        );
    }
    let days = (leaf.validity().not_after.timestamp() - now) / DAY_SECS;
    Check::ok(name, format!("{address}: the certificate counts for {days} days")).seen(format!(
        "{} of {}, {} certificates",
        leaf.subject(),
        leaf.issuer(),
        parsed.len()
    ))
}
