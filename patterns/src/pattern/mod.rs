//! What a socket type is: one room for each type, behind one table of operations.
//!
//! A room is a small state machine. The hub gives it values (numbers of peers, frames, options) and carries out the
//! [`Plan`] or the [`Verdict`] that comes back. A room does no I/O, reads no clock, and knows neither connections nor
//! queues: those, credit and flushing are the hub's. So each room is tested without a socket, and a new type is a file
//! of its own, a line in the list of [`Any`] and nothing else.
//!
//! ```text
//! send     can_send ▶ (begin, of a message in frames) ▶ route ─Plan▶ given, matches
//! receive  arrive ─Verdict▶ can_receive ▶ take;  while a message is under way: ahead
//! peers    attach ▶ … ▶ detach ▶ lost ▶ forget
//! ```
//!
//! The constant [`Facts`] of a room says what the hub need not ask for each message: a socket that sends by turn and
//! takes freely goes the short ways, whatever its type.

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
    error::Error,
    frame::Frame,
    monitor::DisconnectReason,
    options::Options,
    route::{LocalSubscriptions, PipeId},
    socket_type::SocketType,
};

/// Longest subscription prefix that a peer may ask for. It bounds what matching and storing a prefix costs.
pub(crate) const SUBSCRIPTION_BYTES_MAX: usize = 64 << 10;

/// What holds for every socket of a type.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) socket_type: SocketType,
    pub(crate) sends: Sends,
    pub(crate) takes: Takes,
    pub(crate) spread: Spread,
    /// Peers with room take turns: the socket keeps a ring of them, and messages may wait there for a peer.
    pub(crate) rotates: bool,
    /// Whether a message can be sent or received depends on what was sent and received before.
    pub(crate) has_state: bool,
    /// Ready peers at most.
    pub(crate) peers_max: usize,
}

/// Who receives what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sends {
    /// The type does not send.
    Never,
    /// The peer whose turn it is receives the message as it stands; [`Sending::route`] decides nothing.
    ByTurn,
    /// Each peer that [`Sending::matches`] names receives the message as it stands; [`Sending::route`] decides nothing.
    ToEach,
    /// [`Sending::route`] decides.
    Decides,
}

/// What becomes of messages that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// The type does not receive.
    Never,
    /// Every message is the user's as it stands; [`Receiving::arrive`] decides nothing.
    Freely,
    /// Every message is the user's whose first frame passes [`Receiving::wanted`].
    Matching,
    /// [`Receiving::arrive`] decides.
    Decides,
}

/// How a socket works whose connections are spread over several shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// It stays on one shard: its state or its one peer cannot be divided.
    One,
    /// Shares send and receive in turn.
    Balanced,
    /// Each message is sent by all shares.
    Everywhere,
    /// The share that a request was received from sends the reply.
    Answering,
}

/// A call that the socket's type or state does not allow. Rooms return references to constants, which take a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misuse {
    /// Sockets of this type do not do this.
    Unsupported(&'static str),
    /// Another call has to come first.
    OutOfTurn(&'static str),
}

impl Misuse {
    /// The error of a call on a socket of this type.
    pub(crate) fn of(self, socket_type: SocketType) -> Error {
        match self {
            Self::Unsupported(operation) => Error::Unsupported { socket_type, operation },
            Self::OutOfTurn(turn) => Error::State { socket_type, turn },
        }
    }
}

pub(crate) const NO_SUBSCRIBERS: &Misuse = &Misuse::Unsupported("have subscribers");

/// The type does not subscribe.
pub(crate) fn cannot(change: Subscription<'_>) -> &'static Misuse {
    match change {
        Subscription::Subscribe(_) => &Misuse::Unsupported("subscribe"),
        Subscription::Cancel(_) => &Misuse::Unsupported("unsubscribe"),
    }
}

/// What is reserved with the first frame of several, so that the last one is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserve {
    /// Nothing: the message can go at any time.
    Nothing,
    /// Room for one message at the peer whose turn it is or, if none has room, among those that wait for a peer.
    Turn,
}

/// What stands in front of a message on its way: a frame with a number, frames, an empty frame; in this order, as far
/// as they are there.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// A frame of four bytes, the number in network order.
    pub(crate) number: Option<u32>,
    pub(crate) frames: Vec<Frame>,
    /// An empty frame stands behind them.
    pub(crate) is_delimited: bool,
}

