//! Every call to the operating system that is not the ring itself.
//!
//! `cfg` on the target stands here and nowhere else: the rest of the engine speaks of [`OwnedSocket`]
//! and [`BorrowedSocket`] and of the functions below.

#[cfg(target_os = "linux")]
pub mod eventfd;
#[cfg(unix)]
pub mod file;
#[cfg(unix)]
pub mod interface;
pub mod net;
#[cfg(target_os = "linux")]
pub mod pages;
#[cfg(target_os = "linux")]
pub mod poll;
#[cfg(unix)]
pub mod signal;
#[cfg(unix)]
pub mod thread;
#[cfg(target_os = "linux")]
pub mod timerfd;
#[cfg(unix)]
pub mod unix;

/// A socket this process owns; closed on drop.
#[cfg(unix)]
pub type OwnedSocket = std::os::fd::OwnedFd;
/// A socket on loan.
#[cfg(unix)]
pub type BorrowedSocket<'a> = std::os::fd::BorrowedFd<'a>;

/// A socket this process owns; closed on drop.
#[cfg(windows)]
pub type OwnedSocket = std::os::windows::io::OwnedSocket;
/// A socket on loan.
#[cfg(windows)]
pub type BorrowedSocket<'a> = std::os::windows::io::BorrowedSocket<'a>;
