//! What may stand at the top of a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_hcl::Object;

use crate::listener::{positive, set};
use crate::merge::Draft;
use crate::stanza::Stanza;
use crate::url::is_http_url;
use crate::{
    ConfigError, ConfigErrorKind, Offer, Storage, audit, audit_signing, confinement, device, entropy, listener,
    lockout, log, seal, storage, telemetry,
};

/// Adds one file to a configuration.
pub(crate) fn read(draft: &mut Draft, file: &Path, document: &Object, offer: &Offer<'_>) -> Result<(), ConfigError> {
    let mut top = Stanza::top(file, document);
    refuse(&mut top)?;
    stanzas(&mut top, draft, offer)?;
    addresses(&mut top, draft)?;
    durations_and_sizes(&mut top, draft)?;
    switches(&mut top, draft)?;
    log::read(&mut top, &mut draft.config.log, &mut draft.warnings)?;
    without_effect(&mut top, draft);
    top.finish(&mut draft.warnings);
    Ok(())
}

/// Stanzas that change what the server is, and that it does not have.
fn refuse(top: &mut Stanza<'_>) -> Result<(), ConfigError> {
    for what in ["ha_storage", "ha_backend"] {
        if let Some(item) = top.item(what) {
            let next = "storage \"raft\" is available to every node by itself, so remove the stanza";
            return Err(top.error(item.position(), ConfigErrorKind::Refused { what, next }));
        }
    }
    Ok(())
}

fn stanzas(top: &mut Stanza<'_>, draft: &mut Draft, offer: &Offer<'_>) -> Result<(), ConfigError> {
    let config = &mut draft.config;
    let warnings = &mut draft.warnings;
    for block in top.blocks("listener", 1)? {
        config.listeners.push(listener::read(top, &block, warnings)?);
    }
    let mut storages = top.blocks("storage", 1)?;
    storages.extend(top.blocks("backend", 1)?);
    if let Some(second) = storages.get(1) {
        return Err(top.error(second.position, ConfigErrorKind::Twice("storage".to_owned())));
    }
    if let Some(block) = storages.first() {
        let storage = storage::read(top, block, offer, warnings)?;
        if let Storage::Raft(raft) = &storage {
            set(&mut config.max_entry_size_bytes, raft.max_entry_size_bytes);
        }
        config.storage = Some(storage);
    }
    let mut seals = top.blocks_of("seal", 1..=2)?;
    seals.extend(top.blocks("hsm", 1)?);
    for block in seals {
        config.seals.push(seal::read(top, &block, offer, warnings)?);
    }
    for block in top.blocks("device", 2)? {
        device::read(top, &block, &mut config.devices)?;
    }
    for block in top.blocks("audit", 2)? {
        let device = audit::read(top, &block, warnings)?;
        if config.audit.iter().any(|other| other.path == device.path) {
            let what = format!("audit device at {:?}", device.path);
            return Err(top.error(block.position, ConfigErrorKind::Twice(what)));
        }
        config.audit.push(device);
    }
    if let Some(stanza) = top.block("audit_signing")? {
        config.audit_signing = Some(audit_signing::read(stanza)?);
    }
    if let Some(stanza) = top.block("confinement")? {
        config.confinement = confinement::read(stanza)?;
    }
    for block in top.blocks("entropy", 1)? {
        config.entropy_of_seals |= entropy::read(top, &block)?;
    }
    for block in top.blocks("user_lockout", 1)? {
        let lockout = lockout::read(top, &block, warnings)?;
        config.user_lockouts.retain(|other| other.scope != lockout.scope);
        config.user_lockouts.push(lockout);
    }
    if let Some(mut stanza) = top.block("telemetry")? {
        config.telemetry = telemetry::read(&mut stanza, warnings)?;
        stanza.finish(warnings);
    }
    Ok(())
}

fn addresses(top: &mut Stanza<'_>, draft: &mut Draft) -> Result<(), ConfigError> {
    const EXPECTED: &str = "a URL, as in \"https://vault.example.com:8200\"";
    let config = &mut draft.config;
    for (key, address) in [("api_addr", &mut config.api_addr), ("cluster_addr", &mut config.cluster_addr)] {
        match top.text(key)? {
            Some(url) if !is_http_url(&url) => return Err(top.wrong(key, &url, EXPECTED)),
            Some(url) => *address = Some(url),
            None => {}
        }
    }
    if let Some(name) = top.text("cluster_name")? {
        config.cluster_name = Some(name);
    }
    if let Some(file) = top.path("pid_file")? {
        config.pid_file = Some(file);
    }
    Ok(())
}

