//! A client that hangs up, at every point of a request's way: nothing is cancelled, nothing is half
//! done, and every request line of the audit log has its response line.

#[path = "../../core/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_core::EngineTable;
use holdfast_core::audit::DeviceConfig;
use holdfast_core::clock::SystemClocks;
use holdfast_core::failpoint::POINTS;
use holdfast_http::tls::{Certificates, TlsOptions};
use holdfast_http::{Address, ListenerOptions, bind};
use holdfast_sdk::Value;
use holdfast_storage::Store;
use serde_json::json;
use support::outside::World;
use support::{Server, core};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

const ENGINES: EngineTable =
    EngineTable { secrets: &[("kv", support::kv), ("outside", support::outside::outside)], auth: &[], databases: &[] };

/// A server behind a listener, with an audit log.
struct Site {
    server: Server,
    address: SocketAddr,
    folder: tempfile::TempDir,
    stop: watch::Sender<bool>,
    listening: tokio::task::JoinHandle<()>,
}

impl Site {
    async fn start(world: &str) -> Site {
        Site::start_with(world, false).await
    }

    async fn start_with(world: &str, tls: bool) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let audit = DeviceConfig::file("file/", &folder.path().join("audit.log"));
        let store = Store::open_on(None, 1 << 20).unwrap();
        let server = Server::initialise(core(store, ENGINES, Arc::new(SystemClocks), vec![audit])).await;
        server.write("sys/mounts/kv", json!({"type": "kv", "options": {"version": "2"}})).await.expect(204);
        server.write("sys/mounts/db", json!({"type": "outside", "options": {"world": world}})).await.expect(204);
        let listener = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let Address::Tcp(address) = listener.address else { unreachable!() };
        let (stop, stopped) = watch::channel(false);
        let tls = tls.then(|| certificates(folder.path()).config().unwrap());
        let serving = listener.serve(server.core.clone(), ListenerOptions::default(), tls, stopped);
        Site { address, listening: tokio::spawn(serving), folder, stop, server }
    }

    /// Send a request in a way of asking.
    async fn ask(&self, way: Way, (method, path, body): (&str, &str, Value)) -> Asked {
        if way == Way::Http1 {
            return Asked::Http1(self.send(method, path, body).await);
        }
        let mut roots = rustls::RootCertStore::empty();
        let certificate = std::fs::read(self.folder.path().join("cert.der")).unwrap();
        roots.add(certificate.into()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(async move {
            let _ended_by_either_side = connection.await;
        });
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("https://localhost/v1/{path}"))
            .header("x-vault-token", &self.server.root)
            .body(())
            .unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (response, mut sending) = sender.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            sending.send_data(body.into(), true).unwrap();
        }
        Asked::Http2 { response, sender, driver, takes_back: way == Way::Http2TakesBack }
    }

    /// Send a request and leave the answer to whoever reads.
    async fn send(&self, method: &str, path: &str, body: Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} /v1/{path} HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.server.root,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// Send a request, and hang up when it is at `point`. False: it never came there, and was answered.
    async fn hang_up_at(&self, point: &'static str, way: Way, request: (&str, &str, Value)) -> bool {
        let (there, goes_on) = (Arc::new(AtomicBool::new(false)), watch::Sender::new(false));
        let (told, on) = (there.clone(), goes_on.subscribe());
        self.server.core.failpoints.set(move |reached| {
            let (told, mut on) = (told.clone(), on.clone());
            Box::pin(async move {
                if reached == point {
                    told.store(true, Ordering::SeqCst);
                    let _gone = on.wait_for(|on| *on).await;
                }
            })
        });
        let mut asked = self.ask(way, request).await;
        let came = tokio::select! {
            () = asked.answered() => false,
            () = until(|| there.load(Ordering::SeqCst)) => true,
        };
        let left = asked.hang_up().await;
        goes_on.send_replace(true);
        self.server.core.failpoints.clear();
        until(|| self.server.core.metrics.in_flight.get() == 0).await;
        drop(left);
        until(|| self.server.core.metrics.connections.get() == 0).await;
        came
    }

    /// Request and response lines of the audit log by request, without the device's own test and checkpoints.
    fn audited(&self) -> BTreeMap<String, (usize, usize)> {
        let mut lines = BTreeMap::<String, (usize, usize)>::new();
        for line in std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["type"] == "checkpoint" || line["request"]["path"] == "sys/audit/test" {
                continue;
            }
            let of = lines.entry(line["request"]["id"].as_str().unwrap().to_owned()).or_default();
            match line["type"].as_str().unwrap() {
                "request" => of.0 += 1,
                "response" => of.1 += 1,
                other => panic!("{other}"),
            }
        }
        lines
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.listening.await.unwrap();
    }
}

fn certificates(folder: &std::path::Path) -> Arc<Certificates> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [cert_file, key_file] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
    std::fs::write(folder.join("cert.der"), made.cert.der()).unwrap();
    std::fs::write(&cert_file, made.cert.pem()).unwrap();
    std::fs::write(&key_file, made.signing_key.serialize_pem()).unwrap();
    let options = TlsOptions {
        cert_file,
        key_file,
        client_ca_file: None,
        require_client_cert: false,
        disable_client_certs: true,
        tls12: true,
        tls13: true,
        cipher_suites: Vec::new(),
    };
    Certificates::load(options).unwrap()
}

