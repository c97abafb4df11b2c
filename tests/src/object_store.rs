//! A real S3-compatible server that checks signatures: OpenStack Swift with its `s3api`, four processes in a folder of
//! their own, on loopback ports of their own, as an ordinary user.
//!
//! Debian's packages bring the programs; nothing of their services is used. Without a program a test fails.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::connection::free_port;
use crate::program::{Output, run};
use crate::{process, until};

const START: Duration = Duration::from_secs(60);
const SIGNED_FOR: Duration = Duration::from_secs(600);
/// Swift gives its rights up for these.
const NOBODY: u32 = 65534;
const SERVERS: [&str; 4] = ["account", "container", "object", "proxy"];

pub const REGION: &str = "eu-test";
pub const ACCESS_KEY: &str = "backups:holdfast";
pub const SECRET_KEY: &str = "s3cr3t-of-the-bucket";
/// There from the start.
pub const BUCKET: &str = "snaps";

/// The rings: one device for everything.
const RINGS: &str = "
import sys
from swift.common.ring import RingBuilder
for name, port in zip(('account', 'container', 'object'), sys.argv[1:]):
    builder = RingBuilder(1, 1, 0)
    device = dict(id=0, region=1, zone=1, ip='127.0.0.1', port=int(port), device='d1', weight=1.0, meta='')
    builder.add_dev(dict(device, replication_ip='127.0.0.1', replication_port=int(port)))
    builder.rebalance()
    builder.get_ring().save(name + '.ring.gz')
";

/// A server's program, with this folder's swift.conf in place of the machine's.
const SERVER: &str = "
import runpy, sys
from swift.common import utils
folder, name = sys.argv[1:]
utils.set_swift_dir(folder)
program = f'/usr/bin/swift-{name}-server'
sys.argv = [program, f'{folder}/{name}.conf']
runpy.run_path(program, run_name='__main__')
";

/// A started server; it ends with this value.
pub struct ObjectStore {
    folder: TempDir,
    ports: [u16; 4],
    children: Vec<Child>,
}

