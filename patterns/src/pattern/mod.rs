//! Socket types: one room for each type, behind one table of operations.
//!
//! A room is a small state machine. The hub gives it values (slots of peers, frames, options) and carries out the
//! [`Plan`] or the [`Verdict`] that comes back. A room does no I/O, reads no clock, and knows neither connections nor
//! queues: the hub owns those, and sees to credit and flushing. So each room is tested without a socket, and a new type
//! is a file of its own, a line in the list of [`Any`] and nothing else.
//!
//! ```text
//! send     can_send ▶ (begin, of a message in frames) ▶ route ─Plan▶ given, matches
//! receive  arrive ─Verdict▶ can_receive ▶ take;  while a message is under way: ahead
//! peers    attach ▶ … ▶ detach ▶ lost ▶ forget
//! ```
//!
//! The constant [`Facts`] of a room answer questions that the hub would otherwise ask for each message: a socket that
//! sends by turn and takes freely uses the fast paths, whatever its type.

#[macro_use]
mod shared;

mod pair;
mod publisher;
mod pull;
mod push;
mod rep;
mod req;
mod subscriber;
#[cfg(test)]
mod testing;

use crate::{
    error::Error, frame::Frame, monitor::DisconnectReason, options::Options, route::PipeId,
    socket_type::SocketType,
};

/// Longest subscription prefix that a peer may ask for. It bounds what matching and storing a prefix costs.
pub(crate) const SUBSCRIPTION_BYTES_MAX: usize = 64 << 10;

/// Properties of every socket of a type.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) socket_type: SocketType,
    pub(crate) sends: Sends,
    pub(crate) takes: Takes,
    pub(crate) spread: Spread,
    /// Peers with room take turns: the socket keeps a ring of them, and messages may wait at the socket for a peer.
    pub(crate) rotates: bool,
    /// Whether a message can be sent or received depends on what was sent and received before.
    pub(crate) has_state: bool,
    /// How many ready peers a socket has at most.
    pub(crate) peers_max: usize,
}

/// Which peers receive a message that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sends {
    /// The type does not send.
    Never,
    /// The peer whose turn it is receives the message unchanged; [`Sending::route`] decides nothing.
    ByTurn,
    /// [`Sending::route`] decides.
    Decides,
}

/// How messages that arrive are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// The type does not receive.
    Never,
    /// Every message goes to the user unchanged; [`Receiving::arrive`] decides nothing.
    Freely,
    /// A message goes to the user if its first frame passes [`Receiving::filter`].
    Matching,
    /// [`Receiving::arrive`] decides.
    Decides,
}

/// How a socket works if its connections may be spread over several shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// The socket stays on one shard: its state or its one peer cannot be divided.
    One,
    /// Shares send and receive in turn.
    Balanced,
    /// Each message is sent by all shares.
    Everywhere,
    /// The share that a request was received from sends the reply.
    Answering,
}

/// A call that the socket's type or state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misuse {
    /// Sockets of this type do not do this.
    Unsupported(&'static str),
    /// Another call has to come first.
    OutOfTurn(&'static str),
    /// The prefix is longer than a subscription may be: its length in bytes.
    SubscriptionTooLong(usize),
}

impl Misuse {
    pub(crate) fn of(self, socket_type: SocketType) -> Error {
        match self {
            Self::Unsupported(operation) => Error::Unsupported { socket_type, operation },
            Self::OutOfTurn(turn) => Error::State { socket_type, turn },
            Self::SubscriptionTooLong(bytes) => {
                Error::SubscriptionTooLong { bytes, max: SUBSCRIPTION_BYTES_MAX }
            }
        }
    }
}

pub(crate) const NO_SUBSCRIBERS: Misuse = Misuse::Unsupported("have subscribers");

/// The error of a type that has no subscriptions to change.
pub(crate) fn cannot(change: Subscription<'_>) -> Misuse {
    Misuse::Unsupported(match change {
        Subscription::Subscribe(_) => "subscribe",
        Subscription::Cancel(_) => "unsubscribe",
    })
}

/// What the first frame of several reserves, so that the last one is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserve {
    /// Nothing: the message can go at any time.
    Nothing,
    /// Room for one message at the peer whose turn it is or, if no peer has room, among the messages that wait for one.
    Turn,
}

