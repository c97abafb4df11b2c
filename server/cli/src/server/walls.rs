//! The files that the server's own process may use from its start on: what the configuration names, made where the server
//! would make it.
//!
//! Rules cannot be added later. So what the configuration names anew at a SIGHUP is followed as far as the rules allow,
//! and the log says what takes a restart ([`say_what_needs_a_restart`]).

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_config::{
    AuditKind, Config, DeviceKind, Landlock, Listener, PinSource, RaftStorage, SealKind, Storage, TlsSettings,
};
use holdfast_core::audit::Rules;
use holdfast_hsm::{FileRules, FileUse, ServerFiles, confine_server, outside_rules};

use super::flags::Flags;

/// What the process is kept to, and what there is to say of it when there is a log.
pub struct Walls {
    files: ServerFiles,
    rules: FileRules,
    /// Why nobody asked for rules.
    off: Option<&'static str>,
    troubles: Vec<String>,
}

const BY_DEV: &str = "a server to try things out (-dev) has none";
const BY_STANZA: &str = "landlock = \"off\" in the stanza confinement";
const BY_AUDIT: &str = "unsafe_allow_api_audit_creation lets the API name any file; with landlock = \"on\" in the stanza \
                        confinement it names files below audit_directories and write_paths";

/// Confine this process, for good.
pub fn confine(config: &Config, flags: &Flags) -> Result<Walls, String> {
    let off = is_off(config, flags.dev);
    let mut troubles = Vec::new();
    if off.is_none() {
        make_folders(config, &mut troubles)?;
        // A library makes temporary files (of profiles), and the usual folder for them is everybody's.
        if let Some(folder) = store(config) {
            let _set_by_a_test_before = tempfile::env::override_temp_dir(folder);
        }
    }
    let files = named(config, flags);
    let rules = confine_server(off.is_none().then_some(&files))
        .map_err(|e| format!("the server cannot be confined, and does not serve without: {e}"))?;
    if rules == FileRules::NoLandlock && config.confinement.landlock == Some(Landlock::Require) {
        return Err(
            "the stanza confinement requires Landlock, and this kernel has none, or has it switched off: boot a \
                    kernel with it (5.13 or later, lsm=landlock,…), or set landlock = \"on\""
                .into(),
        );
    }
    Ok(Walls { files, rules, off, troubles })
}

/// Why a configuration has no rules for files, if it has none.
pub fn is_off(config: &Config, dev: bool) -> Option<&'static str> {
    match config.confinement.landlock {
        _ if dev => Some(BY_DEV),
        Some(Landlock::Off) => Some(BY_STANZA),
        Some(Landlock::On | Landlock::Require) => None,
        None => (config.unsafe_allow_api_audit_creation == Some(true)).then_some(BY_AUDIT),
    }
}

impl Walls {
    pub fn tell(&self) {
        match (self.rules, self.off) {
            (FileRules::Enforced, _) => {
                tracing::debug!("the server uses the files that its configuration names alone (Landlock)")
            }
            (FileRules::NoLandlock, _) => tracing::warn!(
                "the server's files are not confined: this kernel has no Landlock, or has it switched off. Its permissions \
                 alone count (stanza confinement, landlock = \"require\" refuses to serve so)"
            ),
            (FileRules::Off, Some(why)) => tracing::warn!("the server's files are not confined: {why}"),
            (FileRules::Off, None) => {}
        }
        for trouble in &self.troubles {
            tracing::warn!("{trouble}");
        }
    }

    /// What a configuration that was read again names beside what it named at the start, and the rules do not allow.
    pub fn say_what_needs_a_restart(&self, config: &Config, flags: &Flags) {
        let now = named(config, flags);
        for (path, to) in now.places() {
            if !self.files.places().any(|known| known == (path, to)) && outside_rules(path, to).is_some() {
                tracing::error!(
                    path = %path.display(),
                    "the configuration names a place that the server's own rules (Landlock) do not know, since it named it \
                     after the start: what is there is used after a restart"
                );
            }
        }
    }
}

