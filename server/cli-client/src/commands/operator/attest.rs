//! `operator device attest | verify`: what a TPM says of itself, and whether it is to be believed.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_attestation::chain::{self, Authorities};
use holdfast_attestation::public::PublicArea;
use holdfast_attestation::quote::Register;
use holdfast_attestation::{Check, Doubt, Evidence, Expectation, credential, judge};
use serde_json::{Map, Value, json};

use super::super::{Command, Prints};
use super::{text, unwrapped};
use crate::call::Call;
use crate::client::Request;
use crate::completion::Values;
use crate::failure::{Explain, Failure, Outcome};
use crate::flags::Flag;
use crate::output::{self, Format, table};

/// Exit code where something is not believed.
const REFUTED: i32 = 2;
const NONCE_BYTES: usize = 32;
const USUAL_PCRS: &str = "sha256:0,1,2,3,4,5,6,7";

static ATTEST: [Flag; 8] = [
    Flag::text("pcrs", "The registers that are quoted.").default(USUAL_PCRS),
    Flag::text("nonce", "The verifier's nonce in hex, where that is somebody else; else a fresh one is made."),
    Flag::text("ek-ca", "A file of certificates (PEM) that are trusted to endorse TPMs. With it, the evidence is judged, and the TPM has to open a credential.").values(Values::File),
    Flag::text("ek-chain", "A file of certificates (PEM) between the endorsement key's and those of -ek-ca.").values(Values::File),
    Flag::text("endorsement-key", "Which endorsement key: rsa-2048, p256 or p384; else the first that has a certificate."),
    Flag::text("expect", "A file of measurements that have to be found: JSON, as in {\"sha256\":{\"7\":\"HEX\"}}.").values(Values::File),
    Flag::text("attestation-key", "The Name (hex) that the attestation key must have."),
    Flag::text("out", "A file that the evidence is written to.").values(Values::File),
];
static VERIFY: [Flag; 5] = [
    Flag::text("nonce", "The nonce that was asked with, in hex. Needed: evidence over another one may be old."),
    Flag::text("ek-ca", "A file of certificates (PEM) that are trusted to endorse TPMs.").values(Values::File),
    Flag::text("ek-chain", "A file of certificates (PEM) between the endorsement key's and those of -ek-ca.")
        .values(Values::File),
    Flag::text("expect", "A file of measurements that have to be found: JSON, as in {\"sha256\":{\"7\":\"HEX\"}}.")
        .values(Values::File),
    Flag::text(
        "attestation-key",
        "The Name (hex) of the attestation key, as an earlier attest with -ek-ca has shown it.",
    ),
];

pub static COMMANDS: &[Command] = &[
    Command::new("operator device attest", "Let a TPM prove what it is and how the machine was started", attest)
        .takes("[options] NAME")
        .about("Asks a device of type tpm for a quote: its registers, signed by a key in it over a fresh nonce. With -ek-ca all of it is judged here, not by the server: the endorsement key's certificate, a credential that only this TPM can open and only beside that attestation key, the signature, the nonce, the values, and what -expect names.\n\nWithout -ek-ca the evidence is collected alone, for operator device verify.\n\nThe exit code is 0 where all was proved, else 2.")
        .prints(Prints::Answer)
        .flags(&ATTEST),
    Command::new("operator device verify", "Judge what a TPM has attested, without a server", verify)
        .takes("[options] FILE")
        .about("Judges evidence that operator device attest -out has written. That the attestation key is in the TPM of that endorsement key, a file cannot prove: it is believed where -attestation-key names it, as an earlier operator device attest with -ek-ca has proved it.\n\nThe exit code is 0 where all was proved, else 2.")
        .prints(Prints::Answer)
        .flags(&VERIFY),
];

