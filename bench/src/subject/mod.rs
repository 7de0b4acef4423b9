//! The measured transports: a [`Subject`] makes the sides of a pair, and a workload drives them.
//!
//! The sides are trait objects, so each call of one covers a burst (or a whole round trip): the cost of the virtual
//! call vanishes, and the loop over messages is the subject's own code. In that loop a library's subject makes one
//! public send and one public receive per message; only `raw` uses no library.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{Driver, Receive, Transport, Wait};
use crate::error::{Failure, Result};
use crate::pin::Pin;
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::Announce;

pub mod file;
#[cfg(feature = "peers")]
pub mod peers;
pub mod raw;
#[cfg(target_os = "linux")]
pub mod raw_file;
mod raw_link;
#[cfg(unix)]
mod raw_many;
pub mod raw_rings;
#[cfg(target_os = "linux")]
pub mod raw_uring;
mod raw_visits;
pub mod zring;
pub mod zring_bg;
pub mod zring_crowd;
pub mod zring_fan;
pub mod zring_file;

/// Every subject of the harness, in the order of running and reporting.
pub const ALL: &[&dyn Subject] = &[
    &raw::RAW,
    #[cfg(target_os = "linux")]
    &raw::EPOLL,
    #[cfg(target_os = "linux")]
    &raw_uring::RawUring,
    &zring::INLINE,
    &zring_bg::BACKGROUND,
    #[cfg(feature = "peers")]
    &peers::libzmq::Libzmq,
    #[cfg(feature = "peers")]
    &peers::omq::Omq,
    #[cfg(feature = "peers")]
    &peers::rzmq::TOKIO,
    #[cfg(feature = "peers")]
    &peers::rzmq::URING,
    #[cfg(feature = "peers")]
    &peers::monocoque::Monocoque,
    #[cfg(feature = "peers")]
    &peers::nng::Nng,
];

/// The traffic between the sides, which decides which methods of a subject a workload calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// [`Subject::sender`] to [`Subject::receiver`].
    Stream,
    /// [`Subject::requester`] and [`Subject::replier`].
    RoundTrip,
    /// [`Subject::publisher`] to [`Subject::subscribers`].
    FanOut,
    /// [`Case::peers`] senders, each of [`Subject::sender`], to one [`Subject::receiver`].
    FanIn,
    /// [`Subject::sender`] to [`Subject::worker`] to [`Subject::receiver`].
    Pipeline,
    /// [`Subject::visitor`] and [`Subject::replier`].
    Churn,
    /// [`Subject::crowd`].
    Idle,
}

/// The subject whose figures are the floor, with which the others are compared.
pub const FLOOR: &str = "raw";

/// How long a side waits for its peer before it fails the run.
pub const STALL: Duration = Duration::from_secs(10);

/// The subject called `name`.
pub fn by_name(name: &str) -> Option<&'static dyn Subject> {
    ALL.iter().copied().find(|subject| subject.name() == name)
}

/// Bytes of bodies that a queue of a subject may hold; bounds [`queue_messages`] for large bodies.
const QUEUED_BYTES: usize = 4 << 20;
/// Messages that a queue of a subject may hold, whatever their size.
const QUEUE_MESSAGES_MAX: usize = 10_000;

/// How many messages of `size_bytes` a queue of a subject may hold: the HWM of every library with an HWM.
pub fn queue_messages(size_bytes: usize) -> u32 {
    (QUEUED_BYTES / size_bytes.max(1)).clamp(1, QUEUE_MESSAGES_MAX) as u32
}

