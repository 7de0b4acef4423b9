//! Error numbers that the engine makes or distinguishes itself.

use std::io;

#[cfg(unix)]
mod number {
    pub(super) const CANCELED: i32 = libc::ECANCELED;
    pub(super) const NO_FAMILY: i32 = libc::EAFNOSUPPORT;
    pub(super) const IO_FAULT: i32 = libc::EIO;
}

#[cfg(windows)]
mod number {
    use windows_sys::Win32::{Foundation::ERROR_READ_FAULT, Networking::WinSock};

    pub(super) const CANCELED: i32 = WinSock::WSAECANCELLED;
    pub(super) const NO_FAMILY: i32 = WinSock::WSAEAFNOSUPPORT;
    pub(super) const IO_FAULT: i32 = ERROR_READ_FAULT as i32;
}

/// Number for file faults that come without one.
pub(crate) const IO_FAULT: i32 = number::IO_FAULT;

/// The result of a cancelled operation.
pub(crate) fn canceled() -> io::Error {
    io::Error::from_raw_os_error(number::CANCELED)
}

pub(crate) fn is_canceled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(number::CANCELED)
}

/// Whether the system has no sockets of that family.
pub(crate) fn is_no_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(number::NO_FAMILY)
}
