//! Whole configurations: what they hold, and what the merge makes of several.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_config::*;

fn nothing(_: &str) -> Option<String> {
    None
}

const OFFER: Offer<'static> = Offer {
    storages: &["inmem", "file", "raft"],
    seals: &["shamir", "pkcs11", "software", "tpm", "yubihsm"],
    environment: &nothing,
};

fn parse(text: &str) -> Config {
    let (config, warnings) = Config::parse(Path::new("c.hcl"), text, &OFFER).unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    config
}

fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let environment = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let offer = Offer { environment: &environment, ..OFFER };
    match Config::parse(Path::new("c.hcl"), text, &offer) {
        Ok((config, _)) => Ok(config),
        Err(error) => Err(error.to_string()),
    }
}

fn tcp(config: &Config) -> &TcpListener {
    match &config.listeners[0] {
        Listener::Tcp(tcp) => tcp,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_small_configuration_has_the_documented_defaults() {
    let config = parse("storage \"inmem\" {}\nlistener \"tcp\" { tls_disable = true }");
    let listener = tcp(&config);
    assert_eq!(listener.address, "127.0.0.1:8200");
    assert_eq!(listener.tls, None);
    assert_eq!(listener.max_request_json_strings, 1000);
    assert_eq!(listener.http_read_header_timeout, Duration::from_secs(10));
    assert_eq!(listener.http_idle_timeout, Duration::from_secs(300));
    assert!(listener.forwarded_for_reject_not_present);
    assert!(listener.disable_unauthed_rekey_endpoints);
    assert_eq!(config.storage, Some(Storage::Inmem));
    assert_eq!(config.max_request_size_bytes, 32 << 20);
    assert_eq!(config.max_request_duration, Duration::from_secs(90));
    assert_eq!(config.max_entry_size_bytes, 1 << 20);
    assert_eq!(config.default_lease_ttl, Duration::from_secs(768 * 3600));
    assert_eq!(config.max_lease_ttl, Duration::from_secs(768 * 3600));
    assert!(!config.disable_mlock && !config.ui);
    assert!(config.seals.is_empty());
    let minimum = TlsSettings::default().min_version;
    assert_eq!(minimum, TlsVersion::Tls12);
}

#[test]
fn every_key_of_a_listener_is_read() {
    let config = parse(
        r#"
        listener "tcp" {
          address = "0.0.0.0:8200" cluster_address = "[::1]:8201"
          tls_cert_file = "/c.pem" tls_key_file = "/k.pem" tls_client_ca_file = "/ca.pem"
          tls_min_version = "tls12" tls_max_version = "tls13" tls_cipher_suites = "A,B"
          tls_require_and_verify_client_cert = "true" tls_auto_reload = true
          proxy_protocol_behavior = "deny_unauthorized" proxy_protocol_authorized_addrs = ["10.0.0.0/8", "::1"]
          x_forwarded_for_authorized_addrs = "10.1.0.0/16, 10.2.0.1" x_forwarded_for_hop_skips = "1"
          x_forwarded_for_reject_not_authorized = false x_forwarded_for_reject_not_present = false
          max_request_size = "1MiB" max_request_duration = "30s" max_request_json_memory = 4096 max_request_json_strings = 7
          require_request_header = true
          http_read_timeout = 5 http_read_header_timeout = "6s" http_write_timeout = "7s" http_idle_timeout = "1m30s"
          telemetry { unauthenticated_metrics_access = true }
          profiling { unauthenticated_pprof_access = true }
          inflight_requests_logging { unauthenticated_in_flight_requests_access = true }
          custom_response_headers {
            "default" = { "A" = ["1", "2"] }
            "4xx" = { "B" = ["3"] }
            "404" = { "C" = "4" }
          }
          disable_unauthed_rekey_endpoints = false disable_unauthed_generate_root_endpoints = false
          chroot_namespace = "team" redact_addresses = true redact_cluster_name = true redact_version = true
        }
        listener "unix" { address = "/run/h.sock" socket_mode = "0660" socket_user = "1000" socket_group = "vault" }"#,
    );
    let listener = tcp(&config);
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!(tls.cert_file, PathBuf::from("/c.pem"));
    assert_eq!(tls.client_ca_file, Some(PathBuf::from("/ca.pem")));
    assert_eq!(tls.max_version, Some(TlsVersion::Tls13));
    assert_eq!(tls.cipher_suites, ["A", "B"]);
    assert!(tls.require_and_verify_client_cert && tls.auto_reload);
    assert_eq!(listener.proxy_protocol, ProxyProtocol::DenyUnauthorized);
    assert_eq!(listener.proxy_protocol_authorized[1], Network::parse("::1").unwrap());
    assert_eq!(listener.forwarded_for_authorized.len(), 2);
    assert_eq!(listener.forwarded_for_hop_skips, 1);
    assert!(!listener.forwarded_for_reject_not_authorized);
    assert_eq!(listener.max_request_size_bytes, Some(1 << 20));
    assert_eq!(listener.max_request_duration, Some(Duration::from_secs(30)));
    assert_eq!(listener.http_write_timeout, Some(Duration::from_secs(7)));
    assert_eq!(listener.http_idle_timeout, Duration::from_secs(90));
    assert!(listener.unauthenticated_metrics_access);
    assert!(listener.unauthenticated_profiling_access);
    assert!(listener.unauthenticated_in_flight_access);
    assert_eq!(listener.custom_response_headers[1].status, HeaderStatus::Hundred(4));
    assert_eq!(listener.custom_response_headers[2].headers[0].1, ["4"]);
    assert_eq!(listener.chroot_namespace, "team");
    assert!(listener.redact_addresses && listener.redact_version);
    let Listener::Unix(unix) = &config.listeners[1] else { panic!() };
    assert_eq!(unix.path, PathBuf::from("/run/h.sock"));
    assert_eq!(unix.socket_mode, Some(0o660));
}

#[test]
fn json_says_the_same_as_hcl() {
    let hcl = parse(
        "storage \"file\" { path = \"/data\" }\nlistener \"tcp\" { tls_disable = 1 }\nlistener \"tcp\" { address = \"h:1\" tls_disable = true }\n\
         audit \"file\" \"main\" { options { file_path = \"/a\" log_raw = true } }\nmax_lease_ttl = \"10h\"",
    );
    let json = parse(
        r#"{"storage": {"file": {"path": "/data"}},
            "listener": [{"tcp": {"tls_disable": 1}}, {"tcp": {"address": "h:1", "tls_disable": "true"}}],
            "audit": {"file": {"main": {"options": {"file_path": "/a", "log_raw": true}}}},
            "max_lease_ttl": "10h"}"#,
    );
    assert_eq!(hcl, json);
    assert_eq!(hcl.audit[0].path, "main/");
    let options = &hcl.audit[0].options;
    assert_eq!(options[1], ("log_raw".to_owned(), "true".to_owned()));
    assert_eq!(hcl.default_lease_ttl, Duration::from_secs(36_000));
}

#[test]
fn raft_lockouts_telemetry_and_log_are_read() {
    let config = parse(
        r#"
        storage "raft" {
          path = "/raft" node_id = "n1" performance_multiplier = 1 max_entry_size = "2MiB"
          retry_join { leader_api_addr = "https://a:8200" leader_ca_cert_file = "/ca" }
          retry_join { leader_api_addr = "https://b:8200" }
        }
        user_lockout "all" { lockout_threshold = 3 lockout_duration = "10m" }
        user_lockout "ldap" { disable_lockout = true }
        telemetry { prometheus_retention_time = "30s" disable_hostname = true prefix_filter = ["+vault.token"] }
        log_level = "Debug" log_format = "json" log_file = "/l" log_rotate_max_files = 3
        api_addr = "https://a:8200" cluster_addr = "https://a:8201" cluster_name = "c" pid_file = "/p"
        ui = true default_lease_ttl = "1h" cache_size = 10 raw_storage_endpoint = true"#,
    );
    let Some(Storage::Raft(raft)) = &config.storage else { panic!() };
    assert_eq!(raft.node_id.as_deref(), Some("n1"));
    assert_eq!(raft.performance_multiplier, 1);
    assert_eq!(raft.retry_join[1].leader_api_addr, "https://b:8200");
    assert_eq!(config.max_entry_size_bytes, 2 << 20);
    assert_eq!(config.user_lockouts[0].threshold, 3);
    assert_eq!(config.user_lockouts[0].counter_reset, Duration::from_secs(900));
    assert!(config.user_lockouts[1].disabled);
    assert_eq!(config.telemetry.prometheus_retention_time, Some(Duration::from_secs(30)));
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.rotate_max_files, Some(3));
    assert_eq!(config.cluster_name.as_deref(), Some("c"));
    assert!(config.ui && config.raw_storage_endpoint);
}

