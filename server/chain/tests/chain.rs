//! What was done to a log shows, at the line where it was done.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use holdfast_chain::{
    Chain, Checkpoint, Fault, Linked, PublicKey, PublicKeys, Report, Scheme, Signer, Tail, Unlinked, verify,
};
use proptest::prelude::*;

const LOG: &str = "cluster/node/file";

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32]).unwrap()
}

fn keys() -> PublicKeys {
    PublicKeys::from_pem(&signer(1).public().pem()).unwrap()
}

/// A line as it is written behind those of this moment, without its line end.
fn link(chain: &Chain, line: &str, ahead: Option<&Linked>, out: &mut Vec<u8>) -> Linked {
    let line = format!("{line}\n");
    let unlinked = Unlinked::of(line.as_bytes()).unwrap();
    out.extend_from_slice(&line.as_bytes()[..unlinked.bytes()]);
    chain.link(unlinked, ahead, out)
}

/// A log as the server writes it.
struct Log {
    chain: Chain,
    text: Vec<u8>,
    checkpoints: Vec<Checkpoint>,
}

impl Log {
    fn new() -> Log {
        Log { chain: Chain::after("incarnation-1".into(), None, 0), text: Vec::new(), checkpoints: Vec::new() }
    }

    fn append(&mut self, line: &str) {
        let mut out = self.chain.before_next().to_vec();
        let linked = link(&self.chain, line, None, &mut out);
        self.chain.wrote(&[linked], out.len());
        self.text.extend_from_slice(&out);
    }

    fn lines(&mut self, count: usize) {
        for n in 0..count {
            self.append(&format!("{{\"type\":\"request\",\"n\":{n}}}"));
        }
    }

    fn seal(&mut self, signer: &Signer) {
        let checkpoint = self.unsigned().signed(signer);
        self.append_checkpoint(checkpoint);
    }

    /// A checkpoint of the last line by now, for who signs it later.
    fn unsigned(&self) -> Checkpoint {
        Checkpoint {
            id: self.chain.id().to_owned(),
            log: LOG.into(),
            seq: self.chain.seq(),
            head: self.chain.head().to_owned(),
            time: "2026-11-29T18:00:00Z".into(),
            key: String::new(),
            kept_in: "barrier".into(),
            signature: String::new(),
        }
    }

    fn append_checkpoint(&mut self, checkpoint: Checkpoint) {
        let line =
            format!("{{\"type\":\"checkpoint\",\"checkpoint\":{}}}", serde_json::to_string(&checkpoint).unwrap());
        self.append(&line);
        self.chain.is_sealed(checkpoint.seq);
        self.checkpoints.push(checkpoint);
    }

    /// Crash, having written a part of a line; then the next incarnation.
    fn crash(&mut self, torn: &[u8]) {
        self.text.extend_from_slice(torn);
        let tail = Tail::of(&self.text, true);
        self.chain = Chain::after(format!("incarnation-{}", self.text.len()), tail.last, tail.torn);
    }

    fn split(&self) -> Vec<Vec<u8>> {
        self.text.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
    }
}

fn sealed_log() -> Log {
    let mut log = Log::new();
    log.lines(10);
    log.seal(&signer(1));
    log.lines(7);
    log.seal(&signer(1));
    log.lines(3);
    log
}

fn check(files: &[Vec<u8>], exported: &[Checkpoint]) -> Result<Report, Fault> {
    let names: Vec<String> = (0..files.len()).map(|n| format!("f{n}")).collect();
    let mut readers: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    let files =
        names.iter().zip(&mut readers).map(|(name, reader)| (name.as_str(), reader as &mut dyn std::io::BufRead));
    verify(files, &keys(), exported)
}

fn fault(files: &[Vec<u8>], exported: &[Checkpoint]) -> (String, u64) {
    let fault = check(files, exported).unwrap_err();
    (fault.file, fault.line)
}

