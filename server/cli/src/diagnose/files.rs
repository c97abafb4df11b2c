//! Files that the configuration names: who may read those with secrets in them, and whether audit logs can be written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_config::{AuditKind, Config, Listener, PinSource, SealKind};
use rustix::fs::{Access, access};

use super::host::nearest;
use super::report::Check;

/// Who may read a file besides its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    /// It is no secret.
    Read,
    /// It is one, or has one in it.
    Not,
}

pub fn check(config_files: &[PathBuf], config: &Config) -> Check {
    let has_secret = config.seals.iter().any(|s| secrets_of(&s.kind).iter().any(|p| matches!(p, PinSource::Given(_))));
    let may = if has_secret { May::Not } else { May::Read };
    let mut all: Vec<Check> = config_files.iter().map(|p| file("Configuration", p, may)).collect();
    for seal in &config.seals {
        let named = secrets_of(&seal.kind).into_iter().filter_map(|p| match p {
            PinSource::File(path) => Some(path.clone()),
            PinSource::Given(_) | PinSource::Environment(_) => None,
        });
        all.extend(named.map(|path| file("Secret Of A Seal", &path, May::Not)));
        if let SealKind::Software { key_file } = &seal.kind
            && key_file.exists()
        {
            all.push(file("Key Of seal \"software\"", key_file, May::Not));
        }
        if let SealKind::Tpm(tpm) = &seal.kind
            && let Some(path) = &tpm.hierarchy_auth_file
        {
            all.push(file("Authorisation Of A TPM", path, May::Not));
        }
    }
    for listener in &config.listeners {
        if let Listener::Tcp(t) = listener
            && let Some(tls) = &t.tls
        {
            all.push(file("Private Key", &tls.key_file, May::Not));
        }
    }
    Check::of("Check File Permissions", all)
}

/// Where the secrets of a seal come from.
fn secrets_of(kind: &SealKind) -> Vec<&PinSource> {
    match kind {
        SealKind::Shamir | SealKind::Software { .. } => Vec::new(),
        SealKind::Pkcs11(p) => p.pin.iter().collect(),
        SealKind::Tpm(t) => t.pin.iter().collect(),
        SealKind::YubiHsm(y) => y.hsm.password.iter().collect(),
        SealKind::Static(s) => [Some(&s.current), s.previous.as_ref()].into_iter().flatten().map(|k| &k.key).collect(),
    }
}

fn file(what: &str, path: &Path, may: May) -> Check {
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) => {
            return Check::fail(what, format!("{shown}: {e}"), "Correct its path in the configuration, or make it.");
        }
    };
    if access(path, Access::READ_OK).is_err() {
        return Check::fail(
            what,
            format!("{shown} cannot be read by this user"),
            "Let the server's user read it (chown, chmod), or run this check as that user.",
        );
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o002 != 0 {
        return Check::fail(what, format!("{shown} can be written by everybody ({mode:04o})"), "chmod o-w.");
    }
    match (may, mode & 0o044) {
        (May::Not, others) if others & 0o004 != 0 => Check::fail(
            what,
            format!("{shown} holds a secret, and everybody may read it ({mode:04o})"),
            "chmod 0400, owned by the server's user.",
        ),
        (May::Not, others) if others != 0 => Check::warn(
            what,
            format!("{shown} holds a secret, and its group may read it ({mode:04o})"),
            "chmod 0400, owned by the server's user.",
        ),
        _ => Check::ok(what, format!("{shown} ({mode:04o})")),
    }
}

/// The files of audit devices.
pub fn audit_files(config: &Config) -> impl Iterator<Item = (&str, PathBuf)> {
    config.audit.iter().filter(|a| a.kind == AuditKind::File).filter_map(|a| {
        let path = a.options.iter().find(|(name, _)| matches!(name.as_str(), "file_path" | "path")).map(|(_, v)| v)?;
        path.starts_with('/').then(|| (a.path.as_str(), PathBuf::from(path)))
    })
}

pub fn audit(config: &Config) -> Check {
    const NAME: &str = "Check Audit Devices";
    if config.audit.is_empty() {
        return Check::warn(
            NAME,
            "the configuration declares no audit device",
            "Declare one: audit \"file\" \"file\" { options { file_path = \"/var/log/holdfast/audit.log\" } }. Those that were \
             made by the API are not known here.",
        );
    }
    let files: Vec<Check> = audit_files(config)
        .map(|(device, path)| {
            let at = if path.exists() { path.clone() } else { nearest(&path).unwrap_or_else(|| path.clone()) };
            let may = if path.exists() { Access::WRITE_OK } else { Access::WRITE_OK | Access::EXEC_OK };
            match access(&at, may) {
                Ok(()) => Check::ok("Audit File", format!("{device} writes to {}", path.display())),
                Err(_) => Check::fail(
                    "Audit File",
                    format!("{} cannot be written by this user: no request would be answered", path.display()),
                    "Give its folder to the server's user, or run this check as that user.",
                ),
            }
        })
        .collect();
    match files.is_empty() {
        true => Check::skipped(NAME, "no device writes to a file; others are not asked"),
        false => Check::of(NAME, files),
    }
}
