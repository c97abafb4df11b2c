//! Real database servers: each in a folder of its own, on a loopback port of its own, as an ordinary user.
//!
//! Debian's packages bring the programs; nothing of their services is used. Without a program a test fails.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::run;
use crate::{process, until};

const START: Duration = Duration::from_secs(60);
/// Database servers refuse to run as root.
const NOBODY: u32 = 65534;

/// The account that the engine is given.
pub const ADMIN: &str = "boss";
pub const ADMIN_PASSWORD: &str = "boss-password";

/// A started server; it ends with this value.
pub struct Database {
    kind: Kind,
    folder: TempDir,
    pub port: u16,
    child: Option<Child>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postgres,
    MariaDb,
    Redis,
    Influx,
}

fn program(name: &str) -> PathBuf {
    let folders = ["/usr/lib/postgresql/15/bin", "/usr/sbin", "/usr/bin"];
    let found = folders.iter().map(|f| Path::new(f).join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not there: `make setup` installs the databases"))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program in a folder, not as root.
fn ordinary(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(program(name));
    command.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder).env("LC_ALL", "C.UTF-8");
    // Several of MariaDB would take the same names in one.
    command.env("TMPDIR", folder);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn give_away(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
    }
}

impl Database {
    /// PostgreSQL with the superuser `postgres`, the administrator with CREATEROLE, and a table `things` in `shop`.
    pub fn postgres() -> Database {
        let db = Database::make(Kind::Postgres);
        let mut initdb = ordinary("initdb", db.folder.path());
        initdb.args([
            "-D",
            "data",
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "--pwfile",
            "password",
            "-E",
            "UTF8",
            "-N",
        ]);
        let password = db.folder.path().join("password");
        fs::write(&password, "superuser").expect("a file");
        give_away(&password);
        run(&mut initdb).good();
        // Members of a cluster call from addresses of their own.
        let who = db.folder.path().join("data/pg_hba.conf");
        let mut who = File::options().append(true).open(&who).expect("a file that initdb has made");
        who.write_all(b"host all all 127.0.0.0/8 scram-sha-256\n").expect("a line");
        let db = db.started();
        db.sql_in("postgres", &format!("CREATE ROLE {ADMIN} LOGIN CREATEROLE PASSWORD '{ADMIN_PASSWORD}'"));
        db.sql_in("postgres", "CREATE DATABASE shop");
        db.sql(&format!(
            "CREATE TABLE things (n int, name text); INSERT INTO things VALUES (1, 'one'), (2, 'two'); \
             GRANT ALL ON things TO {ADMIN} WITH GRANT OPTION"
        ));
        db
    }

    /// MariaDB with `root` on its socket, the administrator with all rights, and a table `things` in `shop`.
    pub fn mariadb() -> Database {
        let db = Database::make(Kind::MariaDb);
        let mut install = ordinary("mariadb-install-db", db.folder.path());
        install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        install.arg(format!("--datadir={}", db.folder.path().join("data").display()));
        run(&mut install).good();
        let db = db.started();
        db.sql(&format!(
            "DELETE FROM mysql.global_priv WHERE User=''; FLUSH PRIVILEGES; \
             CREATE USER '{ADMIN}'@'%' IDENTIFIED BY '{ADMIN_PASSWORD}'; \
             GRANT ALL ON *.* TO '{ADMIN}'@'%' WITH GRANT OPTION; CREATE DATABASE shop; \
             CREATE TABLE shop.things (n int, name text); INSERT INTO shop.things VALUES (1, 'one'), (2, 'two')"
        ));
        db
    }

    /// Redis with the administrator alone.
    pub fn redis() -> Database {
        let db = Database::make(Kind::Redis);
        let users = db.folder.path().join("users.acl");
        let text = format!("user default off\nuser {ADMIN} on ~* &* +@all >{ADMIN_PASSWORD}\n");
        fs::write(&users, text).expect("a file");
        give_away(&users);
        db.started()
    }

    /// InfluxDB 1 with the administrator, and a point `things` in `shop` and in `others`.
    pub fn influx() -> Database {
        let db = Database::make(Kind::Influx);
        let (folder, file) = (db.folder.path().display(), db.folder.path().join("influxdb.conf"));
        let text = format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:0\"\n[meta]\ndir = \"{folder}/meta\"\n\
             [data]\ndir = \"{folder}/data\"\nwal-dir = \"{folder}/wal\"\n[monitor]\nstore-enabled = false\n\
             [http]\nbind-address = \"127.0.0.1:{}\"\nauth-enabled = true\nlog-enabled = false\n",
            db.port
        );
        fs::write(&file, text).expect("a file");
        give_away(&file);
        let db = db.started();
        // The first user is made by nobody.
        let first = format!("CREATE USER {ADMIN} WITH PASSWORD '{ADMIN_PASSWORD}' WITH ALL PRIVILEGES");
        run(&mut db.curl(&["/query", "--data-urlencode", &format!("q={first}")])).good();
        for database in ["shop", "others"] {
            db.sql(&format!("CREATE DATABASE {database}"));
            let login = format!("{ADMIN}:{ADMIN_PASSWORD}");
            let at = format!("/write?db={database}");
            run(&mut db.curl(&[&at, "--user", &login, "--data-binary", "things n=1"])).good();
        }
        db
    }

    fn make(kind: Kind) -> Database {
        let folder = tempfile::Builder::new().prefix("holdfast-db-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        give_away(folder.path());
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        Database { kind, folder, port: free.port(), child: None }
    }

    fn started(mut self) -> Database {
        self.start();
        self
    }

    /// Start it; what it held is there again.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = self.folder.path().join("log");
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let both = file.try_clone().expect("a second handle");
        let mut command = self.command();
        let child = command.stdin(Stdio::null()).stdout(both).stderr(file).spawn().expect("it can be started");
        self.child = Some(child);
        until(START, &format!("the database's start; its log is {}", log.display()), || self.answers().then_some(()));
    }

    fn command(&self) -> Command {
        let (folder, port) = (self.folder.path(), self.port);
        match self.kind {
            Kind::Postgres => {
                let mut c = ordinary("postgres", folder);
                c.args(["-D", "data", "-h", "127.0.0.1", "-p", &port.to_string()]);
                for setting in ["unix_socket_directories=", "fsync=off", "shared_buffers=16MB", "max_connections=60"] {
                    c.args(["-c", setting]);
                }
                c
            }
            Kind::MariaDb => {
                let mut c = ordinary("mariadbd", folder);
                c.args(["--no-defaults", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=8M", "--skip-log-bin"]);
                c.args(["--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"]);
                for (key, value) in [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid")] {
                    c.arg(format!("--{key}={}", folder.join(value).display()));
                }
                c.arg(format!("--port={port}"));
                c
            }
            Kind::Redis => {
                let mut c = ordinary("redis-server", folder);
                c.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
                c.args(["--aclfile", &folder.join("users.acl").display().to_string(), "--daemonize", "no"]);
                c
            }
            Kind::Influx => {
                let mut c = ordinary("influxd", folder);
                c.args(["run", "-config", "influxdb.conf"]);
                c
            }
        }
    }

    fn answers(&self) -> bool {
        match self.kind {
            Kind::Postgres => run(&mut self.psql("postgres", "superuser", "postgres", "SELECT 1")).code == Some(0),
            Kind::MariaDb => run(&mut self.as_root("SELECT 1")).code == Some(0),
            Kind::Redis => self.logs_in(ADMIN, ADMIN_PASSWORD),
            Kind::Influx => run(&mut self.curl(&["/ping"])).code == Some(0),
        }
    }

    /// The server is away, at once.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let signal = if self.kind == Kind::Postgres { Signal::QUIT } else { Signal::KILL };
        process::signal(child.id(), signal);
        child.wait().expect("it ends");
    }

    /// The server takes connections and answers nobody, until [`go_on`](Self::go_on).
    pub fn hang(&self) {
        self.signal_all(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal_all(Signal::CONT);
    }

    /// The server, and the processes that it has for each connection.
    fn signal_all(&self, signal: Signal) {
        let server = self.child.as_ref().expect("it runs").id();
        process::signal(server, signal);
        process::descendants(server).into_iter().for_each(|pid| process::signal(pid, signal));
    }

    fn psql(&self, user: &str, password: &str, database: &str, text: &str) -> Command {
        let mut c = ordinary("psql", self.folder.path());
        c.args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        c.args(["-U", user, "-d", database, "-c", text]).env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "60");
        c
    }

    fn mysql(&self, user: &str, password: &str, text: &str) -> Command {
        let mut c = ordinary("mariadb", self.folder.path());
        c.args(["--no-defaults", "-N", "-B", "--protocol=tcp", "--host=127.0.0.1", &format!("--port={}", self.port)]);
        c.args([&format!("--user={user}"), "-e", text]).env("MYSQL_PWD", password);
        c
    }

    fn as_root(&self, text: &str) -> Command {
        let mut c = ordinary("mariadb", self.folder.path());
        let socket = self.folder.path().join("socket");
        c.args(["--no-defaults", "-N", "-B", &format!("--socket={}", socket.display()), "--user=root", "-e", text]);
        c
    }

    fn cli(&self, user: &str, password: &str, words: &[&str]) -> Command {
        let mut c = ordinary("redis-cli", self.folder.path());
        c.args(["-e", "-h", "127.0.0.1", "-p", &self.port.to_string(), "--no-auth-warning", "--user", user]);
        c.args(words).env("REDISCLI_AUTH", password);
        c
    }

    fn curl(&self, words: &[&str]) -> Command {
        let mut c = ordinary("curl", self.folder.path());
        c.args(["-sS", "--fail-with-body", "--max-time", "30", &format!("http://127.0.0.1:{}{}", self.port, words[0])]);
        c.args(&words[1..]);
        c
    }

    fn influxql(&self, user: &str, password: &str, text: &str) -> Command {
        self.curl(&["/query", "--user", &format!("{user}:{password}"), "--data-urlencode", &format!("q={text}")])
    }

    /// As the superuser; the lines of the answer.
    #[track_caller]
    pub fn sql(&self, text: &str) -> Vec<String> {
        self.sql_in("shop", text)
    }

    #[track_caller]
    fn sql_in(&self, database: &str, text: &str) -> Vec<String> {
        let mut command = match self.kind {
            Kind::Postgres => self.psql("postgres", "superuser", database, text),
            Kind::MariaDb => self.as_root(text),
            Kind::Redis => self.cli(ADMIN, ADMIN_PASSWORD, &text.split(' ').collect::<Vec<_>>()),
            Kind::Influx => return self.ask(ADMIN, ADMIN_PASSWORD, text).expect("a good answer"),
        };
        run(&mut command).good().lines().map(str::to_owned).filter(|l| !l.is_empty()).collect()
    }

    /// What a user is answered, or is told.
    pub fn ask(&self, user: &str, password: &str, text: &str) -> Result<Vec<String>, String> {
        let mut command = match self.kind {
            Kind::Postgres => self.psql(user, password, "shop", text),
            Kind::MariaDb => self.mysql(user, password, text),
            Kind::Redis => self.cli(user, password, &text.split(' ').collect::<Vec<_>>()),
            Kind::Influx => self.influxql(user, password, text),
        };
        let output = run(&mut command);
        match output.code {
            Some(0) if self.kind == Kind::Influx => influx_rows(&output.stdout),
            // redis-cli goes on after a login that was refused.
            Some(0) if !output.stderr.contains("AUTH failed") => Ok(output.stdout.lines().map(str::to_owned).collect()),
            _ => Err(output.stderr + &output.stdout),
        }
    }

    pub fn logs_in(&self, user: &str, password: &str) -> bool {
        let text = match self.kind {
            Kind::Redis => "PING",
            Kind::Influx => "SHOW DATABASES",
            _ => "SELECT 1",
        };
        self.ask(user, password, text).is_ok() || self.ask(user, password, text).is_err_and(|e| e.contains("NOPERM"))
    }

    /// Names of the users that the engine made.
    pub fn made_users(&self) -> Vec<String> {
        match self.kind {
            Kind::Postgres => self.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%' ORDER BY 1"),
            Kind::MariaDb => self.sql("SELECT user FROM mysql.user WHERE user LIKE 'v-%' ORDER BY 1"),
            Kind::Redis => self.sql("ACL USERS").into_iter().filter(|u| u.starts_with("V_")).collect(),
            Kind::Influx => {
                let users = self.sql("SHOW USERS").into_iter();
                users
                    .filter_map(|row| Some(row.split_once('|')?.0.to_owned()))
                    .filter(|u| u.starts_with("v_"))
                    .collect()
            }
        }
    }

    /// The body of a connection that works.
    pub fn config(&self) -> Value {
        let at = format!("127.0.0.1:{}", self.port);
        let mut body = json!({ "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*" });
        match self.kind {
            Kind::Postgres => {
                body["plugin_name"] = "postgresql-database-plugin".into();
                body["connection_url"] =
                    format!("postgresql://{{{{username}}}}:{{{{password}}}}@{at}/shop?sslmode=disable").into();
            }
            Kind::MariaDb => {
                body["plugin_name"] = "mysql-database-plugin".into();
                body["connection_url"] = format!("{{{{username}}}}:{{{{password}}}}@tcp({at})/").into();
            }
            Kind::Redis => {
                body["plugin_name"] = "redis-database-plugin".into();
                (body["host"], body["port"]) = ("127.0.0.1".into(), self.port.into());
            }
            Kind::Influx => {
                body["plugin_name"] = "influxdb-database-plugin".into();
                (body["host"], body["port"]) = ("127.0.0.1".into(), self.port.into());
            }
        }
        body
    }
}

/// The rows of an answer of InfluxDB, or its error.
fn influx_rows(answer: &str) -> Result<Vec<String>, String> {
    let answer: Value = serde_json::from_str(answer).map_err(|e| format!("{e}: {answer}"))?;
    if let Some(error) = answer.pointer("/results/0/error") {
        return Err(error.to_string());
    }
    let rows = answer.pointer("/results/0/series/0/values").and_then(Value::as_array);
    let cell = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let row = |row: &Value| row.as_array().into_iter().flatten().map(cell).collect::<Vec<_>>().join("|");
    Ok(rows.into_iter().flatten().map(row).collect())
}

/// A user's connection that stays open.
pub struct Session {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Session {
    /// One line of the answer; none: the session has ended, or the statement is refused.
    pub fn ask(&mut self, statement: &str) -> Option<String> {
        let stdin = self.child.stdin.as_mut().expect("it was asked for");
        writeln!(stdin, "{statement};").and_then(|()| stdin.flush()).ok()?;
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("a pipe");
        (read > 0).then(|| line.trim().to_owned())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Database {
    /// A connection of a user of PostgreSQL or MariaDB. Its client ends with the first error.
    pub fn session(&self, user: &str, password: &str) -> Session {
        let command = match self.kind {
            Kind::Postgres => self.psql(user, password, "shop", ""),
            Kind::MariaDb => self.mysql(user, password, ""),
            Kind::Redis | Kind::Influx => panic!("there are no sessions"),
        };
        // The same without a statement: these come later.
        let words: Vec<OsString> = command.get_args().map(OsString::from).collect();
        let mut session = Command::new(command.get_program());
        session.args(words.iter().filter(|w| !["", "-c", "-e"].contains(&w.to_str().unwrap_or("-"))));
        if self.kind == Kind::MariaDb {
            session.args(["--skip-reconnect", "--unbuffered"]);
        }
        for (name, value) in command.get_envs() {
            session.env(name, value.unwrap_or_default());
        }
        session.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = session.spawn().expect("it can be started");
        let answers = BufReader::new(child.stdout.take().expect("it was asked for"));
        Session { child, answers }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.stop();
    }
}
