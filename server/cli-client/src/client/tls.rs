//! TLS of the client: whom it trusts and what it shows.

use std::path::Path;
use std::sync::Arc;

use holdfast_trust::{Authorities, Trust, verifier};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::settings::switch;
use crate::data::opening;
use crate::environment::Environment;
use crate::flags::Flags;

/// What flags and environment say of TLS, its files read.
pub struct TlsSettings {
    authorities: Authorities,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    pub server_name: Option<String>,
    pub skip_verify: bool,
    /// The options of `curl` that say the same.
    pub curl_options: Vec<(&'static str, String)>,
}

impl TlsSettings {
    pub fn of(flags: &Flags, environment: &Environment) -> Result<TlsSettings, String> {
        let mut curl_options = Vec::new();
        let names = ["ca-cert", "ca-path", "client-cert", "client-key"];
        let by_flag = names.iter().any(|n| flags.is_set(n));
        let failed = |why: String| match by_flag {
            true => format!("failed to setup TLS config: {why}"),
            false => format!("failed to read environment: {why}"),
        };
        let mut either = |flag: &str, setting: &str, option: &'static str| {
            let value = flags.text(flag).filter(|v| !v.is_empty()).or(environment.text(setting)).map(str::to_string);
            curl_options.extend(value.clone().map(|v| (option, v)));
            value
        };
        let ca_cert = either("ca-cert", "CACERT", "--cacert");
        let ca_path = either("ca-path", "CAPATH", "--capath");
        let client_cert = either("client-cert", "CLIENT_CERT", "--cert");
        let client_key = either("client-key", "CLIENT_KEY", "--key");
        let authorities = match (ca_cert, environment.text("CACERT_BYTES"), ca_path) {
            (Some(file), _, _) => Some(file_of_certificates(&file)),
            (None, Some(pem), _) => Some(certificates(pem.as_bytes())),
            (None, None, Some(folder)) => Some(folder_of_certificates(&folder)),
            (None, None, None) => None,
        };
        let identity = match (client_cert, client_key) {
            (Some(cert), Some(key)) => Some(identity(&cert, &key)),
            (None, None) => None,
            _ => Some(Err("both client cert and client key must be provided".to_string())),
        };
        Ok(TlsSettings {
            authorities: authorities.transpose().map_err(failed)?.map_or(Authorities::System, Authorities::These),
            identity: identity.transpose().map_err(failed)?,
            server_name: flags.text("tls-server-name").or(environment.text("TLS_SERVER_NAME")).map(str::to_string),
            skip_verify: flags.bool("tls-skip-verify") || switch(environment, "SKIP_VERIFY")?,
            curl_options,
        })
    }

    /// The configuration of a connection.
    pub fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("failed to setup TLS config: {e}"))?;
        let trust = if self.skip_verify { Trust::Anybody } else { Trust::Named(self.authorities.clone()) };
        let verifier = verifier(trust, provider).map_err(|e| format!("failed to setup TLS config: {e}"))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        match &self.identity {
            None => Ok(Arc::new(builder.with_no_client_auth())),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map(Arc::new)
                .map_err(|e| format!("failed to setup TLS config: {e}")),
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("Error appending CA: Couldn't parse PEM".to_string()),
    }
}

fn file_of_certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|e| format!("Error loading CA File: {}", opening(path, &e)))?;
    certificates(&pem).map_err(|_| format!("Error loading CA File: Couldn't parse PEM in: {path}"))
}

fn folder_of_certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let entries = std::fs::read_dir(Path::new(path)).map_err(|e| opening(path, &e))?;
    let mut all = Vec::new();
    for entry in entries {
        let file = entry.map_err(|e| opening(path, &e))?.path();
        if file.is_file() {
            all.extend(file_of_certificates(&file.to_string_lossy())?);
        }
    }
    Ok(all)
}

fn identity(cert: &str, key: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let pem = std::fs::read(cert).map_err(|e| opening(cert, &e))?;
    let chain = certificates(&pem).map_err(|_| format!("no certificate in {cert}"))?;
    let key_pem = zeroize::Zeroizing::new(std::fs::read(key).map_err(|e| opening(key, &e))?);
    let key_der = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| format!("no private key in {key}"))?;
    Ok((chain, key_der))
}