/// Every place that a configuration names for the server's own process. What devices need is their helpers'.
fn named(config: &Config, flags: &Flags) -> ServerFiles {
    let mut files = ServerFiles::default();
    for path in &flags.config {
        match path.is_dir() {
            true => files.allow(path, FileUse::Read),
            false => files.allow_folder_of(path, FileUse::Read),
        }
    }
    if let Some(folder) = store(config) {
        files.allow(folder, FileUse::Write);
    }
    if let Some(Storage::Raft(raft)) = &config.storage {
        join_files(raft).for_each(|path| files.allow_folder_of(path, FileUse::Read));
    }
    if let Some(log) = &config.log.file {
        match log.is_dir() {
            true => files.allow(log, FileUse::Write),
            false => files.allow_folder_of(log, FileUse::Write),
        }
    }
    for file in audit_files(config) {
        match is_device(&file) {
            true => files.allow(&file, FileUse::Write),
            false => files.allow_folder_of(&file, FileUse::Write),
        }
    }
    spools(config).for_each(|folder| files.allow(&folder, FileUse::Write));
    audit_directories(config).iter().for_each(|folder| files.allow(folder, FileUse::Write));
    if let Some(file) = &config.pid_file {
        files.allow_folder_of(file, FileUse::PidFile);
    }
    for listener in &config.listeners {
        match listener {
            Listener::Unix(unix) => files.allow_folder_of(&unix.path, FileUse::Sockets),
            Listener::Tcp(tcp) => {
                tcp.tls.iter().flat_map(tls_files).for_each(|path| files.allow_folder_of(path, FileUse::Read))
            }
        }
    }
    secrets(config).into_iter().for_each(|path| files.allow_folder_of(path, FileUse::Read));
    config.confinement.read_paths.iter().for_each(|path| files.allow(path, FileUse::Read));
    config.confinement.write_paths.iter().for_each(|path| files.allow(path, FileUse::Write));
    files
}

fn store(config: &Config) -> Option<&Path> {
    match config.storage.as_ref()? {
        Storage::File { path } => Some(path),
        Storage::Raft(raft) => Some(&raft.path),
        Storage::Inmem => None,
    }
}

fn join_files(raft: &RaftStorage) -> impl Iterator<Item = &PathBuf> {
    raft.retry_join.iter().flat_map(|join| {
        [&join.leader_ca_cert_file, &join.leader_client_cert_file, &join.leader_client_key_file, &join.join_token_file]
            .into_iter()
            .flatten()
    })
}

fn tls_files(tls: &TlsSettings) -> impl Iterator<Item = &PathBuf> {
    [&tls.cert_file, &tls.key_file].into_iter().chain(&tls.client_ca_file)
}

fn option<'c>(device: &'c holdfast_config::AuditDevice, names: &[&str]) -> Option<&'c str> {
    let value = |name: &&str| device.options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    names.iter().find_map(value)
}

/// Standard output and nowhere are no files.
fn audit_files(config: &Config) -> impl Iterator<Item = PathBuf> {
    let devices = config.audit.iter().filter(|device| device.kind == AuditKind::File);
    let no_file = |path: &str| ["stdout", "discard"].iter().any(|word| path.eq_ignore_ascii_case(word));
    devices
        .filter_map(|device| option(device, &["file_path", "path"]))
        .filter(move |path| !no_file(path))
        .map(PathBuf::from)
}

fn spools(config: &Config) -> impl Iterator<Item = PathBuf> {
    config
        .audit
        .iter()
        .filter_map(|device| option(device, &["spool_path"]))
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
}

