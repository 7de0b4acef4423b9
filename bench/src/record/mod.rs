//! Latency recording, for the workloads and for any service that wants to know its own.
//!
//! | | |
//! |---|---|
//! | [`Recorder`] | one thread records, and looks when it is done: what the workloads use |
//! | [`Meter`] | threads record each with a [`Writer`] of its own, and any thread looks meanwhile |
//! | [`Intervals`] | what a meter recorded since the last look |
//! | [`IntervalLog`] | intervals written in the format of HdrHistogram's log tools |
//! | [`Clock`] | nanoseconds from the processor's counter where that is steady |
//!
//! Recording allocates nothing, locks nothing and waits for nobody. `examples/service.rs` has all of it in a program.
//!
//! ```
//! use std::time::Duration;
//! use zring_bench::record::Meter;
//!
//! let meter = Meter::new();
//! let mut writer = meter.writer();
//! let worker = std::thread::spawn(move || {
//!     for microseconds in 1..=1000 {
//!         writer.record(Duration::from_micros(microseconds));
//!     }
//! });
//! worker.join().unwrap();
//! let all = meter.snapshot();
//! assert_eq!(all.len(), 1000);
//! assert!(all.value_at_quantile(0.99).abs_diff(990_000) < 990);
//! ```

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

mod clock;
mod log;
mod meter;

pub use clock::Clock;
pub use log::IntervalLog;
pub use meter::{Intervals, Meter, Writer};

/// Largest latency told apart from longer ones: one minute. Longer ones are recorded as this.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Percentiles in nanoseconds; `None` where a workload measures no latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: Option<u64>,
    /// 90th percentile.
    pub p90: Option<u64>,
    /// 99th percentile.
    pub p99: Option<u64>,
    /// 99.9th percentile.
    pub p999: Option<u64>,
    /// Largest sample.
    pub max: Option<u64>,
}

/// A histogram with the bounds and the precision that all of the harness have.
fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are valid")
}

/// A latency as it is counted.
#[inline]
fn whole_ns(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX).min(LATENCY_NS_MAX)
}

/// Records latencies with three significant figures from 1 ns to [`LATENCY_NS_MAX`].
///
/// Memory is allocated by [`Recorder::new`] alone; recording only counts.
#[derive(Clone, Debug)]
pub struct Recorder {
    histogram: Histogram<u64>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// An empty recorder.
    pub fn new() -> Self {
        Self { histogram: empty() }
    }

    /// Counts one latency.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(whole_ns(latency));
    }

    /// Samples recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Adds the samples of another recorder.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all recorders have the same bounds");
    }

    /// The samples in nanoseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// The samples in nanoseconds.
    pub fn into_histogram(self) -> Histogram<u64> {
        self.histogram
    }

    /// The percentiles of what was recorded; all `None` when nothing was.
    pub fn percentiles(&self) -> Percentiles {
        if self.histogram.is_empty() {
            return Percentiles::default();
        }
        let at = |quantile| Some(self.histogram.value_at_quantile(quantile));
        Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Some(self.histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_has_no_percentiles() {
        assert_eq!(Recorder::new().percentiles(), Percentiles::default());
    }

    #[test]
    fn percentiles_within_three_figures() {
        let mut recorder = Recorder::new();
        for microseconds in 1..=1000 {
            recorder.record(Duration::from_micros(microseconds));
        }
        let got = recorder.percentiles();
        assert_eq!(recorder.count(), 1000);
        for (got, due_ns) in
            [(got.p50, 500_000), (got.p90, 900_000), (got.p99, 990_000), (got.max, 1_000_000)]
        {
            let off = got.unwrap().abs_diff(due_ns);
            assert!(off * 500 <= due_ns, "{got:?} for {due_ns}");
        }
    }

    #[test]
    fn overlong_and_zero_are_counted() {
        let mut recorder = Recorder::new();
        recorder.record(Duration::from_secs(3600));
        recorder.record(Duration::ZERO);
        let mut all = Recorder::new();
        all.merge(&recorder);
        assert_eq!(all.count(), 2);
        assert!(all.percentiles().max.unwrap() >= LATENCY_NS_MAX);
    }
}
