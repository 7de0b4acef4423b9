//! Options of a socket, one by one and all at once.

use std::time::Duration;

use super::{Home, Socket};
use crate::{
    error::Error,
    options::{OptionError, Options},
};

macro_rules! options {
    ($($(#[$doc:meta])* $set:ident, $get:ident: $kind:ty;)*) => {$(
        $(#[$doc])*
        pub fn $set(&self, value: $kind) {
            self.each(|reactor, key| reactor.hub.sockets[key].options.$get = value.clone());
        }
        #[doc = concat!("The value of `", stringify!($get), "`; see [`Options`].")]
        #[must_use]
        pub fn $get(&self) -> $kind {
            self.reactor().hub.sockets[self.key()].options.$get
        }
    )*};
}

impl<C: Home> Socket<C> {
    options! {
        /// Messages queued for one peer at most (`ZMQ_SNDHWM`); 0: no limit by count.
        set_sndhwm, sndhwm: u32;
        /// Messages received from one peer and not yet taken at most (`ZMQ_RCVHWM`); 0: no limit by count.
        set_rcvhwm, rcvhwm: u32;
        /// How long unsent messages are kept after the socket was closed (`ZMQ_LINGER`); `None`: for ever.
        set_linger, linger: Option<Duration>;
        /// How long `recv` waits (`ZMQ_RCVTIMEO`); `None`: for ever.
        set_rcvtimeo, rcvtimeo: Option<Duration>;
        /// How long `send` waits (`ZMQ_SNDTIMEO`); `None`: for ever.
        set_sndtimeo, sndtimeo: Option<Duration>;
        /// Pause before a connection is tried again (`ZMQ_RECONNECT_IVL`).
        set_reconnect_ivl, reconnect_ivl: Duration;
        /// What the pause doubles up to (`ZMQ_RECONNECT_IVL_MAX`); zero: it does not grow.
        set_reconnect_ivl_max, reconnect_ivl_max: Duration;
        /// How often a PING is sent (`ZMQ_HEARTBEAT_IVL`); `None`: never.
        set_heartbeat_ivl, heartbeat_ivl: Option<Duration>;
        /// Silence after a PING before the peer counts as gone (`ZMQ_HEARTBEAT_TIMEOUT`).
        set_heartbeat_timeout, heartbeat_timeout: Option<Duration>;
        /// How long a peer may take for the handshake (`ZMQ_HANDSHAKE_IVL`); `None`: no limit.
        set_handshake_ivl, handshake_ivl: Option<Duration>;
        /// Largest frame body accepted, in bytes (`ZMQ_MAXMSGSIZE`); `None`: any.
        set_maxmsgsize, maxmsgsize: Option<u64>;
        /// Connections the system completes ahead of their acceptance (`ZMQ_BACKLOG`).
        set_backlog, backlog: u32;
        /// Bind wildcards to IPv6 (`ZMQ_IPV6`).
        set_ipv6, ipv6: bool;
        /// `SO_SNDBUF` in bytes (`ZMQ_SNDBUF`); `None`: the system's.
        set_sndbuf, sndbuf: Option<usize>;
        /// `SO_RCVBUF` in bytes (`ZMQ_RCVBUF`); `None`: the system's.
        set_rcvbuf, rcvbuf: Option<usize>;
        /// REQ may send again before the reply came (`ZMQ_REQ_RELAXED`).
        set_req_relaxed, req_relaxed: bool;
        /// REQ numbers its requests and drops replies to others (`ZMQ_REQ_CORRELATE`).
        set_req_correlate, req_correlate: bool;
    }

    /// The id this socket announces to its peers (`ZMQ_ROUTING_ID`).
    ///
    /// # Errors
    /// [`OptionError`] when it is longer than 255 bytes or begins with a zero byte.
    pub fn set_routing_id(&self, id: impl AsRef<[u8]>) -> Result<(), OptionError> {
        let mut options = self.options();
        options.set_routing_id(id.as_ref())?;
        self.replace_options(&options);
        Ok(())
    }

    /// How long the peer may hear nothing from us, told with each PING (`ZMQ_HEARTBEAT_TTL`).
    ///
    /// # Errors
    /// [`OptionError`] beyond 6,553.5 s.
    pub fn set_heartbeat_ttl(&self, ttl: Option<Duration>) -> Result<(), OptionError> {
        let mut options = self.options();
        options.set_heartbeat_ttl(ttl)?;
        self.replace_options(&options);
        Ok(())
    }

    /// All options at once.
    #[must_use]
    pub fn options(&self) -> Options {
        self.reactor().hub.sockets[self.key()].options.clone()
    }

    /// Replaces all options; like single ones they apply to connections made afterwards.
    ///
    /// # Errors
    /// [`Error::Option`] for a value out of its bounds.
    #[expect(clippy::needless_pass_by_value, reason = "each share keeps its own")]
    pub fn set_options(&self, options: Options) -> Result<(), Error> {
        options.validate()?;
        self.replace_options(&options);
        Ok(())
    }

    fn replace_options(&self, options: &Options) {
        self.each(|reactor, key| reactor.hub.sockets[key].options = options.clone());
    }
}
