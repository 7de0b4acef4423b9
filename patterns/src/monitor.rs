//! Monitoring of a socket's connections: events as they happen, and counters.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use zring_engine::FileFault;

use crate::socket_type::SocketType;
use crate::wire::Violation;

/// An I/O fault that can be copied and compared, which `std::io::Error` cannot.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct IoFault {
    /// The kind of fault.
    pub kind: io::ErrorKind,
    /// The message of the operating system.
    pub message: Box<str>,
}

impl From<&io::Error> for IoFault {
    fn from(error: &io::Error) -> IoFault {
        IoFault { kind: error.kind(), message: error.to_string().into() }
    }
}

impl From<io::Error> for IoFault {
    fn from(error: io::Error) -> IoFault {
        IoFault::from(&error)
    }
}

/// Why the greeting or the handshake of a connection failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandshakeFault {
    /// The peer broke the protocol, speaks another one, or has a socket type that does not fit ours.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The handshake took longer than `handshake_ivl`.
    #[error("the handshake took too long")]
    Timeout,
    /// The peer closed the connection.
    #[error("the peer closed the connection during the handshake")]
    PeerClosed,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] IoFault),
    /// This side closed the connection.
    #[error("closed by this side during the handshake")]
    LocalClose,
}

/// Why an established connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer broke the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] IoFault),
    /// The peer closed the connection in order.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The peer closed the connection in the middle of a frame or between the frames of a message.
    #[error("the peer closed the connection inside a message")]
    PeerClosedInMessage,
    /// The peer sent nothing for the heartbeat's timeout, or for the time to live that it asked for.
    #[error("nothing was heard from the peer in time")]
    HeartbeatTimeout,
    /// This side closed the connection: by `disconnect`, or because the socket was closed.
    #[error("closed by this side")]
    LocalClose,
    /// A file that was being sent has become shorter or cannot be read. Its message is dropped: the part that the peer
    /// got cannot be completed.
    #[error("a file that was being sent: {0}")]
    File(FileFault),
    /// The peer exceeded `max_subscriptions_per_peer`.
    #[error("more than {max} subscriptions")]
    TooManySubscriptions {
        /// The limit.
        max: u32,
    },
    /// The peer exceeded `max_subscription_bytes_per_peer`.
    #[error("more than {bytes_max} bytes of subscriptions")]
    TooManySubscriptionBytes {
        /// The limit.
        bytes_max: u64,
    },
    /// The socket has as many peers as its type allows: PAIR has one.
    #[error("more than {max} peers")]
    TooManyPeers {
        /// The limit.
        max: usize,
    },
    /// The peer exceeded `max_frames_per_message`.
    #[error("a message of more than {max} frames")]
    TooManyFrames {
        /// The limit.
        max: u32,
    },
}

/// What happened. The arrows show the order of events:
///
/// ```text
/// bind:     Listening ─▶ (Accepted | AcceptFailed)* ─▶ Closed
/// connect:  Connecting ─▶ Connected | ConnectFailed        ConnectFailed ─▶ Retried ─▶ Connecting
/// either:   Accepted | Connected ─▶ HandshakeDone ─▶ Disconnected
///                                 └▶ HandshakeFailed       of a connecting socket ─▶ Retried, unless closed
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A listener is up. The event's endpoint has its real address and port.
    Listening,
    /// A listener could not be made.
    BindFailed {
        /// Why.
        error: IoFault,
    },
    /// A peer's connection was accepted; the handshake begins.
    Accepted {
        /// The peer's address, as the system shows it.
        peer: Arc<str>,
    },
    /// A peer's connection could not be accepted (out of descriptors, as a rule); the listener goes on.
    AcceptFailed {
        /// Why.
        error: IoFault,
    },
    /// An attempt to connect begins: the name is looked up, then the address is tried.
    Connecting,
    /// The transport is connected; the handshake begins.
    Connected,
    /// An attempt to connect came to nothing.
    ConnectFailed {
        /// Why.
        error: IoFault,
    },
    /// Another attempt to connect will be made.
    Retried {
        /// After this pause.
        delay: Duration,
    },
    /// The handshake is done; messages flow.
    HandshakeDone {
        /// The type of the peer's socket.
        socket_type: SocketType,
        /// The peer's routing id; empty if it announced none.
        routing_id: Box<[u8]>,
        /// The minor version of ZMTP 3 in use, the lower one of both sides.
        minor: u8,
    },
    /// The connection ended before messages could flow.
    HandshakeFailed {
        /// Why.
        why: HandshakeFault,
    },
    /// An established connection ended.
    Disconnected {
        /// Why.
        why: DisconnectReason,
        /// Messages received whole over this connection.
        messages_in: u64,
        /// Messages handed whole to this connection. The peer may not have read all of them.
        messages_out: u64,
        /// Messages queued for this connection that go to another one instead.
        messages_requeued: u64,
        /// Messages queued for this connection that are lost.
        messages_dropped: u64,
    },
    /// A listener was closed, or an endpoint is not connected to any more.
    Closed,
}

