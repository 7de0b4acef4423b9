//! Positioned file access, and sends that do not wait, on Unix.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::OFlags;

use super::Access;
use crate::sys::BorrowedSocket;

/// Reads some bytes from `offset` on, as `pread(2)` does; 0: the file ends there.
///
/// # Errors
/// The system's error.
pub fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(into, offset)
}

/// Writes some of `bytes` from `offset` on, as `pwrite(2)` does.
///
/// # Errors
/// The system's error.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.write_at(bytes, offset)
}

pub(crate) fn access(file: &File) -> io::Result<Access> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let mode = flags & OFlags::ACCMODE;
    if mode != OFlags::RDONLY && mode != OFlags::RDWR {
        return Ok(Access::None);
    }
    #[cfg(target_os = "linux")]
    {
        if flags.contains(OFlags::PATH) {
            return Ok(Access::None);
        }
        if flags.contains(OFlags::DIRECT) {
            return Ok(Access::Direct);
        }
    }
    Ok(Access::Cached)
}

/// Sends as many bytes of the parts as the kernel takes without waiting. `more`: further bytes follow at once.
///
/// # Errors
/// `WouldBlock` when the kernel takes none, or the error of `sendmsg(2)`.
pub(crate) fn send_in_front(
    socket: BorrowedSocket<'_>,
    parts: &[io::IoSlice<'_>],
    more: bool,
) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    const MORE: i32 = libc::MSG_MORE;
    #[cfg(not(target_os = "linux"))]
    const MORE: i32 = 0;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { MORE } else { 0 };
    socket2::SockRef::from(&socket).send_vectored_with_flags(parts, flags)
}
