//! What holds of each kind of remote device alike: its peer gets the lines; gone as the only device it stops everything,
//! where that can be known; a line that is too long for it is refused; back again it goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use holdfast_tests::certificates::Authority;
use holdfast_tests::{Running, Server, Setup, Site, audited, until};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Map, Value, json};

use super::LONG;

const TICK: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Udp,
    UnixDatagram,
    Syslog,
    Https,
}

/// What it is reached at, and what it has read. It listens until it is dropped.
struct Peer {
    lines: Receiver<Value>,
    stop: Arc<Mutex<bool>>,
    ended: Option<thread::JoinHandle<()>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Peer {
    /// Something that takes one more line or nothing within a tick, until it is told to stop.
    fn of(mut next: impl FnMut() -> Option<String> + Send + 'static) -> Peer {
        let ((sender, lines), stop) = (channel(), Arc::new(Mutex::new(false)));
        let stopped = stop.clone();
        let ended = thread::spawn(move || {
            while !*stopped.lock().unwrap_or_else(PoisonError::into_inner) {
                next().into_iter().for_each(|line| take(&sender, &line));
            }
        });
        Peer { lines, stop, ended: Some(ended) }
    }

    #[track_caller]
    fn until_path(&self, path: &str) {
        until(LONG, &format!("a line of {path}"), || {
            self.lines.try_iter().any(|line| line["request"]["path"] == path).then_some(())
        });
    }
}

fn take(sender: &Sender<Value>, line: &str) {
    audited::line(line);
    // What stands before it is syslog's.
    let line = &line[line.find('{').expect("an object")..];
    let _the_test_is_over = sender.send(serde_json::from_str(line).expect("a line"));
}

/// Where a kind's peer is.
struct Place {
    socket: PathBuf,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
}

impl Place {
    fn make(folder: &Path, authority: &Authority, port: u16) -> Place {
        authority.server("peer");
        let pem = |name: &str| folder.join("tls").join(name);
        let certificates = CertificateDer::pem_file_iter(pem("peer.pem")).expect("a file");
        let certificates = certificates.collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(pem("peer.key")).expect("a key");
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).expect("TLS");
        Place { socket: folder.join("peer.sock"), address: ([127, 0, 0, 1], port).into(), tls: Arc::new(tls) }
    }

    fn listen(&self, kind: Kind) -> Peer {
        match kind {
            Kind::Udp => {
                let socket = UdpSocket::bind(self.address).expect("a port");
                socket.set_read_timeout(Some(TICK)).expect("a limit");
                let mut buffer = vec![0; 70_000];
                Peer::of(move || socket.recv(&mut buffer).ok().map(|n| text(&buffer[..n])))
            }
            Kind::UnixDatagram | Kind::Syslog => {
                let _not_there = std::fs::remove_file(&self.socket);
                let socket = UnixDatagram::bind(&self.socket).expect("a socket");
                socket.set_read_timeout(Some(TICK)).expect("a limit");
                let mut buffer = vec![0; 300_000];
                Peer::of(move || socket.recv(&mut buffer).ok().map(|n| text(&buffer[..n])))
            }
            Kind::Https => {
                let listener = TcpListener::bind(self.address).expect("a port");
                listener.set_nonblocking(true).expect("a mode");
                let tls = self.tls.clone();
                Peer::of(move || match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).expect("a mode");
                        stream.set_read_timeout(Some(LONG)).expect("a limit");
                        let connection = ServerConnection::new(tls.clone()).expect("TLS");
                        posted(StreamOwned::new(connection, stream))
                    }
                    Err(_) => {
                        thread::sleep(TICK);
                        None
                    }
                })
            }
        }
    }

    fn device(&self, kind: Kind) -> Value {
        match kind {
            Kind::Udp => {
                json!({ "type": "socket", "options": { "address": self.address.to_string(), "socket_type": "udp" } })
            }
            Kind::UnixDatagram => {
                json!({ "type": "socket", "options": { "address": self.socket, "socket_type": "unixgram" } })
            }
            Kind::Syslog => json!({ "type": "syslog", "options": { "address": self.socket } }),
            Kind::Https => {
                let uri = format!("https://127.0.0.1:{}/lines", self.address.port());
                json!({ "type": "http", "options": { "uri": uri } })
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// The body of one request, which is answered.
fn posted(mut stream: StreamOwned<ServerConnection, std::net::TcpStream>) -> Option<String> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 65536]);
    while !bytes.ends_with(b"}\n") {
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    stream.conn.send_close_notify();
    let _it_has_left = stream.flush();
    let body = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    Some(text(&bytes[body..]))
}

/// A server that believes the test's own authority beyond.
fn start(site: &Site) -> Server {
    let mut command = site.server_command();
    command.env("SSL_CERT_FILE", site.authority.ca());
    Server::start(&mut command, site.folder(), site.config().matches("listener \"").count(), None)
}

fn each_of(kind: Kind) {
    let top = "unsafe_allow_api_audit_creation = true";
    let site = Site::make(Setup { top: top.into(), ..Setup::shamir().without_tls().without_audit() });
    let place = Place::make(site.folder(), &site.authority, holdfast_tests::connection::free_port());
    let server = start(&site);
    let keys = site.initialise(&server.client());
    for share in &keys.shares[..2] {
        server.client().post("sys/unseal", json!({ "key": share })).expect(200);
    }
    server.until_unsealed();
    let root = server.client().with_token(&keys.root_token);
    root.post("sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } })).expect(204);
    let running = Running { server, root, keys, site };
    let write = |name: &str| running.root.post(&format!("secret/data/{name}"), json!({ "data": { "a": "b" } }));

    let peer = place.listen(kind);
    running.root.post("sys/audit/peer", place.device(kind)).expect(204);
    peer.until_path("sys/audit/test");
    write("good").expect(200);
    peer.until_path("secret/data/good");

    // The names of members stand in the line as they are.
    let data: Map<String, Value> = (0..250).map(|n| (format!("{n:0>800}"), json!("b"))).collect();
    let long = running.root.post("secret/data/long", json!({ "data": data }));
    if kind == Kind::Https {
        long.expect(200);
        peer.until_path("secret/data/long");
    } else {
        long.refused(500);
        assert_eq!(write("short").status, 200, "one that was too long is no reason to refuse others");
        assert_eq!(running.root.get("secret/data/long").status, 404, "it was not done");
        peer.until_path("secret/data/short");
    }

    drop(peer);
    let _removed = std::fs::remove_file(&place.socket);
    if kind == Kind::Udp {
        // Nobody can know: what the kernel takes counts.
        assert!([200, 500].contains(&write("gone").status));
    } else {
        write("gone").refused(500);
        running.root.get("secret/data/good").refused(500);
        running.root.get("sys/health").expect(200);
    }
    let peer = place.listen(kind);
    until(LONG, "an answer", || (write("back").status == 200).then_some(()));
    peer.until_path("secret/data/back");
    if kind != Kind::Udp {
        assert_eq!(running.root.get("secret/data/gone").status, 404, "what was refused was not done");
    }
}

#[test]
fn a_udp_peer() {
    each_of(Kind::Udp);
}

#[test]
fn a_peer_that_takes_datagrams_at_a_unix_socket() {
    each_of(Kind::UnixDatagram);
}

#[test]
fn a_system_log() {
    each_of(Kind::Syslog);
}

#[test]
fn a_peer_behind_https() {
    each_of(Kind::Https);
}
