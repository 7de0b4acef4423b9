//! Linux only: sending from the page cache, and asking which pages it has.

use std::{fs::File, io, num::NonZero, os::fd::AsRawFd};

use rustix::{
    fs::{Advice, OFlags},
    io::{Errno, ReadWriteFlags},
};

use super::{Cached, Unsent};
use crate::{
    sync::OnceLock,
    sys::{BorrowedSocket, signal},
};

/// Errors that only a file can cause, never a stream socket.
const FILE_ERRORS: [Errno; 12] = [
    Errno::IO,
    Errno::ISDIR,
    Errno::INVAL,
    Errno::STALE,
    Errno::BADF,
    Errno::NXIO,
    Errno::OVERFLOW,
    Errno::UCLEAN,
    Errno::BADMSG,
    Errno::NODATA,
    Errno::REMOTEIO,
    Errno::NOKEY,
];

/// Sends up to `len` bytes of the file from `offset` on from the page cache, as many as a non-blocking socket takes,
/// without raising SIGPIPE. `Ok(0)`: the file ends there. Waits for bytes that are not in the page cache.
///
/// # Errors
/// See [`Unsent`].
pub(crate) fn send(
    socket: BorrowedSocket<'_>,
    file: &File,
    offset: u64,
    len: usize,
) -> Result<usize, Unsent> {
    let mut at = offset;
    // `sendfile` has no MSG_NOSIGNAL.
    let sent = signal::without_sigpipe(
        || rustix::fs::sendfile(socket, file, Some(&mut at), len),
        |sent| *sent == Err(Errno::PIPE),
    );
    match sent {
        Ok(bytes) => Ok(bytes),
        // The file system does not support splicing.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            super::send_copy(socket, file, offset, len)
        }
        Err(error) if FILE_ERRORS.contains(&error) => Err(Unsent::File(error.into())),
        Err(error) => Err(Unsent::Socket(error.into())),
    }
}

/// Makes the socket's sends non-blocking. Receives and sends of io_uring choose their mode per operation, so the flag
/// does not affect them.
pub(crate) fn set_nonblocking(socket: BorrowedSocket<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(socket)?;
    if !flags.contains(OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Tells the kernel which range is read next, so that it starts reading at once.
pub(crate) fn expect_reads(file: &File, offset: u64, len: usize) {
    let _ = rustix::fs::fadvise(file, offset, NonZero::new(len as u64), Advice::WillNeed);
}

/// `cachestat(2)` has this number on all architectures that share numbers.
const SYS_CACHESTAT: libc::c_long = 451;
const HAS_CACHESTAT: bool = !cfg!(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "mips32r6",
    target_arch = "mips64r6"
));
/// Distance between probes. Cached pages may still be on their way from the disk; they arrive in order, in pieces of
/// about this size.
const LOOK_BYTES: u64 = 64 << 10;

#[repr(C)]
struct Range {
    offset: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    under_writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

fn page_bytes() -> u64 {
    static PAGE_BYTES: OnceLock<u64> = OnceLock::new();
    *PAGE_BYTES.get_or_init(|| {
        // SAFETY: only reads a setting, by a valid name.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(bytes).unwrap_or(4096)
    })
}

/// Number of the range's pages in the cache. `None` when the kernel does not tell: before Linux 6.5, under a seccomp
/// filter, or because the file belongs to another user.
fn count_cached(file: &File, range: &Range) -> Option<u64> {
    static IS_MISSING: OnceLock<()> = OnceLock::new();
    if !HAS_CACHESTAT || IS_MISSING.get().is_some() {
        return None;
    }
    #[cfg(test)]
    if super::BLINDNESS.get() > 0 {
        return None;
    }
    let mut counts = Counts::default();
    // SAFETY: reads the range and writes the counts, both laid out as cachestat(2) says; they outlive the call.
    let outcome = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            std::ptr::from_ref(range),
            &raw mut counts,
            0u32,
        )
    };
    if outcome == 0 {
        return Some(counts.cached);
    }
    if io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        let _ = IS_MISSING.set(());
    }
    None
}

/// Whether a range, of one byte or more, can be read without waiting for the disk.
pub(crate) fn is_cached(file: &File, offset: u64, len: usize, scratch: &mut Vec<u8>) -> Cached {
    let range = Range { offset, len: len as u64 };
    let Some(cached) = count_cached(file, &range) else {
        return can_be_read(file, offset, len, scratch);
    };
    let last = offset + range.len - 1;
    if cached < last / page_bytes() - offset / page_bytes() + 1 {
        return Cached::Partly;
    }
    let looks = (offset..last).step_by(LOOK_BYTES as usize).skip(1).chain([last]);
    for at in looks {
        if !is_up_to_date(file, at) {
            return Cached::Partly;
        }
    }
    Cached::Whole
}

/// Tries to read the range without waiting: an exact answer at the cost of a copy.
fn can_be_read(file: &File, offset: u64, len: usize, scratch: &mut Vec<u8>) -> Cached {
    #[cfg(test)]
    if super::BLINDNESS.get() > 1 {
        return Cached::Unknown;
    }
    scratch.resize(len.max(scratch.len()), 0);
    let mut parts = [io::IoSliceMut::new(&mut scratch[..len])];
    match rustix::io::preadv2(file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
        Ok(bytes) if bytes == len => Cached::Whole,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Cached::Unknown,
        _ => Cached::Partly,
    }
}

fn is_up_to_date(file: &File, at: u64) -> bool {
    let mut byte = [0];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    match rustix::io::preadv2(file, &mut parts, at, ReadWriteFlags::NOWAIT) {
        Ok(bytes) => bytes == 1,
        // A file system that does not know the flag has no reads under way.
        Err(error) => error == Errno::OPNOTSUPP,
    }
}
