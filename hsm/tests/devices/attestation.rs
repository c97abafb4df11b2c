//! What a TPM proves to a verifier, and what a verifier does not believe. The TPMs have certificates of a CA of swtpm's.

use super::suite::class;
use super::swtpm::SwTpm;
use super::tpm::{pcrs, spawned};
use super::{Bench, Test};
use holdfast_attestation::chain::{self, Authorities};
use holdfast_attestation::public::PublicArea;
use holdfast_attestation::quote::Register;
use holdfast_attestation::{Check, Evidence, Expectation, credential, judge};
use holdfast_hsm::DeviceClient;
use holdfast_hsm::device::{Credential, DeviceErrorClass as Class, EndorsementKey, QuoteRequest};
use holdfast_hsm::tpm::PcrHash;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

pub const TESTS: &[Test] = &[
    ("a_tpm_proves_what_it_is_and_how_the_machine_is_measured", proves),
    ("evidence_of_a_tpm_that_was_changed_is_not_believed", changed_evidence),
    ("a_credential_opens_in_the_tpm_of_both_of_its_keys_alone", credentials),
    ("a_tpm_without_a_certificate_is_not_believed", no_certificate),
];

const NONCE: &[u8] = b"a verifier's nonce";

fn attested(device: &DeviceClient) -> Evidence {
    attested_with(device, None)
}

fn attested_with(device: &DeviceClient, endorsement: Option<EndorsementKey>) -> Evidence {
    let pcrs = vec![pcrs(PcrHash::Sha384, &[1]), pcrs(PcrHash::Sha256, &[0, 2, 3, 4, 5, 6, 7, 11, 16, 23])];
    let evidence = device.attest(QuoteRequest { nonce: NONCE.to_vec(), pcrs, endorsement }).unwrap();
    let register = |v: &holdfast_hsm::device::PcrValue| Register {
        bank: v.hash.to_string(),
        index: v.index,
        value: v.value.clone(),
    };
    Evidence {
        endorsement_key: evidence.endorsement_key,
        certificate: evidence.certificate,
        attestation_key: evidence.attestation_key,
        quoted: evidence.quoted,
        signature: evidence.signature,
        registers: evidence.values.iter().map(register).collect(),
    }
}

struct Verifier {
    trusted: Vec<Vec<u8>>,
    registers: Vec<Register>,
    attestation_key: Option<Vec<u8>>,
    now: u64,
}

