//! Where clients and other nodes look for this one, and where this one looks for others.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use holdfast_config::{Config, RaftStorage, Storage};

use super::listeners::binds;
use super::report::Check;
use crate::server::storage::host_and_port;

/// How long another node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where members listen if nothing says so.
const CLUSTER_PORT: u16 = 8201;

pub fn check(config: &Config, held: Option<u32>) -> Check {
    const NAME: &str = "Check Cluster Address";
    let mut all = vec![announced("Determine Redirect Address", "api_addr", config.api_addr.as_deref())];
    let Some(Storage::Raft(raft)) = &config.storage else {
        return Check::of(NAME, all);
    };
    all.push(announced("Determine Cluster Address", "cluster_addr", config.cluster_addr.as_deref()));
    if let Some(address) = &config.cluster_addr {
        let own = host_and_port(address);
        let port = own.rsplit_once(':').and_then(|(_, p)| p.parse().ok()).unwrap_or(CLUSTER_PORT);
        all.push(binds(&format!(":{port}"), held));
    }
    all.extend(raft.retry_join.iter().map(|join| reached(&join.leader_api_addr)).take(MOST));
    if others_cannot_come(config, raft) {
        all.push(Check::fail(
            "Determine Cluster Address",
            "cluster_addr is this machine's own loopback, and other nodes are named",
            "Set it to an address at which the others reach this node.",
        ));
    }
    Check::of(NAME, all)
}

/// Nodes that are asked at most.
const MOST: usize = 16;

fn announced(name: &str, key: &str, url: Option<&str>) -> Check {
    match url {
        None => Check::ok(name, format!("{key} is not set: the first listener's address is told")),
        Some(url) if host_and_port(url).starts_with("0.0.0.0:") || url.contains("[::]") => Check::fail(
            name,
            format!("{key} is {url}, which is no address that somebody can go to"),
            "Set it to the address of this node.",
        ),
        Some(url) => match host_and_port(url).to_socket_addrs() {
            Ok(_) => Check::ok(name, format!("{key} is {url}")),
            Err(e) => {
                Check::warn(name, format!("{key} {url}: {e}"), "Correct it, or let the name be resolved here too.")
            }
        },
    }
}

fn reached(url: &str) -> Check {
    const NAME: &str = "Check Member To Join";
    if url.is_empty() {
        return Check::skipped(NAME, "its address is found at the start (auto_join)");
    }
    let address = host_and_port(url);
    let found = address.to_socket_addrs().map_err(|e| e.to_string());
    let found = found.and_then(|mut all| all.next().ok_or_else(|| "it names no address".to_owned()));
    match found.and_then(|a| TcpStream::connect_timeout(&a, ANSWER_WITHIN).map_err(|e| e.to_string())) {
        Ok(_) => Check::ok(NAME, format!("{url} answers")),
        Err(e) => Check::warn(
            NAME,
            format!("{url} does not answer: {e}"),
            "Start it, or open the way to it. A node that is a member already needs it no more.",
        ),
    }
}

fn others_cannot_come(config: &Config, raft: &RaftStorage) -> bool {
    let is_loopback = |url: &String| {
        let own = host_and_port(url);
        own.starts_with("127.") || own.starts_with("localhost:") || own.starts_with("[::1]")
    };
    let elsewhere = |url: &String| !url.is_empty() && !is_loopback(url);
    config.cluster_addr.as_ref().is_some_and(is_loopback)
        && raft.retry_join.iter().any(|j| elsewhere(&j.leader_api_addr))
}
