//! Each alert rule of docs/alerts with values: that it fires, and that it does not, as `promtool test rules` sees it.
//!
//! The series are those of a server, with its labels: another test scrapes one and looks for each ([`not_in`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::PathBuf;

use holdfast_tests::program::{command, repository, run};
use serde_json::{Value, json};

use crate::metrics::yaml;
use crate::prometheus::PROMTOOL;

/// A series as a server tells it, and its values from minute to minute in Prometheus's notation.
type Values = &'static [(&'static str, &'static str)];

struct Case {
    alert: &'static str,
    /// Minutes.
    at: u32,
    fires: Values,
    /// Nearly the same, of which nobody shall be told.
    quiet: Values,
}

const fn case(alert: &'static str, at: u32, fires: Values, quiet: Values) -> Case {
    Case { alert, at, fires, quiet }
}

const CASES: &[Case] = &[
    case("HoldfastDown", 5, &[("up", "1 0x5")], &[("up", "1x3 0 1x3")]),
    case("HoldfastSealed", 5, &[("vault_core_unsealed", "1 0x5")], &[("vault_core_unsealed", "1x6")]),
    case("HoldfastNoActiveNode", 5, &[("vault_core_active", "1 0x5")], &[("vault_core_active", "0 1 0 1 0 1 0")]),
    case(
        "HoldfastActiveNodeChangesOften",
        70,
        &[("holdfast_activations", "1x20 1+1x50")],
        &[("holdfast_activations", "40x70")],
    ),
    case(
        "HoldfastErrorsBurnTheBudget",
        90,
        &[
            ("holdfast_request_results{class=\"5xx\"}", "0+2x90"),
            ("holdfast_request_results{class=\"2xx\"}", "0+98x90"),
        ],
        &[
            ("holdfast_request_results{class=\"5xx\"}", "0+1x90"),
            ("holdfast_request_results{class=\"2xx\"}", "0+99x90"),
        ],
    ),
    // What is over is no reason to wake somebody.
    case(
        "HoldfastErrorsBurnTheBudget",
        90,
        &[
            ("holdfast_request_results{class=\"5xx\"}", "0+9x90"),
            ("holdfast_request_results{class=\"4xx\"}", "0+90x90"),
        ],
        &[
            ("holdfast_request_results{class=\"5xx\"}", "0+9x80 729x10"),
            ("holdfast_request_results{class=\"2xx\"}", "0+90x90"),
        ],
    ),
    case(
        "HoldfastErrors",
        400,
        &[
            ("holdfast_request_results{class=\"5xx\"}", "0+1x400"),
            ("holdfast_request_results{class=\"2xx\"}", "0+500x400"),
        ],
        &[
            ("holdfast_request_results{class=\"5xx\"}", "0+1x400"),
            ("holdfast_request_results{class=\"2xx\"}", "0+2000x400"),
        ],
    ),
    case(
        "HoldfastSlow",
        15,
        &[("vault_core_handle_request{quantile=\"0.99\"}", "600x15")],
        &[
            ("vault_core_handle_request{quantile=\"0.99\"}", "400x15"),
            ("vault_core_handle_request{quantile=\"0.5\"}", "600x15"),
        ],
    ),
    case(
        "HoldfastTooManyRequestsUnderWay",
        10,
        &[("vault_core_in_flight_requests", "6000x10")],
        &[("vault_core_in_flight_requests", "4000x10")],
    ),
    case(
        "HoldfastAuditRefused",
        6,
        &[("vault_audit_log_request_failure", "0x3 1x3")],
        &[("vault_audit_log_request_failure", "1x6")],
    ),
    case(
        "HoldfastAuditRefused",
        6,
        &[("vault_audit_log_response_failure", "0x3 1x3")],
        &[("vault_audit_log_response_failure", "1x6")],
    ),
    case(
        "HoldfastAuditDeviceFails",
        10,
        &[("holdfast_audit_device_failing{device=\"main/\",type=\"file\"}", "1x10")],
        &[("holdfast_audit_device_failing{device=\"main/\",type=\"file\"}", "1x4 0 1x6")],
    ),
    case(
        "HoldfastAuditDeviceLosesLines",
        10,
        &[("holdfast_audit_device_failures{device=\"peer/\",type=\"socket\"}", "0x5 3x5")],
        &[("holdfast_audit_device_failures{device=\"peer/\",type=\"socket\"}", "3x10")],
    ),
    case(
        "HoldfastAuditQueueGrows",
        10,
        &[("holdfast_audit_device_queue{device=\"peer/\",type=\"socket\"}", "2000x10")],
        &[("holdfast_audit_device_queue{device=\"peer/\",type=\"socket\"}", "1000x10")],
    ),
    case(
        "HoldfastAuditQueueGrows",
        10,
        &[("holdfast_audit_device_queue_bytes{device=\"peer/\",type=\"socket\"}", "5000000x10")],
        &[("holdfast_audit_device_queue_bytes{device=\"peer/\",type=\"socket\"}", "1000000x10")],
    ),
    case(
        "HoldfastAuditSlow",
        15,
        &[("holdfast_audit_device_write{device=\"main/\",type=\"file\",quantile=\"0.99\"}", "6000x15")],
        &[("holdfast_audit_device_write{device=\"main/\",type=\"file\",quantile=\"0.99\"}", "4000x15")],
    ),
    case(
        "HoldfastAuditSlow",
        15,
        &[("holdfast_audit_device_sync{device=\"main/\",type=\"file\",quantile=\"0.99\"}", "2000x15")],
        &[("holdfast_audit_device_sync{device=\"main/\",type=\"file\",quantile=\"0.99\"}", "500x15")],
    ),
    case(
        "HoldfastAuditNotSealed",
        5,
        &[("holdfast_audit_unsealed_lines{device=\"main/\",type=\"file\"}", "2500x5")],
        &[("holdfast_audit_unsealed_lines{device=\"main/\",type=\"file\"}", "2500 10 2500 10 2500 10")],
    ),
    case(
        "HoldfastAuditDiskFills",
        15,
        &[("holdfast_audit_disk_used_percent{device=\"main/\",type=\"file\"}", "80x15")],
        &[("holdfast_audit_disk_used_percent{device=\"main/\",type=\"file\"}", "79x15")],
    ),
    case(
        "HoldfastAuditDiskNearlyFull",
        5,
        &[("holdfast_audit_disk_used_percent{device=\"main/\",type=\"file\"}", "95x5")],
        &[("holdfast_audit_disk_used_percent{device=\"main/\",type=\"file\"}", "94x5")],
    ),
    case(
        "HoldfastAuditDiskNearlyFull",
        5,
        &[("holdfast_audit_disk_free_bytes{device=\"main/\",type=\"file\"}", "200000000x5")],
        &[("holdfast_audit_disk_free_bytes{device=\"main/\",type=\"file\"}", "300000000x5")],
    ),
    case(
        "HoldfastAuditPeerAway",
        10,
        &[("holdfast_audit_spool_oldest_seconds{device=\"peer/\",type=\"socket\"}", "0+60x10")],
        &[("holdfast_audit_spool_oldest_seconds{device=\"peer/\",type=\"socket\"}", "50x10")],
    ),
    case(
        "HoldfastAuditSpoolFillsUp",
        5,
        &[
            ("holdfast_audit_spool_bytes{device=\"peer/\",type=\"socket\"}", "600x5"),
            ("holdfast_audit_spool_max_bytes{device=\"peer/\",type=\"socket\"}", "1000x5"),
        ],
        &[
            ("holdfast_audit_spool_bytes{device=\"peer/\",type=\"socket\"}", "400x5"),
            ("holdfast_audit_spool_max_bytes{device=\"peer/\",type=\"socket\"}", "1000x5"),
        ],
    ),
    case(
        "HoldfastOwnActsNotAudited",
        5,
        &[("holdfast_audit_own_lines_kept", "1x5")],
        &[("holdfast_audit_own_lines_kept", "0x5")],
    ),
    case(
        "HoldfastOwnActsNotAudited",
        5,
        &[("holdfast_audit_own_lines_lost", "0x2 4x3")],
        &[("holdfast_audit_own_lines_lost", "4x5")],
    ),
    case(
        "HoldfastManyRefusals",
        20,
        &[("holdfast_requests_denied", "0+600x20")],
        &[("holdfast_requests_denied", "0+60x20")],
    ),
    case(
        "HoldfastRootTokenUsed",
        10,
        &[("holdfast_requests_by_root", "7x5 8x5")],
        &[("holdfast_requests_by_root", "7x10")],
    ),
    case("HoldfastWasSealed", 10, &[("holdfast_seals", "0x5 1x5")], &[("holdfast_seals", "1x10")]),
    case("HoldfastTokensGrow", 200, &[("vault_token_count", "150000+10x200")], &[("vault_token_count", "150000x200")]),
    case("HoldfastTokensGrow", 200, &[("vault_token_count", "100001+1x200")], &[("vault_token_count", "50000+10x200")]),
    case(
        "HoldfastIrrevocableLeases",
        15,
        &[("vault_expire_num_irrevocable_leases", "1x15")],
        &[("vault_expire_num_irrevocable_leases", "0x15")],
    ),
    case(
        "HoldfastRevocationsFail",
        60,
        &[
            ("holdfast_intent_undo_failures", "0+1x60"),
            ("holdfast_leases_revoked", "0+100x60"),
            ("holdfast_intents_undone", "0+100x60"),
        ],
        &[
            ("holdfast_intent_undo_failures", "0+1x60"),
            ("holdfast_leases_revoked", "0+1000x60"),
            ("holdfast_intents_undone", "0+1000x60"),
        ],
    ),
    case(
        "HoldfastDynamicSecretsFail",
        60,
        &[("holdfast_outside_act_failures", "0+1x60"), ("holdfast_outside_acts", "0+100x60")],
        &[("holdfast_outside_act_failures", "0+1x60"), ("holdfast_outside_acts", "0+2000x60")],
    ),
    case(
        "HoldfastTargetDown",
        15,
        &[("holdfast_outside_targets_shut", "2x15")],
        &[("holdfast_outside_targets_shut", "0x15")],
    ),
    case(
        "HoldfastLeasesGrow",
        500,
        &[("vault_expire_num_leases", "0+700x500")],
        &[("vault_expire_num_leases", "0+100x500")],
    ),
    case("HoldfastExpiryPaused", 5, &[("holdfast_expiry_paused", "1x5")], &[("holdfast_expiry_paused", "0x5")]),
    case("HoldfastWritesFail", 5, &[("holdfast_commit_failures", "2x3 3x2")], &[("holdfast_commit_failures", "3x5")]),
    case(
        "HoldfastStorageDamaged",
        5,
        &[("holdfast_storage_unreadable", "1x5")],
        &[("holdfast_storage_unreadable", "0x5")],
    ),
    case(
        "HoldfastBehind",
        10,
        &[("holdfast_raft_entries_behind", "20000x10")],
        &[("holdfast_raft_entries_behind", "9000x10")],
    ),
    case(
        "HoldfastMemberUnhealthy",
        10,
        &[("vault_autopilot_node_healthy{node_id=\"n0\"}", "0x10")],
        &[("vault_autopilot_node_healthy{node_id=\"n0\"}", "0x3 1 0x3 1x3")],
    ),
    case(
        "HoldfastNoMemberMayFail",
        10,
        &[("vault_autopilot_failure_tolerance", "0x10"), ("vault_raft_peers", "3x10")],
        &[("vault_autopilot_failure_tolerance", "0x10"), ("vault_raft_peers", "1x10")],
    ),
    // Time begins at nought here: the first has none, the second one an hour.
    case(
        "HoldfastNoProvenBackup",
        1600,
        &[("holdfast_backup_last_proven_timestamp_seconds", "0x1600")],
        &[("holdfast_backup_last_proven_timestamp_seconds", "0+60x1600")],
    ),
    case(
        "HoldfastBackupsFail",
        10,
        &[("holdfast_backup_failed_tries", "3x10")],
        &[("holdfast_backup_failed_tries", "2x10")],
    ),
    case(
        "HoldfastDeviceUnhealthy",
        10,
        &[("holdfast_device_healthy{device=\"keys\",type=\"software\"}", "0x10")],
        &[("holdfast_device_healthy{device=\"keys\",type=\"software\"}", "1x10")],
    ),
    case(
        "HoldfastSealDeviceUnhealthy",
        20,
        &[("holdfast_seal_device_healthy", "0x20")],
        &[("holdfast_seal_device_healthy", "1x20")],
    ),
    case(
        "HoldfastSealNotFullyWrapped",
        70,
        &[("holdfast_seal_fully_wrapped", "0x70")],
        &[("holdfast_seal_fully_wrapped", "0x50 1x20")],
    ),
    case(
        "HoldfastFilesRunOut",
        15,
        &[("process_open_fds", "900x15"), ("process_max_fds", "1000x15")],
        &[("process_open_fds", "700x15"), ("process_max_fds", "1000x15")],
    ),
];

