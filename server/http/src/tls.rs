//! TLS: certificates that can be read again, client certificates, versions and suites.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

/// How a listener speaks TLS.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub client_ca_file: Option<PathBuf>,
    /// A client must have a certificate of that CA.
    pub require_client_cert: bool,
    pub disable_client_certs: bool,
    pub tls12: bool,
    pub tls13: bool,
    /// Names of TLS 1.2 suites as Go and OpenSSL write them; empty: the good ones.
    pub cipher_suites: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{what} {path}: {detail}", path = path.display())]
    File { what: &'static str, path: PathBuf, detail: String },
    #[error("tls_cipher_suites: {0} is not offered; left out, the secure ones are used")]
    Suite(String),
    #[error("TLS: {0}")]
    Config(String),
}

/// Serves the certificate that was read last.
#[derive(Debug)]
pub struct Certificates {
    options: TlsOptions,
    current: ArcSwap<CertifiedKey>,
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

fn read(options: &TlsOptions) -> Result<CertifiedKey, TlsError> {
    let fail = |what, path: &PathBuf| {
        let path = path.clone();
        move |e: rustls::pki_types::pem::Error| TlsError::File { what, path, detail: e.to_string() }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&options.cert_file)
        .map_err(fail("cannot read the certificate file", &options.cert_file))?
        .collect();
    let chain = chain.map_err(fail("cannot read the certificate file", &options.cert_file))?;
    if chain.is_empty() {
        return Err(TlsError::File {
            what: "cannot read the certificate file",
            path: options.cert_file.clone(),
            detail: "it holds no PEM certificate".into(),
        });
    }
    let key =
        PrivateKeyDer::from_pem_file(&options.key_file).map_err(fail("cannot read the key file", &options.key_file))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|e| TlsError::File {
        what: "cannot use the certificate and key of",
        path: options.cert_file.clone(),
        detail: e.to_string(),
    })
}

impl Certificates {
    pub fn load(options: TlsOptions) -> Result<Arc<Certificates>, TlsError> {
        let current = ArcSwap::from_pointee(read(&options)?);
        Ok(Arc::new(Certificates { options, current }))
    }

    /// Read the files again; the old certificate stays if they are not good.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(&self.options)?));
        Ok(())
    }

    /// When the files were changed last.
    pub fn modified(&self) -> Vec<Option<std::time::SystemTime>> {
        let time = |p: &PathBuf| std::fs::metadata(p).and_then(|m| m.modified()).ok();
        vec![time(&self.options.cert_file), time(&self.options.key_file)]
    }

    /// The rustls configuration.
    pub fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut provider = provider();
        if !self.options.cipher_suites.is_empty() {
            let mut wanted = Vec::new();
            for name in &self.options.cipher_suites {
                let found = provider.cipher_suites.iter().find(|s| suite_name(name).as_deref() == s.suite().as_str());
                wanted.push(*found.ok_or_else(|| TlsError::Suite(name.clone()))?);
            }
            // TLS 1.3 suites are not chosen, as in Go.
            let tls13 = provider.cipher_suites.iter().filter(|s| s.tls13().is_some() && !wanted.contains(s));
            wanted.extend(tls13.copied().collect::<Vec<_>>());
            provider.cipher_suites = wanted;
        }
        let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
        if self.options.tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if self.options.tls12 {
            versions.push(&rustls::version::TLS12);
        }
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|e| TlsError::Config(e.to_string()))?;
        let builder = match (&self.options.client_ca_file, self.options.disable_client_certs) {
            (Some(path), false) => {
                let mut roots = rustls::RootCertStore::empty();
                let fail = |detail: String| TlsError::File {
                    what: "cannot read the client CA file",
                    path: path.clone(),
                    detail,
                };
                for cert in CertificateDer::pem_file_iter(path).map_err(|e| fail(e.to_string()))? {
                    roots.add(cert.map_err(|e| fail(e.to_string()))?).map_err(|e| fail(e.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier =
                    if self.options.require_client_cert { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| fail(e.to_string()))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// rustls' name of a suite that may be written as Go does.
fn suite_name(name: &str) -> Option<String> {
    let name = name.trim();
    let fixed = match name {
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        other => other,
    };
    let tls13 = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
    Some(if tls13.contains(&fixed) { fixed.replacen("TLS_", "TLS13_", 1) } else { fixed.to_owned() })
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}
