//! Stock clients against the server as a user runs it: sealed by a SoftHSM token, over TLS.

mod cli;
mod hvac;
mod oidc;
mod restart;
mod vaultrs;

/// A policy that lets its holder work under `secret/app/` and see nothing else.
const APP_POLICY: &str = r#"
path "secret/data/app/*" { capabilities = ["create", "read", "update", "delete"] }
path "secret/metadata/app/*" { capabilities = ["list", "read"] }
path "secret/data/app/locked" { capabilities = ["deny"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
"#;
