//! A process beside the nodes of a test, which wants to be one of them, or says that it is.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{Output, command, holdfast, run};
use holdfast_tests::{Client, Reply, Server, until};

use super::nodes::{Nodes, WITHIN};

pub struct Newcomer {
    /// Dropped before its folder.
    server: Option<Server>,
    folder: TempDir,
    id: String,
    ports: (u16, u16),
    storage: String,
    listener: String,
    tls: Option<Arc<ClientConfig>>,
    top: String,
    environment: Vec<(String, String)>,
}

/// A `retry_join` stanza for the node whose API is at this port.
pub fn joins(port: u16) -> String {
    format!("retry_join {{\n leader_api_addr = \"http://127.0.0.1:{port}\"\n}}\n")
}

impl Newcomer {
    pub fn named(id: &str) -> Newcomer {
        Newcomer {
            server: None,
            folder: tempfile::Builder::new().prefix("holdfast-newcomer-").tempdir().expect("a temporary folder"),
            id: id.to_owned(),
            ports: (free_port(), free_port()),
            storage: String::new(),
            listener: "tls_disable = true".into(),
            tls: None,
            top: String::new(),
            environment: Vec::new(),
        }
    }

    /// What else is in its storage stanza, from its next start on.
    pub fn storage(mut self, text: impl Into<String>) -> Newcomer {
        self.storage = text.into();
        self
    }

    /// Let it speak TLS, by these lines of its listener, and be asked so.
    pub fn tls(mut self, lines: impl Into<String>, client: Arc<ClientConfig>) -> Newcomer {
        self.listener = lines.into();
        self.tls = Some(client);
        self
    }

    /// Further stanzas.
    pub fn top(mut self, text: impl Into<String>) -> Newcomer {
        self.top = text.into();
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Newcomer {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Start it, and wait until it listens.
    #[track_caller]
    pub fn started(self) -> Newcomer {
        self.started_with("storage \"raft\"")
    }

    /// The same with a store of another kind in the same folder.
    #[track_caller]
    pub fn started_with(mut self, kind: &str) -> Newcomer {
        let (own, members) = self.ports;
        let node_id = if kind.contains("raft") { format!("node_id = \"{}\"\n", self.id) } else { String::new() };
        let config = format!(
            "{kind} {{\n path = \"{data}\"\n {node_id} {storage}\n}}\n\
             listener \"tcp\" {{\n address = \"127.0.0.1:{own}\"\n cluster_address = \"127.0.0.1:{members}\"\n {listener}\n}}\n\
             api_addr = \"{scheme}://127.0.0.1:{own}\"\ncluster_addr = \"https://127.0.0.1:{members}\"\ndisable_mlock = true\n{top}",
            data = self.data().display(),
            storage = self.storage,
            listener = self.listener,
            scheme = if self.tls.is_some() { "https" } else { "http" },
            top = self.top,
        );
        let file = self.folder.path().join("config.hcl");
        fs::write(&file, config).unwrap();
        let mut server = command(holdfast());
        server.envs(self.environment.iter().map(|(name, value)| (name, value)));
        server.arg("server").arg(format!("-config={}", file.display()));
        self.server = Some(Server::start(&mut server, self.folder.path(), 1, self.tls.clone()));
        self
    }

    pub fn kill(mut self) -> Newcomer {
        self.server.take().expect("it runs").kill();
        self
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    pub fn client(&self) -> Client {
        self.server().client()
    }

    pub fn port(&self) -> u16 {
        self.ports.0
    }

    /// Make it a cluster of its own. Its share and its root token.
    #[track_caller]
    pub fn initialised(&self) -> (String, String) {
        let made = self.client().call("PUT", "sys/init", Some(&json!({"secret_shares": 1, "secret_threshold": 1})));
        let made = made.expect(200);
        let share = made.text_at("/keys/0");
        self.give(&share).expect(200);
        (share, made.text_at("/root_token"))
    }

    /// Give it a share.
    #[track_caller]
    pub fn give(&self, share: &str) -> Reply {
        self.client().call("PUT", "sys/unseal", Some(&json!({"key": share})))
    }

    /// Wait until it knows which shares it needs.
    pub fn until_asked_for_shares(&self) {
        until(WITHIN, "a node that waits for shares", || {
            let status = self.client().try_call("GET", "sys/seal-status", None).ok()?.json();
            (status["initialized"] == true).then_some(())
        });
    }

    /// Wait until its part is done: it is unsealed.
    pub fn until_unsealed(&self) {
        until(WITHIN, "an unsealed node", || {
            let status = self.client().try_call("GET", "sys/seal-status", None).ok()?.json();
            (status["sealed"] == false).then_some(())
        });
    }

    /// `operator raft join` at it.
    #[track_caller]
    pub fn join(&self, args: &[&str]) -> Output {
        let mut join = command(holdfast());
        join.args(["operator", "raft", "join"]).args(args);
        run(join.env("HOLDFAST_ADDR", self.server().url()))
    }
}

/// The members as a node lists them: name, whether it votes.
pub fn members(nodes: &Nodes) -> Vec<(String, bool)> {
    let listed = until(WITHIN, "a list of members", || {
        let root = nodes.root(nodes.led_now()?);
        root.try_call("GET", "sys/storage/raft/configuration", None).ok().filter(|r| r.status == 200)
    });
    let servers = listed.at("/data/config/servers");
    let one = |s: &Value| (s["node_id"].as_str().expect("a name").to_owned(), s["voter"] == true);
    servers.as_array().expect("a list").iter().map(one).collect()
}
