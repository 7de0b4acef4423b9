//! The system's names of socket types.

#[cfg(unix)]
mod named {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

    /// A socket this process owns; closed on drop.
    pub type OwnedSocket = std::os::fd::OwnedFd;
    /// A borrowed socket.
    pub type BorrowedSocket<'a> = BorrowedFd<'a>;
    /// A socket's number.
    pub type RawSocket = std::os::fd::RawFd;

    /// Types that have a socket; on Unix any descriptor.
    pub use std::os::fd::AsFd as AsSocket;

    /// Borrows the socket of `of`.
    #[inline]
    pub fn borrow(of: &(impl AsFd + ?Sized)) -> BorrowedSocket<'_> {
        of.as_fd()
    }

    /// The number of a socket.
    #[inline]
    pub fn raw(of: &(impl AsFd + ?Sized)) -> RawSocket {
        of.as_fd().as_raw_fd()
    }

    /// Borrows the socket with that number.
    ///
    /// # Safety
    /// The socket is open, and stays open while the result is used.
    #[inline]
    pub unsafe fn borrow_raw<'a>(raw: RawSocket) -> BorrowedSocket<'a> {
        // SAFETY: the caller's promise.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }
}

#[cfg(windows)]
mod named {
    use std::os::windows::io::{self, AsRawSocket};

    /// A socket this process owns; closed on drop.
    pub type OwnedSocket = io::OwnedSocket;
    /// A borrowed socket.
    pub type BorrowedSocket<'a> = io::BorrowedSocket<'a>;
    /// A socket's number.
    pub type RawSocket = io::RawSocket;

    /// Types that have a socket; on Unix any descriptor.
    pub use std::os::windows::io::AsSocket;

    /// Borrows the socket of `of`.
    #[inline]
    pub fn borrow(of: &(impl AsSocket + ?Sized)) -> BorrowedSocket<'_> {
        of.as_socket()
    }

    /// The number of a socket.
    #[inline]
    pub fn raw(of: &(impl AsSocket + ?Sized)) -> RawSocket {
        of.as_socket().as_raw_socket()
    }

    /// Borrows the socket with that number.
    ///
    /// # Safety
    /// The socket is open, and stays open while the result is used.
    #[inline]
    pub unsafe fn borrow_raw<'a>(raw: RawSocket) -> BorrowedSocket<'a> {
        // SAFETY: the caller's promise.
        unsafe { io::BorrowedSocket::borrow_raw(raw) }
    }
}

pub use named::*;
