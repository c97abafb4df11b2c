//! The OpenAPI document: valid, complete for what is built, with help for each route.

use holdfast_tests::{Running, Setup};

#[test]
fn the_open_api_document_is_valid_and_has_every_route_that_is_built() {
    let running = Running::start(Setup::shamir());
    let output = running.site.python("openapi/check.py", &running.server, &running.keys.root_token);
    assert!(output.good().ends_with("every one as expected\n"));
}