/// The parameters of both sides of a pair.
#[derive(Clone, Debug)]
pub struct Case {
    /// The traffic between the sides.
    pub pattern: Pattern,
    /// The transport of the messages.
    pub transport: Transport,
    /// Length of every body.
    pub size_bytes: usize,
    /// Whether a side spins or sleeps while it waits.
    pub wait: Wait,
    /// zring's driver; `None`: the library chooses.
    pub driver: Option<Driver>,
    /// The cores of the sides and of their threads.
    pub pin: Option<Pin>,
    /// Silent connections, in addition to the busy one if there is one.
    pub connections: u32,
    /// Subscribers of a fan-out, senders of a fan-in; 1 in any other pattern.
    pub peers: u32,
    /// Messages per second of a schedule that both sides know; `None`: as fast as possible.
    pub rate: Option<f64>,
    /// A fan-out without a window: the publisher is not held back, and dropped messages are counted.
    pub is_free_running: bool,
    /// Where the receiver of a stream gets its messages.
    pub receive: Receive,
    /// Where side B binds (in a fan-out: side A): `tcp://127.0.0.1:0`, `ipc://` and a path that does not exist yet, or
    /// `inproc://` and a name.
    pub bind: String,
    /// The result of [`Subject::common`] for both sides of this round.
    pub common: Option<Common>,
}

/// An object that both sides of a pair use; only its subject knows the type.
pub type Common = Arc<dyn Any + Send + Sync>;

impl Case {
    /// The result of [`Subject::common`], if it is a `T`.
    pub fn common<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.common.clone()?.downcast().ok()
    }

    /// The same case for another binding socket, with an address of its own.
    #[must_use]
    pub fn at_another_place(&self, name: &str) -> Self {
        let bind = match self.transport {
            Transport::Tcp => self.bind.clone(),
            Transport::Ipc | Transport::Inproc => format!("{}-{name}", self.bind),
        };
        Self { bind, ..self.clone() }
    }

    /// The core of side A.
    pub fn core_a(&self) -> Option<usize> {
        self.pin.map(|pin| pin.a)
    }

    /// The core of side B.
    pub fn core_b(&self) -> Option<usize> {
        self.pin.map(|pin| pin.b)
    }
}

/// A transport under measurement. Its sides are made on the thread that uses them.
pub trait Subject: Sync {
    /// The name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// Whether the subject runs when no subject is named.
    fn is_default(&self) -> bool {
        true
    }

    /// The subject's settings for `case` that matter to its figures: limits, batching, versions. Shown next to its
    /// name; may be empty.
    fn settings(&self, _case: &Case) -> String {
        String::new()
    }

    /// Whether the subject has the sides of a pattern. Otherwise it is left out of runs with that pattern.
    fn plays(&self, pattern: Pattern) -> bool {
        matches!(pattern, Pattern::Stream | Pattern::RoundTrip)
    }

