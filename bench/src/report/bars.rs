//! Small charts made of characters.

use hdrhistogram::Histogram;

/// From empty to full.
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Eighths of a character.
const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Samples outside these quantiles are left out of a distribution, so that one outlier does not squeeze the rest.
const FROM_QUANTILE: f64 = 0.001;
const TO_QUANTILE: f64 = 0.999;

/// A scale of latencies shared by several distributions: each step grows by the same factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Bounds of the steps in nanoseconds: one more than there are steps.
    bounds_ns: Vec<u64>,
}

impl Scale {
    /// A scale of `steps` steps that holds nearly all samples of each histogram; `None` without samples.
    pub fn over<'a>(
        histograms: impl Iterator<Item = &'a Histogram<u64>> + Clone,
        steps: usize,
    ) -> Option<Self> {
        let filled = histograms.filter(|histogram| !histogram.is_empty());
        let low = filled.clone().map(|h| h.value_at_quantile(FROM_QUANTILE)).min()?.max(1);
        let high = filled.map(|h| h.value_at_quantile(TO_QUANTILE)).max()?.max(low + steps as u64);
        let growth = high as f64 / low as f64;
        let bound = |step: usize| low as f64 * growth.powf(step as f64 / steps as f64);
        Some(Self { bounds_ns: (0..=steps).map(|step| bound(step).round() as u64).collect() })
    }

    /// Both ends of the scale, in nanoseconds.
    pub fn ends_ns(&self) -> (u64, u64) {
        (self.bounds_ns[0], self.bounds_ns[self.bounds_ns.len() - 1])
    }

    /// The number of samples in each step; samples outside the scale are not counted.
    pub fn counts(&self, histogram: &Histogram<u64>) -> Vec<u64> {
        let one = |pair: &[u64]| match pair[1] > pair[0] {
            true => histogram.count_between(pair[0] + 1, pair[1]),
            false => 0,
        };
        let mut counts: Vec<u64> = self.bounds_ns.windows(2).map(one).collect();
        counts[0] += histogram.count_at(self.bounds_ns[0]);
        counts
    }

    /// The distribution as a row of characters, one per step, the highest for the fullest step. A step with any sample
    /// is visible.
    pub fn sparkline(&self, histogram: &Histogram<u64>) -> String {
        sparkline(&self.counts(histogram))
    }
}

fn sparkline(counts: &[u64]) -> String {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let level = |count: u64| match count {
        0 => 0,
        count => 1 + (count as f64 / most as f64 * 7.0).round() as usize,
    };
    counts.iter().map(|&count| LEVELS[level(count).min(8)]).collect()
}

/// A bar of `part` (0 to 1) of `columns` characters.
pub fn bar(part: f64, columns: usize) -> String {
    let eighths = (part.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(PARTS[eighths % 8]);
    }
    // A bar above zero is always visible.
    if text.is_empty() && part > 0.0 { "▏".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Recorder;
    use std::time::Duration;

    fn samples(microseconds: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut recorder = Recorder::new();
        for us in microseconds {
            recorder.record(Duration::from_micros(us));
        }
        recorder.into_histogram()
    }

    #[test]
    fn lengths() {
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(0.28, 4), "█▏");
        assert_eq!(bar(0.001, 4), "▏");
        assert_eq!((bar(0.0, 4), bar(f64::NAN, 4)), (String::new(), String::new()));
        assert_eq!(bar(7.0, 2), "██");
    }

    #[test]
    fn heights() {
        assert_eq!(sparkline(&[0, 1, 50, 100, 0]), " ▁▅█ ");
        assert_eq!(sparkline(&[0, 0]), "  ");
    }

    #[test]
    fn distributions_share_their_scale() {
        let fast = samples((0..1000).map(|n| 10 + n % 3));
        let slow = samples((0..1000).map(|n| 100 + n % 3));
        let scale = Scale::over([&fast, &slow].into_iter(), 20).unwrap();
        let (fast_line, slow_line) = (scale.sparkline(&fast), scale.sparkline(&slow));
        assert_eq!((fast_line.chars().count(), slow_line.chars().count()), (20, 20));
        assert!(fast_line.trim_end().chars().count() <= 3, "{fast_line:?}");
        assert!(slow_line.ends_with(['█', '▇', '▁']) && slow_line.starts_with("    "));
        assert_eq!(scale.counts(&fast).iter().sum::<u64>(), 1000);
        assert_eq!(Scale::over([&samples([])].into_iter(), 20), None);
    }

    #[test]
    fn one_value_has_a_scale() {
        let one = samples([5]);
        let scale = Scale::over([&one].into_iter(), 8).unwrap();
        assert!(scale.sparkline(&one).contains('█'));
    }
}