/// Frames that are sent in front of a message's own.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// Goes in front of `frames`; kept apart because that costs no allocation.
    pub(crate) first: Option<Frame>,
    pub(crate) frames: Vec<Frame>,
    /// An empty frame, the delimiter, follows them.
    pub(crate) is_delimited: bool,
}

impl Head {
    /// The frames in front of the delimiter.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.first.iter().chain(&self.frames)
    }

    /// Whether there are no frames, or only the delimiter.
    pub(crate) fn is_plain(&self) -> bool {
        self.first.is_none() && self.frames.is_empty()
    }
}

/// Where a message goes.
#[derive(Debug)]
pub(crate) enum Plan {
    /// To the peer whose turn it is; the hub names the peer to [`Sending::given`]. If no peer has room, the message
    /// waits at the socket.
    InTurn {
        head: Head,
        /// The message replaces the one before: messages that arrived and were not taken, and messages that wait at the
        /// socket, are dropped.
        supersedes: bool,
    },
    /// To this peer alone; dropped if its queue is full.
    To { peer: PipeId, head: Head },
    /// To each peer that [`Sending::matches`] names; dropped for those whose queues are full.
    Each,
    /// Nowhere: the peer that the message is for is gone.
    Lost,
}

/// A message that arrived: the body of its only frame, or all frames of a longer one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrived<'a> {
    Body(&'a [u8]),
    Frames(&'a [Frame]),
}

/// What the hub does with a message or a command that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Gives the user the frames behind the first `hidden`. The first `kept` frames come back with [`Receiving::take`].
    Deliver { hidden: usize, kept: usize },
    /// Nothing: the room has handled it.
    Done,
    /// Drops the message, and counts it.
    Drop(Dropped),
    /// Ends the connection.
    End(DisconnectReason),
}

/// Why a message that arrived is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The pattern cannot use the message.
    Malformed,
    /// The user did not ask for the message.
    Unwanted,
}

/// The beginning of a message that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun<'a> {
    /// The frames that have arrived whole.
    pub(crate) frames: &'a [Frame],
    /// What has arrived of the next frame's body.
    pub(crate) body: &'a [u8],
}

/// How many frames of a message under way are in front of the user's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// This many; the message is for the user.
    Known(usize),
    /// This many; the first frame, once it is whole, tells whether the message is for the user.
    Likely(usize),
    /// The message is not for the user, or too little of it has arrived to know.
    Unknown,
}

/// What the hub does with messages that a lost connection did not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Gives them to another peer, in front of all others.
    Requeue,
    /// Drops them, and counts them.
    Drop,
}

