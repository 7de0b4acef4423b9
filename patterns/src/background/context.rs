//! The shards and Runners of a program.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use zring_engine::{
    Clock, Kind, Runner, RunnerConfig, ShardStats,
    lead::{Held, Idle, Lead},
};

use crate::{
    config::Config,
    deadline::{deadline_ns, duration_ns},
    error::{Error, Refusal},
    hub::{
        SocketKey,
        spread::{Common, Membership},
    },
    lock::lock,
    options::Options,
    pattern::{self, Spread},
    reactor::{Attempt, Reactor},
    shares::{Share, Shares},
    socket::{Home, Socket, sealed},
    socket_type::SocketType,
};

/// Sockets for any thread, and the shards that drive them.
///
/// A context is a handle: clones and sockets keep the shards alive. All handles are `Send` and `Sync`. Each shard has a
/// *Runner*, a thread named `zring-0`, `zring-1` and so on, which takes care of handshakes, reconnects, heartbeats and
/// everything else, whether or not calls are made. On the readiness driver a waiting call turns its shard itself, so
/// that a message reaches it without a hop through another thread; on io_uring only the Runner turns the shard
/// ([`Config::driver`]).
///
/// With several shards ([`Config::shards`]) a socket's connections are spread over them, each new one to the shard that
/// has the fewest of this socket: several Runners then share their input, output, encoding and decoding. A REQ socket,
/// which has one message under way, and a PAIR socket, which has one peer, stay on one shard, and so does a socket of
/// [`Context::socket_on`]. One shard is right for most programs: with several, a waiting call on a spread socket does
/// not do its own input and output.
///
/// Dropping the last handle sends what closed sockets still have queued, for at most [`Config::drain_on_drop`].
/// [`Context::terminate`] ends every call that waits.
///
/// ```
/// use zring::{Context, SocketType};
/// # fn main() -> Result<(), zring::Error> {
/// let context = Context::new()?;
/// let rep = context.socket(SocketType::Rep)?;
/// rep.bind("tcp://127.0.0.1:*")?;
/// let endpoint = rep.last_endpoint().unwrap();
/// let server = std::thread::spawn(move || -> Result<(), zring::Error> {
///     let request = rep.recv()?;
///     rep.send(request)?;
///     Ok(())
/// });
/// let req = context.socket(SocketType::Req)?;
/// req.connect(&endpoint)?;
/// req.send("ping")?;
/// assert_eq!(req.recv()?.body(), b"ping");
/// server.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Vec<Arc<Lead<Reactor>>>,
    runners: Vec<Runner>,
    /// Sockets opened so far.
    opened: Mutex<usize>,
    driver: Kind,
    idle: Idle,
    drain_on_drop: Duration,
}

impl Context {
    /// A context with the default configuration: one shard, calls wait as [`Wait::Adaptive`](crate::Wait::Adaptive)
    /// says.
    ///
    /// # Errors
    /// When the operating system refuses a thread or the driver.
    pub fn new() -> Result<Self, Error> {
        Self::with_config(Config::default())
    }

