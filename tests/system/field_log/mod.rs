//! What broke for users of the peers, as reports of their field log, and each one's whole kind.
//!
//! `tests/fieldlog.md` says which report is shown by which test.

mod audit;
mod cli;
mod http;
mod kv;
mod leases;
mod logins;
mod metrics;
mod namespaces;
mod policies;
mod quotas;
mod raft;
mod rekey;
mod seals;
mod tokens;

use std::path::Path;
use std::process::Command;

use holdfast_tests::program::{command, holdfast};
use holdfast_tests::{Client, Reply, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A server in memory with kv version 2 at `secret/`.
struct Site {
    server: Server,
    root: Client,
    folder: TempDir,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::dev(folder.path());
        let root = server.client().with_token("root");
        Site { server, root, folder }
    }

    /// A client whose token has one policy beside the default one.
    fn under(&self, policy: &str) -> Client {
        self.root.post("sys/policies/acl/tried", json!({ "policy": policy })).expect(204);
        self.root.with_token(&self.token(json!({ "policies": ["tried"] })))
    }

    fn token(&self, body: Value) -> String {
        self.root.post("auth/token/create", body).expect(200).text_at("/auth/client_token")
    }

    fn secret(&self, key: &str) {
        self.root.post(&format!("secret/data/{key}"), json!({ "data": { "a": "b" } })).expect(200);
    }

    /// Our command line with the root token.
    fn cli(&self, args: &[&str]) -> Command {
        let mut call = command(holdfast());
        call.args(args).env("HOME", self.home()).env("VAULT_ADDR", self.server.url()).env("VAULT_TOKEN", "root");
        call
    }

    fn home(&self) -> &Path {
        self.folder.path()
    }
}

/// A list in the four ways that clients ask for one.
fn four_lists(client: &Client, path: &str) -> [Reply; 4] {
    let path = path.trim_end_matches('/');
    [
        client.list(path),
        client.list(&format!("{path}/")),
        client.get(&format!("{path}?list=true")),
        client.get(&format!("{path}/?list=true")),
    ]
}

fn keys(reply: &Reply) -> Vec<String> {
    let keys = reply.at("/data/keys");
    keys.as_array().expect("a list").iter().map(|k| k.as_str().expect("a text").to_owned()).collect()
}
