//! From each kind of seal to each other one, by both ways: with the holders of the shares, and by several seals at once.

use std::time::Duration;

use holdfast_tests::process::{helpers, signal};
use holdfast_tests::program::{holdfast, run};
use holdfast_tests::token::{LABEL, Token};
use holdfast_tests::tpm::Tpm;
use holdfast_tests::yubihsm::Hsm;
use holdfast_tests::{Client, Keys, Server, Setup, Site, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What can open a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Shares,
    /// A key in a SoftHSM token.
    Token,
    /// A TPM of swtpm.
    Tpm,
    /// The simulator of a YubiHSM 2, which is no YubiHSM.
    YubiHsm,
    /// A key that was given.
    Static,
}
use Kind::{Shares, Static, Token as InToken, Tpm as InTpm, YubiHsm as InHsm};

pub const ALL: [Kind; 5] = [Shares, InToken, InTpm, InHsm, Static];
const DEVICES: [Kind; 4] = [InToken, InTpm, InHsm, Static];

impl Kind {
    /// The type of its stanza.
    pub fn word(self) -> &'static str {
        match self {
            Shares => "shamir",
            InToken => "pkcs11",
            InTpm => "tpm",
            InHsm => "yubihsm",
            Static => "static",
        }
    }
}

/// Whether a seal's stanza is in use, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stanza {
    Alone(Kind),
    Disabled(Kind),
    /// One of several, with its priority.
    Named(Kind, usize),
}

/// A server's folder with one of each.
pub struct House {
    pub site: Site,
    pub tpm: Tpm,
    pub hsm: Hsm,
    pub keys: Keys,
    /// Further keys of the TPM's stanza.
    pub of_tpm: String,
}

impl House {
    /// Everything is there, and nothing is initialised.
    pub fn prepare() -> House {
        let mut site = Site::make(Setup::shamir().without_tls());
        site.token = Some(Token::make(&site.folder().join("softhsm")));
        let (tpm, hsm) = (Tpm::start(site.folder()), Hsm::start(site.folder()));
        let keys = Keys { root_token: String::new(), shares: Vec::new() };
        House { site, tpm, hsm, keys, of_tpm: String::new() }
    }

    /// Initialised with these, with a secret, and stopped. Of a device: with recovery shares.
    pub fn build(stanzas: &[Stanza]) -> House {
        House::prepare().initialise(stanzas, json!({}))
    }

    pub fn initialise(self, stanzas: &[Stanza], more: Value) -> House {
        self.say(stanzas);
        let server = self.site.start();
        let by_shares = matches!(stanzas, [] | [Stanza::Alone(Shares)]);
        let (kind, member) = if by_shares { ("secret", "/keys") } else { ("recovery", "/recovery_keys") };
        let mut body = json!({ format!("{kind}_shares"): 3, format!("{kind}_threshold"): 2 });
        more.as_object().expect("an object").iter().for_each(|(name, value)| body[name] = value.clone());
        let made = server.client().post("sys/init", body).expect(200);
        let shares = made.at(member);
        let shares = shares.as_array().expect("shares").iter().map(|s| s.as_str().expect("hex").to_owned()).collect();
        let house = House { keys: Keys { root_token: made.text_at("/root_token"), shares }, ..self };
        if by_shares {
            house.give_shares(&server, &[]);
        }
        server.until_unsealed();
        let root = house.root(&server);
        root.post("sys/mounts/kv", json!({ "type": "kv" })).expect(204);
        root.post("kv/kept", json!({ "k": "v" })).expect(204);
        server.stop();
        house
    }

    pub fn token(&self) -> &Token {
        self.site.token.as_ref().expect("a token")
    }

    fn stanza(&self, stanza: Stanza) -> String {
        let (kind, head, more) = match stanza {
            Stanza::Alone(kind) => (kind, String::new(), String::new()),
            Stanza::Disabled(kind) => (kind, String::new(), " disabled = \"true\"\n".to_owned()),
            Stanza::Named(kind, priority) => {
                (kind, format!(" \"{}\"", name_of(kind)), format!(" priority = {priority}\n"))
            }
        };
        let keys = match kind {
            Shares => return String::new(),
            InToken => self.token().keys(LABEL),
            InTpm => format!(" tcti = \"{}\"\n {}\n", self.tpm.tcti(), self.of_tpm),
            InHsm => format!(" {}\n generate_key = true\n", self.hsm.keys()),
            Static => format!(" current_key_id = \"k\"\n current_key = \"{}\"\n", "5a".repeat(32)),
        };
        format!("seal \"{}\"{head} {{\n{more}{keys}}}\n", kind.word())
    }

