//! `operator seal plan` on a TPM and a YubiHSM (the simulator, which is none) that would not open the store: what is wrong is
//! named, no try of a PIN is spent, and nothing is left behind.

use std::fs;
use std::time::Duration;

use holdfast_tests::until;
use holdfast_tests::yubihsm::{AUTH_KEY, PASSWORD};
use holdfast_yubihsm_simulator::capability as c;
use serde_json::Value;

use super::seal_kinds::{House, Kind, Stanza, name_of};

const SOON: Duration = Duration::from_secs(40);

/// What a plan says of a seal: `step: why it fails`, or that it works.
fn fault(planned: &Value, name: &str) -> String {
    let seals = planned["nodes"][0]["seals"].as_array().unwrap_or_else(|| panic!("{planned}"));
    let seal = seals.iter().find(|seal| seal["name"] == name).unwrap_or_else(|| panic!("no {name}: {planned}"));
    let failed = seal["steps"].as_array().expect("steps").iter().find(|step| step["works"] == false);
    match failed {
        None => format!("works: {}", seal["would"].as_str().unwrap()),
        Some(step) => format!("{}: {}", step["what"].as_str().unwrap(), step["error"].as_str().unwrap()),
    }
}

#[track_caller]
fn names(planned: &Value, name: &str, words: &[&str]) {
    let said = fault(planned, name);
    println!("{said}");
    assert!(said.starts_with(words[0]) && words.iter().all(|word| said.contains(word)), "{said}: {words:?}");
    assert_eq!(planned["possible"], false, "{planned}");
}

/// Write the configuration with these, changed in one place.
fn say(house: &House, stanzas: &[Stanza], change: (&str, &str)) {
    house.say(stanzas);
    let file = house.site.config_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    assert!(text.contains(change.0), "{}: {text}", change.0);
    fs::write(&file, text.replace(change.0, change.1)).expect("the configuration");
}

/// Wrong PINs that a TPM has counted, and what it holds beside what it is made with.
fn left_in_the_tpm(house: &House) -> (String, Vec<String>) {
    let properties = house.tpm.tool("tpm2_getcap", &["properties-variable"]);
    let counted = properties.lines().find(|line| line.contains("LOCKOUT_COUNTER")).expect("a counter").to_owned();
    let held = ["handles-transient", "handles-persistent", "handles-loaded-session", "handles-saved-session"];
    (counted, held.map(|what| house.tpm.tool("tpm2_getcap", &[what])).to_vec())
}

#[test]
fn a_plan_names_what_is_wrong_with_a_tpm_and_spends_no_try_of_its_pin() {
    let mut house = House::prepare();
    let pin = house.site.folder().join("tpm-pin");
    fs::write(&pin, "4711\n").expect("the PIN's file");
    house.of_tpm = format!("pin_file = \"{}\"", pin.display());
    let house = house.initialise(&[Stanza::Named(Kind::Tpm, 1), Stanza::Named(Kind::Token, 2)], serde_json::json!({}));
    let before = left_in_the_tpm(&house);
    let (tpm, both) = (name_of(Kind::Tpm), [Stanza::Named(Kind::Tpm, 1), Stanza::Named(Kind::Token, 2)]);
    let server = house.site.start();
    server.until_unsealed();
    let port = format!("port={}", house.tpm.port());
    let of_pin = house.of_tpm.clone();
    for (change, words) in [
        // A register of a bank that this TPM does not keep, and one that is none.
        ((of_pin.as_str(), format!("{of_pin}\n pcrs = \"sha1:7\"")), &["", "sha1"][..]),
        ((&of_pin, format!("{of_pin}\n pcrs = \"sha256:77\"")), &["", "77"]),
        ((&of_pin, format!("{of_pin}\n root_handle = \"0x81000042\"")), &["library: ", "0x81000042"]),
        // Nobody is at home.
        ((&port, "port=1".to_owned()), &["library: ", "does not answer"]),
    ] {
        say(&house, &both, (change.0, &change.1));
        let planned = house.plan(&server);
        match planned["nodes"][0]["error"].as_str() {
            Some(said) => {
                println!("{said}");
                assert!(words.iter().all(|word| said.contains(word)), "{said}");
                assert_eq!(planned["possible"], false);
            }
            None => names(&planned, &tpm, words),
        }
    }
    // A PIN that is not the one of the lock which is there.
    fs::write(&pin, "1147\n").expect("the PIN's file");
    say(&house, &both, ("priority = 1", "priority = 3"));
    let planned = house.plan(&server);
    println!("{planned}");
    let said = fault(&planned, &tpm);
    assert!(!planned.to_string().contains("1147") && !planned.to_string().contains("4711"), "{planned}");
    println!("{said}");
    fs::write(&pin, "4711\n").expect("the PIN's file");
    let planned = house.plan(&server);
    assert_eq!(planned["possible"], true, "{planned}");
    house.is_kept(&server);
    server.stop();
    assert_eq!(left_in_the_tpm(&house), before, "wrong PINs that were counted, and what is left");
}

