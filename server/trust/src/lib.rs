#![forbid(unsafe_code)]
//! Whom our own TLS clients believe: the command line, nodes that join, audit devices, database connections.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::parse_x509_certificate;

/// Whose signature under a server's certificate is believed.
#[derive(Debug, Clone)]
pub enum Authorities {
    /// Those that the system keeps.
    System,
    These(Vec<CertificateDer<'static>>),
}

/// Believes what these authorities signed, for the name that was asked for; and their own certificates, as Go's clients do.
///
/// A self-signed certificate that a server shows and its clients are given (`openssl req -x509` makes one) says that it
/// is an authority's, and webpki takes none of these for a server's.
///
/// # Errors
/// A given certificate that cannot be read, or no authority at all.
pub fn verifier(
    authorities: Authorities,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    let given = match authorities {
        Authorities::System => {
            let (_used, _unreadable) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Vec::new()
        }
        Authorities::These(given) => {
            for certificate in &given {
                roots.add(certificate.clone()).map_err(|e| e.to_string())?;
            }
            given
        }
    };
    let by_authority =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| e.to_string())?;
    Ok(Arc::new(Trusting { by_authority, given }))
}

#[derive(Debug)]
struct Trusting {
    by_authority: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.given.iter().any(|given| given == end_entity) {
            return self.by_authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        is_valid_at(end_entity, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

fn is_valid_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}
