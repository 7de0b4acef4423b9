//! The io_uring driver: one ring per shard, with SINGLE_ISSUER and DEFER_TASKRUN. The kernel therefore produces
//! completions only while the shard's own thread is inside the kernel.
//!
//! Longer than 600 lines: the implementation of the trait `Driver` is one piece.

mod bufring;
mod complete;
mod connect;
mod files;
mod fixed;
mod parking;
mod probe;
mod slot;
mod watch;
mod zero_copy;

use std::{
    collections::VecDeque,
    io,
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    task::{Wake, Waker},
};

use io_uring::{IoUring, opcode, squeue, types};

pub use parking::Parking;
pub use probe::{MASK_VARIABLE, Mask};

use self::{
    bufring::{BufRing, GROUP},
    fixed::FixedReads,
    probe::Features,
    slot::{Kind, Slot, Slots},
    watch::Watch,
    zero_copy::ZeroCopy,
};
use super::{
    Completion, Direct, Driver, OpId, Received, SEGMENTS_PER_SEND_MAX, Submission, Token, Wait,
    at_once,
    calls::{AGAIN_BYTES_MIN, Calls},
};
use crate::{
    buf::{Gather, Pool, Segment},
    config::{Config, WaitStrategy},
    error::Error,
    stats::ZeroCopyStats,
    sync::{Arc, AtomicBool, OnceLock, Ordering},
    sys::{eventfd::EventFd, net, pages::lock_limit_bytes},
};

/// User data of cancellations. Their own completions are ignored.
const CANCEL: u64 = u64::MAX;
/// User data of the poll on the waker's eventfd.
const WAKE: u64 = u64::MAX - 1;
/// User data of alarms, which only have to complete.
const ALARM: u64 = u64::MAX - 2;
/// How often a spinning poll looks at shared memory before it returns.
const SPINS: u32 = 512;
/// How many rounds a shutdown waits for the last completions before it leaks their memory instead.
const DRAIN_ROUNDS: u32 = 100;
const DRAIN_ROUND_NS: u64 = 20_000_000;
/// How many rounds a shutdown waits for zero-copy notifications of peers that have not acknowledged: about half a
/// second.
const HELD_ROUNDS: u32 = 25;
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

#[derive(Debug)]
struct EventFdWaker {
    /// The waker was called, and no completion has reported it yet. In a storm of wakes the flag saves each waker a
    /// system call, and the shard a completion each time the kernel's poll sees the counter rise.
    is_woken: AtomicBool,
    /// The eventfd that the ring polls.
    park: EventFd,
    /// The eventfd of [`Driver::event_fd`]. Linux 6.11 and later signal it only once for a completion that another
    /// eventfd caused (the deferred signal is never taken up again), so a wake signals it directly.
    shown: OnceLock<EventFd>,
}

impl Wake for EventFdWaker {
    fn wake(self: std::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            let _ = self.park.signal();
        }
        // Each poll drains the shown eventfd, whether the completion was reached or not, so signal it on every wake.
        if let Some(shown) = self.shown.get() {
            let _ = shown.signal();
        }
    }
}

/// See the module.
///
/// # Invariants
/// - Only the thread that opened it calls it.
/// - A slot is removed when its last completion was seen, never before.
pub struct Uring {
    // The fields are dropped in this order: the ring first, so that the kernel has let go of the rest.
    ring: IoUring,
    buffers: BufRing,
    slots: Slots,
    backlog: VecDeque<squeue::Entry>,
    /// Entries were queued since the kernel was entered last.
    pushed: bool,
    /// Some of these entries must not wait for the next poll.
    is_urgent: bool,
    /// Some receives may wait: only a poll completes them, and a poll that sleeps submits them with the same system
    /// call.
    defers: bool,
    /// Receives that are polled with `recv(2)` instead of armed; only while the shard spins.
    watch: Watch,
    spins: bool,
    /// Completions that do not come from the kernel.
    ended: VecDeque<Completion>,
    features: Features,
    zero_copy: ZeroCopy,
    fixed: FixedReads,
    calls: Calls,
    waker: Arc<EventFdWaker>,
    files: super::files::Desk,
    /// The time of the next alarm entry to be submitted, which points at it.
    alarm: Box<types::Timespec>,
    /// The ring's own descriptor, for threads that wait on it without the ring; made on first use.
    parking: Option<Arc<OwnedFd>>,
    /// How many threads wait on that descriptor.
    parked: u32,
}