#[test]
fn an_intact_log_is_good_and_tells_how_much_of_it_is_sealed() {
    let log = sealed_log();
    let report = check(std::slice::from_ref(&log.text), &[]).unwrap();
    let wanted = Report {
        lines: 22,
        unsealed: 3,
        unsealed_from: Some(("f0".into(), 20)),
        log: Some(LOG.into()),
        checkpoints: 2,
        first: 1,
        last: 22,
        ..Report::default()
    };
    assert_eq!(report, wanted);
    assert_eq!(check(std::slice::from_ref(&log.text), &log.checkpoints).unwrap(), wanted);
}

/// A device has taken its time to sign.
fn sealed_late() -> Log {
    let mut log = Log::new();
    log.lines(10);
    let first = log.unsigned().signed(&signer(1));
    log.lines(4);
    log.append_checkpoint(first);
    log.lines(2);
    let second = log.unsigned().signed(&signer(1));
    log.lines(3);
    log.append_checkpoint(second);
    log
}

#[test]
fn a_checkpoint_may_seal_a_line_that_is_not_the_last_one() {
    let mut log = sealed_late();
    // Those behind the line that the last one seals, and not the checkpoint itself.
    let report = check(std::slice::from_ref(&log.text), &[]).unwrap();
    assert_eq!((report.lines, report.unsealed, report.checkpoints), (21, 3, 2));
    assert_eq!(report.unsealed_from, Some(("f0".into(), 18)));
    assert_eq!(log.chain.unsealed(), 4);
    log.seal(&signer(1));
    assert_eq!(log.chain.unsealed(), 0);
    assert_eq!(check(std::slice::from_ref(&log.text), &log.checkpoints).unwrap().unsealed, 0);
    // Cut anywhere, with what was exported.
    let lines = log.split();
    for end in 0..lines.len() - 1 {
        assert!(check(&[lines[..end].concat()], &log.checkpoints).is_err(), "cut behind line {end}");
    }
    // The older files are not there: a checkpoint of a line in them says nothing of these.
    for begin in 1..lines.len() {
        check(&[lines[begin..].concat()], &[]).unwrap();
    }
}

#[test]
fn lines_that_are_written_anew_under_a_late_checkpoint_are_found() {
    let log = sealed_late();
    let lines = log.split();
    let mut forged = Log::new();
    for (n, line) in lines.iter().enumerate() {
        let text = String::from_utf8(line.clone()).unwrap();
        let body = text[..text.rfind(",\"chain\"").unwrap()].to_owned() + "}";
        forged.append(&if n == 3 { body.replace("\"n\":3", "\"n\":33") } else { body });
    }
    // The chain is right, and the checkpoint is not one of it.
    assert_eq!(fault(&[forged.text.clone()], &[]), ("f0".into(), 15));
    // One that was repeated, or seals what comes after it.
    let mut twice = sealed_late();
    twice.append_checkpoint(log.checkpoints[1].clone());
    assert_eq!(fault(&[twice.text], &[]), ("f0".into(), 22));
    let mut ahead = Log::new();
    ahead.lines(3);
    let of_later = Checkpoint { seq: 9, ..ahead.unsigned() }.signed(&signer(1));
    ahead.append_checkpoint(of_later);
    ahead.lines(9);
    assert_eq!(fault(&[ahead.text], &[]), ("f0".into(), 4));
}

