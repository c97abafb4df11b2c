//! Each kind of wrong key: what is said, and of which place.

use std::path::Path;

use holdfast_config::{Config, Offer};

fn nothing(_: &str) -> Option<String> {
    None
}

const OFFER: Offer<'static> = Offer {
    storages: &["inmem", "file"],
    seals: &["shamir", "pkcs11", "software", "tpm", "yubihsm"],
    environment: &nothing,
};

#[track_caller]
fn refused(text: &str, message: &str) {
    let error = Config::parse(Path::new("c.hcl"), text, &OFFER).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[track_caller]
fn warned(text: &str, messages: &[&str]) {
    let (_, warnings) = Config::parse(Path::new("c.hcl"), text, &OFFER).unwrap();
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(said, messages);
}

#[test]
fn a_syntax_error_names_its_place() {
    refused("ui = true\nlistener \"tcp\" {", "c.hcl:2:17: expected `}`, found the end of the document");
    refused("ui = yes", "c.hcl:1:6: expected a value (text needs quotes), found a name without quotes");
    refused("listener { }", "c.hcl:1:1: \"listener\" needs a quoted name, as in `listener \"…\" { … }`");
    refused("telemetry = 3", "c.hcl:1:13: \"telemetry\" must be a block, not a number");
    refused("audit \"file\" { }", "c.hcl:1:1: \"audit\" needs a quoted name, as in `audit \"…\" { … }`");
}

#[test]
fn unknown_keys_are_warned_of_with_their_line() {
    warned(
        "uii = true\n\ncolour = 3",
        &["c.hcl:1:1: unknown key uii, which has no effect", "c.hcl:3:1: unknown key colour, which has no effect"],
    );
    warned(
        "listener \"tcp\" {\n  tls_disable = true\n  tls_cert_fil = \"x\"\n}",
        &["c.hcl:3:3: unknown key tls_cert_fil of listener \"tcp\", which has no effect; is tls_cert_file meant?"],
    );
    warned(
        "audit \"file\" \"a\" {\n filepath = 1 }",
        &["c.hcl:2:2: unknown key filepath of audit \"file\" \"a\", which has no effect"],
    );
    warned(
        "listener \"tcp\" { tls_disable = true telemetry { x = 1 } }",
        &["c.hcl:1:49: unknown key x of telemetry, which has no effect"],
    );
}

#[test]
fn known_keys_without_effect_are_warned_of() {
    warned(
        "service_registration \"consul\" { }\nplugin_directory = \"/p\"\ninitialize \"x\" { }",
        &[
            "c.hcl:1:1: service_registration has no effect: the server registers nowhere; point your load balancer at sys/health",
            "c.hcl:3:1: initialize has no effect: the server is initialised by `operator init`",
            "c.hcl:2:1: plugin_directory has no effect: engines and auth methods are part of the program; there are no plugins",
        ],
    );
    warned(
        "telemetry { statsd_address = \"a\" }",
        &[
            "c.hcl:1:13: statsd_address of telemetry has no effect: it is not offered; metrics are read by Prometheus at sys/metrics",
        ],
    );
    warned(
        "seal \"pkcs11\" { lib = \"l\" slot = 0 key_label = \"k\" hmac_key_label = \"h\" }",
        &[
            "c.hcl:1:52: hmac_key_label of seal \"pkcs11\" has no effect: what is wrapped here is authenticated by the wrapping key alone",
        ],
    );
    warned(
        "listener \"tcp\" { tls_disable = true tls_prefer_server_cipher_suites = true }",
        &[
            "c.hcl:1:37: tls_prefer_server_cipher_suites of listener \"tcp\" has no effect: the server's order always counts",
        ],
    );
    warned(
        "listener \"tcp\" { tls_disable = true custom_response_headers { default = { X-Vault-A = [\"1\"] } } }",
        &["c.hcl:1:75: the header \"X-Vault-A\" has no effect: names that begin with X-Vault- are the server's own"],
    );
}

#[test]
fn wrong_types_are_refused() {
    refused("\nui = [true]", "c.hcl:2:6: ui must be true or false, not a list");
    refused("ui = \"maybe\"", "c.hcl:1:6: ui \"maybe\" is not true or false");
    refused("cluster_name = true", "c.hcl:1:16: cluster_name must be a string, not a boolean");
    refused(
        "max_lease_ttl = \"long\"",
        "c.hcl:1:17: max_lease_ttl \"long\" is not a duration, as in 90, \"90s\" or \"1h30m\"",
    );
    refused("max_lease_ttl = -1", "c.hcl:1:17: max_lease_ttl \"-1\" is not a duration, as in 90, \"90s\" or \"1h30m\"");
    refused("cache_size = 1.5", "c.hcl:1:14: cache_size \"1.5\" is not a whole number");
    refused(
        "max_request_size = -1",
        "c.hcl:1:20: max_request_size \"-1\" is not a size of at least 1, as in 33554432 or \"32MiB\" (the bound cannot be turned off)",
    );
    refused(
        "max_request_duration = 0",
        "c.hcl:1:24: max_request_duration \"0\" is not more than 0; the bound cannot be turned off",
    );
    refused(
        "listener \"tcp\" { tls_disable = true x_forwarded_for_authorized_addrs = [1] }",
        "c.hcl:1:72: x_forwarded_for_authorized_addrs of listener \"tcp\" must be a list of strings, not a list",
    );
}

#[test]
fn wrong_values_are_refused_with_what_would_be_right() {
    refused(
        "api_addr = \"here\"",
        "c.hcl:1:12: api_addr \"here\" is not a URL, as in \"https://vault.example.com:8200\"",
    );
    refused("log_level = \"loud\"", "c.hcl:1:13: log_level \"loud\" is not one of trace, debug, info, warn, error");
    refused("log_format = \"xml\"", "c.hcl:1:14: log_format \"xml\" is not one of standard, json");
    refused(
        "listener \"tcp\" { address = \"8200\" }",
        "c.hcl:1:28: address of listener \"tcp\" \"8200\" is not HOST:PORT, as in \"0.0.0.0:8200\" or \"[::]:8200\"",
    );
    refused(
        "listener \"tcp\" { tls_min_version = \"tls10\" }",
        "c.hcl:1:36: tls_min_version of listener \"tcp\" \"tls10\" is not one of tls12, tls13",
    );
    refused(
        "listener \"tcp\" { tls_disable = true x_forwarded_for_authorized_addrs = \"proxy\" }",
        "c.hcl:1:72: x_forwarded_for_authorized_addrs of listener \"tcp\" \"proxy\" is not an address or network, as in \"10.0.0.0/8\"",
    );
    refused(
        "seal \"tpm\" { custodians = [\"/a.pem\"] }",
        "c.hcl:1:1: seal \"tpm\" needs custodian_threshold; set it to how many of the custodians have to sign",
    );
    refused(
        "seal \"tpm\" { custodian_threshold = 1 }",
        "c.hcl:1:1: seal \"tpm\" needs custodians; name the files with their public keys, in PEM, as in \
         [\"/etc/holdfast/alice.pem\"]",
    );
    refused(
        "listener \"tcp\" { tls_disable = true proxy_protocol_behavior = \"sometimes\" }",
        "c.hcl:1:63: proxy_protocol_behavior of listener \"tcp\" \"sometimes\" is not one of use_always, allow_authorized, deny_unauthorized",
    );
    refused(
        "listener \"unix\" { address = \"/s\" socket_mode = \"rw\" }",
        "c.hcl:1:48: socket_mode of listener \"unix\" \"rw\" is not permissions, as in \"0600\"",
    );
    refused(
        "listener \"tcp\" { tls_disable = true\n custom_response_headers { \"9xx\" = { a = [\"b\"] } } }",
        "c.hcl:2:28: the status in custom_response_headers \"9xx\" is not \"default\", a status as in \"404\", or a hundred as in \"4xx\"",
    );
    refused(
        "listener \"tcp\" { tls_disable = true\n custom_response_headers { default = { a = [\"b\\nc\"] } } }",
        "c.hcl:2:44: custom_response_headers \"default\" must be a map of header names to lists of values without line ends, not a list",
    );
    refused(
        "seal \"pkcs11\" { lib = \"l\" slot = \"first\" }",
        "c.hcl:1:34: slot of seal \"pkcs11\" \"first\" is not the number of a slot, as in \"0\" or \"0x1f\"",
    );
    refused(
        "seal \"pkcs11\" { lib = \"l\" mechanism = \"CKM_MAGIC\" }",
        "c.hcl:1:39: mechanism of seal \"pkcs11\" \"CKM_MAGIC\" is not a mechanism, as in \"0x1087\", \"CKM_AES_GCM\" or \"CKM_RSA_PKCS_OAEP\"",
    );
    refused(
        "seal \"pkcs11\" { key_id = \"xyz\" }",
        "c.hcl:1:26: key_id of seal \"pkcs11\" \"xyz\" is not bytes in hex, as in \"0x1a2b\"",
    );
    refused(
        "seal \"tpm\" { tcti = \"usb\" }",
        "c.hcl:1:21: tcti of seal \"tpm\" \"usb\" is not a way to a TPM, as in \"device:/dev/tpmrm0\", \"tabrmd\" or \"swtpm:host=127.0.0.1,port=2321\"",
    );
    for pcrs in ["sha256:24", "sha256:", "md5:1", "sha256:1+sha256:2", "sha256:x"] {
        refused(
            &format!("seal \"tpm\" {{ pcrs = \"{pcrs}\" }}"),
            &format!(
                "c.hcl:1:21: pcrs of seal \"tpm\" \"{pcrs}\" is not registers 0 to 23 of banks sha1, sha256, sha384 or sha512, as in \"sha256:0,2,7\" or \"sha256:7+sha384:0\""
            ),
        );
    }
    refused(
        "seal \"tpm\" { root_handle = \"81000001\" }",
        "c.hcl:1:28: root_handle of seal \"tpm\" \"81000001\" is not the handle of a persistent object, as in \"0x81000001\"",
    );
    for index in ["01800100", "0x81000001", "0x017fffff", "0x01c00002"] {
        refused(
            &format!("seal \"tpm\" {{ rollback_counter = \"{index}\" }}"),
            &format!(
                "c.hcl:1:33: rollback_counter of seal \"tpm\" \"{index}\" is not an NV index of the TPM's owner, 0x01800000 to 0x01bfffff, as in \"0x01800100\""
            ),
        );
    }
    refused(
        "seal \"tpm\" { rollback_accept = 17 }",
        "c.hcl:1:1: seal \"tpm\" needs rollback_counter; set it to the NV index of the counter that rollback_accept is about",
    );
    refused(
        "user_lockout \"all\" { lockout_threshold = 0 }",
        "c.hcl:1:42: lockout_threshold of user_lockout \"all\" \"0\" is not at least 1; disable_lockout = true locks nobody out",
    );
    refused(
        "telemetry { prefix_filter = [\"vault\"] }",
        "c.hcl:1:29: prefix_filter of telemetry \"vault\" is not a prefix behind + or -, as in \"+vault.token\"",
    );
}

#[test]
fn missing_keys_are_named_with_the_next_step() {
    refused(
        "\nlistener \"tcp\" { }",
        "c.hcl:2:1: listener \"tcp\" needs tls_cert_file; set tls_cert_file and tls_key_file, or tls_disable = true where nobody can listen in",
    );
    refused("listener \"unix\" { }", "c.hcl:1:1: listener \"unix\" needs address; set it to the path of the socket");
    refused(
        "storage \"file\" { }",
        "c.hcl:1:1: storage \"file\" needs path; set it to a folder that only the server's user may read",
    );
    refused(
        "seal \"software\" { }",
        "c.hcl:1:1: seal \"software\" needs key_file; set it to a file that only the server's user may read",
    );
    refused(
        "seal \"pkcs11\" { }",
        "c.hcl:1:1: seal \"pkcs11\" needs lib; set it to the path of the vendor's PKCS#11 library, or set HOLDFAST_HSM_LIB",
    );
    refused(
        "seal \"pkcs11\" { lib = \"l\" slot = 1 }",
        "c.hcl:1:1: seal \"pkcs11\" needs key_label; say which key with key_label or key_id",
    );
    refused(
        "seal \"tpm\" { pcrs = \"7\" pcr_public_key = \"/k\" }",
        "c.hcl:1:1: seal \"tpm\" needs pcr_signatures; set it to the file with the approved measurements",
    );
    refused(
        "seal \"tpm\" { pcr_public_key = \"/k\" pcr_signatures = \"/s\" }",
        "c.hcl:1:1: seal \"tpm\" needs pcrs; name the registers that are approved, of one bank, as in \"sha256:11\"",
    );
    refused(
        "listener \"tcp\" { tls_disable = true proxy_protocol_behavior = \"allow_authorized\" }",
        "c.hcl:1:1: listener \"tcp\" needs proxy_protocol_authorized_addrs; name the addresses of your load balancers",
    );
}

#[test]
fn what_does_not_exist_here_is_refused_by_name() {
    for seal in ["awskms", "azurekeyvault", "gcpckms", "ocikms", "alicloudkms", "transit", "kmip"] {
        refused(
            &format!("seal \"{seal}\" {{ }}"),
            &format!(
                "c.hcl:1:6: seal {seal:?} is not offered by Holdfast; there are: shamir, pkcs11, software, tpm, yubihsm"
            ),
        );
    }
    for storage in ["consul", "etcd", "postgresql", "s3", "dynamodb", "raft"] {
        refused(
            &format!("storage \"{storage}\" {{ path = \"x\" }}"),
            &format!("c.hcl:1:9: storage {storage:?} is not offered by Holdfast; there are: inmem, file"),
        );
    }
    refused("listener \"udp\" { }", "c.hcl:1:10: listener \"udp\" is not offered by Holdfast; there are: tcp, unix");
    refused(
        "audit \"kafka\" \"a\" { }",
        "c.hcl:1:7: audit \"kafka\" is not offered by Holdfast; there are: file, syslog, socket, http",
    );
    refused(
        "user_lockout \"github\" { }",
        "c.hcl:1:14: user_lockout \"github\" is not offered by Holdfast; there are: all, userpass, ldap, approle",
    );
    refused(
        "ha_storage \"consul\" { }",
        "c.hcl:1:1: ha_storage is not offered by Holdfast; storage \"raft\" is available to every node by itself, so remove the stanza",
    );
}

#[test]
fn what_contradicts_is_refused() {
    refused(
        "storage \"inmem\" {}\nstorage \"file\" { path = \"/x\" }",
        "c.hcl:2:1: a second storage; only one is used, so remove the others",
    );
    refused(
        "storage \"inmem\" {}\nbackend \"inmem\" {}",
        "c.hcl:2:1: a second storage; only one is used, so remove the others",
    );
    refused(
        "audit \"file\" \"a\" {}\naudit \"file\" \"a/\" {}",
        "c.hcl:2:1: a second audit device at \"a/\"; only one is used, so remove the others",
    );
    refused(
        "seal \"pkcs11\" { pin = \"1\"\n pin_env = \"P\" }",
        "c.hcl:2:12: seal \"pkcs11\" has both pin and pin_env; keep one of them",
    );
    refused(
        "seal \"tpm\" { root_handle = \"0x81000001\"\n hierarchy_auth_file = \"/a\" }",
        "c.hcl:2:24: seal \"tpm\" has both root_handle and hierarchy_auth_file; keep one of them",
    );
    refused(
        "listener \"tcp\" { tls_min_version = \"tls13\" tls_max_version = \"tls12\" }",
        "c.hcl:1:62: tls_max_version is older than tls_min_version; no client could connect",
    );
    refused(
        "listener \"tcp\" { tls_require_and_verify_client_cert = true tls_disable_client_certs = true }",
        "c.hcl:1:87: listener \"tcp\" has both tls_require_and_verify_client_cert and tls_disable_client_certs; keep one of them",
    );
    refused(
        "default_lease_ttl = \"2h\" max_lease_ttl = \"1h\"",
        "default_lease_ttl (7200 s) is over max_lease_ttl (3600 s); raise the one or lower the other",
    );
}

#[test]
fn a_pin_is_in_no_message() {
    for text in [
        "seal \"pkcs11\" { pin = [\"98765\"] }",
        "seal \"pkcs11\" { pin = \"98765\" pin_file = \"x\" }",
        "seal \"yubihsm\" { auth_key = 1 password = \"98765\" password_env = \"x\" }",
        "seal \"pkcs11\" { pin = \"98765\" }",
        "seal \"pkcs11\" { pin = 98765x }",
        "seal \"pkcs11\" { pin = x98765 }",
        "seal \"pkcs11\" { pin 98765 }",
        "seal \"pkcs11\" { pin = \"98765\\q\" }",
        "seal \"pkcs11\" { pin = \"98765 }",
        "{\"seal\": {\"pkcs11\": {\"pin\": x98765}}}",
        "{\"seal\": {\"pkcs11\": {\"pin\": 98765x}}}",
    ] {
        let error = Config::parse(Path::new("c.hcl"), text, &OFFER).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("98765"));
    }
}