/// Something that happened to one endpoint of a socket.
///
/// Each connection has one [`EventKind::Accepted`] or [`EventKind::Connected`], and then exactly one
/// [`EventKind::HandshakeFailed`] or [`EventKind::Disconnected`], which is its last event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The endpoint bound or connected to, in its canonical form.
    pub endpoint: Arc<str>,
    /// The connection's id, if the event is about a connection; unique in the life of its context.
    pub connection: Option<u64>,
    /// The address of the peer, as the system shows it, if the event is about a connection: `127.0.0.1:5555`, a path,
    /// `unnamed` for a Unix socket without a name, `inproc` within the process.
    pub peer: Option<Arc<str>>,
    /// When it happened, by the system's clock.
    pub time: SystemTime,
    /// What happened.
    pub kind: EventKind,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint)?;
        if let Some(id) = self.connection {
            write!(f, " #{id}")?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventKind::Listening => f.write_str("listening"),
            EventKind::BindFailed { error } => write!(f, "cannot listen: {error}"),
            EventKind::Accepted { peer } => write!(f, "accepted {peer}"),
            EventKind::AcceptFailed { error } => write!(f, "cannot accept: {error}"),
            EventKind::Connecting => f.write_str("connecting"),
            EventKind::Connected => f.write_str("connected"),
            EventKind::ConnectFailed { error } => write!(f, "cannot connect: {error}"),
            EventKind::Retried { delay } => write!(f, "trying again in {delay:?}"),
            EventKind::HandshakeDone { socket_type, minor, .. } => {
                write!(f, "handshake done: {socket_type:?}, ZMTP 3.{minor}")
            }
            EventKind::HandshakeFailed { why } => write!(f, "handshake failed: {why}"),
            EventKind::Disconnected {
                why,
                messages_in,
                messages_out,
                messages_requeued,
                messages_dropped,
            } => write!(
                f,
                "disconnected: {why} (messages: {messages_in} in, {messages_out} out, \
                 {messages_requeued} requeued, {messages_dropped} dropped)"
            ),
            EventKind::Closed => f.write_str("closed"),
        }
    }
}

/// Events not yet taken. When the queue is full, the newest event is dropped and counted: a monitor that falls behind
/// sees the older events without a gap, and knows how many later ones it missed.
#[derive(Clone, Debug)]
pub(crate) struct EventQueue {
    events: VecDeque<Event>,
    capacity: usize,
    lost: u64,
}

impl EventQueue {
    /// A queue for `capacity` events; with 0 every event is lost.
    pub(crate) fn new(capacity: usize) -> EventQueue {
        EventQueue { events: VecDeque::new(), capacity, lost: 0 }
    }

    /// Queues an event. `false`: the queue is full, the event is lost and counted.
    pub(crate) fn push(&mut self, event: Event) -> bool {
        if self.events.len() >= self.capacity {
            self.lost += 1;
            return false;
        }
        self.events.push_back(event);
        true
    }