    /// Write the configuration with these.
    pub fn say(&self, stanzas: &[Stanza]) {
        let seals: String = stanzas.iter().map(|stanza| self.stanza(*stanza)).collect();
        self.site.write_config(&format!("{}\n{seals}", self.site.config()));
    }

    pub fn root(&self, server: &Server) -> Client {
        server.client().with_token(&self.keys.root_token)
    }

    /// `operator unseal` by two holders, with flags.
    pub fn give_shares(&self, server: &Server, flags: &[&str]) {
        for share in &self.keys.shares[..2] {
            let mut cli = self.site.cli(&holdfast(), server, "");
            run(cli.args(["operator", "unseal"]).args(flags).arg(share)).good();
        }
    }

    pub fn is_kept(&self, server: &Server) {
        assert_eq!(self.root(server).get("kv/kept").expect(200).at("/data/k"), "v");
    }

    /// The configuration names this seal alone, and the store opens by it.
    pub fn open_by(&self, kind: Kind) -> Server {
        self.say(&[Stanza::Alone(kind)]);
        let server = self.site.start();
        if kind == Shares {
            self.give_shares(&server, &[]);
        }
        server.until_unsealed();
        self.is_kept(&server);
        server
    }

    /// The configuration in which the holders move the store.
    fn say_move(&self, from: Kind, to: Kind) {
        let mut stanzas = vec![Stanza::Alone(to)];
        if from != Shares {
            stanzas.push(Stanza::Disabled(from));
        }
        self.say(&stanzas);
    }

    /// `operator seal rewrap`: its exit code, and what became of each.
    pub fn rewrap(&self, server: &Server) -> (i32, Vec<String>) {
        let mut cli = self.site.cli(&holdfast(), server, &self.keys.root_token);
        let output = run(cli.args(["operator", "seal", "rewrap", "-format=json"]));
        let done: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        let one = |of: &Value| format!("{} {}", of["name"].as_str().unwrap(), of["outcome"].as_str().unwrap());
        (output.code.expect("an exit code"), done["seals"].as_array().expect("seals").iter().map(one).collect())
    }

    pub fn plan(&self, server: &Server) -> Value {
        let mut cli = self.site.cli(&holdfast(), server, &self.keys.root_token);
        let output = run(cli.args(["operator", "seal", "plan", "-format=json"]));
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }

    /// The backends of `sys/seal-backend-status`, by the names of their seals.
    pub fn backend(&self, server: &Server, name: &str) -> Value {
        let status = self.root(server).get("sys/seal-backend-status").expect(200).json();
        let all = status["data"]["backends"].as_array().expect("backends");
        all.iter().find(|b| b["name"] == name).cloned().unwrap_or_default()
    }

    /// A hangup; the server has read its configuration when it shows the seals that it names.
    pub fn hang_up(&self, server: &Server, wanted: &[Kind]) {
        server.signal(Signal::HUP);
        until(Duration::from_secs(20), "the seals of the configuration", || {
            let status = self.root(server).get("sys/seal-backend-status").expect(200).json();
            let all = status["data"]["backends"].as_array().expect("backends").clone();
            let mut present: Vec<Value> =
                all.into_iter().filter(|b| b["configured"] == true).map(|b| b["type"].clone()).collect();
            present.sort_by_key(ToString::to_string);
            let mut words: Vec<Value> = wanted.iter().map(|kind| json!(kind.word())).collect();
            words.sort_by_key(ToString::to_string);
            (present == words).then_some(())
        });
    }
}

pub fn name_of(kind: Kind) -> String {
    format!("the-{}", kind.word())
}

fn seal_status(server: &Server) -> Value {
    server.client().get("sys/seal-status").expect(200).json()
}

/// Wait until seal-status says that a migration is waited for.
#[track_caller]
fn waits(server: &Server) -> Value {
    until(Duration::from_secs(30), "a migration that waits", || {
        Some(seal_status(server)).filter(|s| s["migration"] == true)
    })
}

