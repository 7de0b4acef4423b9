//! The options of a socket, named as libzmq's users know them.

use std::time::Duration;

use thiserror::Error;

use crate::wire::{BODY_BYTES_MAX, ROUTING_ID_BYTES_MAX};

/// Longest time to live a PING can carry: 16 bits of tenths of a second (RFC 37).
const HEARTBEAT_TTL_MAX: Duration = Duration::from_millis(u16::MAX as u64 * 100);

/// Longest keep-alive time and interval Linux takes, in seconds (`tcp(7)`).
const KEEPALIVE_SECS_MAX: u64 = 32_767;

/// Most keep-alive probes Linux takes (`tcp(7)`).
const KEEPALIVE_PROBES_MAX: u32 = 127;

/// `setsockopt(2)` takes the sizes of socket buffers as an `int`.
const SOCKET_BUFFER_BYTES_MAX: u64 = i32::MAX as u64;

/// What is wrong with an option's value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionError {
    /// A routing id does not fit the handshake.
    #[error("routing id of {bytes} bytes: at most {ROUTING_ID_BYTES_MAX} are allowed")]
    RoutingIdTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Ids that begin with a zero byte are those a ROUTER gives to peers without one (RFC 28).
    #[error("a routing id must not begin with a zero byte")]
    RoutingIdLeadingZero,
    /// A PING cannot carry so long a time.
    #[error("heartbeat ttl of {0:?}: at most {HEARTBEAT_TTL_MAX:?} fit a PING")]
    HeartbeatTtlTooLong(Duration),
    /// A value outside what the option allows.
    #[error("{option} = {value}: expected {min} to {max}")]
    OutOfRange {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: u64,
        /// The least it takes.
        min: u64,
        /// The most it takes.
        max: u64,
    },
}