#[test]
fn how_often_members_are_looked_after_counts_and_an_interval_of_snapshots_is_said_to_be_without_effect() {
    let text =
        "storage \"raft\" {\n path = \"/raft\"\n snapshot_interval = \"2m\"\n autopilot_reconcile_interval = \"5s\"\n}";
    let (config, warnings) = Config::parse(Path::new("c.hcl"), text, &OFFER).unwrap();
    let Some(Storage::Raft(raft)) = &config.storage else { panic!() };
    assert_eq!(raft.autopilot_reconcile_interval, Some(Duration::from_secs(5)));
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("c.hcl:3") && warnings[0].contains("snapshot_interval"),
        "{warnings:?}"
    );
    let zero = "storage \"raft\" { path = \"/raft\" autopilot_reconcile_interval = 0 }";
    assert!(Config::parse(Path::new("c.hcl"), zero, &OFFER).is_err());
}

#[test]
fn what_stays_free_of_the_disk_is_a_size_or_a_part_of_it() {
    let parse = |value: &str| {
        let text = format!("storage \"raft\" {{ path = \"/raft\" min_free_disk = {value} }}");
        Config::parse(Path::new("c.hcl"), &text, &OFFER)
    };
    for (value, wanted) in [
        ("\"5%\"", MinFreeDisk::Percent(5)),
        ("\"2GiB\"", MinFreeDisk::Bytes(2 << 30)),
        ("4096", MinFreeDisk::Bytes(4096)),
    ] {
        let (config, warnings) = parse(value).unwrap();
        let Some(Storage::Raft(raft)) = config.storage else { panic!("{value}") };
        assert_eq!((raft.min_free_disk, warnings.len()), (Some(wanted), 0), "{value}");
    }
    for wrong in ["\"0%\"", "\"51%\"", "\"-1%\"", "\"five\"", "\"%\"", "true"] {
        let said = parse(wrong).unwrap_err().to_string();
        assert!(said.contains("c.hcl:1") && said.contains("min_free_disk"), "{wrong}: {said}");
    }
}