fn durations_and_sizes(top: &mut Stanza<'_>, draft: &mut Draft) -> Result<(), ConfigError> {
    let larger = |into: &mut Option<Duration>, ttl: Option<Duration>| {
        if let Some(ttl) = ttl {
            *into = Some(into.unwrap_or_default().max(ttl));
        }
    };
    larger(&mut draft.default_lease_ttl, positive(top, "default_lease_ttl")?);
    larger(&mut draft.max_lease_ttl, positive(top, "max_lease_ttl")?);
    let config = &mut draft.config;
    set(&mut config.max_request_size_bytes, top.size("max_request_size")?);
    set(&mut config.max_request_duration, positive(top, "default_max_request_duration")?);
    set(&mut config.max_request_duration, positive(top, "max_request_duration")?);
    set(&mut config.max_entry_size_bytes, top.size("max_entry_size")?);
    if let Some(size) = top.number("cache_size")?.filter(|size| *size > 0) {
        config.cache_size = Some(config.cache_size.unwrap_or_default().max(size));
    }
    Ok(())
}

fn switches(top: &mut Stanza<'_>, draft: &mut Draft) -> Result<(), ConfigError> {
    let config = &mut draft.config;
    for (key, switch) in [
        ("ui", &mut config.ui),
        ("disable_mlock", &mut config.disable_mlock),
        ("raw_storage_endpoint", &mut config.raw_storage_endpoint),
        ("introspection_endpoint", &mut config.introspection_endpoint),
        ("enable_response_header_hostname", &mut config.enable_response_header_hostname),
        ("enable_response_header_raft_node_id", &mut config.enable_response_header_raft_node_id),
        ("disable_cache", &mut config.disable_cache),
        ("disable_clustering", &mut config.disable_clustering),
        ("allow_audit_log_prefixing", &mut config.allow_audit_log_prefixing),
    ] {
        *switch |= top.bool(key)?.unwrap_or(false);
    }
    if let Some(allowed) = top.bool("enable_multiseal")? {
        config.enable_multiseal = Some(allowed || config.enable_multiseal.unwrap_or(false));
    }
    // Of two files the stricter one counts.
    if let Some(allowed) = top.bool("unsafe_allow_api_audit_creation")? {
        config.unsafe_allow_api_audit_creation =
            Some(allowed && config.unsafe_allow_api_audit_creation.unwrap_or(true));
    }
    if let Some(folders) = top.strings("audit_directories")? {
        let folders: Vec<PathBuf> = folders.into_iter().map(PathBuf::from).collect();
        if let Some(relative) = folders.iter().find(|folder| !folder.is_absolute()) {
            return Err(top.wrong("audit_directories", &relative.display().to_string(), "absolute paths of folders"));
        }
        config.audit_directories = Some(folders);
    }
    Ok(())
}

fn without_effect(top: &mut Stanza<'_>, draft: &mut Draft) {
    let warnings = &mut draft.warnings;
    top.ignored(
        &["service_registration"],
        "the server registers nowhere; point your load balancer at sys/health",
        warnings,
    );
    top.ignored(&["initialize", "self_init"], "the server is initialised by `operator init`", warnings);
    top.ignored(
        &[
            "plugin",
            "plugin_directory",
            "plugin_tmpdir",
            "plugin_file_uid",
            "plugin_file_permissions",
            "plugin_auto_download",
            "plugin_auto_register",
            "plugin_download_behavior",
            "plugin_download_max_size",
        ],
        "engines and auth methods are part of the program; there are no plugins",
        warnings,
    );
    top.ignored(
        &[
            "license_path",
            "sentinel",
            "reporting",
            "experiments",
            "disable_performance_standby",
            "disable_sealwrap",
            "disable_indexing",
            "disable_printable_check",
            "administrative_namespace_path",
            "detect_deadlocks",
            "imprecise_lease_role_tracking",
            "enable_post_unseal_trace",
            "post_unseal_trace_directory",
            "allow_unauthenticated_rekey",
            "adaptive_overload_protection",
        ],
        "it concerns another program's insides",
        warnings,
    );
}
