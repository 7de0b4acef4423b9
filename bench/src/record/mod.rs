//! Latency recording, for the workloads and for any service that measures itself.
//!
//! | | |
//! |---|---|
//! | [`Recorder`] | one thread records and reads when it is done, as the workloads do |
//! | [`Meter`] | each thread records with its own [`Writer`], and any thread reads meanwhile |
//! | [`Intervals`] | the recordings of a meter since the last reading |
//! | [`IntervalLog`] | intervals written in the format of HdrHistogram's log tools |
//! | [`Clock`] | nanoseconds from the processor's counter where that is steady |
//!
//! Recording neither allocates, nor locks, nor waits. `examples/service.rs` uses all of it in one program.
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

/// Largest latency that is distinguished: one minute. Longer latencies are recorded as this value.
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

/// A histogram with the bounds and the precision of the whole harness.
fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are valid")
}

/// A latency as it is recorded.
#[inline]
fn whole_ns(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX).min(LATENCY_NS_MAX)
}

/// Records latencies with three significant figures from 1 ns to [`LATENCY_NS_MAX`].
///
/// Only [`Recorder::new`] allocates memory; recording only counts.
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

    /// The number of recorded samples.
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

    /// The percentiles of the recorded samples; all `None` without samples.
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