const TOKEN: &str =
    r#"seal "pkcs11" { lib = "/l.so" token_label = "t" key_label = "k" pin = 0123 mechanism = "0x1087" }"#;

fn token(config: &Config) -> &Pkcs11Seal {
    match &config.seals[0].kind {
        SealKind::Pkcs11(token) => token,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_is_read_and_its_pin_is_not_shown() {
    let config = parse(TOKEN);
    let token = token(&config);
    assert_eq!(token.lib, PathBuf::from("/l.so"));
    assert_eq!(token.mechanism, Some(0x1087));
    let Some(PinSource::Given(pin)) = &token.pin else { panic!() };
    assert_eq!(pin.expose(), "0123");
    assert!(!format!("{config:?}").contains("0123"));
    let named = parse(
        "seal \"pkcs11\" { lib = \"l\" slot = \"0x1f\" key_id = \"0x1a2b\" pin_file = \"/pin\" mechanism = \"CKM_RSA_PKCS_OAEP\" \
         rsa_oaep_hash = \"sha256\" generate_key = \"true\" name = \"a\" priority = 2 disabled = \"true\" }\n\
         seal \"shamir\" {}\nseal \"software\" { key_file = \"/key\" }",
    );
    assert_eq!(named.seals.len(), 3);
    assert!(named.seals[0].disabled);
    let SealKind::Pkcs11(token) = &named.seals[0].kind else { panic!() };
    assert_eq!((token.slot, token.mechanism), (Some(31), Some(9)));
    assert_eq!(token.key_id, Some(vec![0x1a, 0x2b]));
    assert_eq!(token.pin, Some(PinSource::File("/pin".into())));
}

#[test]
fn a_tpm_is_read_with_its_registers() {
    let tpm = |keys: &str| match &parse(&format!("seal \"tpm\" {{ {keys} }}")).seals[0].kind {
        SealKind::Tpm(tpm) => tpm.clone(),
        other => panic!("{other:?}"),
    };
    let usual = tpm("");
    assert_eq!((usual.tcti.as_str(), usual.hierarchy, usual.pcrs), ("device:/dev/tpmrm0", "owner", vec![]));
    let select = |bank, indices: &[u8]| PcrSelection { bank, indices: indices.to_vec() };
    assert_eq!(tpm("pcrs = \"7, 0,2,0\"").pcrs, [select("sha256", &[0, 2, 7])]);
    assert_eq!(tpm("pcrs = \"SHA384:23+sha1:1\"").pcrs, [select("sha384", &[23]), select("sha1", &[1])]);
    let all =
        tpm("tcti = \"swtpm:port=7000\" hierarchy = \"endorsement\" root_handle = \"0x81000001\" pin_file = \"/pin\" \
         pcrs = \"sha256:11\" pcr_public_key = \"/k.pem\" pcr_signatures = \"/s.json\" helper_user = \"tss\"");
    assert_eq!((all.hierarchy, all.root_handle), ("endorsement", Some(0x8100_0001)));
    assert_eq!(all.pin, Some(PinSource::File("/pin".into())));
    assert_eq!(all.pcr_signatures, Some("/s.json".into()));
    assert_eq!((usual.rollback_counter, usual.rollback_accept), (None, None));
    let counts = tpm("rollback_counter = \"0x01800100\" rollback_accept = 17");
    assert_eq!((counts.rollback_counter, counts.rollback_accept), (Some(0x0180_0100), Some(17)));
}

#[test]
fn a_static_key_is_read_and_not_shown() {
    let environment: &dyn Fn(&str) -> Option<String> = &nothing;
    let offer = Offer { storages: &[], seals: &["static"], environment };
    let parse = |text: &str| Config::parse(Path::new("c.hcl"), text, &offer);
    let hex = "00".repeat(32);
    let text = format!(
        "seal \"static\" {{ current_key_id = \"k\" current_key = {hex:?} previous_key_id = \"j\" previous_key = \"env://J\" }}"
    );
    let (config, warnings) = parse(&text).unwrap();
    assert!(warnings.is_empty() && !format!("{config:?}").contains(&hex));
    let SealKind::Static(seal) = &config.seals[0].kind else { panic!() };
    assert_eq!(seal.current.key, PinSource::Given(Pin::new(hex)));
    assert_eq!(seal.previous.as_ref().unwrap().key, PinSource::Environment("J".to_owned()));
    let refuse = |keys: &str| parse(&format!("seal \"static\" {{ {keys} }}")).unwrap_err().to_string();
    assert!(refuse("current_key_id = \"k\"").starts_with("c.hcl:1:1: seal \"static\" needs current_key; "));
    assert!(refuse("current_key = \"file:///k\"").starts_with("c.hcl:1:1: seal \"static\" needs current_key_id; "));
    let short = refuse("current_key_id = \"k\" current_key = \"s3cret\"");
    assert!(short.contains("current_key of seal \"static\" \"…\" is not 32 bytes") && !short.contains("s3cret"));
}

#[test]
fn the_environment_counts_more_than_the_file_and_ours_more_than_theirs() {
    let config = with_environment(
        TOKEN,
        &[
            ("VAULT_HSM_LIB", "/v.so"),
            ("BAO_HSM_LIB", "/b.so"),
            ("VAULT_HSM_SLOT", "3"),
            ("BAO_HSM_PIN", "b"),
            ("HOLDFAST_HSM_PIN", "h"),
            ("VAULT_HSM_KEY_LABEL", ""),
            ("VAULT_API_ADDR", "https://e:8200"),
            ("BAO_LOG_LEVEL", "trace"),
            ("VAULT_UI", "true"),
        ],
    )
    .unwrap();
    let token = token(&config);
    assert_eq!(token.lib, PathBuf::from("/b.so"));
    assert_eq!(token.slot, Some(3));
    assert_eq!(token.pin, Some(PinSource::Given(Pin::new("h".to_owned()))));
    assert_eq!(token.key_label.as_deref(), Some("k"));
    assert_eq!(config.api_addr.as_deref(), Some("https://e:8200"));
    assert_eq!(config.log.level, LogLevel::Trace);
    assert!(config.ui);
}

#[test]
fn the_environment_alone_makes_a_seal() {
    let variables = [
        ("VAULT_SEAL_TYPE", "pkcs11"),
        ("VAULT_HSM_LIB", "/l"),
        ("VAULT_HSM_TOKEN_LABEL", "t"),
        ("VAULT_HSM_KEY_LABEL", "k"),
    ];
    let config = with_environment("", &variables).unwrap();
    assert_eq!(token(&config).token_label.as_deref(), Some("t"));
    let refused = with_environment("", &variables[..2]).unwrap_err();
    assert_eq!(refused, "seal \"pkcs11\" needs token_label; say which token with token_label, token_serial or slot");
}

#[test]
fn wrong_variables_are_refused_without_showing_them() {
    let refuse = |variables: &[(&str, &str)]| with_environment(TOKEN, variables).unwrap_err();
    assert_eq!(
        refuse(&[("BAO_HSM_SLOT", "first")]),
        "the environment variable BAO_HSM_SLOT is not the number of a slot, as in \"0\" or \"0x1f\"; correct or unset it"
    );
    assert!(
        refuse(&[("VAULT_LOG_LEVEL", "loud")]).starts_with("the environment variable VAULT_LOG_LEVEL is not one of")
    );
    assert!(refuse(&[("VAULT_API_ADDR", "here")]).contains("is not a URL"));
    let two = format!("{TOKEN}\n{TOKEN}");
    assert_eq!(
        with_environment(&two, &[("VAULT_HSM_PIN", "1")]).unwrap_err(),
        "VAULT_HSM_PIN is set, and there are 2 seals of that kind; unset it and write the value into the stanza it belongs to"
    );
}

#[test]
fn several_seals_have_names_and_an_order() {
    let seals = |text: &str| {
        let config = parse(text);
        let seals = config.seals_in_use().unwrap();
        let present = seals.present.iter().map(|s| (s.shown().to_owned(), s.name.is_some(), s.priority)).collect();
        (present, seals.former.map(|s| s.shown().to_owned()))
    };
    let token = "lib = \"/l\" token_label = \"t\" key_label = \"k\"";
    let (present, former): (Vec<_>, _) = seals(&format!(
        "enable_multiseal = true\nseal \"pkcs11\" \"second\" {{ {token} priority = 2 }}\n\
         seal \"pkcs11\" {{ {token} name = \"first\" priority = \"1\" }}\nseal \"tpm\" {{ priority = 3 }}\n\
         seal \"software\" \"old\" {{ key_file = \"/k\" disabled = \"true\" }}"
    ));
    let expected = [("first", 1), ("second", 2), ("tpm", 3)].map(|(name, priority)| (name.to_owned(), true, priority));
    assert_eq!((present.as_slice(), former.as_deref()), (expected.as_slice(), Some("old")));
    // One alone is as it was.
    assert_eq!(seals("seal \"tpm\" {}"), (vec![("tpm".to_owned(), false, 0)], None));
    assert_eq!(seals("seal \"shamir\" {}"), (Vec::new(), None));
    assert_eq!(seals("seal \"tpm\" \"chip\" {}").0, vec![("chip".to_owned(), true, 0)]);
}

#[test]
fn a_variable_says_by_the_seals_name_which_of_several_it_is_for() {
    let token = |name: &str, priority: u8| {
        format!(
            "seal \"pkcs11\" {name:?} {{ lib = \"/l\" token_label = \"t\" key_label = \"k\" priority = {priority} }}\n"
        )
    };
    let two = token("a", 1) + &token("b", 2);
    let config = with_environment(&two, &[("HOLDFAST_HSM_PIN_b", "4711"), ("VAULT_HSM_SLOT_a", "3")]).unwrap();
    let of = |at: usize| match &config.seals[at].kind {
        SealKind::Pkcs11(token) => (token.slot, token.pin.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(0), (Some(3), None));
    assert_eq!(of(1), (None, Some(PinSource::Given(Pin::new("4711".to_owned())))));
}

#[test]
fn a_folder_is_read_in_the_order_of_names_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "b.hcl",
        "storage \"file\" { path = \"/b\" }\nmax_lease_ttl = \"2h\" default_lease_ttl = 60 api_addr = \"http://b:1\" ui = true",
    );
    write(
        "a.json",
        r#"{"storage": {"inmem": {}}, "max_lease_ttl": "3h", "api_addr": "http://a:1", "listener": {"tcp": {"tls_disable": true}}}"#,
    );
    write("c.hcl", "ui = false listener \"unix\" { address = \"/s\" }");
    write("notes.txt", "not read {");
    write(".hidden.hcl", "not read {");
    let last = tempfile::NamedTempFile::with_suffix(".hcl").unwrap();
    std::fs::write(last.path(), "cluster_name = \"last\"").unwrap();
    let paths = [folder.path().to_owned(), last.path().to_owned()];
    let (config, warnings) = Config::load(&paths, &OFFER).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(config.storage, Some(Storage::File { path: "/b".into() }));
    assert_eq!(config.max_lease_ttl, Duration::from_secs(3 * 3600));
    assert_eq!(config.api_addr.as_deref(), Some("http://b:1"));
    assert!(config.ui);
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.cluster_name.as_deref(), Some("last"));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |path: PathBuf| Config::load(&[path], &OFFER).unwrap_err().to_string();
    let empty = refuse(folder.path().to_owned());
    assert!(empty.ends_with("the folder has no file that ends in .hcl or .json"), "{empty}");
    let absent = refuse(folder.path().join("none.hcl"));
    assert!(absent.contains("none.hcl: No such file or directory") && absent.contains("-config"), "{absent}");
    std::fs::write(folder.path().join("bytes.hcl"), b"a = 1\n\xff").unwrap();
    let bytes = refuse(folder.path().to_owned());
    assert!(bytes.ends_with("bytes.hcl:2:1: the document is not UTF-8"), "{bytes}");
}