/// A way that goes each ordered pair of these once: it ends where it begins.
fn each_pair_once(kinds: &[Kind]) -> Vec<(Kind, Kind)> {
    let mut left: Vec<(Kind, Kind)> = kinds.iter().flat_map(|from| kinds.iter().map(|to| (*from, *to))).collect();
    left.retain(|(from, to)| from != to);
    let total = left.len();
    // Hierholzer: walk on while there is a way, and go back to where one is left.
    let (mut walk, mut round) = (vec![kinds[0]], Vec::new());
    while let Some(at) = walk.last().copied() {
        match left.iter().position(|(from, _)| *from == at) {
            Some(next) => walk.push(left.remove(next).1),
            None => round.extend(walk.pop()),
        }
    }
    round.reverse();
    let pairs: Vec<(Kind, Kind)> = round.windows(2).map(|w| (w[0], w[1])).collect();
    assert_eq!(pairs.len(), total, "{pairs:?}");
    pairs
}

/// Where the store is killed when the last share was given, in milliseconds behind it. SoftHSM writes its files in place, so that a
/// kill may break a token, which no device does: `seal_migration` has such kills, with the token put back.
const KILLED: [((Kind, Kind), u64); 6] = [
    ((Shares, InTpm), 60),
    ((InTpm, InHsm), 120),
    ((InHsm, Static), 30),
    ((Static, Shares), 0),
    ((InHsm, InTpm), 250),
    ((InTpm, Shares), 90),
];

#[test]
fn the_holders_move_a_store_from_each_kind_of_seal_to_each_other() {
    let house = House::build(&[]);
    let mut killed = 0;
    for (from, to) in each_pair_once(&ALL) {
        println!("{from:?} to {to:?}");
        house.say_move(from, to);
        let server = house.site.start();
        let status = waits(&server);
        assert_eq!((&status["migration_from"], &status["type"]), (&json!(from.word()), &json!(to.word())));
        let server = match KILLED.iter().find(|(pair, _)| *pair == (from, to)) {
            Some((_, ms)) => {
                killed += 1;
                match kill_amid(&house, server, to, *ms) {
                    Some(again) => again,
                    // It was committed.
                    None => house.open_by(to),
                }
            }
            None => server,
        };
        if seal_status(&server)["migration"] == true {
            house.give_shares(&server, &["-migrate"]);
        }
        house.is_kept(&server);
        assert_eq!(seal_status(&server)["migration"], false);
        server.stop();

        let server = house.open_by(to);
        let status = seal_status(&server);
        assert_eq!(
            (&status["type"], &status["n"], &status["t"], &status["recovery_seal"]),
            (&json!(to.word()), &json!(3), &json!(2), &json!(to != Shares)),
            "{status}"
        );
        assert_eq!(status.get("recovery_form").cloned(), (to != Shares).then(|| json!("authorise")), "{status}");
        // The same people approve, by what are unseal keys or recovery keys now.
        let root = house.root(&server);
        let begun = root.post("sys/generate-root-token/attempt", json!({})).expect(200);
        let mut last = Value::Null;
        for share in &house.keys.shares[1..] {
            let body = json!({ "key": share, "nonce": begun.text_at("/data/nonce") });
            last = root.post("sys/generate-root-token/update", body).expect(200).json();
        }
        assert_eq!(last["data"]["complete"], true, "{last}");
        server.stop();
    }
    assert_eq!(killed, KILLED.len());
}

/// Give the shares and kill the server so many milliseconds behind the last: a server with the same configuration that waits for
/// the holders, or none, because the new seal opens the store.
fn kill_amid(house: &House, server: Server, to: Kind, ms: u64) -> Option<Server> {
    let give = |share: &str| json!({ "key": share, "migrate": true });
    server.client().post("sys/unseal", give(&house.keys.shares[0])).expect(200);
    std::thread::scope(|scope| {
        let (last, client) = (give(&house.keys.shares[1]), server.client());
        scope.spawn(move || drop(client.try_call("PUT", "sys/unseal", Some(&last))));
        std::thread::sleep(Duration::from_millis(ms));
        server.kill();
    });
    let server = house.site.start();
    let is_old = until(Duration::from_secs(30), "a decision", || {
        let status = seal_status(&server);
        match (status["migration"] == true, status["sealed"] == false) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => (to == Shares).then_some(false),
        }
    });
    println!("killed after {ms} ms: {}", if is_old { "the former seal opens" } else { "the new seal opens" });
    if is_old {
        return Some(server);
    }
    server.kill();
    None
}

