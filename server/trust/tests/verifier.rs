//! Which certificates a client believes.

use std::sync::Arc;
use std::time::Duration;

use holdfast_trust::{Authorities, Trust, verifier};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error};

fn params(name: &str, authority: bool) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
    params
}

/// Both kinds of self-signed certificates.
fn self_signed(name: &str, authority: bool) -> CertificateDer<'static> {
    params(name, authority).self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn by(trust: Trust) -> Arc<dyn ServerCertVerifier> {
    verifier(trust, Arc::new(rustls::crypto::aws_lc_rs::default_provider())).unwrap()
}

fn these(given: &CertificateDer<'static>) -> Authorities {
    Authorities::These(vec![given.clone()])
}

fn asked(of: &Arc<dyn ServerCertVerifier>, shown: &CertificateDer<'_>, name: &str, year: u64) -> Result<(), Error> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952));
    of.verify_server_cert(shown, &[], &ServerName::try_from(name.to_owned()).unwrap(), &[], now).map(|_| ())
}

#[test]
fn a_servers_own_certificate_may_be_the_authority_that_is_given() {
    for authority in [true, false] {
        let own = self_signed("node.test", authority);
        let verifier = by(Trust::Named(these(&own)));
        asked(&verifier, &own, "node.test", 2026).unwrap();
        let wrong = asked(&verifier, &own, "other.test", 2026).unwrap_err();
        assert!(wrong.to_string().contains("not valid for name"), "{wrong}");
        assert_eq!(
            asked(&verifier, &own, "node.test", 2019).unwrap_err(),
            Error::InvalidCertificate(CertificateError::NotValidYet)
        );
        assert_eq!(
            asked(&verifier, &own, "node.test", 2031).unwrap_err(),
            Error::InvalidCertificate(CertificateError::Expired)
        );
        asked(&verifier, &self_signed("node.test", authority), "node.test", 2026).unwrap_err();
    }
}

#[test]
fn what_an_authority_signed_is_believed_and_no_authority_that_it_signed() {
    let root = CertifiedIssuer::self_signed(params("root.test", true), KeyPair::generate().unwrap()).unwrap();
    let verifier = by(Trust::Named(these(root.der())));
    let signed = |authority| {
        params("node.test", authority).signed_by(&KeyPair::generate().unwrap(), &root).unwrap().der().clone()
    };
    asked(&verifier, &signed(false), "node.test", 2026).unwrap();
    asked(&verifier, &signed(true), "node.test", 2026).unwrap_err();
}

#[test]
fn what_is_no_certificate_is_refused_at_once() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    verifier(Trust::Named(these(&CertificateDer::from(vec![1, 2, 3]))), provider).unwrap_err();
}

#[test]
fn where_any_name_will_do_the_rest_is_looked_at_and_where_anybody_will_nothing_is() {
    let root = CertifiedIssuer::self_signed(params("root.test", true), KeyPair::generate().unwrap()).unwrap();
    let signed = params("node.test", false).signed_by(&KeyPair::generate().unwrap(), &root).unwrap().der().clone();
    let (own, stranger) = (self_signed("node.test", true), self_signed("node.test", false));
    for (given, shown) in [(root.der(), &signed), (&own, &own)] {
        let any_name = by(Trust::AnyName(these(given)));
        asked(&any_name, shown, "other.test", 2026).unwrap();
        asked(&any_name, shown, "other.test", 2031).unwrap_err();
        asked(&any_name, &stranger, "node.test", 2026).unwrap_err();
    }
    asked(&by(Trust::Anybody), &stranger, "other.test", 2031).unwrap();
}
