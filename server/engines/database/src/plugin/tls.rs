//! TLS to a database: which authority is believed, and whether the server's name counts.

use std::sync::Arc;

use holdfast_trust::{Authorities, verifier};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How much of a server's certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Nothing of it: TLS is for secrecy from listeners alone.
    Anybody,
    /// That the authority has signed it.
    Authority,
    /// And that it names the server.
    Name,
}

/// PEM texts of what a connection was given.
#[derive(Default)]
pub struct Material {
    /// Instead of the system's authorities.
    pub authority: Option<Vec<u8>>,
    /// The client's certificate, with those above it, and its key.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
}

/// A PEM text without its keys.
pub fn certificates_in(text: &str) -> String {
    let certificates: Vec<&str> = text
        .split_inclusive("-----END CERTIFICATE-----")
        .filter_map(|part| part.find("-----BEGIN CERTIFICATE-----").map(|at| &part[at..]))
        .collect();
    certificates.join("\n")
}

pub fn client_config(trust: Trust, material: &Material) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let authorities = || match &material.authority {
        Some(pem) => certificates(pem).map(Authorities::These),
        None => Ok(Authorities::System),
    };
    let trust = match trust {
        Trust::Anybody => holdfast_trust::Trust::Anybody,
        Trust::Authority => holdfast_trust::Trust::AnyName(authorities()?),
        Trust::Name => holdfast_trust::Trust::Named(authorities()?),
    };
    let verifier = verifier(trust, provider).map_err(|e| format!("the authority's certificate: {e}"))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match &material.certificate {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "no private key in PEM form".to_owned())?;
            builder.with_client_auth_cert(certificates(chain)?, key).map_err(|e| format!("the client certificate: {e}"))
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err("no certificate in PEM form".into()),
    }
}
