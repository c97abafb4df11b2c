//! What a server's process gives up before it serves, and that what it is there for goes on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use holdfast_tests::process::{descendants, helpers, landlock_or_known, need_root, signal, status};
use holdfast_tests::program::{command, run};
use holdfast_tests::{Running, Server, Setup, Site, until};
use rustix::process::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn fields(pid: u32, task: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).unwrap_or_default();
    let value = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map_or("", str::trim).to_owned();
    (value("NoNewPrivs:"), value("Seccomp:"))
}

/// Every thread, those of the runtime and of the store too; the helper has its own filters, and whoever starts helpers
/// has to start a program.
#[test]
fn no_thread_of_a_server_may_start_programs() {
    let running = Running::start(Setup::hardware());
    running.root.get("sys/health").expect(200);
    let pid = running.server.pid();
    let tasks: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("threads")
        .map(|t| t.expect("a thread").file_name().into_string().expect("a number"))
        .collect();
    assert!(tasks.len() > 3, "{tasks:?}");
    for task in &tasks {
        let confined = fields(pid, task);
        // One that has ended meanwhile says nothing.
        assert!(["1", ""].contains(&confined.0.as_str()) && ["2", ""].contains(&confined.1.as_str()), "{confined:?}");
    }
    assert_eq!(fields(pid, &pid.to_string()), ("1".into(), "2".into()));
    let helpers = helpers(pid);
    assert!(!helpers.is_empty());
    for helper in &helpers {
        assert_eq!(status(*helper, "Seccomp").as_deref(), Some("2"), "a helper");
    }
    assert!(descendants(pid).len() > helpers.len(), "the spawner is a process of its own");
}

/// A thread of the runtime.
fn worker(pid: u32) -> u32 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads").map(|t| t.expect("a thread").path());
    let names: Vec<(String, std::path::PathBuf)> =
        threads.map(|path| (fs::read_to_string(path.join("comm")).unwrap_or_default(), path)).collect();
    let (_, found) = names.iter().find(|(name, _)| name.starts_with("tokio")).unwrap_or_else(|| panic!("{names:?}"));
    found.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("its id")
}

/// A folder that no configuration names, with a file.
fn elsewhere() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "elsewhere").expect("a file");
    folder
}

#[track_caller]
fn kernel_has_landlock(server: &Server) -> bool {
    landlock_or_known(!server.log().contains("this kernel has no Landlock"))
}

/// Each forbidden call is made in the server's own process: a debugger's way, which needs root.
#[cfg(target_arch = "x86_64")]
#[test]
fn what_the_walls_forbid_is_refused_to_the_server_that_runs() {
    need_root("to make calls in another process");
    let running = Running::start(Setup::hardware());
    let (outside, inside) = (elsewhere(), running.site.store());
    fs::write(inside.join("file"), "inside").expect("a file");
    let pid = running.server.pid();
    // The main thread, and one of those that carry out requests.
    for thread in [pid, worker(pid)] {
        let mut probe = command("/usr/bin/python3");
        probe.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("system/start/walls_probe.py"));
        probe.arg(thread.to_string()).arg(holdfast_tests::token::library()).arg(outside.path()).arg(&inside);
        let said: Value = run(&mut probe).json();
        let denied = |name: &str| name.contains("outside") || name == "read /root";
        let (eperm, eacces, enosys) = (-1, -13, -38);
        for (name, answer) in said.as_object().expect("answers") {
            let answer = answer.as_i64().expect("a number");
            match name.as_str() {
                "read a library" | "write inside" | "read /etc/hosts" => assert!(answer >= 0, "{name}: {answer}"),
                "clone3" => assert_eq!(answer, enosys, "{name}"),
                name if denied(name) && kernel_has_landlock(&running.server) => assert_eq!(answer, eacces, "{name}"),
                name if denied(name) => {}
                name => assert_eq!(answer, eperm, "{name}"),
            }
        }
        assert!(said.as_object().is_some_and(|all| all.len() == 37), "{said}");
    }
    // It goes on as if nothing had been.
    running.root.post("secret/data/a", json!({ "data": { "b": "c" } })).expect(200);
    running.root.post("sys/rotate/root", json!({})).expect(204);
}

/// A site whose files lie in folders of their own.
fn spread_out() -> Site {
    let site = Site::make(Setup::hardware().without_audit());
    for folder in ["audit", "run", "pin"] {
        fs::create_dir(site.folder().join(folder)).expect("a folder");
    }
    let at = |path: &str| site.folder().join(path).display().to_string();
    fs::write(site.folder().join("pin/pin"), format!("{}\n", holdfast_tests::token::PIN)).expect("a PIN");
    let device = crate::devices::token_device("main")
        .replace(&format!("pin = \"{}\"", holdfast_tests::token::PIN), &format!("pin_file = {:?}", at("pin/pin")));
    let config = site.config()
        + &format!(
            "log_level = \"debug\"\npid_file = {:?}\nlistener \"unix\" {{ address = {:?} }}\n{}{device}",
            at("run/holdfast.pid"),
            at("run/api.sock"),
            audit("first", &site.folder().join("audit/first.log")),
        );
    site.write_config(&config);
    site
}

fn audit(name: &str, file: &Path) -> String {
    format!("audit \"file\" \"{name}\" {{\n options {{\n file_path = {file:?}\n }}\n}}\n")
}

