//! hvac, the Python client.

use holdfast_tests::{Running, Setup};

#[test]
fn hvac_writes_and_reads_versioned_secrets_under_a_policy() {
    let running = Running::start(Setup::hardware());
    let output = running.site.python("clients/hvac_walk.py", &running.server, &running.keys.root_token);
    assert!(output.good().ends_with("every step as expected\n"));
}
