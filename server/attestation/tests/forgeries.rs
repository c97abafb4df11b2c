//! What somebody without a TPM may try: quotes that no TPM has made, keys that are none of a TPM's, certificates of nobody who is
//! trusted. The forger has keys and a CA of their own; the same from real TPMs is tried by hsm/tests/devices.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use holdfast_attestation::chain::Authorities;
use holdfast_attestation::public::PublicArea;
use holdfast_attestation::quote::{Quote, Register};
use holdfast_attestation::{Evidence, Expectation, chain, credential, judge};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};

const NONCE: &[u8] = b"the verifier's";
/// 2026-06-01.
const NOW: u64 = 1_780_272_000;
/// A restricted signing key's, and an endorsement key's.
const ATTESTS: u32 = 0x0005_0072;
const RECEIVES: u32 = 0x0003_00B2;

/// TPMT_PUBLIC of a key on P-256 or P-384.
fn public_area(attributes: u32, point: &[u8]) -> Vec<u8> {
    let (x, y) = point[1..].split_at(point.len() / 2);
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let signs = attributes & 1 << 18 != 0;
    let (cipher, scheme): (&[u16], &[u16]) = match (signs, x.len()) {
        (true, _) => (&[0x10], &[0x18, 0x0B]),
        (false, 32) => (&[0x06, 128, 0x43], &[0x10]),
        (false, _) => (&[0x06, 256, 0x43], &[0x10]),
    };
    let (hash, curve) = if x.len() == 32 { (0x0B, 3) } else { (0x0C, 4) };
    let words = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    [
        words(&[0x23, hash]),
        attributes.to_be_bytes().to_vec(),
        sized(&[]),
        words(cipher),
        words(scheme),
        words(&[curve, 0x10]),
        sized(x),
        sized(y),
    ]
    .concat()
}

struct Forger(EcdsaKeyPair);

impl Forger {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn key(&self, attributes: u32) -> Vec<u8> {
        public_area(attributes, self.0.public_key().as_ref())
    }

    fn sign(&self, quoted: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), quoted).unwrap().as_ref().to_vec()
    }
}

/// TPMS_ATTEST over SHA-256 PCR 7, whose value is zeros.
fn attest(magic: u32, kind: u16) -> Vec<u8> {
    let mut quoted = [&magic.to_be_bytes()[..], &kind.to_be_bytes(), &[0, 0]].concat();
    quoted.extend((NONCE.len() as u16).to_be_bytes());
    quoted.extend(NONCE);
    quoted.extend([0; 8 + 4 + 4 + 1 + 8]);
    quoted.extend([0, 0, 0, 1, 0, 0x0B, 3, 0x80, 0, 0, 0, 32]);
    quoted.extend(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[0; 32]).as_ref());
    quoted
}

#[test]
fn a_signature_over_what_no_tpm_has_made_is_no_quote() {
    let forger = Forger::new();
    let key = PublicArea::parse(&forger.key(ATTESTS)).unwrap();
    let said = |quoted: &[u8]| Quote::verified(quoted, &forger.sign(quoted), &key, NONCE).map_err(|e| e.to_string());
    let good = said(&attest(0xFF54_4347, 0x8018)).unwrap();
    good.matches(&[Register { bank: "sha256".into(), index: 7, value: vec![0; 32] }]).unwrap();
    // TPM_GENERATED is what a restricted key signs for nobody but its TPM.
    assert!(said(&attest(0xFF54_4348, 0x8018)).unwrap_err().contains("no quote of a TPM"));
    // TPM_ST_ATTEST_CERTIFY
    assert!(said(&attest(0xFF54_4347, 0x8017)).unwrap_err().contains("no quote of a TPM"));
    let whole = attest(0xFF54_4347, 0x8018);
    for length in 0..whole.len() {
        assert!(said(&whole[..length]).is_err(), "{length}");
    }
    assert!(said(&[&whole[..], &[0]].concat()).unwrap_err().contains("malformed"));
}

#[test]
fn a_key_that_signs_what_it_is_given_does_not_attest() {
    let forger = Forger::new();
    let quoted = attest(0xFF54_4347, 0x8018);
    let doubts = |attributes: u32| {
        let evidence = Evidence {
            endorsement_key: forger.key(RECEIVES),
            certificate: None,
            attestation_key: forger.key(attributes),
            signature: forger.sign(&quoted),
            quoted: quoted.clone(),
            registers: vec![Register { bank: "sha256".into(), index: 7, value: vec![0; 32] }],
        };
        let authorities = Authorities { trusted: &[], intermediates: &[] };
        let expected = Expectation { nonce: NONCE, authorities, attestation_key: None, registers: &[], now: NOW };
        let checks = judge(&evidence, &expected);
        checks.into_iter().filter_map(|c| c.found.err().map(|why| (c.what, why.to_string()))).collect::<Vec<_>>()
    };
    let none = ("endorsement key", "holds no certificate");
    let is = |doubt: &(&str, String), (what, word): (&str, &str)| doubt.0 == what && doubt.1.contains(word);
    // One without a TPM can say all that a TPM says of an attestation key: what they lack is a certificate.
    let found = doubts(ATTESTS);
    assert!(found.len() == 1 && is(&found[0], none), "{found:?}");
    // restricted, fixedTPM, fixedParent, sensitiveDataOrigin; decrypt beside.
    for attributes in [16, 1, 4, 5].map(|bit| ATTESTS & !(1 << bit)).into_iter().chain([ATTESTS | 1 << 17]) {
        let found = doubts(attributes);
        assert!(is(&found[1], ("attestation key", "not restricted")), "{attributes:#x}: {found:?}");
    }
}