// SAFETY: the raw pointers in the slots point into boxes that the slots own, and the kernel's access to them does not
// depend on the thread. The kernel lets no thread but the one that opened the ring enter it (SINGLE_ISSUER), so a ring
// on another thread is of no use and does no harm.
unsafe impl Send for Uring {}

impl Uring {
    /// Opens a ring for the calling thread, probes it and registers a buffer ring for a new pool.
    ///
    /// # Errors
    /// [`Error::Uring`] with the refused step, if the kernel lacks it or forbids it; [`Error::PoolMemory`].
    pub fn open(config: &Config) -> Result<(Self, Pool), Error> {
        let mask = Mask::resolve(config.uring_mask.as_deref())?;
        let refused = |step| move |cause| Error::Uring { step, cause };
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(config.completions)
            .build(config.submissions)
            .map_err(refused("io_uring_setup"))?;
        let features = Features::probe(&ring, mask).map_err(refused("probe"))?;
        let geometry = if features.incremental.is_some() { config.pool } else { config.pool_whole };
        let mut pool = Pool::open(geometry, &config.pool_memory, !config.shared)?;
        let buffers = BufRing::open(&ring, pool.config().buffers, features.incremental)
            .map_err(refused("IORING_REGISTER_PBUF_RING"))?;
        let park = EventFd::new().map_err(refused("eventfd"))?;
        let waker = Arc::new(EventFdWaker {
            is_woken: AtomicBool::new(false),
            park,
            shown: OnceLock::new(),
        });
        let mut this = Self {
            ring,
            buffers,
            slots: Slots::default(),
            backlog: VecDeque::new(),
            pushed: false,
            is_urgent: false,
            defers: !config.shared,
            watch: Watch::default(),
            spins: config.wait == WaitStrategy::Spin,
            ended: VecDeque::new(),
            features,
            zero_copy: ZeroCopy::new(features.zero_copy, config.zero_copy_bytes_min),
            fixed: FixedReads::new(features.fixed),
            calls: Calls::new(config),
            files: super::files::Desk::new(Waker::from(waker.clone())),
            waker,
            alarm: Box::default(),
            parking: None,
            parked: 0,
        };
        pool.set_waker(this.waker());
        this.provide(&mut pool);
        this.arm_wake();
        Ok((this, pool))
    }

    /// Whether buffers of the receive ring are consumed piece by piece.
    #[must_use]
    pub fn is_incremental(&self) -> bool {
        self.features.incremental.is_some()
    }

    /// Queues an entry. If the submission queue stays full, the entry waits in the backlog, which every later flush or
    /// poll empties first. If the kernel refuses the entry, that flush or poll returns the error.
    fn push(&mut self, entry: squeue::Entry) {
        self.is_urgent = true;
        self.push_deferred(entry);
    }

