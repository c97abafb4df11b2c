//! `operator rotate-keys`, and `operator rekey` by the old routes: new key shares.

use serde_json::{Map, Value, json};

use super::{is, pgp, picked, text, unwrapped};
use crate::PROGRAM;
use crate::call::Call;
use crate::client::{Client, Request};
use crate::commands::{Command, Prints};
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, plain, table};

const DEFAULT_SHARES: i64 = 5;
const DEFAULT_THRESHOLD: i64 = 3;

static FLAGS: [Flag; 12] = [
    Flag::bool("init", "Begin."),
    Flag::bool("cancel", "Give up what was begun."),
    Flag::bool("status", "Say how far it is."),
    Flag::int("key-shares", "How many new shares to make. -n is short for it.").also(&["n"]).default("5"),
    Flag::int("key-threshold", "How many of them are needed. -t is short for it.").also(&["t"]).default("3"),
    Flag::text("nonce", "The number of the rotation that the share is for."),
    Flag::text("target", "barrier (or shamir): key shares; recovery: recovery shares.")
        .words(&["barrier", "recovery"])
        .default("barrier"),
    Flag::bool("verify", "With -init: the new shares count only when they were given back; else: act on that round."),
    Flag::list("pgp-keys", "Files of public PGP keys, with commas between: each share is encrypted to one, in order."),
    Flag::bool("backup", "The server keeps the encrypted shares too. Needs -pgp-keys."),
    Flag::bool("backup-delete", "Delete the shares that the server keeps."),
    Flag::bool("backup-retrieve", "Print the shares that the server keeps."),
];

pub static COMMANDS: &[Command] = &[
    Command::new("operator rotate-keys", "Make new key shares", |call| run(call, &NEW))
        .takes("[options] [KEY]")
        .about("Makes a new root key and new shares of it when enough of the present shares agree: -init begins and prints a number; each holder gives a share.")
        .prints(Prints::Answer)
        .flags(&FLAGS),
    Command::new("operator rekey", "Make new key shares, by the old routes", |call| run(call, &OLD))
        .takes("[options] [KEY]")
        .about("As \"operator rotate-keys\", by routes that ask for no token. A listener must allow them.")
        .prints(Prints::Answer)
        .flags(&FLAGS),
];

/// Routes and words of the two commands.
struct Way {
    name: &'static str,
    command: &'static str,
    canceled: &'static str,
    barrier: &'static str,
    recovery: &'static str,
    /// Where the server keeps encrypted shares: key shares, and recovery shares.
    backups: [&'static str; 2],
    init_verb: &'static str,
}

static NEW: Way = Way {
    name: "rotate",
    command: "rotate-keys",
    canceled: "rotation",
    barrier: "sys/rotate/root",
    recovery: "sys/rotate/recovery",
    backups: ["sys/rotate/root/backup", "sys/rotate/recovery/backup"],
    init_verb: "POST",
};
static OLD: Way = Way {
    name: "rekey",
    command: "rekey",
    canceled: "rekeying",
    barrier: "sys/rekey",
    recovery: "sys/rekey-recovery-key",
    backups: ["sys/rekey/backup", "sys/rekey/recovery-key-backup"],
    init_verb: "PUT",
};

fn run(call: &Call, way: &Way) -> Outcome {
    call.between(0, 1, "0-1")?;
    let base = match call.flags.text("target").unwrap_or("barrier").trim().to_lowercase().as_str() {
        "barrier" | "shamir" => way.barrier,
        "recovery" | "hsm" => way.recovery,
        other => return Err(Failure::usage(format!("Unknown target: {other}"))),
    };
    let pgp_keys = pgp::keys(call, "pgp-keys")?;
    let rotation = Rotation { call, way, base, client: call.client()?.in_root_namespace() };
    match () {
        _ if call.flags.bool("backup-delete") => rotation.delete_backup(),
        _ if call.flags.bool("backup-retrieve") => rotation.print_backup(),
        _ if call.flags.bool("cancel") => rotation.cancel(),
        _ if call.flags.bool("init") => rotation.begin(pgp_keys),
        _ if call.flags.bool("status") => rotation.print_state(&rotation.state()?),
        _ => rotation.give_share(),
    }
}

struct Rotation<'a> {
    call: &'a Call<'a>,
    way: &'a Way,
    base: &'static str,
    client: Client,
}

