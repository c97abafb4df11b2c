//! `monitor`: the server's log as it is written.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use holdfast_tests::process::signal;
use holdfast_tests::program::{holdfast, run};
use holdfast_tests::{Running, Setup, until};
use rustix::process::Signal;

fn running() -> Running {
    Running::start(Setup::shamir().without_audit())
}

fn follow(running: &Running, flags: &[&str]) -> Child {
    let mut call = running.site.cli(&holdfast(), &running.server, &running.keys.root_token);
    call.arg("monitor").args(flags).stdout(Stdio::piped()).stderr(Stdio::piped());
    call.spawn().expect("the command")
}

/// Something that the log tells at the level of debug.
fn fail_a_handshake(running: &Running) {
    let mut stream = TcpStream::connect(("127.0.0.1", running.server.port())).expect("a connection");
    stream.write_all(b"no handshake at all\n").expect("it takes this");
}

/// A line that tells of a handshake. When following has begun is not seen from here: handshakes fail
/// until a line is there.
fn first_line(running: &Running, child: &mut Child) -> String {
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let (sender, receiver) = mpsc::channel();
    // Goes on reading to the end, so that the command can write.
    thread::spawn(move || {
        for line in lines {
            let _only_the_first_is_looked_at = sender.send(line);
        }
    });
    let line = until(Duration::from_secs(10), "a line", || {
        fail_a_handshake(running);
        receiver.recv_timeout(Duration::from_millis(100)).ok()
    });
    line.expect("a text")
}

fn ended(mut child: Child) -> i32 {
    let status = until(Duration::from_secs(10), "the end", || child.try_wait().expect("a child can be waited for"));
    status.code().expect("no signal ended it")
}

#[test]
fn lines_come_as_they_are_written_until_it_is_interrupted() {
    let running = running();
    for (flags, marks) in [
        (&["-log-level=debug"][..], ["[DEBUG]", "http: a TLS handshake failed"]),
        (
            &["-log-level", "DEBUG", "-log-format=json"],
            ["\"@level\":\"debug\"", "\"@message\":\"a TLS handshake failed\""],
        ),
    ] {
        for stop in [Signal::INT, Signal::TERM] {
            let mut child = follow(&running, flags);
            let line = first_line(&running, &mut child);
            assert!(marks.iter().all(|m| line.contains(m)), "{line}");
            signal(child.id(), stop);
            assert_eq!(ended(child), 0);
        }
    }
}

#[test]
fn it_ends_well_when_the_server_is_sealed() {
    let running = running();
    let mut child = follow(&running, &["-log-level=debug"]);
    first_line(&running, &mut child);
    running.root.post("sys/seal", serde_json::json!({})).expect(204);
    assert_eq!(ended(child), 0);
}

#[test]
fn what_is_wrong_is_said_and_ends_with_1() {
    let running = running();
    let call = |flags: &[&str], token: &str| {
        let mut call = running.site.cli(&holdfast(), &running.server, token);
        run(call.arg("monitor").args(flags))
    };
    let root = running.keys.root_token.as_str();
    assert!(call(&["-log-level=loud"], root).bad(1).contains("loud is an unknown log level"));
    assert!(call(&["-log-format=xml"], root).bad(1).contains("xml is an unknown log format"));
    assert!(call(&["more"], root).bad(1).contains("Too many arguments (expected 0, got 1)"));
    assert!(call(&[], "hvs.unknown").bad(1).contains("permission denied"));
    let curl = call(&["-output-curl-string", "-log-level=warn"], root).good();
    assert!(curl.contains("/v1/sys/monitor?log_format=standard&log_level=warn"), "{curl}");
}