/// A change of subscriptions: a subscriber's call, or a command to a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subscription<'a> {
    Subscribe(&'a [u8]),
    Cancel(&'a [u8]),
}

/// The traits of a room. A room implements each trait itself, or invokes a macro for the usual case ([`never_sends`],
/// [`takes_freely`] and so on). A forgotten trait or operation does not compile.
///
/// A peer is named by its slot within the socket. The slot is used again after [`Peers::forget`].
pub(crate) trait Pattern: Sending + Receiving + Peers + Subscribing {
    const FACTS: Facts;

    /// The room of a new socket.
    fn new() -> Self;
}

/// How messages are sent.
pub(crate) trait Sending {
    /// Whether the state allows a send, regardless of whether there is room.
    fn can_send(&self, options: &Options) -> Result<(), Misuse>;

    /// Says, before the first frame of several is kept, what to reserve so that the last one can be sent. A message in
    /// frames is refused here, or not at all.
    fn begin(&self, options: &Options) -> Result<Reserve, Misuse>;

    /// Where a message goes. The hub has asked [`Sending::can_send`] and, if the type rotates, found room.
    fn route(&mut self, options: &Options) -> Plan;

    /// The message of [`Plan::InTurn`] was given to this peer: at once, or after it had waited.
    fn given(&mut self, peer: PipeId);

    /// Adds the peers that a message of [`Plan::Each`] with this topic is for, each once.
    fn matches(&mut self, topic: &[u8], peers: &mut Vec<PipeId>);

    /// A message that was given to this peer (`None`: a message that waits for a peer) cannot be sent.
    fn spoiled(&mut self, peer: Option<PipeId>);

    /// Messages that were queued for a detached peer were not sent: what to do with them.
    fn lost(&mut self, peer: PipeId) -> Fate;
}

/// How messages are received.
pub(crate) trait Receiving {
    /// Whether the state allows a receive, regardless of whether there is a message.
    fn can_receive(&self) -> Result<(), Misuse>;

    /// Whether a message with this topic is for the user ([`Takes::Matching`]).
    fn filter(&self, topic: &[u8]) -> bool;

    /// How many frames are in front of the user's frames in a message that is under way.
    fn ahead(&self, from: PipeId, begun: Begun<'_>, options: &Options) -> Ahead;

    /// A message arrived: what to do with it ([`Takes::Decides`], [`Takes::Never`]).
    fn arrive(&mut self, from: PipeId, message: Arrived<'_>, options: &Options) -> Verdict;

    /// The user takes a message. `from` is `None` if the connection has ended since; `kept` are the frames that
    /// [`Verdict::Deliver`] kept.
    fn take(&mut self, from: Option<PipeId>, kept: Vec<Frame>);
}

/// How peers come and go.
pub(crate) trait Peers {
    /// A peer is ready. `tell` sends it a command.
    fn attach(&mut self, peer: PipeId, tell: &mut dyn FnMut(Subscription<'_>));

    /// A peer's connection ends: nothing can be sent to it any more. Messages that it sent may still arrive.
    fn detach(&mut self, peer: PipeId);

    /// Nothing is left of a detached peer. Another peer may get its slot.
    fn forget(&mut self, peer: PipeId);
}

/// How subscriptions change, and what they match.
pub(crate) trait Subscribing {
    /// The user changes subscriptions. Returns whether the publishers are to be told.
    fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, Misuse>;

    /// A subscription command arrived.
    fn command(&mut self, from: PipeId, command: Subscription<'_>, options: &Options) -> Verdict;

    /// How many peers a message with this topic would go to.
    fn subscribers(&mut self, topic: &[u8]) -> Result<usize, Misuse>;

    /// How many subscriptions a peer holds.
    fn subscriptions(&self, peer: PipeId) -> usize;
}

/// Makes [`Any`], which passes each operation to the room of the socket's type.
macro_rules! rooms {
    ($($name:ident($room:ty),)*) => {
        /// The room of a socket.
        #[derive(Debug)]
        pub(crate) enum Any {
            $($name($room),)*
        }

        /// The facts of a type; `None` if sockets of this type cannot be opened.
        pub(crate) fn facts(socket_type: SocketType) -> Option<&'static Facts> {
            match socket_type {
                $(SocketType::$name => Some(const { &<$room as Pattern>::FACTS }),)*
                _ => None,
            }
        }

        impl Any {
            /// The room of a new socket, and the facts of its type; `None` if sockets of this type cannot be opened.
            pub(crate) fn new(socket_type: SocketType) -> Option<(Self, &'static Facts)> {
                let room = match socket_type {
                    $(SocketType::$name => Self::$name(<$room>::new()),)*
                    _ => return None,
                };
                facts(socket_type).map(|facts| (room, facts))
            }

            #[inline]
            pub(crate) fn can_send(&self, options: &Options) -> Result<(), Misuse> {
                match self {
                    $(Self::$name(room) => room.can_send(options),)*
                }
            }

            #[inline]
            pub(crate) fn begin(&self, options: &Options) -> Result<Reserve, Misuse> {
                match self {
                    $(Self::$name(room) => room.begin(options),)*
                }
            }

            #[inline]
            pub(crate) fn route(&mut self, options: &Options) -> Plan {
                match self {
                    $(Self::$name(room) => room.route(options),)*
                }
            }

            #[inline]
            pub(crate) fn given(&mut self, peer: PipeId) {
                match self {
                    $(Self::$name(room) => room.given(peer),)*
                }
            }

            #[inline]
            pub(crate) fn matches(&mut self, topic: &[u8], peers: &mut Vec<PipeId>) {
                match self {
                    $(Self::$name(room) => room.matches(topic, peers),)*
                }
            }

            #[inline]
            pub(crate) fn spoiled(&mut self, peer: Option<PipeId>) {
                match self {
                    $(Self::$name(room) => room.spoiled(peer),)*
                }
            }

            #[inline]
            pub(crate) fn can_receive(&self) -> Result<(), Misuse> {
                match self {
                    $(Self::$name(room) => room.can_receive(),)*
                }
            }

            #[inline]
            pub(crate) fn filter(&self, topic: &[u8]) -> bool {
                match self {
                    $(Self::$name(room) => room.filter(topic),)*
                }
            }

            #[inline]
            pub(crate) fn ahead(&self, from: PipeId, begun: Begun<'_>, options: &Options) -> Ahead {
                match self {
                    $(Self::$name(room) => room.ahead(from, begun, options),)*
                }
            }

            #[inline]
            pub(crate) fn arrive(&mut self, from: PipeId, message: Arrived<'_>, options: &Options) -> Verdict {
                match self {
                    $(Self::$name(room) => room.arrive(from, message, options),)*
                }
            }

            #[inline]
            pub(crate) fn command(&mut self, from: PipeId, command: Subscription<'_>, options: &Options) -> Verdict {
                match self {
                    $(Self::$name(room) => room.command(from, command, options),)*
                }
            }

            #[inline]
            pub(crate) fn take(&mut self, from: Option<PipeId>, kept: Vec<Frame>) {
                match self {
                    $(Self::$name(room) => room.take(from, kept),)*
                }
            }

            #[inline]
            pub(crate) fn detach(&mut self, peer: PipeId) {
                match self {
                    $(Self::$name(room) => room.detach(peer),)*
                }
            }

            #[inline]
            pub(crate) fn lost(&mut self, peer: PipeId) -> Fate {
                match self {
                    $(Self::$name(room) => room.lost(peer),)*
                }
            }

            #[inline]
            pub(crate) fn forget(&mut self, peer: PipeId) {
                match self {
                    $(Self::$name(room) => room.forget(peer),)*
                }
            }

            #[inline]
            pub(crate) fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, Misuse> {
                match self {
                    $(Self::$name(room) => room.subscribe(change),)*
                }
            }

            #[inline]
            pub(crate) fn subscribers(&mut self, topic: &[u8]) -> Result<usize, Misuse> {
                match self {
                    $(Self::$name(room) => room.subscribers(topic),)*
                }
            }

            #[inline]
            pub(crate) fn subscriptions(&self, peer: PipeId) -> usize {
                match self {
                    $(Self::$name(room) => room.subscriptions(peer),)*
                }
            }

            #[inline]
            pub(crate) fn attach(&mut self, peer: PipeId, tell: &mut dyn FnMut(Subscription<'_>)) {
                match self {
                    $(Self::$name(room) => room.attach(peer, tell),)*
                }
            }
        }
    };
}

rooms! {
    Push(push::Push),
    Pull(pull::Pull),
    Pub(publisher::Publisher),
    Sub(subscriber::Subscriber),
    Req(req::Req),
    Rep(rep::Rep),
    Pair(pair::Pair),
}
