//! Sockets: one implementation for every kind of context.

use std::{fmt, time::Duration};

use zring_engine::Clock;

use crate::{
    background::Context,
    endpoint::Endpoint,
    error::{Error, Refusal},
    hub::SocketKey,
    message::Message,
    monitor::{PeerStats, SocketStats},
    pattern::Subscription,
    reactor::Reactor,
    shares::{Share, Shares},
    socket_type::SocketType,
};

mod into;
mod monitoring;
mod send;
mod settings;
mod spread;
mod stream;

pub(crate) use into::Claimant;
pub use into::{Received, ReceivedFrames};
pub(crate) use send::attempt_send;
pub(crate) use spread::Listing;
pub use stream::{Incoming, IncomingFrame, ReceivedFile};

/// The result of closing a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Messages given up: the linger time was over, or no peer was left or expected. If the context was terminated, the
    /// messages that it still tries to send in the background.
    pub unsent_messages: u64,
}

pub(crate) mod sealed {
    use super::{Clock, Duration, Error, Reactor, Refusal, SocketKey};

    /// How a socket reaches the reactor that it lives on.
    pub trait Home: Clone + std::fmt::Debug {
        /// Names a reactor of the context.
        type Place: std::fmt::Debug;
        /// Exclusive access to a reactor for the length of one operation.
        type Guard<'a>: std::ops::DerefMut<Target = Reactor>
        where
            Self: 'a;

        fn reactor<'a>(&'a self, place: &'a Self::Place) -> Self::Guard<'a>;

        /// The reactor, only to send in its lane or to close the lane
        /// ([`Hub::close_lane`](crate::hub::Hub::close_lane)). `None`: several threads use the context, and there are
        /// no lanes.
        fn reactor_for_lane<'a>(&'a self, _place: &'a Self::Place) -> Option<Self::Guard<'a>> {
            None
        }

        /// Finishes what an operation left to do: hands submissions to the kernel, reaps completions.
        fn settle(reactor: &mut Reactor) -> Result<(), Error>;

        /// Turns the shard once without waiting, if no other thread is about to.
        fn look(reactor: &mut Self::Guard<'_>) -> Result<(), Error>;

        /// Whether a socket may have several shares.
        const HAS_SHARES: bool;

        /// The time until which a call spins before it sleeps, if it begins to wait now.
        fn spin_until_ns(&self, clock: Clock) -> u64;

        /// Spins for `pauses` pause instructions. Other threads, if any share the reactor, may use it meanwhile.
        fn rest(reactor: &mut Self::Guard<'_>, pauses: u32);

        /// Repeats an attempt until it succeeds, fails, or the time is up ([`Refusal::WouldBlock`]).
        fn wait_for<T>(
            &self,
            place: &Self::Place,
            socket: SocketKey,
            timeout: Option<Duration>,
            attempt: impl FnMut(&mut Reactor) -> Result<T, Refusal>,
        ) -> Result<T, Refusal>;
    }
}

/// A context of sockets: [`Context`], or [`inline::Context`](crate::inline::Context). Sealed.
pub trait Home: sealed::Home {}

/// A ZeroMQ socket. A plain `Socket` belongs to a [`Context`] and is for any thread; an
/// [`inline::Socket`](crate::inline::Socket) belongs to the thread that made it.
///
/// A socket may have any number of peers and endpoints, bound and connected in any order. Methods named `try_*` never
/// block; `send` and `recv` wait up to `sndtimeo` and `rcvtimeo`, by default for ever. A dropped socket sends what it
/// has queued in the background, for at most `linger` (an inline socket: only while its context is turned);
/// [`Socket::close`] waits for that.
///
/// A `Socket` of a [`Context`] is `Send` and `Sync`. Several threads may use it at the same time; each message is sent
/// or received whole by one of them. The threads have to coordinate the lockstep of REQ and REP, and messages sent
/// frame by frame ([`Socket::send_more`]). Once the context is terminated, calls return [`Error::Terminated`].
pub struct Socket<C: Home = Context> {
    context: C,
    /// The only share, or the first of several.
    share: Share<C::Place>,
    /// All shares, if there are several.
    shares: Option<Box<Shares<C::Place>>>,
    closed: bool,
}

impl<C: Home> Socket<C> {
    pub(crate) fn new(context: C, place: C::Place, key: SocketKey) -> Self {
        Self { context, share: Share { place, key }, shares: None, closed: false }
    }

    #[inline]
    pub(crate) fn reactor(&self) -> C::Guard<'_> {
        self.context.reactor(&self.share.place)
    }

    #[inline]
    pub(crate) fn key(&self) -> SocketKey {
        self.share.key
    }

    pub(crate) fn place(&self) -> &C::Place {
        &self.share.place
    }