struct Ca {
    key: KeyPair,
    params: CertificateParams,
    certificate: Certificate,
}

impl Ca {
    fn new(name: &str, by: Option<&Ca>, until: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = match by {
            None => params.self_signed(&key).unwrap(),
            Some(ca) => params.signed_by(&key, &ca.issuer()).unwrap(),
        };
        Self { key, params, certificate }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }

    fn certifies(&self, key: &KeyPair, (from, until): (i32, i32), usage: ExtendedKeyUsagePurpose) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![usage];
        params.signed_by(key, &self.issuer()).unwrap().der().to_vec()
    }
}

fn for_endorsement() -> ExtendedKeyUsagePurpose {
    ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])
}

#[test]
fn an_endorsement_key_is_believed_by_a_chain_to_who_is_trusted_alone() {
    let root = Ca::new("a manufacturer", None, 2040);
    let between = Ca::new("its plant", Some(&root), 2040);
    let other = Ca::new("a manufacturer", None, 2040);
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let key = PublicArea::parse(&public_area(RECEIVES, pair.public_key_raw())).unwrap();
        let good = between.certifies(&pair, (2025, 2035), for_endorsement());
        let said = |certificate: &[u8], trusted: Vec<Vec<u8>>, intermediates: Vec<Vec<u8>>| {
            let authorities = Authorities { trusted: &trusted, intermediates: &intermediates };
            chain::endorses(certificate, authorities, NOW, &key).map_err(|e| e.to_string())
        };
        let by = said(&good, vec![root.der()], vec![between.der()]).unwrap();
        assert!(by.contains("its plant"), "{by}");
        // As it lies in an NV index that is longer.
        said(&[&good[..], &[0xFF; 7]].concat(), vec![root.der()], vec![between.der()]).unwrap();
        said(&good, vec![between.der()], vec![]).unwrap();
        let refused = |found: Result<String, String>, word: &str| {
            let why = found.unwrap_err();
            assert!(why.contains("does not count") && why.contains(word), "{word}: {why}");
        };
        refused(said(&good, vec![root.der()], vec![]), "leads to none that is trusted");
        // Of the same name, and another key.
        refused(said(&good, vec![other.der()], vec![between.der()]), "has only taken the CA's name");
        refused(said(&good, vec![], vec![between.der(), root.der()]), "leads to none that is trusted");
        let by_plant = |years, usage| said(&between.certifies(&pair, years, usage), vec![between.der()], vec![]);
        refused(by_plant((2021, 2024), for_endorsement()), "has expired");
        refused(by_plant((2030, 2035), for_endorsement()), "not valid yet");
        refused(by_plant((2025, 2035), ExtendedKeyUsagePurpose::ServerAuth), "another use");
        // The plant's own certificate is over.
        let late = Ca::new("its late plant", Some(&root), 2025);
        let certificate = late.certifies(&pair, (2024, 2035), for_endorsement());
        refused(said(&certificate, vec![root.der()], vec![late.der()]), "has expired");

        let another = between.certifies(&KeyPair::generate_for(algorithm).unwrap(), (2025, 2035), for_endorsement());
        assert!(said(&another, vec![between.der()], vec![]).unwrap_err().contains("for another key"));
        // A certified key that signs, or leaves its TPM, endorses nothing.
        let signs = PublicArea::parse(&public_area(0x0005_00B2, pair.public_key_raw())).unwrap();
        let authorities = Authorities { trusted: &[between.der()], intermediates: &[] };
        assert!(chain::endorses(&good, authorities, NOW, &signs).is_err());
        let leaves = PublicArea::parse(&public_area(RECEIVES & !2, pair.public_key_raw())).unwrap();
        assert!(chain::endorses(&good, authorities, NOW, &leaves).is_err());
        assert!(credential::make(&leaves, &key).unwrap_err().to_string().contains("not fixed to its TPM"));
    }
}

#[test]
fn a_file_of_certificates_is_read_whole_or_refused() {
    let ca = Ca::new("a manufacturer", None, 2040);
    let pem = ca.certificate.pem();
    assert_eq!(chain::certificates([pem.clone(), pem.clone()].concat().as_bytes()).unwrap().len(), 2);
    assert!(chain::certificates(b"").is_err());
    assert!(chain::certificates(&pem.as_bytes()[..pem.len() / 2]).is_err());
}