impl Rotation<'_> {
    fn noun(&self) -> &'static str {
        if self.way.name == "rekey" { "rekey" } else { "rotation" }
    }

    /// Where the state of the round in hand is: of the rotation, or of its verification.
    fn state_route(&self) -> String {
        let round = if self.call.flags.bool("verify") { "verify" } else { "init" };
        format!("{}/{round}", self.base)
    }

    fn ask(&self, request: Request, failed: String) -> Result<Map<String, Value>, Failure> {
        let answer = self.client.send(&request).explain(failed)?;
        Ok(unwrapped(answer.object().bare()?))
    }

    fn state(&self) -> Result<Map<String, Value>, Failure> {
        self.ask(Request::new("GET", self.state_route()), format!("Error reading {} status", self.way.name))
    }

    /// Whether shares come of it. The root key of a store that a device opens has none: it alone is made anew. (Recovery
    /// shares are a target of their own.)
    fn makes_shares(&self) -> bool {
        let is_of_device = || {
            let answer = self.client.preflight(&Request::new("GET", "sys/seal-status")).ok();
            answer.and_then(|answer| answer.object().bare().ok()).is_some_and(|status| is(&status, "recovery_seal"))
        };
        self.base != self.way.barrier || !is_of_device()
    }

    fn backup(&self) -> &'static str {
        self.way.backups[usize::from(self.base == self.way.recovery)]
    }

    fn delete_backup(&self) -> Outcome {
        self.ask(Request::new("DELETE", self.backup()), format!("Error deleting {} backed up keys", self.noun()))?;
        self.call.success("Deleted backed up keys (if they existed)")
    }

    fn print_backup(&self) -> Outcome {
        let kept =
            self.ask(Request::new("GET", self.backup()), format!("Error retrieving {} backed up keys", self.noun()))?;
        if self.call.format != Format::Table {
            return output::value(self.call, &Value::Object(kept));
        }
        let rows = kept.iter().map(|(k, v)| (k.clone(), plain(v))).collect();
        self.call.console.say(table::key_value(rows));
        Ok(0)
    }

    fn cancel(&self) -> Outcome {
        self.ask(Request::new("DELETE", self.state_route()), format!("Error canceling {}", self.way.canceled))?;
        self.call.success(format_args!("Canceled {} (if it was started)", self.way.canceled))
    }

    fn begin(&self, pgp_keys: Option<Vec<String>>) -> Outcome {
        let flags = &self.call.flags;
        let body = json!({
            "secret_shares": flags.int("key-shares").unwrap_or(DEFAULT_SHARES),
            "secret_threshold": flags.int("key-threshold").unwrap_or(DEFAULT_THRESHOLD),
            "stored_shares": 0,
            "pgp_keys": pgp_keys,
            "backup": flags.bool("backup"),
            "require_verification": flags.bool("verify"),
        });
        let request = Request::new(self.way.init_verb, format!("{}/init", self.base)).json(&body);
        let failed = format!("Error initializing {}", self.noun());
        let answer = self.client.send(&request).explain(&failed)?;
        let mut state = unwrapped(answer.object().bare()?);
        if state.is_empty() {
            state = self.ask(Request::new("GET", format!("{}/init", self.base)), failed)?;
        }
        if is(&state, "complete") {
            // Nobody had shares whom it could wait for: these are the first.
            return self.print_shares(&state);
        }
        if self.call.format == Format::Table && self.makes_shares() && pgp_keys_missing(&state) {
            self.call.console.warn("The new shares will be shown in the clear to whoever gives the last share. -pgp-keys would\nencrypt each to its holder.\n");
        }
        self.print_state(&state)
    }

    fn give_share(&self) -> Outcome {
        let verifying = self.call.flags.bool("verify");
        let state = self.state()?;
        if !is(&state, "started") {
            return Err(Failure::usage(format!(
                "No {} is in progress. \"{PROGRAM} operator {} -init\" begins one.",
                self.noun(),
                self.way.command
            )));
        }
        let (share, nonce) = self.share_and_nonce(&state)?;
        let round = if verifying { "verify" } else { "update" };
        let request =
            Request::new("PUT", format!("{}/{round}", self.base)).json(&json!({ "key": share, "nonce": nonce }));
        let answer = self.ask(request, "Error posting unseal key".to_string())?;
        if is(&answer, "complete") {
            return if verifying { self.print_verified(&answer) } else { self.print_shares(&answer) };
        }
        let state = if answer.contains_key("t") { answer } else { self.state()? };
        self.print_state(&state)
    }

    fn share_and_nonce(&self, state: &Map<String, Value>) -> Result<(String, String), Failure> {
        if let Some(share) = self.call.args.first() {
            let nonce = self.call.flags.text("nonce").filter(|n| !n.is_empty());
            let nonce = nonce.ok_or_else(|| Failure::usage("Missing nonce value: specify it via the -nonce flag"))?;
            return Ok((share.trim().to_string(), nonce.to_string()));
        }
        let nonce = text(state, "nonce");
        self.call.console.say(format_args!("Operation nonce: {nonce}"));
        let share = self.call.console.ask_hidden_on_stdout("Unseal Key (will be hidden): ").map_err(Failure::usage)?;
        Ok((share.trim().to_string(), nonce))
    }

    fn print_state(&self, state: &Map<String, Value>) -> Outcome {
        if self.call.format != Format::Table {
            return output::value(self.call, &self.state_object(state));
        }
        let mut rows =
            vec![("Nonce".to_string(), text(state, "nonce")), ("Started".to_string(), text(state, "started"))];
        if is(state, "started") {
            let total = text(state, if state.contains_key("required") { "required" } else { "t" });
            let verb = if self.call.flags.bool("verify") && !self.call.flags.bool("init") {
                "Verification"
            } else if self.way.name == "rekey" {
                "Rekey"
            } else {
                "Rotation"
            };
            rows.push((format!("{verb} Progress"), format!("{}/{total}", text(state, "progress"))));
            if self.makes_shares() {
                rows.push(("New Shares".to_string(), text(state, "n")));
                rows.push(("New Threshold".to_string(), text(state, "t")));
            }
            if is(state, "verification_required") {
                rows.push(("Verification Required".to_string(), "true".to_string()));
            }
            if !text(state, "verification_nonce").is_empty() {
                rows.push(("Verification Nonce".to_string(), text(state, "verification_nonce")));
            }
        }
        if let Some(prints) = state.get("pgp_fingerprints").filter(|p| p.as_array().is_some_and(|a| !a.is_empty())) {
            rows.push(("PGP Fingerprints".to_string(), plain(prints)));
            rows.push(("Backup".to_string(), text(state, "backup")));
        }
        self.call.console.say(table::key_value(rows));
        Ok(0)
    }

    /// The state as JSON and YAML have it.
    fn state_object(&self, state: &Map<String, Value>) -> Value {
        let verifying = self.call.flags.bool("verify") && !self.call.flags.bool("init");
        let mut fields = vec![
            ("nonce", Value::from("")),
            ("started", false.into()),
            ("t", 0.into()),
            ("n", 0.into()),
            ("progress", 0.into()),
        ];
        if !verifying {
            fields.extend([
                ("required", 0.into()),
                ("pgp_fingerprints", Value::Null),
                ("backup", false.into()),
                ("verification_required", false.into()),
                ("verification_nonce", "".into()),
            ]);
        }
        picked(state, &fields)
    }

    fn print_shares(&self, answer: &Map<String, Value>) -> Outcome {
        if self.call.format != Format::Table {
            let fields = [
                ("nonce", Value::from("")),
                ("complete", false.into()),
                ("keys", Value::Null),
                ("keys_base64", Value::Null),
                ("pgp_fingerprints", Value::Null),
                ("backup", false.into()),
                ("verification_required", false.into()),
            ];
            let Value::Object(mut object) = picked(answer, &fields) else {
                return Ok(0);
            };
            if let Some(nonce) = answer.get("verification_nonce").filter(|n| *n != "") {
                object.insert("verification_nonce".into(), nonce.clone());
            }
            return output::value(self.call, &Value::Object(object));
        }
        let console = self.call.console;
        let shares = answer.get("keys_base64").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if shares.is_empty() {
            // A device wraps the root key: holders of recovery shares have agreed to a new one, and keep theirs.
            return self.call.success("There is a new root key. The shares did not change: those of before count.");
        }
        for (i, share) in shares.iter().enumerate() {
            console.say(format_args!("Key {}: {}", i + 1, plain(share)));
        }
        console.say(format_args!("\nOperation nonce: {}\n", text(answer, "nonce")));
        if is(answer, "verification_required") {
            console.say(format_args!(
                "The old shares count until enough of the new ones were given back with\n\"{PROGRAM} operator {} -verify\" and this number: {}",
                self.way.command,
                text(answer, "verification_nonce")
            ));
        } else {
            console.say("The new shares count from now on; the old ones are void.");
        }
        Ok(0)
    }

    fn print_verified(&self, answer: &Map<String, Value>) -> Outcome {
        if self.call.format != Format::Table {
            return output::value(self.call, &Value::Object(answer.clone()));
        }
        self.call.success("The new shares are verified and count from now on; the old ones are void.")
    }
}

fn pgp_keys_missing(state: &Map<String, Value>) -> bool {
    state.get("pgp_fingerprints").and_then(Value::as_array).is_none_or(Vec::is_empty)
}
