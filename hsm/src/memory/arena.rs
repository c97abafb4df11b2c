//! The arena that keys live in: one mapping for each size class, locked, left out of
//! core dumps and of forked children, with an inaccessible page on either side.
//!
//! It is made when the first key is. Slots are handed out zeroed and come back
//! zeroed; how many there are is fixed, so that locked memory is bounded.

use super::MemoryError;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Slot size and number of slots of each class, smallest first. 1 MiB in all, well
/// inside the 8 MiB that systemd allows to lock by default.
const CLASSES: [(usize, usize); 3] = [(64, 4096), (512, 512), (4096, 128)];

/// The largest slot.
pub(super) const MAX_SLOT_BYTES: usize = CLASSES[CLASSES.len() - 1].0;

static UNLOCKED_IS_ALLOWED: AtomicBool = AtomicBool::new(false);
static ARENA: OnceLock<Arena> = OnceLock::new();
static MAKING: Mutex<()> = Mutex::new(());

/// Lets keys be held in memory that could not be locked, for `-dev` and
/// `disable_mlock`. Without it a key in such memory is an error.
pub fn allow_unlocked() {
    UNLOCKED_IS_ALLOWED.store(true, Ordering::Relaxed);
}

/// How full the arena is. Costs three short locks and does not make the arena.
pub fn arena_usage() -> ArenaUsage {
    let arena = ARENA.get();
    let classes = std::array::from_fn(|i| ClassUsage {
        slot_bytes: CLASSES[i].0,
        slots_used: arena.map_or(0, |arena| arena.classes[i].free_list().used),
        slots_total: CLASSES[i].1,
    });
    ArenaUsage {
        slots_used: classes.iter().map(|c| c.slots_used).sum(),
        slots_total: classes.iter().map(|c| c.slots_total).sum(),
        locked: arena.is_some_and(|arena| arena.locked),
        classes,
    }
}

/// How full the arena is, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaUsage {
    /// Slots that hold a key.
    pub slots_used: usize,
    /// Slots there are.
    pub slots_total: usize,
    /// Whether the arena exists and the operating system has locked it.
    pub locked: bool,
    /// The same for each size class, smallest first.
    pub classes: [ClassUsage; 3],
}

/// How full one size class is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassUsage {
    /// Bytes in a slot.
    pub slot_bytes: usize,
    /// Slots that hold a key.
    pub slots_used: usize,
    /// Slots there are.
    pub slots_total: usize,
}

/// A slot that is owned until dropped. It is zero when taken and zeroed when dropped.
pub(super) struct Slot {
    start: NonNull<u8>,
    len: usize,
    class: &'static Class,
    index: usize,
}

// SAFETY: a slot is memory that this value alone refers to; the arena never moves and
// is never unmapped, and handing slots out and back is under a lock.
unsafe impl Send for Slot {}
// SAFETY: as above; shared access is read-only (`bytes`), changes need `&mut`.
unsafe impl Sync for Slot {}

impl Slot {
    /// Takes a free slot of the smallest class that fits and has one.
    pub(super) fn take(len: usize) -> Result<Self, MemoryError> {
        if len == 0 || len > MAX_SLOT_BYTES {
            return Err(MemoryError::Length { bytes: len, max: MAX_SLOT_BYTES });
        }
        let arena = arena()?;
        for class in arena.classes.iter().filter(|class| class.slot_bytes >= len) {
            if let Some(index) = class.free_list().take() {
                // SAFETY: index < slots, so the slot lies inside the mapping.
                let start = unsafe { class.start.add(index * class.slot_bytes) };
                return Ok(Self { start, len, class, index });
            }
        }
        let usage = arena_usage();
        Err(MemoryError::ArenaFull { bytes: len, slots_used: usage.slots_used, slots_total: usage.slots_total })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: start is valid for slot_bytes ≥ len bytes, initialised (mapped zero),
        // and no one else writes to it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the slot is ours until it is given back on the next line.
        unsafe { libc::explicit_bzero(self.start.as_ptr().cast(), self.class.slot_bytes) };
        self.class.free_list().give_back(self.index);
    }
}

struct Arena {
    classes: [Class; CLASSES.len()],
    locked: bool,
}

struct Class {
    start: NonNull<u8>,
    slot_bytes: usize,
    free: Mutex<FreeList>,
}

// SAFETY: `start` is an address that never changes; all access to the memory behind it
// goes through slots, which are handed out once each, under the lock.
unsafe impl Send for Class {}
// SAFETY: as above.
unsafe impl Sync for Class {}

impl Class {
    fn free_list(&self) -> MutexGuard<'_, FreeList> {
        // Nothing in FreeList can panic half way; a poisoned lock still holds true data.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stack of the slots that were given back, and behind it those never used yet.
struct FreeList {
    returned: Vec<u32>,
    untouched: usize,
    used: usize,
    slots: usize,
}

impl FreeList {
    fn take(&mut self) -> Option<usize> {
        let index = match self.returned.pop() {
            Some(index) => index as usize,
            None if self.untouched < self.slots => {
                self.untouched += 1;
                self.untouched - 1
            }
            None => return None,
        };
        self.used += 1;
        Some(index)
    }

    fn give_back(&mut self, index: usize) {
        debug_assert!(index < self.untouched && self.used > 0);
        self.used -= 1;
        self.returned.push(index as u32);
    }
}

fn arena() -> Result<&'static Arena, MemoryError> {
    if let Some(arena) = ARENA.get() {
        return Ok(arena);
    }
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(arena) = ARENA.get() {
        return Ok(arena);
    }
    let arena = make_arena()?;
    Ok(ARENA.get_or_init(|| arena))
}

