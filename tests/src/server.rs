//! A running server.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::ClientConfig;

use crate::program::{command, holdfast};
use crate::{Address, Client, audited, process, until};

const START: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(20);

/// A process of the binary under test that ends with this value.
pub struct Server {
    child: Child,
    log: PathBuf,
    tls: Option<Arc<ClientConfig>>,
    /// Where it listens, in the order of its configuration.
    pub listeners: Vec<Address>,
}

impl Server {
    /// Start, and wait until `listeners` sockets are there. The log goes to a new file in `folder`.
    #[track_caller]
    pub fn start(command: &mut Command, folder: &Path, listeners: usize, tls: Option<Arc<ClientConfig>>) -> Server {
        let mut server = Server::launch(command, folder, tls);
        until(START, "the server's listeners", || {
            if let Some(status) = server.child.try_wait().expect("a child can be waited for") {
                panic!("the server ended ({status}):\n{}", server.log());
            }
            server.listeners = listening(&server.log());
            (server.listeners.len() >= listeners).then_some(())
        });
        server.listeners.iter().for_each(|address| audited::serves(address, folder));
        server
    }

    /// A server in memory with kv version 2 at `secret/`, whose root token is `root`.
    #[track_caller]
    pub fn dev(folder: &Path) -> Server {
        let mut dev = command(holdfast());
        dev.args(["server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token"]);
        dev.arg("-dev-listen-address=127.0.0.1:0").env("HOME", folder);
        Server::start(&mut dev, folder, 1, None)
    }

    /// Start, and wait for nothing.
    #[track_caller]
    pub fn launch(command: &mut Command, folder: &Path, tls: Option<Arc<ClientConfig>>) -> Server {
        let log = (1..).map(|n| folder.join(format!("server-{n}.log"))).find(|p| !p.exists()).expect("a free name");
        let file = File::create(&log).expect("a log file");
        let both = file.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(both).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}"));
        Server { child, log, tls, listeners: Vec::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said since its start.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Wait for something in the log.
    #[track_caller]
    pub fn until_logged(&self, text: &str) {
        until(START, &format!("{text:?} in the log"), || self.log().contains(text).then_some(()));
    }

    /// A client without a token, of the first listener.
    pub fn client(&self) -> Client {
        Client::new(self.listeners[0].clone(), self.tls.clone())
    }

    /// The first listener's port.
    pub fn port(&self) -> u16 {
        match &self.listeners[0] {
            Address::Tcp(a) => a.port(),
            Address::Unix(p) => panic!("{} has no port", p.display()),
        }
    }

    /// The first listener as a URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port())
    }

    /// Wait until the server is unsealed.
    #[track_caller]
    pub fn until_unsealed(&self) {
        let client = self.client();
        until(START, "the unsealing", || {
            let status = client.get("sys/seal-status").expect(200);
            (status.at("/sealed") == false).then_some(())
        });
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// kill -9 of the server alone; the kernel ends its device helpers then, which takes a moment. Until then they still
    /// write to their token's files. So that no helper is missed that is being started just now, the server is stopped
    /// before its children are counted.
    #[track_caller]
    pub fn kill(mut self) {
        let pid = self.pid();
        self.signal(Signal::STOP);
        until(END, "the server to stand still", || (process::has_stopped(pid) || !process::lives(pid)).then_some(()));
        let children = process::descendants(pid);
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        until(END, "the end of the killed server's device helpers", || {
            children.iter().all(|child| !process::lives(*child)).then_some(())
        });
    }

    /// SIGTERM; the server must end by itself with success.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log());
        self.log()
    }

    /// Wait for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let log = self.log.clone();
        let child = &mut self.child;
        until(END, &format!("the server's end; its log is {}", log.display()), || {
            child.try_wait().expect("a child can be waited for")
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A script's server is below it.
        let below = process::descendants(self.pid());
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
        for pid in below {
            process::signal(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}---", self.log.display(), self.log());
        }
    }
}

/// The addresses of the lines that say where the server listens.
fn listening(log: &str) -> Vec<Address> {
    let address = |line: &str| {
        let rest = line.split_once("listening: address=")?.1;
        // A line that is half written has no blank behind the address yet.
        let (text, _) = rest.split_once(' ')?;
        Some(text.parse::<SocketAddr>().map_or_else(|_| Address::Unix(text.into()), Address::Tcp))
    };
    log.lines().filter_map(address).collect()
}
