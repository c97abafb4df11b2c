//! Nodes of one cluster, opened by one share.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::{Address, Client, Reply, Server, audited, until};

/// Long: where other builds and tests keep the machine busy, leaders do not last.
pub const WITHIN: Duration = Duration::from_secs(240);
/// What a node says of itself it says at once.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What lies between the members.
pub trait Between {
    /// The address of a member: for clients, and for other members.
    fn hosts(&self, _n: usize) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)
    }

    /// The port at which others find a member, which listens on `port`.
    fn front(&self, _n: usize, port: u16) -> u16 {
        port
    }

    /// The command that starts a member.
    fn command(&self, n: usize, folder: &Path) -> Command;

    /// A member's seal, where it is not opened by the share.
    fn seal(&self, _n: usize) -> String {
        String::new()
    }

    /// More of its `retry_join`.
    fn joins_with(&self, _n: usize) -> String {
        String::new()
    }

    /// How it finds the others, whose clients call at these ports.
    fn finds(&self, n: usize, others: &[u16]) -> String {
        let with = self.joins_with(n);
        let one = |port: &u16| format!("retry_join {{\n leader_api_addr = \"http://127.0.0.1:{port}\"\n {with}\n}}\n");
        others.iter().map(one).collect()
    }

    /// More of its listener.
    fn listens_with(&self, _n: usize) -> String {
        String::new()
    }

    /// Further stanzas of its configuration.
    fn top(&self, _n: usize) -> String {
        String::new()
    }

    /// Called while a member with a device is sealed: where people are asked, they are here.
    fn people_sign(&self, _nodes: &Nodes, _n: usize) {}

    /// Called before a member is started for the first time.
    fn approve(&self, _n: usize, _root: &Client) {}
}

/// Let a new node find a join token in a file.
pub fn write_join_token(root: &Client, file: &Path) {
    let wanted = json!({"ttl": "10m"});
    let made = until(WITHIN, "a join token", || {
        root.try_call("POST", "sys/storage/raft/join-token", Some(&wanted)).ok().filter(|r| r.status == 200)
    });
    fs::write(file, made.text_at("/data/join_token")).expect("a file for the join token");
}

/// Nothing; each node has an audit log in its folder.
pub struct Audited;

impl Between for Audited {
    fn command(&self, _n: usize, folder: &Path) -> Command {
        let mut command = Command::new(holdfast());
        command.current_dir(folder);
        command
    }

    fn top(&self, _n: usize) -> String {
        "audit \"file\" \"main\" {\n options {\n file_path = \"audit.log\"\n }\n}\n".into()
    }
}

pub struct Nodes {
    /// Dropped before their folder: a test that fails shows their logs.
    servers: Vec<Option<Server>>,
    folder: TempDir,
    /// Of clients, and of members.
    ports: Vec<(u16, u16)>,
    share: String,
    root_token: String,
    between: Box<dyn Between>,
}

impl Drop for Nodes {
    /// Whatever the test was about, the audit logs are right.
    fn drop(&mut self) {
        if let Some(fault) = audited::fault_of(self.folder.path()).filter(|_| !std::thread::panicking()) {
            panic!("{fault}");
        }
    }
}

impl Nodes {
    /// One node that is initialised, and others that join it.
    pub fn start(count: usize) -> Nodes {
        Nodes::start_with((0..count).map(|_| (free_port(), free_port())).collect(), Box::new(Audited))
    }

    /// The same with something between the members.
    pub fn start_with(ports: Vec<(u16, u16)>, between: Box<dyn Between>) -> Nodes {
        let folder = tempfile::Builder::new().prefix("holdfast-cluster-").tempdir().expect("a temporary folder");
        let count = ports.len();
        let servers = (0..count).map(|_| None).collect();
        let mut nodes = Nodes { servers, folder, ports, share: String::new(), root_token: String::new(), between };
        nodes.launch(0);
        let has_device = !nodes.between.seal(0).is_empty();
        let request = match has_device {
            true => json!({"recovery_shares": 1, "recovery_threshold": 1}),
            false => json!({"secret_shares": 1, "secret_threshold": 1}),
        };
        let made =
            until(WITHIN, "a node that answers", || nodes.client(0).try_call("PUT", "sys/init", Some(&request)).ok());
        let made = made.expect(200);
        nodes.share = made.text_at(if has_device { "/recovery_keys/0" } else { "/keys/0" });
        nodes.root_token = made.text_at("/root_token").to_owned();
        nodes.unseal(0);
        for n in 1..count {
            nodes.between.approve(n, &nodes.root(0));
            nodes.launch(n);
            nodes.unseal(n);
        }
        nodes
    }

    /// Start a node, and wait for nothing.
    pub fn launch(&mut self, n: usize) {
        self.configure(n);
        let folder = self.folder.path().join(format!("n{n}"));
        let mut command = self.between.command(n, &folder);
        command.arg("server").arg(format!("-config={}", folder.join("config.hcl").display()));
        self.servers[n] = Some(Server::launch(&mut command, &folder, None));
    }

