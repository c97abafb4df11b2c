//! Several seals of one server: tokens, a TPM and a key that was given, with the commands that operators use.

use std::time::Duration;

use holdfast_tests::process::{helpers, signal};
use holdfast_tests::program::{command, holdfast, run};
use holdfast_tests::token::{Beside, LABEL, Token};
use holdfast_tests::tpm::Tpm;
use holdfast_tests::{Client, Keys, Running, Server, Setup, Site, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A server's folder with two tokens, a TPM and a key.
struct House {
    site: Site,
    second: Beside,
    tpm: Tpm,
    keys: Keys,
}

/// One seal of the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum One {
    Main,
    Spare,
    Chip,
    Given,
}
use One::{Chip, Given, Main, Spare};

impl House {
    /// Initialised with these, and stopped.
    fn build(seals: &[One]) -> House {
        let site = Site::make(Setup::hardware().without_tls());
        let second = site.token.as_ref().expect("a token").another("spare");
        let tpm = Tpm::start(site.folder());
        let keys = Keys { root_token: String::new(), shares: Vec::new() };
        let house = House { site, second, tpm, keys };
        house.say(seals);
        let server = house.site.start();
        let keys = house.site.initialise(&server.client());
        let root = server.client().with_token(&keys.root_token);
        root.post("sys/mounts/kv", json!({ "type": "kv" })).expect(204);
        root.post("kv/kept", json!({ "k": "v" })).expect(204);
        server.stop();
        House { keys, ..house }
    }

    fn token(&self) -> &Token {
        self.site.token.as_ref().expect("a token")
    }

    fn stanza(&self, seal: One, priority: usize) -> String {
        let (head, keys) = match seal {
            Main => ("\"pkcs11\" \"main\"", self.token().keys(LABEL)),
            Spare => ("\"pkcs11\" \"spare\"", self.token().keys(&self.second.label)),
            Chip => ("\"tpm\" \"chip\"", format!(" tcti = \"{}\"\n", self.tpm.tcti())),
            Given => {
                ("\"static\" \"given\"", format!(" current_key_id = \"k\"\n current_key = \"{}\"\n", "5a".repeat(32)))
            }
        };
        format!("seal {head} {{\n priority = {priority}\n{keys}}}\n")
    }

    /// Write these into the configuration, in the order of their priorities.
    fn say(&self, seals: &[One]) {
        self.write(&seals.iter().enumerate().map(|(at, seal)| self.stanza(*seal, at + 1)).collect::<String>());
    }

    fn write(&self, stanzas: &str) {
        let config = self.site.config();
        let rest = config.split("seal \"pkcs11\"").next().expect("a text");
        self.site.write_config(&format!("{rest}{stanzas}"));
    }

    fn root(&self, server: &Server) -> Client {
        server.client().with_token(&self.keys.root_token)
    }

    /// A server that has opened the store by itself.
    fn open(&self) -> Server {
        let server = self.site.start();
        server.until_unsealed();
        assert_eq!(self.root(&server).get("kv/kept").expect(200).at("/data/k"), "v");
        server
    }

    /// `operator seal …` as JSON, and its exit code.
    fn operator(&self, server: &Server, what: &str) -> (i32, Value) {
        let mut cli = self.site.cli(&holdfast(), server, &self.keys.root_token);
        let output = run(cli.args(["operator", "seal", what, "-format=json"]));
        let code = output.code.expect("an exit code");
        assert!(code == 0 || code == 2, "{output:?}");
        (code, serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}")))
    }

    fn rewrap(&self, server: &Server) -> (i32, Vec<String>) {
        let (code, done) = self.operator(server, "rewrap");
        let one = |of: &Value| {
            format!("{} {}", of["name"].as_str().expect("a name"), of["outcome"].as_str().expect("a word"))
        };
        (code, done["seals"].as_array().expect("seals").iter().map(one).collect())
    }
}

fn backend(status: &Value, name: &str) -> Value {
    let all = status["data"]["backends"].as_array().expect("backends");
    all.iter().find(|b| b["name"] == name).unwrap_or_else(|| panic!("no {name}: {status}")).clone()
}

/// Until when a device worked is wanted just when it is away.
#[test]
fn when_each_seal_opened_the_store_last_is_known_after_a_restart_too() {
    let house = House::build(&[Main, Chip]);
    let server = house.open();
    let opened = |server: &Server, name: &str| {
        let status = house.root(server).get("sys/seal-backend-status").expect(200).json();
        backend(&status, name)["last_opened"].as_str().map(str::to_owned)
    };
    until(Duration::from_secs(20), "a check of both", || opened(&server, "main").and(opened(&server, "chip")));
    let file = house.site.store().join("last-opened");
    until(Duration::from_secs(20), "the file", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("main") && text.contains("chip")).then_some(())
    });
    server.stop();
    house.token().pull_out();
    let server = house.open();
    let status = until(Duration::from_secs(60), "a check in vain", || {
        let status = house.root(&server).get("sys/seal-backend-status").expect(200).json();
        (backend(&status, "main")["healthy"] == false).then_some(status)
    });
    let hour = backend(&status, "main")["last_opened"].as_str().expect("a time").to_owned();
    assert!(hour.ends_with(":00:00Z"), "{hour}");
    house.token().put_back();

    // Shares are opened by people.
    let shares = Running::start(Setup::shamir().without_tls());
    let told = || shares.root.get("sys/seal-backend-status").expect(200).at("/data/backends/0/last_opened");
    let told = until(Duration::from_secs(20), "the holders' act", || told().as_str().map(str::to_owned));
    assert!(told.ends_with(":00:00Z"), "{told}");
}

