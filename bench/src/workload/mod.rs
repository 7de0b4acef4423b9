//! What happens between the two sides.

use std::time::Duration;

use crate::error::Result;
use crate::pin::Pin;
use crate::record::Percentiles;
use crate::subject::{Case, Subject};

pub mod roundtrip;
pub mod throughput;

/// One kind of traffic between two sides.
pub trait Workload {
    /// What the command line and the reports call it.
    fn name(&self) -> &'static str;

    /// What the ratio to the floor compares, as a column title.
    fn compares(&self) -> &'static str;

    /// The figure that [`Workload::compares`] names.
    fn figure(&self, messages_per_second: f64, latency_ns: &Percentiles) -> Option<f64>;

    /// Runs one subject once, for about `duration`.
    ///
    /// # Errors
    /// Whatever either side failed with.
    fn run_round(
        &self,
        subject: &dyn Subject,
        case: &Case,
        pin: Option<Pin>,
        duration: Duration,
    ) -> Result<Round>;
}

/// What one round measured.
#[derive(Clone, Debug)]
pub struct Round {
    /// Messages (or round trips) within `elapsed`.
    pub messages: u64,
    /// The measured stretch.
    pub elapsed: Duration,
    /// CPU time of both sides per message; `None` where the system does not tell.
    pub cpu_seconds_per_message: Option<f64>,
    /// Latencies of the round.
    pub latency_ns: Percentiles,
}

impl Round {
    /// Messages per second.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.messages as f64 / seconds } else { 0.0 }
    }
}

/// Adds up what the sides spent per message, each over the messages it handled while it was watched.
fn cpu_seconds_per_message(sides: [(Option<Duration>, u64); 2]) -> Option<f64> {
    sides.into_iter().map(|(cpu, messages)| Some(cpu?.as_secs_f64() / messages.max(1) as f64)).sum()
}
