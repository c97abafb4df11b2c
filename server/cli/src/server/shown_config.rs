//! The configuration as `sys/config/state/sanitized` shows it: under the reference's names, without what
//! opens anything. Of seals and storage only the type is shown.

use holdfast_config::{Config, Listener, LogSettings, Storage, Telemetry};
use holdfast_sdk::{Map, Value};
use serde_json::json;

pub fn shown(config: &Config) -> Map<String, Value> {
    let mut m = Map::new();
    let mut set = |name: &str, value: Value| {
        m.insert(name.into(), value);
    };
    let text = |t: &Option<String>| Value::from(t.clone().unwrap_or_default());
    set("allow_audit_log_prefixing", config.allow_audit_log_prefixing.into());
    set("api_addr", text(&config.api_addr));
    set("cache_size", config.cache_size.unwrap_or(0).into());
    set("cluster_addr", text(&config.cluster_addr));
    set("cluster_name", text(&config.cluster_name));
    set("default_lease_ttl", config.default_lease_ttl.as_secs().into());
    set("default_max_request_duration", config.max_request_duration.as_secs().into());
    set("disable_cache", config.disable_cache.into());
    set("disable_clustering", config.disable_clustering.into());
    set("enable_response_header_hostname", config.enable_response_header_hostname.into());
    set("enable_response_header_raft_node_id", config.enable_response_header_raft_node_id.into());
    set("enable_ui", config.ui.into());
    set("introspection_endpoint", config.introspection_endpoint.into());
    set("listeners", config.listeners.iter().map(listener).collect());
    // As in the reference, nothing where it is what it would be without a word in the configuration.
    let usual = LogSettings::default();
    let word = |usual: bool, word: String| Value::from(if usual { String::new() } else { word.to_lowercase() });
    set("log_format", word(config.log.format == usual.format, format!("{:?}", config.log.format)));
    set("log_level", word(config.log.level == usual.level, format!("{:?}", config.log.level)));
    set("max_lease_ttl", config.max_lease_ttl.as_secs().into());
    let pid_file = config.pid_file.as_ref().map(|p| p.display().to_string());
    set("pid_file", pid_file.unwrap_or_default().into());
    set("raw_storage_endpoint", config.raw_storage_endpoint.into());
    set("seals", seals(config));
    if !config.devices.is_empty() {
        let device = |d: &holdfast_config::Device| json!({"type": d.kind.word(), "name": d.name});
        set("devices", config.devices.iter().map(device).collect());
    }
    set("storage", json!({"type": storage(config), "disable_clustering": config.disable_clustering}));
    set("telemetry", telemetry(&config.telemetry));
    set("unsafe_allow_api_audit_creation", config.unsafe_allow_api_audit_creation.unwrap_or(false).into());
    for (name, value) in ELSEWHERE {
        set(name, value.parse().unwrap_or_default());
    }
    m
}

/// Settings that the reference has and this server does not, with the value that tells how it behaves.
const ELSEWHERE: &[(&str, &str)] = &[
    ("allow_unauthenticated_workflows", "false"),
    ("cluster_cipher_suites", "\"\""),
    ("detect_deadlocks", "\"\""),
    ("disable_indexing", "false"),
    ("disable_performance_standby", "false"),
    ("disable_printable_check", "false"),
    ("disable_sealwrap", "false"),
    ("disable_sentinel_trace", "false"),
    ("disable_ssct_tokens", "true"),
    ("disable_standby_reads", "false"),
    ("imprecise_lease_role_tracking", "false"),
    ("log_requests_level", "\"\""),
    ("plugin_directory", "\"\""),
    ("plugin_file_permissions", "0"),
    ("plugin_file_uid", "0"),
    ("unsafe_cross_namespace_identity", "false"),
    ("unsafe_relative_paths", "false"),
];

fn listener(listener: &Listener) -> Value {
    match listener {
        Listener::Unix(u) => json!({"type": "unix", "config": {"address": u.path.display().to_string()}}),
        Listener::Tcp(t) => {
            let mut config = json!({"address": t.address, "tls_disable": t.tls.is_none()});
            if let Some(tls) = &t.tls {
                config["tls_cert_file"] = tls.cert_file.display().to_string().into();
                config["tls_key_file"] = tls.key_file.display().to_string().into();
                config["tls_require_and_verify_client_cert"] = tls.require_and_verify_client_cert.into();
            }
            json!({"type": "tcp", "config": config})
        }
    }
}

fn seals(config: &Config) -> Value {
    let one = |kind: &str, disabled: bool| json!({"type": kind, "disabled": disabled});
    if config.seals.is_empty() {
        return [one("shamir", false)].into_iter().collect();
    }
    config.seals.iter().map(|s| one(s.kind.word(), s.disabled)).collect()
}

fn storage(config: &Config) -> &'static str {
    match &config.storage {
        Some(Storage::File { .. }) => "file",
        Some(Storage::Raft(_)) => "raft",
        Some(Storage::Inmem) | None => "inmem",
    }
}

fn telemetry(t: &Telemetry) -> Value {
    json!({
        "add_lease_metrics_namespace_labels": t.add_lease_metrics_namespace_labels,
        "disable_hostname": t.disable_hostname,
        "enable_hostname_label": t.enable_hostname_label,
        "lease_metrics_epsilon": t.lease_metrics_epsilon.as_nanos() as u64,
        "maximum_gauge_cardinality": t.maximum_gauge_cardinality,
        "metrics_prefix": t.metrics_prefix,
        "num_lease_metrics_buckets": t.num_lease_metrics_buckets,
        "prometheus_retention_time": t.prometheus_retention_time.map_or(0, |d| d.as_nanos() as u64),
        "usage_gauge_period": t.usage_gauge_period.map_or(0, |d| d.as_nanos() as u64),
    })
}
