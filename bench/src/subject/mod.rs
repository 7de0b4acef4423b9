//! What is measured: a [`Subject`] makes the sides of a pair, a workload drives them.
//!
//! The sides are trait objects, so each call of one covers a burst (or a whole round trip): the price of the
//! virtual call disappears, and the loop over messages is the subject's own code. A library's subject makes one
//! public send and one public receive per message in that loop; only `raw` does without a library.

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

/// Every subject the harness knows, in the order in which they run and are reported.
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

/// What goes on between the sides, and so which of a subject's methods a workload calls.
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

/// The subject whose figures are the floor that the others are compared with.
pub const FLOOR: &str = "raw";

/// How long a side waits for its peer before it fails the run.
pub const STALL: Duration = Duration::from_secs(10);

/// The subject called `name`.
pub fn by_name(name: &str) -> Option<&'static dyn Subject> {
    ALL.iter().copied().find(|subject| subject.name() == name)
}

/// Bytes of bodies that may wait in a queue of a subject; bounds [`queue_messages`] for large bodies.
const QUEUED_BYTES: usize = 4 << 20;
/// Messages that may wait in a queue of a subject, whatever their size.
const QUEUE_MESSAGES_MAX: usize = 10_000;

/// How many messages of `size_bytes` a queue of a subject may hold: the HWM of every library that has one.
pub fn queue_messages(size_bytes: usize) -> u32 {
    (QUEUED_BYTES / size_bytes.max(1)).clamp(1, QUEUE_MESSAGES_MAX) as u32
}

/// What both sides of a pair have to know.
#[derive(Clone, Debug)]
pub struct Case {
    /// What goes on between the sides.
    pub pattern: Pattern,
    /// What the messages travel over.
    pub transport: Transport,
    /// Length of every body.
    pub size_bytes: usize,
    /// Whether a side spins or sleeps while it waits.
    pub wait: Wait,
    /// What zring is told to run on; `None`: what it chooses.
    pub driver: Option<Driver>,
    /// The cores of the sides, and of the threads that run for them.
    pub pin: Option<Pin>,
    /// Silent connections, beside the busy one if there is one.
    pub connections: u32,
    /// Subscribers of a fan-out, senders of a fan-in; 1 in any other pattern.
    pub peers: u32,
    /// Messages a second of a schedule that both sides know; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// A fan-out without a window: the publisher is not held back, and what is dropped is counted.
    pub is_free_running: bool,
    /// Where the receiver of a stream has its messages put.
    pub receive: Receive,
    /// Where side B (in a fan-out: side A) binds: `tcp://127.0.0.1:0`, `ipc://` and a path that does not exist yet, or `inproc://` and a name.
    pub bind: String,
    /// What [`Subject::common`] made for both sides of this round.
    pub common: Option<Common>,
}

/// Something that both sides of a pair use; what it is, its subject knows.
pub type Common = Arc<dyn Any + Send + Sync>;

