//! A CA of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A CA that certifies servers on the loopback, and clients.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// PEM files of one certificate.
#[derive(Debug, Clone)]
pub struct Certified {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn make(folder: &Path) -> Authority {
        fs::create_dir_all(folder).expect("a folder for certificates");
        let key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.distinguished_name.push(DnType::CommonName, "Test CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let cert = ca.self_signed(&key).expect("a CA certificate");
        fs::write(folder.join("ca.pem"), cert.pem()).expect("the CA file");
        Authority { folder: folder.to_owned(), issuer: Issuer::new(ca, key) }
    }

    /// The CA's PEM file.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for this machine's loopback, written (again) to NAME.pem and NAME.key.
    pub fn server(&self, name: &str) -> Certified {
        self.certify(
            name,
            vec!["localhost".into(), "127.0.0.1".into(), "::1".into()],
            ExtendedKeyUsagePurpose::ServerAuth,
        )
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Certified {
        self.certify(name, vec![name.into()], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn certify(&self, name: &str, alternatives: Vec<String>, usage: ExtendedKeyUsagePurpose) -> Certified {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(alternatives).expect("parameters");
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.extended_key_usages.push(usage);
        let cert = leaf.signed_by(&key, &self.issuer).expect("a certificate");
        let files =
            Certified { cert: self.folder.join(format!("{name}.pem")), key: self.folder.join(format!("{name}.key")) };
        // Written beside and renamed: a server that reads them now sees the old or the new ones.
        for (path, text) in [(&files.key, key.serialize_pem()), (&files.cert, cert.pem())] {
            let beside = path.with_extension("new");
            fs::write(&beside, text).and_then(|()| fs::rename(&beside, path)).expect("a PEM file");
        }
        files
    }

    /// How a client speaks TLS to this CA's servers.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        client_config(&self.ca(), None)
    }
}

/// TLS of a client that trusts a CA file and may show a certificate.
pub fn client_config(ca: &Path, certified: Option<&Certified>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(ca).expect("a CA file") {
        roots.add(cert.expect("a certificate")).expect("a CA certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match certified {
        None => builder.with_no_client_auth(),
        Some(c) => {
            let chain = CertificateDer::pem_file_iter(&c.cert).expect("a PEM file").collect::<Result<_, _>>();
            let key = PrivateKeyDer::from_pem_file(&c.key).expect("a key");
            builder.with_client_auth_cert(chain.expect("a chain"), key).expect("a client certificate")
        }
    };
    Arc::new(config)
}