#[test]
fn a_store_goes_from_each_device_to_each_other_by_several_seals_while_it_serves() {
    let house = House::build(&[Stanza::Named(InToken, 1)]);
    let mut server = house.site.start();
    server.until_unsealed();
    for (at, (from, to)) in each_pair_once(&DEVICES).into_iter().enumerate() {
        println!("{from:?} to {to:?}");
        let (former, new) = (name_of(from), name_of(to));
        house.say(&[Stanza::Named(from, 2), Stanza::Named(to, 1)]);
        let planned = house.plan(&server);
        if from == Static {
            // A server that was started without a device starts no helper later.
            let said = planned["nodes"][0]["error"].as_str().expect("an error");
            assert!(said.contains("started without a device") && said.contains("restart"), "{planned}");
            server = house.site.start_after(server);
            server.until_unsealed();
        } else {
            assert_eq!(planned["possible"], true, "{planned}");
            house.hang_up(&server, &[from, to]);
        }
        assert_eq!(house.rewrap(&server), (0, vec![format!("{new} wrapped"), format!("{former} renamed")]));
        house.say(&[Stanza::Named(to, 1)]);
        house.hang_up(&server, &[to]);
        let removed = format!("{former:?} ({}) removed", from.word());
        assert_eq!(house.rewrap(&server), (0, vec![format!("{new} good"), removed]));
        house.is_kept(&server);
        server.stop();
        if at % 3 == 0 {
            // What was taken away opens nothing any more.
            house.say(&[Stanza::Named(from, 1)]);
            let sealed = house.site.start();
            until(Duration::from_secs(20), "a reason", || seal_status(&sealed)["seal_trouble"].as_str().map(drop));
            assert_eq!(seal_status(&sealed)["sealed"], true);
            sealed.stop();
            house.say(&[Stanza::Named(to, 1)]);
        }
        server = house.site.start();
        server.until_unsealed();
        house.is_kept(&server);
    }
}

#[test]
fn a_yubihsm_is_one_of_several_seals_and_is_reported_repaired_and_replaced() {
    let mut house = House::build(&[Stanza::Named(InHsm, 1), Stanza::Named(InToken, 2), Stanza::Named(InTpm, 3)]);
    let hsm = name_of(InHsm);
    // Its connector is away from the start: the next one opens.
    house.hsm.kill();
    let server = house.site.start();
    server.until_unsealed();
    house.is_kept(&server);
    let root = house.root(&server);
    let failing = until(Duration::from_secs(30), "a check of it", || {
        Some(house.backend(&server, &hsm)).filter(|b| b["healthy"] == false && b["last_error"].is_string())
    });
    assert!(failing["last_error"].as_str().unwrap().contains("connector does not answer"), "{failing}");
    assert!(failing["place"].as_str().unwrap().starts_with("YubiHSM 2 at http"), "{failing}");
    assert_eq!(root.get("sys/health").expect(200).at("/seals_failing"), 1);
    let metrics = || root.get("sys/metrics?format=prometheus").expect(200).text();
    assert!(metrics().contains("holdfast_seal_device_healthy{seal=\"the-yubihsm\"} 0"), "{}", metrics());
    // A root key that it has not wrapped.
    let said = root.post("sys/rotate/root", json!({})).expect(200).text_at("/warnings/0");
    assert!(said.contains(&hsm) && said.contains("operator seal rewrap"), "{said}");
    assert_eq!(house.backend(&server, &hsm)["wrapped"], false);
    assert!(metrics().contains("holdfast_seal_fully_wrapped 0"), "{}", metrics());
    let others = ["the-pkcs11 good", "the-tpm good"].map(str::to_owned);
    assert_eq!(house.rewrap(&server), (2, [vec![format!("{hsm} failed")], others.to_vec()].concat()));

    house.hsm.start_again();
    let (code, did) = house.rewrap(&server);
    assert_eq!((code, did[0].as_str()), (0, "the-yubihsm wrapped"));
    server.stop();
    house.say(&[Stanza::Named(InHsm, 1)]);
    let server = house.site.start();
    server.until_unsealed();
    house.is_kept(&server);
    server.stop();

    // Another one takes its place: its key is made there, and the lost one opens nothing.
    house.say(&[Stanza::Named(InHsm, 1), Stanza::Named(InToken, 2), Stanza::Named(InTpm, 3)]);
    house.hsm.exchange();
    house.hsm.set_up();
    let server = house.site.start();
    server.until_unsealed();
    until(Duration::from_secs(30), "the exchange is told", || {
        let said = house.backend(&server, &hsm)["last_error"].as_str()?.to_owned();
        said.contains("holdfast-root").then_some(())
    });
    let (code, did) = house.rewrap(&server);
    assert_eq!((code, did[0].as_str()), (0, "the-yubihsm wrapped"));
    until(Duration::from_secs(30), "it is well again", || {
        (house.backend(&server, &hsm)["healthy"] == true).then_some(())
    });
    // The others go.
    house.say(&[Stanza::Named(InHsm, 1)]);
    house.hang_up(&server, &[InHsm]);
    let (code, did) = house.rewrap(&server);
    assert_eq!((code, did.len()), (0, 3), "{did:?}");
    house.token().pull_out();
    house.tpm.kill();
    let server = house.site.start_after(server);
    server.until_unsealed();
    house.is_kept(&server);
    // And it goes too, for a key that is given.
    house.say(&[Stanza::Named(InHsm, 1), Stanza::Named(Static, 2)]);
    house.hang_up(&server, &[InHsm, Static]);
    assert_eq!(house.rewrap(&server).0, 0);
    house.say(&[Stanza::Named(Static, 2)]);
    house.hang_up(&server, &[Static]);
    let (code, did) = house.rewrap(&server);
    assert_eq!((code, did[1].as_str()), (0, "\"the-yubihsm\" (yubihsm) removed"));
    house.hsm.kill();
    let server = house.site.start_after(server);
    server.until_unsealed();
    house.is_kept(&server);
}

