//! `-dev`: a server to try things out.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_core::{Core, InitRequest, Refusal};
use holdfast_hsm::memory::Secret;

use super::flags::Flags;

/// Initialise, unseal and furnish. Returns the unseal key and the root token.
pub async fn furnish(core: &Arc<Core>, flags: &Flags) -> Result<(Secret<String>, Secret<String>), String> {
    let said = |Refusal(_, text): Refusal| text;
    let request = InitRequest { secret_shares: 1, secret_threshold: 1, ..InitRequest::default() };
    let mut made = core.initialise(&request).await.map_err(said)?;
    let key = made.keys.pop().ok_or("no key was made")?;
    let shown = Secret::new(hex::encode(key.expose()));
    core.unseal_share(key).await.map_err(said)?;
    let version: &[(&str, &str)] = if flags.dev_kv_v1 { &[("version", "1")] } else { &[("version", "2")] };
    let mounts: &[(&str, &str, &[(&str, &str)])] = &[("secret/", "kv", version)];
    let wanted = flags.dev_root_token_id.as_deref();
    core.set_up_dev(&made.root_token, wanted, mounts).await.map_err(|e| e.to_string())?;
    let token = wanted.map_or(made.root_token, |id| Secret::new(id.to_owned()));
    Ok((shown, token))
}

/// Keep the root token where the client commands look for it.
pub fn store_token(token: &Secret<String>) {
    let Some(home) = std::env::var_os("HOME") else { return };
    let path = Path::new(&home).join(".vault-token");
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    if let Err(e) = file.and_then(|mut f| f.write_all(token.expose().as_bytes())) {
        eprintln!("the root token is not stored: {}: {e}", path.display());
    }
}

/// Files of `-dev-tls`.
pub struct DevTls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Make a CA and a certificate for this machine's loopback.
pub fn make_tls(folder: Option<&Path>) -> Result<DevTls, String> {
    let folder = match folder {
        Some(f) => f.to_owned(),
        None => std::env::temp_dir().join(format!("holdfast-dev-tls-{}", std::process::id())),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?;
    let made = (|| {
        let ca_key = rcgen::KeyPair::generate()?;
        let mut ca = rcgen::CertificateParams::new(Vec::new())?;
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Holdfast dev CA");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let ca_cert = ca.self_signed(&ca_key)?;
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate()?;
        let mut leaf = rcgen::CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into(), "::1".into()])?;
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
        let cert = leaf.signed_by(&key, &issuer)?;
        Ok::<_, rcgen::Error>((ca_cert.pem(), cert.pem(), key.serialize_pem()))
    })();
    let (ca_pem, cert_pem, key_pem) = made.map_err(|e| format!("the certificate cannot be made: {e}"))?;
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.join(name);
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path);
        file.and_then(|mut f| f.write_all(text.as_bytes())).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok::<_, String>(path)
    };
    Ok(DevTls {
        ca: write("vault-ca.pem", &ca_pem, 0o644)?,
        cert: write("vault-cert.pem", &cert_pem, 0o644)?,
        key: write("vault-key.pem", &key_pem, 0o600)?,
    })
}