/// Python in a folder, not as root.
fn python(folder: &Path) -> Command {
    for name in SERVERS {
        let path = format!("/usr/bin/swift-{name}-server");
        assert!(Path::new(&path).is_file(), "{path} is not there: `make setup` installs OpenStack Swift");
    }
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg("-I")
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", folder)
        .env("LC_ALL", "C.UTF-8");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

impl ObjectStore {
    /// With an empty bucket.
    pub fn start() -> ObjectStore {
        let folder = tempfile::Builder::new().prefix("holdfast-s3-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::create_dir_all(folder.path().join("devices/d1")).expect("a folder");
        let ports = [free_port(), free_port(), free_port(), free_port()];
        let mut store = ObjectStore { folder, ports, children: Vec::new() };
        store.configure();
        if rustix::process::geteuid().is_root() {
            for path in ["", "devices", "devices/d1"] {
                chown(store.folder.path().join(path), Some(NOBODY), Some(NOBODY)).expect("root may give files away");
            }
        }
        let mut rings = python(store.folder.path());
        rings.args(["-c", RINGS]).args(ports[..3].iter().map(u16::to_string));
        run(&mut rings).good();
        store.go();
        let location = format!(
            "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        );
        let made = until(START, "a bucket", || {
            let made =
                store.ask("PUT", &location, &store.bucket(BUCKET).create_bucket(&credentials()).sign(SIGNED_FOR));
            (made.code == Some(0)).then_some(made)
        });
        made.good();
        store
    }

    fn configure(&self) {
        let folder = self.folder.path().display();
        let user = if rustix::process::geteuid().is_root() { "nobody".to_owned() } else { whoami() };
        for (name, port) in SERVERS.iter().zip(self.ports) {
            let mut text = format!(
                "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\ndevices = {folder}/devices\nmount_check = false\n\
                 swift_dir = {folder}\nworkers = 0\nuser = {user}\nlog_level = WARNING\n"
            );
            text += &match *name {
                "proxy" => format!(
                    "[pipeline:main]\npipeline = catch_errors cache s3api tempauth slo proxy-server\n\
                     [app:proxy-server]\nuse = egg:swift#proxy\nallow_account_management = true\n\
                     account_autocreate = true\n[filter:catch_errors]\nuse = egg:swift#catch_errors\n\
                     [filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:1\n\
                     [filter:s3api]\nuse = egg:swift#s3api\ns3_acl = false\nlocation = {REGION}\n\
                     [filter:tempauth]\nuse = egg:swift#tempauth\nuser_backups_holdfast = {SECRET_KEY} .admin\n\
                     [filter:slo]\nuse = egg:swift#slo\n"
                ),
                name => {
                    format!("[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n")
                }
            };
            fs::write(self.folder.path().join(format!("{name}.conf")), text).expect("a file");
        }
        let text = "[swift-hash]\nswift_hash_path_prefix = holdfast\nswift_hash_path_suffix = holdfast\n\
                    [storage-policy:0]\nname = only\ndefault = yes\n";
        fs::write(self.folder.path().join("swift.conf"), text).expect("a file");
    }

    /// Start it; what it held is there again.
    pub fn go(&mut self) {
        assert!(self.children.is_empty(), "it runs");
        let log = self.folder.path().join("log");
        for name in SERVERS {
            let file = File::options().create(true).append(true).open(&log).expect("a log");
            let both = file.try_clone().expect("a second handle");
            let mut command = python(self.folder.path());
            command.args(["-c", SERVER]).arg(self.folder.path()).arg(name);
            let child = command.stdin(Stdio::null()).stdout(both).stderr(file).spawn().expect("it can be started");
            self.children.push(child);
        }
        for port in self.ports {
            until(START, &format!("Swift's start; its log is {}", log.display()), || {
                TcpStream::connect(("127.0.0.1", port)).ok()
            });
        }
    }

    /// It is away, at once.
    pub fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            process::signal(child.id(), Signal::KILL);
            child.wait().expect("it ends");
        }
    }

    /// Where clients find it.
    pub fn port(&self) -> u16 {
        self.ports[3]
    }

    /// What a plan for snapshots needs of it.
    pub fn plan(&self) -> Value {
        json!({
            "storage_type": "aws-s3", "aws_s3_bucket": BUCKET, "aws_s3_region": REGION,
            "aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY,
            "aws_s3_endpoint": format!("127.0.0.1:{}", self.port()), "aws_s3_disable_tls": true,
            "aws_s3_force_path_style": true,
        })
    }

    fn bucket(&self, name: &str) -> Bucket {
        let endpoint = format!("http://127.0.0.1:{}", self.port()).parse().expect("a URL");
        Bucket::new(endpoint, UrlStyle::Path, name.to_owned(), REGION).expect("a bucket")
    }

    fn ask(&self, method: &str, what: &str, url: &dyn std::fmt::Display) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "--max-time", "60", "-X", method]);
        if method == "PUT" {
            curl.args(["--data-binary", what]);
        }
        run(curl.arg(url.to_string()))
    }

    /// Put an object there.
    #[track_caller]
    pub fn put(&self, key: &str, text: &str) {
        let url = self.bucket(BUCKET).put_object(Some(&credentials()), key).sign(SIGNED_FOR);
        self.ask("PUT", text, &url).good();
    }

    #[track_caller]
    pub fn delete(&self, key: &str) {
        let url = self.bucket(BUCKET).delete_object(Some(&credentials()), key).sign(SIGNED_FOR);
        self.ask("DELETE", "", &url).good();
    }

    /// The keys of the bucket, in order.
    #[track_caller]
    pub fn keys(&self) -> Vec<String> {
        let (bucket, credentials) = (self.bucket(BUCKET), credentials());
        let text = self.ask("GET", "", &bucket.list_objects_v2(Some(&credentials)).sign(SIGNED_FOR)).good();
        let listed = rusty_s3::actions::ListObjectsV2::parse_response(&text).expect("a list");
        listed.contents.into_iter().map(|object| object.key).collect()
    }

    /// How many uploads were begun and neither ended nor taken away.
    #[track_caller]
    pub fn uploads(&self) -> usize {
        let (bucket, credentials) = (self.bucket(BUCKET), credentials());
        let mut action = bucket.list_objects_v2(Some(&credentials));
        action.query_mut().remove("list-type");
        action.query_mut().insert("uploads", "");
        let text = self.ask("GET", "", &action.sign(SIGNED_FOR)).good();
        assert!(text.contains("ListMultipartUploadsResult"), "{text}");
        text.matches("<UploadId>").count()
    }

    /// Download an object.
    #[track_caller]
    pub fn download(&self, key: &str, to: &Path) {
        let url = self.bucket(BUCKET).get_object(Some(&credentials()), key).sign(SIGNED_FOR);
        let mut curl = Command::new("curl");
        run(curl.args(["-sS", "--fail", "--max-time", "60", "-o"]).arg(to).arg(url.to_string())).good();
    }
}

fn credentials() -> Credentials {
    Credentials::new(ACCESS_KEY, SECRET_KEY)
}

fn whoami() -> String {
    run(Command::new("id").arg("-un")).good().trim().to_owned()
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        self.stop();
    }
}