impl Head {
    /// The frame with the number.
    pub(crate) fn numbered(&self) -> Option<Frame> {
        self.number.map(|number| Frame::from(&number.to_be_bytes()))
    }

    /// All frames.
    pub(crate) fn to_frames(&self) -> Vec<Frame> {
        let delimiter = self.is_delimited.then(Frame::new);
        self.numbered().into_iter().chain(self.frames.iter().cloned()).chain(delimiter).collect()
    }

    /// Whether there is at most the delimiter.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.number.is_none() && self.frames.is_empty()
    }
}

/// Where a message is to go.
#[derive(Debug)]
pub(crate) enum Plan {
    /// To the peer whose turn it is, named by [`Sending::given`]. If none has room, the message waits at the
    /// socket.
    InTurn {
        head: Head,
        /// The message takes the place of the one before: messages that arrived and were not taken, and those that
        /// wait at the socket, are dropped.
        supersedes: bool,
    },
    /// To this peer alone; dropped if its queue is full.
    To { peer: PipeId, head: Head },
    /// To each peer that [`Sending::matches`] names; dropped for those whose queues are full.
    Each,
    /// To no peer: the one it is for is gone.
    Lost,
}

/// What arrived: a message of one frame, or all frames of a longer one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrived<'a> {
    Body(&'a [u8]),
    Frames(&'a [Frame]),
}

/// What becomes of a message or a command that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The frames behind the first `hidden` are a message for the user. The first `kept` frames come back with
    /// [`Receiving::take`].
    Deliver { hidden: usize, kept: usize },
    /// The room has seen to it.
    Done,
    /// The message is dropped, and counted.
    Drop(Dropped),
    /// The connection is ended.
    End(Box<DisconnectReason>),
}

/// Why a message that arrived is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The pattern cannot use it.
    Malformed,
    /// The socket did not ask for it.
    Unwanted,
}

/// What has come of a message that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun<'a> {
    /// Its whole frames.
    pub(crate) frames: &'a [Frame],
    /// The beginning of the body that is under way.
    pub(crate) body: &'a [u8],
}

/// How many frames of a message under way are in front of the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// So many; the message is the user's.
    Known(usize),
    /// So many; whether the message is the user's shows when its first frame is whole.
    Likely(usize),
    /// The message is not the user's, or too little of it has come to know.
    Unknown,
}

/// What becomes of messages that a lost connection did not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They go to another peer, in front of all others.
    Requeue,
    /// They are dropped, and counted.
    Drop,
}

/// A change of subscriptions: a subscriber's call, or a command to a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subscription<'a> {
    Subscribe(&'a [u8]),
    Cancel(&'a [u8]),
}

impl<'a> Subscription<'a> {
    pub(crate) fn prefix(self) -> &'a [u8] {
        match self {
            Self::Subscribe(prefix) | Self::Cancel(prefix) => prefix,
        }
    }
}

/// What a room is made of. A room writes each part itself, or says in a word that it has none of it
/// ([`never_sends`], [`takes_freely`] and so on): a part or an operation that is forgotten does not compile.
///
/// A peer is named by a number, which is used again after [`Peers::forget`].
pub(crate) trait Pattern: Sending + Receiving + Peers + Subscribing {
    const FACTS: Facts;

    /// A new socket's.
    fn new() -> Self;
}

/// How messages are sent.
pub(crate) trait Sending {
    /// Whether the state allows to send. Whether there is room is not asked here.
    fn can_send(&self, options: &Options) -> Result<(), &'static Misuse>;

