//! Nodes that stand by have audit files too: what seals these gets into the store though they write nothing there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::program::{Output, command, holdfast, run};
use holdfast_tests::token::{LABEL, PIN, Token, library};
use holdfast_tests::until;

use super::nodes::{Between, Nodes, WITHIN};
use crate::devices::token_device;

/// A checkpoint is due after this many lines, and a read has two.
const ENOUGH: usize = 400;

/// Each node with a token of its own, in which is the key that signs its audit file's checkpoints.
struct Signing(Vec<Token>);

impl Signing {
    fn in_folder(folder: &Path) -> Signing {
        let token = |n: usize| {
            let token = Token::make(&folder.join(format!("t{n}")));
            let mut tool = command("pkcs11-tool");
            tool.arg("--module").arg(library()).args(["--token-label", LABEL, "--login", "--pin", PIN]);
            tool.args(["--keypairgen", "--key-type", "EC:secp256r1", "--label", "audit", "--id", "77"]);
            run(tool.env("SOFTHSM2_CONF", token.conf())).good();
            token
        };
        Signing((0..3).map(token).collect())
    }
}

impl Between for Signing {
    fn command(&self, n: usize, folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.0[n].conf()).current_dir(folder);
        server
    }

    fn top(&self, _n: usize) -> String {
        let file = "audit \"file\" \"main\" {\n options {\n file_path = \"audit.log\"\n }\n}\n";
        let key = "audit_signing {\n device = \"main\"\n key_label = \"audit\"\n}\n";
        file.to_owned() + &token_device("main") + key
    }
}

fn audit(nodes: &Nodes, n: usize, words: &[&str]) -> Output {
    let mut audit = command(holdfast());
    audit.arg("audit").args(words).env("HOLDFAST_ADDR", format!("http://127.0.0.1:{}", nodes.port(n)));
    run(audit.env("HOLDFAST_TOKEN", nodes.root(n).token()))
}

#[test]
fn the_key_and_the_checkpoints_of_a_node_that_never_was_active_are_in_the_store() {
    let folder: TempDir = tempfile::Builder::new().prefix("holdfast-signing-").tempdir().expect("a temporary folder");
    let ports = (0..3).map(|_| (free_port(), free_port())).collect();
    let nodes = Nodes::start_with(ports, Box::new(Signing::in_folder(folder.path())));
    nodes.until_all_vote();
    nodes.put(0, "sys/mounts/kv", json!({"type": "kv"}));
    nodes.put(0, "kv/a", json!({"v": 1}));
    let active = nodes.until_led();
    let standby = (active + 1) % 3;
    let log = nodes.audit_log(standby);
    let root = nodes.root(standby);
    // Until it has answered so many itself.
    until(WITHIN, "reads here", || {
        root.get("kv/a").expect(200);
        let lines = fs::read_to_string(&log).unwrap_or_default().lines().count();
        (lines > 2 * ENOUGH).then_some(())
    });
    let (key, checkpoints): (PathBuf, PathBuf) = (folder.path().join("keys.pem"), folder.path().join("checkpoints"));
    let name = format!("n{standby}/main/");
    until(WITHIN, "its checkpoint at the active node", || {
        let kept = audit(&nodes, active, &["checkpoints"]).good();
        fs::write(&checkpoints, &kept).expect("a file");
        kept.contains(&name).then_some(())
    });
    let keys = audit(&nodes, active, &["public-key"]).good();
    fs::write(&key, &keys).expect("a file");
    let verify = |key: &Path| {
        let (key, kept) = (format!("-public-key={}", key.display()), format!("-checkpoints={}", checkpoints.display()));
        audit(&nodes, active, &["verify", &key, &kept, &log.display().to_string()])
    };
    let said = verify(&key);
    assert_eq!(said.code, Some(0), "{said:?}");
    // It is the key of that node which makes it so: without those of devices nothing proves its lines.
    let own = folder.path().join("own.pem");
    fs::write(&own, &keys[keys.rfind("-----BEGIN").expect("a key")..]).expect("a file");
    let said = verify(&own);
    assert!(said.code == Some(1) && (said.stdout.clone() + &said.stderr).contains("which was not given"), "{said:?}");
    assert_eq!(nodes.until_led(), active, "it was never active");
}
