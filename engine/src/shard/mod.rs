//! One engine: a driver, a pool and connections, turned by one thread at a time.

mod connections;
mod dispatch;
mod starved;

use std::{io, task::Waker};

use slab::Slab;

use self::starved::Starved;
use crate::{
    buf::{ArenaPool, Buffers, Chunk, Pool},
    config::{Config, WaitStrategy},
    conn::{Conn, ConnId},
    driver::{Driver, Kind, Native, Parking, Wait},
    error::Error,
    handler::Handler,
    resolver::{ResolveError, Resolver},
    stats::ShardStats,
    sys::BorrowedSocket,
    time::Clock,
    timer::{TimerId, Timers},
};

/// How long one turn may take when nothing is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnWait {
    /// Do not wait.
    No,
    /// Wait as the shard's strategy says, at most until this time in nanoseconds (`None`: no bound).
    Until(Option<u64>),
}

/// One engine. [`Shard::turn`] is its only loop body. All other methods queue work for the next turn, or the
/// [`Handler`] calls them from inside a turn.
///
/// A shard works only on the thread that opened it; on other threads each turn is refused. A shard that was opened with
/// [`Config::shared`] on the ready driver may be turned by any thread, one at a time ([`Shard::is_mobile`]). Dropping a
/// shard cancels all operations and waits for their last completions before any memory is freed.
pub struct Shard {
    driver: Native,
    /// Its leases may outlive the shard.
    pool: Pool,
    /// Blocks for encoded bytes on their way out.
    pub arena: ArenaPool,
    conns: Slab<Conn>,
    generation: u32,
    /// Connections whose receive waits for a buffer.
    starved: Starved,
    /// Closing connections without operations in flight, and connections whose receive was stopped while it waited for
    /// a buffer.
    quiet: Vec<ConnId>,
    timers: Timers<u64>,
    clock: Clock,
    resolver: Option<Resolver>,
    /// When the event descriptor's alarms will ring, the next one last; `None` until the descriptor is in use.
    alarms_ns: Option<Vec<u64>>,
    is_turning: bool,
    /// How many threads wait in a [`Parking`].
    parked: u32,
    /// The latest time at which one of these waits times out ([`u64::MAX`]: never).
    parked_until_ns: u64,
    config: Config,
    stats: ShardStats,
}

impl Shard {
    /// Opens a shard for the calling thread, on the driver that the configuration chooses.
    ///
    /// # Errors
    /// When the configuration is out of bounds or the kernel refuses the driver.
    pub fn open(config: Config) -> Result<Self, Error> {
        if !config.pool.is_valid() || !config.pool_whole.is_valid() {
            return Err(Error::Config("pool geometry"));
        }
        if config.completions_per_turn == 0 || config.arena_block_bytes < 4096 {
            return Err(Error::Config("completions_per_turn or arena_block_bytes"));
        }
        let (driver, pool) = Native::open(&config)?;
        Ok(Self {
            driver,
            pool,
            arena: ArenaPool::new(config.arena_block_bytes, config.arena_blocks_max),
            conns: Slab::new(),
            generation: 0,
            starved: Starved::default(),
            quiet: Vec::new(),
            timers: Timers::new(),
            clock: Clock::new(),
            resolver: None,
            alarms_ns: None,
            is_turning: false,
            parked: 0,
            parked_until_ns: 0,
            config,
            stats: ShardStats::default(),
        })
    }

    /// The driver that the shard runs on.
    #[must_use]
    pub fn driver(&self) -> Kind {
        self.driver.kind()
    }

    /// Whether any thread may turn the shard.
    #[must_use]
    pub fn is_mobile(&self) -> bool {
        self.driver.kind() != Kind::Uring && self.config.shared
    }

    fn check_thread(&self) -> io::Result<()> {
        if self.pool.is_at_home() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the shard belongs to another thread"))
    }

    /// The receive pool, for inspection.
    #[must_use]
    #[inline]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The receive pool, to take leases from and release chunks to, and the send arena.
    #[inline]
    pub fn memory(&mut self) -> (Buffers<'_>, &mut ArenaPool) {
        (self.pool.buffers(), &mut self.arena)
    }

    /// The handler is done with a chunk.
    ///
    /// # Panics
    /// If the chunk came from another shard.
    #[inline]
    pub fn release(&mut self, chunk: Chunk) {
        self.pool.release(chunk);
    }