#[test]
fn a_plan_names_what_is_wrong_with_a_yubihsm_and_leaves_nothing_in_it() {
    let mut house = House::build(&[Stanza::Named(Kind::Token, 1)]);
    let server = house.site.start();
    server.until_unsealed();
    let hsm = name_of(Kind::YubiHsm);
    house.say(&[Stanza::Named(Kind::Token, 1), Stanza::Named(Kind::YubiHsm, 2)]);
    let objects = |house: &House| house.hsm.command(AUTH_KEY, 0x48, &[]).expect("a list").len();
    let before = objects(&house);
    assert_eq!(house.plan(&server)["possible"], true);
    assert_eq!(objects(&house), before, "a trial key is left");

    house.hsm.write_password("wrong-password-1");
    let planned = house.plan(&server);
    names(&planned, &hsm, &["", "password of authentication key 2", "tried once"]);
    assert!(!planned.to_string().contains("wrong-password-1"), "{planned}");
    house.hsm.write_password(PASSWORD);

    // Each capability that its work needs, taken away.
    let all = c::WRAP_DATA | c::UNWRAP_DATA | c::GENERATE_WRAP_KEY | c::DELETE_WRAP_KEY | c::GET_LOG_ENTRIES;
    for (missing, delegated, word) in [
        (c::GENERATE_WRAP_KEY, c::WRAP_DATA | c::UNWRAP_DATA, "generate-wrap-key"),
        (c::WRAP_DATA, c::WRAP_DATA | c::UNWRAP_DATA, "wrap-data"),
        (c::UNWRAP_DATA, c::WRAP_DATA | c::UNWRAP_DATA, "unwrap-data"),
        // It may not give what it does not have to give.
        (0, c::WRAP_DATA, "unwrap-data"),
    ] {
        house.hsm.authentication_key(AUTH_KEY, PASSWORD, 0b1, all & !missing, delegated);
        house.hsm.power_cycle();
        let planned = house.plan(&server);
        names(&planned, &hsm, &["", word]);
        assert_eq!(objects(&house), before, "{word}: something is left");
    }
    house.hsm.set_up();
    house.hsm.kill();
    names(&house.plan(&server), &hsm, &["library: ", "connector does not answer"]);
    house.hsm.start_again();
    house.hsm.unplug(true);
    names(&house.plan(&server), &hsm, &["library: ", "plugged in"]);
    house.hsm.unplug(false);
    house.hsm.hang(true);
    names(&house.plan(&server), &hsm, &["", "no answer"]);
    house.hsm.hang(false);
    let planned = until(SOON, "a plan that works", || Some(house.plan(&server)).filter(|p| p["possible"] == true));
    assert!(fault(&planned, &hsm).starts_with("works"), "{planned}");
    assert_eq!(objects(&house), before);
    house.is_kept(&server);
}