#[test]
fn a_key_that_is_to_sign_audit_logs_is_of_a_device_that_there_is() {
    let signing =
        |keys: &str| format!("device \"software\" \"main\" {{ key_file = \"/k\" }}\naudit_signing {{ {keys} }}");
    refused(
        &signing("key_label = \"a\""),
        "c.hcl:2:1: audit_signing needs device; set it to the name of a device stanza",
    );
    refused(
        &signing("device = \"main\""),
        "c.hcl:2:1: audit_signing needs key_label; say which key of the device with key_label or key_id",
    );
    refused(
        &signing("device = \"other\" key_label = \"a\""),
        "c.hcl:2:26: audit_signing names the device \"other\", and there is no stanza of that name",
    );
    refused(
        &signing("device = \"main\" key_label = \"a\" refuse_after = \"2s\""),
        "c.hcl:2:64: refuse_after of audit_signing \"2 s\" is not at least 15 s",
    );
    refused(
        &signing("device = \"main\" key_label = \"a\" key = \"b\""),
        "c.hcl:2:49: unknown key key of audit_signing",
    );
}

#[test]
fn a_device_that_is_not_said_rightly_is_refused_with_its_line() {
    let device = |kind: &str, name: &str, keys: &str| format!("ui = true\ndevice \"{kind}\" \"{name}\" {{ {keys} }}");
    refused(
        &device("nethsm", "main", ""),
        "c.hcl:2:8: device \"nethsm\" is not offered by Holdfast; there are: pkcs11, tpm, yubihsm, software",
    );
    refused(
        &device("yubihsm", "main", ""),
        "c.hcl:2:1: device \"yubihsm\" \"main\" needs auth_key; set it to the object id of an authentication key that is this server's own",
    );
    refused(
        &device("yubihsm", "main", "auth_key = 0"),
        "c.hcl:2:38: auth_key of device \"yubihsm\" \"main\" \"0\" is not the id of an object, from 1 to 65534, as in 2 or \"0x0002\"",
    );
    refused(
        &device("yubihsm", "main", "auth_key = 2 domains = \"1,17\""),
        "c.hcl:2:50: domains of device \"yubihsm\" \"main\" \"1,17\" is not numbers of domains from 1 to 16, as in \"1,3\"",
    );
    refused(
        &device("yubihsm", "main", "auth_key = 2 connector = \"https://hsm\""),
        "c.hcl:2:52: connector of device \"yubihsm\" \"main\" \"https://hsm\" is not the address of a yubihsm-connector, as in \"http://127.0.0.1:12345\"",
    );
    refused(
        &device("software", "Main", "key_file = \"/k\""),
        "c.hcl:2:19: the name of device \"Main\" is not a name of lower-case letters, digits, - and _, at most 64",
    );
    refused(
        &device("pkcs11", "main", "token_label = \"t\""),
        "c.hcl:2:1: device \"pkcs11\" \"main\" needs lib; set it to the path of the vendor's PKCS#11 library",
    );
    refused(
        &device("pkcs11", "main", "lib = \"/l.so\""),
        "c.hcl:2:1: device \"pkcs11\" \"main\" needs token_label; say which token with token_label, token_serial or slot",
    );
    // What a seal has a device has not, and a word that is passed over could be the one that names the token.
    refused(
        &device("pkcs11", "main", "lib = \"/l.so\" token_label = \"t\"\n key_label = \"k\""),
        "c.hcl:3:2: unknown key key_label of device \"pkcs11\" \"main\"",
    );
    refused(
        &device("pkcs11", "main", "lib = \"/l.so\" token_label = \"t\"\n token_seral = \"k\""),
        "c.hcl:3:2: unknown key token_seral of device \"pkcs11\" \"main\"; is token_serial meant?",
    );
    refused(
        &device("pkcs11", "main", "lib = \"/l.so\" slot = \"first\""),
        "c.hcl:2:47: slot of device \"pkcs11\" \"main\" \"first\" is not the number of a slot, as in \"0\" or \"0x1f\"",
    );
    refused(
        &device("tpm", "chip", "tcti = \"device:/dev/tpmrm0\""),
        "c.hcl:2:1: device \"tpm\" \"chip\" needs keys; set it to a folder of this device's own, for the keys that the TPM \
         makes",
    );
    refused(
        &device("tpm", "chip", "keys = \"keys\""),
        "c.hcl:2:30: keys of device \"tpm\" \"chip\" \"keys\" is not a path from the root, as in \
         \"/var/lib/holdfast/tpm-keys\"",
    );
    refused(
        &format!("{}\n{}", device("software", "a", "key_file = \"/k\""), "device \"tpm\" \"a\" { keys = \"/k\" }"),
        "c.hcl:3:1: a second device named \"a\"; only one is used, so remove the others",
    );
}

