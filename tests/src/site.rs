//! What outlives a server: its folder with configuration, certificates, token and store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::Authority;
use crate::connection::free_port;
use crate::program::{Output, command, holdfast, run, stock};
use crate::token::{self, Token};
use crate::tpm::Tpm;
use crate::yubihsm::Hsm;
use crate::{Client, Server, audited};

/// What opens the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// A key in a SoftHSM token.
    Hardware,
    /// A TPM.
    Tpm,
    /// A simulator of a YubiHSM.
    YubiHsm,
    /// Shares.
    Shamir,
}

/// Where the server keeps what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// `storage "file"`.
    File,
    /// `storage "raft"`, the only member of its cluster. A client cannot tell the two apart.
    Raft,
}

impl Storage {
    /// What a site has that does not ask for a kind: `make test` passes the tests on one, and then on the other.
    pub fn of_this_run() -> Storage {
        match std::env::var("HOLDFAST_TEST_STORAGE").as_deref() {
            Err(_) | Ok("" | "file") => Storage::File,
            Ok("raft") => Storage::Raft,
            Ok(other) => panic!("HOLDFAST_TEST_STORAGE is {other:?}: file or raft"),
        }
    }

    /// Its name in a configuration, and in `storage_type`.
    pub fn name(self) -> &'static str {
        match self {
            Storage::File => "file",
            Storage::Raft => "raft",
        }
    }
}

/// How a server is set up. Further lines of configuration are given as they are written.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seal: Seal,
    pub storage: Storage,
    pub tls: bool,
    pub audit: bool,
    /// Further keys of the TCP listener.
    pub listener: String,
    /// Further keys of the seal; `lib` and `pin` of pkcs11 here replace the usual ones.
    pub seal_keys: String,
    /// Further stanzas and keys.
    pub top: String,
    /// Where the store is; `None`: in the site's folder.
    pub store: Option<PathBuf>,
    /// Where the audit log is; `None`: in the site's folder.
    pub audit_file: Option<PathBuf>,
}

impl Setup {
    /// As a user runs it: TLS, the storage of this run, audit log, a key in a SoftHSM token.
    pub fn hardware() -> Setup {
        Setup {
            seal: Seal::Hardware,
            storage: Storage::of_this_run(),
            tls: true,
            audit: true,
            listener: String::new(),
            seal_keys: String::new(),
            top: String::new(),
            store: None,
            audit_file: None,
        }
    }

    /// The same with shares.
    pub fn shamir() -> Setup {
        Setup { seal: Seal::Shamir, ..Setup::hardware() }
    }

    /// The same with a TPM.
    pub fn tpm() -> Setup {
        Setup { seal: Seal::Tpm, ..Setup::hardware() }
    }

    /// The same with a simulator of a YubiHSM.
    pub fn yubihsm() -> Setup {
        Setup { seal: Seal::YubiHsm, ..Setup::hardware() }
    }

    pub fn on(self, storage: Storage) -> Setup {
        Setup { storage, ..self }
    }
    pub fn without_tls(self) -> Setup {
        Setup { tls: false, ..self }
    }
    pub fn without_audit(self) -> Setup {
        Setup { audit: false, ..self }
    }
    pub fn with_listener(self, keys: &str) -> Setup {
        Setup { listener: keys.into(), ..self }
    }
    pub fn with_seal(self, keys: &str) -> Setup {
        Setup { seal_keys: keys.into(), ..self }
    }
    pub fn with_top(self, stanzas: &str) -> Setup {
        Setup { top: stanzas.into(), ..self }
    }
}

/// A folder with everything that a server needs.
pub struct Site {
    folder: TempDir,
    pub setup: Setup,
    /// Where other members would find it.
    member_port: u16,
    pub authority: Authority,
    pub token: Option<Token>,
    pub tpm: Option<Tpm>,
    pub hsm: Option<Hsm>,
}

/// What initialisation handed out.
#[derive(Debug, Clone)]
pub struct Keys {
    pub root_token: String,
    /// Unseal keys, or recovery keys of a hardware seal, in hex.
    pub shares: Vec<String>,
}

impl Site {
    pub fn make(setup: Setup) -> Site {
        let folder = tempfile::Builder::new().prefix("holdfast-test-").tempdir().expect("a temporary folder");
        let authority = Authority::make(&folder.path().join("tls"));
        authority.server("server");
        let token = (setup.seal == Seal::Hardware).then(|| Token::make(&folder.path().join("softhsm")));
        let tpm = (setup.seal == Seal::Tpm).then(|| Tpm::start(folder.path()));
        let hsm = (setup.seal == Seal::YubiHsm).then(|| Hsm::start(folder.path()));
        let site = Site { folder, setup, member_port: free_port(), authority, token, tpm, hsm };
        site.write_config(&site.config());
        site
    }

