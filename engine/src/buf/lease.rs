//! A received slice that the user holds while it still lies in the pool's memory.

use std::{fmt, ops::Deref, ptr::NonNull};

use super::memory::Header;

/// A slice of a pool buffer, owned like a reference-counted value.
///
/// The bytes stay where the kernel put them until the last lease of the buffer is dropped; only then
/// is the buffer given back to the kernel. Dropping costs one atomic subtraction and may happen on
/// any thread, also after the shard, its socket and its context are gone.
///
/// # Invariants
/// - `bytes .. bytes + len` lies inside the buffer that `header` counts, and the kernel has finished
///   writing it before the lease was made.
/// - Nobody writes these bytes while the buffer's count says that a lease is out.
/// - A [released](Lease::release) lease has no header and no bytes.
pub struct Lease {
    bytes: NonNull<u8>,
    len: usize,
    header: Option<NonNull<Header>>,
}

// SAFETY: the bytes are immutable while the lease lives, and the count behind `header` is atomic.
unsafe impl Send for Lease {}
// SAFETY: as above; a shared `&Lease` only reads.
unsafe impl Sync for Lease {}

impl Lease {
    /// # Safety
    /// The caller has counted this lease in the buffer's header, and the invariants on the type hold.
    #[inline(always)]
    pub(super) unsafe fn new(bytes: NonNull<u8>, len: usize, header: NonNull<Header>) -> Self {
        Self { bytes, len, header: Some(header) }
    }

    /// Gives the bytes back, as dropping does. An empty lease remains, whose place can be used again.
    #[inline(always)]
    pub fn release(&mut self) {
        (self.bytes, self.len) = (NonNull::dangling(), 0);
        if let Some(header) = self.header.take() {
            // SAFETY: this lease was counted in the header, and the field is now empty: the lease is given back exactly
            // once.
            unsafe { Header::give_back(header) }
        }
    }

    /// A lease on part of this one's bytes, sharing the same buffer.
    ///
    /// # Panics
    /// If `range` does not lie inside the lease.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let part = &self[range];
        let bytes = NonNull::from(part).cast();
        let len = part.len();
        let mut lease = self.clone();
        lease.bytes = bytes;
        lease.len = len;
        lease
    }
}

impl Deref for Lease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: by the type's invariants the range is initialised, immutable and alive.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        if let Some(header) = self.header {
            // SAFETY: the header outlives every lease that it counts.
            unsafe { header.as_ref() }.add_lease();
        }
        Self { bytes: self.bytes, len: self.len, header: self.header }
    }
}

impl Drop for Lease {
    #[inline(always)]
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("len", &self.len).finish_non_exhaustive()
    }
}
