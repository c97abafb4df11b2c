//! Field log, area raft: what needs several nodes, or a store that was full of what is gone.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::holdfast;
use holdfast_tests::until;

use crate::cluster::nodes::{Between, Nodes, WITHIN};

/// A balancer that sends each connection to the next of two nodes, and the third joins through it.
struct Balancer {
    port: u16,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Balancer {
    fn start(behind: [u16; 2]) -> Balancer {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let (connections, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (taken, over) = (connections.clone(), ended.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let to = behind[taken.fetch_add(1, Ordering::SeqCst) % 2];
                // A node that does not run takes no connection: the client sees its own closed.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", to)) {
                    both_ways(client, server);
                }
            }
        });
        Balancer { port, connections, ended }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _wakes_it = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn both_ways(client: TcpStream, server: TcpStream) {
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (mut from, mut to) = (from.try_clone().expect("a second handle"), to.try_clone().expect("a second handle"));
        thread::spawn(move || {
            let _until_one_hangs_up = io::copy(&mut from, &mut to);
            let _closed_already = to.shutdown(Shutdown::Write);
        });
    }
}

struct ThirdThrough(u16);

impl Between for ThirdThrough {
    fn command(&self, _n: usize, _folder: &Path) -> Command {
        Command::new(holdfast())
    }

    fn finds(&self, n: usize, others: &[u16]) -> String {
        let ports = if n == 2 { &[self.0][..] } else { others };
        let one = |port: &u16| format!("retry_join {{\n leader_api_addr = \"http://127.0.0.1:{port}\"\n}}\n");
        ports.iter().map(one).collect()
    }
}

// F065: the two steps of a join are answered by different nodes, one of which only stands by.
#[test]
fn a_node_joins_through_a_balancer_whichever_node_its_two_steps_get_to() {
    let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
    let balancer = Balancer::start([ports[0].0, ports[1].0]);
    let mut nodes = Nodes::start_with(ports, Box::new(ThirdThrough(balancer.port)));
    nodes.until_all_vote();
    for _ in 1..20 {
        nodes.kill(2);
        nodes.ask(0, "sys/storage/raft/remove-peer", json!({"server_id": "n2"}), 204);
        nodes.lose_folder(2);
        let before = balancer.connections.load(Ordering::SeqCst);
        nodes.start_again(2);
        assert!(balancer.connections.load(Ordering::SeqCst) > before, "it joined through the balancer");
        let listed = until(WITHIN, "the new member in the list", || {
            let root = nodes.root(nodes.led_now()?);
            let listed = root.try_call("GET", "sys/storage/raft/configuration", None).ok()?.text();
            listed.contains("\"n2\"").then_some(listed)
        });
        assert_eq!(listed.matches("\"n2\"").count(), 1, "{listed}");
    }
}
