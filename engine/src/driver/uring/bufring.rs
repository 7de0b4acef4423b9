//! The ring of provided buffers, from which the kernel picks memory for receives.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, types::BufRingEntry};

use super::probe::Incremental;
use crate::buf::Pool;

/// The buffer group of the receive pool.
pub(super) const GROUP: u16 = 0;
const PROBE_GROUP: u16 = 1;
/// `IOU_PBUF_RING_INC` of `linux/io_uring.h`.
const INCREMENTAL: u16 = 2;
const PAGE_BYTES: usize = 4096;

/// Memory shared with the kernel while registered:
///
/// ```text
/// entry 0: addr:u64 len:u32 bid:u16 tail:u16 | entry 1: addr:u64 len:u32 bid:u16 resv:u16 | …
/// ```
/// We write entries and then the tail; the kernel keeps the head to itself.
#[derive(Debug)]
pub(super) struct BufRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    is_leaked: bool,
}

// SAFETY: the ring memory is owned, and reached only through `&mut self` and the kernel.
unsafe impl Send for BufRing {}

impl BufRing {
    fn allocate(entries: u16) -> Self {
        let bytes = usize::from(entries) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(bytes.max(PAGE_BYTES), PAGE_BYTES)
            .expect("at most 32,768 entries of 16 bytes");
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) })
            .unwrap_or_else(|| handle_alloc_error(layout));
        Self { entries: memory.cast(), layout, mask: entries - 1, tail: 0, is_leaked: false }
    }

    fn register(&self, ring: &IoUring, group: u16, flags: u16) -> io::Result<()> {
        // SAFETY: the memory lives until `unregister`, or until the io_uring itself is gone.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                self.entries.as_ptr() as u64,
                self.mask + 1,
                group,
                flags,
            )
        }
    }

    /// Whether the kernel takes a ring with incremental consumption.
    pub(super) fn accepts_incremental(ring: &IoUring) -> io::Result<bool> {
        let probe = Self::allocate(2);
        if probe.register(ring, PROBE_GROUP, INCREMENTAL).is_err() {
            return Ok(false);
        }
        ring.submitter().unregister_buf_ring(PROBE_GROUP)?;
        Ok(true)
    }

    /// Registers a ring with room for every buffer of the pool.
    pub(super) fn open(
        ring: &IoUring,
        buffers: u16,
        incremental: Option<Incremental>,
    ) -> io::Result<Self> {
        let this = Self::allocate(buffers);
        this.register(ring, GROUP, if incremental.is_some() { INCREMENTAL } else { 0 })?;
        Ok(this)
    }

    /// Never frees the memory: the kernel may still look for buffers in it.
    pub(super) fn leak(&mut self) {
        self.is_leaked = true;
    }

    /// Hands all ready buffers of the pool to the kernel; returns how many.
    pub(super) fn provide(&mut self, pool: &mut Pool) -> usize {
        let mut given = 0;
        while let Some(buffer) = pool.take_ready() {
            let address = pool.address(buffer);
            // SAFETY: `mask` keeps the index inside. The pool never has more buffers than the ring has entries, so the
            // kernel does not still have to consume this slot.
            let entry =
                unsafe { &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask)) };
            entry.set_addr(address.as_ptr() as u64);
            entry.set_len(pool.config().buffer_bytes);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            given += 1;
        }
        if given > 0 {
            // SAFETY: the tail lies in the first entry's reserved field, aligned, and is only
            // accessed atomically.
            let tail = unsafe {
                AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut())
            };
            // Release: the kernel sees the entries before the tail that covers them.
            tail.store(self.tail, Ordering::Release);
        }
        given
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        if self.is_leaked {
            return;
        }
        // SAFETY: allocated with this layout. The driver drops the io_uring (or unregisters) first.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
