//! Resolves host names on a thread of its own, because `getaddrinfo(3)` blocks for seconds.
//!
//! A [`Resolver`] belongs to one shard. Its thread starts with the first request, is named `zring-resolver`, and looks
//! names up one after the other. It ends by itself once the resolver is dropped and the lookup in progress has
//! returned; no thread joins it.
//!
//! ```text
//! shard: resolve(host, port, token) ──requests──▶ thread: lookup ──results──▶ poll_resolved() :shard
//!                                                         └── wake ────▶ shard
//! ```

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use thiserror::Error;

use crate::sync::Arc;

/// How many lookups may be in progress, or have results that the shard has not taken, at one time.
pub(crate) const RESOLVER_REQUESTS_MAX: usize = 1024;

/// How many addresses of one name are kept; the rest of a longer answer is dropped.
pub(crate) const RESOLVER_ADDRESSES_MAX: usize = 32;

/// Tells the shard to call [`Resolver::poll_resolved`] soon. The resolver's thread calls it, possibly shortly after the
/// resolver was dropped. It must not block.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// The system's resolver failed or does not know the name.
    #[error("cannot resolve {host:?}: {message}")]
    Lookup {
        /// The name asked for.
        host: String,
        /// The system's error message.
        message: String,
    },
    /// The name exists and has no address.
    #[error("{host:?} has no address")]
    NoAddress {
        /// The name asked for.
        host: String,
    },
    /// The shard has as many outstanding lookups as it may have (1024); ask again later.
    #[error("too many lookups are under way")]
    Busy,
    /// The resolver's thread could not be started.
    #[error("cannot start the resolver thread: {message}")]
    Thread {
        /// The system's error message.
        message: String,
    },
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The token of the request.
    pub(crate) token: u64,
    /// At least one address, best first, each with the port asked for; or the reason why there is none.
    pub(crate) addresses: Result<Vec<SocketAddr>, ResolveError>,
}

/// Resolves names for one shard. See the module's description.
pub(crate) struct Resolver {
    wake: Wake,
    thread: Option<Channels>,
    outstanding: usize,
}

struct Channels {
    requests: SyncSender<Request>,
    results: Receiver<Resolved>,
}

struct Request {
    host: String,
    port: u16,
    ipv6: bool,
    token: u64,
}

impl Resolver {
    /// A resolver without a thread; `wake` is called after every answer.
    pub(crate) fn new(wake: Wake) -> Resolver {
        Resolver { wake, thread: None, outstanding: 0 }
    }