/// Everything that can be set on a socket. `Default` has libzmq's defaults, and bounds where libzmq has none.
///
/// Changes apply to connections made afterwards, except for `linger`, `rcvtimeo` and `sndtimeo`, which are read
/// when they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Messages queued for one peer at most (`ZMQ_SNDHWM`, 1000). 0: no limit by count;
    /// [`pipe_bytes_max`](Options::pipe_bytes_max) still holds.
    pub sndhwm: u32,
    /// Messages received from one peer and not yet taken at most (`ZMQ_RCVHWM`, 1000). 0: no limit by count.
    pub rcvhwm: u32,
    /// Bytes of message bodies queued for one peer, or from it, at most (1 GiB). A queue that holds less
    /// takes one more message whatever its size, so that no message is too large to be sent at all.
    pub pipe_bytes_max: u64,
    /// How long `close` waits for unsent messages (`ZMQ_LINGER`). `None`, the default: until they are sent.
    pub linger: Option<Duration>,
    /// How long `recv` waits (`ZMQ_RCVTIMEO`). `None`, the default: for ever.
    pub rcvtimeo: Option<Duration>,
    /// How long `send` waits (`ZMQ_SNDTIMEO`). `None`, the default: for ever.
    pub sndtimeo: Option<Duration>,
    /// Pause before a connection is tried again, plus up to as much of jitter (`ZMQ_RECONNECT_IVL`, 100 ms).
    pub reconnect_ivl: Duration,
    /// What the pause doubles up to (`ZMQ_RECONNECT_IVL_MAX`). Zero, the default, or anything up to
    /// `reconnect_ivl`: it does not grow.
    pub reconnect_ivl_max: Duration,
    /// How often a PING is sent (`ZMQ_HEARTBEAT_IVL`). `None`, the default, or zero: never.
    pub heartbeat_ivl: Option<Duration>,
    /// Silence after a PING before the peer counts as gone (`ZMQ_HEARTBEAT_TIMEOUT`). `None`, the default:
    /// as long as `heartbeat_ivl`. Zero: no limit. A PING waits behind what is being sent; as long as the peer
    /// takes that (on Linux, where TCP tells what it acknowledges), it is not silent, however long a large message takes.
    pub heartbeat_timeout: Option<Duration>,
    /// How long a peer may take for greeting and handshake (`ZMQ_HANDSHAKE_IVL`, 30 s). `None` or zero: no limit.
    pub handshake_ivl: Option<Duration>,
    /// Largest body of a single frame accepted, in bytes (`ZMQ_MAXMSGSIZE`). `None`, the default: any.
    /// A peer that announces more is disconnected.
    pub maxmsgsize: Option<u64>,
    /// Frames of one received message at most (65 536). A peer that sends more is disconnected.
    pub max_frames_per_message: u32,
    /// Subscriptions one peer may hold at most (1 000 000). A peer that asks for more is disconnected.
    pub max_subscriptions_per_peer: u32,
    /// Bytes of all prefixes one peer subscribes to at most (64 MiB). A peer that asks for more is disconnected.
    pub max_subscription_bytes_per_peer: u64,
    /// Connections the system completes ahead of their acceptance (`ZMQ_BACKLOG`, 100); see `listen(2)`.
    pub backlog: u32,
    /// Bind wildcards to IPv6 and prefer the system's order of a name's addresses (`ZMQ_IPV6`, off).
    /// Literal IPv6 addresses work either way.
    pub ipv6: bool,
    /// `SO_SNDBUF` in bytes (`ZMQ_SNDBUF`). `None`, the default: the system's over TCP; over `ipc://` 1 MiB, or what the
    /// system allows (on Linux `net.core.wmem_max`).
    pub sndbuf: Option<usize>,
    /// `SO_RCVBUF` in bytes (`ZMQ_RCVBUF`). `None`, the default: the system's.
    pub rcvbuf: Option<usize>,
    /// `SO_KEEPALIVE` (`ZMQ_TCP_KEEPALIVE`). `None`, the default: the system's.
    pub tcp_keepalive: Option<bool>,
    /// Silence before the first probe, 1 to 32 767 s (`ZMQ_TCP_KEEPALIVE_IDLE`).
    pub tcp_keepalive_idle: Option<Duration>,
    /// Pause between probes, 1 to 32 767 s (`ZMQ_TCP_KEEPALIVE_INTVL`).
    pub tcp_keepalive_intvl: Option<Duration>,
    /// Unanswered probes before the connection is given up, 1 to 127 (`ZMQ_TCP_KEEPALIVE_CNT`).
    pub tcp_keepalive_cnt: Option<u32>,
    /// A REQ socket may send again before the reply came (`ZMQ_REQ_RELAXED`, off).
    pub req_relaxed: bool,
    /// A REQ socket numbers its requests and drops replies to others (`ZMQ_REQ_CORRELATE`, off).
    pub req_correlate: bool,
    routing_id: Vec<u8>,
    heartbeat_ttl_ds: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sndhwm: 1000,
            rcvhwm: 1000,
            pipe_bytes_max: 1 << 30,
            linger: None,
            rcvtimeo: None,
            sndtimeo: None,
            reconnect_ivl: Duration::from_millis(100),
            reconnect_ivl_max: Duration::ZERO,
            heartbeat_ivl: None,
            heartbeat_timeout: None,
            handshake_ivl: Some(Duration::from_secs(30)),
            maxmsgsize: None,
            max_frames_per_message: 65_536,
            max_subscriptions_per_peer: 1_000_000,
            max_subscription_bytes_per_peer: 64 << 20,
            backlog: 100,
            ipv6: false,
            sndbuf: None,
            rcvbuf: None,
            tcp_keepalive: None,
            tcp_keepalive_idle: None,
            tcp_keepalive_intvl: None,
            tcp_keepalive_cnt: None,
            req_relaxed: false,
            req_correlate: false,
            routing_id: Vec::new(),
            heartbeat_ttl_ds: 0,
        }
    }
}

impl Options {
    /// The routing id announced to peers; empty, the default: none.
    pub fn routing_id(&self) -> &[u8] {
        &self.routing_id
    }