#[test]
fn keys_of_every_kind_that_devices_have_sign() {
    let random = SystemRandom::new();
    let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let info: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let (info, random) = (info.as_ref().to_vec(), SystemRandom::new());
        let sign = move |message: &[u8]| pair.sign(&random, message).unwrap().as_ref().to_vec();
        (info, Box::new(sign) as Box<dyn Fn(&[u8]) -> Vec<u8>>)
    };
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_info: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
    let rsa_info = rsa_info.as_ref().to_vec();
    let by_rsa = move |message: &[u8]| {
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
        signature
    };
    let (p256, by_p256) = ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING);
    let (p384, by_p384) = ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING);
    for (info, sign, scheme) in [
        (p256, by_p256, Scheme::P256),
        (p384, by_p384, Scheme::P384),
        (rsa_info, Box::new(by_rsa) as Box<dyn Fn(&[u8]) -> Vec<u8>>, Scheme::Rsa),
    ] {
        let key = PublicKey::from_info(&info).unwrap();
        assert_eq!(key.scheme(), scheme);
        let mut log = Log::new();
        log.lines(5);
        let unsigned = log.unsigned().to_be_signed_by(&key);
        let signature = sign(&unsigned.message());
        log.append_checkpoint(unsigned.with_signature(&signature));
        let pem = key.pem();
        assert!(pem.lines().all(|l| l.len() <= 64), "{pem}");
        let both = PublicKeys::from_pem(&format!("{}{pem}", signer(1).public().pem())).unwrap();
        let whole = |text: &[u8], keys: &PublicKeys| {
            let mut reader = text;
            verify([("f", &mut reader as &mut dyn std::io::BufRead)], keys, &[])
        };
        assert_eq!(whole(&log.text, &both).unwrap().unsealed, 0);
        // Neither without the key, nor with a signature that is not its own.
        assert!(whole(&log.text, &keys()).is_err());
        let mut other = Log::new();
        other.lines(5);
        let wrong = other.unsigned().to_be_signed_by(&key);
        other.append_checkpoint(wrong.with_signature(&sign(b"another message")));
        assert!(whole(&other.text, &both).unwrap_err().what.contains("signature"));
    }
    assert!(PublicKey::from_info(b"no key").is_err());
}

#[test]
fn a_rotated_log_is_one_chain_over_its_files() {
    let lines = sealed_log().split();
    let (old, new) = lines.split_at(8);
    assert_eq!(check(&[old.concat(), new.concat()], &[]).unwrap().lines, 22);
    // The newer file alone begins somewhere.
    assert_eq!(check(&[new.concat()], &[]).unwrap().first, 9);
    assert_eq!(fault(&[new.concat(), old.concat()], &[]), ("f1".into(), 1));
}

#[test]
fn a_changed_line_is_found() {
    let mut lines = sealed_log().split();
    let text = String::from_utf8(lines[4].clone()).unwrap();
    lines[4] = text.replace("\"n\":4", "\"n\":5").into_bytes();
    assert_eq!(fault(&[lines.concat()], &[]), ("f0".into(), 5));
}

#[test]
fn a_removed_a_repeated_and_a_moved_line_are_found() {
    let mut removed = sealed_log().split();
    removed.remove(4);
    assert_eq!(fault(&[removed.concat()], &[]), ("f0".into(), 5));
    let mut repeated = sealed_log().split();
    repeated.insert(5, repeated[4].clone());
    assert_eq!(fault(&[repeated.concat()], &[]), ("f0".into(), 6));
    let mut moved = sealed_log().split();
    moved.swap(4, 5);
    assert_eq!(fault(&[moved.concat()], &[]), ("f0".into(), 5));
}

#[test]
fn lines_that_were_forged_with_their_hashes_are_found_at_the_checkpoint() {
    let genuine = sealed_log().split();
    let mut forged = Log::new();
    forged.lines(4);
    forged.append("{\"type\":\"request\",\"n\":\"forged\"}");
    for n in 5..10 {
        forged.append(&format!("{{\"type\":\"request\",\"n\":{n}}}"));
    }
    let text = [forged.text.clone(), genuine[10..].concat()].concat();
    // The genuine checkpoint names another line than the forged one before it.
    assert_eq!(fault(&[text], &[]), ("f0".into(), 10));
    // With a checkpoint of another key, or an unsigned one, it is no better.
    forged.seal(&signer(2));
    assert_eq!(fault(&[forged.text.clone()], &[]), ("f0".into(), 11));
    let last = forged.split().pop().unwrap();
    let lying = String::from_utf8(last).unwrap().replace(signer(2).public().id(), signer(1).public().id());
    let mut lines = forged.split();
    *lines.last_mut().unwrap() = lying.into_bytes();
    assert_eq!(fault(&[lines.concat()], &[]), ("f0".into(), 11));
}

