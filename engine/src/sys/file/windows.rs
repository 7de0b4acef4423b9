//! Files by place, and sends that do not wait, on Windows.
//!
//! A file's handle has one cursor, which reads and writes by place move as well: who uses zring with a file has to go by
//! place himself, or through a handle of its own.

use std::{fs::File, io, os::windows::fs::FileExt};

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_HANDLE_EOF};

use super::Access;
use crate::sys::BorrowedSocket;

/// Reads some bytes from `offset` on; 0: the file ends there. The file's cursor moves.
///
/// # Errors
/// What the system says.
pub fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    match file.seek_read(into, offset) {
        Err(error) if error.raw_os_error() == Some(ERROR_HANDLE_EOF as i32) => Ok(0),
        read => read,
    }
}

/// Writes some of `bytes` from `offset` on. The file's cursor moves.
///
/// # Errors
/// What the system says.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}

/// Reading nothing tells whether reading is allowed. Files opened around the cache cannot be told; sending them fails.
pub(crate) fn access(file: &File) -> io::Result<Access> {
    match file.seek_read(&mut [], 0) {
        Err(error) if error.raw_os_error() == Some(ERROR_ACCESS_DENIED as i32) => Ok(Access::None),
        _ => Ok(Access::Cached),
    }
}

/// Sends what the system takes of the parts without waiting. It cannot be told that more follows.
///
/// # Errors
/// `WouldBlock` when it takes none, or what `WSASend` says.
pub(crate) fn send_in_front(
    socket: BorrowedSocket<'_>,
    parts: &[io::IoSlice<'_>],
    _more: bool,
) -> io::Result<usize> {
    crate::sys::net::try_send_vectored(socket, parts)
}
