//! What sockets are called on this system.

#[cfg(unix)]
mod named {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

    /// A socket this process owns; closed on drop.
    pub type OwnedSocket = std::os::fd::OwnedFd;
    /// A socket on loan.
    pub type BorrowedSocket<'a> = BorrowedFd<'a>;
    /// A socket's number.
    pub type RawSocket = std::os::fd::RawFd;

    /// Whatever has a socket; on Unix any descriptor.
    pub use std::os::fd::AsFd as AsSocket;

    /// The socket of whatever has one.
    #[inline]
    pub fn borrow(of: &(impl AsFd + ?Sized)) -> BorrowedSocket<'_> {
        of.as_fd()
    }

    /// The number of a socket.
    #[inline]
    pub fn raw(of: &(impl AsFd + ?Sized)) -> RawSocket {
        of.as_fd().as_raw_fd()
    }

    /// The socket of that number.
    ///
    /// # Safety
    /// It is open, and stays so as long as the loan is used.
    #[inline]
    pub unsafe fn borrow_raw<'a>(raw: RawSocket) -> BorrowedSocket<'a> {
        // SAFETY: the caller's word.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }
}

#[cfg(windows)]
mod named {
    use std::os::windows::io::{self, AsRawSocket};

    /// A socket this process owns; closed on drop.
    pub type OwnedSocket = io::OwnedSocket;
    /// A socket on loan.
    pub type BorrowedSocket<'a> = io::BorrowedSocket<'a>;
    /// A socket's number.
    pub type RawSocket = io::RawSocket;

    /// Whatever has a socket; on Unix any descriptor.
    pub use std::os::windows::io::AsSocket;

    /// The socket of whatever has one.
    #[inline]
    pub fn borrow(of: &(impl AsSocket + ?Sized)) -> BorrowedSocket<'_> {
        of.as_socket()
    }

    /// The number of a socket.
    #[inline]
    pub fn raw(of: &(impl AsSocket + ?Sized)) -> RawSocket {
        of.as_socket().as_raw_socket()
    }

    /// The socket of that number.
    ///
    /// # Safety
    /// It is open, and stays so as long as the loan is used.
    #[inline]
    pub unsafe fn borrow_raw<'a>(raw: RawSocket) -> BorrowedSocket<'a> {
        // SAFETY: the caller's word.
        unsafe { io::BorrowedSocket::borrow_raw(raw) }
    }
}

pub use named::*;
