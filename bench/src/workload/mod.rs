//! What happens between the two sides.

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

/// Longest warm-up in front of a round; a short round warms up for a tenth of its time.
const WARM_UP_MAX: Duration = Duration::from_millis(200);

/// One kind of traffic between two sides.
pub trait Workload: std::fmt::Debug {
    /// What the command line and the reports call it.
    fn name(&self) -> &'static str;

    /// Which sides of a subject it drives.
    fn pattern(&self) -> Pattern;

    /// The figure that a subject is compared with the floor by; `None` where there is nothing to compare.
    fn figure(&self) -> Option<Figure>;

    /// Runs one subject once, for about `duration`.
    ///
    /// # Errors
    /// Whatever either side failed with.
    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round>;
}

/// The figure that counts, of those that a round gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// The median latency; less is better.
    P50,
    /// Messages a second; more is better.
    Rate,
}

impl Figure {
    /// What its ratio to the floor is called: a column title, and the value of `compares` in the JSON report.
    pub const fn ratio_title(self) -> &'static str {
        match self {
            Self::P50 => "p50/raw",
            Self::Rate => "rate/raw",
        }
    }

    /// This one, of all that was measured.
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

/// What one round measured.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Messages (or round trips) within `elapsed`.
    pub messages: u64,
    /// The measured stretch.
    pub elapsed: Duration,
    /// CPU time of the process per message; `None` where the system does not tell.
    pub cpu_seconds_per_message: Option<f64>,
    /// Percentiles of `latencies`.
    pub latency_ns: Percentiles,
    /// Every latency of the round in nanoseconds; `None` where none was measured.
    pub latencies: Option<Histogram<u64>>,
    /// Messages that a lossy pattern dropped, at all receivers together.
    pub dropped: u64,
    /// Messages a second that were handed to the subject; `None` where that is the measured rate.
    pub offered_rate: Option<f64>,
    /// What the subject's sockets ran on; `None` if there is no choice, or the subject does not tell.
    pub driver: Option<&'static str>,
    /// What connections cost that nobody uses; empty where that was not measured.
    pub idle: Idle,
}

/// What connections cost that nobody uses. A field is `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Idle {
    /// CPU time of the threads behind the sockets, as a part of the time that went by.
    pub cpu_per_time: Option<f64>,
    /// Times these threads woke and slept again.
    pub switches_per_second: Option<f64>,
    /// Resident memory that came with the connections, both ends, for one of them.
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

/// What a message cost of the CPU time that went by while `messages` of them came and went.
fn cpu_seconds_per_message(cpu: Option<Duration>, messages: u64) -> Option<f64> {
    Some(cpu?.as_secs_f64() / messages.max(1) as f64)
}
