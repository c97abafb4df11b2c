//! Each device as the suite finds it, with what can be done to it: tokens, TPMs and key files on small disks of their own, and the
//! simulated YubiHSM.

use super::modules::{nss_config, opencryptoki_config, with_pin};
use super::rig::Rig;
use super::suite::{Cell, Matrix, conformance};
use super::swtpm::SwTpm;
use super::{Bench, export, softhsm, speed, tpm, yubihsm};
use holdfast_hsm::memory::Secret;
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::software::SoftwareConfig;
use holdfast_hsm::tpm::TpmConfig;
use holdfast_hsm::yubihsm::YubiHsmConfig;
use holdfast_hsm::{DeviceClient, Spawner};
use holdfast_tests::nss::Database;
use holdfast_tests::process::{lives, signal};
use holdfast_tests::tmpfs::{Ballast, Tmpfs, fill};
use holdfast_tests::token::{self, Token};
use holdfast_tests::tpm2_pkcs11::{self, TpmToken};
use holdfast_tests::until;
use holdfast_yubihsm_simulator::Simulator;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const MEGABYTES: u32 = 8;

/// All of the suite.
fn run(name: &str, device: &DeviceClient, rig: &mut dyn Rig) -> Matrix {
    speed::forget();
    let mut matrix = conformance(device);
    speed::keep(name);
    matrix.extend(super::rig::with_hands_on(device, rig));
    device.log_out();
    matrix
}

pub fn softhsm(bench: &Bench) -> Matrix {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("disk"), MEGABYTES);
    let token = Token::make(disk.path());
    let environment = vec![(softhsm::CONF.to_owned(), token.conf().display().to_string())];
    let config =
        || Pkcs11Config { environment: environment.clone(), ..with_pin(&token::library(), token::LABEL, token::PIN) };
    // Where SoftHSM has it.
    let tokens = disk.path().join("tokens");
    let place = fs::read_dir(&tokens).unwrap().next().expect("a token").unwrap().path();
    token_on_a_disk("softhsm", bench, &config, place, &disk)
}

pub fn nss(bench: &Bench) -> Matrix {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("disk"), MEGABYTES);
    let database = Database::make(disk.path());
    token_on_a_disk("nss", bench, &|| nss_config(&database), database.folder().to_owned(), &disk)
}

fn token_on_a_disk(
    name: &str,
    bench: &Bench,
    config: &dyn Fn() -> Pkcs11Config,
    folder: PathBuf,
    disk: &Tmpfs,
) -> Matrix {
    let mut rig =
        Token11 { spawner: &bench.spawner, config, disk: disk.path(), ballast: None, power: Power::Folder(folder) };
    run(name, &DeviceClient::spawned(Arc::clone(&bench.spawner), config()), &mut rig)
}

pub fn tpm2_pkcs11(bench: &Bench) -> Matrix {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("tpm2-pkcs11").join("store"), MEGABYTES);
    let mut token = TpmToken::start(folder.path());
    let environment = token.environment().to_vec();
    let config = || Pkcs11Config {
        environment: environment.clone(),
        ..with_pin(&tpm2_pkcs11::library(), tpm2_pkcs11::LABEL, tpm2_pkcs11::PIN)
    };
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), config());
    let mut rig = Token11 {
        spawner: &bench.spawner,
        config: &config,
        disk: disk.path(),
        ballast: None,
        power: Power::Tpm(&mut token),
    };
    run("tpm2-pkcs11", &device, &mut rig)
}

/// Where the token of opencryptoki is seen: its daemon, folders and shared memory are the machine's own there.
pub fn opencryptoki(spawner: &Arc<Spawner>) -> Matrix {
    let mut rig = Token11 {
        spawner,
        config: &opencryptoki_config,
        disk: Path::new("/var/lib/opencryptoki"),
        ballast: None,
        power: Power::Daemon,
    };
    run("opencryptoki", &DeviceClient::spawned(Arc::clone(spawner), opencryptoki_config()), &mut rig)
}

/// A PKCS#11 token whose keys are on a disk.
struct Token11<'a> {
    spawner: &'a Arc<Spawner>,
    config: &'a dyn Fn() -> Pkcs11Config,
    disk: &'a Path,
    ballast: Option<Ballast>,
    power: Power<'a>,
}

/// What a token cannot be without.
enum Power<'a> {
    /// The folder that it is.
    Folder(PathBuf),
    /// The TPM behind it.
    Tpm(&'a mut TpmToken),
    /// opencryptoki's, which gives out slots.
    Daemon,
}

