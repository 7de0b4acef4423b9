//! Memory of a pool's buffers: the heap, or mappings that are faulted, locked or huge as configured.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
};

#[cfg(target_os = "linux")]
use super::mapping::Mapping;
use super::memory::PAGE_BYTES;
use crate::{config::PoolMemory, error::Error, stats::PoolBacking};

/// Zeroed memory that does not move. On drop it is returned to the source it came from.
#[derive(Debug)]
pub(super) struct Region {
    base: NonNull<u8>,
    backing: PoolBacking,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Heap(Layout),
    /// Unmaps itself.
    #[cfg(target_os = "linux")]
    Mapped {
        _mapping: Mapping,
    },
}

// SAFETY: the region owns its memory, and no thread has a claim to it.
unsafe impl Send for Region {}
// SAFETY: a shared reference gives access to addresses and numbers only.
unsafe impl Sync for Region {}

impl Region {
    /// `bytes` from the allocator, on whatever pages it has.
    pub(super) fn of_the_heap(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("bounded by PoolConfig");
        // SAFETY: the layout's size is not zero (PoolConfig is valid).
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })
            .unwrap_or_else(|| handle_alloc_error(layout));
        let backing = PoolBacking { bytes, page_bytes: PAGE_BYTES, ..PoolBacking::default() };
        Self { base, backing, source: Source::Heap(layout) }
    }

    /// `bytes` of memory as `wanted` describes it.
    ///
    /// # Errors
    /// [`Error::PoolMemory`] when a required property of the memory is not to be had.
    pub(super) fn open(bytes: usize, wanted: &PoolMemory) -> Result<Self, Error> {
        if *wanted == PoolMemory::default() {
            return Ok(Self::of_the_heap(bytes));
        }
        Self::mapped(bytes, wanted)
    }

    #[cfg(target_os = "linux")]
    fn mapped(bytes: usize, wanted: &PoolMemory) -> Result<Self, Error> {
        let (mapping, backing) = super::mapping::open(bytes, wanted)?;
        Ok(Self { base: mapping.base(), backing, source: Source::Mapped { _mapping: mapping } })
    }

    #[cfg(not(target_os = "linux"))]
    fn mapped(bytes: usize, wanted: &PoolMemory) -> Result<Self, Error> {
        if wanted.is_required() {
            return Err(Error::PoolMemory(crate::error::PoolMemoryError::Unsupported));
        }
        tracing::warn!("this system does not prefault, lock or enlarge the pages of receive pools");
        Ok(Self::of_the_heap(bytes))
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The properties that the memory really has.
    pub(super) fn backing(&self) -> PoolBacking {
        self.backing
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match &self.source {
            // SAFETY: allocated with this very layout, and no reference to the memory is left.
            Source::Heap(layout) => unsafe { dealloc(self.base.as_ptr(), *layout) },
            #[cfg(target_os = "linux")]
            Source::Mapped { .. } => {}
        }
    }
}
