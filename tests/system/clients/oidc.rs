//! A service written with a stock OpenID Connect library (Authlib).

use holdfast_tests::{Running, Setup};

#[test]
fn people_log_in_to_a_service_that_knows_the_standard_alone() {
    let running = Running::start(Setup::hardware());
    let output = running.site.python("clients/oidc_walk.py", &running.server, &running.keys.root_token);
    assert!(output.good().ends_with("every step as expected\n"));
}
