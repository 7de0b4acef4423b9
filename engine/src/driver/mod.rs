//! The completion contract: the operations that a shard submits, and the completions that answer them.
//!
//! A driver takes [`Submission`]s and answers each with one or more [`Completion`]s. It never reports would-block.
//! Memory that the kernel may touch (buffers, addresses, message headers) belongs to the driver from submission to the
//! last completion.
//!
//! | submission | completions |
//! |---|---|
//! | accept | one per connection while `more`, the last one without |
//! | connect | one |
//! | receive (ring) | chunks of the pool while `more`; the last one without: end, error, no buffer, or bytes if `once` |
//! | receive (direct) | one, giving the [`Direct`] back |
//! | await readable | one |
//! | send | one, giving the [`Gather`] back with how many of its bytes the kernel took, or a twin of it |
//! | cancel | none of its own: the operation ends with what it had done so far, or as cancelled |

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    task::Waker,
    time::Duration,
};

use socket2::SockAddr;

use crate::{
    buf::{Chunk, Gather, Pool, Segment, SharedMut},
    error::Error,
    stats::ZeroCopyStats,
    sys::{
        BorrowedSocket, OwnedSocket, RawSocket,
        net::{self, Family, Progress, SocketOptions},
    },
};

mod calls;
#[cfg(all(test, not(loom)))]
mod contract;
mod files;
mod native;
pub mod ready;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(target_os = "linux")]
pub mod uring;

pub use native::{DRIVER_VARIABLE, Native};

/// How many segments one send gathers at most.
pub const SEGMENTS_PER_SEND_MAX: usize = 64;

/// Pauses between two attempts to connect to a listener whose backlog is full and which does not tell when it has room.
/// Each pause is twice the one before.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Names one operation in flight. A stale id is recognised and never acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpId(pub(crate) u64);

/// The submitter's name for the owner of an operation. Each completion gives it back.
pub type Token = u64;

/// A receive into memory of the receiver's choice: the rest of a large body, then a spill area for the bytes that
/// follow it.
#[derive(Debug)]
pub struct Direct {
    /// The memory of the body; up to `rest` bytes are appended.
    pub body: Option<SharedMut>,
    /// How many bytes of the body are still to come.
    pub rest: usize,
    /// The bytes that followed the body. Its spare capacity bounds how many are received. It has to be empty on
    /// submission.
    pub spill: Vec<u8>,
}

impl Direct {
    /// Records a receive of `bytes` bytes into the body's spare capacity, of which `room` bytes were offered, and then
    /// into the spill area.
    ///
    /// # Safety
    /// The first `room` bytes behind the body, and then the spill area, were filled in order with `bytes` bytes in all.
    unsafe fn filled(&mut self, room: usize, bytes: usize) {
        let body_bytes = bytes.min(room);
        if let Some(body) = self.body.as_mut().filter(|_| body_bytes > 0) {
            // SAFETY: guaranteed by the caller.
            unsafe { body.advance(body_bytes) };
            self.rest -= body_bytes;
        }
        // SAFETY: the caller guarantees that the bytes beyond the body's room lie in the spill area.
        unsafe { self.spill.set_len(bytes - body_bytes) };
    }
}