impl Case {
    /// What [`Subject::common`] made, if it is a `T`.
    pub fn common<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.common.clone()?.downcast().ok()
    }

    /// The same case for one more socket that binds, at a place of its own.
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
    /// What the command line and the reports call it.
    fn name(&self) -> &'static str;

    /// Whether it runs when no subject is named.
    fn is_default(&self) -> bool {
        true
    }

    /// How it is set up for `case`, where that matters to its figures: limits, batching, versions. Shown next to its
    /// name; may be empty.
    fn settings(&self, _case: &Case) -> String {
        String::new()
    }

    /// Whether it has the sides of a pattern. It is left out of a run whose pattern it does not play.
    fn plays(&self, pattern: Pattern) -> bool {
        matches!(pattern, Pattern::Stream | Pattern::RoundTrip)
    }

    /// Why this subject cannot do what the case asks for; `None`: it can. It is left out then, the run goes on.
    fn lacks(&self, _case: &Case) -> Option<&'static str> {
        None
    }

    /// Whether its receiver can do so.
    fn can_receive(&self, receive: Receive) -> bool {
        receive == Receive::Lease
    }

    /// Messages that the shortest queue between a publisher and a subscriber holds, before something is dropped or the
    /// publisher waits. The window of a fan-out is half of that.
    fn queue_messages(&self, case: &Case) -> u32 {
        queue_messages(case.size_bytes)
    }

    /// What both sides of the next round need to find in [`Case::common`], if anything.
    ///
    /// # Errors
    /// Whatever kept it from being made.
    fn common(&self, _case: &Case) -> Result<Option<Common>> {
        Ok(None)
    }

    /// Side A of the throughput workload (a fan-in makes several), connected to `endpoint`.
    ///
    /// # Errors
    /// Whatever kept it from connecting; [`Failure::Setup`] if this subject has no such side.
    fn sender(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Sender>> {
        Err(missing(self.name(), "sender"))
    }

    /// Side B of the throughput workload: binds, announces where, and waits for the sender. In a fan-in
    /// [`Case::peers`] senders come, and the end marker is sent by each of them.
    ///
    /// # Errors
    /// Whatever kept it from binding; [`Failure::Setup`] if this subject has no such side.
    fn receiver(&self, _case: &Case, _announce: Announce) -> Result<Box<dyn Receiver>> {
        Err(missing(self.name(), "receiver"))
    }

    /// Side A of the roundtrip workload, connected to `endpoint`.
    ///
    /// # Errors
    /// Whatever kept it from connecting; [`Failure::Setup`] if this subject has no such side.
    fn requester(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Requester>> {
        Err(missing(self.name(), "requester"))
    }

    /// Side B of the roundtrip workload: binds, announces where, and waits for the requester.
    ///
    /// # Errors
    /// Whatever kept it from binding; [`Failure::Setup`] if this subject has no such side.
    fn replier(&self, _case: &Case, _announce: Announce) -> Result<Box<dyn Replier>> {
        Err(missing(self.name(), "replier"))
    }

    /// Side A of a fan-out: binds and announces where. It need not wait for subscribers.
    ///
    /// # Errors
    /// Whatever kept it from binding; [`Failure::Setup`] if this subject has no such side.
    fn publisher(&self, _case: &Case, _announce: Announce) -> Result<Box<dyn Publisher>> {
        Err(missing(self.name(), "publisher"))
    }

    /// Side B of a fan-out: [`Case::peers`] sockets on one thread, each connected to `endpoint` by a connection of its
    /// own and subscribed to everything. The subscriptions need not have arrived yet.
    ///
    /// # Errors
    /// Whatever kept it from connecting; [`Failure::Setup`] if this subject has no such side.
    fn subscribers(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Subscribers>> {
        Err(missing(self.name(), "subscribers"))
    }

    /// Side B of a pipeline, connected to `downstream` (a [`Subject::receiver`]): binds to [`Case::bind`], announces
    /// where, and waits for the sender.
    ///
    /// # Errors
    /// Whatever kept it from binding or connecting; [`Failure::Setup`] if this subject has no such side.
    fn worker(
        &self,
        _case: &Case,
        _downstream: &str,
        _announce: Announce,
    ) -> Result<Box<dyn Worker>> {
        Err(missing(self.name(), "worker"))
    }

    /// Side A of the churn workload, with no connection yet.
    ///
    /// # Errors
    /// Whatever kept it from being made; [`Failure::Setup`] if this subject has no such side.
    fn visitor(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Visitor>> {
        Err(missing(self.name(), "visitor"))
    }

    /// Both sides of the idle workload, bound and not connected.
    ///
    /// # Errors
    /// Whatever kept it from being made; [`Failure::Setup`] if this subject has none.
    fn crowd(&self, _case: &Case) -> Result<Box<dyn Crowd>> {
        Err(missing(self.name(), "idle connections"))
    }
}

/// The failure of a subject that cannot receive so.
pub(crate) fn cannot_receive(subject: &'static str, receive: Receive) -> Failure {
    Failure::NotSupported { subject, what: receive.option() }
}

fn missing(subject: &str, side: &str) -> Failure {
    Failure::Setup(format!("{subject} has no {side}"))
}

/// Sends a stream of messages.
pub trait Sender {
    /// Sends messages `first..`, as many as the subject likes to send in one go (at most some thousand, so that
    /// the clock is looked at often enough), and returns how many.
    ///
    /// # Errors
    /// Whatever the transport reports.
    fn send_burst(&mut self, first: u64) -> Result<u64>;

    /// Sends exactly the messages `first..first + count`, which are due now, and sees that they leave at once.
    /// `count` is at least 1, and above 1 only when the sender is late.
    ///
    /// # Errors
    /// Whatever the transport reports; [`Failure::Setup`] if this sender keeps no schedule.
    fn send_due(&mut self, _first: u64, _count: u64) -> Result<()> {
        Err(Failure::Setup("this sender keeps no schedule".to_owned()))
    }

    /// Lets the library work without waiting for anything. Called again and again while nothing is due, for libraries
    /// that work only within calls.
    ///
    /// # Errors
    /// Whatever the transport reports.
    fn progress(&mut self) -> Result<()> {
        Ok(())
    }

    /// Sends the end marker ([`crate::sequence::END`]) and sees that everything gets out.
    ///
    /// # Errors
    /// Whatever the transport reports, or that messages were left unsent.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Receives a stream of messages.
pub trait Receiver {
    /// Waits for messages and shows each to `check`; returns after a burst of the subject's choice, or at the end marker.
    ///
    /// # Errors
    /// Whatever the transport or the check reports.
    fn receive_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict>;

    /// What it runs on; `None` if there is no choice, or that is not known.
    fn driver(&self) -> Option<&'static str> {
        None
    }
}

/// Sends requests, one at a time.
pub trait Requester {
    /// Sends request `sequence`, waits for its reply and shows that to `check`.
    ///
    /// # Errors
    /// Whatever the transport or the check reports.
    fn round_trip(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict>;

    /// Opens `count` more connections to the socket of side B, shaken hands and silent, and keeps them open.
    ///
    /// # Errors
    /// Whatever the transport reports; [`Failure::Setup`] if this subject has but one.
    fn open_silent(&mut self, count: u32) -> Result<()> {
        match count {
            0 => Ok(()),
            _ => Err(Failure::Setup("this requester has one connection and no more".to_owned())),
        }
    }
}

/// Answers requests.
pub trait Replier {
    /// Waits for one request, shows it to `check` and sends its body back.
    ///
    /// # Errors
    /// Whatever the transport or the check reports.
    fn reply(&mut self, check: &mut SequenceCheck) -> Result<Verdict>;

    /// What it runs on; `None` if there is no choice, or that is not known.
    fn driver(&self) -> Option<&'static str> {
        None
    }
}

/// Sends every message to all subscribers.
pub trait Publisher {
    /// Publishes one message: also one of [`crate::sequence::HELLO`] and [`crate::sequence::END`], which are
    /// repeated until every subscriber has heard them, and so must leave at once.
    ///
    /// # Errors
    /// Whatever the transport reports. That nobody listens, or that a subscriber's queue is full, is none.
    fn publish(&mut self, sequence: u64) -> Result<()>;

    /// Publishes messages `first..`, at most `count` (which is at least 1), as many as the subject likes to send in
    /// one go, and returns how many.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    fn publish_burst(&mut self, first: u64, count: u64) -> Result<u64>;

    /// Lets the library work without waiting for anything. Called while the window is full, for libraries that work
    /// only within calls.
    ///
    /// # Errors
    /// Whatever the transport reports.
    fn progress(&mut self) -> Result<()> {
        Ok(())
    }

    /// Sees that everything gets out. All subscribers have heard the end marker by then.
    ///
    /// # Errors
    /// Whatever the transport reports.
    fn finish(self: Box<Self>) -> Result<()>;

    /// What it runs on; `None` if there is no choice, or that is not known.
    fn driver(&self) -> Option<&'static str> {
        None
    }
}

/// The sockets of all subscribers, on one thread.
pub trait Subscribers {
    /// Waits until at least one socket has messages, and shows those to the check of their subscriber: `checks` has
    /// one for each, in the order of the sockets. Returns after a burst of the subject's choice (of some thousand
    /// messages at most from each), after every socket that has something was served.
    ///
    /// # Errors
    /// Whatever the transport or a check reports, or that nothing came for [`STALL`].
    fn receive_burst(&mut self, checks: &mut [SequenceCheck]) -> Result<()>;
}

/// Receives a stream of messages and sends it on.
pub trait Worker {
    /// Waits for messages, shows each to `check` and sends it on, the end marker too; returns after a burst of the
    /// subject's choice, or at the end marker. Messages that were sent on leave at once.
    ///
    /// # Errors
    /// Whatever the transport or the check reports.
    fn forward_burst(&mut self, check: &mut SequenceCheck) -> Result<Verdict>;

    /// Sees that everything gets out.
    ///
    /// # Errors
    /// Whatever the transport reports, or that messages were left unsent.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Connects again and again.
pub trait Visitor {
    /// One visit: connects to side B, sends request `sequence`, waits for its reply, shows that to `check`, and
    /// closes the connection.
    ///
    /// # Errors
    /// Whatever the transport or the check reports.
    fn visit(&mut self, sequence: u64, check: &mut SequenceCheck) -> Result<Verdict>;
}

/// Two contexts, one of them bound, for connections that nobody uses.
pub trait Crowd {
    /// Makes `count` connections and waits until both ends of all have shaken hands.
    ///
    /// # Errors
    /// Whatever the transport reports, or that it took too long.
    fn connect(&mut self, count: u32) -> Result<()>;

    /// How many connections are up, at the end that has fewer.
    fn connected(&self) -> usize;

    /// What it runs on; `None` if that is not known.
    fn driver(&self) -> Option<&'static str> {
        None
    }
}
