//! The system calls that a helper does without, and a server.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};
use std::collections::BTreeMap;

/// Refused with EPERM. Threads, files, sockets, signals and shared memory stay: vendors' libraries live on them.
const REFUSED: &[libc::c_long] = &[
    // other programs, and other processes' memory
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // the tree of files, and ways around the rules for files
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // the kernel itself
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_syslog,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // the machine's clock and name, namespaces, other users
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
];

/// The same, of one architecture.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] =
    &[libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

/// A new process that shares or leaves a namespace; `clone` tells by a bit each.
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Whether a helper may open sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sockets {
    Any,
    NoFurther,
}

/// How sockets are made, and reached.
const SOCKETS: &[libc::c_long] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_accept,
];

/// Sets the filters of a helper. They stay, for every thread that this one starts.
pub(super) fn confine(sockets: Sockets) -> Result<(), String> {
    let further = if sockets == Sockets::NoFurther { SOCKETS } else { &[] };
    let in_other_namespaces = NAMESPACES.iter().map(|bit| with_bits(0, *bit, *bit)).collect::<Result<_, _>>()?;
    // Libraries are mapped from files; shared memory that is code is nobody's way to load one.
    let code = vec![with_bits(2, libc::SHM_EXEC, libc::SHM_EXEC)?];
    apply(refused(further, &[(libc::SYS_clone, in_other_namespaces), (libc::SYS_shmat, code)])?)
}

/// Sets the filters of a server, which loads no library while it serves: it makes no process either, and no code.
pub(super) fn confine_server() -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    const FURTHER: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_shmat];
    // It uses no shared memory of System V, which would be another way to memory that is code.
    #[cfg(not(target_arch = "x86_64"))]
    const FURTHER: &[libc::c_long] = &[libc::SYS_shmat];
    // Of mmap, mprotect and pkey_mprotect alike it is the third argument.
    let code = || Ok::<_, String>(vec![with_bits(2, libc::PROT_EXEC, libc::PROT_EXEC)?]);
    apply(refused(
        FURTHER,
        &[
            (libc::SYS_clone, vec![with_bits(0, libc::CLONE_THREAD, 0)?]),
            (libc::SYS_mmap, code()?),
            (libc::SYS_mprotect, code()?),
            (libc::SYS_pkey_mprotect, code()?),
        ],
    )?)
}

fn apply(refused: BpfProgram) -> Result<(), String> {
    for program in [other_numbers(), not_there()?, refused] {
        seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What is refused whatever it is asked, beside the calls that everybody does without, and what some arguments are.
fn refused(further: &[libc::c_long], with: &[(libc::c_long, Vec<SeccompRule>)]) -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().chain(REFUSED_HERE).chain(further).map(|call| (*call, Vec::new())).collect();
    rules.extend(with.iter().cloned());
    filter(rules, libc::EPERM)
}

/// Calls of whose argument these bits are so.
fn with_bits(argument: u8, bits: libc::c_int, are: libc::c_int) -> Result<SeccompRule, String> {
    let (bits, are) = (u64::from(bits as u32), u64::from(are as u32));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), are)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| error.to_string())
}

/// `clone3` hides its flags from a filter. C libraries that hear that it does not exist use `clone`.
fn not_there() -> Result<BpfProgram, String> {
    filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
}

/// Calls of another architecture end the process.
fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, String> {
    let arch = std::env::consts::ARCH.try_into().map_err(|_| "no filter for this architecture".to_owned())?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}

