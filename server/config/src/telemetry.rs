//! `telemetry`: metrics.

use std::time::Duration;

use crate::ConfigError;
use crate::Warning;
use crate::listener::set;
use crate::stanza::Stanza;

/// `telemetry`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// How long a metric without news is kept for Prometheus; `None`: it is
    /// not offered in that form.
    pub prometheus_retention_time: Option<Duration>,
    /// Leave the host's name out of gauges.
    pub disable_hostname: bool,
    /// Put the host's name into a label.
    pub enable_hostname_label: bool,
    /// What names begin with.
    pub metrics_prefix: String,
    /// How often what is stored is counted; `None`: not at all.
    pub usage_gauge_period: Option<Duration>,
    /// How many values a gauge's labels may have.
    pub maximum_gauge_cardinality: u64,
    /// The width of a bucket of lease ends.
    pub lease_metrics_epsilon: Duration,
    /// How many buckets of lease ends there are.
    pub num_lease_metrics_buckets: u64,
    /// Label lease ends by namespace.
    pub add_lease_metrics_namespace_labels: bool,
    /// Label rollbacks by mount.
    pub add_mount_point_rollback_metrics: bool,
    /// Metrics that no filter names are kept.
    pub filter_default: bool,
    /// Prefixes of metrics that are kept (`+vault.token`) or left out
    /// (`-vault.expire`).
    pub prefix_filter: Vec<String>,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry {
            prometheus_retention_time: Some(Duration::from_secs(86_400)),
            disable_hostname: false,
            enable_hostname_label: false,
            metrics_prefix: "vault".to_owned(),
            usage_gauge_period: Some(Duration::from_secs(600)),
            maximum_gauge_cardinality: 500,
            lease_metrics_epsilon: Duration::from_secs(3600),
            num_lease_metrics_buckets: 168,
            add_lease_metrics_namespace_labels: false,
            add_mount_point_rollback_metrics: false,
            filter_default: true,
            prefix_filter: Vec::new(),
        }
    }
}

pub(crate) fn read(s: &mut Stanza<'_>, warnings: &mut Vec<Warning>) -> Result<Telemetry, ConfigError> {
    let mut telemetry = Telemetry::default();
    let some = |duration: Duration| (!duration.is_zero()).then_some(duration);
    if let Some(time) = s.duration("prometheus_retention_time")? {
        telemetry.prometheus_retention_time = some(time);
    }
    if let Some(period) = s.duration("usage_gauge_period")? {
        telemetry.usage_gauge_period = some(period);
    }
    set(&mut telemetry.disable_hostname, s.bool("disable_hostname")?);
    set(&mut telemetry.enable_hostname_label, s.bool("enable_hostname_label")?);
    set(&mut telemetry.metrics_prefix, s.text("metrics_prefix")?);
    set(&mut telemetry.maximum_gauge_cardinality, s.number("maximum_gauge_cardinality")?);
    set(&mut telemetry.lease_metrics_epsilon, crate::listener::positive(s, "lease_metrics_epsilon")?);
    set(&mut telemetry.num_lease_metrics_buckets, s.number("num_lease_metrics_buckets")?);
    set(&mut telemetry.add_lease_metrics_namespace_labels, s.bool("add_lease_metrics_namespace_labels")?);
    set(&mut telemetry.add_mount_point_rollback_metrics, s.bool("add_mount_point_rollback_metrics")?);
    set(&mut telemetry.filter_default, s.bool("filter_default")?);
    if let Some(filters) = s.strings("prefix_filter")? {
        if let Some(wrong) = filters.iter().find(|filter| !filter.starts_with(['+', '-'])) {
            return Err(s.wrong("prefix_filter", wrong, "a prefix behind + or -, as in \"+vault.token\""));
        }
        telemetry.prefix_filter = filters;
    }
    s.ignored(
        &[
            "statsd_address",
            "statsite_address",
            "dogstatsd_addr",
            "dogstatsd_tags",
            "stackdriver_project_id",
            "stackdriver_location",
            "stackdriver_namespace",
            "stackdriver_debug_logs",
            "circonus_api_token",
            "circonus_api_app",
            "circonus_api_url",
            "circonus_submission_interval",
            "circonus_submission_url",
            "circonus_check_id",
            "circonus_check_force_metric_activation",
            "circonus_check_instance_id",
            "circonus_check_search_tag",
            "circonus_check_tags",
            "circonus_check_display_name",
            "circonus_broker_id",
            "circonus_broker_select_tag",
        ],
        "it is not offered; metrics are read by Prometheus at sys/metrics",
        warnings,
    );
    Ok(telemetry)
}