    /// Asks for the addresses of `host`. [`poll_resolved`](Resolver::poll_resolved) returns the answer with the same
    /// `token`; a caller that lost interest ignores it. Never blocks.
    ///
    /// With `ipv6` the addresses come in the system's order of preference (RFC 6724). Without it IPv4 addresses come
    /// first.
    ///
    /// # Errors
    /// [`ResolveError::Busy`] or [`ResolveError::Thread`]; then no answer follows.
    pub(crate) fn resolve(
        &mut self,
        host: &str,
        port: u16,
        ipv6: bool,
        token: u64,
    ) -> Result<(), ResolveError> {
        if self.outstanding == RESOLVER_REQUESTS_MAX {
            return Err(ResolveError::Busy);
        }
        let request = Request { host: host.to_owned(), port, ipv6, token };
        let channels = match self.thread.take() {
            Some(channels) => channels,
            None => start(&self.wake)?,
        };
        let sent = channels.requests.try_send(request);
        self.thread = Some(channels);
        match sent {
            Ok(()) => {
                self.outstanding += 1;
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(ResolveError::Busy),
            Err(TrySendError::Disconnected(_)) => {
                Err(ResolveError::Thread { message: "it ended".to_owned() })
            }
        }
    }

    /// The next answer, in no particular order; `None` if there is none yet. Never blocks.
    pub(crate) fn poll_resolved(&mut self) -> Option<Resolved> {
        let resolved = self.thread.as_ref()?.results.try_recv().ok()?;
        self.outstanding -= 1;
        Some(resolved)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("started", &self.thread.is_some())
            .field("outstanding", &self.outstanding)
            .finish_non_exhaustive()
    }
}

fn start(wake: &Wake) -> Result<Channels, ResolveError> {
    let (requests, requested) = sync_channel(RESOLVER_REQUESTS_MAX);
    // Large enough for all outstanding requests: the thread never blocks on a shard that does not poll.
    let (answers, results) = sync_channel(RESOLVER_REQUESTS_MAX);
    let wake = Arc::clone(wake);
    thread::Builder::new()
        .name("zring-resolver".to_owned())
        .spawn(move || run(&requested, &answers, &wake))
        .map_err(|error| ResolveError::Thread { message: error.to_string() })?;
    Ok(Channels { requests, results })
}

fn run(requested: &Receiver<Request>, answers: &SyncSender<Resolved>, wake: &Wake) {
    if let Err(error) = crate::sys::signal::block_all_on_this_thread() {
        tracing::warn!(%error, "the resolver thread takes signals");
    }
    while let Ok(request) = requested.recv() {
        let answer = Resolved {
            token: request.token,
            addresses: lookup(&request.host, request.port, request.ipv6),
        };
        // The resolver is dropped: no request can come, and no shard waits for an answer.
        if answers.send(answer).is_err() {
            return;
        }
        wake();
    }
}

/// Looks a name up on the calling thread. Orders the addresses as [`Resolver::resolve`] does.
pub(crate) fn lookup(host: &str, port: u16, ipv6: bool) -> Result<Vec<SocketAddr>, ResolveError> {
    let found = (host, port).to_socket_addrs();
    arrange(host, found.map(Iterator::collect), ipv6)
}

fn arrange(
    host: &str,
    found: io::Result<Vec<SocketAddr>>,
    ipv6: bool,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let mut addresses = found.map_err(|error| ResolveError::Lookup {
        host: host.to_owned(),
        message: error.to_string(),
    })?;
    if !ipv6 {
        // A stable sort: within a family the system's order stays.
        addresses.sort_by_key(SocketAddr::is_ipv6);
    }
    addresses.dedup();
    addresses.truncate(RESOLVER_ADDRESSES_MAX);
    if addresses.is_empty() {
        return Err(ResolveError::NoAddress { host: host.to_owned() });
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A resolver, and a channel that gets one `()` for every wake.
    fn resolver() -> (Resolver, Receiver<()>) {
        let (woken, wakes) = channel();
        let wake = move || {
            let _ = woken.send(());
        };
        (Resolver::new(Arc::new(wake)), wakes)
    }

    /// A label of more than 63 bytes is refused before any name server is asked.
    fn impossible_name() -> String {
        format!("{}.invalid", "x".repeat(64))
    }

    #[test]
    fn localhost_resolves_and_wakes() {
        let (mut resolver, wakes) = resolver();
        assert_eq!(resolver.poll_resolved(), None);
        resolver.resolve("localhost", 5555, false, 7).unwrap();
        wakes.recv_timeout(PATIENCE).unwrap();
        let resolved = resolver.poll_resolved().unwrap();
        assert_eq!(resolved.token, 7);
        let addresses = resolved.addresses.unwrap();
        assert!(addresses.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 5555));
        assert_eq!(resolver.outstanding, 0);
    }

    #[test]
    fn a_bad_name_is_a_typed_error() {
        let (mut resolver, wakes) = resolver();
        resolver.resolve(&impossible_name(), 1, true, 1).unwrap();
        resolver.resolve("127.0.0.1", 2, true, 2).unwrap();
        for _ in 0..2 {
            wakes.recv_timeout(PATIENCE).unwrap();
        }
        let error = resolver.poll_resolved().unwrap().addresses.unwrap_err();
        assert!(matches!(error, ResolveError::Lookup { .. }), "{error}");
        let addresses = resolver.poll_resolved().unwrap().addresses.unwrap();
        assert_eq!(addresses, ["127.0.0.1:2".parse().unwrap()]);
    }

    #[test]
    fn outstanding_lookups_are_bounded() {
        let (mut resolver, wakes) = resolver();
        for token in 0..RESOLVER_REQUESTS_MAX as u64 {
            resolver.resolve("127.0.0.1", 1, false, token).unwrap();
        }
        let refused = resolver.resolve("127.0.0.1", 1, false, u64::MAX);
        assert_eq!(refused, Err(ResolveError::Busy));
        for token in 0..RESOLVER_REQUESTS_MAX as u64 {
            wakes.recv_timeout(PATIENCE).unwrap();
            assert_eq!(resolver.poll_resolved().unwrap().token, token);
        }
        resolver.resolve("127.0.0.1", 1, false, 0).unwrap();
    }

    #[test]
    fn dropping_ends_the_thread_and_keeps_it_silent() {
        let (mut resolver, wakes) = resolver();
        for token in 0..100 {
            resolver.resolve("localhost", 1, false, token).unwrap();
        }
        drop(resolver);
        // The channel closes when the thread lets go of the callback.
        while wakes.recv_timeout(PATIENCE).is_ok() {}
        let ended = wakes.recv_timeout(Duration::ZERO).unwrap_err();
        assert_eq!(ended, std::sync::mpsc::RecvTimeoutError::Disconnected);
    }

    #[test]
    fn v4_comes_first_unless_v6_is_wanted() {
        let v6: SocketAddr = "[::1]:1".parse().unwrap();
        let v4: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let found = || Ok(vec![v6, v6, v4]);
        assert_eq!(arrange("x", found(), false).unwrap(), [v4, v6]);
        assert_eq!(arrange("x", found(), true).unwrap(), [v6, v4]);
        let none = arrange("x", Ok(Vec::new()), true).unwrap_err();
        assert_eq!(none, ResolveError::NoAddress { host: "x".into() });
        let many = (1..200).map(|port| (v4.ip(), port).into()).collect();
        assert_eq!(arrange("x", Ok(many), true).unwrap().len(), RESOLVER_ADDRESSES_MAX);
    }
}