/// The key of the seal is destroyed in its device while the server serves.
#[test]
fn a_key_that_is_destroyed_while_the_server_serves_is_reported_and_made_anew() {
    for makes_keys in [true, false] {
        let house = House::build(&[Stanza::Named(InToken, 1)]);
        let text = std::fs::read_to_string(house.site.config_file()).unwrap();
        if !makes_keys {
            house.site.write_config(&text.replace("generate_key = true", "generate_key = false"));
        }
        let server = house.site.start();
        server.until_unsealed();
        let (root, name) = (house.root(&server), name_of(InToken));
        until(Duration::from_secs(30), "a first check", || {
            house.backend(&server, &name)["last_opened"].as_str().map(drop)
        });
        objects(&house, &["--delete-object", "--type", "secrkey", "--label", "holdfast-root"]);
        server.signal(Signal::HUP);
        let failing = until(Duration::from_secs(30), "the loss is told", || {
            Some(house.backend(&server, &name)).filter(|b| b["healthy"] == false)
        });
        let said = failing["last_error"].as_str().unwrap();
        assert!(said.contains("holdfast-root") && said.contains("is not on the token"), "{said}");
        // It serves on, and says so.
        house.is_kept(&server);
        root.post("kv/more", json!({ "a": "b" })).expect(204);
        assert_eq!(root.get("sys/health").expect(200).at("/seals_failing"), 1);
        let metrics = root.get("sys/metrics?format=prometheus").expect(200).text();
        assert!(metrics.contains("holdfast_seal_device_healthy{seal=\"the-pkcs11\"} 0"), "{metrics}");
        let said = root.post("sys/rotate/root", json!({})).refused(500);
        assert!(said.contains("holdfast-root") && said.contains("is not on the token"), "{said}");
        if !makes_keys {
            let mut cli = house.site.cli(&holdfast(), &server, &house.keys.root_token);
            let said = run(cli.args(["operator", "seal", "rewrap"])).bad(2);
            assert!(said.contains("generate_key = true") && said.contains("no seal of this node"), "{said}");
            objects(&house, &["--keygen", "--key-type", "AES:32", "--label", "holdfast-root", "--id", "01"]);
        }
        assert_eq!(house.rewrap(&server), (0, vec![format!("{name} wrapped")]));
        until(Duration::from_secs(30), "it is well again", || {
            (house.backend(&server, &name)["healthy"] == true).then_some(())
        });
        root.post("sys/rotate/root", json!({})).expect(204);
        let server = house.site.start_after(server);
        server.until_unsealed();
        house.is_kept(&server);
    }
}

