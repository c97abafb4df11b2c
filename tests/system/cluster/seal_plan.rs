//! A change of seals is tried on each node beforehand, and each says what is wrong there; and how the seals of all nodes are.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use holdfast_tests::connection::free_port;
use holdfast_tests::module::{self, Shim};
use holdfast_tests::process::{helpers, signal};
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::token::{Beside, LABEL, PIN, Token, library};
use holdfast_tests::{Client, until};

use super::nodes::{Between, Nodes, WITHIN, write_join_token};
use super::own_tokens::until_unsealed;

/// CKF_USER_PIN_FINAL_TRY: one more wrong PIN locks the token.
const FINAL_TRY: u64 = 0x0002_0000;

/// A SoftHSM for each node, with a token that opens it and one that is to be added.
#[derive(Clone)]
struct TwoTokens {
    folder: Rc<TempDir>,
    tokens: Rc<Vec<(Token, Beside)>>,
    /// What stands in the configuration of each beside its first seal.
    more: Rc<RefCell<Vec<String>>>,
}

impl TwoTokens {
    fn for_nodes(count: usize) -> TwoTokens {
        let folder = tempfile::Builder::new().prefix("holdfast-tokens-").tempdir().expect("a temporary folder");
        let tokens = (0..count).map(|n| {
            let token = Token::make(&folder.path().join(format!("t{n}")));
            let second = token.another("second");
            (token, second)
        });
        let tokens = Rc::new(tokens.collect());
        TwoTokens { folder: Rc::new(folder), tokens, more: Rc::new(RefCell::new(vec![String::new(); count])) }
    }

    fn join_token(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("join-{n}"))
    }

    /// The second token of a node, as it should be configured.
    fn second(&self, n: usize) -> String {
        let (token, second) = &self.tokens[n];
        format!("seal \"pkcs11\" \"second\" {{\n priority = 2\n{}}}\n", token.keys(&second.label))
    }

    /// `pkcs11-tool` on a node's second token, with its right PIN.
    fn tool(&self, n: usize, arguments: &[&str]) -> String {
        let mut tool = command("pkcs11-tool");
        tool.arg("--module").arg(library()).args(["--token-label", "second", "--login", "--pin", PIN]).args(arguments);
        run(tool.env("SOFTHSM2_CONF", self.tokens[n].0.conf())).good()
    }
}

impl Between for TwoTokens {
    fn command(&self, n: usize, _folder: &Path) -> Command {
        let mut server = Command::new(holdfast());
        server.env("SOFTHSM2_CONF", self.tokens[n].0.conf());
        server
    }

    fn seal(&self, n: usize) -> String {
        let first = self.tokens[n].0.keys(LABEL);
        format!("seal \"pkcs11\" \"first\" {{\n priority = 1\n{first}}}\n{}", self.more.borrow()[n])
    }

    fn joins_with(&self, n: usize) -> String {
        format!("join_token_file = \"{}\"", self.join_token(n).display())
    }

    fn approve(&self, n: usize, root: &Client) {
        write_join_token(root, &self.join_token(n));
    }
}

fn start(count: usize) -> (Nodes, TwoTokens) {
    let ports = (0..count).map(|_| (free_port(), free_port())).collect();
    let tokens = TwoTokens::for_nodes(count);
    let nodes = Nodes::start_with(ports, Box::new(tokens.clone()));
    nodes.until_all_vote();
    (nodes, tokens)
}

/// The step of a node's second seal that failed: `what: why`; or that all of it works.
fn fault(planned: &Value, n: usize) -> String {
    let all = planned["data"]["nodes"].as_array().expect("nodes");
    let node = all.iter().find(|node| node["node"] == format!("n{n}")).unwrap_or_else(|| panic!("{planned}"));
    if let Some(error) = node["error"].as_str() {
        return format!("configuration: {error}");
    }
    let seals = node["seals"].as_array().expect("seals");
    assert_eq!(seals[0]["works"], true, "the first one of n{n}: {node}");
    let second = seals.iter().find(|seal| seal["name"] == "second").unwrap_or_else(|| panic!("{node}"));
    let failed = second["steps"].as_array().expect("steps").iter().find(|step| step["works"] == false);
    match failed {
        Some(step) => format!("{}: {}", step["what"].as_str().unwrap(), step["error"].as_str().unwrap()),
        None => "works".to_owned(),
    }
}