impl Rig for Token11<'_> {
    fn pull_out(&mut self) -> Result<(), Cell> {
        match &mut self.power {
            Power::Folder(folder) => fs::rename(folder.as_path(), self.disk.join("pulled-out")).unwrap(),
            Power::Tpm(token) => token.switch_off(),
            Power::Daemon => {
                let pid = fs::read_to_string("/run/pkcsslotd.pid").unwrap().trim().parse().unwrap();
                signal(pid, rustix::process::Signal::KILL);
                until(Duration::from_secs(10), "the daemon's end", || (!lives(pid)).then_some(()));
                fs::remove_file("/run/pkcsslotd.socket").unwrap();
            }
        }
        Ok(())
    }

    fn put_back(&mut self) {
        match &mut self.power {
            Power::Folder(folder) => fs::rename(self.disk.join("pulled-out"), folder).unwrap(),
            Power::Tpm(token) => token.switch_on(),
            Power::Daemon => {
                assert!(Command::new("pkcsslotd").status().unwrap().success());
                let socket = Path::new("/run/pkcsslotd.socket");
                until(Duration::from_secs(10), "the daemon's socket", || socket.exists().then_some(()));
            }
        }
    }

    fn by_pins(&self, wrong: &str) -> Result<[DeviceClient; 2], Cell> {
        let wrong = Pkcs11Config { pin: Some(Secret::new(wrong.to_owned())), ..(self.config)() };
        Ok([(self.config)(), wrong].map(|config| DeviceClient::spawned(Arc::clone(self.spawner), config)))
    }

    fn fill(&mut self) -> Result<(), Cell> {
        self.ballast = Some(fill(self.disk, 0));
        Ok(())
    }

    fn make_room(&mut self) {
        self.ballast = None;
    }

    fn asks_for_keys(&self) -> Cell {
        export::attempts(self.spawner, (self.config)())
    }
}

pub fn tpm(bench: &Bench) -> Matrix {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("keys"), MEGABYTES);
    let mut rig = OwnTpm { bench, tpm: SwTpm::start(), disk, ballast: None };
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), rig.config());
    run("tpm", &device, &mut rig)
}

struct OwnTpm<'a> {
    bench: &'a Bench,
    tpm: SwTpm,
    disk: Tmpfs,
    ballast: Option<Ballast>,
}

impl OwnTpm<'_> {
    fn config(&self) -> TpmConfig {
        self.tpm.config_with_keys(self.disk.path())
    }
}

impl Rig for OwnTpm<'_> {
    fn pull_out(&mut self) -> Result<(), Cell> {
        self.tpm.kill();
        Ok(())
    }

    fn put_back(&mut self) {
        self.tpm.start_again();
    }

    /// Of a seal: the keys of a TPM have no PIN.
    fn by_pins(&self, wrong: &str) -> Result<[DeviceClient; 2], Cell> {
        let with = |pin: &str| TpmConfig { pin: tpm::pin(pin), ..self.config() };
        Ok(["1234", wrong].map(|pin| tpm::spawned(self.bench, with(pin))))
    }

    fn fill(&mut self) -> Result<(), Cell> {
        self.ballast = Some(self.disk.fill(0));
        Ok(())
    }

    fn make_room(&mut self) {
        self.ballast = None;
    }

    fn asks_for_keys(&self) -> Cell {
        tpm::asked_for_keys(self.bench)
    }
}

pub fn yubihsm(bench: &Bench) -> Matrix {
    let simulator = Simulator::start();
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), yubihsm::config(&simulator));
    run("yubihsm", &device, &mut SimulatedYubiHsm { bench, simulator })
}

struct SimulatedYubiHsm<'a> {
    bench: &'a Bench,
    simulator: Simulator,
}

impl Rig for SimulatedYubiHsm<'_> {
    fn pull_out(&mut self) -> Result<(), Cell> {
        self.simulator.unplug(true);
        Ok(())
    }

    fn put_back(&mut self) {
        self.simulator.unplug(false);
    }

    fn by_pins(&self, wrong: &str) -> Result<[DeviceClient; 2], Cell> {
        let config = || yubihsm::config(&self.simulator);
        let wrong = YubiHsmConfig { password: Some(Secret::new(wrong.to_owned())), ..config() };
        Ok([config(), wrong].map(|config| DeviceClient::spawned(Arc::clone(&self.bench.spawner), config)))
    }

    fn fill(&mut self) -> Result<(), Cell> {
        self.simulator.fill();
        Ok(())
    }

    fn make_room(&mut self) {
        self.simulator.make_room();
    }

    fn asks_for_keys(&self) -> Cell {
        yubihsm::asked_for_keys(&self.simulator)
    }
}

pub fn software(bench: &Bench) -> Matrix {
    let folder = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&folder.path().join("disk"), MEGABYTES);
    let path = Some(disk.path().join("keys").display().to_string());
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), SoftwareConfig { path });
    run("software", &device, &mut KeyFile { disk, ballast: None })
}

const A_FILE: &str = "its keys are in a file that is read once: nothing to remove, no PIN, and who reads it has them";

/// `device "software"`.
struct KeyFile {
    disk: Tmpfs,
    ballast: Option<Ballast>,
}

impl Rig for KeyFile {
    fn pull_out(&mut self) -> Result<(), Cell> {
        Err(Cell::not_supported(A_FILE))
    }

    fn put_back(&mut self) {}

    fn by_pins(&self, _: &str) -> Result<[DeviceClient; 2], Cell> {
        Err(self.asks_for_keys())
    }

    fn fill(&mut self) -> Result<(), Cell> {
        self.ballast = Some(self.disk.fill(0));
        Ok(())
    }

    fn make_room(&mut self) {
        self.ballast = None;
    }

    fn asks_for_keys(&self) -> Cell {
        Cell::not_supported(A_FILE)
    }
}