    /// Write a node's configuration, as it is by now.
    pub fn configure(&self, n: usize) {
        let folder = self.folder.path().join(format!("n{n}"));
        fs::create_dir_all(&folder).unwrap();
        let (own, members) = self.ports[n];
        let others: Vec<u16> = self.ports.iter().map(|p| p.0).filter(|port| *port != own).collect();
        let (join, seal) = (self.between.finds(n, &others), self.between.seal(n) + &self.between.top(n));
        let listener = self.between.listens_with(n);
        let front = self.between.front(n, members);
        let (host, members_host) = self.between.hosts(n);
        let config = format!(
            "storage \"raft\" {{\n path = \"{data}\"\n node_id = \"n{n}\"\n performance_multiplier = 10\n {join}\n}}\n\
             listener \"tcp\" {{\n address = \"{host}:{own}\"\n cluster_address = \"{members_host}:{members}\"\n tls_disable = true\n {listener}\n}}\n\
             api_addr = \"http://{host}:{own}\"\ncluster_addr = \"https://{members_host}:{front}\"\ndisable_mlock = true\n{seal}",
            data = folder.join("data").display(),
        );
        fs::write(folder.join("config.hcl"), config).unwrap();
    }

    fn unseal(&self, n: usize) {
        let share = json!({"key": self.share});
        until(WITHIN, "an unsealed node", || {
            let status = self.client(n).try_call("GET", "sys/seal-status", None).ok()?.json();
            (status["initialized"] == true).then_some(())?;
            if !self.between.seal(n).is_empty() {
                if status["sealed"] == true {
                    self.between.people_sign(self, n);
                }
                return (status["sealed"] == false).then_some(());
            }
            let status = self.client(n).try_call("PUT", "sys/unseal", Some(&share)).ok()?;
            (status.json()["sealed"] == false).then_some(())
        });
    }

    /// Give it what opens it; it may wait for others yet.
    pub fn give_share(&self, n: usize) {
        let share = json!({"key": self.share});
        until(WITHIN, "a node that takes a share", || {
            self.client(n).try_call("PUT", "sys/unseal", Some(&share)).ok().filter(|r| r.status == 200)
        });
    }

    /// The same, if it is there and wants one.
    pub fn try_share(&self, n: usize) {
        let share = json!({"key": self.share});
        let _it_may_be_unsealed_by_now =
            self.client(n).patient_for(AT_ONCE).try_call("PUT", "sys/unseal", Some(&share));
    }

    /// Where clients find a node.
    pub fn url(&self, n: usize) -> String {
        format!("http://{}:{}", self.between.hosts(n).0, self.ports[n].0)
    }

    /// What opens the store, or approves.
    pub fn share(&self) -> &str {
        &self.share
    }

    pub fn client(&self, n: usize) -> Client {
        Client::new(Address::Tcp((self.between.hosts(n).0, self.ports[n].0).into()), None)
    }

    pub fn root(&self, n: usize) -> Client {
        self.client(n).with_token(&self.root_token)
    }

    pub fn roots(&self) -> Vec<Client> {
        (0..self.ports.len()).map(|n| self.root(n)).collect()
    }

    /// Write through a node until it is done: the lead may change meanwhile, on a machine that is busy.
    #[track_caller]
    pub fn put(&self, n: usize, path: &str, body: Value) {
        let root = self.root(n);
        until(WITHIN, path, || {
            let written = root.try_call("POST", path, Some(&body)).ok()?;
            let is_there = written.status == 400 && written.text().contains("already in use");
            assert!(is_there || ![400, 403, 404].contains(&written.status), "{path}: {}", written.text());
            (is_there || [200, 204].contains(&written.status)).then_some(())
        });
    }

    /// Ask through a node until the answer is the one that is wanted.
    pub fn ask(&self, n: usize, path: &str, body: Value, wanted: u16) -> Reply {
        let root = self.root(n);
        until(WITHIN, path, || root.try_call("POST", path, Some(&body)).ok().filter(|r| r.status == wanted))
    }

    /// Read through a node until it answers.
    pub fn read(&self, n: usize, path: &str) -> Reply {
        let root = self.root(n);
        until(WITHIN, path, || root.try_call("GET", path, None).ok().filter(|r| r.status == 200))
    }

    /// Which node is active.
    pub fn until_led(&self) -> usize {
        until(WITHIN, "a leader", || self.led_now())
    }

    /// The same, if one says so at once.
    pub fn led_now(&self) -> Option<usize> {
        (0..self.ports.len()).find(|n| self.says_it_leads(*n))
    }

    /// Whether a node says at once that it is active. One that hears nobody may be wrong for a moment.
    pub fn says_it_leads(&self, n: usize) -> bool {
        let leader = self.client(n).patient_for(AT_ONCE).try_call("GET", "sys/leader", None);
        leader.is_ok_and(|l| l.json()["is_self"] == true)
    }