/// Series of the cases that pages of servers do not have; Prometheus's own are none.
pub fn not_in(pages: &[String]) -> Vec<&'static str> {
    let series = |line: &str| (!line.starts_with('#')).then(|| line.rsplit_once(' ').map(|(name, _)| name.to_owned()));
    let there: HashSet<String> = pages.iter().flat_map(|page| page.lines().filter_map(series).flatten()).collect();
    let asked = CASES.iter().flat_map(|case| case.fires.iter().chain(case.quiet)).map(|(series, _)| *series);
    asked.filter(|series| *series != "up" && !there.contains(*series)).collect()
}

/// As Prometheus keeps it, with what it knows of the target.
fn scraped(series: &str) -> String {
    let target = "job=\"holdfast\",instance=\"vault-1:8200\"";
    match series.strip_suffix('}') {
        Some(labelled) => format!("{labelled},{target}}}"),
        None => format!("{series}{{{target}}}"),
    }
}

#[test]
fn each_alert_fires_when_it_should_and_not_when_it_should_not() {
    let rules = repository().join("docs/alerts/holdfast.rules.yml");
    let groups = yaml(&rules)["groups"].as_array().cloned().expect("groups");
    let rules: BTreeMap<String, Value> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().cloned().expect("rules"))
        .map(|rule| (rule["alert"].as_str().expect("a name").to_owned(), rule))
        .collect();
    let tried: BTreeSet<&str> = CASES.iter().map(|case| case.alert).collect();
    assert_eq!(tried, rules.keys().map(String::as_str).collect());

    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &Value| -> PathBuf {
        let path = folder.path().join(name);
        // JSON is YAML.
        fs::write(&path, content.to_string()).expect("a file");
        path
    };
    let mut promtool = command(PROMTOOL);
    promtool.args(["test", "rules"]);
    // Each rule alone: all of them over hours of each case take minutes.
    for (n, Case { alert, at, fires, quiet }) in CASES.iter().enumerate() {
        let of_alert = json!({ "groups": [{ "name": "one", "rules": [rules[*alert]] }] });
        let of_alert = file(&format!("{n}.rules.yml"), &of_alert);
        let firing = format!("count(ALERTS{{alertname={alert:?},alertstate=\"firing\"}}) or vector(0)");
        let test = |values: Values, count: u32| {
            let series = values.iter().map(|(name, values)| json!({ "series": scraped(name), "values": values }));
            let samples = json!([{ "labels": "{}", "value": count }]);
            json!({
                "interval": "1m", "input_series": series.collect::<Vec<_>>(),
                "promql_expr_test": [{ "expr": firing, "eval_time": format!("{at}m"), "exp_samples": samples }],
            })
        };
        let tests =
            json!({ "rule_files": [of_alert], "evaluation_interval": "1m", "tests": [test(fires, 1), test(quiet, 0)] });
        promtool.arg(file(&format!("{n}.tests.yml"), &tests));
    }
    run(&mut promtool).good();
}
