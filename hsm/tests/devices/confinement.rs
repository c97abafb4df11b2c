//! What a vendor's library may not do in a helper, tried by one that wants to.

use super::{Bench, Test, softhsm, stub};
use holdfast_hsm::device::DeviceErrorClass as Class;
use holdfast_hsm::pkcs11::Pkcs11Config;
use holdfast_hsm::{DeviceClient, HelperLimits};
use holdfast_tests::process::landlock_or_known;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

pub const TESTS: &[Test] = &[
    ("a_helper_may_neither_start_programs_nor_read_the_store", forbidden),
    ("a_helper_says_so_in_its_status", status),
    ("a_helper_becomes_the_user_that_is_configured", another_user),
    ("a_helper_that_cannot_be_confined_does_nothing", unknown_user),
];

/// Tries it all when it is initialised, and writes what came of it (0, or an errno) into a file.
const TRIES: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static FILE *out;
static void result(const char *what, long r) { fprintf(out, "%s %d\n", what, r < 0 ? errno : 0); fflush(out); }
static void *nothing(void *a) { return a; }
static void *runs(void *a) {
    char *none[] = { 0 };
    result("exec", execve("/bin/true", none, none));
    return 0;
}
static int child(void *a) { return 0; }
static void try_all(void) {
    static char stack[65536];
    pthread_t t;
    out = fopen("@WRITE@/tried", "w");
    if (!out) return;
    result("thread", pthread_create(&t, 0, nothing, 0) ? -1 : 0);
    pthread_join(t, 0);
    pthread_create(&t, 0, runs, 0);
    pthread_join(t, 0);
    result("execveat", syscall(SYS_execveat, AT_FDCWD, "/bin/true", 0, 0, 0));
    result("ptrace", ptrace(PTRACE_ATTACH, getppid(), 0, 0));
    result("mount", mount("none", "/mnt", "tmpfs", 0, 0));
    result("module", syscall(SYS_finit_module, 0, "", 0));
    result("bpf", syscall(SYS_bpf, 0, 0, 0));
    result("unshare", unshare(CLONE_NEWUSER));
    result("namespace", clone(child, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, 0));
    result("clone3", syscall(SYS_clone3, 0, 0));
#ifdef __x86_64__
    result("x32", syscall(0x40000000 | 520, "/bin/true", 0, 0)); /* execve of x32 */
#endif
    result("setuid", setuid(0));
    result("store", open("@STORE@/secret", O_RDONLY));
    result("elsewhere", open("@STORE@/new", O_WRONLY | O_CREAT, 0600));
    result("shadow", open("/etc/shadow", O_RDONLY));
    result("passwd", open("/etc/passwd", O_RDONLY));
    result("write", open("@WRITE@/new", O_WRONLY | O_CREAT, 0600));
    result("socket", socket(AF_INET, SOCK_STREAM, 0));
    result("signal", kill(getppid(), SIGCONT));
    fprintf(out, "uid %d\ngid %d\n", getuid(), getgid());
    fclose(out);
}
"#;

/// What a module that tries everything has found: errno by try.
fn tried(bench: &Bench, user: Option<&str>) -> BTreeMap<String, i32> {
    let folder = tempfile::tempdir().unwrap();
    for name in ["module", "store", "write"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(folder.path(), 0o755);
    open(&folder.path().join("write"), 0o777);
    open(&folder.path().join("store"), 0o777);
    fs::write(folder.path().join("store/secret"), "the store").unwrap();
    open(&folder.path().join("store/secret"), 0o666);
    let place = |name: &str| folder.path().join(name).display().to_string();
    let code = TRIES.replace("@WRITE@", &place("write")).replace("@STORE@", &place("store"))
        + &stub::NO_LOGIN.replace("initialised++;", "if (!initialised++) try_all();");
    let mut config = Pkcs11Config::new(stub::build(&folder.path().join("module"), "tries", &code));
    config.limits =
        HelperLimits { user: user.map(str::to_owned), read_paths: Vec::new(), write_paths: vec![place("write")] };
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), config);
    device.random(2).unwrap();
    let text = fs::read_to_string(folder.path().join("write/tried")).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap()).map(|(k, v)| (k.to_owned(), v.parse().unwrap())).collect()
}

fn forbidden(bench: &Bench) {
    let tried = tried(bench, None);
    for what in ["exec", "execveat", "ptrace", "mount", "module", "bpf", "unshare", "namespace", "setuid"] {
        assert_eq!(tried[what], libc::EPERM, "{what}: {tried:?}");
    }
    assert_eq!(tried["clone3"], libc::ENOSYS, "{tried:?}");
    assert!(tried.get("x32").is_none_or(|errno| *errno == libc::ENOSYS), "{tried:?}");
    for what in ["thread", "passwd", "write", "socket"] {
        assert_eq!(tried[what], 0, "{what}: {tried:?}");
    }
    if landlock_is_there() {
        for what in ["store", "elsewhere", "shadow"] {
            assert_eq!(tried[what], libc::EACCES, "{what}: {tried:?}");
        }
    }
}

fn landlock_is_there() -> bool {
    // SAFETY: asks for the version; nothing is read or made.
    landlock_or_known(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, 1) > 0
    })
}

fn status(bench: &Bench) {
    let device = DeviceClient::spawned(Arc::clone(&bench.spawner), softhsm::token("confined"));
    device.random(8).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", device.helper_pid().unwrap())).unwrap();
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}: {status}"));
        line.trim().to_owned()
    };
    assert_eq!(value("NoNewPrivs:"), "1");
    assert_eq!(value("Seccomp:"), "2");
    assert_eq!(value("Seccomp_filters:"), "3");
}

fn another_user(bench: &Bench) {
    // SAFETY: tells a number.
    if unsafe { libc::getuid() } != 0 {
        let mut config = softhsm::config("another");
        config.limits.user = Some("0".to_owned());
        let error = DeviceClient::spawned(Arc::clone(&bench.spawner), config).info().unwrap_err();
        assert!(error.class == Class::Config && error.text.contains("start the server as root"), "{error}");
        return;
    }
    let tried = tried(bench, Some("54321"));
    assert_eq!((tried["uid"], tried["gid"]), (54_321, 54_321), "{tried:?}");
    assert_eq!(tried["setuid"], libc::EPERM);
    assert_eq!((tried["exec"], tried["write"]), (libc::EPERM, 0));
}

fn unknown_user(bench: &Bench) {
    let mut config = softhsm::token("unknown-user");
    config.limits.user = Some("nobody-of-this-name".to_owned());
    let error = DeviceClient::spawned(Arc::clone(&bench.spawner), config).info().unwrap_err();
    assert_eq!(error.class, Class::Config);
    assert!(error.text.contains("there is no user \"nobody-of-this-name\""), "{error}");
}