/// Whether the call may succeed later: it would block, or a signal interrupted it.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The result of a receive that does not wait. `None`: no bytes are there.
fn at_once(received: io::Result<usize>) -> io::Result<Option<usize>> {
    match received {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_transient(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// See [`Driver::progress`].
fn progress_of(fd: BorrowedSocket<'_>, send: Option<OpId>) -> Progress {
    let acknowledged = net::acknowledged(fd).unwrap_or_default();
    let OpId(op) = send.unwrap_or(OpId(0));
    // A new send has a new id, which shows that the send before it has ended.
    let taken = acknowledged.taken.wrapping_add(op);
    Progress { taken, is_pending: acknowledged.is_pending || send.is_some() }
}

/// The bytes of `gather` behind the first `skip`, piece by piece, up to the next file.
fn rest_of(gather: &Gather, mut skip: usize) -> impl Iterator<Item = &[u8]> {
    let pieces = gather.segments().map_while(move |segment| {
        let len = segment.len();
        let is_over = matches!(segment, Segment::File(_)) && skip < len;
        let rest = segment.bytes().get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(len);
        (!is_over).then_some(rest)
    });
    pieces.filter(|rest| !rest.is_empty())
}

/// The pieces of [`rest_of`] for a vectored call, and their number.
fn parts_of(gather: &Gather, skip: usize) -> ([IoSlice<'_>; SEGMENTS_PER_SEND_MAX], usize) {
    let mut parts = [IoSlice::new(&[]); SEGMENTS_PER_SEND_MAX];
    let mut count = 0;
    for (part, rest) in parts.iter_mut().zip(rest_of(gather, skip)) {
        *part = IoSlice::new(rest);
        count += 1;
    }
    (parts, count)
}

/// One request to the kernel.
#[derive(Debug)]
pub enum Submission {
    /// Accept connections until cancelled.
    Accept {
        /// The listening socket.
        fd: RawSocket,
    },
    /// Connect to an address.
    Connect {
        /// The unconnected socket.
        fd: RawSocket,
        /// Where to.
        address: Box<SockAddr>,
    },
    /// Receive into the pool until cancelled, ended or out of buffers.
    Receive {
        /// The connected socket.
        fd: RawSocket,
        /// End with the first bytes, too, because other receives wait for the pool's last buffers.
        once: bool,
    },
    /// Receive once into given memory.
    ReceiveDirect {
        /// The connected socket.
        fd: RawSocket,
        /// The memory to receive into.
        direct: Direct,
    },
    /// Wait until there is something to receive, an end or an error included.
    AwaitReadable {
        /// The connected socket.
        fd: RawSocket,
    },
    /// Send all of a list, in order.
    Send {
        /// The connected socket.
        fd: RawSocket,
        /// The list to send. It stays with the driver until the completion.
        gather: Gather,
        /// How many of its bytes the kernel has taken already ([`Driver::try_send`]).
        sent: usize,
    },
}

/// The outcome of a receive into the pool.
#[derive(Debug)]
pub enum Received {
    /// Bytes arrived.
    Bytes(Chunk),
    /// The peer has ended its side, in order.
    End,
    /// The pool had no buffer left; receive again once one is back.
    NoBuffer,
    /// The receive was cancelled or failed.
    Failed(io::Error),
}

/// One answer from the kernel.
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted, or accepting ended or hit an error.
    Accepted {
        /// The submitter's token.
        token: Token,
        /// The new socket.
        result: io::Result<OwnedSocket>,
        /// Whether the operation goes on.
        more: bool,
    },
    /// A connect ended.
    Connected {
        /// The submitter's token.
        token: Token,
        /// The outcome.
        result: io::Result<()>,
    },
    /// Something was received into the pool.
    Received {
        /// The submitter's token.
        token: Token,
        /// The outcome.
        received: Received,
        /// Whether the operation goes on.
        more: bool,
    },
    /// A direct receive ended; `Ok(0)` is the peer's orderly end.
    ReceivedDirect {
        /// The submitter's token.
        token: Token,
        /// The memory, with what arrived appended.
        direct: Direct,
        /// How many bytes arrived.
        result: io::Result<usize>,
    },
    /// Waiting for something to receive ended.
    Readable {
        /// The submitter's token.
        token: Token,
        /// `Ok` if there is something to receive.
        result: io::Result<()>,
    },
    /// A send ended.
    Sent {
        /// The submitter's token.
        token: Token,
        /// The list it was given.
        gather: Gather,
        /// How many of its bytes the kernel took. Fewer than all only when the connection failed or
        /// the send was cancelled.
        bytes: usize,
        /// Why the kernel did not take all, if it said so.
        error: Option<io::Error>,
    },
    /// The driver's waker was called.
    Woken,
}

/// How long [`Driver::poll`] may take when nothing is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Poll for a few microseconds. io_uring makes no system calls while nothing happens.
    Spin,
    /// Sleep until something completes, at most this many nanoseconds (none: without bound).
    Park(Option<u64>),
}

/// Which driver a shard runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// io_uring: bound to the thread that opened it.
    Uring,
    /// Readiness, as of epoll: any thread may use it, one at a time.
    Ready,
    /// Simulated: on the thread of its world.
    #[cfg(feature = "sim")]
    Sim,
}

/// An object to wait on without holding the shard. Only the shard's own thread may wait on that of io_uring.
#[derive(Debug)]
pub enum Parking {
    /// The ring.
    #[cfg(target_os = "linux")]
    Uring(uring::Parking),
    /// The poller.
    Ready(ready::Parking),
    /// A simulated world.
    #[cfg(feature = "sim")]
    Sim(sim::Parking),
}

impl crate::lead::Wait for Parking {
    /// Waits until something completes, the shard is woken, or the time is up. A signal is no error.
    fn wait(&mut self) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring(parking) => parking.wait(),
            Self::Ready(parking) => parking.wait(),
            #[cfg(feature = "sim")]
            Self::Sim(parking) => parking.wait(),
        }
    }
}