#[test]
fn audit_files_certificates_pins_devices_and_helpers_are_followed_within_the_walls() {
    let running = Running::of(spread_out());
    let (site, root) = (&running.site, &running.root);
    let at = |path: &str| site.folder().join(path);
    let log = || running.server.log();
    let hang_up = || running.server.signal(Signal::HUP);
    assert!(log().contains("the files that its configuration names") || log().contains("no Landlock"), "{}", log());
    assert_eq!(fs::read_to_string(at("run/holdfast.pid")).expect("a pid").trim(), running.server.pid().to_string());

    // An audit file is moved away and begun anew, one beside it is opened, certificates and PINs are replaced. (What a
    // log file does is in `log_file`.)
    fs::rename(at("audit/first.log"), at("audit/first.old")).expect("moved");
    for file in ["server.pem", "server.key"] {
        fs::copy(at("tls").join(file), at("tls").join("new")).expect("copied");
        fs::rename(at("tls/new"), at("tls").join(file)).expect("replaced");
    }
    fs::write(at("pin/new"), format!("{}\n", holdfast_tests::token::PIN)).expect("a PIN");
    fs::rename(at("pin/new"), at("pin/pin")).expect("replaced");
    let config = fs::read_to_string(site.config_file()).expect("the configuration");
    let second = at("audit/second.log");
    site.write_config(&(config.clone() + &audit("second", &second) + &crate::devices::token_device("more")));
    hang_up();
    until(SOON, "the certificate", || log().contains("the certificate was read again").then_some(()));
    root.get("secret/data/none").refused(404);
    until(SOON, "the second audit log", || {
        fs::read_to_string(&second).is_ok_and(|text| text.contains("secret/data/none")).then_some(())
    });
    assert!(fs::read_to_string(at("audit/first.log")).is_ok_and(|text| text.contains("secret/data/none")));
    assert!(!log().contains("Permission denied") && !log().contains("used after a restart"), "{}", log());

    // A helper that died gets its library and its token again, and so does one that is new.
    for name in ["main", "more"] {
        crate::devices::until_healthy(root, name, true);
    }
    helpers(running.server.pid()).into_iter().for_each(|pid| signal(pid, Signal::KILL));
    for name in ["main", "more"] {
        until(SOON, "a device that works again", || {
            let tried = root.try_call("POST", &format!("sys/devices/{name}/test"), Some(&json!({}))).ok()?;
            (tried.status == 200 && tried.at("/data/works") == true).then_some(())
        });
    }
    // Its socket and its pid go with it.
    let Running { server, site, .. } = running;
    server.stop();
    assert!(!site.folder().join("run/holdfast.pid").exists() && !site.folder().join("run/api.sock").exists());
}

#[test]
fn what_a_configuration_names_later_outside_the_walls_is_said_to_take_a_restart() {
    let running = Running::start(Setup::shamir().without_tls());
    let outside = elsewhere();
    let file = outside.path().join("audit.log");
    let config = running.site.config();
    running.site.write_config(&(config + &audit("late", &file)));
    running.server.signal(Signal::HUP);
    running.server.until_logged("late");
    if !kernel_has_landlock(&running.server) {
        return;
    }
    running.server.until_logged("is used after a restart");
    assert!(running.server.log().contains(&outside.path().display().to_string()), "{}", running.server.log());
    assert!(!file.exists());
    // What the API names is refused with the setting that would allow it.
    let authority = outside.path().join("file");
    let url = format!("postgresql://u:p@127.0.0.1:1/x?sslmode=verify-ca&sslrootcert={}", authority.display());
    let shop = json!({ "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": url });
    running.root.post("sys/mounts/database", json!({ "type": "database" })).expect(204);
    let said = running.root.post("database/config/shop", shop);
    assert!(said.status >= 400 && said.text().contains("read_paths"), "{}", said.text());

    let running = running.restart(|server| drop(server.stop()));
    running.root.get("secret/data/none").refused(404);
    assert!(fs::read_to_string(&file).is_ok_and(|text| text.contains("secret/data/none")));
}

#[test]
fn an_audit_file_of_the_api_is_refused_with_the_setting_that_would_allow_it() {
    let (outside, named) = (elsewhere(), tempfile::tempdir().expect("a folder"));
    let top = format!(
        "unsafe_allow_api_audit_creation = true\nconfinement {{\n landlock = \"on\"\n write_paths = [{:?}]\n}}",
        named.path()
    );
    let running = Running::start(Setup { top, ..Setup::shamir().without_tls() });
    let device = |folder: &Path| json!({ "type": "file", "options": { "file_path": folder.join("audit.log") } });
    running.root.post("sys/audit/named", device(named.path())).expect(204);
    if kernel_has_landlock(&running.server) {
        let said = running.root.post("sys/audit/outside", device(outside.path())).refused(400);
        assert!(said.contains("Landlock") && said.contains("write_paths"), "{said}");
        assert!(!outside.path().join("audit.log").exists());
    }
}

#[test]
fn a_server_whose_files_are_not_confined_says_so() {
    for (top, says) in [
        ("confinement { landlock = \"off\" }", "landlock = "),
        ("unsafe_allow_api_audit_creation = true", "unsafe_allow_api_audit_creation"),
    ] {
        let running = Running::start(Setup::shamir().without_tls().with_top(top));
        let log = running.server.log();
        let line = log.lines().find(|line| line.contains("files are not confined")).unwrap_or_default();
        assert!(line.contains(says), "{log}");
    }
    // What asks for more and is misspelt is not passed over.
    let site = Site::make(Setup::shamir().without_tls().with_top("confinement { landlok = \"require\" }"));
    let said = site.start_in_vain();
    assert!(said.contains("landlok") && said.contains("is landlock meant"), "{said}");
}