#[test]
fn what_is_put_behind_the_last_checkpoint_is_never_called_sealed() {
    let mut log = sealed_log();
    log.append("{\"type\":\"request\",\"n\":\"forged\"}");
    assert_eq!(check(&[log.text.clone()], &[]).unwrap().unsealed, 4);
}

#[test]
fn with_the_exported_checkpoints_a_cut_anywhere_before_the_last_is_found() {
    let log = sealed_log();
    let lines = log.split();
    // Line 18 is the last one that is sealed.
    for keep in 0..=22 {
        let found = check(&[lines[..keep].concat()], &log.checkpoints);
        assert_eq!(found.is_ok(), keep >= 18, "{keep} lines: {found:?}");
    }
    // Inside of a line too: what is left of it does not count.
    let cut = lines[..18].concat();
    assert!(check(&[cut[..cut.len() - 10].to_vec()], &log.checkpoints).is_err());
}

#[test]
fn lines_that_no_exported_checkpoint_is_of_are_not_called_intact() {
    let mut log = sealed_log();
    let before = log.split().len();
    // Rotated: the newer file shows whose it is, so that a cut before its first checkpoint is found.
    log.chain.moves(0);
    log.lines(6);
    log.seal(&signer(1));
    let lines = log.split();
    let newest = &log.checkpoints[2..];
    assert_eq!(check(&[lines[before..].concat()], newest).unwrap().unsealed, 0);
    for keep in 0..6 {
        let found = check(&[lines[before..before + keep].concat()], newest);
        assert!(found.is_err(), "{keep} lines of the newer file: {found:?}");
    }
    // What is before it is known by the line that it names, though no checkpoint of this incarnation was kept.
    let mut later = Log::new();
    later.lines(3);
    later.seal(&signer(1));
    later.crash(b"");
    later.lines(2);
    let text = later.split()[4..].concat();
    let behind = later.unsigned();
    let end_of_before = Checkpoint { seq: 4, head: holdfast_chain::hash(later.split()[3].trim_ascii_end()), ..behind };
    let end_of_before = Checkpoint { id: "incarnation-1".into(), ..end_of_before }.signed(&signer(1));
    assert_eq!(check(std::slice::from_ref(&text), &[end_of_before]).unwrap().unsealed, 2);
    assert!(check(&[text], &later.checkpoints).is_err());

    // Without what makes them lines of a chain they are nothing; the first of them is named.
    let stripped: Vec<u8> = sealed_log()
        .split()
        .iter()
        .flat_map(|line| {
            let text = String::from_utf8(line.clone()).unwrap();
            (text[..text.rfind(",\"chain\"").unwrap()].to_owned() + "}\n").into_bytes()
        })
        .collect();
    for exported in [&log.checkpoints[..], &[]] {
        assert_eq!(fault(std::slice::from_ref(&stripped), exported), ("f0".into(), 1));
        assert_eq!(fault(&[Vec::new()], exported), ("f0".into(), 0));
    }
    // Forged from the first line on, under a name of its own and without checkpoints.
    let mut forged = Log::new();
    forged.chain = Chain::after("another".into(), None, 0);
    forged.lines(12);
    let found = check(std::slice::from_ref(&forged.text), &log.checkpoints).unwrap_err();
    assert!(found.what.contains("none of the given checkpoints"), "{found}");
    // With the public key alone it is told that nothing seals them.
    let report = check(&[forged.text], &[]).unwrap();
    assert_eq!((report.checkpoints, report.unsealed, report.log), (0, 12, None));
}

#[test]
fn a_crash_in_a_line_is_told_and_no_fault() {
    let mut log = sealed_log();
    log.crash(b"{\"type\":\"requ");
    log.lines(3);
    log.crash(b"\n{\"garbage\nmore\n");
    log.lines(2);
    log.crash(b"");
    log.lines(2);
    log.seal(&signer(1));
    let report = check(&[log.text.clone()], &log.checkpoints).unwrap();
    assert_eq!((report.torn, report.unsealed, report.lines), (2, 0, 30));
    // What is torn cannot be made to hide something.
    let text = String::from_utf8(log.text.clone()).unwrap();
    for (there, instead) in [("{\"type\":\"requ\n", ""), ("more\n", "more\nmore\n"), ("\"requ\n", "\"requx\n")] {
        assert!(text.contains(there));
        assert!(check(&[text.replacen(there, instead, 1).into_bytes()], &[]).is_err(), "{there:?}");
    }
}

