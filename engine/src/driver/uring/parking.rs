//! Waits for a completion without holding the ring.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use io_uring::types;

use crate::sync::Arc;

const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;

/// A wait for one completion. It submits nothing, so other threads may queue entries meanwhile (under the lock that
/// guards the ring). The waker's eventfd ends the wait.
#[derive(Debug)]
pub struct Parking {
    fd: Arc<OwnedFd>,
    timeout_ns: Option<u64>,
}

/// `struct io_uring_getevents_arg` (io_uring_enter(2)).
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_sz: u32,
    min_wait_usec: u32,
    ts: u64,
}

impl Parking {
    pub(super) fn new(fd: Arc<OwnedFd>, timeout_ns: Option<u64>) -> Self {
        Self { fd, timeout_ns }
    }

    /// Waits on the thread that opened the ring.
    ///
    /// # Errors
    /// The kernel's error, also when another thread waits (`EEXIST`). A signal or an expired timeout is no error.
    pub fn wait(&mut self) -> io::Result<()> {
        let time =
            self.timeout_ns.map(|ns| types::Timespec::from(std::time::Duration::from_nanos(ns)));
        let arg = GetEventsArg {
            sigmask: 0,
            sigmask_sz: 0,
            min_wait_usec: 0,
            ts: time.as_ref().map_or(0, |time| std::ptr::from_ref(time).addr() as u64),
        };
        // SAFETY: the descriptor is a ring's. The argument, and the time that it points at, live through the call, and
        // the kernel only reads them.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd.as_raw_fd(),
                0u32,
                1u32,
                IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
                &raw const arg,
                size_of::<GetEventsArg>(),
            )
        };
        if entered >= 0 {
            return Ok(());
        }
        super::interruptible(Err(io::Error::last_os_error()))
    }
}
