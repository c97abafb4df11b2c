//! The files that a helper may use: Landlock rules.

use super::{Paths, libraries};
use crate::config::DeviceConfig;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope,
};
use std::fs;
use std::path::{Path, PathBuf};

/// The newest rules that are used where the kernel has them: files, their cutting off, devices' own calls, signals.
pub(super) const RULES: ABI = ABI::V6;

/// Libraries, and what the C library, OpenSSL and smart-card stacks read at their start.
const READ: &[&str] = &[
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/share",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/services",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/crypto-policies",
    "/etc/softhsm",
    "/etc/softhsm2.conf",
    "/etc/opensc",
    "/etc/pkcs11",
    "/etc/reader.conf.d",
    "/etc/Chrystoki.conf",
    "/run/pcscd",
    "/proc",
    "/sys",
];

/// Devices, and memory that a vendor's processes share.
const WRITE: &[&str] =
    &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm", "/dev/bus/usb", "/dev/log"];

/// Variables by which modules are told their configuration.
const CONFIGURATIONS: &[&str] = &[
    "SOFTHSM2_CONF",
    "ChrystokiConfigurationPath",
    "YUBIHSM_PKCS11_CONF",
    "P11NETHSM_CONFIG_FILE",
    "KRYOPTIC_CONF",
    "CS_PKCS11_R3_CFG",
    "OPENSC_CONF",
    "OPENSSL_CONF",
];

/// What is read where no vendor's module is loaded: libraries, the C library's and OpenSSL's configuration, names of hosts.
const READ_WITHOUT_MODULES: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/crypto-policies",
    "/sys/devices/system/cpu",
];

/// What a device needs.
pub(super) fn of(config: &DeviceConfig) -> Paths {
    let owned = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
    let mut paths = match config {
        DeviceConfig::Tpm(_) | DeviceConfig::YubiHsm(_) => {
            let write = ["/dev/null", "/dev/random", "/dev/urandom"];
            Paths { read: owned(READ_WITHOUT_MODULES), write: owned(&write) }
        }
        _ => Paths { read: owned(READ), write: owned(WRITE) },
    };
    match config {
        DeviceConfig::Tpm(config) => {
            paths.write.extend(config.device_file().map(Path::to_owned));
            paths.write.extend(config.keys.as_ref().map(PathBuf::from));
            paths.read.extend(config.folders_of_keys());
        }
        DeviceConfig::Pkcs11(config) => {
            let module = PathBuf::from(&config.lib);
            let real = module.canonicalize().unwrap_or_else(|_| module.clone());
            paths.read.extend([&module, &real].into_iter().filter_map(|m| m.parent()).map(Path::to_owned));
            paths.read.extend(CONFIGURATIONS.iter().filter_map(|name| config.variable(name)).map(PathBuf::from));
            libraries::add(config, &mut paths);
        }
        DeviceConfig::YubiHsm(config) => {
            let file = config.log_file.as_ref().map(PathBuf::from);
            paths.write.extend(file.as_deref().and_then(Path::parent).map(Path::to_owned));
        }
        DeviceConfig::Software(config) => {
            let file = config.path.as_ref().map(PathBuf::from);
            paths.write.extend(file.as_deref().and_then(Path::parent).map(Path::to_owned));
        }
    }
    paths
}

/// Where a device may connect to by TCP; `None`: anywhere, since it is a network HSM for all we know.
pub(super) fn ports(config: &DeviceConfig) -> Option<Vec<u16>> {
    match config {
        DeviceConfig::Tpm(config) => Some(config.port().into_iter().flat_map(|port| [port, port + 1]).collect()),
        DeviceConfig::YubiHsm(config) => Some(config.port().into_iter().collect()),
        _ => None,
    }
}

