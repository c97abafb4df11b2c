//! The global allocator: jemalloc, except that nothing is given back unwiped. Nothing else of ours knows jemalloc.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::CStr;
use std::ptr::{self, null_mut};

use tikv_jemallocator::Jemalloc;

/// Wipes every block before jemalloc gets it back, so that no freed memory holds a
/// secret, whichever crate put it there. A block that changes its size is always moved by hand
/// (allocate, copy, wipe, free), since jemalloc would leave the old bytes behind.
///
/// ```
/// use holdfast_hsm::memory::WipingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: WipingAllocator = WipingAllocator;
/// ```
#[derive(Debug, Default, Clone, Copy)]
pub struct WipingAllocator;

// SAFETY: every block comes from and goes back to `Jemalloc` with the layout it was asked
// for; wiping writes only inside the block, before it is given back.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { Jemalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller owns `layout.size()` bytes at `block` and gives them up.
        unsafe {
            libc::explicit_bzero(block.cast(), layout.size());
            Jemalloc.dealloc(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller vouches that `new_size`, rounded up to the alignment, does
        // not overflow; the two blocks are distinct; the old one is given up.
        unsafe {
            let moved = Jemalloc.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, new_size.min(layout.size()));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// How jemalloc behaves; it reads this when the process starts.
///
/// Two arenas, as many as there are threads that are busy on small machines: more of them cost memory that is locked. Pages that
/// are free for a second go back to the system by `munmap` (`retain:false`): locked pages cannot be given back
/// by `madvise`.
// SAFETY: jemalloc declares the symbol as a weak `const char *`, and nobody else defines it. A reference to an array is such a
// pointer; it ends with a zero byte, lives as long as the program and is only read.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static JEMALLOC_OPTIONS: &[u8; 77] =
    b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0,retain:false,tcache_max:16384\0";

/// Gives free memory of the heap back to the operating system; `true` if that was
/// possible. For after a burst, such as sealing.
pub fn trim_heap() -> bool {
    // `MALLCTL_ARENAS_ALL` of jemalloc's header stands for every arena.
    const PURGE_ALL_ARENAS: &CStr = c"arena.4096.purge";
    // SAFETY: the name ends with a zero byte; the operation reads and writes nothing through the other pointers, which
    // may be null then.
    unsafe { tikv_jemalloc_sys::mallctl(PURGE_ALL_ARENAS.as_ptr(), null_mut(), null_mut(), null_mut(), 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The crate's own tests run on it.
    #[global_allocator]
    static ALLOCATOR: WipingAllocator = WipingAllocator;

    #[test]
    fn the_options_are_read() {
        let mut arenas: std::ffi::c_uint = 0;
        let mut len = size_of_val(&arenas);
        // SAFETY: the option is an unsigned integer, and there is room for it.
        let code = unsafe {
            tikv_jemalloc_sys::mallctl(
                c"opt.narenas".as_ptr(),
                ptr::from_mut(&mut arenas).cast(),
                &mut len,
                null_mut(),
                0,
            )
        };
        assert_eq!((code, arenas), (0, 2));
    }

    #[test]
    fn the_heap_can_be_trimmed_and_what_is_in_use_stays() {
        let kept = vec![0xA5_u8; 1 << 20];
        drop(vec![0xA5_u8; 16 << 20]);
        assert!(trim_heap());
        assert!(kept.iter().all(|byte| *byte == 0xA5));
    }

    #[test]
    fn a_zeroed_block_is_zero_whatever_was_there_before() {
        for size in [1, 100, 1024, 8192, 100_000, 1 << 20] {
            for align in [1, 8, 64, 4096] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the blocks are used within their size and given back with their layout.
                unsafe {
                    let before = ALLOCATOR.alloc(layout);
                    ptr::write_bytes(before, 0xA5, size);
                    ALLOCATOR.dealloc(before, layout);
                    let zeroed = ALLOCATOR.alloc_zeroed(layout);
                    assert_eq!(zeroed as usize % align, 0);
                    assert!((0..size).all(|i| *zeroed.add(i) == 0), "{size} bytes at {align}");
                    ALLOCATOR.dealloc(zeroed, layout);
                }
            }
        }
    }

    #[test]
    fn a_shrunk_block_leaves_nothing_behind() {
        let layout = Layout::from_size_align(4096, 8).unwrap();
        // SAFETY: as in the tests of freed blocks below: the block stays mapped, its neighbour is held.
        unsafe {
            let block = ALLOCATOR.alloc(layout);
            let neighbour = ALLOCATOR.alloc(layout);
            ptr::write_bytes(block, 0xA5, 4096);
            let moved = ALLOCATOR.realloc(block, layout, 100);
            assert!((0..100).all(|i| *moved.add(i) == 0xA5));
            let left = (0..4096).filter(|i| ptr::read_volatile(block.add(*i)) == 0xA5).count();
            ALLOCATOR.dealloc(moved, Layout::from_size_align(100, 8).unwrap());
            ALLOCATOR.dealloc(neighbour, layout);
            assert_eq!(left, 0);
        }
    }

    #[test]
    fn a_freed_block_holds_nothing_of_what_it_held() {
        let layout = Layout::from_size_align(1024, 8).unwrap();
        // SAFETY: reading freed memory is not sound in general. Here the block stays
        // mapped (the heap is not trimmed for 1 KiB, and its neighbour is held), and
        // only the absence of the pattern is asserted.
        unsafe {
            let block = ALLOCATOR.alloc(layout);
            let neighbour = ALLOCATOR.alloc(layout);
            ptr::write_bytes(block, 0xA5, 1024);
            ALLOCATOR.dealloc(block, layout);
            let left = (64..960).filter(|i| ptr::read_volatile(block.add(*i)) == 0xA5).count();
            ALLOCATOR.dealloc(neighbour, layout);
            assert!(left < 16, "{left} bytes of the pattern are left");
        }
    }

    #[test]
    fn a_grown_block_leaves_nothing_behind_and_keeps_its_bytes() {
        let layout = Layout::from_size_align(1024, 8).unwrap();
        // SAFETY: as in the test above.
        unsafe {
            let block = ALLOCATOR.alloc(layout);
            let neighbour = ALLOCATOR.alloc(layout);
            ptr::write_bytes(block, 0xA5, 1024);
            let moved = ALLOCATOR.realloc(block, layout, 4096);
            assert_ne!(moved, block);
            assert!((0..1024).all(|i| *moved.add(i) == 0xA5));
            let left = (64..960).filter(|i| ptr::read_volatile(block.add(*i)) == 0xA5).count();
            ALLOCATOR.dealloc(moved, Layout::from_size_align(4096, 8).unwrap());
            ALLOCATOR.dealloc(neighbour, layout);
            assert!(left < 16, "{left} bytes of the pattern are left");
        }
    }

    #[test]
    fn a_shrunk_block_keeps_its_head_at_every_alignment() {
        for align in [1, 8, 16, 64, 4096] {
            let layout = Layout::from_size_align(8192, align).unwrap();
            // SAFETY: the block is used within its size and given back with its layout.
            unsafe {
                let block = ALLOCATOR.alloc(layout);
                ptr::write_bytes(block, 0xA5, 8192);
                let block = ALLOCATOR.realloc(block, layout, 100);
                assert_eq!(block as usize % align, 0);
                assert!((0..100).all(|i| *block.add(i) == 0xA5));
                ALLOCATOR.dealloc(block, Layout::from_size_align(100, align).unwrap());
            }
        }
    }

    #[test]
    fn many_threads_of_growing_shrinking_and_freeing_keep_their_data() {
        let threads: Vec<_> = (0..4_u64)
            .map(|seed| {
                std::thread::spawn(move || {
                    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                    let mut live: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
                    for _ in 0..20_000 {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        let (slot, len) = (state % 64, (state >> 8) as usize % 3000);
                        let block = live.entry(slot).or_default();
                        assert!(block.iter().all(|byte| *byte == slot as u8));
                        block.resize(len, slot as u8);
                        if state & 7 == 0 {
                            block.shrink_to_fit();
                        }
                        if state & 15 == 0 {
                            live.remove(&slot);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
