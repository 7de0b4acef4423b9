//! What is measured: a [`Subject`] makes the sides of a pair, a workload drives them.
//!
//! The sides are trait objects, so each call of one covers a burst (or a whole round trip): the price of the
//! virtual call disappears, and the loop over messages is the subject's own code. A library's subject makes one
//! public send and one public receive per message in that loop; only `raw` does without a library.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{Driver, Transport, Wait};
use crate::error::{Failure, Result};
use crate::pin::Pin;
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::Announce;

pub mod raw;
pub mod raw_rings;
pub mod zring;
pub mod zring_bg;
pub mod zring_crowd;

/// Every subject the harness knows, in the order in which they run and are reported.
pub const ALL: &[&dyn Subject] = &[&raw::Raw, &zring::INLINE, &zring_bg::BACKGROUND];

/// The subject whose figures are the floor that the others are compared with.
pub const FLOOR: &str = "raw";

/// How long a side waits for its peer before it fails the run.
pub const STALL: Duration = Duration::from_secs(10);

/// The subject called `name`.
pub fn by_name(name: &str) -> Option<&'static dyn Subject> {
    ALL.iter().copied().find(|subject| subject.name() == name)
}

/// What both sides of a pair have to know.
#[derive(Clone, Debug)]
pub struct Case {
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
    /// Where side B binds: `tcp://127.0.0.1:0`, `ipc://` and a path that does not exist yet, or `inproc://` and a name.
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

    /// Why this subject cannot do what the case asks for; `None`: it can. It is left out then, the run goes on.
    fn lacks(&self, _case: &Case) -> Option<&'static str> {
        None
    }

    /// What both sides of the next round need to find in [`Case::common`], if anything.
    ///
    /// # Errors
    /// Whatever kept it from being made.
    fn common(&self, _case: &Case) -> Result<Option<Common>> {
        Ok(None)
    }

    /// Side A of the throughput workload, connected to `endpoint`.
    ///
    /// # Errors
    /// Whatever kept it from connecting; [`Failure::Setup`] if this subject has no such side.
    fn sender(&self, _case: &Case, _endpoint: &str) -> Result<Box<dyn Sender>> {
        Err(missing(self.name(), "sender"))
    }

    /// Side B of the throughput workload: binds, announces where, and waits for the sender.
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

    /// Both sides of the idle workload, bound and not connected.
    ///
    /// # Errors
    /// Whatever kept it from being made; [`Failure::Setup`] if this subject has none.
    fn crowd(&self, _case: &Case) -> Result<Box<dyn Crowd>> {
        Err(missing(self.name(), "idle connections"))
    }
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