    /// Sets the routing id announced to peers (`ZMQ_ROUTING_ID`), up to 255 bytes; empty: none.
    ///
    /// # Errors
    /// [`OptionError::RoutingIdTooLong`], [`OptionError::RoutingIdLeadingZero`].
    pub fn set_routing_id(&mut self, id: &[u8]) -> Result<(), OptionError> {
        if id.len() > ROUTING_ID_BYTES_MAX {
            return Err(OptionError::RoutingIdTooLong { bytes: id.len() });
        }
        if id.first() == Some(&0) {
            return Err(OptionError::RoutingIdLeadingZero);
        }
        self.routing_id = id.to_vec();
        Ok(())
    }

    /// What our PINGs ask of the peer, in tenths of a second as they carry it; 0, the default: nothing.
    pub fn heartbeat_ttl_ds(&self) -> u16 {
        self.heartbeat_ttl_ds
    }

    /// Sets how long the peer is to wait for our next sign of life before it drops us
    /// (`ZMQ_HEARTBEAT_TTL`), rounded up to tenths of a second. `None` or zero: not our concern.
    ///
    /// # Errors
    /// [`OptionError::HeartbeatTtlTooLong`] above 6553.5 s.
    pub fn set_heartbeat_ttl(&mut self, ttl: Option<Duration>) -> Result<(), OptionError> {
        let ttl = ttl.unwrap_or_default();
        let ds = ttl.as_nanos().div_ceil(100_000_000);
        self.heartbeat_ttl_ds =
            u16::try_from(ds).map_err(|_| OptionError::HeartbeatTtlTooLong(ttl))?;
        Ok(())
    }

    /// The largest frame body to accept, in bytes.
    pub fn body_bytes_max(&self) -> u64 {
        self.maxmsgsize.map_or(BODY_BYTES_MAX, |bytes| bytes.min(BODY_BYTES_MAX))
    }

    /// The interval between PINGs in nanoseconds; `None`: no heartbeat.
    pub fn heartbeat_ivl_ns(&self) -> Option<u64> {
        self.heartbeat_ivl.map(ns).filter(|&ns| ns > 0)
    }

    /// The limit on silence in nanoseconds; `None`: as the interval, 0: no limit.
    pub fn heartbeat_timeout_ns(&self) -> Option<u64> {
        self.heartbeat_timeout.map(ns)
    }

    /// The limit on greeting and handshake in nanoseconds; `None`: no limit.
    pub fn handshake_ivl_ns(&self) -> Option<u64> {
        self.handshake_ivl.map(ns).filter(|&ns| ns > 0)
    }