    /// The same site with other keys of the seal, written into its configuration.
    pub fn with_seal(mut self, keys: &str) -> Site {
        self.setup.seal_keys = keys.into();
        self.write_config(&self.config());
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.setup.store.clone().unwrap_or_else(|| self.folder().join("data"))
    }

    /// The audit log.
    pub fn audit_file(&self) -> PathBuf {
        self.setup.audit_file.clone().unwrap_or_else(|| self.folder().join("audit.log"))
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder().join("holdfast.hcl")
    }

    pub fn write_config(&self, text: &str) {
        fs::write(self.config_file(), text).expect("the configuration file");
    }

    /// The configuration that belongs to the setup.
    pub fn config(&self) -> String {
        let Setup { tls, audit, listener, seal_keys, top, .. } = &self.setup;
        let tls = match tls {
            true => format!(
                "tls_cert_file = \"{0}/server.pem\"\n  tls_key_file = \"{0}/server.key\"",
                self.folder().join("tls").display()
            ),
            false => "tls_disable = true".into(),
        };
        let (storage, for_members) = (self.storage_stanza(), self.listener_for_members());
        let mut text = format!(
            "listener \"tcp\" {{\n  address = \"127.0.0.1:0\"\n  {tls}\n  {listener}\n{for_members}}}\n{storage}{top}\n"
        );
        if *audit {
            let file = self.audit_file();
            text += &format!(
                "audit \"file\" \"file\" {{\n  options {{\n    file_path = \"{}\"\n  }}\n}}\n",
                file.display()
            );
        }
        if self.setup.seal == Seal::Hardware {
            let usual = [
                ("lib", token::library().display().to_string()),
                ("token_label", token::LABEL.to_owned()),
                ("key_label", "holdfast-root".to_owned()),
                ("generate_key", "true".to_owned()),
                ("pin", token::PIN.to_owned()),
            ];
            // `pin_file` and `pin_env` stand for `pin` too.
            let given = |key: &str| seal_keys.lines().any(|l| l.trim_start().starts_with(key));
            let lines = usual.iter().filter(|(k, _)| !given(k)).map(|(k, v)| format!("  {k} = \"{v}\"\n"));
            text += &format!("seal \"pkcs11\" {{\n{}  {seal_keys}\n}}\n", lines.collect::<String>());
        }
        if let Some(tpm) = &self.tpm {
            text += &format!("seal \"tpm\" {{\n  tcti = \"{}\"\n  {seal_keys}\n}}\n", tpm.tcti());
        }
        if let Some(hsm) = &self.hsm {
            text += &format!("seal \"yubihsm\" {{\n  {}\n  generate_key = true\n  {seal_keys}\n}}\n", hsm.keys());
        }
        text
    }

    /// The stanza of its storage, and what else belongs to it at the top of a configuration.
    pub fn storage_stanza(&self) -> String {
        let path = self.store();
        match self.setup.storage {
            Storage::File => format!("storage \"file\" {{\n  path = \"{}\"\n}}\n", path.display()),
            Storage::Raft => format!(
                "storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"node1\"\n}}\n\
                 cluster_addr = \"https://127.0.0.1:{}\"\n",
                path.display(),
                self.member_port
            ),
        }
    }

    /// A key of its TCP listener: without it two servers would want the same port.
    fn listener_for_members(&self) -> String {
        match self.setup.storage {
            Storage::File => String::new(),
            Storage::Raft => format!("  cluster_address = \"127.0.0.1:{}\"\n", self.member_port),
        }
    }

    /// TLS of a client that trusts this site's CA.
    pub fn client_config(&self) -> Option<Arc<ClientConfig>> {
        self.setup.tls.then(|| self.authority.client_config())
    }

    /// `holdfast server` with this site's configuration; the environment may be added to.
    pub fn server_command(&self) -> Command {
        let mut server = command(holdfast());
        server.arg("server").arg(format!("-config={}", self.config_file().display())).env("HOME", self.folder());
        if let Some(token) = &self.token {
            server.env("SOFTHSM2_CONF", token.conf());
        }
        server
    }

    /// Start a server and wait until it listens.
    #[track_caller]
    pub fn start(&self) -> Server {
        let text = fs::read_to_string(self.config_file()).expect("the configuration file");
        let listeners = text.matches("listener \"").count();
        Server::start(&mut self.server_command(), self.folder(), listeners, self.client_config())
    }

    /// End a server and start the next one.
    #[track_caller]
    pub fn start_after(&self, server: Server) -> Server {
        server.stop();
        self.start()
    }

