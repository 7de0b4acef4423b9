//! The readiness driver: completions made of non-blocking calls and a poller (epoll, kqueue, AFD, ... through the crate
//! `polling`).
//!
//! Sends and connects are tried when they are submitted. An operation that would block waits for its descriptor to
//! become ready; accepts and receives always wait first. [`Driver::next`] serves the ready descriptors in turn, with
//! one system call each, so that no descriptor keeps the others waiting.
//!
//! The driver is not bound to a thread: any thread that holds it may use it. Each look at the poller is one system call
//! on Linux, empty ones included.

mod alarm;
mod look;
mod operate;
mod parking;
mod slots;
mod sources;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use polling::{PollMode, Poller};

pub use parking::Parking;

use self::{
    alarm::{ALARM, Alarm},
    look::Looker,
    slots::{Kind, Slots},
    sources::{Sources, Work},
};
use super::{
    Completion, Driver, OpId, RETRY_PAUSE_MIN, SEGMENTS_PER_SEND_MAX, Submission, Token, Wait,
    calls::Calls, files, progress_of,
};
use crate::{
    buf::{Gather, Pool},
    config::Config,
    error::Error,
    sync::{Arc, AtomicBool, Ordering},
    sys::{
        self, BorrowedSocket, OwnedSocket, RawSocket, code,
        net::Progress,
        poller::{self, Found},
    },
};

/// How often a spinning poll looks before it returns.
const SPINS: u32 = 32;

#[derive(Debug)]
struct Notifier {
    looker: Arc<Looker>,
    /// The waker was called, and no completion has reported it yet.
    is_woken: AtomicBool,
}

impl Wake for Notifier {
    fn wake(self: std::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.looker.notify();
        }
    }
}

/// See the module.
///
/// # Invariants
/// - A descriptor is in the poller only while operations wait on it, or until the next flush after that.
/// - An operation has its slot until its last completion is made. That completion is then in `ended`, or with the
///   caller.
pub struct Ready {
    looker: Arc<Looker>,
    mode: PollMode,
    /// The events of the last look. Lent out while a thread is parked.
    found: Option<Found>,
    slots: Slots,
    sources: Sources,
    calls: Calls,
    /// Completions that wait for `next` to return them.
    ended: VecDeque<Completion>,
    /// The last completion came from `ended`, so it is the turn of a ready descriptor.
    prefers_ready: bool,
    /// The buffer that receives fill, one after the other.
    buffer: Option<u16>,
    /// How many buffers this turn has begun to fill.
    begun: u16,
    /// Connects to try again, by time.
    retries: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Counts polls, to bound the work that each of them does for one descriptor.
    turn: u64,
    notifier: Arc<Notifier>,
    files: files::Desk,
    /// Set once an event loop may watch the poller's descriptor. There are alarms only from then on.
    alarm: Option<Alarm>,
    /// Between poll and flush. The flush makes the descriptor readable if work is left over.
    is_turning: bool,
    /// How many threads wait in a [`Parking`].
    parked: u32,
    /// A parked thread has looked at the poller since the last poll.
    has_looked: bool,
}

impl Ready {
    /// Opens a poller and a receive pool.
    ///
    /// # Errors
    /// [`Error::Ready`], when the system is out of descriptors or memory; [`Error::PoolMemory`].
    pub fn open(config: &Config) -> Result<(Self, Pool), Error> {
        let poller = Poller::new().map_err(|cause| Error::Ready { step: "a poller", cause })?;
        let mode = if poller.supports_level() { PollMode::Level } else { PollMode::Oneshot };
        let this = Self::with(poller, mode, Calls::new(config));
        let mut pool = Pool::open(config.pool, &config.pool_memory, !config.shared)?;
        pool.set_waker(this.waker());
        Ok((this, pool))
    }

    fn with(poller: Poller, mode: PollMode, calls: Calls) -> Self {
        let looker = Arc::new(Looker::new(poller));
        let notifier = Notifier { looker: looker.clone(), is_woken: AtomicBool::new(false) };
        let notifier = Arc::new(notifier);
        Self {
            looker,
            mode,
            found: None,
            slots: Slots::default(),
            sources: Sources::new(mode),
            calls,
            ended: VecDeque::new(),
            prefers_ready: false,
            buffer: None,
            begun: 0,
            retries: BinaryHeap::new(),
            turn: 0,
            files: files::Desk::new(Waker::from(notifier.clone())),
            notifier,
            alarm: None,
            is_turning: false,
            parked: 0,
            has_looked: false,
        }
    }

    fn has_leftover(&self) -> bool {
        !self.ended.is_empty() || self.sources.has_leftover()
    }

    /// Queues a completion for [`Driver::next`].
    fn end(&mut self, completion: Completion) {
        self.ended.push_back(completion);
        if self.alarm.is_some() && !self.is_turning {
            self.looker.notify();
        }
    }