fn is_device(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

/// Files with what devices and seals ask for, which the server hands to their helpers.
fn secrets(config: &Config) -> Vec<&Path> {
    let mut files: Vec<&Path> = Vec::new();
    for seal in &config.seals {
        match &seal.kind {
            SealKind::Shamir | SealKind::Software { .. } => {}
            SealKind::Static(keys) => {
                files.extend(std::iter::once(&keys.current).chain(&keys.previous).filter_map(|key| in_file(&key.key)));
            }
            SealKind::Pkcs11(seal) => files.extend(seal.pin.as_ref().and_then(in_file)),
            SealKind::Tpm(seal) => {
                files.extend(seal.pin.as_ref().and_then(in_file));
                files.extend(seal.hierarchy_auth_file.as_deref());
            }
            SealKind::YubiHsm(seal) => files.extend(seal.hsm.password.as_ref().and_then(in_file)),
        }
    }
    for device in &config.devices {
        files.extend(device.kind.pin().and_then(in_file));
        if let DeviceKind::Tpm(tpm) = &device.kind {
            files.extend(tpm.hierarchy_auth_file.as_deref());
        }
    }
    files
}

fn in_file(source: &PinSource) -> Option<&Path> {
    match source {
        PinSource::File(path) => Some(path),
        PinSource::Given(_) | PinSource::Environment(_) => None,
    }
}

/// Folders that the server makes by itself have to be there before there are rules about them.
fn make_folders(config: &Config, troubles: &mut Vec<String>) -> Result<(), String> {
    if let Some(folder) = store(config) {
        make(folder).map_err(|e| format!("cannot create the folder {}: {e}", folder.display()))?;
    }
    let of_audit =
        audit_files(config).filter(|file| !is_device(file)).filter_map(|file| file.parent().map(Path::to_owned));
    let mut others: Vec<PathBuf> = of_audit.chain(spools(config)).collect();
    others.extend(config.audit_directories.iter().flatten().cloned());
    others.extend(config.devices.iter().filter_map(|device| match &device.kind {
        DeviceKind::Tpm(tpm) => Some(tpm.keys.clone()),
        _ => None,
    }));
    // The usual ones too, where that may be done: the API may name files in them at any time. Nobody asked for them, so nothing
    // is said where it may not.
    if config.audit_directories.is_none() && config.unsafe_allow_api_audit_creation.is_none() {
        audit_directories(config).iter().for_each(|folder| drop(make(folder)));
    }
    for folder in others.iter().filter(|folder| !folder.as_os_str().is_empty()) {
        if let Err(e) = make(folder) {
            troubles.push(format!("the folder {} cannot be made: {e}", folder.display()));
        }
    }
    let confinement = &config.confinement;
    for path in confinement.read_paths.iter().chain(&confinement.write_paths).filter(|path| !path.exists()) {
        troubles.push(format!(
            "{} of the stanza confinement is not there: what comes there later is used after a restart",
            path.display()
        ));
    }
    Ok(())
}

/// Where the API may put audit files.
pub fn audit_directories(config: &Config) -> Arc<[PathBuf]> {
    config.audit_directories.clone().map_or_else(|| Rules::default().directories, Into::into)
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use holdfast_config::Offer;

    use super::*;
    use crate::server::{SEALS, STORAGES};

    fn read(text: &str) -> Config {
        Config::parse(Path::new("test.hcl"), text, &Offer::new(STORAGES, SEALS)).expect("a configuration").0
    }

    #[test]
    fn each_place_that_a_configuration_names_is_allowed_for_its_use() {
        let config = read(
            r#"
            storage "raft" {
              path = "/srv/data"
              retry_join {
                leader_api_addr      = "https://a:8200"
                leader_ca_cert_file  = "/srv/join/ca.pem"
                join_token_file      = "/srv/token/t"
              }
            }
            listener "tcp" {
              address            = "127.0.0.1:0"
              tls_cert_file      = "/srv/tls/cert.pem"
              tls_key_file       = "/srv/keys/key.pem"
              tls_client_ca_file = "/srv/clients/ca.pem"
            }
            listener "unix" { address = "/srv/run/api.sock" }
            log_file = "/srv/log/holdfast.log"
            pid_file = "/srv/pid/holdfast.pid"
            audit "file" "a" { options { file_path = "/srv/audit/a.log" } }
            audit "file" "b" { options { file_path = "stdout" } }
            audit "socket" "c" { options { address = "127.0.0.1:1" spool_path = "/srv/spool" } }
            audit_directories = ["/srv/more"]
            seal "static" {
              current_key_id = "a"
              current_key    = "file:///srv/static/key"
            }
            device "pkcs11" "main" {
              lib         = "/opt/lib.so"
              token_label = "x"
              pin_file    = "/srv/pins/pin"
            }
            device "tpm" "chip" {
              keys                = "/srv/tpm"
              hierarchy_auth_file = "/srv/auth/owner"
            }
            confinement {
              read_paths  = ["/srv/in"]
              write_paths = ["/srv/backups"]
            }
            "#,
        );
        let flags = Flags { config: vec!["/srv/etc/holdfast.hcl".into()], ..Flags::default() };
        let files = named(&config, &flags);
        let mut found: Vec<(String, FileUse)> = files.places().map(|(p, to)| (p.display().to_string(), to)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("/srv/audit", FileUse::Write),
            ("/srv/auth", FileUse::Read),
            ("/srv/backups", FileUse::Write),
            ("/srv/clients", FileUse::Read),
            ("/srv/data", FileUse::Write),
            ("/srv/etc", FileUse::Read),
            ("/srv/in", FileUse::Read),
            ("/srv/join", FileUse::Read),
            ("/srv/keys", FileUse::Read),
            ("/srv/log", FileUse::Write),
            ("/srv/more", FileUse::Write),
            ("/srv/pid", FileUse::PidFile),
            ("/srv/pins", FileUse::Read),
            ("/srv/run", FileUse::Sockets),
            ("/srv/spool", FileUse::Write),
            ("/srv/static", FileUse::Read),
            ("/srv/tls", FileUse::Read),
            ("/srv/token", FileUse::Read),
        ];
        assert_eq!(found, expected.map(|(path, to)| (path.to_owned(), to)));
    }

    #[test]
    fn rules_are_off_where_they_are_not_asked_for_alone() {
        assert_eq!(is_off(&read(""), false), None);
        assert_eq!(is_off(&read(""), true), Some(BY_DEV));
        assert_eq!(is_off(&read("confinement { landlock = \"off\" }"), false), Some(BY_STANZA));
        assert_eq!(is_off(&read("unsafe_allow_api_audit_creation = true"), false), Some(BY_AUDIT));
        let both = "unsafe_allow_api_audit_creation = true\nconfinement { landlock = \"on\" }";
        assert_eq!(is_off(&read(both), false), None);
        assert_eq!(is_off(&read("unsafe_allow_api_audit_creation = false"), false), None);
    }
}
