//! Anonymous mappings for receive pools: prefaulted, locked, on huge pages.

use std::{io, ptr::NonNull};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mlock, mmap_anonymous, mprotect, munmap,
};

use super::memory::PAGE_BYTES;
use crate::{
    Error,
    config::{HugePages, Need, PoolMemory},
    error::PoolMemoryError,
    stats::PoolBacking,
    sys::pages::{self, HUGE_PAGE_BYTES},
};

/// A mapping that is unmapped, and thereby unlocked, on drop.
///
/// ```text
/// start                    base = start + lead                             start + len
/// │ no access, or nothing  │ the buffers (`bytes`), zeroed, read and write │ no access, or nothing │
/// ```
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    lead: usize,
    bytes: usize,
}

impl Mapping {
    fn map(len: usize, access: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, access, flags | MapFlags::PRIVATE)?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, lead: 0, bytes: len })
    }

    fn of_base_pages(bytes: usize) -> io::Result<Self> {
        Self::map(bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty())
    }

    /// Maps from the kernel's pool of huge pages, which reserves all of them or refuses.
    fn of_explicit_huge_pages(bytes: usize) -> io::Result<Self> {
        let len = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let flags = MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        Self::map(len, ProtFlags::READ | ProtFlags::WRITE, flags)
    }

    /// The buffers are aligned and lie between two stretches without access. So the kernel never merges the mapping
    /// with a neighbour, and its report on the mapping covers these bytes alone.
    fn of_transparent_huge_pages(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let len = bytes + 2 * HUGE_PAGE_BYTES;
        let mut this = Self::map(len, ProtFlags::empty(), MapFlags::NORESERVE)?;
        let address = this.start.as_ptr().addr();
        // Never 0, so that there is a stretch in front. The rest of the two extra huge pages is the stretch behind.
        this.lead = (address + PAGE_BYTES).next_multiple_of(HUGE_PAGE_BYTES) - address;
        this.bytes = bytes;
        // SAFETY: the range lies inside the mapping, to which there is no other reference.
        unsafe {
            let access = MprotectFlags::READ | MprotectFlags::WRITE;
            mprotect(this.base().as_ptr().cast(), bytes, access)?;
            madvise(this.base().as_ptr().cast(), bytes, Advice::LinuxHugepage)?;
        }
        Ok(this)
    }

    /// Where the buffers begin.
    pub(super) fn base(&self) -> NonNull<u8> {
        // SAFETY: `lead` is less than the length of the mapping.
        unsafe { self.start.add(self.lead) }
    }

    /// Makes the kernel put all pages in place now.
    fn prefault(&self) -> io::Result<()> {
        // SAFETY: the range is mapped for writing; its bytes stay as they are.
        let populated =
            unsafe { madvise(self.base().as_ptr().cast(), self.bytes, Advice::LinuxPopulateWrite) };
        match populated {
            // Before Linux 5.14.
            Err(rustix::io::Errno::INVAL) => {
                for offset in (0..self.bytes).step_by(PAGE_BYTES) {
                    // SAFETY: inside the mapping, to which there is no other reference yet and which is all zeros.
                    unsafe { self.base().add(offset).write_volatile(0) };
                }
                Ok(())
            }
            populated => Ok(populated?),
        }
    }

    fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is mapped; locking changes no byte of it.
        Ok(unsafe { mlock(self.base().as_ptr().cast(), self.bytes) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference to its memory is left.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// A mapping of at least `bytes`, and the properties of `wanted` that it got.
///
/// # Errors
/// [`Error::PoolMemory`] when a required property of the memory is not to be had.
pub(super) fn open(bytes: usize, wanted: &PoolMemory) -> Result<(Mapping, PoolBacking), Error> {
    let (mapping, pages) = map(bytes, wanted)?;
    let is_huge = pages != Pages::Base;
    // Huge pages were faulted in already, to check that they exist.
    if !is_huge && wanted.prefault {
        mapping.prefault().map_err(PoolMemoryError::Map)?;
    }
    let mut backing = PoolBacking {
        bytes: mapping.bytes,
        page_bytes: if is_huge { HUGE_PAGE_BYTES } else { PAGE_BYTES },
        locked_bytes: 0,
        prefaulted: is_huge || wanted.prefault,
    };
    if let Some(need) = wanted.lock {
        // Explicit huge pages are never swapped out and count towards no limit.
        let locked = if pages == Pages::Explicit { Ok(()) } else { mapping.lock() };
        match locked {
            Ok(()) => {
                backing.locked_bytes = mapping.bytes;
                backing.prefaulted = true;
            }
            Err(cause) => {
                let limit_bytes = pages::lock_limit_bytes();
                let needed_bytes = mapping.bytes as u64;
                refuse(need, PoolMemoryError::Lock { needed_bytes, limit_bytes, cause })?;
            }
        }
    }
    Ok((mapping, backing))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    Base,
    Transparent,
    Explicit,
}

/// The best mapping to be had.
fn map(bytes: usize, wanted: &PoolMemory) -> Result<(Mapping, Pages), PoolMemoryError> {
    let need = match wanted.huge_pages {
        HugePages::No => None,
        HugePages::Transparent(need) => Some(need),
        HugePages::Explicit(need) => match explicit(bytes) {
            Ok(mapping) => return Ok((mapping, Pages::Explicit)),
            Err(error) => {
                refuse(need, error)?;
                Some(Need::Preferred)
            }
        },
    };
    if let Some(need) = need {
        match transparent(bytes) {
            Ok(mapping) => return Ok((mapping, Pages::Transparent)),
            Err(error) => refuse(need, error)?,
        }
    }
    let mapping = Mapping::of_base_pages(bytes).map_err(PoolMemoryError::Map)?;
    Ok((mapping, Pages::Base))
}

fn explicit(bytes: usize) -> Result<Mapping, PoolMemoryError> {
    let mapped = Mapping::of_explicit_huge_pages(bytes).and_then(|mapping| {
        mapping.prefault()?;
        Ok(mapping)
    });
    mapped.map_err(|cause| PoolMemoryError::ExplicitHugePages {
        needed_pages: bytes.div_ceil(HUGE_PAGE_BYTES) as u64,
        free_pages: pages::free_huge_pages(),
        cause,
    })
}

fn transparent(bytes: usize) -> Result<Mapping, PoolMemoryError> {
    let refused =
        |huge_bytes: u64, cause: Option<io::Error>| PoolMemoryError::TransparentHugePages {
            needed_bytes: bytes.next_multiple_of(HUGE_PAGE_BYTES) as u64,
            huge_bytes,
            setting: pages::transparent_setting(),
            cause,
        };
    let mapping =
        Mapping::of_transparent_huge_pages(bytes).map_err(|cause| refused(0, Some(cause)))?;
    mapping.prefault().map_err(|cause| refused(0, Some(cause)))?;
    let huge_bytes = pages::transparent_huge_bytes(mapping.base().as_ptr().addr())
        .map_err(|cause| refused(0, Some(cause)))?;
    if huge_bytes < mapping.bytes as u64 {
        return Err(refused(huge_bytes, None));
    }
    Ok(mapping)
}

/// A missing property is an error if required, and a line in the log if preferred.
fn refuse(need: Need, error: PoolMemoryError) -> Result<(), PoolMemoryError> {
    match need {
        Need::Required => Err(error),
        Need::Preferred => {
            tracing::warn!("{error}; doing without");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_zeroed_aligned_and_writable() {
        let odd = 3 * PAGE_BYTES;
        for mapping in [
            Mapping::of_base_pages(odd).unwrap(),
            Mapping::of_transparent_huge_pages(odd).unwrap(),
            Mapping::of_transparent_huge_pages(HUGE_PAGE_BYTES + PAGE_BYTES).unwrap(),
        ] {
            assert!(mapping.bytes >= odd && mapping.lead + mapping.bytes <= mapping.len);
            if mapping.lead > 0 {
                assert_eq!(mapping.base().as_ptr().addr() % HUGE_PAGE_BYTES, 0);
                assert!(mapping.lead + mapping.bytes < mapping.len, "a stretch behind it");
            }
            mapping.prefault().unwrap();
            for offset in (0..mapping.bytes).step_by(PAGE_BYTES / 2) {
                // SAFETY: inside the mapping, of which there is no other user.
                unsafe {
                    let at = mapping.base().add(offset);
                    assert_eq!(at.read(), 0);
                    at.write(0xA5);
                }
            }
        }
    }

    #[test]
    fn what_is_preferred_is_done_without() {
        let error = || PoolMemoryError::Lock {
            needed_bytes: 1,
            limit_bytes: Some(0),
            cause: io::ErrorKind::OutOfMemory.into(),
        };
        refuse(Need::Preferred, error()).unwrap();
        refuse(Need::Required, error()).unwrap_err();
    }
}
