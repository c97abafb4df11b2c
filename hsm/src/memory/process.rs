//! Protections of the whole process: locked memory, no core dump, no ptrace, no new
//! privileges; and wiping what the heap and the stack keep behind.

use super::MemoryError;
use std::hint::black_box;
use std::io;
use std::mem::MaybeUninit;

/// Locks all memory of the process, present and future. A page is locked when it is
/// first touched, so reserved address space costs nothing.
///
/// # Errors
/// [`MemoryError::Lock`], whose text names the three ways out.
pub fn lock_process() -> Result<(), MemoryError> {
    // With a finite limit, mlockall can succeed now and make a later allocation fail,
    // which aborts the process: such a limit is refused here.
    // SAFETY: mlockall takes flags only.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if locked != 0 {
        return Err(MemoryError::Lock { cause: io::Error::last_os_error() });
    }
    if !may_lock_without_bound() {
        // SAFETY: munlockall has no preconditions.
        unsafe { libc::munlockall() };
        return Err(MemoryError::Lock {
            cause: io::Error::other("the limit on locked memory is finite, later allocations would fail"),
        });
    }
    Ok(())
}

/// What is locked stays locked; what comes is not, so that a process that may soon lock no more can go on.
pub(crate) fn lock_present_only() {
    // SAFETY: mlockall takes flags only. If it fails nothing was locked.
    let _nothing_is_locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) };
}

/// Refuses core dumps (`RLIMIT_CORE` 0), being read by a debugger or through
/// `/proc/<pid>/mem` (`PR_SET_DUMPABLE` 0), and new privileges by exec
/// (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// [`MemoryError::System`], naming the call that failed.
pub fn harden_process() -> Result<(), MemoryError> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    check("switch core dumps off", unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) })?;
    // SAFETY: takes integers only.
    check("make the process undumpable", unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    // SAFETY: takes integers only.
    check("forbid new privileges", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Overwrites 64 KiB of the stack below the caller with zeroes: what functions that have
/// returned left there. The thread's stack must have that much room left.
#[inline(never)]
pub fn scrub_stack() {
    let mut below = [const { MaybeUninit::<u8>::uninit() }; SCRUBBED_BYTES];
    // SAFETY: the array is ours and as long as said.
    unsafe { libc::explicit_bzero(below.as_mut_ptr().cast(), SCRUBBED_BYTES) };
    black_box(&mut below);
}

const SCRUBBED_BYTES: usize = 64 * 1024;

/// Whether `RLIMIT_MEMLOCK` does not bind this process: it is unlimited, or the process
/// has CAP_IPC_LOCK.
fn may_lock_without_bound() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0;
    (known && limit.rlim_cur == libc::RLIM_INFINITY) || has_cap_ipc_lock()
}

fn has_cap_ipc_lock() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

fn check(what: &'static str, result: libc::c_int) -> Result<(), MemoryError> {
    if result == 0 {
        return Ok(());
    }
    Err(MemoryError::System { what, cause: io::Error::last_os_error() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_to_lock_names_the_three_ways_out() {
        let text = MemoryError::Lock { cause: io::Error::from_raw_os_error(libc::EPERM) }.to_string();
        for way in ["setcap cap_ipc_lock=ep", "LimitMEMLOCK=infinity", "disable_mlock"] {
            assert!(text.contains(way), "{text}");
        }
        assert!(!text.contains('\n'));
    }

    #[test]
    fn scrubbing_removes_what_a_function_left_on_the_stack() {
        let left = leave_a_pattern_on_the_stack();
        scrub_stack();
        // SAFETY: the address lies in this thread's mapped stack, below the frames in
        // use; what is there is of no type, and is read byte by byte.
        let found = (0..4096).filter(|i| unsafe { std::ptr::read_volatile((left + i) as *const u8) } == 0xA5).count();
        assert!(found < 64, "{found} bytes of the pattern are left");
    }

    #[inline(never)]
    fn leave_a_pattern_on_the_stack() -> usize {
        let mut pattern = [0_u8; 4096];
        black_box(&mut pattern).fill(0xA5);
        black_box(pattern.as_ptr() as usize)
    }

    #[test]
    fn locking_and_hardening_hold_in_a_child_of_its_own() {
        // In a child, since both change the process for good.
        // SAFETY: the child makes system calls, reads /proc and leaves.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let hardened = harden_process().is_ok();
            // SAFETY: takes integers only.
            let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
            let locked = lock_process().is_ok();
            let good = hardened && dumpable == 0 && locked == may_lock_without_bound();
            // SAFETY: leaves the child at once.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
    }
}