    /// Why this subject does not support the case; `None` if it does. An unsupported subject is left out, and the run
    /// continues.
    fn lacks(&self, _case: &Case) -> Option<&'static str> {
        None
    }

    /// Whether the subject's receiver supports this way of receiving.
    fn can_receive(&self, receive: Receive) -> bool {
        receive == Receive::Lease
    }

    /// How many messages the shortest queue between a publisher and a subscriber holds, before a message is dropped or
    /// the publisher waits. The window of a fan-out is half of that.
    fn queue_messages(&self, case: &Case) -> u32 {
        queue_messages(case.size_bytes)
    }

    /// Makes the object that both sides of the next round find in [`Case::common`], if they need one.
    ///
    /// # Errors
    /// The error of making the object.
    fn common(&self, _case: &Case) -> Result<Option<Common>> {
        Ok(None)
    }

    /// Side A of the throughput workload (a fan-in makes several), connected to `endpoint`.
    ///
    /// # Errors
    /// The error of the connect; [`Failure::Setup`] if this subject has no such side.
    fn sender(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Sender>> {
        Err(missing(self.name(), "sender"))
    }

    /// Side B of the throughput workload: binds, announces its endpoint, and waits for the sender. In a fan-in
    /// [`Case::peers`] senders connect, and each of them sends the end marker.
    ///
    /// # Errors
    /// The error of the bind; [`Failure::Setup`] if this subject has no such side.
    fn receiver(&self, _case: &Case, _announce: Announce) -> Result<Box<dyn Receiver>> {
        Err(missing(self.name(), "receiver"))
    }

    /// Side A of the roundtrip workload, connected to `endpoint`.
    ///
    /// # Errors
    /// The error of the connect; [`Failure::Setup`] if this subject has no such side.
    fn requester(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Requester>> {
        Err(missing(self.name(), "requester"))
    }

    /// Side B of the roundtrip workload: binds, announces its endpoint, and waits for the requester.
    ///
    /// # Errors
    /// The error of the bind; [`Failure::Setup`] if this subject has no such side.
    fn replier(&self, _case: &Case, _announce: Announce) -> Result<Box<dyn Replier>> {
        Err(missing(self.name(), "replier"))
    }

    /// Side A of a fan-out: binds and announces its endpoint. It need not wait for subscribers.
    ///
    /// # Errors
    /// The error of the bind; [`Failure::Setup`] if this subject has no such side.
    fn publisher(&self, _case: &Case, _announce: Announce) -> Result<Box<dyn Publisher>> {
        Err(missing(self.name(), "publisher"))
    }

    /// Side B of a fan-out: [`Case::peers`] sockets on one thread, each with its own connection to `endpoint` and
    /// subscribed to everything. The subscriptions need not have arrived yet.
    ///
    /// # Errors
    /// The error of the connect; [`Failure::Setup`] if this subject has no such side.
    fn subscribers(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Subscribers>> {
        Err(missing(self.name(), "subscribers"))
    }

    /// Side B of a pipeline, connected to `downstream` (a [`Subject::receiver`]): binds to [`Case::bind`], announces
    /// its endpoint, and waits for the sender.
    ///
    /// # Errors
    /// The error of the bind or connect; [`Failure::Setup`] if this subject has no such side.
    fn worker(
        &self,
        _case: &Case,
        _downstream: &str,
        _announce: Announce,
    ) -> Result<Box<dyn Worker>> {
        Err(missing(self.name(), "worker"))
    }

    /// Side A of the churn workload, not connected yet.
    ///
    /// # Errors
    /// The error of making the side; [`Failure::Setup`] if this subject has no such side.
    fn visitor(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Visitor>> {
        Err(missing(self.name(), "visitor"))
    }

    /// Both sides of the idle workload, bound but not connected.
    ///
    /// # Errors
    /// The error of making the sides; [`Failure::Setup`] if this subject has none.
    fn crowd(&self, _case: &Case) -> Result<Box<dyn Crowd>> {
        Err(missing(self.name(), "idle connections"))
    }
}

/// The failure of a subject that does not support a way of receiving.
pub(crate) fn cannot_receive(subject: &'static str, receive: Receive) -> Failure {
    Failure::NotSupported { subject, what: receive.option() }
}

fn missing(subject: &str, side: &str) -> Failure {
    Failure::Setup(format!("{subject} has no {side}"))
}

/// Sends a stream of messages.
pub trait Sender {
    /// Sends messages from `first` on, as many as suit the subject in one call, and returns their number. At most some
    /// thousand, so that the clock is checked often enough.
    ///
    /// # Errors
    /// The transport's error.
    fn send_burst(&mut self, first: u64) -> Result<u64>;

    /// Sends exactly the messages `first..first + count`, which are due now, and ensures that they are sent at once.
    /// `count` is at least 1, and above 1 only when the sender is late.
    ///
    /// # Errors
    /// The transport's error; [`Failure::Setup`] if this sender keeps no schedule.
    fn send_due(&mut self, _first: u64, _count: u64) -> Result<()> {
        Err(Failure::Setup("this sender keeps no schedule".to_owned()))
    }

    /// Lets the library work without waiting. Called repeatedly while no message is due, for libraries that work only
    /// within calls.
    ///
    /// # Errors
    /// The transport's error.
    fn progress(&mut self) -> Result<()> {
        Ok(())
    }

    /// Sends the end marker ([`crate::sequence::END`]) and ensures that everything is sent.
    ///
    /// # Errors
    /// The transport's error, or messages left unsent.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Receives a stream of messages.
pub trait Receiver {
    /// Waits for messages and passes each to `check`; returns after a burst of the subject's choice, or at the end
    /// marker.
    ///
    /// # Errors
    /// The error of the transport or the check.
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict>;

    /// The receiver's driver; `None` if there is no choice, or if it is not known.
    fn driver(&self) -> Option<&'static str> {
        None
    }
}

/// Sends requests, one at a time.
pub trait Requester {
    /// Sends request `sequence`, waits for its reply and passes that to `check`.
    ///
    /// # Errors
    /// The error of the transport or the check.
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict>;

    /// Opens `count` more connections to side B's socket, completes their handshakes, and keeps them open and silent.
    ///
    /// # Errors
    /// The transport's error; [`Failure::Setup`] if this subject supports only one connection.
    fn open_silent(&mut self, count: u32) -> Result<()> {
        match count {
            0 => Ok(()),
            _ => Err(Failure::Setup("this requester has one connection and no more".to_owned())),
        }
    }
}

/// Answers requests.
pub trait Replier {
    /// Waits for one request, passes it to `check` and sends its body back.
    ///
    /// # Errors
    /// The error of the transport or the check.
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict>;

    /// The replier's driver; `None` if there is no choice, or if it is not known.
    fn driver(&self) -> Option<&'static str> {
        None
    }
}

/// Sends every message to all subscribers.
pub trait Publisher {
    /// Publishes one message. Also [`crate::sequence::HELLO`] and [`crate::sequence::END`], which are repeated until
    /// every subscriber has received them, and so must be sent at once.
    ///
    /// # Errors
    /// The transport's error. A missing subscriber or a full queue is no error.
    fn publish(&mut self, sequence: u64) -> Result<()>;

    /// Publishes messages from `first` on, at most `count` (at least 1), as many as suit the subject in one call, and
    /// returns their number.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64>;

    /// Lets the library work without waiting. Called while the window is full, for libraries that work only within
    /// calls.
    ///
    /// # Errors
    /// The transport's error.
    fn progress(&mut self) -> Result<()> {
        Ok(())
    }

    /// Ensures that everything is sent. All subscribers have received the end marker by then.
    ///
    /// # Errors
    /// The transport's error.
    fn finish(self: Box<Self>) -> Result<()>;

    /// The publisher's driver; `None` if there is no choice, or if it is not known.
    fn driver(&self) -> Option<&'static str> {
        None
    }
}

/// The sockets of all subscribers, on one thread.
pub trait Subscribers {
    /// Waits until at least one socket has messages, and passes them to the check of its subscriber: `checks` has one
    /// per socket, in the order of the sockets. Returns when every socket with messages has been served a burst of the
    /// subject's choice, of at most some thousand messages.
    ///
    /// # Errors
    /// The error of the transport or a check, or a timeout after [`STALL`].
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()>;
}

/// Receives a stream of messages and sends it on.
pub trait Worker {
    /// Waits for messages, passes each to `check` and forwards it, the end marker included; returns after a burst of
    /// the subject's choice, or at the end marker. Forwarded messages are sent at once.
    ///
    /// # Errors
    /// The error of the transport or the check.
    fn forward_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict>;

    /// Ensures that everything is sent.
    ///
    /// # Errors
    /// The transport's error, or messages left unsent.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Connects again and again.
pub trait Visitor {
    /// One visit: connects to side B, sends request `sequence`, waits for its reply, passes that to `check`, and closes
    /// the connection.
    ///
    /// # Errors
    /// The error of the transport or the check.
    fn visit(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict>;
}

/// Two contexts, one of them bound, for unused connections.
pub trait Crowd {
    /// Makes `count` connections and waits until all handshakes are complete at both ends.
    ///
    /// # Errors
    /// The transport's error, or a timeout.
    fn connect(&mut self, count: u32) -> Result<()>;

    /// The number of established connections, at the end with fewer of them.
    fn connected(&self) -> usize;

    /// The driver; `None` if it is not known.
    fn driver(&self) -> Option<&'static str> {
        None
    }
}