/// How a client asks, and hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Http1,
    /// It closes its connection.
    Http2Closes,
    /// It takes its request back (RST_STREAM), and keeps the connection.
    Http2TakesBack,
}

/// A request that was sent.
enum Asked {
    Http1(TcpStream),
    Http2 {
        response: h2::client::ResponseFuture,
        sender: h2::client::SendRequest<bytes::Bytes>,
        driver: tokio::task::JoinHandle<()>,
        takes_back: bool,
    },
}

impl Asked {
    async fn answered(&mut self) {
        match self {
            Asked::Http1(stream) => {
                let _nobody_reads_on = stream.read(&mut [0]).await;
            }
            Asked::Http2 { response, .. } => {
                let _nobody_reads_on = response.await;
            }
        }
    }

    /// What is left open.
    async fn hang_up(self) -> Option<h2::client::SendRequest<bytes::Bytes>> {
        match self {
            // On this machine the server's end is closed by that; it looks at it when it has something to say.
            Asked::Http1(stream) => {
                drop(stream);
                None
            }
            Asked::Http2 { response, sender, driver, takes_back } => {
                drop(response);
                if takes_back {
                    // Until the server knows.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    return Some(sender);
                }
                driver.abort();
                let _aborted = driver.await;
                None
            }
        }
    }
}

async fn until(holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not come to hold within ten seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hangs_up_at_whatever_point_loses_nothing_and_leaves_paired_audit_lines() {
    whoever_hangs_up(Way::Http1, "hang-up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_for_a_connection_of_http2_that_is_closed() {
    whoever_hangs_up(Way::Http2Closes, "hang-up of HTTP/2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_for_a_request_of_http2_that_is_taken_back() {
    whoever_hangs_up(Way::Http2TakesBack, "hang-up of a stream").await;
}

async fn whoever_hangs_up(way: Way, name: &str) {
    let site = Site::start_with(name, way != Way::Http1).await;
    let world = World::of(name);
    let mut came = BTreeMap::<&str, Vec<&str>>::new();
    let mut asked = site.audited().len();
    for (n, point) in POINTS.into_iter().enumerate() {
        let secret = format!("kv/data/s{n}");
        let kinds = [
            ("write", "POST", secret.as_str(), json!({"data": {"v": n}})),
            ("read", "GET", secret.as_str(), Value::Null),
            ("act", "GET", "db/creds/a", Value::Null),
            ("refused", "POST", secret.as_str(), json!({"options": {"cas": 7}, "data": {"v": "never"}})),
            ("delete", "DELETE", secret.as_str(), Value::Null),
        ];
        for (kind, method, path, body) in kinds {
            if site.hang_up_at(point, way, (method, path, body)).await {
                came.entry(kind).or_default().push(point);
            }
            asked += 1;
            let audited = site.audited();
            assert_eq!(audited.len(), asked, "{kind} at {point} was asked and carried out");
            assert!(audited.values().all(|lines| *lines == (1, 1)), "{kind} at {point}: {audited:?}");
            if kind == "write" {
                let read = site.server.read(&secret).await.expect(200);
                assert_eq!((&read["data"]["data"]["v"], &read["data"]["metadata"]["version"]), (&json!(n), &json!(1)));
                asked += 1;
            }
        }
        let gone = site.server.read(&secret).await.expect(404);
        assert_eq!(gone["data"]["metadata"]["version"], 1, "the refused write made no version: {gone}");
        let known = site.server.list("db/users").await.expect(200);
        assert_eq!(known["data"]["keys"], json!(world.users()), "a user for each, that the store knows");
        assert_eq!(world.users().len(), n + 1);
        assert_eq!(site.server.read("sys/intents").await.expect(200)["data"]["intents"], json!([]));
        asked += 3;
    }
    let without = |missing: &[&str]| -> Vec<&str> { POINTS.into_iter().filter(|p| !missing.contains(p)).collect() };
    assert_eq!(came["write"], without(&["intended", "acted", "failed"]));
    assert_eq!(came["delete"], came["write"]);
    assert_eq!(came["act"], without(&["failed"]));
    assert_eq!(came["read"], without(&["intended", "acted", "failed", "proposed", "committed"]));
    assert_eq!(came["refused"], without(&["intended", "acted", "committed"]));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_panics_fails_one_request_which_is_answered_and_audited() {
    let site = Site::start("panics").await;
    for _ in 0..2 {
        let mut stream = site.send("GET", "db/creds/defect", Value::Null).await;
        let mut answer = vec![0; 4096];
        let n = stream.read(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer[..n]);
        assert!(text.starts_with("HTTP/1.1 500 ") && text.contains("a defect of the server"), "{text}");
    }
    assert!(site.audited().values().all(|lines| *lines == (1, 1)));
    assert_eq!(site.server.core.metrics.in_flight.get(), 0);
    site.server.read("db/creds/a").await.expect(200);
    site.stop().await;
}

/// A stream without anything to send ends with its client: nothing else would ever tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_ends_when_its_client_goes() {
    let site = Site::start("a quiet stream").await;
    for sent_ahead in [false, true] {
        let mut stream = site.send("GET", "sys/monitor?log_level=error", Value::Null).await;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        if sent_ahead {
            stream.write_all(b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        }
        // It is no idle connection meanwhile.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(site.server.core.metrics.connections.get(), 1);
        drop(stream);
        until(|| site.server.core.metrics.connections.get() == 0).await;
    }
    site.stop().await;
}
