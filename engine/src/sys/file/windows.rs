//! Positioned file access, and sends that do not wait, on Windows.
//!
//! A file handle has one cursor, which positioned reads and writes move as well. A program that shares a file with
//! zring must therefore use positioned access itself, or a handle of its own.

use std::{fs::File, io, os::windows::fs::FileExt};

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_HANDLE_EOF};

use super::Access;
use crate::sys::BorrowedSocket;

/// Reads some bytes from `offset` on; 0: the file ends there. The file's cursor moves.
///
/// # Errors
/// The system's error.
pub fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    match file.seek_read(into, offset) {
        Err(error) if error.raw_os_error() == Some(ERROR_HANDLE_EOF as i32) => Ok(0),
        read => read,
    }
}

/// Writes some of `bytes` from `offset` on. The file's cursor moves.
///
/// # Errors
/// The system's error.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}

/// A read of no bytes shows whether reading is allowed. Uncached handles cannot be recognised; sending them fails.
pub(crate) fn access(file: &File) -> io::Result<Access> {
    match file.seek_read(&mut [], 0) {
        Err(error) if error.raw_os_error() == Some(ERROR_ACCESS_DENIED as i32) => Ok(Access::None),
        _ => Ok(Access::Cached),
    }
}

/// Sends as many bytes of the parts as the system takes without waiting. Windows has no flag to say that more follows.
///
/// # Errors
/// `WouldBlock` when the system takes none, or the error of `WSASend`.
pub(crate) fn send_in_front(
    socket: BorrowedSocket<'_>,
    parts: &[io::IoSlice<'_>],
    _more: bool,
) -> io::Result<usize> {
    crate::sys::net::try_send_vectored(socket, parts)
}