#[test]
fn a_library_is_told_its_own_configuration() {
    use holdfast_config::DeviceKind;
    let keys = "lib = \"/l.so\" token_label = \"t\" lib_parameters = \"configDir='sql:/db' flags=readOnly\" \
                lib_environment = [\"STORE=/var/s\", \"TCTI=swtpm:host=h,port=1\"]";
    let config =
        parse(&format!("seal \"pkcs11\" {{ key_label = \"k\" {keys} }}\ndevice \"pkcs11\" \"a\" {{ {keys} }}"));
    let DeviceKind::Pkcs11(device) = &config.devices[0].kind else { panic!("{:?}", config.devices[0]) };
    assert_eq!(device.library, token(&config).library);
    assert_eq!(device.library.parameters.as_deref(), Some("configDir='sql:/db' flags=readOnly"));
    let variables: Vec<_> = device.library.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(variables, [("STORE", "/var/s"), ("TCTI", "swtpm:host=h,port=1")]);
    for wrong in ["NAME", "=value"] {
        let text = format!("seal \"pkcs11\" {{ lib = \"/l.so\" token_label = \"t\" lib_environment = [\"{wrong}\"] }}");
        let error = Config::parse(Path::new("c.hcl"), &text, &OFFER).unwrap_err().to_string();
        assert!(error.contains("NAME=value"), "{error}");
    }
}

