//! The allocation under a receive pool, and how leases return to it.

use std::{ptr::NonNull, task::Waker};

use super::backing::Region;
use crate::sync::{AtomicUsize, OnceLock, Ordering};

/// Bias of a buffer's count while the pool owns the buffer, so that no lease is ever the last.
pub(super) const OWNED: usize = 1 << (usize::BITS / 2 + 8);
/// Set in the counts of a starved pool: the thread that gives a lease back wakes the shard.
pub(super) const STARVED: usize = 1 << (usize::BITS - 1);
pub(super) const PAGE_BYTES: usize = 4096;

#[cfg(not(loom))]
thread_local! {
    static THREAD: u8 = const { 0 };
}
#[cfg(loom)]
loom::thread_local! {
    static THREAD: u8 = 0;
}

/// A number for the calling thread that no other living thread has: the address of its own static.
#[inline]
pub(super) fn thread_number() -> usize {
    THREAD.with(|own| std::ptr::from_ref(own).addr())
}

/// The shared part of one buffer: all that is needed to give a lease back.
///
/// ```text
/// count = OWNED - given back elsewhere + clones  (| STARVED)     while the pool owns the buffer
/// count = leases still out                                       after the pool was dropped
/// ```
/// The pool counts issued leases in its own memory (`Meta::out`), and leases given back on the owner's thread in
/// `local`, both without locked instructions: a single one is a fifth of the cost of a small message. All leases are
/// back when `count + out == OWNED + local`. A pool that any thread may turn has no owner; all its leases come back
/// through `count`.
#[repr(align(64))]
pub(super) struct Header {
    pub(super) count: AtomicUsize,
    /// [`thread_number`] of the pool's thread; 0 without one, and once the pool is gone.
    pub(super) owner: AtomicUsize,
    /// Incremented by the owner's thread alone, so a plain load and store is enough.
    pub(super) local: AtomicUsize,
    memory: NonNull<Memory>,
}

impl Header {
    pub(super) fn add_lease(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives one lease back.
    ///
    /// # Safety
    /// The caller owns one counted lease of `this` and never uses it again.
    #[inline(always)]
    pub(super) unsafe fn give_back(this: NonNull<Self>) {
        // SAFETY: the caller's lease keeps the header alive.
        let header = unsafe { this.as_ref() };
        if header.owner.load(Ordering::Relaxed) == thread_number() {
            if header.count.load(Ordering::Relaxed) & STARVED != 0 {
                // SAFETY: this lease is still counted, so the memory is alive.
                unsafe { header.memory.as_ref() }.wake();
            }
            // This store comes last, because it gives the lease back. Release: our reads come before the reuse.
            let back = header.local.load(Ordering::Relaxed) + 1;
            header.local.store(back, Ordering::Release);
            return;
        }
        // SAFETY: the caller upholds the contract.
        unsafe { Self::give_back_elsewhere(this) }
    }

    /// As [`Header::give_back`], on another thread than the pool's.
    ///
    /// After the subtraction the pool's owner may free the header at once. So the header is not touched any more,
    /// unless this was the last lease of a dropped pool.
    ///
    /// # Safety
    /// As [`Header::give_back`].
    #[inline(never)]
    unsafe fn give_back_elsewhere(this: NonNull<Self>) {
        // SAFETY: the caller's lease keeps the header alive up to the exchange below.
        let header = unsafe { this.as_ref() };
        let memory = header.memory;
        let mut count = header.count.load(Ordering::Relaxed);
        loop {
            let mut waker = None;
            if count & STARVED != 0 {
                // SAFETY: still counted, so the memory is alive; the waker is cloned before it may go.
                waker = unsafe { memory.as_ref() }.waker.get().cloned();
            }
            // Release: our reads of the bytes come before their reuse. Acquire is needed for the last lease only.
            match header.count.compare_exchange_weak(
                count,
                count - 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    if count == 1 {
                        // SAFETY: the pool is gone and `live` still counts this buffer.
                        unsafe { Memory::finish_buffer(memory) };
                    }
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    return;
                }
                Err(now) => count = now,
            }
        }
    }
}

/// The memory of buffers and headers. The last user frees it: the pool or a lease.
pub(super) struct Memory {
    pub(super) region: Region,
    pub(super) headers: Box<[Header]>,
    /// Buffers still in use, plus one for the pool itself.
    pub(super) live: AtomicUsize,
    pub(super) waker: OnceLock<Waker>,
}

impl Memory {
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Memory for `buffers` buffers in the region. `owned`: the calling thread is the pool's owner.
    pub(super) fn over(region: Region, buffers: usize, owned: bool) -> NonNull<Self> {
        let owner = if owned { thread_number() } else { 0 };
        let memory = Box::into_raw(Box::new(Self {
            region,
            headers: Box::new([]),
            live: AtomicUsize::new(buffers + 1),
            waker: OnceLock::new(),
        }));
        let memory = NonNull::new(memory).expect("a box is never null");
        let header = |_| Header {
            count: AtomicUsize::new(OWNED),
            owner: AtomicUsize::new(owner),
            local: AtomicUsize::new(0),
            memory,
        };
        let headers = (0..buffers).map(header).collect();
        // SAFETY: just made; no other thread has a reference yet.
        unsafe { (*memory.as_ptr()).headers = headers };
        memory
    }

    /// # Safety
    /// The caller finishes one unit of `live` and does not touch the memory afterwards.
    pub(super) unsafe fn finish_buffer(this: NonNull<Self>) {
        // SAFETY: alive, since the caller's unit of `live` is still counted.
        // Acquire is needed for the last unit only, and is cheap here: this happens once in a buffer's life.
        if unsafe { this.as_ref() }.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: the last unit: no other reference to the memory is left. It came from a box; its region gives the
            // buffers back.
            drop(unsafe { Box::from_raw(this.as_ptr()) });
        }
    }
}