    /// As [`Uring::push`], for a receive that takes no buffer of the pool. Where buffers are scarce, the order of
    /// receives matters.
    fn push_deferred(&mut self, entry: squeue::Entry) {
        self.pushed = true;
        if self.backlog.is_empty() {
            // SAFETY: every entry built here points into a slot, a pool buffer or the waker, all of
            // which live until the operation's last completion was reaped.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
        let _ = self.enter();
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// One `io_uring_enter` without waiting: submits, and runs pending task work if there is any.
    fn enter(&mut self) -> io::Result<()> {
        interruptible(self.ring.submit())?;
        self.pushed = false;
        while !self.backlog.is_empty() {
            let waiting = self.backlog.len();
            self.push_backlog();
            if self.backlog.len() == waiting {
                break;
            }
            interruptible(self.ring.submit())?;
        }
        // The entries that the kernel did not take may be urgent.
        self.is_urgent = !self.ring.submission().is_empty() || !self.backlog.is_empty();
        Ok(())
    }

    /// Whether a completion waits. Only reads: dropping the queue's handle would store its head, and a spinning core
    /// must not keep taking away the cache line that the other core is about to flag.
    #[inline]
    fn has_completion(&mut self) -> bool {
        let queue = ManuallyDrop::new(self.ring.completion());
        !queue.is_empty()
    }

    /// Whether the kernel has to be entered. Only reads, as [`Uring::has_completion`] does.
    #[inline]
    fn has_work(&mut self) -> bool {
        let queue = ManuallyDrop::new(self.ring.submission());
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.backlog.is_empty()
    }

    /// Lets the kernel finish what it has begun. Returns whether anything completed. If not, ends the answered sends.
    #[cold]
    fn finds_more(&mut self) -> bool {
        if self.has_work() {
            // An error shows again in the next turn.
            let _ = self.enter();
        }
        let finds = self.has_completion();
        if !finds {
            self.end_answered();
        }
        finds
    }

    /// Whether a completion that does not come from the kernel is queued, or is about to be.
    #[inline]
    fn has_ended(&self) -> bool {
        !self.ended.is_empty() || self.zero_copy.has_answered()
    }

    /// Whether the next receive is to be polled instead of armed.
    fn watches(&self) -> bool {
        self.spins && self.parked == 0 && self.waker.shown.get().is_none() && self.watch.has_room()
    }

    /// Arms the receives that are no longer polled.
    fn arm_unserved(&mut self) {
        while let Some(op) = self.watch.pop_unserved() {
            let slot = self.slots.find(op).expect("a watched receive has its slot");
            slot.kind = Kind::Receive { once: false };
            let fd = slot.fd;
            let entry = self.receive_entry(fd, false);
            self.push(entry.user_data(op.0));
        }
    }

    fn arm_wake(&mut self) {
        let fd = types::Fd(self.waker.park.as_fd().as_raw_fd());
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push(poll.user_data(WAKE));
    }

    fn receive_entry(&self, fd: RawFd, once: bool) -> squeue::Entry {
        match self.features.multishot {
            Some(_) if !once => opcode::RecvMulti::new(types::Fd(fd), GROUP).build(),
            _ => opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        }
    }

    /// Submits the rest of `gather` from inside its slot.
    fn push_send(&mut self, op: OpId) {
        let slot = self.slots.find(op).expect("the caller holds the slot");
        let fd = types::Fd(slot.fd);
        let Kind::Send { gather, sent, message, zero_copy } = &mut slot.kind else {
            unreachable!("only sends are submitted here")
        };
        let entry = match single(gather) {
            Some(segment) if !zero_copy.asks => {
                let rest = &segment.bytes()[*sent..];
                let len = rest.len().min(u32::MAX as usize) as u32;
                opcode::Send::new(fd, rest.as_ptr(), len).flags(send_flags(rest.len())).build()
            }
            _ => {
                let message = message.as_mut().expect("taken with the slot");
                message.gather(gather, *sent);
                let header = &raw const message.header;
                if zero_copy.asks {
                    zero_copy::entry(fd, header)
                } else {
                    let flags = send_flags(gather.bytes() - *sent) as u32;
                    opcode::SendMsg::new(fd, header).flags(flags).build()
                }
            }
        };
        self.push(entry.user_data(op.0));
    }

    fn submit_send(&mut self, token: Token, fd: RawFd, gather: Gather, sent: usize) -> OpId {
        assert!(gather.segments().len() <= SEGMENTS_PER_SEND_MAX, "too many segments in one send");
        if gather.has_files() {
            return self.submit_files(token, fd, gather, sent);
        }
        let zero_copy = self.zero_copy.choose(token, fd, &gather);
        let needs_message = zero_copy.asks || single(&gather).is_none();
        let message = needs_message.then(|| self.slots.take_message());
        let op = self.slots.insert(token, fd, Kind::Send { gather, sent, message, zero_copy });
        self.push_send(op);
        op
    }

    fn submit_direct(&mut self, token: Token, fd: RawFd, direct: Direct) -> OpId {
        assert!(direct.spill.is_empty(), "the spill area must be empty");
        let message = self.slots.take_message();
        let op = self.slots.insert(token, fd, Kind::Direct { direct, room: 0, message });
        let Some(Slot { kind: Kind::Direct { direct, room, message }, .. }) = self.slots.find(op)
        else {
            unreachable!("just inserted")
        };
        *room = message.scatter(direct);
        let entry = opcode::RecvMsg::new(types::Fd(fd), &raw mut message.header).build();
        self.push_deferred(entry.user_data(op.0));
        op
    }
}

impl Driver for Uring {
    fn submit(&mut self, token: Token, submission: Submission) -> OpId {
        let (fd, kind) = match submission {
            Submission::Send { fd, gather, sent } => {
                return self.submit_send(token, fd, gather, sent);
            }
            Submission::ReceiveDirect { fd, direct } => {
                return self.submit_direct(token, fd, direct);
            }
            Submission::Accept { fd } => (fd, Kind::Accept),
            Submission::AwaitReadable { fd } => (fd, Kind::Readable),
            Submission::Connect { fd, address } => (fd, Kind::Connect { address, pause: None }),
            Submission::Receive { fd, once: false } if self.watches() => {
                let op = self.slots.insert(token, fd, Kind::Watched);
                self.watch.add(op);
                return op;
            }
            Submission::Receive { fd, once } => (fd, Kind::Receive { once }),
        };
        let op = self.slots.insert(token, fd, kind);
        let slot = self.slots.find(op).expect("just inserted");
        let entry = match &slot.kind {
            Kind::Accept => {
                opcode::AcceptMulti::new(types::Fd(fd)).flags(libc::SOCK_CLOEXEC).build()
            }
            Kind::Connect { address, .. } => connect::entry(fd, address),
            Kind::Readable => {
                let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).build();
                self.push_deferred(entry.user_data(op.0));
                return op;
            }
            &Kind::Receive { once } => self.receive_entry(fd, once),
            _ => unreachable!("submitted elsewhere"),
        };
        self.push(entry.user_data(op.0));
        op
    }

    fn close(&mut self, fd: OwnedFd) {
        self.forget_path(&fd);
    }

    fn zero_copy_stats(&self) -> ZeroCopyStats {
        self.zero_copy.stats()
    }

    fn try_send_list(&mut self, fd: BorrowedFd<'_>, gather: &Gather) -> usize {
        if gather.has_files() || self.zero_copy.is_for(gather) {
            return 0;
        }
        self.calls.send_list(fd, gather, 0).unwrap_or(0)
    }

    fn try_send_behind(&mut self, fd: BorrowedFd<'_>, head: &[u8], body: &[u8]) -> usize {
        if self.zero_copy.is_for_bytes(head.len() + body.len()) {
            return 0;
        }
        self.calls.send_behind(fd, head, body)
    }

    #[inline]
    fn try_receive(
        &mut self,
        fd: BorrowedFd<'_>,
        body: &mut [u8],
        spill: &mut Vec<u8>,
    ) -> io::Result<Option<usize>> {
        let received = match self.fixed.try_receive(fd, body) {
            None => net::try_recv_into(fd, body, spill),
            // A fixed read fills one piece of memory, so another receive fills the spill. Its end or error is dropped
            // here: the next receive meets it again, and is then the first to report it.
            Some(Ok(bytes)) if bytes == body.len() && spill.len() < spill.capacity() => {
                Ok(bytes + net::try_recv_into(fd, &mut [], spill).unwrap_or(0))
            }
            Some(received) => received,
        };
        at_once(received)
    }

    fn register(&mut self, memory: &mut [u8]) -> Result<bool, Error> {
        let bytes = memory.len();
        self.fixed.register(memory).map_err(|cause| {
            let limit_bytes = lock_limit_bytes();
            Error::Register { bytes, limit_bytes, cause }
        })
    }

    fn unregister(&mut self, memory: &[u8]) {
        self.fixed.unregister(memory);
    }

    fn registered_receives(&self) -> u64 {
        self.fixed.reads()
    }

    fn cancel(&mut self, op: OpId) {
        if let Some(completion) = self.watch.cancel(op, &mut self.slots) {
            return self.ended.push_back(completion);
        }
        let Some(slot) = self.slots.find(op) else { return };
        // Only the kernel still has a held send, and ends it when it can.
        if matches!(slot.kind, Kind::Held { .. }) {
            return;
        }
        let is_ours = matches!(slot.kind, Kind::Files { polls: false, .. });
        if !std::mem::replace(&mut slot.cancelled, true) {
            if is_ours {
                // The kernel has no operation for this send.
                let completion = self.end_files(op, Some(files::cancellation()));
                return self.end(completion);
            }
            self.push(opcode::AsyncCancel::new(op.0).build().user_data(CANCEL));
        }
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        let may_wait = self.defers && !self.is_urgent;
        if may_wait || (self.ring.submission().is_empty() && self.backlog.is_empty()) {
            return Ok(());
        }
        self.enter()
    }

    #[inline]
    fn poll(&mut self, wait: Wait) -> io::Result<()> {
        self.watch.start(wait == Wait::Spin);
        if let Some(event_fd) = self.waker.shown.get() {
            // Drain before looking, so that any later completion makes the descriptor readable again.
            let _ = event_fd.drain();
        }
        if wait == Wait::No || self.has_ended() || self.has_completion() {
            return if self.has_work() { self.enter() } else { Ok(()) };
        }
        if let Wait::Park(timeout_ns) = wait {
            if !self.backlog.is_empty() {
                // No entry may wait in the backlog while the thread sleeps. If the kernel takes none now, the caller
                // tries again.
                return self.enter();
            }
            (self.pushed, self.is_urgent) = (false, false);
            let park = match timeout_ns {
                None => self.ring.submit_and_wait(1),
                Some(ns) => {
                    let time = types::Timespec::from(std::time::Duration::from_nanos(ns));
                    let args = types::SubmitArgs::new().timespec(&time);
                    self.ring.submitter().submit_with_args(1, &args)
                }
            };
            return interruptible(park);
        }
        // If there are receives to poll, polling them is the spinning, and `next` does that.
        let spins = if self.watch.is_empty() { SPINS } else { 1 };
        for _ in 0..spins {
            if self.has_work() {
                self.enter()?;
            }
            if self.has_completion() {
                break;
            }
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn park(&mut self, timeout_ns: Option<u64>) -> io::Result<Option<super::Parking>> {
        // Only an armed receive ends a wait.
        self.watch.give_up();
        self.arm_unserved();
        if self.has_work() {
            self.enter()?;
        }
        if self.has_ended() || self.has_completion() || self.has_work() {
            return Ok(None);
        }
        let fd = match &self.parking {
            Some(fd) => fd.clone(),
            None => {
                // SAFETY: the ring keeps its descriptor open, longer than this borrow.
                let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
                self.parking.insert(Arc::new(fd.try_clone_to_owned()?)).clone()
            }
        };
        self.parked += 1;
        Ok(Some(super::Parking::Uring(Parking::new(fd, timeout_ns))))
    }

    fn unpark(&mut self, _parking: super::Parking) {
        self.parked -= 1;
    }

    #[inline]
    fn has_queued(&self) -> bool {
        self.has_ended() || !self.backlog.is_empty() || self.pushed
    }

    #[inline]
    fn next(&mut self, pool: &mut Pool) -> Option<Completion> {
        loop {
            // Drop the queue's handle before the entry is used.
            let entry = self.ring.completion().next();
            let Some(entry) = entry else {
                if self.zero_copy.has_answered() && self.finds_more() {
                    continue;
                }
                break;
            };
            if let Some(completion) = self.complete(&entry, pool) {
                return Some(completion);
            }
        }
        if let Some(completion) = self.ended.pop_front() {
            return Some(completion);
        }
        if self.watch.is_empty() {
            return None;
        }
        let Self { watch, slots, ring, .. } = self;
        let completion = watch.look(slots, pool, || {
            let queue = ManuallyDrop::new(ring.submission());
            queue.taskrun() || queue.cq_overflow()
        });
        self.arm_unserved();
        completion
    }

    fn buffers(&self, pool: &Pool) -> usize {
        // The buffer of polled receives serves them alone.
        pool.with_kernel()
    }

    #[inline]
    fn provide(&mut self, pool: &mut Pool) -> usize {
        self.buffers.provide(pool)
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.zero_copy.held()
    }

    fn shut_down(&mut self, pool: &mut Pool) -> bool {
        for op in self.slots.ids() {
            self.cancel(op);
        }
        let mut held_rounds = 0;
        for _ in 0..DRAIN_ROUNDS {
            while let Some(completion) = self.next(pool) {
                if let Completion::Received { received: Received::Bytes(chunk), .. } = completion {
                    pool.release(chunk);
                }
            }
            if self.slots.len() == 0 {
                return true;
            }
            held_rounds += u32::from(self.in_flight() == 0);
            if held_rounds > HELD_ROUNDS {
                break;
            }
            if self.poll(Wait::Park(Some(DRAIN_ROUND_NS))).is_err() {
                break;
            }
        }
        self.in_flight() == 0
    }

    fn waker(&self) -> Waker {
        Waker::from(self.waker.clone())
    }

    fn alarm(&mut self, after_ns: u64) {
        // The kernel copies the time when it takes the entry, which is now unless the kernel is short of memory. An
        // entry that has to wait then takes the time of a later alarm, which is earlier or as good.
        *self.alarm = types::Timespec::from(std::time::Duration::from_nanos(after_ns));
        self.push(opcode::Timeout::new(&raw const *self.alarm).build().user_data(ALARM));
        let _ = self.enter();
    }

    fn event_fd(&mut self) -> io::Result<BorrowedFd<'_>> {
        if self.waker.shown.get().is_none() {
            let event_fd = EventFd::new()?;
            self.ring.submitter().register_eventfd(event_fd.as_fd().as_raw_fd())?;
            // Completions from before the registration did not signal it.
            event_fd.signal()?;
            let _ = self.waker.shown.set(event_fd);
            // Only an armed receive makes the descriptor readable.
            self.defers = false;
            self.watch.give_up();
            self.arm_unserved();
            self.enter()?;
        }
        Ok(self.waker.shown.get().expect("made above").as_fd())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.in_flight() > 0 {
            // The kernel may still write into these slots: leaking the memory is the lesser evil.
            tracing::error!(
                ops = self.in_flight(),
                "io_uring operations did not end; leaking them"
            );
            self.buffers.leak();
            std::mem::forget(std::mem::take(&mut self.slots));
        } else if self.zero_copy.held() > 0 {
            // A peer has not acknowledged these sends yet. If their memory were reused, the new bytes would be sent to
            // it.
            tracing::warn!(
                sends = self.zero_copy.held(),
                "the kernel still sends from memory of a shard that is dropped: it is never freed"
            );
            self.keep_held();
        }
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("features", &self.features)
            .field("in_flight", &self.slots.len())
            .finish_non_exhaustive()
    }
}

/// Whether a send of so many bytes ends once the kernel's buffer is full: calls send the rest ([`Calls`]).
fn goes_on(bytes: usize) -> bool {
    bytes >= AGAIN_BYTES_MIN
}

fn send_flags(bytes: usize) -> i32 {
    if goes_on(bytes) { SEND_FLAGS & !libc::MSG_WAITALL } else { SEND_FLAGS }
}

/// The only segment, when there is exactly one.
fn single(gather: &Gather) -> Option<&Segment> {
    let mut segments = gather.segments();
    let first = segments.next()?;
    segments.next().is_none().then_some(first)
}

fn outcome(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Turns the outcomes in which an `io_uring_enter` ends early without a fault into success.
fn interruptible(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        // A signal, an expired wait, or a completion queue that must be reaped first.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}