    /// A socket of several shares. The first share listens.
    pub(crate) fn in_shares(context: C, shares: Shares<C::Place>) -> Self
    where
        C::Place: Clone,
    {
        let share = shares.all()[0].clone();
        Self { context, share, shares: Some(Box::new(shares)), closed: false }
    }

    /// All shares, if there are several.
    pub(crate) fn apart(&self) -> Option<&Shares<C::Place>> {
        self.shares.as_deref()
    }

    /// The shares, the first one in front. Most sockets have only that one.
    pub(crate) fn shares(&self) -> &[Share<C::Place>] {
        match &self.shares {
            None => std::slice::from_ref(&self.share),
            Some(shares) => shares.all(),
        }
    }

    /// Runs `action` on each share.
    pub(crate) fn each(&self, mut action: impl FnMut(&mut Reactor, SocketKey)) {
        for share in self.shares() {
            action(&mut self.context.reactor(&share.place), share.key);
        }
    }

    /// As [`Socket::each`], up to the first error.
    fn try_each(
        &self,
        mut action: impl FnMut(&mut Reactor, SocketKey) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for share in self.shares() {
            action(&mut self.context.reactor(&share.place), share.key)?;
        }
        Ok(())
    }

    /// Repeats an attempt until it succeeds, fails, or the time is up. The attempt gets the reactor if the socket has
    /// one share, and `None` if it has several.
    fn wait_for<T>(
        &self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut(Option<&mut Reactor>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        match self.shares {
            None => {
                let Share { place, key } = &self.share;
                self.context.wait_for(place, *key, timeout, |reactor| attempt(Some(reactor)))
            }
            Some(_) => self.wait_apart(timeout, || attempt(None)),
        }
    }

    /// Changes the endpoints of a share, and starts the work that follows from it at once.
    fn change(
        &self,
        share: &Share<C::Place>,
        change: impl FnOnce(&mut Reactor, SocketKey) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut reactor = self.context.reactor(&share.place);
        reactor.check()?;
        change(&mut reactor, share.key)?;
        C::look(&mut reactor)
    }

    /// The context that the socket belongs to.
    #[must_use]
    pub fn context(&self) -> &C {
        &self.context
    }

    /// The type of the socket.
    #[must_use]
    pub fn socket_type(&self) -> SocketType {
        self.reactor().hub.sockets[self.key()].facts.socket_type
    }

    /// Listens at an endpoint: `tcp://127.0.0.1:5555`, `tcp://*:*` (port 0 or `*`: the system chooses),
    /// `tcp://eth0:5555`, `ipc:///path`, `ipc://@abstract`, `ipc://*`.
    ///
    /// # Errors
    /// [`Error::Endpoint`] for a malformed endpoint, [`Error::AddressInUse`], or [`Error::Io`].
    pub fn bind(&self, endpoint: &str) -> Result<(), Error> {
        self.change(&self.share, |Reactor { shard, hub, .. }, key| hub.bind(shard, key, endpoint))?;
        self.shares.iter().for_each(|shares| shares.note_last(0));
        Ok(())
    }

    /// Stops listening at an endpoint. Connections accepted there stay open. In a background context on io_uring the
    /// port becomes free a moment later, when the Runner has closed the listener.
    ///
    /// # Errors
    /// [`Error::UnknownEndpoint`] when the socket does not listen there, [`Error::Endpoint`].
    pub fn unbind(&self, endpoint: &str) -> Result<(), Error> {
        self.change(&self.share, |Reactor { shard, hub, .. }, key| hub.unbind(shard, key, endpoint))
    }

    /// Connects to an endpoint, and reconnects whenever the connection is lost. Returns at once; events and
    /// [`Socket::wait_for_peers`] tell whether and when a connection is up. Names are resolved at each attempt.
    ///
    /// # Errors
    /// [`Error::Endpoint`] for an endpoint that is malformed or has a wildcard.
    pub fn connect(&self, endpoint: &str) -> Result<(), Error> {
        let connect =
            |reactor: &mut Reactor, key| reactor.hub.connect(&mut reactor.shard, key, endpoint);
        let Some(shares) = &self.shares else { return self.change(&self.share, connect) };
        // An `inproc` endpoint gives a shard no connection to drive: the first share takes it, whatever the load.
        let number = if Endpoint::is_inproc(endpoint) { 0 } else { shares.least_loaded() };
        self.change(&shares.all()[number], connect)?;
        shares.note_last(number);
        Ok(())
    }

    /// Ends one connection made by [`Socket::connect`] and stops reconnecting. Messages queued for it go to other peers
    /// (PUSH, REQ) or are dropped and counted (PUB).
    ///
    /// # Errors
    /// [`Error::UnknownEndpoint`] when the socket is not connected there, [`Error::Endpoint`].
    pub fn disconnect(&self, endpoint: &str) -> Result<(), Error> {
        let mut done = Ok(());
        for share in self.shares() {
            done = self.change(share, |Reactor { shard, hub, .. }, key| {
                hub.disconnect_endpoint(shard, key, endpoint)
            });
            if !matches!(done, Err(Error::UnknownEndpoint(_))) {
                break;
            }
        }
        done
    }

    /// The endpoint of the last `bind` (with its real port or path) or `connect`.
    #[must_use]
    pub fn last_endpoint(&self) -> Option<String> {
        let Share { place, key } = self.apart().map_or(&self.share, Shares::last);
        let reactor = self.context.reactor(place);
        reactor.hub.sockets[*key].endpoints.last.as_deref().map(str::to_owned)
    }

    /// Receives one message, waiting up to `rcvtimeo`.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the time is up, [`Error::State`] out of lockstep (REQ, REP),
    /// [`Error::Unsupported`], [`Error::Io`].
    #[inline]
    pub fn recv(&self) -> Result<Message, Error> {
        match self.attempt_recv(true) {
            Ok(message) => Ok(message),
            Err(refusal) => self.recv_waiting(refusal),
        }
    }

    #[inline(never)]
    fn recv_waiting(&self, mut refusal: Refusal) -> Result<Message, Error> {
        // Read once, before the wait: another thread may change the option meanwhile.
        let timeout = self.rcvtimeo();
        if let Refusal::Rest(pauses) = refusal {
            let mut reactor = self.reactor();
            C::rest(&mut reactor, pauses);
            match attempt_recv(&mut reactor, self.key(), false) {
                Ok(message) => return Ok(message),
                Err(other) => refusal = other,
            }
        }
        let Refusal::WouldBlock = refusal else { return Err(refusal.into()) };
        let received = self.wait_for(timeout, |reactor| match reactor {
            Some(reactor) => attempt_recv(reactor, self.key(), false),
            None => self.attempt_recv(false),
        });
        Ok(received?)
    }

    /// Makes one attempt; releases the reactor afterwards.
    #[inline(always)]
    pub(crate) fn attempt_recv(&self, may_rest: bool) -> Result<Message, Refusal> {
        match &self.shares {
            Some(shares) if C::HAS_SHARES => self.attempt_recv_apart(shares),
            _ => attempt_recv(&mut self.reactor(), self.key(), may_rest),
        }
    }

    /// Receives one message if one has arrived. Never waits.
    ///
    /// # Errors
    /// As [`Socket::recv`].
    #[inline]
    pub fn try_recv(&self) -> Result<Message, Error> {
        match self.attempt_recv(false) {
            Ok(message) => Ok(message),
            Err(Refusal::WouldBlock) => {
                self.look()?;
                Ok(self.attempt_recv(false)?)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Receives one message and copies its first frame out.
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub fn recv_bytes(&self) -> Result<Vec<u8>, Error> {
        self.recv().map(|message| message.body_to_vec())
    }

    /// Receives one message and takes its first frame as text; bytes that are not UTF-8 are returned unchanged.
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub fn recv_string(&self) -> Result<Result<String, Vec<u8>>, Error> {
        let bytes = self.recv_bytes()?;
        Ok(String::from_utf8(bytes).map_err(std::string::FromUtf8Error::into_bytes))
    }

    /// Receives one message and copies all frames out.
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub fn recv_multipart(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.recv().map(|message| message.to_vecs())
    }

    /// SUB: receives messages that begin with `prefix` from now on; an empty prefix matches all. Subscriptions are
    /// counted: each needs its own [`Socket::unsubscribe`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] on other types, [`Error::SubscriptionTooLong`] beyond 64 KiB.
    pub fn subscribe(&self, prefix: impl AsRef<[u8]>) -> Result<(), Error> {
        self.try_each(|reactor, key| {
            reactor.check()?;
            let Reactor { shard, hub, .. } = reactor;
            hub.subscribe(shard, key, Subscription::Subscribe(prefix.as_ref()))?;
            C::settle(reactor)
        })
    }

    /// SUB: cancels one subscription. A subscription that was never made is ignored.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on other types.
    pub fn unsubscribe(&self, prefix: impl AsRef<[u8]>) -> Result<(), Error> {
        self.try_each(|reactor, key| {
            reactor.check()?;
            let Reactor { shard, hub, .. } = reactor;
            hub.subscribe(shard, key, Subscription::Cancel(prefix.as_ref()))?;
            C::settle(reactor)
        })
    }

    /// Waits until `count` peers have finished the handshake, so that no message is sent too early or to fewer peers
    /// than meant. `None` waits for ever.
    ///
    /// # Errors
    /// [`Error::TooFew`] when the time is up.
    pub fn wait_for_peers(&self, count: usize, timeout: Option<Duration>) -> Result<(), Error> {
        self.wait_for_count(count, timeout, |reactor, key| Ok(reactor.hub.sockets[key].peers.ready))
    }

    /// PUB: waits until a message with this topic would reach `count` subscribers: the cure for the
    /// "slow joiner" that misses the first messages.
    ///
    /// # Errors
    /// [`Error::TooFew`] when the time is up, [`Error::Unsupported`] on other types.
    pub fn wait_for_subscribers(
        &self,
        topic: impl AsRef<[u8]>,
        count: usize,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let topic = topic.as_ref();
        self.wait_for_count(count, timeout, |reactor, key| reactor.hub.subscribers(key, topic))
    }

    fn wait_for_count(
        &self,
        wanted: usize,
        timeout: Option<Duration>,
        count: impl Fn(&mut Reactor, SocketKey) -> Result<usize, Error>,
    ) -> Result<(), Error> {
        let sum = || {
            let mut sum = 0;
            self.try_each(|reactor, key| {
                reactor.check()?;
                sum += count(reactor, key)?;
                Ok(())
            })?;
            Ok::<_, Error>(sum)
        };
        let reached = self.wait_for(timeout, |reactor| {
            let there = match reactor {
                Some(reactor) => {
                    reactor.check()?;
                    count(reactor, self.key())?
                }
                None => sum()?,
            };
            if there >= wanted { Ok(()) } else { Err(Refusal::WouldBlock) }
        });
        match reached {
            Err(Refusal::WouldBlock) => Err(Error::TooFew { there: sum()?, wanted }),
            reached => Ok(reached?),
        }
    }

    /// Counters over all connections, ended ones included.
    #[must_use]
    pub fn stats(&self) -> SocketStats {
        let mut stats = self.reactor().hub.stats(self.key());
        for share in &self.shares()[1..] {
            stats.merge(&self.context.reactor(&share.place).hub.stats(share.key));
        }
        stats
    }

    /// Counters of each connection that is up.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStats> {
        let mut peers = Vec::new();
        self.each(|reactor, key| peers.append(&mut reactor.hub.peer_stats(key)));
        peers
    }

    /// Closes the socket: stops listening, sends what is queued for at most `linger`, closes the connections,
    /// and says how many messages were given up.
    #[allow(clippy::must_use_candidate, reason = "often called for its effect alone")]
    pub fn close(mut self) -> CloseReport {
        self.closed = true;
        self.each(Reactor::close);
        let unsent_messages = self.shares().iter().map(|share| self.wait_until_gone(share)).sum();
        CloseReport { unsent_messages }
    }

    /// Waits until a closed share has nothing left; returns how many messages it gave up.
    fn wait_until_gone(&self, Share { place, key }: &Share<C::Place>) -> u64 {
        let key = *key;
        let gone =
            self.context.wait_for(place, key, None, |reactor| match reactor.hub.reap_socket(key) {
                Some(unsent) => Ok(unsent),
                // The shard goes on sending without this call.
                None if reactor.is_terminated => Ok(reactor.hub.unsent(key)),
                None => Err(Refusal::WouldBlock),
            });
        // The wait fails only if the kernel refuses to turn the shard; then nothing can be sent any more.
        gone.unwrap_or_default()
    }
}

#[inline(always)]
pub(crate) fn attempt_recv(
    reactor: &mut Reactor,
    key: SocketKey,
    waits: bool,
) -> Result<Message, Refusal> {
    if !reactor.is_terminated
        && let Some(message) = reactor.hub.take_at_hand(&mut reactor.shard, key)
    {
        return Ok(message);
    }
    attempt_recv_otherwise(reactor, key, waits)
}

/// Receives the general way, if `Hub::take_at_hand` had no message.
#[inline(never)]
fn attempt_recv_otherwise(
    reactor: &mut Reactor,
    key: SocketKey,
    waits: bool,
) -> Result<Message, Refusal> {
    reactor.check_refusal()?;
    let Reactor { shard, hub, .. } = reactor;
    let received = hub.try_recv(shard, key, waits);
    if matches!(received, Err(Refusal::WouldBlock | Refusal::Failed(_))) {
        hub.note_blocked(key);
    }
    received
}

impl<C: Home> Drop for Socket<C> {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        // A socket is never dropped inside a call on its context, so the reactor is free here.
        self.each(Reactor::close);
        let _ = self.look();
        self.each(|reactor, key| {
            reactor.hub.reap_socket(key);
        });
    }
}

impl<C: Home> fmt::Debug for Socket<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("key", &self.share.key).finish_non_exhaustive()
    }
}
