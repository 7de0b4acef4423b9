//! Percentile files in the text form that the HdrHistogram plotter reads (`.hgrm`).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;

use crate::error::Result;
use crate::report::Outcome;

/// Lines per halving of the distance to 100 %, as in other writers of the format.
const LINES_PER_HALVING: u32 = 5;

/// Values are written in microseconds.
const NS_PER_UNIT: f64 = 1000.0;

/// Writes one file per outcome with latencies to `directory`, which is created if it is missing. Returns the number of
/// files.
///
/// # Errors
/// The system's error when the directory or a file cannot be written.
pub fn write(outcomes: &[Outcome], directory: &Path) -> Result<usize> {
    fs::create_dir_all(directory)?;
    let mut files = 0;
    for (index, outcome) in outcomes.iter().enumerate() {
        if let Some(latencies) = &outcome.latencies {
            fs::write(directory.join(file_name(index, outcome)), render(latencies))?;
            files += 1;
        }
    }
    Ok(files)
}

/// For example `03-roundtrip-tcp-64B-zring.hgrm`: sorted as in the report, and unique.
fn file_name(index: usize, outcome: &Outcome) -> String {
    let mut name = format!("{:02}-{}-{}", index + 1, outcome.workload, outcome.transport);
    for part in [
        outcome.size_bytes.map(|bytes| format!("-{bytes}B")),
        outcome.peers.map(|peers| format!("-{peers}peers")),
        outcome.connections.map(|count| format!("-{count}conns")),
        outcome.scheduled_rate().map(|rate| format!("-{rate:.0}per-s")),
    ] {
        name.push_str(&part.unwrap_or_default());
    }
    format!("{name}-{}.hgrm", outcome.subject)
}

/// The distribution in microseconds.
pub fn render(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut is_done = false;
    for step in histogram.iter_quantiles(LINES_PER_HALVING) {
        // The iterator continues after the last sample, but the format ends with one line of 100 %.
        if is_done {
            break;
        }
        let value = step.value_iterated_to() as f64 / NS_PER_UNIT;
        let count = histogram.count_between(0, step.value_iterated_to());
        is_done = count == histogram.len();
        let part = if is_done { 1.0 } else { step.quantile_iterated_to() };
        let _ = write!(text, "{value:12.3} {part:2.12} {count:10}");
        let _ = match is_done {
            true => writeln!(text),
            false => writeln!(text, " {:14.2}", 1.0 / (1.0 - part)),
        };
    }
    text + &footer(histogram)
}

fn footer(histogram: &Histogram<u64>) -> String {
    let (mean, deviation) = (histogram.mean() / NS_PER_UNIT, histogram.stdev() / NS_PER_UNIT);
    let max = histogram.max() as f64 / NS_PER_UNIT;
    let sub_buckets = 2 * 10_u64.pow(u32::from(histogram.sigfig()));
    let sub_buckets = sub_buckets.next_power_of_two();
    let buckets = (histogram.high() / sub_buckets).max(1).ilog2() + 2;
    format!(
        "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n\
         #[Max     = {max:12.3}, Total count    = {:12}]\n\
         #[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]\n",
        histogram.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Recorder;
    use std::time::Duration;

    /// 1 to 1000 microseconds, one sample each.
    fn known() -> Histogram<u64> {
        let mut recorder = Recorder::new();
        for microseconds in 1..=1000 {
            recorder.record(Duration::from_micros(microseconds));
        }
        recorder.into_histogram()
    }

    fn rows(text: &str) -> Vec<Vec<f64>> {
        let is_row = |line: &&str| line.starts_with(' ') && !line.contains("Value");
        let number = |field: &str| field.parse().unwrap();
        text.lines()
            .filter(is_row)
            .map(|line| line.split_whitespace().map(number).collect())
            .collect()
    }

    #[test]
    fn a_known_distribution() {
        let text = render(&known());
        assert_eq!(
            text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
        );
        let rows = rows(&text);
        assert!(rows.len() > 30, "{text}");
        for row in &rows {
            // Sample n is n microseconds, so the n-th sample is at n / 1000; three figures are kept.
            let (value, part, count) = (row[0], row[1], row[2]);
            assert!((value - count).abs() <= value * 0.002, "{row:?}");
            assert!(count >= part * 1000.0 - 1e-6 && count <= part * 1000.0 + 3.0, "{row:?}");
            if let Some(inverse) = row.get(3) {
                assert!((inverse - 1.0 / (1.0 - part)).abs() <= 0.006, "{row:?}");
            }
        }
        assert!(rows.windows(2).all(|pair| pair[0][1] < pair[1][1] && pair[0][0] <= pair[1][0]));
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2], last.len()), (1.0, 1000.0, 3), "{text}");
        let median = rows.iter().find(|row| (row[1] - 0.5).abs() < 1e-9).unwrap();
        assert!((median[0] - 500.0).abs() <= 1.0, "{median:?}");
    }

    #[test]
    fn the_footer_adds_up() {
        let text = render(&known());
        let numbers = |start: &str| -> Vec<f64> {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            let fields = line.trim_end_matches(']').split([',', '=']);
            fields.filter_map(|field| field.trim().parse().ok()).collect()
        };
        let mean = numbers("#[Mean");
        assert!((mean[0] - 500.5).abs() < 1.0 && (mean[1] - 288.67).abs() < 1.0, "{mean:?}");
        let max = numbers("#[Max");
        assert!((max[0] - 1000.0).abs() < 1.0 && max[1] == 1000.0, "{max:?}");
        assert_eq!(numbers("#[Buckets"), [26.0, 2048.0]);
    }

    #[test]
    fn no_samples_and_one() {
        let empty = Recorder::new().into_histogram();
        assert!(rows(&render(&empty)).is_empty() && render(&empty).contains("#[Max"));
        let mut one = Recorder::new();
        one.record(Duration::from_micros(7));
        let rows = rows(&render(&one.into_histogram()));
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0][1..], [1.0, 1.0]);
    }
}