#[test]
fn devices_are_read_by_name() {
    use holdfast_config::{DeviceKind, PinSource};
    let config = parse(
        "device \"pkcs11\" \"main\" { lib = \"/l.so\" token_label = \"t\" pin_file = \"/pin\" \
         namespaces = [\"team/a/\", \"root\"] helper_write_paths = [\"/opt/v\"] }\n\
         device \"tpm\" \"chip\" { keys = \"/var/keys\" root_handle = \"0x81000001\" }\n\
         device \"yubihsm\" \"usb\" { auth_key = \"0x0002\" password_file = \"/p\" domains = \"1,3\" log_file = \"/l/log\" }\n\
         device \"software\" \"dev\" { key_file = \"/k\" }",
    );
    let names: Vec<(&str, &str)> = config.devices.iter().map(|d| (d.kind.word(), d.name.as_str())).collect();
    assert_eq!(names, [("pkcs11", "main"), ("tpm", "chip"), ("yubihsm", "usb"), ("software", "dev")]);
    let DeviceKind::Pkcs11(main) = &config.devices[0].kind else { panic!("{:?}", config.devices[0]) };
    assert_eq!((main.token_label.as_deref(), main.slot), (Some("t"), None));
    assert_eq!(main.pin, Some(PinSource::File("/pin".into())));
    assert_eq!(config.devices[0].namespaces, ["team/a"]);
    let DeviceKind::Tpm(chip) = &config.devices[1].kind else { panic!("{:?}", config.devices[1]) };
    assert_eq!((chip.tcti.as_str(), chip.root_handle), ("device:/dev/tpmrm0", Some(0x8100_0001)));
    let DeviceKind::YubiHsm(usb) = &config.devices[2].kind else { panic!("{:?}", config.devices[2]) };
    assert_eq!((usb.connector.as_str(), usb.auth_key, usb.domains), ("http://127.0.0.1:12345", 2, 0b101));
    assert_eq!(config.devices[2].kind.pin(), Some(&PinSource::File("/p".into())));
}

#[test]
fn a_yubihsm_is_read_with_its_wrap_key() {
    let text = "seal \"yubihsm\" { auth_key = 2 password_env = \"P\" serial = 7550054 key_id = \"0x0064\" generate_key = true }";
    let config = parse(text);
    let SealKind::YubiHsm(seal) = &config.seals[0].kind else { panic!("{:?}", config.seals[0]) };
    assert_eq!((seal.hsm.auth_key, seal.hsm.serial, seal.key_id), (2, Some(7_550_054), Some(100)));
    assert_eq!(seal.hsm.password, Some(PinSource::Environment("P".into())));
    assert!(seal.generate_key && seal.key_label.is_none());
}
