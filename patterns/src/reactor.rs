//! The reactor, a shard and its hub: every kind of context turns one.

use std::{io, task::Waker, time::Duration};

use zring_engine::{
    Parking, Shard, TurnWait, WaitStrategy,
    lead::{Adaptive, Idle, Spell, Turn, Waiter, Woken},
};

use crate::{
    config::Config,
    deadline::{deadline_ns, duration_ns},
    error::{Error, Refusal},
    hub::{Hub, SocketKey},
    inproc::Inproc,
    interest::{POLLIN, POLLOUT},
};

/// Everything that the sockets of one shard have in common.
#[derive(Debug)]
pub struct Reactor {
    pub(crate) shard: Shard,
    pub(crate) hub: Hub,
    drain_ns: u64,
    /// What a waiting call does before it sleeps, on a shard of one thread.
    idle: Idle,
    /// How the last waits of such calls went.
    adaptive: Adaptive,
    /// Counts the looks of spinning callers that found no mail.
    glances: u32,
    /// From here on every call fails with [`Error::Terminated`].
    pub(crate) is_terminated: bool,
}

/// A spinning caller asks the operating system once in this many looks, if there are links to look at instead.
const GLANCES: u32 = 16;

/// How often a call looks before it sleeps, if messages may come from another thread.
const PATIENCE: u32 = 256;

impl Reactor {
    pub(crate) fn new(shard: Shard, inproc: Inproc, drain_on_drop: Duration) -> Self {
        let drain_ns = duration_ns(drain_on_drop);
        Self {
            shard,
            hub: Hub::new(inproc),
            drain_ns,
            idle: Idle::Park,
            adaptive: Adaptive::default(),
            glances: 0,
            is_terminated: false,
        }
    }

    /// A reactor for several threads, on a shard of its own that the calling thread opens.
    pub(crate) fn open_shared(config: Config) -> Result<Self, Error> {
        let (inproc, drain_on_drop) = (config.inproc.clone(), config.drain_on_drop);
        let shard = Shard::open(config.into_shared_engine())?;
        let mut reactor = Self::new(shard, inproc, drain_on_drop);
        reactor.hub.share();
        Ok(reactor)
    }

    /// The bits of `events` that hold now: `POLLIN` if a message can be received at once, `POLLOUT` if a message can be
    /// sent.
    pub(crate) fn readiness(&mut self, socket: SocketKey, events: u8) -> u8 {
        let mut ready = 0;
        if events & POLLIN != 0 && self.hub.is_readable(&mut self.shard, socket) {
            ready |= POLLIN;
        }
        if events & POLLOUT != 0 && self.hub.sockets[socket].check_send().is_ok() {
            ready |= POLLOUT;
        }
        ready
    }

    /// Sets what waiting calls do before they sleep, on a shard of one thread.
    pub(crate) fn set_idle(&mut self, idle: Idle) {
        self.idle = idle;
    }

    pub(crate) fn turn(&mut self, wait: TurnWait) -> Result<usize, Error> {
        self.hub.flushing.wants_turn = false;
        self.hub.flushing.wants_flush = false;
        Ok(self.shard.turn(&mut self.hub, wait)?)
    }

    /// Submits queued messages and looks once for completions, without waiting.
    pub(crate) fn look(&mut self) -> Result<(), Error> {
        self.hub.flush_dirty(&mut self.shard);
        self.turn(TurnWait::No)?;
        Ok(())
    }

