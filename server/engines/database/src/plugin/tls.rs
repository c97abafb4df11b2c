//! TLS to a database: which authority is believed, and whether the server's name counts.

use std::sync::Arc;

use holdfast_trust::{Authorities, verifier};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

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
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anybody => Arc::new(Believing { verifier: None, provider }),
        Trust::Authority | Trust::Name => {
            let authorities = match &material.authority {
                Some(pem) => Authorities::These(certificates(pem)?),
                None => Authorities::System,
            };
            let verifier = verifier(authorities, provider.clone());
            let verifier = verifier.map_err(|e| format!("the authority's certificate: {e}"))?;
            if trust == Trust::Name { verifier } else { Arc::new(Believing { verifier: Some(verifier), provider }) }
        }
    };
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

/// Believes any name, and without a verifier any certificate.
#[derive(Debug)]
struct Believing {
    verifier: Option<Arc<dyn ServerCertVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(verifier) = &self.verifier else { return Ok(ServerCertVerified::assertion()) };
        match verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: all else is right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