fn attest(call: &Call) -> Outcome {
    call.exactly(1)?;
    let expectation = Expected::of(call)?;
    let nonce = match expectation.nonce.is_empty() {
        true => fresh_nonce()?,
        false => expectation.nonce.clone(),
    };
    let pcrs = call.flags.text("pcrs").unwrap_or(USUAL_PCRS);
    let kind = call.flags.text("endorsement-key").unwrap_or_default();
    let body = json!({ "nonce": hex::encode(&nonce), "pcrs": pcrs, "endorsement_key_type": kind });
    let mut found = ask(call, "attest", &body)?;
    found.insert("nonce".into(), hex::encode(&nonce).into());
    if let Some(file) = call.flags.text("out") {
        let evidence = format!("{:#}\n", Value::Object(found.clone()));
        fs::write(file, evidence).map_err(|e| Failure::usage(format!("{file} cannot be written: {e}")))?;
    }
    if call.flags.text("ek-ca").is_none() {
        return output::value(call, &Value::Object(found));
    }
    let evidence = evidence(&found)?;
    let mut checks = expectation.judged(&evidence, &nonce)?;
    checks.insert(
        1,
        Check { what: "credential", found: activated(call, &text(&found, "endorsement_key_type"), &evidence)? },
    );
    print(call, &evidence, checks)
}

fn verify(call: &Call) -> Outcome {
    call.exactly(1)?;
    let expectation = Expected::of(call)?;
    if expectation.nonce.is_empty() {
        return Err(Failure::usage(
            "-nonce is missing: evidence over a nonce that is not the verifier's own may be old.",
        ));
    }
    let file = call.arg(0);
    let unusable = |why: String| Failure::usage(format!("{file} is no evidence: {why}"));
    let text = fs::read(file).map_err(|e| unusable(e.to_string()))?;
    let found: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| unusable(e.to_string()))?;
    let evidence = evidence(&found)?;
    let mut checks = expectation.judged(&evidence, &expectation.nonce)?;
    if expectation.attestation_key.is_none() {
        let text = "nothing here proves that the attestation key is in the TPM of that endorsement key: name it with \
                    -attestation-key, as operator device attest with -ek-ca has proved it before";
        checks.insert(1, Check { what: "credential", found: Err(Doubt::Refuted(text.into())) });
    }
    print(call, &evidence, checks)
}

/// What the verifier knows beforehand, by its flags.
struct Expected {
    nonce: Vec<u8>,
    trusted: Vec<Vec<u8>>,
    intermediates: Vec<Vec<u8>>,
    attestation_key: Option<Vec<u8>>,
    registers: Vec<Register>,
}

impl Expected {
    fn of(call: &Call) -> Result<Expected, Failure> {
        let read = |flag: &str| match call.flags.text(flag) {
            None => Ok(None),
            Some(file) => fs::read(file).map(Some).map_err(|e| Failure::usage(format!("-{flag}: {file}: {e}"))),
        };
        let hex = |flag: &str| match call.flags.text(flag) {
            None => Ok(None),
            Some(text) => hex::decode(text).map(Some).map_err(|_| Failure::usage(format!("-{flag} is to be hex"))),
        };
        let certificates = |flag: &str| match read(flag)? {
            None => Ok(Vec::new()),
            Some(pem) => chain::certificates(&pem).map_err(|e| Failure::usage(format!("-{flag}: {e}"))),
        };
        let registers = match read("expect")? {
            None => Vec::new(),
            Some(text) => serde_json::from_slice(&text)
                .ok()
                .and_then(|value: Value| registers(&value))
                .ok_or_else(|| Failure::usage("-expect is to be JSON, as in {\"sha256\":{\"7\":\"HEX\"}}"))?,
        };
        Ok(Expected {
            nonce: hex("nonce")?.unwrap_or_default(),
            trusted: certificates("ek-ca")?,
            intermediates: certificates("ek-chain")?,
            attestation_key: hex("attestation-key")?,
            registers,
        })
    }

    fn judged(&self, evidence: &Evidence, nonce: &[u8]) -> Result<Vec<Check>, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_err(|_| Failure::refused("The clock is before 1970: no certificate can be judged."))?;
        Ok(judge(
            evidence,
            &Expectation {
                nonce,
                authorities: Authorities { trusted: &self.trusted, intermediates: &self.intermediates },
                attestation_key: self.attestation_key.as_deref(),
                registers: &self.registers,
                now: now.as_secs(),
            },
        ))
    }
}