    /// Does the work that an operation left: hands submissions to the kernel, reaps a completion.
    #[inline]
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        if self.hub.flushing.wants_flush || self.hub.flushing.wants_turn {
            self.settle_now()
        } else {
            Ok(())
        }
    }

    #[inline(never)]
    fn settle_now(&mut self) -> Result<(), Error> {
        if self.hub.flushing.wants_flush {
            self.hub.flushing.wants_flush = false;
            self.shard.flush()?;
        }
        if self.hub.flushing.wants_turn {
            self.turn(TurnWait::No)?;
        }
        Ok(())
    }

    /// Repeats `attempt` until it succeeds, fails, or the time is up; turns the shard in between. An attempt that
    /// returns [`Refusal::WouldBlock`] is repeated. Queued batches are submitted before the call waits.
    pub(crate) fn wait_for<T>(
        &mut self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        // An attempt that succeeds at once needs no clock.
        match attempt(self) {
            Err(Refusal::WouldBlock) => {}
            done => return done,
        }
        let deadline_ns = deadline_ns(self.shard.clock(), timeout);
        let mut patience = PATIENCE;
        let mut looking = None;
        loop {
            let is_over = deadline_ns.is_some_and(|at_ns| self.shard.now_ns() >= at_ns);
            self.hub.flush_dirty(&mut self.shard);
            let spins = !is_over && self.looks(&mut looking);
            let is_spinning = self.shard.config().wait == WaitStrategy::Spin;
            let mut is_idle = false;
            if self.hub.has_links() && (is_spinning || patience > 0) && !is_over {
                patience = patience.saturating_sub(1);
                self.glance().map_err(Error::from)?;
                std::hint::spin_loop();
            } else {
                // The last look does not wait, so that a timeout of zero still makes progress.
                let looks = is_over || spins;
                let wait = if looks { TurnWait::No } else { TurnWait::Until(deadline_ns) };
                is_idle = self.turn(wait)? == 0;
            }
            let done = attempt(self);
            if is_over || !matches!(done, Err(Refusal::WouldBlock)) {
                self.end_looking(looking, done.is_ok());
                return done;
            }
            let spell = looking.as_mut().and_then(|looking| looking.spell.as_mut());
            spell.filter(|_| spins && is_idle).into_iter().for_each(Spell::rest);
        }
    }

    /// Whether a waiting call still looks before it sleeps. The first use of this function begins the call's wait.
    #[inline]
    fn looks(&mut self, looking: &mut Option<Looking>) -> bool {
        // A call that spins leaves looking to the driver.
        if matches!(self.idle, Idle::Park | Idle::Spin) {
            return false;
        }
        let looking = looking.get_or_insert_with(|| {
            let now_ns = self.shard.now_ns();
            let spell = (self.idle == Idle::Adaptive).then(|| self.adaptive.begin(now_ns));
            let until_ns = spell.map(|spell| spell.look_until_ns());
            Looking { until_ns: until_ns.unwrap_or(self.idle.spin_until_ns(|| now_ns)), spell }
        });
        if looking.until_ns > 0 && self.shard.now_ns() >= looking.until_ns {
            looking.until_ns = 0;
        }
        looking.until_ns > 0
    }

    #[inline]
    fn end_looking(&mut self, looking: Option<Looking>, brought: bool) {
        if let Some(Looking { spell: Some(spell), .. }) = looking {
            let brought_at_ns = brought.then(|| self.shard.now_ns());
            self.adaptive.end(spell, brought_at_ns);
        }
    }
}

/// The looks of a waiting call before it sleeps.
#[derive(Debug, Clone, Copy)]
struct Looking {
    /// The call looks until this time; 0: no longer.
    until_ns: u64,
    /// Set if the time depends on how the last waits went.
    spell: Option<Spell>,
}

impl Reactor {
    /// Removes closed sockets that have nothing left; returns how many unsent messages the other sockets have.
    fn reap(&mut self) -> u64 {
        let mut waiting = 0;
        for socket in self.hub.sockets.keys() {
            if self.hub.reap_socket(socket).is_none() {
                waiting += self.hub.unsent(socket);
            }
        }
        waiting
    }

    /// Sends queued messages before a thread sleeps. Returns whether there were any, since that may have made room.
    pub(crate) fn flush(&mut self) -> bool {
        let is_due = self.hub.has_dirty();
        self.hub.flush_dirty(&mut self.shard);
        is_due
    }

    /// Whether no closed socket is left.
    #[cfg(feature = "sim")]
    pub(crate) fn is_reaped(&mut self) -> bool {
        self.reap();
        self.hub.sockets.is_empty()
    }

    /// The owner has drained the reactor: dropping it does not drain again.
    pub(crate) fn end_drain(&mut self) {
        self.drain_ns = 0;
    }

    /// Begins to close a socket.
    pub(crate) fn close(&mut self, socket: SocketKey) {
        self.hub.close_socket(&mut self.shard, socket);
    }