    /// The first half of a poll or a park: the work that needs no look at the poller.
    fn prepare(&mut self) -> io::Result<()> {
        self.sources.flush(&self.looker.poller)?;
        self.tell_parked();
        if !self.retries.is_empty() {
            self.retry_connects(Instant::now());
        }
        Ok(())
    }

    /// The timeout, cut short by the next connect to try again.
    fn bounded(&self, timeout_ns: Option<u64>) -> Option<Duration> {
        let timeout = timeout_ns.map(Duration::from_nanos);
        let Some(&Reverse((at, _))) = self.retries.peek() else { return timeout };
        let retry = at.saturating_duration_since(Instant::now());
        Some(timeout.map_or(retry, |timeout| timeout.min(retry)))
    }

    /// Ends the look of a parked thread if that look would miss the changes made in the poller meanwhile.
    fn tell_parked(&mut self) {
        if poller::IS_DEAF_WHILE_LOOKING
            && std::mem::take(&mut self.sources.has_told)
            && self.parked > 0
        {
            self.looker.notify();
        }
    }

    fn look(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut found = self.found.take().unwrap_or_default();
        let looked = self.looker.wait(&mut found, timeout);
        let filed = self.file(&found);
        self.found = Some(found);
        looked.and(filed)
    }

    fn file(&mut self, found: &Found) -> io::Result<()> {
        for event in found.iter() {
            if event.key != ALARM {
                self.sources.note(event);
            } else if let Some(alarm) = &mut self.alarm {
                alarm.on_rung(&self.looker.poller)?;
            }
        }
        Ok(())
    }

    fn note_woken(&mut self) {
        let is_woken = &self.notifier.is_woken;
        // The swap is a locked instruction, the load before it is not.
        if is_woken.load(Ordering::Relaxed) && is_woken.swap(false, Ordering::AcqRel) {
            self.ended.push_back(Completion::Woken);
            self.hear_files();
        }
    }

    fn start_reading(&mut self, token: Token, fd: RawSocket, kind: Kind) -> OpId {
        let awaits = matches!(kind, Kind::Readable);
        let op = self.slots.insert(token, fd, kind);
        let index = self.sources.enter(fd);
        let source = self.sources.get(index);
        debug_assert!(source.read.is_none(), "one accept or receive at a time");
        source.read = Some(op);
        // A caller that awaits readability has just looked at the socket itself.
        let is_hot = source.is_hot && !awaits;
        if let Err(refused) = self.wait_for(op, index) {
            self.end(refused);
        } else if is_hot {
            // The last read filled its buffer, so more bytes are likely: do not wait for the poller to report them.
            self.sources.note_readable(index);
        }
        op
    }

    /// Arms the poller for an operation that is noted at its source. If the poller refuses, the operation ends.
    fn wait_for(&mut self, op: OpId, index: usize) -> Result<(), Completion> {
        self.slots.find(op).expect("the caller holds the slot").source = Some(index);
        let armed = self.sources.arm(&self.looker.poller, index);
        self.tell_parked();
        armed.map_err(|error| self.abort(op, error).expect("still under way"))
    }
}

impl Driver for Ready {
    fn close(&mut self, fd: OwnedSocket) {
        self.sources.close(&self.looker.poller, sys::raw(&fd));
        drop(fd);
    }

    fn submit(&mut self, token: Token, submission: Submission) -> OpId {
        match submission {
            Submission::Accept { fd } => self.start_reading(token, fd, Kind::Accept),
            Submission::Receive { fd, once } => {
                self.start_reading(token, fd, Kind::Receive { once })
            }
            Submission::AwaitReadable { fd } => self.start_reading(token, fd, Kind::Readable),
            Submission::ReceiveDirect { fd, direct } => {
                assert!(direct.spill.is_empty(), "the spill area must be empty");
                self.start_reading(token, fd, Kind::Direct(direct))
            }
            Submission::Connect { fd, address } => {
                let pause = RETRY_PAUSE_MIN;
                let op = self.slots.insert(token, fd, Kind::Connect { address, pause });
                self.attempt_connect(op);
                op
            }
            Submission::Send { fd, gather, sent } => {
                let segments = gather.segments().len();
                assert!(segments <= SEGMENTS_PER_SEND_MAX, "too many segments in one send");
                let kind = match gather.has_files() {
                    true => Kind::Files(Box::new(files::FileSend::new(gather, sent))),
                    false => Kind::Send { gather, sent },
                };
                let op = self.slots.insert(token, fd, kind);
                if let Some(completion) = self.proceed_write(op) {
                    self.end(completion);
                }
                op
            }
        }
    }

    fn try_send_list(&mut self, fd: BorrowedSocket<'_>, gather: &Gather) -> usize {
        if gather.has_files() { 0 } else { self.calls.send_list(fd, gather, 0).unwrap_or(0) }
    }

    fn try_send_behind(&mut self, fd: BorrowedSocket<'_>, head: &[u8], body: &[u8]) -> usize {
        self.calls.send_behind(fd, head, body)
    }