/// The same of a YubiHSM 2, by the simulator.
#[test]
fn a_wrap_key_that_is_deleted_while_the_server_serves_is_reported_and_made_anew() {
    let house = House::build(&[Stanza::Named(InHsm, 1)]);
    let server = house.site.start();
    server.until_unsealed();
    let (root, name) = (house.root(&server), name_of(InHsm));
    let seen = until(Duration::from_secs(30), "a first check", || {
        Some(house.backend(&server, &name)).filter(|b| b["last_opened"].is_string())
    });
    let id = hex::decode(seen["key_id"].as_str().expect("an id")).unwrap();
    // Delete Object, of a wrap key.
    let deleted = house.hsm.command(holdfast_tests::yubihsm::AUTH_KEY, 0x58, &[id[0], id[1], 4]);
    assert!(deleted.is_ok(), "{deleted:?}");
    server.signal(Signal::HUP);
    until(Duration::from_secs(30), "the loss is told", || {
        let said = house.backend(&server, &name)["last_error"].as_str()?.to_owned();
        said.contains("holdfast-root").then_some(())
    });
    house.is_kept(&server);
    assert_eq!(root.get("sys/health").expect(200).at("/seals_failing"), 1);
    let said = root.post("sys/rotate/root", json!({})).refused(500);
    assert!(said.contains("holdfast-root"), "{said}");
    assert_eq!(house.rewrap(&server), (0, vec![format!("{name} wrapped")]));
    root.post("sys/rotate/root", json!({})).expect(204);
    let server = house.site.start_after(server);
    server.until_unsealed();
    house.is_kept(&server);
}

/// `pkcs11-tool` on the token.
#[track_caller]
fn objects(house: &House, arguments: &[&str]) -> String {
    use holdfast_tests::token::{PIN, library};
    let mut tool = holdfast_tests::program::command("pkcs11-tool");
    tool.arg("--module").arg(library()).args(["--token-label", LABEL, "--login", "--pin", PIN]).args(arguments);
    run(tool.env("SOFTHSM2_CONF", house.token().conf())).good()
}

#[test]
fn a_plan_tries_a_key_that_is_yet_to_be_made_and_leaves_nothing_behind() {
    let house = House::build(&[Stanza::Named(InTpm, 1)]);
    let server = house.site.start();
    server.until_unsealed();
    house.say(&[Stanza::Named(InTpm, 1), Stanza::Named(InToken, 2), Stanza::Named(InHsm, 3)]);
    let of_hsm = || house.hsm.command(holdfast_tests::yubihsm::AUTH_KEY, 0x48, &[]).expect("a list").len();
    let (before, of_hsm_before) = (objects(&house, &["--list-objects"]), of_hsm());
    let steps = |name: &str| {
        let planned = house.plan(&server);
        let seals = planned["nodes"][0]["seals"].as_array().expect("seals").clone();
        let seal = seals.into_iter().find(|s| s["name"] == name).expect("the seal");
        assert_eq!(seal["works"], true, "{seal}");
        let steps = seal["steps"].as_array().expect("steps").clone();
        let text = |step: &Value| format!("{}: {}", step["what"].as_str().unwrap(), step["said"].as_str().unwrap());
        steps.iter().map(text).collect::<Vec<_>>().join("\n")
    };
    for name in ["the-pkcs11", "the-yubihsm"] {
        let said = steps(name);
        for wanted in [
            "key: it is not there and would be made",
            "trial key: \"holdfast-trial-",
            "wrap: with ",
            "unwrap: opens what it has wrapped",
            "destroy: the trial key is gone",
        ] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }
    assert_eq!((objects(&house, &["--list-objects"]), of_hsm()), (before, of_hsm_before), "something is left");

    // A key that is there and too weak is no key.
    let good = std::fs::read_to_string(house.site.config_file()).unwrap();
    for (kind, id, said) in [("AES:16", "0a", "AES-128"), ("rsa:1024", "0b", "RSA-1024")] {
        let make = if kind.starts_with("rsa") { "--keypairgen" } else { "--keygen" };
        objects(&house, &[make, "--key-type", kind, "--label", said, "--id", id]);
        let of_weak = format!("key_label = \"{said}\"");
        house.site.write_config(&good.replacen("key_label = \"holdfast-root\"", &of_weak, 1));
        let planned = house.plan(&server).to_string();
        assert!(planned.contains(&format!("is {said}, which is weaker than the root key")), "{planned}");
    }
    house.site.write_config(&good);

    // Who may not destroy makes none.
    use holdfast_yubihsm_simulator::capability as c;
    let may = c::WRAP_DATA | c::UNWRAP_DATA | c::GENERATE_WRAP_KEY | c::GET_LOG_ENTRIES;
    house.hsm.authentication_key(
        holdfast_tests::yubihsm::AUTH_KEY,
        holdfast_tests::yubihsm::PASSWORD,
        0b1,
        may,
        c::WRAP_DATA | c::UNWRAP_DATA,
    );
    house.hsm.power_cycle();
    let said = steps("the-yubihsm");
    assert!(said.contains("only the mechanisms were checked") && !said.contains("unwrap: "), "{said}");
    let listed = house.hsm.command(holdfast_tests::yubihsm::AUTH_KEY, 0x48, &[]).expect("a list").len();
    assert_eq!(listed, of_hsm_before);
    for helper in helpers(server.pid()) {
        signal(helper, Signal::KILL);
    }
    house.is_kept(&server);
}

