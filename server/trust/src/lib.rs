#![forbid(unsafe_code)]
//! Whom our own TLS clients believe: the command line, nodes that join, audit devices, database connections.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
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

/// Which servers a client talks to.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Who has a certificate of these authorities for the name that was asked for.
    Named(Authorities),
    /// Who has one for whatever name.
    AnyName(Authorities),
    /// Anybody. What passes is hidden from those who only listen.
    Anybody,
}

/// Judges a server's certificate. Authorities' own certificates count as signed by them, as Go's clients have it.
///
/// A self-signed certificate that a server shows and its clients are given (`openssl req -x509` makes one) says that it
/// is an authority's, and webpki takes none of these for a server's.
///
/// # Errors
/// A given certificate that cannot be read, or no authority at all.
pub fn verifier(trust: Trust, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let (authorities, any_name) = match trust {
        Trust::Named(authorities) => (Some(authorities), false),
        Trust::AnyName(authorities) => (Some(authorities), true),
        Trust::Anybody => (None, true),
    };
    let judge = authorities.map(|a| Judge::of(a, any_name, provider.clone())).transpose()?;
    Ok(Arc::new(Trusting { judge, provider }))
}

#[derive(Debug)]
struct Trusting {
    /// None: nobody is turned away.
    judge: Option<Judge>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Judge {
    by_authority: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
    any_name: bool,
}

impl Judge {
    fn of(authorities: Authorities, any_name: bool, provider: Arc<CryptoProvider>) -> Result<Judge, String> {
        let mut roots = RootCertStore::empty();
        let given = match authorities {
            Authorities::System => {
                let (_used, _unreadable) =
                    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                Vec::new()
            }
            Authorities::These(given) => {
                for certificate in &given {
                    roots.add(certificate.clone()).map_err(|e| e.to_string())?;
                }
                given
            }
        };
        let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Judge { by_authority: by_authority.map_err(|e| e.to_string())?, given, any_name })
    }

    fn judge(
        &self,
        (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<(), Error> {
        let judged = if self.given.iter().any(|given| given == end_entity) {
            is_valid_at(end_entity, now)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)
        } else {
            self.by_authority
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map(|_verified| ())
        };
        match judged {
            // The name is looked at last: all else is right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(()),
            judged => judged,
        }
    }
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
        if let Some(judge) = &self.judge {
            judge.judge((end_entity, intermediates), server_name, ocsp_response, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
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