#[test]
fn two_tokens_and_a_tpm_stand_in_for_each_other_and_are_repaired() {
    let house = House::build(&[Spare, Main, Chip]);
    // The first one is away from the start.
    house.second.pull_out();
    let server = house.open();
    let root = house.root(&server);
    let status = until(Duration::from_secs(20), "a check of each", || {
        let status = root.get("sys/seal-backend-status").expect(200).json();
        let checked = ["main", "spare", "chip"].iter().all(|name| backend(&status, name)["last_checked"].is_string());
        checked.then_some(status)
    });
    assert_eq!((&status["data"]["healthy"], &status["data"]["fully_wrapped"]), (&json!(false), &json!(true)));
    let spare = backend(&status, "spare");
    assert!(spare["last_error"].as_str().expect("a text").contains("spare"), "{spare}");
    assert!(spare["place"].as_str().expect("a text").starts_with("token \"spare\" of /"), "{spare}");
    assert_eq!(
        (&backend(&status, "chip")["type"], &backend(&status, "chip")["healthy"]),
        (&json!("tpm"), &json!(true))
    );
    assert_eq!(root.get("sys/health").expect(200).at("/seals_failing"), 1);
    assert_eq!(root.get("sys/seal-status").expect(200).at("/type"), "multiseal");
    let metrics = root.get("sys/metrics?format=prometheus").expect(200).text();
    for line in ["holdfast_seal_device_healthy{seal=\"spare\"} 0", "holdfast_seal_device_healthy{seal=\"main\"} 1"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    // A new root key names it, and its lock is marked.
    let mut rotate = house.site.cli(&holdfast(), &server, &house.keys.root_token);
    let said = run(rotate.args(["write", "-format=json", "-f", "sys/rotate/root"])).good();
    assert!(said.contains("\\\"spare\\\"") && said.contains("operator seal rewrap"), "{said}");
    let (code, did) = house.rewrap(&server);
    assert_eq!((code, did.as_slice()), (2, ["spare failed", "main good", "chip good"].map(str::to_owned).as_slice()));
    let metrics = root.get("sys/metrics?format=prometheus").expect(200).text();
    assert!(metrics.contains("holdfast_seal_fully_wrapped 0"), "{metrics}");

    // It is back, without a restart.
    house.second.put_back();
    helpers(server.pid()).into_iter().for_each(|helper| signal(helper, Signal::KILL));
    let (code, did) = house.rewrap(&server);
    assert_eq!((code, did[0].as_str()), (0, "spare wrapped"));
    server.stop();
    for seal in [Spare, Main, Chip] {
        house.say(&[seal]);
        house.open().stop();
    }
}

#[test]
fn a_change_is_planned_and_made_without_a_restart_and_each_fault_is_named_beforehand() {
    let house = House::build(&[Main]);
    let server = house.open();
    let root = house.root(&server);
    let tried = |code: i32, name: &str| {
        let (found, planned) = house.operator(&server, "plan");
        assert_eq!(found, code, "{planned}");
        let node = planned["nodes"][0].clone();
        let seals = node["seals"].as_array().cloned().unwrap_or_default();
        (node, seals.into_iter().find(|seal| seal["name"] == name).unwrap_or_default())
    };
    let fault = |seal: &Value| {
        let steps = seal["steps"].as_array().expect("steps").clone();
        let step = steps.into_iter().find(|step| step["works"] == false).unwrap_or_default();
        format!("{}: {}", step["what"].as_str().unwrap_or("none"), step["error"].as_str().unwrap_or("none"))
    };
    // Faults of a token that is to be added: its library, the token, the mechanism, the key, the PIN.
    let good = house.stanza(Spare, 2);
    let library = holdfast_tests::token::library().display().to_string();
    let faults = [
        (good.replace(&library, "/nonexistent.so"), "library: ", "/nonexistent.so"),
        (good.replace("token_label = \"spare\"", "token_label = \"other\""), "library: ", "other"),
        (good.replace("}\n", " mechanism = \"CKM_ECDH1_DERIVE\"\n}\n"), ": ", "mechanism"),
        (good.replace("generate_key = true", "generate_key = false"), "key: ", "holdfast-root"),
        (good.replace("correct-horse", "wrong-horse"), "pin: ", "PIN"),
        // It remembers that, and tries no other.
        (good.replace("correct-horse", "worse-horse"), "pin: ", "wrong PIN was tried"),
    ];
    for (stanza, begins, holds) in faults {
        house.write(&(house.stanza(Main, 1) + &stanza));
        let (node, spare) = tried(2, "spare");
        let fault = fault(&spare);
        assert!(fault.contains(begins) && fault.contains(holds), "{fault} of {stanza}");
        assert!(!fault.contains("horse"), "{fault}");
        assert!(node["would"].as_str().expect("a text").contains("opens by main"), "{node}");
    }
    house.write(&(house.stanza(Main, 1) + "seal \"tpm\" \"chip\" {\n priority = 1\n}\n"));
    let (node, _) = tried(2, "chip");
    assert!(node["error"].as_str().expect("a text").contains("same priority (1)"), "{node}");
    // The file alone, on this machine.
    let mut local = command(holdfast());
    local.args(["operator", "seal", "plan"]).arg(format!("-config={}", house.site.config_file().display()));
    local.env("SOFTHSM2_CONF", house.token().conf());
    house.write(&(house.stanza(Main, 1) + &house.stanza(Chip, 2)));
    let said = run(&mut local).good();
    assert!(said.contains("Seal \"main\"") && said.contains("works  unwrap"), "{said}");
    house.write(&(house.stanza(Main, 1) + &good.replace(&library, "/nonexistent.so")));
    assert!(run(&mut local).bad(2).contains("FAILS  library"));

    // To a TPM and a key, and away from the token.
    house.say(&[Given, Chip]);
    let (node, _) = tried(2, "chip");
    assert!(node["would"].as_str().expect("a text").contains("would stay sealed"), "{node}");
    house.say(&[Given, Chip, Main]);
    let (node, chip) = tried(0, "chip");
    assert!(chip["would"].as_str().expect("a text").contains("makes a lock"), "{node}");
    server.signal(Signal::HUP);
    server.until_logged("names other seals");
    let (code, did) = house.rewrap(&server);
    assert_eq!(
        (code, did.as_slice()),
        (0, ["given wrapped", "chip wrapped", "main renamed"].map(str::to_owned).as_slice())
    );
    house.say(&[Given, Chip]);
    let (node, _) = tried(0, "chip");
    assert!(node["locks"].to_string().contains("taken away"), "{node}");
    server.signal(Signal::HUP);
    until(Duration::from_secs(10), "what is left of the token is told", || {
        let status = root.get("sys/seal-backend-status").expect(200).json();
        (backend(&status, "main")["configured"] == false).then_some(())
    });
    // A restart tells of it too; the token is not needed for it.
    house.token().pull_out();
    let server = house.site.start_after(server);
    server.until_unsealed();
    server.until_logged("no seal stanza names");
    let (code, did) = house.rewrap(&server);
    assert_eq!(
        (code, did.as_slice()),
        (0, ["given good", "chip good", "\"main\" (pkcs11) removed"].map(str::to_owned).as_slice())
    );
    server.stop();
    house.token().put_back();
    house.say(&[Main]);
    let server = house.site.start();
    let sealed = until(Duration::from_secs(20), "a reason", || {
        server.client().get("sys/seal-status").expect(200).json()["seal_trouble"].as_str().map(str::to_owned)
    });
    assert!(sealed.contains("the configuration says \"pkcs11\""), "{sealed}");
    server.stop();
    house.say(&[Chip]);
    house.open().stop();
    let audited = std::fs::read_to_string(house.site.audit_file()).expect("the audit log");
    assert!(audited.contains("the lock of the seal chip was wrapped"), "it is audited");
}

#[test]
fn killed_at_any_moment_of_adding_and_removing_a_seal_the_store_opens() {
    let house = House::build(&[Main, Given]);
    let mut gone_on = 0;
    for (round, ms) in [0, 1, 2, 4, 6, 9, 13, 20].into_iter().enumerate() {
        // In turns: one goes and another comes, both in one run.
        let [stays, comes, goes] = if round % 2 == 0 { [Main, Chip, Given] } else { [Main, Given, Chip] };
        house.say(&[stays, comes]);
        let server = house.open();
        let root = house.root(&server);
        root.post("sys/seal/rewrap", json!({})).expect(200);
        std::thread::sleep(Duration::from_millis(ms));
        server.kill();
        // What stays opens it alone, whatever was written.
        house.say(&[stays]);
        house.open().stop();
        house.say(&[stays, comes]);
        let server = house.open();
        let (code, did) = house.rewrap(&server);
        assert_eq!((code, did[0].as_str()), (0, "main good"), "{did:?}");
        gone_on += usize::from(did.len() > 2 || did[1].ends_with("wrapped"));
        server.stop();
        house.say(&[comes]);
        house.open().stop();
        // What went opens nothing any more.
        house.say(&[goes]);
        let server = house.site.start();
        until(Duration::from_secs(20), "a reason", || {
            server.client().get("sys/seal-status").expect(200).json()["seal_trouble"].as_str().map(drop)
        });
        server.stop();
    }
    println!("{gone_on} of 8 were broken off");
    assert!(gone_on > 0, "none was broken off");
}