#[test]
fn seals_that_cannot_be_told_apart_are_refused_with_their_place() {
    let refused = |second: &str, more: &str| {
        let text = format!("seal \"tpm\" {{ priority = 1 }}\n{second}\n{more}");
        let (config, _) = Config::parse(Path::new("c.hcl"), &text, &OFFER).unwrap();
        config.seals_in_use().unwrap_err().to_string()
    };
    let software = |keys: &str| format!("seal \"software\" {{ key_file = \"/k\" {keys} }}");
    assert_eq!(
        refused(&software("priority = 1"), ""),
        "c.hcl:2:1: the seals \"tpm\" and \"software\" have the same priority (1): the lower is asked first, so each needs its own"
    );
    assert!(refused(&software(""), "").starts_with("c.hcl:2:1: there are several seals: say with priority"));
    assert!(
        refused(&software("name = \"tpm\" priority = 2"), "").starts_with("c.hcl:2:1: two seals are called \"tpm\"")
    );
    assert!(refused("seal \"shamir\" { priority = 2 }", "").starts_with("c.hcl:2:1: shares cannot be one of several"));
    assert!(refused(&software("priority = 2"), "enable_multiseal = false").contains("enable_multiseal = false"));
    let wrong = |text: &str| Config::parse(Path::new("c.hcl"), text, &OFFER).unwrap_err().to_string();
    let four = [3, 4].map(|n| software(&format!("name = \"s{n}\" priority = {n}"))).join("\n");
    assert!(refused(&software("priority = 2"), &four).starts_with("c.hcl:4:1: there are more than 3 seals"));
    assert!(wrong(&software("name = \"a b\"")).contains("is not a name of letters"));
    assert!(wrong("seal \"tpm\" \"a\" { name = \"b\" }").contains("the name that the stanza has already"));
    assert!(wrong(&software("priority = 0")).contains("priority of seal \"software\" \"0\" is not a number from 1"));
}

