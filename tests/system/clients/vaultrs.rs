//! vaultrs, the Rust client.

use std::collections::HashMap;

use holdfast_tests::{Running, Setup};
use vaultrs::api::token::requests::CreateTokenRequest;
use vaultrs::client::{Client, VaultClient, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;
use vaultrs::{kv2, sys, token};

use super::APP_POLICY;

fn client(running: &Running, token: &str) -> VaultClient {
    let settings = VaultClientSettingsBuilder::default()
        .address(running.server.url())
        .token(token)
        .ca_certs(vec![running.site.authority.ca().display().to_string()])
        .build()
        .expect("settings");
    VaultClient::new(settings).expect("a client")
}

fn status_of<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, Vec<String>) {
    match result {
        Err(ClientError::APIError { code, errors }) => (code, errors),
        other => panic!("not refused by the server: {other:?}"),
    }
}

#[tokio::test]
async fn vaultrs_writes_and_reads_versioned_secrets_under_a_policy() {
    let running = Running::start(Setup::hardware());
    let root = client(&running, &running.keys.root_token);

    let health = sys::health(&root).await.expect("health");
    assert!(health.initialized && !health.sealed);
    assert!(matches!(root.status().await.expect("a status"), sys::ServerStatus::OK));

    let secret = HashMap::from([("user", "alice"), ("password", "pa55 wörd")]);
    assert_eq!(kv2::set(&root, "secret", "app/db", &secret).await.expect("written").version, 1);
    let later = HashMap::from([("user", "bob")]);
    assert_eq!(kv2::set(&root, "secret", "app/db", &later).await.expect("written").version, 2);
    let read: HashMap<String, String> = kv2::read(&root, "secret", "app/db").await.expect("read");
    assert_eq!(read, HashMap::from([("user".into(), "bob".into())]));
    let read: HashMap<String, String> = kv2::read_version(&root, "secret", "app/db", 1).await.expect("read");
    assert_eq!(read["password"], "pa55 wörd");
    let options = kv2_options(1);
    let (code, errors) = status_of(kv2::set_with_options(&root, "secret", "app/db", &later, options).await);
    assert_eq!((code, errors.join("")), (400, "check-and-set parameter did not match the current version".into()));
    assert_eq!(kv2::read_metadata(&root, "secret", "app/db").await.expect("metadata").current_version, 2);
    assert_eq!(kv2::list(&root, "secret", "app").await.expect("a list"), ["db"]);
    kv2::delete_latest(&root, "secret", "app/db").await.expect("deleted");
    kv2::undelete_versions(&root, "secret", "app/db", vec![2]).await.expect("undeleted");

    sys::policy::set(&root, "app", APP_POLICY).await.expect("a policy");
    let mut request = CreateTokenRequest::builder();
    request.policies(vec!["app".to_owned()]).ttl("1h").no_default_policy(true);
    let made = token::new(&root, Some(&mut request)).await.expect("a token");
    assert_eq!((made.policies, made.lease_duration), (vec!["app".to_owned()], 3600));
    let app = client(&running, &made.client_token);
    assert_eq!(token::lookup_self(&app).await.expect("itself").policies, ["app"]);
    kv2::set(&app, "secret", "app/web", &later).await.expect("written under the policy");
    let denied: Result<HashMap<String, String>, _> = kv2::read(&app, "secret", "elsewhere").await;
    let (code, errors) = status_of(denied);
    assert_eq!((code, errors), (403, vec!["1 error occurred:\n\t* permission denied\n\n".to_owned()]));
    assert_eq!(token::renew_self(&app, Some("30m")).await.expect("renewed").lease_duration, 1800);
    token::revoke(&root, &made.client_token).await.expect("revoked");
    let (code, errors) = status_of(token::lookup_self(&app).await);
    assert_eq!((code, errors), (403, vec!["permission denied".to_owned()]));

    kv2::delete_metadata(&root, "secret", "app/web").await.expect("removed");
    sys::seal(&root).await.expect("sealed");
    assert!(matches!(root.status().await.expect("a status"), sys::ServerStatus::SEALED));
}

fn kv2_options(cas: u32) -> vaultrs::api::kv2::requests::SetSecretRequestOptions {
    vaultrs::api::kv2::requests::SetSecretRequestOptions { cas }
}
