//! Receive memory of the user's that is registered with the kernel in advance.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::{backing::Region, memory::PAGE_BYTES};
use crate::{config::PoolMemory, error::Error, stats::PoolBacking};

/// Zeroed memory to receive into. When it is registered, the kernel has found and pinned its pages beforehand.
///
/// [`Shard::register`](crate::Shard::register) makes it, [`Shard::unregister`](crate::Shard::unregister) takes it back.
pub struct Registered {
    region: Region,
    len: usize,
    is_fixed: bool,
}

impl Registered {
    /// Most bytes of one registration: the limit of io_uring.
    pub const BYTES_MAX: usize = 1 << 30;

    /// Memory that is not registered yet.
    pub(crate) fn open(len: usize, wanted: &PoolMemory) -> Result<Self, Error> {
        if !(1..=Self::BYTES_MAX).contains(&len) {
            return Err(Error::Config("registered memory: 1 byte to 1 GiB"));
        }
        let region = Region::open(len.next_multiple_of(PAGE_BYTES), wanted)?;
        Ok(Self { region, len, is_fixed: false })
    }

    /// Sets whether the memory is registered with the kernel.
    pub(crate) fn set_fixed(&mut self, is_fixed: bool) {
        self.is_fixed = is_fixed;
    }

    /// Whether the memory is registered with io_uring; otherwise it is ordinary memory.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// The properties that the memory really has.
    #[must_use]
    pub fn backing(&self) -> PoolBacking {
        self.region.backing()
    }
}

impl Deref for Registered {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the region has at least `len` bytes, all initialised, and belongs to this value alone. The kernel
        // writes to it only inside calls that borrow it mutably.
        unsafe { std::slice::from_raw_parts(self.region.base().as_ptr(), self.len) }
    }
}

impl DerefMut for Registered {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.region.base().as_ptr(), self.len) }
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("len", &self.len)
            .field("is_fixed", &self.is_fixed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zeroed_and_as_long_as_asked() {
        for len in [1, 4095, 4096, 4097, 1 << 20] {
            let mut memory = Registered::open(len, &PoolMemory::default()).unwrap();
            assert!(memory.len() == len && memory.iter().all(|&byte| byte == 0));
            memory.fill(7);
            assert!(memory.iter().all(|&byte| byte == 7) && !memory.is_fixed());
            assert_eq!(memory.backing().bytes, len.next_multiple_of(PAGE_BYTES));
        }
    }

    #[test]
    fn its_bounds_are_kept() {
        for len in [0, Registered::BYTES_MAX + 1, usize::MAX] {
            let refused = Registered::open(len, &PoolMemory::default()).unwrap_err();
            assert!(matches!(refused, Error::Config(_)), "{len}: {refused}");
        }
    }
}