#[test]
fn a_minimum_that_was_set_at_initialisation_is_kept_by_each_change_of_locks() {
    let house = House::prepare();
    house.say(&[Stanza::Named(Static, 1)]);
    let server = house.site.start();
    let wanted = |more: Value| {
        let mut body = json!({ "recovery_shares": 3, "recovery_threshold": 2, "minimum_lock": "device" });
        more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        body
    };
    let said = server.client().post("sys/init", wanted(json!({}))).refused(400);
    assert!(said.contains("seal \"static\" is no key in a device"), "{said}");
    let said = server.client().post("sys/init", wanted(json!({ "minimum_lock": "strong" }))).refused(400);
    assert!(said.contains("device+quorum"), "{said}");
    server.stop();
    house.say(&[Stanza::Named(InTpm, 1)]);
    let server = house.site.start();
    let said = server.client().post("sys/init", wanted(json!({ "recovery_form": "escrow" }))).refused(400);
    assert!(said.contains("escrowed recovery shares open the store without a device"), "{said}");
    let said = server.client().post("sys/init", wanted(json!({ "minimum_lock": "device+quorum" }))).refused(400);
    assert!(said.contains("opens without custodians"), "{said}");
    server.stop();

    let house = house.initialise(&[Stanza::Named(InTpm, 1)], json!({ "minimum_lock": "device" }));
    // Beside: refused, and a token is taken in the same run.
    house.say(&[Stanza::Named(InTpm, 1), Stanza::Named(Static, 2), Stanza::Named(InToken, 3)]);
    let server = house.site.start();
    server.until_unsealed();
    let root = house.root(&server);
    assert_eq!(root.get("sys/seal-backend-status").expect(200).at("/data/minimum_lock"), "device");
    let planned = house.plan(&server);
    assert!(planned["possible"] == false && planned.to_string().contains("no key in a device"), "{planned}");
    let all = ["the-tpm renamed", "the-static failed", "the-pkcs11 wrapped"];
    let (code, did) = house.rewrap(&server);
    let good =
        |did: &[String]| did.iter().zip(all).all(|(did, all)| did == all || did == &all.replace("renamed", "good"));
    assert!(code == 2 && good(&did), "{code}: {did:?}");
    let said = root.get("sys/seal/rewrap").expect(200).text();
    assert!(said.contains("seal \\\"static\\\" is no key in a device"), "{said}");
    server.stop();
    // In its place: by the holders' way too.
    for (to, from) in [(Static, InTpm), (Shares, InTpm)] {
        house.say_move(from, to);
        let text = std::fs::read_to_string(house.site.config_file()).unwrap();
        house.site.write_config(&text.replace("seal \"tpm\" {", "seal \"tpm\" \"the-tpm\" {"));
        let server = house.site.start();
        waits(&server);
        let body = json!({ "key": house.keys.shares[0], "migrate": true });
        let said = server.client().post("sys/unseal", body).refused(400);
        assert!(said.contains("is no key in a device"), "{said}");
        server.stop();
    }
    house.say(&[Stanza::Named(InTpm, 1), Stanza::Named(InToken, 3)]);
    let server = house.site.start();
    server.until_unsealed();
    house.is_kept(&server);
}
