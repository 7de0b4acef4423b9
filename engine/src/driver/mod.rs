//! The completion contract: what a shard asks of the operating system, and how the answers look.
//!
//! A driver takes [`Submission`]s and answers each with one or more [`Completion`]s; would-block
//! never rises above it. Whatever the kernel may touch (buffers, addresses, message headers) belongs
//! to the driver from submission to the last completion.
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

/// Pauses between attempts to connect to a full backlog, where nothing tells when it has room; each is twice the one
/// before.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Names one operation in flight. A stale id is recognised and never acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpId(pub(crate) u64);

/// The caller's name for whatever an operation belongs to; it comes back with each completion.
pub type Token = u64;

/// A receive into memory of the receiver's choice: the rest of a large body, then a spill area that
/// catches what follows it.
#[derive(Debug)]
pub struct Direct {
    /// Where the body goes; up to `rest` bytes are appended.
    pub body: Option<SharedMut>,
    /// How many bytes of the body are still to come.
    pub rest: usize,
    /// What followed the body; its spare capacity bounds how much is received. Used only while empty.
    pub spill: Vec<u8>,
}

impl Direct {
    /// The kernel has put `bytes` into the body's spare room, of which there were `room`, and the spill area.
    ///
    /// # Safety
    /// The first `room` bytes behind the body and then the spill area were filled in order, so many bytes in all.
    unsafe fn filled(&mut self, room: usize, bytes: usize) {
        let body_bytes = bytes.min(room);
        if let Some(body) = self.body.as_mut().filter(|_| body_bytes > 0) {
            // SAFETY: the caller says so.
            unsafe { body.advance(body_bytes) };
            self.rest -= body_bytes;
        }
        // SAFETY: what went beyond the body's room lies in the spill area, by the caller's word.
        unsafe { self.spill.set_len(bytes - body_bytes) };
    }
}

/// Nothing to be had now; a signal is as good a reason to ask again later.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// What a receive that does not wait has brought; `None`: nothing is there.
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
    // That another send is under way shows that the one before has ended.
    let taken = acknowledged.taken.wrapping_add(op);
    Progress { taken, is_pending: acknowledged.is_pending || send.is_some() }
}

/// The bytes of `gather` behind the first `skip`, piece by piece, up to the next that lie in a file.
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

/// What [`rest_of`] gives, for a vectored call, and how many pieces that is.
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
        /// End with the first bytes, too: others wait for what the pool has left.
        once: bool,
    },
    /// Receive once into given memory.
    ReceiveDirect {
        /// The connected socket.
        fd: RawSocket,
        /// Where to.
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
        /// What; it stays with the driver until the completion.
        gather: Gather,
        /// How many of its bytes the kernel has taken already ([`Driver::try_send`]).
        sent: usize,
    },
}

/// What became of a receive into the pool.
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
        /// How.
        result: io::Result<()>,
    },
    /// Something was received into the pool.
    Received {
        /// The submitter's token.
        token: Token,
        /// What.
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
        /// Whether there is something.
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
        /// Why not all, if the kernel said so.
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
    /// Look for a few microseconds; io_uring does without system calls while nothing happens.
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

/// Something to wait on without holding the shard. Only the shard's own thread may wait on io_uring's.
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

    /// A socket that another driver has accepted is this one's from here on.
    fn adopt(&mut self, _fd: &OwnedSocket) {}

    /// Closes a descriptor that no operation is under way on.
    fn close(&mut self, fd: OwnedSocket) {
        drop(fd);
    }

    /// What became of sends that were to go without a copy; drivers that have none of that say nothing.
    fn zero_copy_stats(&self) -> ZeroCopyStats {
        ZeroCopyStats::default()
    }

    /// Queues an operation; it reaches the kernel with the next [`Driver::flush`] or [`Driver::poll`].
    fn submit(&mut self, token: Token, submission: Submission) -> OpId;

    /// Sends what the kernel takes at once and returns how many bytes that was; 0 also when it refused, which
    /// the submission of the rest will tell. For one connection this costs less than an operation and its completion.
    fn try_send(&mut self, fd: BorrowedSocket<'_>, bytes: &[u8]) -> usize {
        net::try_send(fd, bytes)
    }

    /// As [`Driver::try_send`], for a list, and goes on while the kernel takes something, up to a bound; 0 also for one
    /// that is better submitted.
    fn try_send_list(&mut self, fd: BorrowedSocket<'_>, gather: &Gather) -> usize;

    /// As [`Driver::try_send_list`], for a body and what stands in front of it.
    fn try_send_behind(&mut self, fd: BorrowedSocket<'_>, head: &[u8], body: &[u8]) -> usize;

    /// Receives what is there at once into memory of the caller's, which the kernel does not keep: into `body`, then
    /// into the spare capacity of `spill`. `None`: nothing is there; `Some(0)`: the peer has ended its side, in order.
    ///
    /// # Errors
    /// What the kernel said.
    fn try_receive(
        &mut self,
        fd: BorrowedSocket<'_>,
        body: &mut [u8],
        spill: &mut Vec<u8>,
    ) -> io::Result<Option<usize>> {
        at_once(net::try_recv_into(fd, body, spill))
    }

    /// Has the kernel know memory beforehand that is received into with [`Driver::try_receive`], all or in part. Returns
    /// whether it does; drivers that have none of that decline. To be taken back before the memory goes.
    ///
    /// # Errors
    /// [`Error::Register`].
    fn register(&mut self, _memory: &mut [u8]) -> Result<bool, Error> {
        Ok(false)
    }

    /// Takes back what [`Driver::register`] was given.
    fn unregister(&mut self, _memory: &[u8]) {}

    /// How many receives brought something into registered memory by way of its registration.
    fn registered_receives(&self) -> u64 {
        0
    }

    /// How far the peer has come with what was sent to it; `send` is what is under way.
    fn progress(&mut self, fd: BorrowedSocket<'_>, send: Option<OpId>) -> Progress {
        progress_of(fd, send)
    }

    /// Asks for the end of an operation. Its last completion still comes. A stale id is ignored.
    fn cancel(&mut self, op: OpId);

    /// Hands what is queued to the kernel, except for receives that only a poll can complete and nobody else waits for.
    ///
    /// # Errors
    /// What the kernel said.
    fn flush(&mut self) -> io::Result<()>;

    /// Hands everything queued to the kernel, then gives it the chance to finish work, and waits as told.
    ///
    /// # Errors
    /// What the kernel said. A signal is no error.
    fn poll(&mut self, wait: Wait) -> io::Result<()>;

    /// Hands over what is queued and prepares to wait without the driver, at most for this time; `None` when
    /// [`Driver::next`] has something already. Until [`Driver::unpark`], the others of its methods may be called.
    ///
    /// # Errors
    /// What the kernel said.
    fn park(&mut self, timeout_ns: Option<u64>) -> io::Result<Option<Parking>>;

    /// Takes back what [`Driver::park`] gave, after the wait.
    fn unpark(&mut self, parking: Parking);

    /// Whether something is queued for the kernel, or was completed without it.
    fn has_queued(&self) -> bool;

    /// The next completion that is there already.
    fn next(&mut self, pool: &mut Pool) -> Option<Completion>;

    /// How many buffers there are for receives to fill, as far as completions have told.
    fn buffers(&self, pool: &Pool) -> usize;

    /// Hands ready buffers of the pool to the kernel; returns how many.
    fn provide(&mut self, pool: &mut Pool) -> usize;

    /// How many operations have not seen their last completion.
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
