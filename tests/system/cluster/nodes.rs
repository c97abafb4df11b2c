//! Nodes of one cluster, opened by one share.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::program::holdfast;
use holdfast_tests::{Address, Client, Server, until};

pub const WITHIN: Duration = Duration::from_secs(90);

pub struct Nodes {
    folder: TempDir,
    /// Of clients, and of members.
    ports: Vec<(u16, u16)>,
    servers: Vec<Option<Server>>,
    share: String,
    root_token: String,
}

impl Nodes {
    /// One node that is initialised, and others that join it.
    pub fn start(count: usize) -> Nodes {
        let folder = tempfile::Builder::new().prefix("holdfast-cluster-").tempdir().expect("a temporary folder");
        let free: Vec<TcpListener> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |i: usize| free[i].local_addr().unwrap().port();
        let ports = (0..count).map(|i| (port(2 * i), port(2 * i + 1))).collect();
        drop(free);
        let servers = (0..count).map(|_| None).collect();
        let mut nodes = Nodes { folder, ports, servers, share: String::new(), root_token: String::new() };
        nodes.launch(0);
        let request = json!({"secret_shares": 1, "secret_threshold": 1});
        let made =
            until(WITHIN, "a node that answers", || nodes.client(0).try_call("PUT", "sys/init", Some(&request)).ok());
        let made = made.expect(200);
        nodes.share = made.text_at("/keys/0").to_owned();
        nodes.root_token = made.text_at("/root_token").to_owned();
        nodes.unseal(0);
        for n in 1..count {
            nodes.launch(n);
            nodes.unseal(n);
        }
        nodes
    }

    fn launch(&mut self, n: usize) {
        let folder = self.folder.path().join(format!("n{n}"));
        fs::create_dir_all(&folder).unwrap();
        let (own, members) = self.ports[n];
        let first = self.ports[0].0;
        let join = format!("retry_join {{ leader_api_addr = \"http://127.0.0.1:{first}\" }}");
        let join = if n == 0 { "" } else { &join };
        let config = format!(
            "storage \"raft\" {{\n path = \"{data}\"\n node_id = \"n{n}\"\n {join}\n}}\n\
             listener \"tcp\" {{\n address = \"127.0.0.1:{own}\"\n cluster_address = \"127.0.0.1:{members}\"\n tls_disable = true\n}}\n\
             api_addr = \"http://127.0.0.1:{own}\"\ncluster_addr = \"https://127.0.0.1:{members}\"\ndisable_mlock = true\n",
            data = folder.join("data").display(),
        );
        fs::write(folder.join("config.hcl"), config).unwrap();
        let mut command = Command::new(holdfast());
        command.arg("server").arg(format!("-config={}", folder.join("config.hcl").display()));
        self.servers[n] = Some(Server::launch(&mut command, &folder, None));
    }

    fn unseal(&self, n: usize) {
        let share = json!({"key": self.share});
        until(WITHIN, "an unsealed node", || {
            let status = self.client(n).try_call("GET", "sys/seal-status", None).ok()?;
            (status.at("/initialized") == true).then_some(())?;
            let status = self.client(n).try_call("PUT", "sys/unseal", Some(&share)).ok()?;
            (status.at("/sealed") == false).then_some(())
        });
    }

    pub fn client(&self, n: usize) -> Client {
        Client::new(Address::Tcp(([127, 0, 0, 1], self.ports[n].0).into()), None)
    }

    pub fn root(&self, n: usize) -> Client {
        self.client(n).with_token(&self.root_token)
    }

    pub fn roots(&self) -> Vec<Client> {
        (0..self.ports.len()).map(|n| self.root(n)).collect()
    }

    /// Which node is active.
    pub fn until_led(&self) -> usize {
        until(WITHIN, "a leader", || {
            (0..self.ports.len()).find(|n| {
                let leader = self.client(*n).try_call("GET", "sys/leader", None);
                leader.is_ok_and(|l| l.status == 200 && l.at("/is_self") == true)
            })
        })
    }

    pub fn until_all_vote(&self) {
        until(WITHIN, "votes for all", || {
            let members = self.root(self.until_led()).try_call("GET", "sys/storage/raft/configuration", None).ok()?;
            let servers = members.at("/data/config/servers");
            let servers = servers.as_array()?;
            (servers.len() == self.ports.len() && servers.iter().all(|s| s["voter"] == true)).then_some(())
        });
    }

    pub fn kill(&mut self, n: usize) {
        if let Some(server) = self.servers[n].take() {
            server.kill();
        }
    }

    pub fn start_again(&mut self, n: usize) {
        self.launch(n);
        self.unseal(n);
    }
}