/// The completion contract.
pub trait Driver {
    /// Makes a listening TCP socket; the simulator has sockets of its own.
    ///
    /// # Errors
    /// As [`net::listen_tcp`].
    fn listen_tcp(
        &mut self,
        address: SocketAddr,
        backlog: u32,
        options: &SocketOptions,
    ) -> io::Result<(OwnedSocket, SocketAddr)> {
        net::listen_tcp(address, backlog, options)
    }

    /// Makes a socket to connect.
    ///
    /// # Errors
    /// As [`net::connect_socket`].
    fn connect_socket(
        &mut self,
        family: Family,
        options: &SocketOptions,
    ) -> io::Result<OwnedSocket> {
        net::connect_socket(family, options)
    }

    /// Takes over a socket that another driver has accepted.
    fn adopt(&mut self, _fd: &OwnedSocket) {}

    /// Closes a descriptor. No operation may be in flight on it.
    fn close(&mut self, fd: OwnedSocket) {
        drop(fd);
    }

    /// Outcomes of sends that asked the kernel not to copy; all zero for drivers without such sends.
    fn zero_copy_stats(&self) -> ZeroCopyStats {
        ZeroCopyStats::default()
    }

    /// Queues an operation; it reaches the kernel with the next [`Driver::flush`] or [`Driver::poll`].
    fn submit(&mut self, token: Token, submission: Submission) -> OpId;

    /// Sends as many bytes as the kernel takes at once and returns how many. Returns 0 also on an error, which shows
    /// again when the rest is submitted. For one connection this costs less than an operation and its completion.
    fn try_send(&mut self, fd: BorrowedSocket<'_>, bytes: &[u8]) -> usize {
        net::try_send(fd, bytes)
    }