    /// A context with this configuration.
    ///
    /// # Errors
    /// When the configuration is out of bounds, or the operating system refuses a thread, its placement, or the driver.
    #[expect(clippy::needless_pass_by_value, reason = "as an inline context takes it")]
    pub fn with_config(config: Config) -> Result<Self, Error> {
        if config.shards == 0 || config.shards > Config::SHARDS_MAX {
            return Err(zring_engine::Error::Config("shards").into());
        }
        let mut inner = Inner {
            shards: Vec::new(),
            runners: Vec::new(),
            opened: Mutex::new(0),
            driver: Kind::Uring,
            idle: config.idle(),
            drain_on_drop: config.drain_on_drop,
        };
        for number in 0..config.shards {
            inner.start(&config, number)?;
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The driver of the shards.
    #[must_use]
    pub fn driver(&self) -> Kind {
        self.inner.driver
    }

    /// How many shards the context has ([`Config::shards`]).
    #[must_use]
    pub fn shards(&self) -> usize {
        self.inner.shards.len()
    }

    /// A socket with default options.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that cannot be opened yet, [`Error::Terminated`].
    pub fn socket(&self, socket_type: SocketType) -> Result<Socket, Error> {
        self.socket_with(socket_type, Options::default())
    }

    /// A socket with these options.
    ///
    /// # Errors
    /// As [`Context::socket`], or [`Error::Option`] for a value out of its bounds.
    pub fn socket_with(&self, socket_type: SocketType, options: Options) -> Result<Socket, Error> {
        options.validate()?;
        let first = {
            let mut opened = lock(&self.inner.opened);
            *opened += 1;
            (*opened - 1) % self.inner.shards.len()
        };
        let spread = pattern::facts(socket_type).map_or(Spread::One, |facts| facts.spread);
        if self.inner.shards.len() == 1 || spread == Spread::One {
            let share = self.open(first, socket_type, options)?;
            return Ok(Socket::new(self.clone(), share.place, share.key));
        }
        self.open_shares(first, socket_type, spread, &options)
    }

    /// A socket whose connections all belong to one shard, counted from 0: for programs that give each of their threads
    /// a shard, or that want calls on this socket to do its input and output.
    ///
    /// # Errors
    /// As [`Context::socket_with`], or [`Error::Engine`] when there is no such shard.
    pub fn socket_on(
        &self,
        shard: usize,
        socket_type: SocketType,
        options: Options,
    ) -> Result<Socket, Error> {
        options.validate()?;
        if shard >= self.inner.shards.len() {
            return Err(zring_engine::Error::Config("shard").into());
        }
        let share = self.open(shard, socket_type, options)?;
        Ok(Socket::new(self.clone(), share.place, share.key))
    }

    fn open(
        &self,
        place: usize,
        socket_type: SocketType,
        options: Options,
    ) -> Result<Share<usize>, Error> {
        let mut reactor = self.inner.shards[place].hold();
        reactor.check()?;
        let key = reactor.hub.open_socket(socket_type, options)?;
        Ok(Share { place, key })
    }

    /// Opens a share on each shard; the first share is on shard `first`.
    fn open_shares(
        &self,
        first: usize,
        socket_type: SocketType,
        spread: Spread,
        options: &Options,
    ) -> Result<Socket, Error> {
        let count = self.inner.shards.len();
        let mut places = (first..first + count).map(|place| place % count);
        let mut shares = Vec::with_capacity(count);
        let opened = places.try_for_each(|place| {
            shares.push(self.open(place, socket_type, options.clone())?);
            Ok(())
        });
        let share_place = |share: &Share<usize>| {
            let Reactor { shard, hub, .. } = &mut *self.inner.shards[share.place].hold();
            hub.share_place(shard, share.key)
        };
        let common = Arc::new(Common::new(shares.iter().map(share_place).collect()));
        for (number, Share { place, key }) in shares.iter().enumerate() {
            let member = Membership { common: common.clone(), share: number };
            self.inner.shards[*place].hold().hub.join(*key, member);
        }
        if shares.is_empty() {
            return opened.and(Err(Error::Terminated));
        }
        // If a share could not be opened, dropping the socket closes the others.
        let socket = Socket::in_shares(self.clone(), Shares::new(spread, shares, common));
        opened.map(|()| socket)
    }

    /// Ends every waiting call, on any thread, and every later call, with [`Error::Terminated`] (as
    /// `zmq_ctx_shutdown`). Sockets can still be closed, and closed sockets go on sending what they have queued.
    pub fn terminate(&self) {
        for shard in &self.inner.shards {
            let mut reactor = shard.hold();
            reactor.is_terminated = true;
            reactor.hub.touch_all();
        }
    }

    /// The counters of each shard.
    #[must_use]
    pub fn engine_stats(&self) -> Vec<ShardStats> {
        self.inner.shards.iter().map(|shard| shard.hold().shard.stats()).collect()
    }

    pub(super) fn lead(&self, place: usize) -> &Lead<Reactor> {
        &self.inner.shards[place]
    }
}

impl Inner {
    /// Opens one more shard, on the thread that will turn it.
    fn start(&mut self, config: &Config, number: usize) -> Result<(), Error> {
        #[cfg(feature = "sim")]
        if let Some(world) = zring_engine::sim::current() {
            self.driver = Kind::Sim;
            self.shards.push(super::simulated::open(config, &world)?);
            return Ok(());
        }
        let runner = RunnerConfig { name: format!("zring-{number}"), ..config.runner(number) };
        let (shared, idle) = (config.clone(), config.idle());
        let open = move || -> Result<_, Error> {
            let reactor = Reactor::open_shared(shared)?;
            let (waker, is_mobile) = (reactor.shard.waker(), reactor.shard.is_mobile());
            Ok(Arc::new(Lead::new(reactor, waker, is_mobile, idle)))
        };
        let on_failure = |lead: &Lead<Reactor>, error| {
            tracing::error!(%error, "a shard cannot be turned any more");
            lead.hold().hub.touch_all();
        };
        let (runner, lead) = Runner::start(&runner, open, on_failure)?;
        self.driver = lead.hold().shard.driver();
        self.shards.push(lead);
        self.runners.push(runner);
        Ok(())
    }
}

impl Drop for Inner {
    /// Gives closed sockets a bounded time to send what they have, on all shards at once.
    fn drop(&mut self) {
        #[cfg(feature = "sim")]
        if self.driver == Kind::Sim {
            let leads = std::mem::take(&mut self.shards);
            if let Some(world) = zring_engine::sim::current() {
                super::simulated::drain(&leads, self.drain_on_drop, &world);
            }
            return;
        }
        let stop_at_ns = Clock::new().now_ns().saturating_add(duration_ns(self.drain_on_drop));
        for shard in self.shards.drain(..) {
            shard.hold().end_drain();
            shard.stop(stop_at_ns);
        }
        self.runners.drain(..).for_each(Runner::join);
    }
}

impl sealed::Home for Context {
    type Place = usize;
    type Guard<'a> = Held<'a, Reactor>;
    const HAS_SHARES: bool = true;

    #[inline]
    fn reactor<'a>(&'a self, &place: &'a usize) -> Held<'a, Reactor> {
        self.inner.shards[place].hold()
    }

    #[inline]
    fn settle(_core: &mut Reactor) -> Result<(), Error> {
        // Releasing the reactor does that.
        Ok(())
    }

    fn look(reactor: &mut Held<'_, Reactor>) -> Result<(), Error> {
        Ok(reactor.look()?)
    }

    fn spin_until_ns(&self, clock: Clock) -> u64 {
        match self.inner.driver {
            // A spinning thread would keep the simulated world from going on.
            #[cfg(feature = "sim")]
            Kind::Sim => 0,
            _ => self.inner.idle.spin_until_ns(|| clock.now_ns()),
        }
    }

    fn rest(reactor: &mut Held<'_, Reactor>, pauses: u32) {
        reactor.rest(pauses);
    }

    fn wait_for<T>(
        &self,
        &place: &usize,
        socket: SocketKey,
        timeout: Option<Duration>,
        attempt: impl FnMut(&mut Reactor) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let until_ns = deadline_ns(Clock::new(), timeout);
        match self.lead(place).wait(until_ns, &mut Attempt::new(socket, attempt)) {
            Ok(Some(done)) => done,
            Ok(None) => Err(Refusal::WouldBlock),
            Err(error) => Err(Error::Io(error).into()),
        }
    }
}

impl Home for Context {}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("driver", &self.inner.driver)
            .field("shards", &self.inner.shards.len())
            .finish_non_exhaustive()
    }
}