    /// Whether calls are still answered; [`Error::Terminated`] if not.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_terminated { Err(Error::Terminated) } else { Ok(()) }
    }

    /// As [`Reactor::check`], where results stay in registers.
    #[inline]
    pub(crate) fn check_refusal(&self) -> Result<(), Refusal> {
        if self.is_terminated { Err(Error::Terminated.into()) } else { Ok(()) }
    }
}

/// A reactor that threads share is turned by the thread that leads.
impl Turn for Reactor {
    type Parking = Parking;

    fn turn(&mut self) -> io::Result<usize> {
        self.hub.flush_dirty(&mut self.shard);
        self.shard.turn(&mut self.hub, TurnWait::No)
    }

    fn park(&mut self, until_ns: Option<u64>) -> io::Result<Option<Parking>> {
        self.hub.flush_dirty(&mut self.shard);
        self.shard.park(&mut self.hub, until_ns)
    }

    fn unpark(&mut self, parking: Parking) {
        self.shard.unpark(parking);
    }

    #[inline]
    fn wants_turn(&self) -> bool {
        self.shard.wants_turn() || self.hub.has_mail()
    }

    /// Looks at the mail each time, which costs nothing. Asks the operating system only now and then, unless no other
    /// thread can send mail.
    #[inline]
    fn glance(&mut self) -> io::Result<usize> {
        if self.hub.has_mail() {
            return Ok(self.hub.handle_mail(&mut self.shard));
        }
        self.glances = self.glances.wrapping_add(1);
        if self.hub.has_links() && !self.glances.is_multiple_of(GLANCES) {
            return Ok(0);
        }
        Turn::turn(self)
    }

    fn settle(&mut self) -> io::Result<()> {
        self.shard.turn(&mut self.hub, TurnWait::No).map(drop)
    }

    #[inline]
    fn is_early(&self) -> bool {
        self.shard.is_early()
    }

    fn take_early(&mut self) -> bool {
        self.shard.take_early()
    }

    fn activity(&self) -> u64 {
        self.hub.pipes.refills
    }

    fn is_patient(&self) -> bool {
        self.hub.has_links()
    }

    fn has_waiters(&self) -> bool {
        self.hub.has_waiters()
    }

    fn take_woken(&mut self) -> Woken {
        self.hub.take_woken()
    }

    #[inline]
    fn has_woken(&self) -> bool {
        self.hub.has_woken()
    }

    fn is_done(&mut self) -> bool {
        self.reap();
        self.hub.sockets.is_empty()
    }

    fn now_ns(&self) -> u64 {
        self.shard.now_ns()
    }
}

/// A wait for one socket: repeats an attempt whenever something about the socket has changed.
pub(crate) struct Attempt<F> {
    socket: SocketKey,
    number: u64,
    attempt: F,
}

impl<F> Attempt<F> {
    pub(crate) fn new(socket: SocketKey, attempt: F) -> Self {
        Self { socket, number: 0, attempt }
    }
}

impl<T, F: FnMut(&mut Reactor) -> Result<T, Refusal>> Waiter<Reactor> for Attempt<F> {
    type Output = Result<T, Refusal>;

    fn attempt(&mut self, reactor: &mut Reactor) -> Option<Self::Output> {
        loop {
            match (self.attempt)(reactor) {
                Err(Refusal::WouldBlock) if reactor.flush() => {}
                Err(Refusal::WouldBlock) => return None,
                done => return Some(done),
            }
        }
    }

    fn enlist(&mut self, reactor: &mut Reactor, waker: &Waker) {
        self.number = reactor.hub.enlist(self.socket, waker.clone());
    }

    fn delist(&mut self, reactor: &mut Reactor) {
        reactor.hub.delist(self.socket, self.number);
    }
}

impl Drop for Reactor {
    /// Gives lingering sockets a bounded time to send what they have.
    fn drop(&mut self) {
        let until_ns = self.shard.now_ns().saturating_add(self.drain_ns);
        loop {
            let waiting = self.reap();
            if self.hub.sockets.is_empty() {
                return;
            }
            if self.shard.now_ns() >= until_ns {
                if waiting > 0 {
                    tracing::warn!(messages = waiting, "context dropped with unsent messages");
                }
                return;
            }
            if self.turn(TurnWait::Until(Some(until_ns))).is_err() {
                return;
            }
        }
    }
}