impl Verifier {
    fn of(tpm: &SwTpm) -> Self {
        let trusted = chain::certificates(&fs::read(tpm.ca()).unwrap()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self { trusted, registers: Vec::new(), attestation_key: None, now }
    }

    fn judge(&self, evidence: &Evidence, nonce: &[u8]) -> Vec<Check> {
        let Self { trusted, registers, attestation_key, now } = self;
        let attestation_key = attestation_key.as_deref();
        let authorities = Authorities { trusted, intermediates: &[] };
        judge(evidence, &Expectation { nonce, authorities, attestation_key, registers, now: *now })
    }

    /// What is not believed, and why.
    fn doubts(&self, evidence: &Evidence) -> Vec<(&'static str, String)> {
        let checks = self.judge(evidence, NONCE);
        checks.into_iter().filter_map(|check| Some((check.what, check.found.err()?.to_string()))).collect()
    }
}

fn keys(evidence: &Evidence) -> (PublicArea, PublicArea) {
    let parse = |bytes: &[u8]| PublicArea::parse(bytes).unwrap();
    (parse(&evidence.endorsement_key), parse(&evidence.attestation_key))
}

fn proves(bench: &Bench) {
    let tpm = SwTpm::endorsed();
    let device = spawned(bench, tpm.config());
    let first = attested(&device);
    let mut verifier = Verifier::of(&tpm);
    verifier.registers = first.registers.clone();
    verifier.attestation_key = Some(keys(&first).1.name().to_vec());
    let checks = verifier.judge(&first, NONCE);
    let found: Vec<_> = checks.iter().map(|check| (check.what, check.found.is_ok())).collect();
    let all = ["endorsement key", "attestation key", "quote", "registers", "measurements"].map(|what| (what, true));
    assert_eq!(found, all, "{checks:?}");
    assert!(checks[0].found.as_ref().unwrap().contains("swtpm-localca"), "{checks:?}");
    // The attestation key is the same after a restart; and nothing is left in the TPM's three places.
    device.log_out();
    for _ in 0..4 {
        assert!(verifier.doubts(&attested(&device)).is_empty());
    }
    // The Names are those that tpm2-tools compute.
    device.log_out();
    tpm.measure(7);
    let doubts = verifier.doubts(&attested(&device));
    assert_eq!(doubts.len(), 1, "{doubts:?}");
    assert!(doubts[0].0 == "measurements" && doubts[0].1.contains("sha256 PCR 7"), "{doubts:?}");
    let pcrs = vec![pcrs(PcrHash::Sha256, &[1])];
    let refused = device.attest(QuoteRequest { nonce: Vec::new(), pcrs, endorsement: None });
    assert_eq!(refused.unwrap_err().class, Class::Invalid);
}

fn changed_evidence(bench: &Bench) {
    let tpm = SwTpm::endorsed();
    let device = spawned(bench, tpm.config());
    let good = attested(&device);
    let verifier = Verifier::of(&tpm);
    assert!(verifier.doubts(&good).is_empty());
    let said = |verifier: &Verifier, tamper: &dyn Fn(&mut Evidence), what: &str, word: &str| {
        let mut evidence = good.clone();
        tamper(&mut evidence);
        let doubts = verifier.doubts(&evidence);
        assert!(doubts.iter().any(|(found, why)| *found == what && why.contains(word)), "{what}, {word}: {doubts:?}");
    };
    assert!(verifier.judge(&good, b"another nonce").iter().any(|check| check.what == "quote" && check.found.is_err()));
    said(&verifier, &|e| e.registers[3].value[0] ^= 1, "registers", "not those of the quote");
    said(&verifier, &|e| drop(e.registers.pop()), "registers", "is not told");
    said(&verifier, &|e| e.quoted[60] ^= 1, "quote", "not signed by the attestation key");
    said(&verifier, &|e| e.quoted.truncate(40), "quote", "not signed");
    said(&verifier, &|e| e.signature[10] ^= 1, "quote", "not signed");
    // A key that signs what others have made proves nothing.
    said(&verifier, &|e| e.attestation_key[5] &= !1, "attestation key", "not restricted");
    said(&verifier, &|e| e.endorsement_key.truncate(99), "endorsement key", "malformed");
    said(&verifier, &|e| *e.endorsement_key.last_mut().unwrap() ^= 1, "endorsement key", "for another key");
    said(&verifier, &|e| e.certificate.as_mut().unwrap()[200] ^= 1, "endorsement key", "");
    // Another manufacturer's TPM.
    let other = SwTpm::endorsed();
    said(&Verifier::of(&other), &|_| (), "endorsement key", "does not count");
    let past = Verifier { now: 1_000_000_000, ..Verifier::of(&tpm) };
    said(&past, &|_| (), "endorsement key", "not valid yet");
    let of_other = Verifier {
        attestation_key: Some(keys(&attested(&spawned(bench, other.config()))).1.name().to_vec()),
        ..Verifier::of(&tpm)
    };
    said(&of_other, &|_| (), "attestation key", "another TPM, or one that was cleared");
}

fn credentials(bench: &Bench) {
    let (tpm, other) = (SwTpm::endorsed(), SwTpm::endorsed());
    let (device, others) = (spawned(bench, tpm.config()), spawned(bench, other.config()));
    for (name, kind) in EndorsementKey::NAMES {
        let evidence = attested_with(&device, Some(kind));
        // swtpm's set-up certifies two of them, and leaves the third to its template.
        assert_eq!(evidence.certificate.is_some(), kind != EndorsementKey::P256, "{name}");
        assert_eq!(Verifier::of(&tpm).doubts(&evidence).is_empty(), kind != EndorsementKey::P256, "{name}");
        let ((endorsement, attestation), (_, foreign)) = (keys(&evidence), keys(&attested(&others)));
        let open = |device: &DeviceClient, made: &credential::Credential| {
            device.activate(Credential { blob: made.blob.clone(), secret: made.secret.clone(), endorsement: kind })
        };
        let (made, secret) = credential::make(&endorsement, &attestation).unwrap();
        assert_eq!(open(&device, &made).unwrap().expose(), &*secret, "{name}");
        assert_eq!(open(&device, &made).unwrap().expose(), &*secret, "{name}");
        let error = open(&others, &made).err().unwrap();
        assert_eq!(error.class, Class::Tampered, "{name}: {error}");
        // Bound to an attestation key that is in another TPM.
        let (made, _) = credential::make(&endorsement, &foreign).unwrap();
        assert_eq!(class(open(&device, &made)), Class::Tampered, "{name}");
        let (mut made, _) = credential::make(&endorsement, &attestation).unwrap();
        *made.blob.last_mut().unwrap() ^= 1;
        assert_eq!(class(open(&device, &made)), Class::Tampered, "{name}");
        let (mut made, secret) = credential::make(&endorsement, &attestation).unwrap();
        *made.secret.last_mut().unwrap() ^= 1;
        assert_eq!(class(open(&device, &made)), Class::Tampered, "{name}");
        *made.secret.last_mut().unwrap() ^= 1;
        assert_eq!(open(&device, &made).unwrap().expose(), &*secret, "{name}: the TPM goes on");
        let long = credential::Credential { blob: vec![0; 4096], secret: vec![0; 4096] };
        assert_eq!(class(open(&device, &long)), Class::Invalid);
        // It signs nothing of the verifier's own making: no credential is made for what is no endorsement key.
        assert!(credential::make(&attestation, &attestation).is_err());
    }
}

fn no_certificate(bench: &Bench) {
    let tpm = SwTpm::start();
    let evidence = attested(&spawned(bench, tpm.config()));
    assert_eq!(evidence.certificate, None);
    let doubts = Verifier::of(&SwTpm::endorsed()).doubts(&evidence);
    assert_eq!(doubts.len(), 1, "{doubts:?}");
    assert!(doubts[0].1.contains("holds no certificate"), "{doubts:?}");
}