#[test]
fn the_key_of_a_node_names_a_device_of_hardware_and_a_key_in_it() {
    const RAFT: Offer<'static> = Offer { storages: &["raft"], ..OFFER };
    let refused = |node_key: &str, device: &str, message: &str| {
        let text = format!("storage \"raft\" {{\n path = \"/x\"\n node_key {{\n {node_key}\n }}\n}}\n{device}");
        let error = Config::parse(Path::new("c.hcl"), &text, &RAFT).unwrap_err();
        assert_eq!(error.to_string(), message);
    };
    let token = "device \"pkcs11\" \"main\" {\n lib = \"/lib/x.so\"\n token_label = \"t\"\n}";
    let tpm = "device \"tpm\" \"main\" {\n keys = \"/keys\"\n}";
    let software = "device \"software\" \"main\" {\n key_file = \"/keys\"\n}";
    refused("key_label = \"k\"", "", "c.hcl:3:2: node_key needs device; set it to the name of a device stanza");
    refused(
        "device = \"main\"\n key_label = \"k\"",
        "",
        "c.hcl:4:11: node_key names the device \"main\", and there is no stanza of that name",
    );
    refused(
        "device = \"main\"",
        token,
        "c.hcl:4:11: say which key of the device closes the node's: key_label or key_id of node_key",
    );
    refused(
        "device = \"main\"\n key_label = \"k\"",
        tpm,
        "c.hcl:4:11: a TPM closes with its storage root key: leave out key_label and key_id of node_key",
    );
    refused(
        "device = \"main\"\n key_label = \"k\"",
        software,
        "c.hcl:4:11: node_key names a software device, whose keys lie in a file too: name a device of hardware, or leave \
         node_key out",
    );
    refused(
        "device = \"main\"\n key_id = \"0xa\"",
        token,
        "c.hcl:5:11: key_id of node_key \"0xa\" is not bytes in hex, as in \"0x1a2b\"",
    );
    refused("device = \"main\"\n labell = \"k\"", token, "c.hcl:5:2: unknown key labell of node_key");
}
