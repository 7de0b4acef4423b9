//! One engine: a driver, a pool and connections, turned by one thread at a time.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::Waker,
};

use slab::Slab;
use socket2::SockAddr;

use crate::{
    buf::{ArenaPool, Gather, Pool},
    config::{Config, WaitStrategy},
    conn::{Conn, ConnId, ListenerId, Receive},
    driver::{Completion, Direct, Driver, Native, OpId, Received, Submission, Token, Wait},
    error::Error,
    handler::{Handler, ReceiveEnd},
    resolver::{ResolveError, Resolver},
    stats::ShardStats,
    time::Clock,
    timer::{TimerId, Timers},
};

/// How long one turn may take when nothing is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnWait {
    /// Only look.
    No,
    /// Wait as the shard's strategy says, at most until this time in nanoseconds (none: no bound).
    Until(Option<u64>),
}

/// One engine. [`Shard::turn`] is its only loop body; everything else queues work for the next turn
/// or is called by the [`Handler`] from inside one.
///
/// It belongs to the thread that opened it. Dropping it cancels all operations and waits for their
/// last completions before any memory is freed.
pub struct Shard {
    driver: Native,
    /// The receive pool; its leases may outlive the shard.
    pub pool: Pool,
    /// Blocks for encoded bytes on their way out.
    pub arena: ArenaPool,
    conns: Slab<Conn>,
    generation: u32,
    /// Connections whose receive waits for a buffer.
    starved: Vec<ConnId>,
    /// Connections that went quiet while closing, or were to stop while they waited for a buffer.
    quiet: Vec<ConnId>,
    timers: Timers<u64>,
    clock: Clock,
    resolver: Option<Resolver>,
    /// When the event descriptor's alarms will ring, the next one last; `None` until it is in use.
    alarms_ns: Option<Vec<u64>>,
    is_turning: bool,
    config: Config,
    stats: ShardStats,
}