#[test]
fn a_plan_names_each_node_on_which_a_seal_would_fail_and_why() {
    let (nodes, tokens) = start(3);
    let shims: Vec<Shim> = (0..3).map(|n| module::shim(&tokens.folder.path().join(format!("t{n}")))).collect();
    let library = library().display().to_string();
    // The configurations of nodes that run, and what each says of them; asked at each node in turn.
    let plan = |asked: usize, stanzas: [String; 3]| {
        *tokens.more.borrow_mut() = stanzas.to_vec();
        (0..3).for_each(|n| nodes.configure(n));
        let planned = nodes.ask(asked, "sys/seal/plan", json!({}), 200).json();
        (planned["data"]["possible"] == true, [0, 1, 2].map(|n| fault(&planned, n)), planned)
    };
    let good = [0, 1, 2].map(|n| tokens.second(n));
    let begins = |said: &str, words: &[&str]| {
        assert!(said.starts_with(words[0]) && words.iter().all(|word| said.contains(word)), "{said}: {words:?}");
        assert!(!said.contains("horse"), "{said}");
    };
    // Good, no library, a wrong PIN.
    let (possible, said, planned) = plan(
        0,
        [good[0].clone(), good[1].replace(&library, "/opt/vendor/none.so"), good[2].replace(PIN, "wrong-horse")],
    );
    assert!(!possible && said[0] == "works", "{said:?}");
    begins(&said[1], &["library: ", "/opt/vendor/none.so"]);
    begins(&said[2], &["pin: ", "PIN is wrong"]);
    assert!(planned.to_string().contains("the trial key is gone"), "{planned}");
    // A key that is not there, a mechanism that wraps nothing, and a token that locks at the next wrong PIN.
    shims[2].flags(FINAL_TRY);
    let of_shim = |n: usize, stanza: &str| {
        let text = stanza.replace(&library, &shims[n].module.display().to_string());
        text.replace("}\n", " mechanism = \"CKM_AES_GCM\"\n}\n")
    };
    let (possible, said, _) = plan(
        1,
        [
            good[0].replace("generate_key = true", "generate_key = false"),
            good[1].replace("}\n", " mechanism = \"CKM_RSA_PKCS_OAEP\"\n rsa_oaep_hash = \"sha512\"\n}\n"),
            of_shim(2, &good[2]),
        ],
    );
    assert!(!possible);
    begins(&said[0], &["key: ", "holdfast-root", "generate_key = true"]);
    begins(&said[1], &["stanza: ", "sha512"]);
    begins(&said[2], &["pin: ", "one more wrong PIN locks it"]);
    assert_eq!(shims[2].logins(), 0, "a try was spent");
    // Another slot, another token, and a token that has seen a wrong PIN.
    let (possible, said, _) = plan(
        2,
        [
            good[0].replace("token_label = \"second\"", "slot = \"77\""),
            good[1].replace("token_label = \"second\"", "token_label = \"third\""),
            good[2].clone(),
        ],
    );
    assert!(!possible);
    begins(&said[0], &["library: ", "77"]);
    begins(&said[1], &["library: ", "third"]);
    begins(&said[2], &["pin: ", "a wrong PIN was tried since the last right one"]);
    // A stanza that nobody can follow is named with its node too.
    let (possible, said, _) =
        plan(0, [good[0].clone(), good[1].replace("priority = 2", "priority = 1"), String::new() + &good[2]]);
    assert!(!possible);
    begins(&said[1], &["configuration: ", "same priority (1)"]);

    // All is mended: nothing was changed, and nothing is left of it.
    tokens.tool(2, &["--list-objects"]);
    let (possible, said, planned) = plan(1, good);
    assert!(possible, "{planned}");
    assert_eq!(said, ["works", "works", "works"]);
    for n in 0..3 {
        assert_eq!(tokens.tool(n, &["--list-objects"]).trim(), "", "something is left on n{n}");
    }
    let status = nodes.read(1, "sys/seal-backend-status").json();
    assert_eq!(status["data"]["backends"].as_array().map(Vec::len), Some(3), "{status}");
}

#[test]
fn the_seals_of_other_nodes_are_shown_with_what_their_own_checks_found() {
    let (mut nodes, tokens) = start(2);
    let led = nodes.until_led();
    let other = 1 - led;
    // Of the lock of the other node, whatever its scope.
    let told = |nodes: &Nodes| {
        let status = nodes.read(led, "sys/seal-backend-status").json();
        let all = status["data"]["backends"].as_array().expect("backends").clone();
        let of_other = all.iter().find_map(|b| Some((b.clone(), b["nodes"].as_array()?.first()?.clone())));
        let (backend, node) = of_other?;
        assert_eq!((&node["node"], &backend["checked_here"]), (&json!(format!("n{other}")), &json!(false)), "{status}");
        Some((status["data"].clone(), node))
    };
    let (status, node) = until(WITHIN, "the other node's first check", || {
        told(&nodes).filter(|(_, node)| node["last_opened"].is_string())
    });
    assert_eq!((&node["healthy"], &status["healthy_elsewhere"]), (&json!(true), &json!(true)), "{status}");
    assert!(node["place"].as_str().expect("a text").starts_with("token \"holdfast\" of /"), "{node}");
    assert_eq!(status["silent_nodes"], json!({}));

    tokens.tokens[other].0.pull_out();
    helpers(nodes.server(other).pid()).into_iter().for_each(|helper| signal(helper, Signal::KILL));
    nodes.server(other).signal(Signal::HUP);
    let (status, node) = until(WITHIN, "its loss", || told(&nodes).filter(|(_, node)| node["healthy"] == false));
    assert!(node["last_error"].as_str().expect("a text").contains(LABEL), "{node}");
    assert!(node["unhealthy_since"].is_string(), "{node}");
    assert_eq!((&status["healthy"], &status["healthy_elsewhere"]), (&json!(true), &json!(false)), "{status}");
    tokens.tokens[other].0.put_back();
    nodes.server(other).signal(Signal::HUP);
    until(WITHIN, "its return", || told(&nodes).filter(|(status, _)| status["healthy_elsewhere"] == true));

    // A node that hangs holds up nobody for long, and is named.
    nodes.server(other).signal(Signal::STOP);
    let silent = until(WITHIN, "its silence", || {
        let asked = nodes.root(led).try_call("GET", "sys/seal-backend-status", None).ok().filter(|r| r.status == 200);
        asked?.json()["data"]["silent_nodes"].get(format!("n{other}")).cloned()
    });
    assert!(silent.as_str().expect("a text").contains("it is away"), "{silent}");
    nodes.server(other).signal(Signal::CONT);
    until(WITHIN, "its voice", || told(&nodes).filter(|(status, _)| status["silent_nodes"] == json!({})));
    nodes.kill(other);
    nodes.launch(other);
    until_unsealed(&nodes, other);
}
