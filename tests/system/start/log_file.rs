//! `log_file`: the log in a file that is moved away, taken away, and rotated.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::run;
use holdfast_tests::{Client, Server, Setup, Site, until};
use rustix::process::Signal;

/// A server whose log is a file, and that file.
fn logging(site: &Site, keys: &str) -> (Server, Client) {
    let file = site.folder().join("logs/server.log");
    fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    let port = free_port();
    let config = site.config().replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    site.write_config(&format!("{config}log_file = \"{}\"\n{keys}\n", file.display()));
    let server = Server::launch(&mut site.server_command(), site.folder(), site.client_config());
    let address = holdfast_tests::Address::Tcp(([127, 0, 0, 1], port).into());
    let client = Client::new(address, site.client_config());
    until(Duration::from_secs(20), "the server", || client.try_call("GET", "sys/seal-status", None).ok());
    (server, client)
}

fn has(file: &Path, text: &str) {
    until(Duration::from_secs(10), &format!("{text:?} in {}", file.display()), || {
        fs::read_to_string(file).ok().filter(|log| log.contains(text)).map(drop)
    });
}

#[test]
fn the_log_goes_to_its_file_is_reopened_at_a_hangup_and_outlives_its_folder() {
    let site = Site::make(Setup::shamir());
    let (mut server, client) = logging(&site, "");
    let folder = site.folder().join("logs");
    let (file, moved) = (folder.join("server.log"), folder.join("moved"));
    has(&file, "listening");
    assert_eq!(fs::metadata(&file).expect("the log").permissions().mode() & 0o777, 0o600);
    assert!(!server.log().contains("listening"), "{}", server.log());

    fs::rename(&file, &moved).expect("the log is moved");
    server.signal(Signal::HUP);
    has(&file, "the certificate was read again");
    assert!(!fs::read_to_string(&moved).expect("the old log").contains("read again"));

    fs::remove_dir_all(&folder).expect("the folder goes");
    std::thread::sleep(Duration::from_millis(1100));
    server.signal(Signal::HUP);
    server.until_logged("lines go to the standard error");
    client.get("sys/seal-status").expect(200);
    fs::create_dir(&folder).expect("the folder comes back");
    std::thread::sleep(Duration::from_millis(1100));
    server.signal(Signal::HUP);
    has(&file, "the certificate was read again");
    assert!(server.is_alive());
    server.stop();
}

#[test]
fn a_large_file_is_rotated_and_a_file_that_cannot_be_made_is_refused_at_start() {
    let site = Site::make(Setup::shamir());
    let (server, _) = logging(&site, "log_rotate_bytes = 50\nlog_rotate_max_files = 2");
    let folder = site.folder().join("logs");
    for _ in 0..5 {
        let before = names(&folder);
        server.signal(Signal::HUP);
        until(Duration::from_secs(10), "another file", || (names(&folder) != before).then_some(()));
    }
    let names = names(&folder);
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(names.last().map(String::as_str), Some("server.log"));
    server.stop();

    let text = fs::read_to_string(site.config_file()).expect("the configuration");
    site.write_config(&text.replace("logs/server.log", "nowhere/server.log"));
    let said = run(&mut site.server_command());
    assert!(said.code == Some(1) && said.stderr.contains("nowhere/server.log"), "{said:?}");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}