    /// As [`Driver::try_send`], for a list. Repeats the call while the kernel takes something, up to a bound. Returns 0
    /// also for a list that is better submitted.
    fn try_send_list(&mut self, fd: BorrowedSocket<'_>, gather: &Gather) -> usize;

    /// As [`Driver::try_send_list`], for a body and the bytes in front of it.
    fn try_send_behind(&mut self, fd: BorrowedSocket<'_>, head: &[u8], body: &[u8]) -> usize;

    /// Receives the bytes that are available now into the caller's memory, which the kernel does not keep: into `body`,
    /// then into the spare capacity of `spill`. `None`: no bytes are available. `Some(0)`: the peer has ended its side
    /// in order.
    ///
    /// # Errors
    /// The kernel's error.
    fn try_receive(
        &mut self,
        fd: BorrowedSocket<'_>,
        body: &mut [u8],
        spill: &mut Vec<u8>,
    ) -> io::Result<Option<usize>> {
        at_once(net::try_recv_into(fd, body, spill))
    }

    /// Registers memory with the kernel in advance. [`Driver::try_receive`] may then receive into all of it, or into a
    /// part. Returns whether the memory is registered; drivers without registration decline. The caller has to
    /// unregister the memory before it is freed.
    ///
    /// # Errors
    /// [`Error::Register`].
    fn register(&mut self, _memory: &mut [u8]) -> Result<bool, Error> {
        Ok(false)
    }

    /// Takes back a registration of [`Driver::register`].
    fn unregister(&mut self, _memory: &[u8]) {}

    /// How many receives brought bytes into registered memory by way of its registration.
    fn registered_receives(&self) -> u64 {
        0
    }

    /// How far the peer has come with the bytes that were sent to it; `send` is the send in flight.
    fn progress(&mut self, fd: BorrowedSocket<'_>, send: Option<OpId>) -> Progress {
        progress_of(fd, send)
    }

    /// Asks for the end of an operation. Its last completion still comes. A stale id is ignored.
    fn cancel(&mut self, op: OpId);

    /// Submits what is queued to the kernel, except for receives that only a poll can complete and that no other thread
    /// waits for.
    ///
    /// # Errors
    /// The kernel's error.
    fn flush(&mut self) -> io::Result<()>;

    /// Submits everything that is queued, lets the kernel finish its work, and waits as told.
    ///
    /// # Errors
    /// The kernel's error. A signal is no error.
    fn poll(&mut self, wait: Wait) -> io::Result<()>;

    /// Submits what is queued and prepares to wait without the driver, at most for this time. Returns `None` when
    /// [`Driver::next`] has something already. Until [`Driver::unpark`], other methods of the driver may be called.
    ///
    /// # Errors
    /// The kernel's error.
    fn park(&mut self, timeout_ns: Option<u64>) -> io::Result<Option<Parking>>;

    /// Takes back the object that [`Driver::park`] returned, after the wait.
    fn unpark(&mut self, parking: Parking);

    /// Whether something is queued for the kernel, or was completed without it.
    fn has_queued(&self) -> bool;

    /// The next completion, if there is one already.
    fn next(&mut self, pool: &mut Pool) -> Option<Completion>;

    /// How many buffers receives can fill, as far as the completions so far tell.
    fn buffers(&self, pool: &Pool) -> usize;

    /// Hands ready buffers of the pool to the kernel; returns how many.
    fn provide(&mut self, pool: &mut Pool) -> usize;

    /// How many operations wait for their last completion.
    fn in_flight(&self) -> usize;

    /// Cancels everything and reaps the last completions. Returns whether all have ended; if not,
    /// the kernel may still touch the pool, which then must not be freed.
    fn shut_down(&mut self, pool: &mut Pool) -> bool;

    /// Wakes a parked driver from any thread.
    fn waker(&self) -> Waker;

    /// Makes the descriptor of [`Driver::event_fd`] readable after so many nanoseconds.
    fn alarm(&mut self, after_ns: u64);

    /// A descriptor that polls readable when [`Driver::poll`] has something to do.
    ///
    /// # Errors
    /// When it cannot be made.
    fn event_fd(&mut self) -> io::Result<BorrowedSocket<'_>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::FileRegion;

    #[test]
    fn the_rest_ends_where_a_file_begins() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let mut gather = Gather::new();
        gather.push(Segment::Static(b"abc"));
        gather.push(Segment::File(FileRegion::new(file, 10, 4).unwrap()));
        gather.push(Segment::Static(b"de"));
        let rest = |skip| rest_of(&gather, skip).collect::<Vec<_>>();
        assert_eq!((gather.bytes(), gather.has_files()), (9, true));
        assert_eq!(rest(0), [&b"abc"[..]]);
        assert_eq!(rest(2), [&b"c"[..]]);
        for at in 3..7 {
            assert!(rest(at).is_empty(), "{at}");
            assert_eq!(gather.file_at(at).unwrap().1, at - 3);
        }
        assert_eq!(rest(7), [&b"de"[..]]);
        assert_eq!(rest(8), [&b"e"[..]]);
        assert!(gather.file_at(2).is_none() && gather.file_at(7).is_none());
        gather.pop();
        assert!(gather.has_files());
        gather.pop();
        assert_eq!((gather.bytes(), gather.has_files()), (2, false));
    }

    #[test]
    fn the_rest_begins_anywhere() {
        let mut gather = Gather::new();
        gather.push(Segment::Static(b"abc"));
        gather.push(Segment::Static(b"de"));
        gather.push(Segment::Static(b"f"));
        let rest = |skip| rest_of(&gather, skip).collect::<Vec<_>>();
        assert_eq!(rest(0), [&b"abc"[..], b"de", b"f"]);
        assert_eq!(rest(2), [&b"c"[..], b"de", b"f"]);
        assert_eq!(rest(3), [&b"de"[..], b"f"]);
        assert_eq!(rest(4), [&b"e"[..], b"f"]);
        assert_eq!(rest(5), [&b"f"[..]]);
        assert_eq!(rest(6), [&b""[..]; 0]);
    }
}