/// Whether the TPM opens what only the one with both keys can.
fn activated(call: &Call, kind: &str, evidence: &Evidence) -> Result<Result<String, Doubt>, Failure> {
    let keys = PublicArea::parse(&evidence.endorsement_key)
        .and_then(|endorsement| Ok((endorsement, PublicArea::parse(&evidence.attestation_key)?)));
    let made = keys.and_then(|(endorsement, attestation)| credential::make(&endorsement, &attestation));
    let (credential, secret) = match made {
        Ok(made) => made,
        Err(doubt) => return Ok(Err(doubt)),
    };
    let body = json!({
        "credential_blob": STANDARD.encode(&credential.blob),
        "encrypted_secret": STANDARD.encode(&credential.secret),
        "endorsement_key_type": kind,
    });
    let answer = ask(call, "activate", &body)?;
    let is_it = STANDARD.decode(text(&answer, "secret")).is_ok_and(|found| found == *secret);
    Ok(match is_it {
        true => Ok("opened: the attestation key is in the TPM of this endorsement key".into()),
        false => Err(Doubt::Refuted("the TPM did not open the credential".into())),
    })
}

fn ask(call: &Call, what: &str, body: &Value) -> Result<Map<String, Value>, Failure> {
    let client = call.client()?.in_root_namespace().without_timeout();
    let request = Request::new("POST", format!("sys/devices/{}/{what}", call.arg(0))).json(body);
    let answer = client.send(&request).explain("Error asking the device")?;
    Ok(unwrapped(answer.object().bare()?))
}

fn fresh_nonce() -> Result<Vec<u8>, Failure> {
    let mut nonce = vec![0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|e| Failure::refused(format!("This system gives no random bytes: {e}")))?;
    Ok(nonce)
}

fn evidence(found: &Map<String, Value>) -> Result<Evidence, Failure> {
    let bytes = |name: &str| {
        let bytes = found.get(name).and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
        bytes.ok_or_else(|| Failure::refused(format!("The evidence has no {name}.")))
    };
    let certificate = found.get("endorsement_certificate").filter(|value| !value.is_null());
    Ok(Evidence {
        endorsement_key: bytes("endorsement_key")?,
        certificate: certificate.map(|_| bytes("endorsement_certificate")).transpose()?,
        attestation_key: bytes("attestation_key")?,
        quoted: bytes("quoted")?,
        signature: bytes("signature")?,
        registers: found
            .get("pcrs")
            .and_then(registers)
            .ok_or_else(|| Failure::refused("The evidence has no values of registers."))?,
    })
}

/// `{"sha256":{"7":"HEX"}}`
fn registers(value: &Value) -> Option<Vec<Register>> {
    let mut registers = Vec::new();
    for (bank, values) in value.as_object()? {
        for (index, value) in values.as_object()? {
            let value = hex::decode(value.as_str()?).ok()?;
            registers.push(Register { bank: bank.clone(), index: index.parse().ok()?, value });
        }
    }
    Some(registers)
}

fn print(call: &Call, evidence: &Evidence, checks: Vec<Check>) -> Outcome {
    let all_proved = checks.iter().all(|check| check.found.is_ok());
    let code = if all_proved { 0 } else { REFUTED };
    if call.format != Format::Table {
        let shown = checks.iter().map(|check| match &check.found {
            Ok(found) => json!({ "what": check.what, "proved": true, "found": found }),
            Err(doubt) => json!({ "what": check.what, "proved": false, "error": doubt.to_string() }),
        });
        let name = PublicArea::parse(&evidence.attestation_key).map(|key| hex::encode(key.name())).ok();
        let shown = json!({ "proved": all_proved, "attestation_key_name": name, "checks": shown.collect::<Vec<_>>() });
        output::value(call, &shown)?;
        return Ok(code);
    }
    let row = |check: &Check| match &check.found {
        Ok(found) => vec![check.what.to_owned(), "proved".to_owned(), found.clone()],
        Err(doubt) => vec![check.what.to_owned(), "NOT PROVED".to_owned(), doubt.to_string()],
    };
    call.console.say(table::titled(&["What", "Proved", "Found"], checks.iter().map(row).collect()));
    Ok(code)
}