impl Shard {
    /// Opens a shard for the calling thread.
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
            starved: Vec::new(),
            quiet: Vec::new(),
            timers: Timers::new(),
            clock: Clock::new(),
            resolver: None,
            alarms_ns: None,
            is_turning: false,
            config,
            stats: ShardStats::default(),
        })
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
        ShardStats { pool: self.pool.stats(), ..self.stats }
    }

    /// The configuration it was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Wakes the shard from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.driver.waker()
    }

    /// A descriptor that polls readable when [`Shard::turn`] has something to do, timers included. Turning
    /// makes it unreadable again. Made on first use; it costs a system call per batch of completions.
    ///
    /// # Errors
    /// When the kernel refuses an eventfd.
    pub fn event_fd(&mut self) -> io::Result<BorrowedFd<'_>> {
        self.alarms_ns.get_or_insert_default();
        self.driver.event_fd()
    }

    /// When the next timer is due.
    pub fn next_deadline_ns(&mut self) -> Option<u64> {
        self.timers.next_deadline_ns()
    }

    fn insert(&mut self, fd: OwnedFd, listener: bool) -> ConnId {
        self.generation = (self.generation + 1) & (u32::MAX >> 1);
        let generation = self.generation;
        let index = self.conns.insert(Conn::new(fd, generation, listener)) as u32;
        ConnId { index, generation }
    }

    fn find(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.index()).filter(|conn| conn.generation == id.generation)
    }

    /// The connection behind a completion's token. Slots end before their connection does, so it exists.
    fn by_token(&mut self, token: Token) -> (ConnId, &mut Conn) {
        let id = ConnId { index: token as u32, generation: (token >> 32) as u32 };
        let conn = self.find(id).expect("a connection outlives its operations");
        (id, conn)
    }

    /// Takes over a listening socket and accepts on it.
    pub fn listen(&mut self, fd: OwnedFd) -> ListenerId {
        let id = ListenerId(self.insert(fd, true));
        self.accept(id);
        id
    }

    /// Accepts again after [`Handler::on_accept_failed`] said that accepting had ended.
    pub fn accept(&mut self, ListenerId(id): ListenerId) {
        let Some(conn) = self.find(id).filter(|conn| conn.setup.is_none() && !conn.closing) else {
            return;
        };
        let fd = conn.raw();
        let op = self.driver.submit(id.to_u64(), Submission::Accept { fd });
        self.conns[id.index()].setup = Some(op);
    }

    /// Stops listening. The descriptor is closed when the kernel has let go of it.
    pub fn close_listener(&mut self, ListenerId(id): ListenerId) {
        self.close(id);
    }

    /// Connects an unconnected socket; the answer is [`Handler::on_connected`].
    pub fn connect(&mut self, fd: OwnedFd, address: SockAddr) -> ConnId {
        let id = self.insert(fd, false);
        let fd = self.conns[id.index()].raw();
        let submission = Submission::Connect { fd, address: Box::new(address) };
        let op = self.driver.submit(id.to_u64(), submission);
        self.conns[id.index()].setup = Some(op);
        id
    }

    /// The connection's descriptor, unless the id is stale.
    #[must_use]
    pub fn fd(&self, id: ConnId) -> Option<BorrowedFd<'_>> {
        let conn = self.conns.get(id.index())?;
        (conn.generation == id.generation).then(|| conn.fd.as_fd())
    }

    /// The listener's descriptor, unless the id is stale.
    #[must_use]
    pub fn listener_fd(&self, ListenerId(id): ListenerId) -> Option<BorrowedFd<'_>> {
        self.fd(id)
    }

    /// Receives into the pool until stopped.
    ///
    /// # Panics
    /// If the connection receives already.
    pub fn receive_ring(&mut self, id: ConnId) {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return };
        assert_eq!(conn.receive, Receive::Idle, "one receive at a time");
        let fd = conn.raw();
        let op = self.driver.submit(id.to_u64(), Submission::Receive { fd });
        self.conns[id.index()].receive = Receive::Ring { op, stopping: false };
    }

    /// Receives once into given memory.
    ///
    /// # Panics
    /// If the connection receives already, or if there is no room to receive into.
    pub fn receive_direct(&mut self, id: ConnId, direct: Direct) {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return };
        assert_eq!(conn.receive, Receive::Idle, "one receive at a time");
        assert!(direct.rest > 0 || direct.spill.capacity() > 0, "nowhere to receive to");
        assert!(direct.rest == 0 || direct.body.is_some(), "no memory for the body");
        let fd = conn.raw();
        let op = self.driver.submit(id.to_u64(), Submission::ReceiveDirect { fd, direct });
        self.conns[id.index()].receive = Receive::Direct { op, stopping: false };
    }

    /// Asks for the end of the receive; [`Handler::on_receive_end`] follows unless it was idle, or the handler
    /// arms it anew with the bytes of a direct receive. Bytes that arrive in between are still delivered.
    pub fn receive_stop(&mut self, id: ConnId) {
        let Some(conn) = self.find(id) else { return };
        match &mut conn.receive {
            Receive::Idle => {}
            Receive::Starved { stopping } => {
                if !std::mem::replace(stopping, true) {
                    self.note_ended(id);
                }
            }
            Receive::Ring { op, stopping } | Receive::Direct { op, stopping } => {
                *stopping = true;
                let op = *op;
                self.driver.cancel(op);
            }
        }
    }

    /// Whether a receive is armed or waits for a buffer.
    #[must_use]
    pub fn is_receiving(&self, id: ConnId) -> bool {
        self.conns
            .get(id.index())
            .is_some_and(|conn| conn.generation == id.generation && conn.receive != Receive::Idle)
    }

    /// Sends all of `gather`; [`Handler::on_sent`] gives it back. One send at a time. It reaches the kernel
    /// with the next [`Shard::flush`] or turn.
    ///
    /// # Panics
    /// If a send is in flight already.
    pub fn send(&mut self, id: ConnId, gather: Gather) {
        self.send_rest(id, gather, 0);
    }

    /// Sends what the kernel takes of `bytes` at once, without an operation; returns how many that was. The rest,
    /// if any, is to be sent with [`Shard::send_rest`].
    ///
    /// # Panics
    /// If a send is in flight already.
    #[inline]
    pub fn try_send(&mut self, id: ConnId, bytes: &[u8]) -> usize {
        match self.conns.get(id.index()) {
            Some(conn) if conn.accepts_sends(id) => self.driver.try_send(conn.fd.as_fd(), bytes),
            _ => 0,
        }
    }

    /// As [`Shard::send`] for a list whose first `sent` bytes the kernel has taken already;
    /// [`Handler::on_sent`] counts them in.
    pub fn send_rest(&mut self, id: ConnId, gather: Gather, sent: usize) {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return };
        assert!(conn.send.is_none(), "one send at a time");
        let fd = conn.raw();
        let op = self.driver.submit(id.to_u64(), Submission::Send { fd, gather, sent });
        self.conns[id.index()].send = Some(op);
    }

    /// Hands everything queued to the kernel at once.
    ///
    /// # Errors
    /// When the kernel refuses; the shard is not usable any more then.
    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        self.driver.flush()
    }

    /// Closes a connection: cancels what is in flight, then [`Handler::on_closed`] follows.
    /// Sends that end meanwhile are still reported; received bytes are dropped.
    pub fn close(&mut self, id: ConnId) {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return };
        conn.closing = true;
        let receive = match conn.receive {
            Receive::Ring { op, .. } | Receive::Direct { op, .. } => Some(op),
            Receive::Idle | Receive::Starved { .. } => None,
        };
        let ops: [Option<OpId>; 3] = [receive, conn.send, conn.setup];
        if ops.iter().all(Option::is_none) {
            self.note_ended(id);
        }
        for op in ops.into_iter().flatten() {
            self.driver.cancel(op);
        }
    }

    /// Arms a timer; [`Handler::on_timer`] gets the token.
    pub fn arm_timer(&mut self, deadline_ns: u64, token: u64) -> TimerId {
        let timer = self.timers.arm(deadline_ns, token);
        if !self.is_turning {
            self.set_alarm();
        }
        timer
    }

    /// Disarms a timer; one that has fired is ignored.
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

    /// How many operations have not seen their last completion.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.driver.in_flight()
    }

    /// The loop body: hands over what is queued, waits as told, dispatches what completed and what is
    /// due to the handler, submits what that produced. Returns how many things were handled.
    ///
    /// # Errors
    /// When the kernel refuses to turn the ring; the shard is not usable any more then.
    pub fn turn(&mut self, handler: &mut impl Handler, wait: TurnWait) -> io::Result<usize> {
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

    /// Whatever would make the next turn find something to do has to show on the event descriptor.
    #[cold]
    fn prepare_event_fd(&mut self, handler: &mut impl Handler, is_cut_short: bool) {
        self.relieve(handler);
        if is_cut_short || !self.quiet.is_empty() {
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

    /// Gives buffers back to the kernel and decides how long the driver may wait.
    fn prepare(&mut self, handler: &mut impl Handler, wait: TurnWait) -> Wait {
        self.pool.collect();
        self.provide();
        self.relieve(handler);
        let TurnWait::Until(until_ns) = wait else { return Wait::No };
        if !self.quiet.is_empty() {
            return Wait::No;
        }
        if self.config.wait == WaitStrategy::Spin {
            return Wait::Spin;
        }
        let deadline = match (until_ns, self.timers.next_deadline_ns()) {
            (Some(until), Some(timer)) => Some(until.min(timer)),
            (until, timer) => until.or(timer),
        };
        Wait::Park(deadline.map(|at| at.saturating_sub(self.clock.now_ns())))
    }

    /// Makes room for receives that wait for a buffer; a buffer that comes back later wakes the shard.
    fn relieve(&mut self, handler: &mut impl Handler) {
        if !self.starved.is_empty() {
            handler.on_starved(self);
            self.pool.starve();
            self.provide();
        }
    }

    fn provide(&mut self) {
        if self.pool.ready_len() == 0 {
            return;
        }
        self.driver.provide(&mut self.pool);
        for id in std::mem::take(&mut self.starved) {
            let waits = Receive::Starved { stopping: false };
            if let Some(conn) = self.find(id).filter(|conn| conn.receive == waits) {
                conn.receive = Receive::Idle;
                self.receive_ring(id);
            }
        }
    }

    fn dispatch(&mut self, handler: &mut impl Handler, completion: Completion) {
        match completion {
            Completion::Received { token, received, more } => {
                self.dispatch_received(handler, token, received, more);
            }
            Completion::Sent { token, gather, bytes, error } => {
                let (id, conn) = self.by_token(token);
                conn.send = None;
                self.note_quiet(id);
                handler.on_sent(self, id, gather, bytes, error);
            }
            Completion::ReceivedDirect { token, direct, result } => {
                self.dispatch_direct(handler, token, direct, result);
            }
            Completion::Accepted { token, result, more } => {
                self.dispatch_accepted(handler, token, result, more);
            }
            Completion::Connected { token, result } => {
                let (id, conn) = self.by_token(token);
                conn.setup = None;
                let closing = conn.closing;
                self.note_quiet(id);
                if !closing {
                    handler.on_connected(self, id, result);
                }
            }
            Completion::Woken => {}
        }
    }

    fn dispatch_received(
        &mut self,
        handler: &mut impl Handler,
        token: Token,
        received: Received,
        more: bool,
    ) {
        let (id, conn) = self.by_token(token);
        let closing = conn.closing;
        let stopping = matches!(conn.receive, Receive::Ring { stopping: true, .. });
        let end = match received {
            Received::Bytes(chunk) => {
                if closing {
                    self.pool.release(chunk);
                } else {
                    self.stats.bytes_in += chunk.len() as u64;
                    handler.on_received(self, id, chunk);
                }
                if !more {
                    self.end_received(handler, id);
                }
                return;
            }
            Received::NoBuffer if !stopping && !closing => {
                conn.receive = Receive::Starved { stopping: false };
                self.starved.push(id);
                return;
            }
            Received::NoBuffer => ReceiveEnd::Stopped,
            Received::Failed(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                ReceiveEnd::Stopped
            }
            Received::Failed(error) => ReceiveEnd::Failed(error),
            Received::End => ReceiveEnd::Closed,
        };
        debug_assert!(!more, "a receive ends once");
        conn.receive = Receive::Idle;
        self.note_quiet(id);
        if !closing {
            handler.on_receive_end(self, id, None, end);
        }
    }

    /// A receive ended with the bytes just handled. For the handler it counted as armed until here, so it
    /// goes on, unless its end was asked for meanwhile.
    #[cold]
    fn end_received(&mut self, handler: &mut impl Handler, id: ConnId) {
        let conn = &mut self.conns[id.index()];
        let stopping = matches!(conn.receive, Receive::Ring { stopping: true, .. });
        conn.receive = Receive::Idle;
        if conn.closing {
            self.note_quiet(id);
        } else if stopping {
            handler.on_receive_end(self, id, None, ReceiveEnd::Stopped);
        } else {
            self.receive_ring(id);
        }
    }

    fn dispatch_direct(
        &mut self,
        handler: &mut impl Handler,
        token: Token,
        direct: Direct,
        result: io::Result<usize>,
    ) {
        let (id, conn) = self.by_token(token);
        let closing = conn.closing;
        let stopping = matches!(conn.receive, Receive::Direct { stopping: true, .. });
        conn.receive = Receive::Idle;
        self.note_quiet(id);
        if closing {
            return;
        }
        let end = match result {
            Ok(0) => ReceiveEnd::Closed,
            Ok(bytes) => {
                self.stats.bytes_in += bytes as u64;
                handler.on_received_direct(self, id, direct);
                if stopping && !self.is_receiving(id) && self.is_open(id) {
                    handler.on_receive_end(self, id, None, ReceiveEnd::Stopped);
                }
                return;
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => ReceiveEnd::Stopped,
            Err(error) => ReceiveEnd::Failed(error),
        };
        handler.on_receive_end(self, id, Some(direct), end);
    }

    fn dispatch_accepted(
        &mut self,
        handler: &mut impl Handler,
        token: Token,
        result: io::Result<OwnedFd>,
        more: bool,
    ) {
        let (id, conn) = self.by_token(token);
        let closing = conn.closing;
        if !more {
            conn.setup = None;
            self.note_quiet(id);
        }
        if closing {
            return;
        }
        match result {
            Ok(fd) => {
                let conn = self.insert(fd, false);
                handler.on_accepted(self, ListenerId(id), conn);
                if !more {
                    self.accept(ListenerId(id));
                }
            }
            Err(error) => handler.on_accept_failed(self, ListenerId(id), error, !more),
        }
    }

    fn is_open(&mut self, id: ConnId) -> bool {
        self.find(id).is_some_and(|conn| !conn.closing)
    }

    /// Something ended without the kernel; the handler is told at the end of the turn.
    fn note_ended(&mut self, id: ConnId) {
        self.quiet.push(id);
        if !self.is_turning && self.alarms_ns.is_some() {
            self.driver.waker().wake_by_ref();
        }
    }

    fn note_quiet(&mut self, id: ConnId) {
        let conn = &self.conns[id.index()];
        if conn.closing && conn.is_quiet() {
            self.quiet.push(id);
        }
    }

    fn finish_quiet(&mut self, handler: &mut impl Handler) -> usize {
        let mut finished = 0;
        while let Some(id) = self.quiet.pop() {
            let Some(conn) = self.find(id) else { continue };
            if !conn.closing {
                if conn.receive == (Receive::Starved { stopping: true }) {
                    conn.receive = Receive::Idle;
                    finished += 1;
                    handler.on_receive_end(self, id, None, ReceiveEnd::Stopped);
                }
                continue;
            }
            let conn = self.conns.remove(id.index());
            finished += 1;
            if !conn.listener {
                handler.on_closed(self, id);
            }
        }
        finished
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
            // The kernel may still write into the pool: it is never freed then.
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
