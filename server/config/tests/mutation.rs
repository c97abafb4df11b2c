//! No text makes the reader of configurations panic, and every message has a
//! place in the text.

use std::path::Path;

use holdfast_config::{Config, Offer};
use proptest::prelude::*;

fn nothing(_: &str) -> Option<String> {
    None
}

const OFFER: Offer<'static> = Offer {
    storages: &["inmem", "file", "raft"],
    seals: &["shamir", "pkcs11", "software", "static", "tpm", "yubihsm"],
    environment: &nothing,
};

const SEEDS: [&str; 3] = [
    r#"storage "raft" { path = "/r" node_id = "n" retry_join { leader_api_addr = "https://a:1" } }
listener "tcp" { address = "[::]:8200" tls_disable = true custom_response_headers { "2xx" = { A = ["b"] } } }
listener "unix" { address = "/s" socket_mode = "0600" }
api_addr = "https://a:8200" max_lease_ttl = "10h" ui = true log_level = "warn""#,
    r#"seal "pkcs11" { lib = "/l" slot = "0x1f" key_id = "0x1a2b" pin = 1234 mechanism = "0x1087" priority = 1 }
seal "static" { current_key_id = "k" current_key = "file:///k" }
seal "tpm" { tcti = "swtpm:port=1" pcrs = "sha256:0,7+sha1:1" root_handle = "0x81000001" rollback_counter = "0x01800100" rollback_accept = 1 pin_file = "/p" custodians = ["/a.pem"] custodian_threshold = 1 }
seal "yubihsm" { auth_key = 2 password_file = "/p" domains = "1,3" serial = 7550054 key_id = "0x0064" log_file = "/l" }
audit "file" "main" { options { file_path = "/a" } }
user_lockout "all" { lockout_duration = "1m" }
telemetry { prefix_filter = ["+a"] } max_request_size = "1MiB""#,
    r#"{"storage": {"file": {"path": "/d"}}, "listener": [{"tcp": {"tls_disable": 1}}], "cache_size": 5}"#,
];

const FRAGMENTS: [&str; 22] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "=",
    ",",
    "-1",
    "0x",
    "\u{e9}",
    "true",
    "null",
    "\"x\"",
    "[1]",
    "{}",
    " x = 1 ",
    "99999999999999999999",
    "\n",
    "#",
    "1h",
    ":",
    "1e400",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_configurations_never_panic(
        seed in 0..SEEDS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..30_usize, 0..FRAGMENTS.len()), 1..6),
    ) {
        let mut text: Vec<char> = SEEDS[seed].chars().collect();
        for (at, cut, fragment) in changes {
            let start = at.index(text.len() + 1);
            let end = (start + cut / 3).min(text.len());
            text.splice(start..end, FRAGMENTS[fragment].chars());
        }
        let text: String = text.into_iter().collect();
        let lines = u32::try_from(text.matches('\n').count()).unwrap() + 1;
        let places = match Config::parse(Path::new("c.hcl"), &text, &OFFER) {
            Ok((_, warnings)) => warnings.into_iter().filter_map(|w| w.place).collect(),
            Err(error) => Vec::from_iter(error.place),
        };
        for place in places {
            prop_assert!((1..=lines).contains(&place.position.line));
        }
    }
}

#[test]
fn the_seeds_are_configurations() {
    for seed in SEEDS {
        Config::parse(Path::new("c.hcl"), seed, &OFFER).unwrap();
    }
}