fn make_arena() -> Result<Arena, MemoryError> {
    let mut made = Vec::with_capacity(CLASSES.len());
    let mut locked = true;
    for (slot_bytes, slots) in CLASSES {
        let mapping = Mapping::new(slot_bytes * slots)?;
        if let Err(cause) = mapping.lock() {
            if !UNLOCKED_IS_ALLOWED.load(Ordering::Relaxed) {
                return Err(MemoryError::Lock { cause });
            }
            locked = false;
        }
        made.push((mapping, slot_bytes, slots));
    }
    let classes: Vec<Class> = made
        .into_iter()
        .map(|(mapping, slot_bytes, slots)| Class {
            start: mapping.keep(),
            slot_bytes,
            free: Mutex::new(FreeList { returned: Vec::new(), untouched: 0, used: 0, slots }),
        })
        .collect();
    let Ok(classes) = classes.try_into() else { unreachable!("one class was made for each entry of CLASSES") };
    Ok(Arena { classes, locked })
}

/// A readable and writable range between two inaccessible pages; unmapped on drop
/// unless kept.
struct Mapping {
    base: NonNull<u8>,
    inner_bytes: usize,
    page_bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> Result<Self, MemoryError> {
        let failed = |what| MemoryError::System { what, cause: io::Error::last_os_error() };
        // SAFETY: sysconf has no preconditions.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let inner_bytes = bytes.next_multiple_of(page_bytes);
        // SAFETY: a fresh anonymous mapping, at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                inner_bytes + 2 * page_bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        let base = match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => base,
            _ => return Err(failed("map protected memory")),
        };
        let mapping = Self { base, inner_bytes, page_bytes };
        let inner = mapping.inner().as_ptr().cast();
        // SAFETY: the inner range lies within the mapping just made.
        if unsafe { libc::mprotect(inner, inner_bytes, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(failed("make protected memory accessible"));
        }
        // SAFETY: as above. MADV_DONTDUMP changes no contents.
        if unsafe { libc::madvise(inner, inner_bytes, libc::MADV_DONTDUMP) } != 0 {
            return Err(failed("keep protected memory out of core dumps"));
        }
        // A forked child finds zeroes. Best effort: no child of the server holds keys.
        // SAFETY: as above.
        unsafe { libc::madvise(inner, inner_bytes, libc::MADV_WIPEONFORK) };
        Ok(mapping)
    }

    fn inner(&self) -> NonNull<u8> {
        // SAFETY: the mapping is at least two pages long.
        unsafe { self.base.add(self.page_bytes) }
    }

    /// Locks the inner range; a page becomes resident when it is first touched.
    fn lock(&self) -> io::Result<()> {
        let inner = self.inner().as_ptr().cast();
        // SAFETY: the inner range is mapped and ours.
        if unsafe { libc::mlock2(inner, self.inner_bytes, libc::MLOCK_ONFAULT as _) } == 0 {
            return Ok(());
        }
        // SAFETY: as above; for kernels without mlock2 (before 4.4, and some sandboxes).
        if unsafe { libc::mlock(inner, self.inner_bytes) } == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }

    /// Gives the inner range away for the life of the process.
    fn keep(self) -> NonNull<u8> {
        let inner = self.inner();
        std::mem::forget(self);
        inner
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped; nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.inner_bytes + 2 * self.page_bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_slot_is_zero_after_it_is_freed() {
        allow_unlocked();
        let mut slot = Slot::take(4096).unwrap();
        slot.bytes_mut().fill(0xA5);
        let start = slot.start;
        drop(slot);
        // SAFETY: the arena is never unmapped. No other test takes a 4 KiB slot and
        // writes a pattern other than zero to it at the same time (`tests` below use
        // smaller classes), so the read races with nothing that matters.
        let after = unsafe { std::slice::from_raw_parts(start.as_ptr(), 4096) };
        assert!(after.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_read_past_either_end_kills_the_process() {
        allow_unlocked();
        for offset in [-1_isize, (64 * 4096) as isize] {
            let arena = arena().unwrap();
            let at = arena.classes[0].start.as_ptr().wrapping_offset(offset);
            let status = in_a_child(|| {
                // SAFETY: none: this is the fault that the guard page must catch.
                std::hint::black_box(unsafe { ptr::read_volatile(at) });
            });
            assert_eq!(status.signal(), Some(libc::SIGSEGV), "offset {offset}");
        }
    }

    #[test]
    fn a_forked_child_sees_no_key() {
        allow_unlocked();
        let mut slot = Slot::take(32).unwrap();
        slot.bytes_mut().fill(0xA5);
        let start = slot.start.as_ptr();
        let status = in_a_child(|| {
            // SAFETY: the slot is live; the child has its own view of it.
            let byte = unsafe { ptr::read_volatile(start) };
            // SAFETY: leaves the child at once.
            unsafe { libc::_exit(i32::from(byte != 0)) };
        });
        assert_eq!(status.code(), Some(0));
    }

    #[test]
    fn the_arena_is_left_out_of_core_dumps_and_locked() {
        allow_unlocked();
        let arena = arena().unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", arena.classes[0].start.as_ptr() as usize);
        let section = &maps[maps.find(&start).expect("the arena is mapped")..];
        let flags = section.lines().find(|line| line.starts_with("VmFlags")).unwrap();
        assert!(flags.contains(" dd"), "{flags}");
        assert_eq!(flags.contains(" lo"), arena.locked, "{flags}");
    }

    fn in_a_child(act: impl FnOnce()) -> std::process::ExitStatus {
        // SAFETY: the child only runs `act`, which touches memory and leaves.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            act();
            // SAFETY: leaves the child at once.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        std::process::ExitStatus::from_raw(status)
    }
}