#[test]
fn a_short_write_is_torn_and_the_chain_goes_on() {
    let mut log = Log::new();
    log.lines(2);
    let mut chain = log.chain.clone();
    let mut out = Vec::new();
    let mut linked: Vec<Linked> = Vec::new();
    for _ in 0..3 {
        let next = link(&chain, "{\"a\":1}", linked.last(), &mut out);
        linked.push(next);
    }
    // The second of three was cut.
    let first = out.iter().position(|b| *b == b'\n').unwrap() + 1;
    log.text.extend_from_slice(&out[..first + 5]);
    chain.wrote(&linked, first + 5);
    log.chain = chain;
    // The next one was cut in the line end that stands before it, and one more behind that.
    let mut again = log.chain.before_next().to_vec();
    let linked = link(&log.chain, "{\"b\":1}", None, &mut again);
    log.text.extend_from_slice(&again[..1]);
    log.chain.wrote(std::slice::from_ref(&linked), 1);
    let mut again = log.chain.before_next().to_vec();
    let linked = link(&log.chain, "{\"b\":1}", None, &mut again);
    log.text.extend_from_slice(&again[..4]);
    log.chain.wrote(&[linked], 4);
    log.lines(2);
    let report = check(&[log.text.clone()], &[]).unwrap();
    assert_eq!((report.lines, report.torn), (5, 1));
}

#[test]
fn lines_of_before_the_chain_are_counted_and_lines_with_a_prefix_are_read() {
    let mut log = Log::new();
    let old = b"{\"type\":\"request\"}\n".repeat(3);
    log.text.extend_from_slice(&old);
    let tail = Tail::of(&old, true);
    assert_eq!(tail, Tail { last: None, torn: 0 });
    log.chain = Chain::after("i".into(), None, 0);
    log.append("@cee: {\"a\":\"}{\"}");
    log.append("@cee: {\"a\":2}");
    let report = check(&[log.text.clone()], &[]).unwrap();
    assert_eq!((report.before, report.lines), (3, 2));
}

#[test]
fn a_log_goes_on_under_another_key() {
    let mut log = sealed_log();
    log.lines(2);
    log.seal(&signer(2));
    let both = format!("{}{}", signer(1).public().pem(), signer(2).public().pem());
    let mut reader = log.text.as_slice();
    let files = [("f", &mut reader as &mut dyn std::io::BufRead)];
    assert_eq!(verify(files, &PublicKeys::from_pem(&both).unwrap(), &[]).unwrap().unsealed, 0);
    assert_eq!(fault(&[log.text.clone()], &[]), ("f0".into(), 25));
}

/// It would be taken for one of before the chain, if the chain could begin anywhere behind it.
#[test]
fn a_first_line_whose_place_in_the_chain_is_made_unreadable_is_found() {
    let log = sealed_log();
    let first = log.text.iter().position(|b| *b == b'\n').unwrap();
    for at in 0..first {
        for to in [b' ', b'x', b'"', b'0'] {
            let mut text = log.text.clone();
            text[at] = to;
            if text != log.text {
                let line = fault(&[text], &log.checkpoints).1;
                assert!(line == 1 || line == 2, "byte {at} becomes {:?}: line {line}", to as char);
            }
        }
    }
}

proptest! {
    /// Whatever single byte is changed in the sealed part is found, with the exported checkpoints.
    #[test]
    fn no_byte_of_what_is_sealed_can_be_changed(at in 0usize..10_000, to in any::<u8>()) {
        let log = sealed_log();
        let sealed: usize = log.split()[..19].iter().map(Vec::len).sum();
        let at = at % sealed;
        let mut text = log.text.clone();
        prop_assume!(text[at] != to);
        text[at] = to;
        prop_assert!(check(&[text], &log.checkpoints).is_err());
    }
}
