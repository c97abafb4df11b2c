//! Devices as the server uses them: real tokens (SoftHSM 2), a TPM (swtpm), a simulator of a YubiHSM, real helper processes.
//!
//! This program is several: the test runner; the helper that the spawner starts
//! (`device-helper`); a server that is killed (`server-to-kill`); and who sees opencryptoki's token, or tries to take keys out. A missing
//! component (SoftHSM, pkcs11-tool, swtpm, tpm2-tools, openssl, cc) fails the tests; nothing is skipped.
//! `cargo test -p holdfast-hsm --test devices -- WORD` runs the tests whose name holds it.

mod attestation;
mod bus;
mod confinement;
mod conformance;
mod counter;
mod custodians;
mod export;
mod full;
mod helpers;
mod modules;
mod p521;
mod rig;
mod rigs;
mod softhsm;
mod speed;
mod stub;
mod suite;
mod swtpm;
mod tokens;
mod tpm;
mod watched;
mod wrapping;
mod yubihsm;

use holdfast_hsm::{Spawner, helper, memory};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: memory::WipingAllocator = memory::WipingAllocator;

/// What a test gets.
pub struct Bench {
    /// Made before any thread.
    pub spawner: Arc<Spawner>,
}

type Test = (&'static str, fn(&Bench));

fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == helper::SUBCOMMAND {
        return helper::main(holdfast_tpm::open);
    }
    if argument == p521::ATTEMPT {
        return p521::attempt(std::env::args().skip(2));
    }
    if argument == export::ATTEMPT {
        return export::attempt(std::env::args().skip(2));
    }
    if std::env::var_os(softhsm::CONF).is_none() {
        return run_again_with_tokens();
    }
    let spawner = Arc::new(Spawner::start_with(Path::new("/proc/self/exe")).expect("the spawner starts"));
    memory::allow_unlocked();
    if argument == helpers::SERVER_TO_KILL {
        return helpers::server_to_kill(&spawner);
    }
    if argument == modules::INSIDE {
        return modules::inside_opencryptoki(&spawner);
    }
    run(&Bench { spawner }, &argument)
}

/// Runs this program again, with an empty SoftHSM directory of its own.
fn run_again_with_tokens() -> ExitCode {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let conf = softhsm::write_conf(directory.path());
    let status = Command::new(std::env::current_exe().expect("own path"))
        .args(std::env::args_os().skip(1))
        .env(softhsm::CONF, conf)
        .status()
        .expect("this program runs again");
    ExitCode::from(u8::from(!status.success()))
}

fn run(bench: &Bench, filter: &str) -> ExitCode {
    let tests: Vec<Test> = [
        conformance::TESTS,
        tokens::TESTS,
        helpers::TESTS,
        confinement::TESTS,
        modules::TESTS,
        p521::TESTS,
        watched::TESTS,
        full::TESTS,
        wrapping::TESTS,
        tpm::TESTS,
        custodians::TESTS,
        attestation::TESTS,
        counter::TESTS,
        bus::TESTS,
        yubihsm::TESTS,
    ]
    .concat();
    let chosen: Vec<&Test> =
        tests.iter().filter(|(name, _)| filter.starts_with('-') || name.contains(filter)).collect();
    if filter == "--list" {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("running {} tests", chosen.len());
    let mut failed = Vec::new();
    for (name, test) in &chosen {
        let start = Instant::now();
        let good = catch_unwind(AssertUnwindSafe(|| test(bench))).is_ok();
        println!("test {name} ... {} ({:.1} s)", if good { "ok" } else { "FAILED" }, start.elapsed().as_secs_f32());
        if !good {
            failed.push(name);
        }
    }
    println!("test result: {} passed; {} failed {failed:?}", chosen.len() - failed.len(), failed.len());
    ExitCode::from(u8::from(!failed.is_empty()))
}
