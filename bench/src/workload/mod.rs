//! The traffic between the two sides.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::error::Result;
use crate::record::{Percentiles, Recorder};
use crate::subject::{Case, Pattern, Subject};

pub mod churn;
pub mod connections;
pub mod fanin;
pub mod fanout;
#[cfg(target_os = "linux")]
pub mod file;
pub mod idle;
pub mod latency;
mod pace;
pub mod pipeline;
pub mod roundtrip;
pub mod throughput;

/// Longest warm-up before a round; a short round warms up for a tenth of its time.
const WARM_UP_MAX: Duration = Duration::from_millis(200);

/// One kind of traffic between two sides.
pub trait Workload: std::fmt::Debug {
    /// The name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// The sides of a subject that this workload drives.
    fn pattern(&self) -> Pattern;

    /// The figure by which a subject is compared with the floor; `None` if nothing is compared.
    fn figure(&self) -> Option<Figure>;

    /// Runs one subject once, for about `duration`.
    ///
    /// # Errors
    /// The failure of either side.
    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round>;
}

/// The main figure of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// The median latency; lower is better.
    P50,
    /// Messages per second; higher is better.
    Rate,
}

impl Figure {
    /// The name of its ratio to the floor: a column title, and the value of `compares` in the JSON report.
    pub const fn ratio_title(self) -> &'static str {
        match self {
            Self::P50 => "p50/raw",
            Self::Rate => "rate/raw",
        }
    }

    /// Picks this figure from all measurements.
    pub fn of(self, messages_per_second: f64, latency_ns: &Percentiles) -> Option<f64> {
        match self {
            Self::P50 => latency_ns.p50.map(|ns| ns as f64),
            Self::Rate => Some(messages_per_second),
        }
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.ratio_title())
    }
}

/// The measurements of one round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Messages (or round trips) within `elapsed`.
    pub messages: u64,
    /// Measured time.
    pub elapsed: Duration,
    /// CPU time of the process per message; `None` where the system does not tell.
    pub cpu_seconds_per_message: Option<f64>,
    /// Percentiles of `latencies`.
    pub latency_ns: Percentiles,
    /// All latencies of the round in nanoseconds; `None` if none was measured.
    pub latencies: Option<Histogram<u64>>,
    /// Messages that a lossy pattern dropped, over all receivers.
    pub dropped: u64,
    /// Messages per second handed to the subject; `None` if equal to the measured rate.
    pub offered_rate: Option<f64>,
    /// The driver of the subject's sockets; `None` if there is no choice, or if the subject does not tell.
    pub driver: Option<&'static str>,
    /// The cost of unused connections; empty if not measured.
    pub idle: Idle,
}

/// The cost of unused connections. A field is `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Idle {
    /// CPU time of the threads behind the sockets, as a fraction of the elapsed time.
    pub cpu_per_time: Option<f64>,
    /// Wakes of these threads per second.
    pub switches_per_second: Option<f64>,
    /// Additional resident memory per connection, both ends.
    pub bytes_per_connection: Option<f64>,
}

impl Round {
    /// Takes the latencies of the round from its recorder.
    pub fn with_latencies(self, recorder: Recorder) -> Self {
        let latency_ns = recorder.percentiles();
        Self { latency_ns, latencies: Some(recorder.into_histogram()), ..self }
    }

    /// Messages per second.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.messages as f64 / seconds } else { 0.0 }
    }
}

/// The CPU time per message, when `messages` messages passed during `cpu`.
fn cpu_seconds_per_message(cpu: Option<Duration>, messages: u64) -> Option<f64> {
    Some(cpu?.as_secs_f64() / messages.max(1) as f64)
}