    /// Takes the oldest event.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How many events were lost since the queue was made.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

/// Counters of one connection, since it was made. Bytes are those of frame bodies; nothing wraps in practice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// The connection's id, as events name it.
    pub connection: u64,
    /// The endpoint bound or connected to.
    pub endpoint: Arc<str>,
    /// The peer's address, as the system shows it; see [`Event::peer`].
    pub address: Arc<str>,
    /// The peer's socket type; `None` before the handshake is done.
    pub socket_type: Option<SocketType>,
    /// The peer's routing id; empty if it announced none.
    pub routing_id: Box<[u8]>,
    /// Messages received whole.
    pub messages_in: u64,
    /// Messages handed whole to the connection.
    pub messages_out: u64,
    /// Bytes of the bodies of received frames.
    pub bytes_in: u64,
    /// Bytes of the bodies of sent frames.
    pub bytes_out: u64,
    /// Messages for this peer or from it that were dropped: high-water mark, filter, no pending request.
    pub messages_dropped: u64,
    /// Messages from this peer that the pattern could not use (no delimiter, no identity) and dropped.
    pub messages_malformed: u64,
    /// Messages queued for this peer that went to another when the connection ended.
    pub messages_requeued: u64,
    /// Messages queued for this peer at the moment.
    pub messages_queued: u64,
    /// How often a send found this peer's queue full.
    pub stalls_out: u64,
    /// How often receiving was stopped because the user did not take the messages.
    pub stalls_in: u64,
    /// Bytes of `bytes_in` that went straight from the kernel into the caller's memory.
    pub bytes_into: u64,
    /// Subscriptions the peer holds at the moment.
    pub subscriptions: u64,
}

/// Counters of a socket over all its connections, ended ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketStats {
    /// Connections that have finished the handshake and are up at the moment.
    pub peers: u64,
    /// Connections that have ever finished the handshake.
    pub handshakes_done: u64,
    /// Connections that failed before or during the handshake.
    pub handshakes_failed: u64,
    /// Connections that ended because the peer broke the protocol or a bound.
    pub violations: u64,
    /// Files that could not be read to their end while they were being sent. The message of each was lost, and so was
    /// its connection, unless the message was still waiting for a peer.
    pub file_faults: u64,
    /// Attempts to connect that were made again.
    pub retries: u64,
    /// Messages received whole.
    pub messages_in: u64,
    /// Messages handed whole to a connection.
    pub messages_out: u64,
    /// Bytes of the bodies of received frames.
    pub bytes_in: u64,
    /// Bytes of the bodies of sent frames.
    pub bytes_out: u64,
    /// Messages dropped by the pattern or because a queue was full.
    pub messages_dropped: u64,
    /// Messages the pattern could not use and dropped.
    pub messages_malformed: u64,
    /// Messages that went to another peer when the connection they were queued for ended.
    pub messages_requeued: u64,
    /// Messages that wait at the socket for a peer, at the moment.
    pub messages_pending: u64,
    /// How often a send found a peer's queue full.
    pub stalls_out: u64,
    /// How often receiving from a peer was stopped because the user did not take the messages.
    pub stalls_in: u64,
    /// Bytes of `bytes_in` that went straight from the kernel into the caller's memory.
    pub bytes_into: u64,
    /// Monitor events lost to a full queue.
    pub events_lost: u64,
}

impl SocketStats {
    /// Adds the counters of another share of the socket.
    pub(crate) fn merge(&mut self, part: &Self) {
        self.peers += part.peers;
        self.handshakes_done += part.handshakes_done;
        self.handshakes_failed += part.handshakes_failed;
        self.violations += part.violations;
        self.file_faults += part.file_faults;
        self.retries += part.retries;
        self.messages_in += part.messages_in;
        self.messages_out += part.messages_out;
        self.bytes_in += part.bytes_in;
        self.bytes_out += part.bytes_out;
        self.messages_dropped += part.messages_dropped;
        self.messages_malformed += part.messages_malformed;
        self.messages_requeued += part.messages_requeued;
        self.messages_pending += part.messages_pending;
        self.stalls_out += part.stalls_out;
        self.stalls_in += part.stalls_in;
        self.bytes_into += part.bytes_into;
        self.events_lost += part.events_lost;
    }

