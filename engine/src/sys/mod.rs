//! All calls to the operating system except those of the ring itself.
//!
//! `cfg` on the target appears here only and, for features that io_uring alone has, in the modules that choose a driver
//! or a backing. The rest of the engine uses [`OwnedSocket`], [`BorrowedSocket`] and the functions below. Facilities
//! that only Linux has get a stand-in in `portable`, which either does the same in another way or refuses with a typed
//! error.

pub(crate) mod code;
pub mod file;
pub mod interface;
pub mod net;
#[cfg(target_os = "linux")]
pub mod pages;
pub(crate) mod poller;
pub mod signal;
mod socket;
pub mod thread;
pub mod unix;

#[cfg(target_os = "linux")]
pub mod eventfd;
#[cfg(target_os = "linux")]
pub mod poll;
#[cfg(target_os = "linux")]
pub mod timerfd;

#[cfg(not(target_os = "linux"))]
#[path = "portable/eventfd.rs"]
pub mod eventfd;
#[cfg(not(target_os = "linux"))]
#[path = "portable/poll.rs"]
pub mod poll;
#[cfg(not(target_os = "linux"))]
#[path = "portable/timerfd.rs"]
pub mod timerfd;

pub use socket::{AsSocket, BorrowedSocket, OwnedSocket, RawSocket, borrow, borrow_raw, raw};