    /// Start a server that does not come up: what it says.
    #[track_caller]
    pub fn start_in_vain(&self) -> String {
        let output = run(&mut self.server_command());
        assert_eq!(output.code, Some(1), "{output:?}");
        output.stdout + &output.stderr
    }

    /// Initialise with three shares of which two are needed.
    #[track_caller]
    pub fn initialise(&self, client: &Client) -> Keys {
        self.initialise_with(client, json!({}))
    }

    /// The same with further parameters.
    #[track_caller]
    pub fn initialise_with(&self, client: &Client, more: Value) -> Keys {
        let (kind, member) = match self.setup.seal {
            Seal::Hardware | Seal::Tpm | Seal::YubiHsm => ("recovery", "/recovery_keys"),
            Seal::Shamir => ("secret", "/keys"),
        };
        let mut body = json!({ format!("{kind}_shares"): 3, format!("{kind}_threshold"): 2 });
        for (k, v) in more.as_object().expect("an object") {
            body[k] = v.clone();
        }
        let made = client.call("PUT", "sys/init", Some(&body)).expect(200);
        let shares = made.at(member);
        let shares = shares.as_array().expect("a list").iter().map(|s| s.as_str().expect("a text").to_owned());
        Keys { root_token: made.text_at("/root_token"), shares: shares.collect() }
    }

    /// A client command of ours or of a stock client, with address, CA and token in its environment.
    pub fn cli(&self, program: &Path, server: &Server, token: &str) -> Command {
        let mut cli = command(program);
        let home = self.folder().join("home");
        fs::create_dir_all(&home).expect("a home folder");
        cli.env("HOME", home).env("VAULT_ADDR", server.url()).env("VAULT_CACERT", self.authority.ca());
        cli.env("BAO_ADDR", server.url()).env("BAO_CACERT", self.authority.ca());
        if !token.is_empty() {
            cli.env("VAULT_TOKEN", token).env("BAO_TOKEN", token);
        }
        cli
    }

    /// Run a Python script of `tests/system` with the stock clients' environment.
    #[track_caller]
    pub fn python(&self, script: &str, server: &Server, token: &str) -> Output {
        run(&mut self.python_command(script, server, token))
    }

    /// The command of that, for more arguments.
    pub fn python_command(&self, script: &str, server: &Server, token: &str) -> Command {
        let mut python = self.cli(&stock("python"), server, token);
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("system").join(script));
        python
    }
}

impl Drop for Site {
    /// Whatever the test was about, its audit logs are right. One that failed says on which storage.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- on storage {:?}", self.setup.storage.name());
        }
        // It may be outside of the folder.
        let fault = self.setup.audit.then(|| audited::fault(&self.audit_file())).flatten();
        let fault = fault.or_else(|| audited::fault_of(self.folder()));
        if let Some(fault) = fault.filter(|_| !std::thread::panicking()) {
            panic!("{fault}");
        }
    }
}

/// A server that is ready: initialised, unsealed, with kv v2 at `secret/`.
pub struct Running {
    pub server: Server,
    pub root: Client,
    pub keys: Keys,
    pub site: Site,
}

impl Running {
    #[track_caller]
    pub fn start(setup: Setup) -> Running {
        Running::of(Site::make(setup))
    }

    /// A site whose server is started for the first time.
    #[track_caller]
    pub fn of(site: Site) -> Running {
        let server = site.start();
        let client = server.client();
        let keys = site.initialise(&client);
        unseal(&site, &server, &keys);
        let root = client.with_token(&keys.root_token);
        root.post("sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } })).expect(204);
        Running { server, root, keys, site }
    }

    /// End the server as `end` does, start it anew, and wait until it is unsealed.
    #[track_caller]
    pub fn restart(self, end: impl FnOnce(Server)) -> Running {
        let Running { server, keys, site, .. } = self;
        end(server);
        let server = site.start();
        unseal(&site, &server, &keys);
        let root = server.client().with_token(&keys.root_token);
        Running { server, root, keys, site }
    }

    /// A token with this policy alone.
    #[track_caller]
    pub fn token_with(&self, policy: &str, rules: &str) -> String {
        self.root.post(&format!("sys/policies/acl/{policy}"), json!({ "policy": rules })).expect(204);
        let made = self.root.post("auth/token/create", json!({ "policies": [policy], "no_default_policy": true }));
        made.expect(200).text_at("/auth/client_token")
    }
}

#[track_caller]
fn unseal(site: &Site, server: &Server, keys: &Keys) {
    if site.setup.seal == Seal::Shamir {
        for share in &keys.shares[..2] {
            server.client().post("sys/unseal", json!({ "key": share })).expect(200);
        }
    }
    server.until_unsealed();
}
