//! The three folders that the API may put files in where nothing is said: made, linked, and not there at the start.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_tests::process::need_root;
use holdfast_tests::program::{command, run};
use holdfast_tests::{Client, Server, Setup, Site, audited};
use serde_json::json;

/// A server that has a `/var/log` of its own, where a shell has done something before it was started.
struct OwnLogs {
    server: Server,
    root: Client,
    _site: Site,
}

impl OwnLogs {
    fn start(before: &str) -> OwnLogs {
        need_root("to give a server a /var/log of its own");
        let site = Site::make(Setup::shamir().without_tls().without_audit());
        let server = site.server_command();
        let script = format!("mount -t tmpfs holdfast-test /var/log && {before} && exec \"$@\"");
        let mut alone = Command::new("unshare");
        alone.args(["--mount", "--propagation", "private", "--", "sh", "-ec", &script, "sh"]);
        alone.arg(server.get_program()).args(server.get_args());
        for (name, value) in server.get_envs() {
            match value {
                Some(value) => alone.env(name, value),
                None => alone.env_remove(name),
            };
        }
        let listeners = site.config().matches("listener \"").count();
        let server = Server::start(&mut alone, site.folder(), listeners, None);
        let keys = site.initialise(&server.client());
        for share in &keys.shares[..2] {
            server.client().post("sys/unseal", json!({ "key": share })).expect(200);
        }
        server.until_unsealed();
        let root = server.client().with_token(&keys.root_token);
        OwnLogs { server, root, _site: site }
    }

    /// A path as it is seen from outside.
    fn seen(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.server.pid())).join(path.trim_start_matches('/'))
    }

    fn shell(&self, script: &str) {
        let mut shell = command("nsenter");
        shell.args(["--target", &self.server.pid().to_string(), "--mount", "--", "sh", "-ec", script]);
        run(&mut shell).good();
    }

    fn enable(&self, name: &str, path: &str) -> holdfast_tests::Reply {
        let device = json!({ "type": "file", "options": { "file_path": path } });
        self.root.post(&format!("sys/audit/{name}"), device)
    }

    #[track_caller]
    fn refused(&self, path: &str) {
        let text = self.enable("refused", path).refused(400);
        assert!(text.contains("audit_directories"), "{path}: it names the setting: {text}");
        assert!(!self.seen(path).exists(), "{path}");
    }
}

#[test]
fn files_are_made_below_each_of_the_three_and_no_link_leads_out_of_them() {
    let logs = OwnLogs::start("mkdir /var/log/elsewhere");
    for folder in ["vault", "openbao", "holdfast"] {
        let path = format!("/var/log/{folder}/deeper/audit.log");
        logs.enable(folder, &path).expect(204);
        logs.root.get("secret/data/none").refused(404);
        let file = logs.seen(&path);
        let text = fs::read_to_string(&file).expect("the file");
        assert!(text.contains("secret/data/none"), "{text}");
        assert_eq!(audited::fault(&file), None);
    }
    // A link to elsewhere, of a folder, of a file, and one that leads nowhere yet.
    let vault = logs.seen("/var/log/vault");
    symlink("/var/log/elsewhere", vault.join("out")).expect("a link");
    symlink("/var/log/elsewhere/file.log", vault.join("file.log")).expect("a link");
    symlink("/var/log/elsewhere/new/x.log", vault.join("new.log")).expect("a link");
    for path in ["/var/log/vault/out/x.log", "/var/log/vault/file.log", "/var/log/vault/new.log", "/var/log/x.log"] {
        logs.refused(path);
    }
    assert_eq!(fs::read_dir(logs.seen("/var/log/elsewhere")).expect("a folder").count(), 0);
    // A link within them leads nowhere else.
    symlink("/var/log/openbao", vault.join("within")).expect("a link");
    logs.enable("within", "/var/log/vault/within/y.log").expect(204);
    assert!(logs.seen("/var/log/openbao/y.log").exists());
}

#[test]
fn a_default_folder_that_is_a_link_is_where_it_leads() {
    let logs = OwnLogs::start("mkdir -p /var/log/disk/vault && ln -s disk/vault /var/log/vault");
    logs.enable("linked", "/var/log/vault/audit.log").expect(204);
    logs.root.get("secret/data/none").refused(404);
    assert_eq!(audited::fault(&logs.seen("/var/log/disk/vault/audit.log")), None);
    assert!(logs.seen("/var/log/disk/vault/audit.log").exists());
    logs.refused("/var/log/disk/other.log");
}

#[test]
fn a_folder_that_was_made_after_the_start_is_refused_by_the_settings_name() {
    // Where the server cannot make the three, they are not there for it.
    let logs = OwnLogs::start("mount -o remount,ro /var/log");
    assert!(!logs.seen("/var/log/vault").exists());
    logs.shell("mount -o remount,rw /var/log && mkdir /var/log/vault");
    logs.refused("/var/log/vault/audit.log");
}