/// x86-64 has each call a second time, for x32, under a number with bit 30: none of those is there. (Elsewhere no call
/// has such a number.)
fn other_numbers() -> BpfProgram {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS, of seccomp_data.nr at 0
    const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const FIRST: u32 = 0x4000_0000;
    let not_there = 0x0005_0000 | libc::ENOSYS as u32; // SECCOMP_RET_ERRNO
    let allow = 0x7fff_0000; // SECCOMP_RET_ALLOW
    let one = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        one(LOAD_NUMBER, 0, 0, 0),
        one(JUMP_IF_AT_LEAST, 0, 1, FIRST),
        one(RETURN, 0, 0, not_there),
        one(RETURN, 0, 0, allow),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_made_and_refuse_what_they_name() {
        assert!(refused(&[], &[]).unwrap().len() > REFUSED.len());
        not_there().unwrap();
        // In a thread of its own: what it may not, it may never again.
        std::thread::spawn(|| {
            confine(Sockets::Any).unwrap();
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let error = std::process::Command::new("/bin/true").spawn().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            assert_eq!(std::os::unix::fs::chroot("/").unwrap_err().raw_os_error(), Some(libc::EPERM));
            std::thread::spawn(|| ()).join().unwrap();
            assert!(std::fs::read("/proc/self/status").is_ok());
            try_shared_memory();
        })
        .join()
        .unwrap();
    }

    /// A helper has shared memory, which is no code.
    #[allow(unsafe_code)]
    fn try_shared_memory() {
        // SAFETY: the segment is this thread's own, is not touched, and is gone when it is detached.
        unsafe {
            let segment = libc::shmget(libc::IPC_PRIVATE, 4096, libc::IPC_CREAT | 0o700);
            assert!(segment >= 0, "{}", std::io::Error::last_os_error());
            let code = libc::shmat(segment, std::ptr::null(), libc::SHM_EXEC);
            assert_eq!(code as i64, -1);
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
            let data = libc::shmat(segment, std::ptr::null(), 0);
            assert!(data as i64 != -1, "{}", std::io::Error::last_os_error());
            assert_eq!(libc::shmdt(data), 0);
            assert_eq!(libc::shmctl(segment, libc::IPC_RMID, std::ptr::null_mut()), 0);
        }
    }

    #[test]
    fn a_server_has_threads_files_and_sockets_and_makes_neither_processes_nor_code() {
        std::thread::spawn(|| {
            confine_server().unwrap();
            std::thread::spawn(|| ()).join().unwrap();
            std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("file"), "text").unwrap();
            let refused = |outcome: i64| {
                assert_eq!(outcome, -1);
                assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
            };
            let error = std::process::Command::new("/bin/true").spawn().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            try_processes_and_code(refused);
        })
        .join()
        .unwrap();
    }

    #[allow(unsafe_code)]
    fn try_processes_and_code(refused: impl Fn(i64)) {
        let nowhere: *mut libc::c_void = std::ptr::null_mut();
        // SAFETY: were one of these done, the child would end at once, and the memory is nobody's.
        unsafe {
            for how in [libc::SIGCHLD, libc::CLONE_NEWUSER | libc::SIGCHLD] {
                let child = libc::syscall(libc::SYS_clone, how, nowhere, nowhere, nowhere, nowhere);
                if child == 0 {
                    libc::_exit(0);
                }
                refused(child);
            }
            let (code, memory) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            refused(libc::mmap(nowhere, 4096, code, memory, -1, 0) as i64);
            let data = libc::mmap(nowhere, 4096, libc::PROT_READ | libc::PROT_WRITE, memory, -1, 0);
            assert!(data != libc::MAP_FAILED);
            refused(i64::from(libc::mprotect(data, 4096, code)));
            let writable = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            refused(libc::syscall(libc::SYS_pkey_mprotect, data, 4096, writable, -1));
            for how in [0, libc::SHM_EXEC] {
                refused(libc::shmat(0, nowhere, how) as i64);
            }
            refused(libc::syscall(libc::SYS_finit_module, 0, c"".as_ptr(), 0));
            refused(i64::from(libc::mount(c"none".as_ptr(), c"/mnt".as_ptr(), c"tmpfs".as_ptr(), 0, nowhere)));
            refused(libc::ptrace(libc::PTRACE_ATTACH, libc::getppid(), nowhere, nowhere));
            assert_eq!(libc::munmap(data, 4096), 0);
        }
    }

    #[test]
    fn a_helper_of_a_device_file_opens_no_socket() {
        use std::io::{Read, Write};
        let (mut near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            confine(Sockets::NoFurther).unwrap();
            let error = std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            assert!(std::os::unix::net::UnixStream::pair().is_err());
            far.write_all(b"what it has it keeps").unwrap();
        })
        .join()
        .unwrap();
        let mut text = String::new();
        near.read_to_string(&mut text).unwrap();
        assert_eq!(text, "what it has it keeps");
    }
}