    /// Adds the traffic of one connection: for a snapshot if it is up, for good if it has ended.
    pub fn add(&mut self, peer: &PeerStats) {
        self.messages_in += peer.messages_in;
        self.messages_out += peer.messages_out;
        self.bytes_in += peer.bytes_in;
        self.bytes_out += peer.bytes_out;
        self.messages_dropped += peer.messages_dropped;
        self.messages_malformed += peer.messages_malformed;
        self.messages_requeued += peer.messages_requeued;
        self.stalls_out += peer.stalls_out;
        self.stalls_in += peer.stalls_in;
        self.bytes_into += peer.bytes_into;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(connection: u64) -> Event {
        Event {
            endpoint: "tcp://127.0.0.1:1".into(),
            connection: Some(connection),
            peer: None,
            time: SystemTime::UNIX_EPOCH,
            kind: EventKind::Connected,
        }
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_counts() {
        let mut queue = EventQueue::new(2);
        assert!(queue.push(event(1)));
        assert!(queue.push(event(2)));
        assert!(!queue.push(event(3)));
        assert_eq!((queue.events.len(), queue.lost()), (2, 1));
        assert_eq!(queue.pop(), Some(event(1)));
        assert!(queue.push(event(4)));
        assert_eq!(queue.pop(), Some(event(2)));
        assert_eq!(queue.pop(), Some(event(4)));
        assert_eq!(queue.pop(), None);
        assert!(queue.events.is_empty());
        assert_eq!(queue.lost(), 1);
    }

    #[test]
    fn without_room_everything_is_lost() {
        let mut queue = EventQueue::new(0);
        assert!(!queue.push(event(1)));
        assert_eq!((queue.pop(), queue.lost()), (None, 1));
    }

    #[test]
    fn reasons_keep_the_cause() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        let fault = IoFault::from(&refused);
        assert_eq!(fault.kind, io::ErrorKind::ConnectionRefused);
        assert_eq!(DisconnectReason::from(fault.clone()).to_string(), "refused");
        let violation = Violation::ReservedFlags { flags: 0x80 };
        let why = HandshakeFault::from(violation.clone());
        assert_eq!(why, HandshakeFault::Violation(violation.clone()));
        assert_eq!(why.to_string(), violation.to_string());
    }

    #[test]
    fn events_read_as_a_line_of_a_log() {
        let mut event = event(7);
        event.kind = EventKind::Disconnected {
            why: DisconnectReason::TooManyFrames { max: 3 },
            messages_in: 1,
            messages_out: 2,
            messages_requeued: 3,
            messages_dropped: 4,
        };
        assert_eq!(
            event.to_string(),
            "tcp://127.0.0.1:1 #7: disconnected: a message of more than 3 frames \
             (messages: 1 in, 2 out, 3 requeued, 4 dropped)"
        );
    }

    #[test]
    fn stats_add_up() {
        let peer = PeerStats {
            messages_in: 1,
            messages_out: 2,
            bytes_in: 3,
            bytes_out: 4,
            messages_dropped: 5,
            messages_malformed: 6,
            messages_requeued: 7,
            stalls_out: 8,
            stalls_in: 9,
            bytes_into: 10,
            ..PeerStats::default()
        };
        let mut stats = SocketStats::default();
        stats.add(&peer);
        stats.add(&peer);
        assert_eq!((stats.messages_in, stats.messages_out), (2, 4));
        assert_eq!((stats.bytes_in, stats.bytes_out), (6, 8));
        assert_eq!((stats.messages_dropped, stats.messages_malformed), (10, 12));
        assert_eq!((stats.messages_requeued, stats.stalls_out, stats.stalls_in), (14, 16, 18));
        assert_eq!(stats.bytes_into, 20);
    }
}
