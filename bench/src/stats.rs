//! Medians over rounds.

use crate::record::Percentiles;

/// The median of `values`: the middle value, or the mean of the two middle values. `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The arithmetic mean; `None` without values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of the population that the values are a sample of; `None` for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The median over the rounds of each percentile. `max` is the largest of all rounds, because a median of maxima hides
/// the worst.
pub fn median_percentiles(rounds: &[Percentiles]) -> Percentiles {
    let over = |pick: fn(&Percentiles) -> Option<u64>| {
        let values: Vec<f64> = rounds.iter().filter_map(pick).map(|ns| ns as f64).collect();
        median(&values).map(|ns| ns.round() as u64)
    };
    Percentiles {
        p50: over(|p| p.p50),
        p90: over(|p| p.p90),
        p99: over(|p| p.p99),
        p999: over(|p| p.p999),
        max: rounds.iter().filter_map(|p| p.max).max(),
    }
}

/// The spread of the values relative to their median: `(largest - smallest) / median`.
pub fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let largest = values.iter().copied().fold(f64::MIN, f64::max);
    let smallest = values.iter().copied().fold(f64::MAX, f64::min);
    (middle > 0.0).then(|| (largest - smallest) / middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn percentiles_take_medians_but_the_worst_maximum() {
        let round =
            |p50, max| Percentiles { p50: Some(p50), max: Some(max), ..Percentiles::default() };
        let all = median_percentiles(&[round(10, 50), round(30, 900), round(20, 60)]);
        assert_eq!(all, round(20, 900));
        assert_eq!(median_percentiles(&[Percentiles::default()]), Percentiles::default());
    }

    #[test]
    fn means_and_deviations() {
        assert_eq!((mean(&[]), standard_deviation(&[1.0])), (None, None));
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(standard_deviation(&[1.0, 2.0, 3.0]), Some(1.0));
    }

    #[test]
    fn spreads() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[8.0, 10.0, 12.0]), Some(0.4));
    }
}