    /// Nanoseconds on the shard's monotonic clock.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// A copy of the shard's clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Totals so far.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        ShardStats {
            pool: self.pool.stats(),
            zero_copy: self.driver.zero_copy_stats(),
            registered_receives: self.driver.registered_receives(),
            pool_backing: self.pool.backing(),
            ..self.stats
        }
    }

    /// The configuration that the shard was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Wakes the shard from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.driver.waker()
    }

    /// A descriptor that polls readable when [`Shard::turn`] has something to do, timers included. Turning makes it
    /// unreadable again. The first call makes the descriptor; from then on each batch of completions costs one more
    /// system call.
    ///
    /// # Errors
    /// When the kernel refuses an eventfd.
    pub fn event_fd(&mut self) -> io::Result<BorrowedSocket<'_>> {
        self.alarms_ns.get_or_insert_default();
        self.driver.event_fd()
    }

    /// When the next timer is due.
    pub fn next_deadline_ns(&mut self) -> Option<u64> {
        self.timers.next_deadline_ns()
    }

    /// Submits what is queued to the kernel at once. A receive that only a turn can complete may stay queued until
    /// then.
    ///
    /// # Errors
    /// When the kernel refuses; the shard is not usable any more then.
    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        self.driver.flush()
    }

    /// Arms a timer; [`Handler::on_timer`] gets the token.
    pub fn arm_timer(&mut self, deadline_ns: u64, token: u64) -> TimerId {
        let timer = self.timers.arm(deadline_ns, token);
        if !self.is_turning {
            self.set_alarm();
        }
        timer
    }

    /// Disarms a timer. Does nothing if the timer has fired.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        self.timers.cancel(timer);
    }

    /// Resolves a name on the resolver's thread; [`Handler::on_resolved`] gets the token.
    ///
    /// # Errors
    /// When too many lookups are under way or the thread cannot be started; no answer follows then.
    pub fn resolve(
        &mut self,
        host: &str,
        port: u16,
        ipv6: bool,
        token: u64,
    ) -> Result<(), ResolveError> {
        let waker = self.driver.waker();
        let resolver = self
            .resolver
            .get_or_insert_with(|| Resolver::new(std::sync::Arc::new(move || waker.wake_by_ref())));
        resolver.resolve(host, port, ipv6, token)
    }

    /// How many operations wait for their last completion.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.driver.in_flight()
    }

    /// The loop body: submits what is queued, waits as told, dispatches completions, due timers and resolved names to
    /// the handler, and submits what the handler queued. Returns how many things were handled.
    ///
    /// # Errors
    /// When the kernel refuses to turn the ring; the shard is not usable any more then.
    pub fn turn(&mut self, handler: &mut impl Handler, wait: TurnWait) -> io::Result<usize> {
        self.check_thread()?;
        self.is_turning = true;
        let wait = self.prepare(handler, wait);
        self.driver.poll(wait)?;
        let mut work = 0;
        while work < self.config.completions_per_turn {
            let Some(completion) = self.driver.next(&mut self.pool) else { break };
            self.dispatch(handler, completion);
            work += 1;
        }
        let is_cut_short = work == self.config.completions_per_turn;
        work += self.expire(handler);
        work += handler.on_turn(self);
        work += self.finish_quiet(handler);
        work += self.deliver_names(handler);
        self.stats.turns += 1;
        self.stats.completions += work as u64;
        if self.alarms_ns.is_some() {
            self.prepare_event_fd(handler, is_cut_short);
        }
        self.driver.flush()?;
        self.is_turning = false;
        Ok(work)
    }

    /// Makes the event descriptor readable if the next turn would find something to do.
    #[cold]
    fn prepare_event_fd(&mut self, handler: &mut impl Handler, is_cut_short: bool) {
        self.relieve(handler);
        if is_cut_short || self.is_hungry() || !self.quiet.is_empty() || !handler.on_sleep() {
            self.driver.waker().wake_by_ref();
        }
        self.set_alarm();
    }

    /// Keeps the event descriptor's next alarm no later than the next timer.
    fn set_alarm(&mut self) {
        let Some(alarms_ns) = &mut self.alarms_ns else { return };
        let Some(deadline_ns) = self.timers.next_deadline_ns() else { return };
        let now_ns = self.clock.now_ns();
        while alarms_ns.last().is_some_and(|&alarm_ns| alarm_ns <= now_ns) {
            alarms_ns.pop();
        }
        if alarms_ns.last().is_none_or(|&alarm_ns| deadline_ns < alarm_ns) {
            alarms_ns.push(deadline_ns);
            self.driver.alarm(deadline_ns.saturating_sub(now_ns));
        }
    }

    /// Gives buffers back to the kernel and to starved receives, and decides how long the driver may wait.
    fn prepare(&mut self, handler: &mut impl Handler, wait: TurnWait) -> Wait {
        self.restock(handler);
        if !self.starved.is_empty() {
            self.feed_starved();
        }
        let TurnWait::Until(until_ns) = wait else { return Wait::No };
        if !self.quiet.is_empty() || self.is_hungry() {
            return Wait::No;
        }
        if self.config.wait == WaitStrategy::Spin {
            return Wait::Spin;
        }
        if !handler.on_sleep() {
            return Wait::No;
        }
        let deadline_ns = self.earliest(until_ns);
        Wait::Park(deadline_ns.map(|at_ns| at_ns.saturating_sub(self.clock.now_ns())))
    }

    /// Collects the buffers that came back to the pool and hands them to the driver.
    fn restock(&mut self, handler: &mut impl Handler) {
        self.pool.collect();
        if self.pool.ready_len() > 0 {
            self.driver.provide(&mut self.pool);
        }
        self.relieve(handler);
    }

    fn earliest(&self, until_ns: Option<u64>) -> Option<u64> {
        match (until_ns, self.timers.next_deadline_ns()) {
            (Some(until), Some(timer)) => Some(until.min(timer)),
            (until, timer) => until.or(timer),
        }
    }

    /// Prepares to wait without holding the shard: submits what is queued and returns the object to wait on, at most
    /// until the given time or the next timer. `None` when there is something to do already. While a thread waits,
    /// other threads may use the shard. [`Shard::wants_turn`] and [`Shard::take_early`] tell them when their work has
    /// to end the wait; they end it with [`Shard::waker`]. After the wait, call [`Shard::unpark`] in any case.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn park(
        &mut self,
        handler: &mut impl Handler,
        until_ns: Option<u64>,
    ) -> io::Result<Option<Parking>> {
        self.is_turning = true;
        self.restock(handler);
        self.is_turning = false;
        if !self.quiet.is_empty() || self.is_hungry() || !handler.on_sleep() {
            return Ok(None);
        }
        let deadline_ns = self.earliest(until_ns);
        let timeout_ns = deadline_ns.map(|at_ns| at_ns.saturating_sub(self.clock.now_ns()));
        if timeout_ns == Some(0) {
            return Ok(None);
        }
        let parking = self.driver.park(timeout_ns)?;
        if parking.is_some() {
            let until_ns = deadline_ns.unwrap_or(u64::MAX);
            let others_ns = if self.parked == 0 { 0 } else { self.parked_until_ns };
            self.parked_until_ns = until_ns.max(others_ns);
            self.parked += 1;
        }
        Ok(parking)
    }

    /// Ends a wait. The caller then has to turn the shard without waiting.
    pub fn unpark(&mut self, parking: Parking) {
        self.parked -= 1;
        self.driver.unpark(parking);
    }

    /// Whether a thread waits in a [`Parking`].
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.parked > 0
    }

    /// Whether operations were queued, or ended, that only a turn carries on.
    #[must_use]
    #[inline]
    pub fn wants_turn(&self) -> bool {
        !self.quiet.is_empty() || self.driver.has_queued()
    }

    /// Whether a timer was armed that is due before the waits in a [`Parking`] time out: the caller has to end them
    /// with [`Shard::waker`]. Returns `true` once for each such timer.
    pub fn take_early(&mut self) -> bool {
        let is_early = self.is_early();
        if is_early {
            self.parked_until_ns = self.timers.next_deadline_ns().unwrap_or(self.parked_until_ns);
        }
        is_early
    }

    /// As [`Shard::take_early`], but returns `true` each time.
    #[must_use]
    #[inline]
    pub fn is_early(&self) -> bool {
        let timer_ns = self.timers.next_deadline_ns();
        self.parked > 0 && timer_ns.is_some_and(|timer_ns| timer_ns < self.parked_until_ns)
    }

    fn expire(&mut self, handler: &mut impl Handler) -> usize {
        if self.timers.next_deadline_ns().is_none() {
            return 0;
        }
        let now_ns = self.clock.now_ns();
        let mut expired = 0;
        while let Some(token) = self.timers.expire(now_ns) {
            expired += 1;
            handler.on_timer(self, token);
        }
        expired
    }

    fn deliver_names(&mut self, handler: &mut impl Handler) -> usize {
        let mut delivered = 0;
        while let Some(answer) = self.resolver.as_mut().and_then(Resolver::poll_resolved) {
            delivered += 1;
            handler.on_resolved(self, answer.token, answer.addresses);
        }
        delivered
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        if !self.driver.shut_down(&mut self.pool) {
            // The kernel may still write into the pool, so the pool is never freed.
            self.pool.leak();
        }
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("driver", &self.driver)
            .field("pool", &self.pool)
            .field("connections", &self.conns.len())
            .finish_non_exhaustive()
    }
}
