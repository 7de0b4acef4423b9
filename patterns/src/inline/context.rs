//! The context of one thread: a reactor without locks.

use std::{cell::RefMut, fmt, rc::Rc, time::Duration};

use zring_engine::{Clock, Kind as DriverKind, Shard, ShardStats, TurnWait, sys::OwnedSocket};

use super::{Socket, cell::ReactorCell};
use crate::{
    config::Config,
    error::{Error, Refusal},
    hub::SocketKey,
    options::Options,
    reactor::Reactor,
    socket::{Home, sealed},
    socket_type::SocketType,
};

/// A single-threaded set of sockets and the engine that drives them.
///
/// A context is a handle: clones and sockets keep the engine alive. Dropping the last handle sends what closed sockets
/// still have queued, for at most [`Config::drain_on_drop`].
///
/// ```
/// use zring::{SocketType, inline::Context};
/// # fn main() -> Result<(), zring::Error> {
/// let context = Context::new()?;
/// let pull = context.socket(SocketType::Pull)?;
/// pull.bind("tcp://127.0.0.1:*")?;
/// let push = context.socket(SocketType::Push)?;
/// push.connect(&pull.last_endpoint().unwrap())?;
/// push.send("hello")?;
/// assert_eq!(pull.recv()?.body(), b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Context {
    pub(super) reactor: Rc<ReactorCell>,
}

impl Context {
    /// A context with the default configuration: calls wait as [`Wait::Adaptive`](crate::Wait::Adaptive) says.
    ///
    /// # Errors
    /// When the kernel refuses the driver.
    pub fn new() -> Result<Self, Error> {
        Self::with_config(Config::default())
    }

    /// A context with this configuration.
    ///
    /// # Errors
    /// When the configuration is out of bounds, or the kernel refuses the driver.
    pub fn with_config(config: Config) -> Result<Self, Error> {
        let drain_on_drop = config.drain_on_drop;
        let (idle, inproc) = (config.idle(), config.inproc.clone());
        let mut reactor = Reactor::new(Shard::open(config.into_engine())?, inproc, drain_on_drop);
        #[cfg(feature = "sim")]
        if let Some(world) = zring_engine::sim::current() {
            reactor.hub.seed(world.below(u64::MAX));
        }
        reactor.set_idle(idle);
        Ok(Self { reactor: Rc::new(ReactorCell::new(reactor)) })
    }

    /// A socket with default options.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that cannot be opened yet.
    pub fn socket(&self, socket_type: SocketType) -> Result<Socket, Error> {
        self.socket_with(socket_type, Options::default())
    }

    /// A socket with these options.
    ///
    /// # Errors
    /// As [`Context::socket`], or [`Error::Option`] for a value out of its bounds.
    pub fn socket_with(&self, socket_type: SocketType, options: Options) -> Result<Socket, Error> {
        options.validate()?;
        let key = self.reactor.borrow_mut().hub.open_socket(socket_type, options)?;
        Ok(Socket::new(self.clone(), (), key))
    }

    /// Does all work that is possible without waiting; returns how much that was. A blocking call does this by itself.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn turn(&self) -> Result<usize, Error> {
        let mut reactor = self.reactor.borrow_mut();
        reactor.turn(TurnWait::No)
    }

    /// A descriptor for other event loops (epoll, poll, an async runtime). It is readable when [`Context::turn`] has
    /// something to do, timers included. When it was readable, call `turn`, then take messages from the sockets until
    /// they would block. Only then wait for the descriptor again.
    ///
    /// # Errors
    /// [`Error::Io`]: the kernel refuses an eventfd, or is not Linux (`Unsupported`).
    pub fn event_fd(&self) -> Result<OwnedSocket, Error> {
        let mut reactor = self.reactor.borrow_mut();
        let fd = reactor.shard.event_fd()?.try_clone_to_owned()?;
        reactor.turn(TurnWait::No)?;
        Ok(fd)
    }

    /// Opens a batch scope: until the guard is dropped, sends of all sockets of this context only queue. Dropping the
    /// guard submits them together. A full arena block, or a call that has to wait, submits earlier, so no message is
    /// ever left behind. Scopes nest.
    #[must_use = "the scope ends when the guard is dropped"]
    pub fn batch(&self) -> Batch {
        self.reactor.borrow_mut().hub.open_batch();
        Batch { context: self.clone() }
    }

    /// The driver of the context.
    #[must_use]
    pub fn driver(&self) -> DriverKind {
        self.reactor.borrow().shard.driver()
    }

    /// The counters of the engine.
    #[must_use]
    pub fn engine_stats(&self) -> ShardStats {
        self.reactor.borrow().shard.stats()
    }
}

impl sealed::Home for Context {
    type Place = ();
    type Guard<'a> = RefMut<'a, Reactor>;
    const HAS_SHARES: bool = false;

    #[inline]
    fn reactor<'a>(&'a self, (): &'a ()) -> RefMut<'a, Reactor> {
        self.reactor.borrow_mut()
    }

    #[inline]
    fn reactor_for_lane<'a>(&'a self, (): &'a ()) -> Option<RefMut<'a, Reactor>> {
        Some(self.reactor.borrow_for_lane())
    }

    #[inline]
    fn settle(reactor: &mut Reactor) -> Result<(), Error> {
        reactor.settle()
    }

    fn look(reactor: &mut Self::Guard<'_>) -> Result<(), Error> {
        reactor.look()
    }

    fn spin_until_ns(&self, _clock: Clock) -> u64 {
        // The reactor itself decides how long to spin (`Reactor::set_idle`).
        0
    }

    fn rest(_core: &mut Self::Guard<'_>, pauses: u32) {
        (0..pauses).for_each(|_| std::hint::spin_loop());
    }

    fn wait_for<T>(
        &self,
        (): &(),
        _socket: SocketKey,
        timeout: Option<Duration>,
        attempt: impl FnMut(&mut Reactor) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut reactor = self.reactor.borrow_mut();
        let done = reactor.wait_for(timeout, attempt);
        // The attempt may have opened the lane, and other work may have followed it.
        reactor.hub.close_lane();
        done
    }
}

impl Home for Context {}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Socket {
    pub(super) fn belongs_to(&self, context: &Context) -> bool {
        Rc::ptr_eq(&self.context().reactor, &context.reactor)
    }

    /// Opens a batch scope; see [`Context::batch`].
    #[must_use = "the scope ends when the guard is dropped"]
    pub fn batch(&self) -> Batch {
        self.context().batch()
    }
}

/// An open batch scope; see [`Context::batch`].
#[derive(Debug)]
#[must_use = "the scope ends when the guard is dropped"]
pub struct Batch {
    context: Context,
}

impl Drop for Batch {
    fn drop(&mut self) {
        let mut reactor = self.context.reactor.borrow_mut();
        let Reactor { shard, hub, .. } = &mut *reactor;
        hub.close_batch(shard);
        // If the kernel refuses, the next call returns the error.
        let _ = reactor.settle();
    }
}