    /// Checks the values that are free to set but not free to use; called before options are put to use.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`] for the first option that is out of its range.
    pub fn validate(&self) -> Result<(), OptionError> {
        let secs = |time: Option<Duration>| time.map(|time| time.as_secs());
        for (option, value, max) in [
            ("pipe_bytes_max", Some(self.pipe_bytes_max), u64::MAX),
            ("max_frames_per_message", Some(self.max_frames_per_message.into()), u64::MAX),
            ("tcp_keepalive_idle", secs(self.tcp_keepalive_idle), KEEPALIVE_SECS_MAX),
            ("tcp_keepalive_intvl", secs(self.tcp_keepalive_intvl), KEEPALIVE_SECS_MAX),
            (
                "tcp_keepalive_cnt",
                self.tcp_keepalive_cnt.map(u64::from),
                KEEPALIVE_PROBES_MAX.into(),
            ),
            ("sndbuf", self.sndbuf.map(|bytes| bytes as u64), SOCKET_BUFFER_BYTES_MAX),
            ("rcvbuf", self.rcvbuf.map(|bytes| bytes as u64), SOCKET_BUFFER_BYTES_MAX),
        ] {
            match value {
                Some(value) if !(1..=max).contains(&value) => {
                    return Err(OptionError::OutOfRange { option, value, min: 1, max });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_libzmqs() {
        let options = Options::default();
        assert_eq!((options.sndhwm, options.rcvhwm, options.backlog), (1000, 1000, 100));
        assert_eq!((options.linger, options.rcvtimeo, options.sndtimeo), (None, None, None));
        assert_eq!(options.reconnect_ivl, Duration::from_millis(100));
        assert_eq!(options.reconnect_ivl_max, Duration::ZERO);
        assert_eq!(options.heartbeat_ivl_ns(), None);
        assert_eq!(options.heartbeat_timeout_ns(), None);
        assert_eq!(options.heartbeat_ttl_ds(), 0);
        assert_eq!(options.handshake_ivl_ns(), Some(30_000_000_000));
        assert_eq!(options.body_bytes_max(), BODY_BYTES_MAX);
        assert_eq!(options.routing_id(), b"");
        assert!(!(options.ipv6 || options.req_relaxed || options.req_correlate));
        options.validate().unwrap();
    }

    #[test]
    fn routing_ids_are_checked() {
        let mut options = Options::default();
        options.set_routing_id(&[b'x'; 255]).unwrap();
        let too_long = options.set_routing_id(&[b'x'; 256]);
        assert_eq!(too_long, Err(OptionError::RoutingIdTooLong { bytes: 256 }));
        assert_eq!(options.set_routing_id(b"\0x"), Err(OptionError::RoutingIdLeadingZero));
        assert_eq!(options.routing_id(), [b'x'; 255]);
        options.set_routing_id(b"").unwrap();
        assert_eq!(options.routing_id(), b"");
    }

    #[test]
    fn the_ttl_is_kept_as_the_wire_has_it() {
        let mut options = Options::default();
        for (ttl_ms, ds) in [(0, 0), (1, 1), (100, 1), (101, 2), (6_553_500, u16::MAX)] {
            let ttl = Duration::from_millis(ttl_ms);
            options.set_heartbeat_ttl(Some(ttl)).unwrap();
            assert_eq!(options.heartbeat_ttl_ds(), ds, "{ttl_ms}");
        }
        let ttl = Duration::from_millis(6_553_501);
        let too_long = options.set_heartbeat_ttl(Some(ttl));
        assert_eq!(too_long, Err(OptionError::HeartbeatTtlTooLong(ttl)));
        options.set_heartbeat_ttl(None).unwrap();
        assert_eq!(options.heartbeat_ttl_ds(), 0);
    }

    #[test]
    fn zero_switches_timers_off() {
        let zero = Some(Duration::ZERO);
        let options = Options {
            heartbeat_ivl: zero,
            heartbeat_timeout: zero,
            handshake_ivl: zero,
            ..Options::default()
        };
        assert_eq!(options.heartbeat_ivl_ns(), None);
        assert_eq!(options.heartbeat_timeout_ns(), Some(0));
        assert_eq!(options.handshake_ivl_ns(), None);
    }

    #[test]
    fn ranges_are_checked_by_name() {
        let fault = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            match options.validate() {
                Err(OptionError::OutOfRange { option, .. }) => option,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(fault(|o| o.pipe_bytes_max = 0), "pipe_bytes_max");
        assert_eq!(fault(|o| o.max_frames_per_message = 0), "max_frames_per_message");
        assert_eq!(fault(|o| o.tcp_keepalive_cnt = Some(128)), "tcp_keepalive_cnt");
        assert_eq!(
            fault(|o| o.tcp_keepalive_idle = Some(Duration::from_millis(999))),
            "tcp_keepalive_idle"
        );
        assert_eq!(
            fault(|o| o.tcp_keepalive_intvl = Some(Duration::from_secs(40_000))),
            "tcp_keepalive_intvl"
        );
        assert_eq!(fault(|o| o.sndbuf = Some(0)), "sndbuf");
        assert_eq!(fault(|o| o.rcvbuf = Some(usize::MAX)), "rcvbuf");
    }
}
