//! Each target on a bounded number of changed seeds: on any toolchain, in a few seconds.
//!
//! `HOLDFAST_FUZZ_RUNS` says how many (2,000), `HOLDFAST_FUZZ_SEED` from where; a failure prints both and the input.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use holdfast_fuzz::TARGETS;

/// xorshift64*: the same inputs from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// A seed with up to eight changes: bytes flipped, cut, doubled, put in, or taken from another seed.
fn changed(random: &mut Random, seeds: &[&[u8]]) -> Vec<u8> {
    const WORDS: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\\",
        b"\n",
        b"\r\n",
        b"\0",
        b"%",
        b"%2e%2e/",
        b"../",
        b"//",
        b"*",
        b"+",
        b"{{",
        b"}}",
        b"<<E\n",
        b"-1",
        b"0x",
        b"1e999",
        b"99999999999999999999",
        b"\xff",
        b"\xc3\xa9",
        b"null",
        b":",
        b"=",
        b"#",
        b"/*",
    ];
    let mut input = seeds[random.below(seeds.len())].to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(12)).min(input.len());
        match random.below(6) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            4 => drop(input.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied())),
            _ => {
                let other = seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                input.splice(at..end, other[from..].iter().take(40).copied());
            }
        }
    }
    input
}

fn number(name: &str, usual: u64) -> u64 {
    env::var(name).ok().map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of this name");
    let (runs, seed) = (number("HOLDFAST_FUZZ_RUNS", 2000), number("HOLDFAST_FUZZ_SEED", 4711));
    let mut random = Random(seed.max(1));
    let seeds = target.seeds.iter().map(|s| s.to_vec());
    let inputs = seeds.chain((0..runs).map(|_| changed(&mut random, target.seeds)));
    for (n, input) in inputs.enumerate() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            eprintln!("{name}, seed {seed}, input {n}: {:?}", input.escape_ascii().to_string());
            resume_unwind(panic);
        }
    }
}

#[test]
fn hcl() {
    run("hcl");
}

#[test]
fn policies() {
    run("policy");
}

#[test]
fn configurations() {
    run("configuration");
}

#[test]
fn requests() {
    run("request");
}

#[test]
fn proxy_headers() {
    run("proxy_header");
}

#[test]
fn log_segments() {
    run("log_segment");
}

#[test]
fn every_target_has_a_run_here_and_a_program() {
    let here = ["hcl", "policy", "configuration", "request", "proxy_header", "log_segment"];
    assert_eq!(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>(), here);
    for name in here {
        let file = format!("{}/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        assert!(std::path::Path::new(&file).is_file(), "{file}");
    }
}