/// Sets the rules for this thread and those that it starts. A path that is not there is no error: a module that needs
/// it says so itself. Where the kernel has no Landlock nothing happens; [`kernel_confines_files`] tells.
pub(super) fn confine(paths: &Paths, ports: Option<&[u16]>) -> Result<(), RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Devices are not made and programs are not run here.
    let write = AccessFs::from_all(RULES) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(RULES))?.scope(Scope::Signal)?;
    if ports.is_some() {
        rules = rules.handle_access(AccessNet::from_all(RULES))?;
    }
    let mut rules = rules.create()?;
    for port in ports.unwrap_or_default() {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    for (allowed, rights) in [(&paths.read, read), (&paths.write, write)] {
        for path in allowed.iter().filter(|path| path.is_absolute()) {
            rules = add(rules, path, rights)?;
        }
    }
    rules.restrict_self()?;
    Ok(())
}

/// Allows a file or a folder, if it is there.
pub(super) fn add(
    rules: landlock::RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    let (Ok(place), Ok(metadata)) = (PathFd::new(path), fs::metadata(path)) else { return Ok(rules) };
    // A file has no entries of its own.
    let rights = if metadata.is_dir() { rights } else { rights & AccessFs::from_file(RULES) };
    rules.add_rule(PathBeneath::new(place, rights))
}

/// Whether this kernel has Landlock, switched on.
#[allow(unsafe_code)]
pub fn kernel_confines_files() -> bool {
    const VERSION: libc::c_uint = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: asked for the version, the call reads and makes nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::{Approval, TpmConfig};

    #[test]
    fn a_thread_reads_and_writes_where_it_may_and_nowhere_else() {
        if !kernel_confines_files() {
            eprintln!("this kernel has no Landlock: nothing is confined, as said in the log");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for name in ["read", "write", "store"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), name).unwrap();
        }
        let place = |name: &str| folder.path().join(name);
        let paths = Paths { read: vec![place("read"), place("missing")], write: vec![place("write")] };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                confine(&paths, None).unwrap();
                let read = |name: &str| fs::read_to_string(place(name).join("file"));
                let write = |name: &str| fs::write(place(name).join("new"), "x");
                assert_eq!(read("read").unwrap(), "read");
                assert_eq!(read("write").unwrap(), "write");
                write("write").unwrap();
                for denied in [read("store").map(drop), write("store"), write("read")] {
                    assert_eq!(denied.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
                }
            });
        });
    }

    #[test]
    fn a_thread_connects_where_it_may_and_nowhere_else() {
        if !kernel_confines_files() {
            eprintln!("this kernel has no Landlock: nothing is confined, as said in the log");
            return;
        }
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (allowed, denied) = (listen(), listen());
        let port = allowed.local_addr().unwrap().port();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                confine(&Paths::default(), Some(&[port])).unwrap();
                std::net::TcpStream::connect(allowed.local_addr().unwrap()).unwrap();
                let refused = std::net::TcpStream::connect(denied.local_addr().unwrap()).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
                assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
            });
        });
    }

    #[test]
    fn a_tpm_gets_its_device_and_its_keys_and_no_modules_places() {
        let mut config = TpmConfig::new(TpmConfig::DEFAULT_TCTI);
        config.keys = Some("/var/lib/keys".into());
        config.approval =
            Some(Approval { public_key: "/etc/boot/key.pem".into(), signatures: "/run/boot/signatures.json".into() });
        let config = DeviceConfig::from(config);
        let paths = of(&config);
        let has = |paths: &[PathBuf], path: &str| paths.contains(&PathBuf::from(path));
        assert!(has(&paths.write, "/dev/tpmrm0") && has(&paths.write, "/var/lib/keys"));
        assert!(has(&paths.read, "/etc/boot") && has(&paths.read, "/run/boot"));
        for other in ["/proc", "/etc/softhsm", "/dev/bus/usb", "/dev/shm"] {
            assert!(!has(&paths.read, other) && !has(&paths.write, other), "{other}");
        }
        assert_eq!(ports(&config), Some(vec![]));
        assert_eq!(ports(&TpmConfig::new("swtpm:port=7000").into()), Some(vec![7000, 7001]));
        let hsm = crate::yubihsm::YubiHsmConfig::new("http://hsm:4711");
        assert_eq!(ports(&hsm.into()), Some(vec![4711]));
        assert_eq!(ports(&crate::pkcs11::Pkcs11Config::new("/lib/m.so").into()), None);
    }
}
