//! Both kinds of contexts and sockets behind one type, so that a test is written once.

use std::fmt;
use std::time::Duration;

use zring::inline::{self, CloseReport};
use zring::{
    Error, Event, Frame, FrameBuf, Message, OptionError, Options, PeerStats, Received,
    ReceivedFrames, SendError, Sendable, ShardStats, SocketStats, SocketType,
};

/// A context of either kind.
#[derive(Clone, Debug)]
pub(crate) enum Context {
    Inline(inline::Context),
    Background(zring::Context),
}

/// A socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Inline(inline::Socket),
    Background(zring::Socket),
}

/// An open batch scope, if the context has scopes.
#[must_use = "the scope ends when the guard is dropped"]
pub(crate) struct Batch {
    _scope: Option<inline::Batch>,
}

impl Context {
    pub(crate) fn socket(&self, kind: SocketType) -> Result<Socket, Error> {
        Ok(match self {
            Context::Inline(ctx) => Socket::Inline(ctx.socket(kind)?),
            Context::Background(ctx) => Socket::Background(ctx.socket(kind)?),
        })
    }

    /// Turns an inline context. A background context needs no turns: returns 0, as if idle.
    pub(crate) fn turn(&self) -> Result<usize, Error> {
        match self {
            Context::Inline(ctx) => ctx.turn(),
            Context::Background(_) => Ok(0),
        }
    }

    pub(crate) fn batch(&self) -> Batch {
        match self {
            Context::Inline(ctx) => Batch { _scope: Some(ctx.batch()) },
            Context::Background(_) => Batch { _scope: None },
        }
    }

    /// The statistics of the context's shards.
    pub(crate) fn engine_stats(&self) -> Vec<ShardStats> {
        match self {
            Context::Inline(ctx) => vec![ctx.engine_stats()],
            Context::Background(ctx) => ctx.engine_stats(),
        }
    }

    /// The inline context, for tests of inline contexts only.
    pub(crate) fn inline(&self) -> &inline::Context {
        match self {
            Context::Inline(ctx) => ctx,
            Context::Background(_) => panic!("not an inline context"),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

/// Forwards each method to the socket inside.
macro_rules! delegate {
    ($(fn $name:ident $(<$generic:ident: $bound:ident>)?
        ($($argument:ident: $kind:ty),*) $(-> $answer:ty)?;)*) => {
        impl Socket {$(
            pub(crate) fn $name $(<$generic: $bound>)?
                (&self $(, $argument: $kind)*) $(-> $answer)? {
                match self {
                    Socket::Inline(socket) => socket.$name($($argument),*),
                    Socket::Background(socket) => socket.$name($($argument),*),
                }
            }
        )*}
    };
}

delegate! {
    fn bind(endpoint: &str) -> Result<(), Error>;
    fn unbind(endpoint: &str) -> Result<(), Error>;
    fn connect(endpoint: &str) -> Result<(), Error>;
    fn disconnect(endpoint: &str) -> Result<(), Error>;
    fn last_endpoint() -> Option<String>;
    fn send<P: Sendable>(payload: P) -> Result<(), SendError<P>>;
    fn send_with(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), SendError<Message>>;
    fn try_send<P: Sendable>(payload: P) -> Result<(), SendError<P>>;
    fn send_more(frame: impl Into<Frame>) -> Result<(), Error>;
    fn try_send_more(frame: impl Into<Frame>) -> Result<(), Error>;
    fn drop_partial() -> usize;
    fn send_multipart(
        frames: impl IntoIterator<Item = impl Into<Frame>>
    ) -> Result<(), Error>;
    fn recv() -> Result<Message, Error>;
    fn try_recv() -> Result<Message, Error>;
    fn recv_bytes() -> Result<Vec<u8>, Error>;
    fn recv_string() -> Result<Result<String, Vec<u8>>, Error>;
    fn recv_multipart() -> Result<Vec<Vec<u8>>, Error>;
    fn recv_into(buffer: &mut [u8]) -> Result<Received, Error>;
    fn try_recv_into(buffer: &mut [u8]) -> Result<Received, Error>;
    fn recv_into_vectored(buffers: &mut [FrameBuf<'_>]) -> Result<ReceivedFrames, Error>;
    fn recv_frame() -> Result<Frame, Error>;
    fn more() -> bool;
    fn skip_rest() -> usize;
    fn subscribe(prefix: impl AsRef<[u8]>) -> Result<(), Error>;
    fn unsubscribe(prefix: impl AsRef<[u8]>) -> Result<(), Error>;
    fn wait_for_peers(count: usize, timeout: Option<Duration>) -> Result<(), Error>;
    fn wait_for_subscribers(
        topic: impl AsRef<[u8]>, count: usize, timeout: Option<Duration>
    ) -> Result<(), Error>;
    fn monitor(capacity: usize);
    fn next_event() -> Option<Event>;
    fn stats() -> SocketStats;
    fn peers() -> Vec<PeerStats>;
    fn options() -> Options;
    fn set_options(options: Options) -> Result<(), Error>;
    fn recv_event(timeout: Option<Duration>) -> Result<Event, Error>;
    fn set_sndhwm(messages: u32);
    fn set_rcvhwm(messages: u32);
    fn set_linger(time: Option<Duration>);
    fn set_rcvtimeo(time: Option<Duration>);
    fn set_sndtimeo(time: Option<Duration>);
    fn set_reconnect_ivl(time: Duration);
    fn set_reconnect_ivl_max(time: Duration);
    fn set_heartbeat_ivl(time: Option<Duration>);
    fn set_heartbeat_timeout(time: Option<Duration>);
    fn set_heartbeat_ttl(time: Option<Duration>) -> Result<(), OptionError>;
    fn set_handshake_ivl(time: Option<Duration>);
    fn set_maxmsgsize(bytes: Option<u64>);
}

impl Socket {
    pub(crate) fn close(self) -> CloseReport {
        match self {
            Socket::Inline(socket) => socket.close(),
            Socket::Background(socket) => socket.close(),
        }
    }
}

/// Waits for the events of each socket; returns which sockets are readable and writable.
pub(crate) fn poll(items: &[(&Socket, u8)], timeout: Option<Duration>) -> Vec<(bool, bool)> {
    macro_rules! poll_all {
        ($kind:ident, $module:path) => {{
            use $module as home;
            let items = items.iter().filter_map(|(socket, events)| match socket {
                Socket::$kind(socket) => Some(home::PollItem::new(socket, *events)),
                _ => None,
            });
            let mut items: Vec<_> = items.collect();
            let count = home::poll(&mut items, timeout).expect("poll");
            let ready: Vec<_> =
                items.iter().map(|item| (item.is_readable(), item.is_writable())).collect();
            let any = |(readable, writable): &&(bool, bool)| *readable || *writable;
            assert_eq!(count, ready.iter().filter(any).count());
            ready
        }};
    }
    let ready = match items.first() {
        Some((Socket::Inline(_), _)) => poll_all!(Inline, zring::inline),
        Some((Socket::Background(_), _)) => poll_all!(Background, zring),
        None => Vec::new(),
    };
    assert_eq!(ready.len(), items.len(), "sockets of one kind");
    ready
}
