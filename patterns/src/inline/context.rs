//! The engine and the hub of one thread.

use std::{cell::RefCell, fmt, os::fd::OwnedFd, rc::Rc, time::Duration};

use zring_engine::{Shard, ShardStats, TurnWait};

use super::Socket;
use crate::{
    config::Config,
    error::{Error, Refusal},
    hub::Hub,
    options::Options,
    socket_type::SocketType,
};

/// Everything a thread's sockets share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) shard: Shard,
    pub(super) hub: Hub,
    drain_ns: u64,
}

/// A duration as nanoseconds from now on the shard's clock; `None` stays without bound.
fn deadline_ns(shard: &Shard, timeout: Option<Duration>) -> Option<u64> {
    let timeout_ns = u64::try_from(timeout?.as_nanos()).unwrap_or(u64::MAX);
    Some(shard.now_ns().saturating_add(timeout_ns))
}

impl Core {
    pub(super) fn turn(&mut self, wait: TurnWait) -> Result<usize, Error> {
        self.hub.wants_turn = false;
        self.hub.wants_flush = false;
        Ok(self.shard.turn(&mut self.hub, wait)?)
    }

    /// Submits what is queued and looks once for what the kernel has.
    pub(super) fn look(&mut self) -> Result<(), Refusal> {
        self.hub.flush_dirty(&mut self.shard);
        self.turn(TurnWait::No)?;
        Ok(())
    }

    /// What an operation left to do: hand submissions to the kernel, reap a completion.
    #[inline]
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.hub.wants_flush || self.hub.wants_turn { self.settle_now() } else { Ok(()) }
    }

    #[inline(never)]
    fn settle_now(&mut self) -> Result<(), Error> {
        if self.hub.wants_flush {
            self.hub.wants_flush = false;
            self.shard.flush()?;
        }
        if self.hub.wants_turn {
            self.turn(TurnWait::No)?;
        }
        Ok(())
    }

    /// Tries until it succeeds, fails, or the time is up; turns the shard in between. An attempt says
    /// [`Refusal::WouldBlock`] to be repeated. Queued batches are submitted before anything waits.
    pub(super) fn wait_for<T>(
        &mut self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let deadline_ns = deadline_ns(&self.shard, timeout);
        loop {
            match attempt(self) {
                Err(Refusal::WouldBlock) => {}
                done => return done,
            }
            let is_over = deadline_ns.is_some_and(|at_ns| self.shard.now_ns() >= at_ns);
            self.hub.flush_dirty(&mut self.shard);
            // The last look does not wait, so that a timeout of zero still makes progress.
            let wait = if is_over { TurnWait::No } else { TurnWait::Until(deadline_ns) };
            self.turn(wait)?;
            if is_over {
                return attempt(self);
            }
        }
    }
}

impl Drop for Core {
    /// Gives lingering sockets a bounded time to send what they have.
    fn drop(&mut self) {
        let until_ns = self.shard.now_ns().saturating_add(self.drain_ns);
        loop {
            let sockets: Vec<u32> = self.hub.sockets.iter().map(|(key, _)| key as u32).collect();
            let mut waiting = 0;
            for socket in sockets {
                if self.hub.reap_socket(socket).is_none() {
                    waiting += self.hub.unsent(socket);
                }
            }
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

/// A single-threaded set of sockets and the engine that drives them.
///
/// A handle: clones and sockets keep the engine alive. Dropping the last one of them sends what closed
/// sockets still have queued, for at most [`Config::drain_on_drop`].
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
    pub(super) core: Rc<RefCell<Core>>,
}

impl Context {
    /// A context with the default configuration: waiting calls park.
    ///
    /// # Errors
    /// When the kernel refuses io_uring.
    pub fn new() -> Result<Self, Error> {
        Self::with_config(Config::default())
    }

    /// A context with this configuration.
    ///
    /// # Errors
    /// When the configuration is out of bounds, or the kernel refuses io_uring.
    pub fn with_config(config: Config) -> Result<Self, Error> {
        let drain_ns = u64::try_from(config.drain_on_drop.as_nanos()).unwrap_or(u64::MAX);
        let core = Core { shard: Shard::open(config.into_engine())?, hub: Hub::new(), drain_ns };
        Ok(Self { core: Rc::new(RefCell::new(core)) })
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
        let key = self.core.borrow_mut().hub.open_socket(socket_type, options)?;
        Ok(Socket::new(self.clone(), key))
    }

    /// Does whatever can be done without waiting; returns how much that was. A blocking call does this
    /// by itself.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn turn(&self) -> Result<usize, Error> {
        let mut core = self.core.borrow_mut();
        core.turn(TurnWait::No)
    }

    /// A descriptor for other event loops (epoll, poll, an async runtime): readable when
    /// [`Context::turn`] has something to do, timers included. After it was readable call `turn`, then take
    /// what the sockets have until they would block; only then wait for it again.
    ///
    /// # Errors
    /// When the kernel refuses an eventfd.
    pub fn event_fd(&self) -> Result<OwnedFd, Error> {
        let mut core = self.core.borrow_mut();
        let fd = core.shard.event_fd()?.try_clone_to_owned()?;
        core.turn(TurnWait::No)?;
        Ok(fd)
    }

    /// Opens a batch scope: until the guard is dropped, sends of all sockets of this context only queue.
    /// The drop submits them together; a full arena block, or a call that has to wait, does so by
    /// itself, so nothing is ever left behind. Scopes nest.
    #[must_use = "the scope ends when the guard is dropped"]
    pub fn batch(&self) -> Batch {
        self.core.borrow_mut().hub.open_batch();
        Batch { context: self.clone() }
    }

    /// What the engine did so far.
    #[must_use]
    pub fn engine_stats(&self) -> ShardStats {
        self.core.borrow().shard.stats()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
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
        let mut core = self.context.core.borrow_mut();
        let Core { shard, hub, .. } = &mut *core;
        hub.close_batch(shard);
        // A refusal by the kernel shows in the next call, which returns it.
        let _ = core.settle();
    }
}