    pub fn until_all_vote(&self) {
        until(WITHIN, "votes for all", || {
            let members = self.root(self.until_led()).try_call("GET", "sys/storage/raft/configuration", None).ok()?;
            let members = members.json();
            let servers = members["data"]["config"]["servers"].as_array()?;
            (servers.len() == self.ports.len() && servers.iter().all(|s| s["voter"] == true)).then_some(())
        });
    }

    /// Change the keys: another share opens the store from now on.
    pub fn new_share(&mut self) {
        let changed = until(WITHIN, "new keys", || {
            let root = self.root(self.led_now()?);
            let _none_is_under_way = root.try_call("DELETE", "sys/rotate/root/init", None);
            let wanted = json!({"secret_shares": 1, "secret_threshold": 1});
            let begun =
                root.try_call("POST", "sys/rotate/root/init", Some(&wanted)).ok().filter(|r| r.status == 200)?;
            let give = json!({"key": self.share, "nonce": begun.text_at("/data/nonce")});
            root.try_call("POST", "sys/rotate/root/update", Some(&give)).ok().filter(|r| r.status == 200)
        });
        self.share = changed.text_at("/data/keys/0");
    }

    pub fn is_sealed(&self, n: usize) -> Option<bool> {
        let status = self.client(n).try_call("GET", "sys/seal-status", None).ok().filter(|r| r.status == 200)?;
        status.json()["sealed"].as_bool()
    }

    /// Let another node lead.
    pub fn change_lead(&self) {
        let leader = self.until_led();
        until(WITHIN, "another leader", || {
            let now = self.led_now()?;
            if now == leader {
                let _may_be_refused = self.root(leader).try_call("POST", "sys/step-down", Some(&json!({})));
            }
            (now != leader).then_some(())
        });
    }

    /// What it holds is another cluster's now, and so is what opens it.
    pub fn take_keys_of(&mut self, other: &Nodes) {
        self.share.clone_from(&other.share);
        self.root_token.clone_from(&other.root_token);
    }

    /// What a node that does not run has stored.
    pub fn stored(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("n{n}")).join("data")
    }

    /// The audit log of a node that has one in its folder.
    pub fn audit_log(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("n{n}/audit.log"))
    }

    /// The port at which clients find a node.
    pub fn port(&self, n: usize) -> u16 {
        self.ports[n].0
    }

    /// The port at which other members find a node.
    pub fn member_port(&self, n: usize) -> u16 {
        self.ports[n].1
    }

    /// Give nodes that do not run other addresses.
    pub fn move_all(&mut self) {
        (0..self.count()).for_each(|n| self.move_to_new_ports(n));
    }

    /// The same for one.
    pub fn move_to_new_ports(&mut self, n: usize) {
        self.ports[n] = (free_port(), free_port());
    }

    /// Take away all that a node which does not run has stored.
    pub fn lose_folder(&self, n: usize) {
        fs::remove_dir_all(self.stored(n)).expect("a folder that is there");
    }

    /// The same, but for the key by which the others know it.
    pub fn lose_store(&self, n: usize) {
        for entry in fs::read_dir(self.stored(n)).expect("a folder that is there") {
            let path = entry.expect("an entry").path();
            if !path.ends_with("node") {
                let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                gone.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
        }
    }

    pub fn count(&self) -> usize {
        self.ports.len()
    }

    pub fn server(&self, n: usize) -> &Server {
        self.servers[n].as_ref().expect("it runs")
    }

    /// A file of what a node is.
    pub fn node_file(&self, n: usize, name: &str) -> PathBuf {
        self.folder.path().join(format!("n{n}/data/node")).join(name)
    }

    /// What a server has said, if it has ended by itself.
    pub fn ended(&mut self, n: usize) -> Option<String> {
        let server = self.servers[n].as_mut().expect("it was started");
        (!server.is_alive()).then(|| server.log())
    }

    pub fn kill(&mut self, n: usize) {
        if let Some(server) = self.servers[n].take() {
            server.kill();
        }
    }

    /// End one in order: it hands over the lead if it has it.
    pub fn stop(&mut self, n: usize) {
        if let Some(server) = self.servers[n].take() {
            server.stop();
        }
    }

    /// End all in order, first those that stand by: whoever took the lead over meanwhile would write what the others
    /// do not hear any more.
    pub fn stop_all(&mut self) {
        let leader = self.until_led();
        let leads = self.servers[leader].take();
        let stand_by: Vec<Server> = self.servers.iter_mut().filter_map(Option::take).collect();
        for mut servers in [stand_by, Vec::from_iter(leads)] {
            servers.iter().for_each(|server| server.signal(Signal::TERM));
            for server in &mut servers {
                let status = server.wait();
                assert!(status.success(), "{status}:\n{}", server.log());
            }
        }
    }

    pub fn start_again(&mut self, n: usize) {
        self.launch(n);
        self.unseal(n);
    }

    /// The same for several: where all were down, none is unsealed alone.
    pub fn start_all_again(&mut self) {
        let down: Vec<usize> = (0..self.count()).filter(|n| self.servers[*n].is_none()).collect();
        for n in &down {
            self.launch(*n);
        }
        for n in down {
            self.unseal(n);
        }
    }
}
