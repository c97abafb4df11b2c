//! Certificates of endorsement keys (TCG EK Credential Profile).

use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey as CertifiedKey;

use crate::Doubt;
use crate::public::{PublicArea, PublicKey};

/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

/// Whose certificates are believed.
#[derive(Debug, Clone, Copy)]
pub struct Authorities<'a> {
    /// Certificates that a chain may end at, DER. As usual for what is trusted by itself, their own end is not looked at.
    pub trusted: &'a [Vec<u8>],
    /// Certificates that a chain may go through.
    pub intermediates: &'a [Vec<u8>],
}

/// Whether a certificate is one for this endorsement key, by somebody who is trusted, at this time. Says whose. Revocation is
/// not looked at.
///
/// # Errors
/// If it is not.
pub fn endorses(certificate: &[u8], authorities: Authorities<'_>, now: u64, key: &PublicArea) -> Result<String, Doubt> {
    let malformed = || Doubt::Malformed("the endorsement key's certificate");
    // The place in the TPM may be longer than what lies there.
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| malformed())?;
    let certificate = CertificateDer::from(&certificate[..certificate.len() - rest.len()]);
    let of = |all: &'_ [Vec<u8>]| -> Vec<CertificateDer<'static>> { all.iter().cloned().map(Into::into).collect() };
    let (trusted, intermediates) = (of(authorities.trusted), of(authorities.intermediates));
    let anchors = trusted.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
    let anchors = anchors.map_err(|e| Doubt::Unknown(format!("a certificate of the CA cannot be used ({e})")))?;
    let subject = EndEntityCert::try_from(&certificate).map_err(|_| malformed())?;
    let verified = subject.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &intermediates,
        UnixTime::since_unix_epoch(Duration::from_secs(now)),
        KeyUsage::required_if_present(EK_CERTIFICATE),
        None,
        None,
    );
    let issuer = parsed.issuer();
    verified
        .map_err(|e| Doubt::Refuted(format!("its certificate, issued by {issuer}, does not count: {}", reason(&e))))?;
    let certified = parsed.public_key().parsed().map_err(|_| malformed())?;
    let is_this = match (&key.key, certified) {
        (PublicKey::Rsa { modulus, exponent }, CertifiedKey::RSA(rsa)) => {
            let zeros = rsa.modulus.iter().take_while(|byte| **byte == 0).count();
            rsa.modulus[zeros..] == modulus[..] && rsa.try_exponent().is_ok_and(|e| e == u64::from(*exponent))
        }
        (PublicKey::P256(point) | PublicKey::P384(point), CertifiedKey::EC(certified)) => certified.data() == point,
        _ => false,
    };
    if !is_this || !key.only_receives() {
        return Err(Doubt::Refuted("its certificate is one for another key".into()));
    }
    Ok(format!("certified by {issuer}"))
}

fn reason(error: &webpki::Error) -> String {
    use webpki::Error as E;
    let known = match error {
        E::UnknownIssuer => "it leads to none that is trusted; those in between are to be given as well",
        E::CertExpired { .. } => "it has expired, or one between it and the trusted one has",
        E::CertNotValidYet { .. } => "it is not valid yet, or one between it and the trusted one is not",
        E::RequiredEkuNotFoundContext(_) => "it is for another use than endorsement keys",
        E::InvalidSignatureForPublicKey => "a signature is wrong: somebody changed it, or has only taken the CA's name",
        _ => "its chain cannot be followed",
    };
    format!("{known} ({error})")
}

/// The certificates in a PEM text, DER.
///
/// # Errors
/// If there are none, or something in it is broken.
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, Doubt> {
    let malformed = || Doubt::Malformed("the file of the CA's certificates (PEM)");
    let blocks =
        x509_parser::pem::Pem::iter_from_buffer(pem).collect::<Result<Vec<_>, _>>().map_err(|_| malformed())?;
    let all = blocks.into_iter().filter(|block| block.label == "CERTIFICATE").map(|block| block.contents);
    let all: Vec<Vec<u8>> = all.collect();
    if all.is_empty() { Err(malformed()) } else { Ok(all) }
}