    fn progress(&mut self, fd: BorrowedSocket<'_>, send: Option<OpId>) -> Progress {
        let mut progress = progress_of(fd, send);
        if let Some(Kind::Send { sent, .. }) =
            send.and_then(|op| self.slots.find(op)).map(|it| &it.kind)
        {
            progress.taken = progress.taken.wrapping_add(*sent as u64);
        }
        progress
    }

    fn cancel(&mut self, op: OpId) {
        let error = code::canceled();
        if let Some(completion) = self.abort(op, error) {
            self.end(completion);
        }
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        self.is_turning = false;
        if self.alarm.is_some() && self.has_leftover() {
            self.looker.notify();
        }
        let flushed = self.sources.flush(&self.looker.poller);
        self.tell_parked();
        flushed
    }

    fn poll(&mut self, wait: Wait) -> io::Result<()> {
        self.is_turning = true;
        self.turn += 1;
        self.begun = 0;
        self.sources.resume();
        self.prepare()?;
        match wait {
            Wait::Park(timeout_ns) if !self.has_leftover() && self.parked == 0 => {
                self.look(self.bounded(timeout_ns))?;
            }
            Wait::Spin if !self.has_leftover() => {
                for _ in 0..SPINS {
                    self.look(Some(Duration::ZERO))?;
                    if self.has_leftover() || self.notifier.is_woken.load(Ordering::Relaxed) {
                        break;
                    }
                    std::hint::spin_loop();
                }
            }
            // A parked thread has just looked.
            _ if std::mem::take(&mut self.has_looked) && self.alarm.is_none() => {}
            _ => self.look(Some(Duration::ZERO))?,
        }
        self.note_woken();
        Ok(())
    }

    fn park(&mut self, timeout_ns: Option<u64>) -> io::Result<Option<super::Parking>> {
        self.prepare()?;
        self.note_woken();
        if self.has_leftover() {
            return Ok(None);
        }
        self.parked += 1;
        let found = self.found.take().unwrap_or_default();
        let parking = Parking::new(self.looker.clone(), found, self.bounded(timeout_ns));
        Ok(Some(super::Parking::Ready(parking)))
    }

    fn unpark(&mut self, parking: super::Parking) {
        self.parked -= 1;
        #[cfg_attr(not(target_os = "linux"), expect(irrefutable_let_patterns))]
        let super::Parking::Ready(parking) = parking else { return };
        if let Err(error) = self.file(&parking.found) {
            tracing::error!(%error, "an alarm could not be armed again");
        }
        self.found = Some(parking.found);
        self.has_looked = true;
    }

    #[inline]
    fn has_queued(&self) -> bool {
        self.has_leftover()
    }

    fn next(&mut self, pool: &mut Pool) -> Option<Completion> {
        loop {
            // Take turns: operations that the handler completes at once must not hold up what others wait for.
            if !self.prefers_ready || !self.sources.has_ready() {
                self.prefers_ready = true;
                if let Some(completion) = self.ended.pop_front() {
                    return Some(completion);
                }
            }
            self.prefers_ready = false;
            let completion = match self.sources.next_ready() {
                Some(Work::Read { index, op }) => self.proceed_read(index, op, pool),
                Some(Work::Write { op }) => self.proceed_write(op),
                None if self.ended.is_empty() => return None,
                None => None,
            };
            if completion.is_some() {
                return completion;
            }
        }
    }

    fn buffers(&self, pool: &Pool) -> usize {
        let ready = pool.ready_len().min(usize::from(pool.config().with_kernel));
        ready + usize::from(self.buffer.is_some())
    }

    fn provide(&mut self, _pool: &mut Pool) -> usize {
        // Receives take buffers one at a time, when there are bytes to put into them.
        0
    }

    fn in_flight(&self) -> usize {
        self.slots.len()
    }

    fn shut_down(&mut self, _pool: &mut Pool) -> bool {
        // Completions that were not returned yet are dropped, too: that closes accepted sockets.
        self.sources.clear(&self.looker.poller);
        self.slots.clear();
        self.ended.clear();
        self.retries.clear();
        true
    }

    fn waker(&self) -> Waker {
        Waker::from(self.notifier.clone())
    }

    fn alarm(&mut self, after_ns: u64) {
        if let Some(at) = Instant::now().checked_add(Duration::from_nanos(after_ns)) {
            self.alarm_at(at);
        }
    }

    fn event_fd(&mut self) -> io::Result<BorrowedSocket<'_>> {
        poller::descriptor(&self.looker.poller)?;
        if self.alarm.is_none() {
            self.alarm = Some(Alarm::open(&self.looker.poller, self.mode)?);
            if let Some(&Reverse((at, _))) = self.retries.peek() {
                self.alarm_at(at);
            }
            // Work from before did not show on the descriptor.
            self.looker.notify();
        }
        poller::descriptor(&self.looker.poller)
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.sources.clear(&self.looker.poller);
        if let Some(alarm) = &self.alarm {
            alarm.close(&self.looker.poller);
        }
    }
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready")
            .field("mode", &self.mode)
            .field("in_flight", &self.slots.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
