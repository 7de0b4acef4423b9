//! Latency recording: every sample goes into an HdrHistogram that is allocated once.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

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
        let histogram =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are valid");
        Self { histogram }
    }

    /// Counts one latency.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX);
        self.histogram.saturating_record(latency_ns.min(LATENCY_NS_MAX));
    }

    /// Samples recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Adds the samples of another recorder.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all recorders have the same bounds");
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
