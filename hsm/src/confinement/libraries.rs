//! Where known libraries keep what they need, so that an operator need not name it.
//!
//! A library is known by its file's name, since nothing of it has run yet; any other gets nothing from here, and its
//! operator names the places (`helper_read_paths`, `helper_write_paths`).

use super::Paths;
use crate::pkcs11::Pkcs11Config;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Names of files begin so, and this is what it adds.
type Library = (&'static [&'static str], fn(&Pkcs11Config, &mut Paths));

const LIBRARIES: &[Library] =
    &[(&["libopencryptoki", "PKCS11_API"], opencryptoki), (&["libsoftokn3"], nss), (&["libtpm2_pkcs11"], tpm2_pkcs11)];

/// Adds what the library of a device needs.
pub(super) fn add(config: &Pkcs11Config, paths: &mut Paths) {
    // Also for a library that stands before SoftHSM (p11-kit, a tracer): its tokens are software's.
    softhsm(config, paths);
    let lib = Path::new(&config.lib);
    let real = lib.canonicalize().unwrap_or_else(|_| lib.to_owned());
    let names: Vec<_> = [lib, &real].iter().filter_map(|path| path.file_name()?.to_str()).collect();
    for (beginnings, needs) in LIBRARIES {
        if names.iter().any(|name| beginnings.iter().any(|beginning| name.starts_with(beginning))) {
            needs(config, paths);
        }
    }
}

/// Its configuration, and the folder of its tokens, which stands there.
fn softhsm(config: &Pkcs11Config, paths: &mut Paths) {
    let home = config.variable("HOME").map(|home| Path::new(&home).join(".config/softhsm2/softhsm2.conf"));
    let usual = ["/etc/softhsm/softhsm2.conf", "/etc/softhsm2.conf"].map(PathBuf::from);
    let named = config.variable("SOFTHSM2_CONF").map(PathBuf::from);
    let configuration = named.into_iter().chain(home).chain(usual).find(|path| path.is_file());
    paths.write.extend(configuration.as_deref().and_then(token_folder));
    paths.read.extend(configuration);
}

fn token_folder(configuration: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(configuration).ok()?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "directories.tokendir").then(|| value.trim())
    })?;
    Some(PathBuf::from(value))
}

/// Tokens, locks between processes and logs have fixed places. Its daemon's socket and the memory that all its processes
/// share (System V) are none of Landlock's.
fn opencryptoki(_: &Pkcs11Config, paths: &mut Paths) {
    paths.read.push("/etc/opencryptoki".into());
    let places = ["/var/lib/opencryptoki", "/run/lock/opencryptoki", "/var/lock/opencryptoki", "/var/log/opencryptoki"];
    paths.write.extend(places.map(PathBuf::from));
}

/// The folder of its database, which its parameters name; with `flags=readOnly` nothing is written there.
fn nss(config: &Pkcs11Config, paths: &mut Paths) {
    let parameters = config.parameters.as_deref().unwrap_or_default();
    let Some(folder) = parameter(parameters, "configDir") else { return };
    let folder = folder.split_once(':').map_or(folder, |(_kind, folder)| folder);
    let flags = parameter(parameters, "flags").unwrap_or_default();
    let read_only = flags.split(',').any(|flag| flag.trim().eq_ignore_ascii_case("readOnly"));
    if read_only { &mut paths.read } else { &mut paths.write }.push(folder.into());
}

/// A value of `name='value'` or `name=value` in NSS's parameters.
fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = parameters;
    loop {
        let (before, after) = rest.split_once('=')?;
        let key = before.trim();
        let (value, next) = match after.chars().next() {
            Some(quote @ ('\'' | '"')) => after[1..].split_once(quote)?,
            _ => after.split_once(char::is_whitespace).unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = next;
    }
}

/// Its store (SQLite), and the TPM where that is a device file.
fn tpm2_pkcs11(config: &Pkcs11Config, paths: &mut Paths) {
    let home = config.variable("HOME").map(|home| Path::new(&home).join(".tpm2_pkcs11"));
    let named = config.variable("TPM2_PKCS11_STORE").map(PathBuf::from);
    let store = named.or_else(|| [Some("/etc/tpm2_pkcs11".into()), home].into_iter().flatten().find(|p| p.is_dir()));
    paths.write.extend(store);
    let tcti = config.variable("TPM2_PKCS11_TCTI").and_then(|tcti: OsString| tcti.into_string().ok());
    match tcti.as_deref().map(|tcti| tcti.split_once(':').unwrap_or((tcti, ""))) {
        None | Some(("device", "")) => paths.write.extend(["/dev/tpmrm0", "/dev/tpm0"].map(PathBuf::from)),
        Some(("device", file)) => paths.write.push(file.into()),
        // By a socket: a simulator's, or the resource manager's on D-Bus.
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &Pkcs11Config) -> Paths {
        let mut paths = Paths::default();
        add(config, &mut paths);
        paths
    }

    fn has(paths: &[PathBuf], path: &str) -> bool {
        paths.contains(&PathBuf::from(path))
    }

    #[test]
    fn each_library_gets_its_own_places_and_no_others() {
        let ock = of(&Pkcs11Config::new("/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0"));
        assert!(has(&ock.write, "/var/lib/opencryptoki") && has(&ock.read, "/etc/opencryptoki"));

        let mut nss = Pkcs11Config::new("/usr/lib/libsoftokn3.so");
        nss.parameters = Some("configdir='sql:/var/lib/nss a' certPrefix='' flags=optimizeSpace".into());
        assert!(has(&of(&nss).write, "/var/lib/nss a"));
        nss.parameters = Some("flags=readOnly,noModDB  configDir=/var/lib/nss".into());
        assert!(has(&of(&nss).read, "/var/lib/nss") && !has(&of(&nss).write, "/var/lib/nss"));

        let mut tpm = Pkcs11Config::new("/opt/lib/libtpm2_pkcs11.so.1");
        tpm.environment = vec![("TPM2_PKCS11_STORE".into(), "/var/lib/t".into())];
        assert!(has(&of(&tpm).write, "/var/lib/t") && has(&of(&tpm).write, "/dev/tpmrm0"));
        tpm.environment.push(("TPM2_PKCS11_TCTI".into(), "device:/dev/tpm7".into()));
        assert!(has(&of(&tpm).write, "/dev/tpm7") && !has(&of(&tpm).write, "/dev/tpmrm0"));

        let other = of(&Pkcs11Config { environment: tpm.environment, ..Pkcs11Config::new("/opt/libvendor.so") });
        for path in ["/var/lib/opencryptoki", "/var/lib/t", "/dev/tpm7", "/dev/tpmrm0", "/var/lib/nss"] {
            assert!(!has(&other.write, path), "{path}");
        }
    }

    #[test]
    fn the_folder_of_softhsms_tokens_is_read_from_its_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("softhsm2.conf");
        fs::write(&file, "# directories.tokendir = /no\nlog.level = ERROR\n directories.tokendir = /var/tokens \n")
            .unwrap();
        assert_eq!(token_folder(&file), Some(PathBuf::from("/var/tokens")));
        assert_eq!(token_folder(folder.path()), None);
        let mut config = Pkcs11Config::new("/usr/lib/softhsm/libsofthsm2.so");
        config.environment = vec![("SOFTHSM2_CONF".into(), file.display().to_string())];
        assert!(has(&of(&config).write, "/var/tokens"));
    }
}
