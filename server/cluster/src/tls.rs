//! TLS between members: both sides show the certificate of their identity, and each looks at nothing of the
//! other's but the hash of its public key, and the serial number, which says which process it is that has the key.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    SignatureScheme,
};

use crate::identity::{Identity, hash};

const ALPN: &[u8] = b"holdfast-peer/1";

#[derive(Debug, thiserror::Error)]
enum NotTheOne {
    #[error("the other side's key is not the one that the members know")]
    OtherKey,
    #[error("TLS 1.3 is needed")]
    OldTls,
}

fn refused(why: NotTheOne) -> Error {
    Error::Other(OtherError(Arc::new(why)))
}

/// The hash of a certificate's public key.
pub fn key_hash(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    Ok(hash(&ParsedCertificate::try_from(certificate)?.subject_public_key_info()))
}

/// A certificate's serial number, in hex. A process makes one at its start; an earlier program has the same at each.
pub fn incarnation(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(hex::encode(read.raw_serial()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// How this node listens to others. Who it is that came is asked when it is there.
pub fn server(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let verifier = Arc::new(AnyKey { algorithms: provider.signature_verification_algorithms });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate.clone()], identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// How this node calls the one whose key has this hash.
pub fn client(identity: &Identity, expected: &str) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier =
        Arc::new(OneKey { expected: expected.to_owned(), algorithms: provider.signature_verification_algorithms });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// That the other side has the key of the certificate that it shows, and which key that is.
#[derive(Debug)]
struct OneKey {
    expected: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OneKey {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match key_hash(certificate)? == self.expected {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(refused(NotTheOne::OtherKey)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused(NotTheOne::OldTls))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// That the other side has the key of the certificate that it shows.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        key_hash(certificate).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused(NotTheOne::OldTls))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{ClientConnection, ServerConnection};

    use super::*;

    fn identity() -> Identity {
        Identity::passing(false)
    }

    /// What both sides make of a handshake.
    fn shake_hands(
        server: &Arc<ServerConfig>,
        client: &Arc<ClientConfig>,
    ) -> Result<(ServerConnection, ClientConnection), Error> {
        let mut one = ClientConnection::new(client.clone(), ServerName::try_from("holdfast-node").unwrap())?;
        let mut other = ServerConnection::new(server.clone())?;
        for _ in 0..10 {
            let mut bytes = Vec::new();
            one.write_tls(&mut bytes).unwrap();
            other.read_tls(&mut &bytes[..]).unwrap();
            other.process_new_packets()?;
            let mut bytes = Vec::new();
            other.write_tls(&mut bytes).unwrap();
            one.read_tls(&mut &bytes[..]).unwrap();
            one.process_new_packets()?;
        }
        assert!(!one.is_handshaking() && !other.is_handshaking());
        Ok((other, one))
    }

    /// The configurations of somebody who shows this identity's certificate and signs with another key. rustls itself
    /// would refuse the pair.
    fn thief_as_client(stolen: &Identity, own: &Identity, expected: &str) -> Arc<ClientConfig> {
        let mut config = (*client(own, expected).unwrap()).clone();
        config.client_auth_cert_resolver = Arc::new(stolen_pair(stolen, own));
        Arc::new(config)
    }

    fn thief_as_server(stolen: &Identity, own: &Identity) -> Arc<ServerConfig> {
        let mut config = (*server(own).unwrap()).clone();
        config.cert_resolver = Arc::new(stolen_pair(stolen, own));
        Arc::new(config)
    }

    fn stolen_pair(stolen: &Identity, own: &Identity) -> SingleCertAndKey {
        let key = aws_lc_rs::sign::any_supported_type(&own.key()).unwrap();
        SingleCertAndKey::from(CertifiedKey::new(vec![stolen.certificate.clone()], key))
    }

    #[test]
    fn each_side_learns_the_key_of_the_other() {
        let (listens, calls) = (identity(), identity());
        let (at_server, at_client) =
            shake_hands(&server(&listens).unwrap(), &client(&calls, &listens.key_hash).unwrap()).unwrap();
        let shown = |certificates: Option<&[CertificateDer<'_>]>| key_hash(&certificates.unwrap()[0]).unwrap();
        assert_eq!(shown(at_server.peer_certificates()), calls.key_hash);
        assert_eq!(shown(at_client.peer_certificates()), listens.key_hash);
        let process = |certificates: Option<&[CertificateDer<'_>]>| incarnation(&certificates.unwrap()[0]).unwrap();
        assert_eq!(process(at_server.peer_certificates()), calls.incarnation);
        assert_eq!(process(at_client.peer_certificates()), listens.incarnation);
    }

    #[test]
    fn a_stolen_certificate_is_of_no_use_without_its_key() {
        let (member, thief, other) = (identity(), identity(), identity());
        // Called by the thief.
        let config = thief_as_client(&member, &thief, &other.key_hash);
        let refused = shake_hands(&server(&other).unwrap(), &config).unwrap_err();
        assert!(matches!(refused, Error::InvalidCertificate(_)), "{refused}");
        // The thief is called.
        let config = client(&other, &member.key_hash).unwrap();
        let refused = shake_hands(&thief_as_server(&member, &thief), &config).unwrap_err();
        assert!(matches!(refused, Error::InvalidCertificate(_)), "{refused}");
    }

    #[test]
    fn a_member_with_another_key_than_the_others_know_is_not_talked_to() {
        let (member, other) = (identity(), identity());
        let refused = shake_hands(&server(&identity()).unwrap(), &client(&other, &member.key_hash).unwrap());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("is not the one that the members know"), "{refused}");
    }

    #[test]
    fn a_node_without_a_certificate_is_refused() {
        let member = identity();
        let mut config = (*client(&identity(), &member.key_hash).unwrap()).clone();
        config.client_auth_cert_resolver = Arc::new(NoCertificate);
        let refused = shake_hands(&server(&member).unwrap(), &Arc::new(config)).unwrap_err();
        assert!(matches!(refused, Error::NoCertificatesPresented), "{refused}");
    }

    #[derive(Debug)]
    struct NoCertificate;

    impl rustls::client::ResolvesClientCert for NoCertificate {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }

        fn has_certs(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_certificate_that_has_ended_says_nothing_against_its_key() {
        let (listens, calls) = (Identity::passing(true), Identity::passing(true));
        shake_hands(&server(&listens).unwrap(), &client(&calls, &listens.key_hash).unwrap()).unwrap();
    }

    #[test]
    fn tls_1_2_is_refused_by_both_sides() {
        let (listens, calls) = (identity(), identity());
        let old = [&rustls::version::TLS12];
        let verifier = Arc::new(OneKey {
            expected: listens.key_hash.clone(),
            algorithms: provider().signature_verification_algorithms,
        });
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&old).unwrap();
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![calls.certificate.clone()], calls.key())
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let refused = shake_hands(&server(&listens).unwrap(), &Arc::new(config)).unwrap_err();
        assert!(matches!(refused, Error::PeerIncompatible(_)), "{refused}");

        let verifier = Arc::new(AnyKey { algorithms: provider().signature_verification_algorithms });
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&old).unwrap();
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![listens.certificate.clone()], listens.key())
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let refused = shake_hands(&Arc::new(config), &client(&calls, &listens.key_hash).unwrap()).unwrap_err();
        assert!(matches!(refused, Error::PeerIncompatible(_)), "{refused}");
    }
}