    /// The first frame of several is about to be kept: what has to be reserved so that the last one can be sent. Here
    /// a message in frames is refused, or not at all.
    fn begin(&self, options: &Options) -> Result<Reserve, &'static Misuse>;

    /// Where a message goes. The hub has asked [`Sending::can_send`] and, if the type rotates, found room.
    fn route(&mut self, options: &Options) -> Plan;

    /// The message of [`Plan::InTurn`] was given to this peer: at once, or after it had waited.
    fn given(&mut self, peer: PipeId);

    /// The peers that a message of [`Plan::Each`] with this topic is for, each once.
    fn matches(&mut self, topic: &[u8], peers: &mut Vec<PipeId>);

    /// A message that was given to this peer (`None`: that waits for a peer) cannot be sent.
    fn spoiled(&mut self, peer: Option<PipeId>);

    /// Messages that were queued for a detached peer were not sent.
    fn lost(&mut self, peer: PipeId) -> Fate;
}

/// How messages are received.
pub(crate) trait Receiving {
    /// Whether the state allows to receive. Whether there is a message is not asked here.
    fn can_receive(&self) -> Result<(), &'static Misuse>;

    /// The topics of messages that are the user's ([`Takes::Matching`]); `None`: other things decide.
    fn wanted(&self) -> Option<&LocalSubscriptions>;

    /// How many frames are in front of the user's in a message that is under way.
    fn ahead(&self, from: PipeId, begun: Begun<'_>, options: &Options) -> Ahead;

    /// A message arrived ([`Takes::Decides`], [`Takes::Never`]).
    fn arrive(&mut self, from: PipeId, message: Arrived<'_>, options: &Options) -> Verdict;

    /// The user takes a message. `from` is `None` if the connection has ended since; `kept` are the frames that
    /// [`Verdict::Deliver`] kept.
    fn take(&mut self, from: Option<PipeId>, kept: Vec<Frame>);
}

/// Peers that come and go.
pub(crate) trait Peers {
    /// A peer is ready. `tell` sends it a command.
    fn attach(&mut self, peer: PipeId, tell: &mut dyn FnMut(Subscription<'_>));

    /// A peer's connection ends: nothing can be sent to it any more. Messages that it sent may still arrive.
    fn detach(&mut self, peer: PipeId);

    /// Nothing of a detached peer is left. Its number may become another's.
    fn forget(&mut self, peer: PipeId);
}

/// Who wants to receive what.
pub(crate) trait Subscribing {
    /// The user changes subscriptions. Returns whether the publishers are to be told.
    fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, &'static Misuse>;

    /// A subscription command arrived.
    fn command(&mut self, from: PipeId, command: Subscription<'_>, options: &Options) -> Verdict;

    /// How many peers a message with this topic would go to.
    fn subscribers(&mut self, topic: &[u8]) -> Result<usize, &'static Misuse>;

    /// How many subscriptions a peer holds.
    fn subscriptions(&self, peer: PipeId) -> usize;
}

/// Makes [`Any`], which carries each operation to the room of the socket's type.
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
            pub(crate) fn can_send(&self, options: &Options) -> Result<(), &'static Misuse> {
                match self {
                    $(Self::$name(room) => room.can_send(options),)*
                }
            }

            #[inline]
            pub(crate) fn begin(&self, options: &Options) -> Result<Reserve, &'static Misuse> {
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
            pub(crate) fn can_receive(&self) -> Result<(), &'static Misuse> {
                match self {
                    $(Self::$name(room) => room.can_receive(),)*
                }
            }

            #[inline]
            pub(crate) fn wanted(&self) -> Option<&LocalSubscriptions> {
                match self {
                    $(Self::$name(room) => room.wanted(),)*
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
            pub(crate) fn subscribe(&mut self, change: Subscription<'_>) -> Result<bool, &'static Misuse> {
                match self {
                    $(Self::$name(room) => room.subscribe(change),)*
                }
            }

            #[inline]
            pub(crate) fn subscribers(&mut self, topic: &[u8]) -> Result<usize, &'static Misuse> {
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
