//! Decides whether two sets of rounds differ, by a bootstrap interval for their ratio and a noise floor.
//!
//! Rounds of a messaging benchmark are neither normally distributed nor independent: the machine drifts, and other
//! activity disturbs some rounds. So this module assumes no distribution, takes medians everywhere, and compares each
//! round with the round that ran next to it.

use fastrand::Rng;

use crate::stats::median;

/// Fewest rounds per side for a verdict.
pub const ROUNDS_MIN: usize = 6;

/// Probability that the interval covers the true ratio.
pub const CONFIDENCE: f64 = 0.99;

/// Probability that pure noise stays below the floor. A verdict must also pass the interval, so noise passes both far
/// more rarely.
const BELOW_FLOOR: f64 = 0.95;

const RESAMPLES: usize = 2000;

/// A fixed seed: the same rounds always give the same verdict.
const SEED: u64 = 0x005E_ED0F_2176_A11E;

/// How the rounds of the two sides correspond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Round i of one side ran next to round i of the other, the old side first in even rounds, the new one in odd
    /// rounds: old new, new old, and so on. So neighbours of the same side are as close in time as those of different
    /// sides.
    Alternating,
    /// The sides were measured at different times.
    Apart,
}

/// The change of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// New over old: the median over pairs of neighbours, or, for sides measured apart, the ratio of their medians.
    pub ratio: f64,
    /// Lower end of the ratio's interval.
    pub low: f64,
    /// Upper end of the ratio's interval.
    pub high: f64,
    /// Without any change, ratios lie between `1 / noise` and `noise`.
    pub noise: f64,
}

impl Change {
    /// Whether the interval excludes 1 and the ratio is beyond the noise and beyond `threshold`, a part such as 0.05.
    pub fn is_real(&self, threshold: f64) -> bool {
        let size = self.ratio.ln().abs();
        (self.low > 1.0 || self.high < 1.0)
            && size > self.noise.ln()
            && size > (1.0 + threshold.max(0.0)).ln()
    }
}

/// Compares the rounds of two sides. `None` if a side has fewer than [`ROUNDS_MIN`] rounds or a figure that is not
/// positive, or if alternating sides differ in length.
pub fn compare(old: &[f64], new: &[f64], sampling: Sampling) -> Option<Change> {
    let logarithms = |values: &[f64]| -> Option<Vec<f64>> {
        let is_usable = |value: &&f64| **value > 0.0 && value.is_finite();
        let logarithms: Vec<f64> =
            values.iter().take_while(is_usable).map(|value| value.ln()).collect();
        (logarithms.len() == values.len() && values.len() >= ROUNDS_MIN).then_some(logarithms)
    };
    let (old, new) = (logarithms(old)?, logarithms(new)?);
    let mut rng = Rng::with_seed(SEED);
    match sampling {
        Sampling::Alternating if old.len() != new.len() => None,
        Sampling::Alternating => compare_neighbours(&old, &new, &mut rng),
        Sampling::Apart => compare_apart(&old, &new, &mut rng),
    }
}

/// All values are logarithms.
fn compare_neighbours(old: &[f64], new: &[f64], rng: &mut Rng) -> Option<Change> {
    let pairs: Vec<f64> = new.iter().zip(old).map(|(new, old)| new - old).collect();
    let mut picked = pairs.clone();
    let middles = sorted_by(RESAMPLES, || resampled_median(&pairs, &mut picked, rng));
    // The differences between neighbours of the same side, up and down alike. The median of as many such differences as
    // there are pairs is off by at most this much.
    let same: Vec<f64> = (0..pairs.len() - 1)
        .map(|round| {
            let side = if round.is_multiple_of(2) { new } else { old };
            side[round + 1] - side[round]
        })
        .collect();
    let mut draws = pairs.clone();
    let off = sorted_by(RESAMPLES, || {
        for draw in &mut draws {
            *draw = same[rng.usize(..same.len())] * if rng.bool() { 1.0 } else { -1.0 };
        }
        middle(&mut draws).abs()
    });
    Some(change(median(&pairs)?, &middles, at(&off, BELOW_FLOOR)))
}

/// All values are logarithms.
fn compare_apart(old: &[f64], new: &[f64], rng: &mut Rng) -> Option<Change> {
    let (mut picked_old, mut picked_new) = (old.to_vec(), new.to_vec());
    let middles = sorted_by(RESAMPLES, || {
        resampled_median(new, &mut picked_new, rng) - resampled_median(old, &mut picked_old, rng)
    });
    let noise = difference_of_halves(old, rng).max(difference_of_halves(new, rng));
    Some(change(median(new)? - median(old)?, &middles, noise))
}

fn change(ratio: f64, middles: &[f64], noise: f64) -> Change {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Change {
        ratio: ratio.exp(),
        low: at(middles, tail).exp(),
        high: at(middles, 1.0 - tail).exp(),
        noise: noise.exp(),
    }
}

/// `picked` is scratch memory for as many values.
fn resampled_median(values: &[f64], picked: &mut [f64], rng: &mut Rng) -> f64 {
    for pick in picked.iter_mut() {
        *pick = values[rng.usize(..values.len())];
    }
    middle(picked)
}

/// The median of at least one value; reorders the values.
fn middle(values: &mut [f64]) -> f64 {
    let half = values.len() / 2;
    let is_even = values.len().is_multiple_of(2);
    let (lower, upper, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    match is_even {
        true => (lower.iter().copied().fold(f64::MIN, f64::max) + *upper) / 2.0,
        false => *upper,
    }
}

/// The distance between the medians of two halves of the same side. A half has half as many rounds as a compared side,
/// so this distance is too large by the square root of two.
fn difference_of_halves(values: &[f64], rng: &mut Rng) -> f64 {
    let mut shuffled = values.to_vec();
    let distances = sorted_by(RESAMPLES, || {
        rng.shuffle(&mut shuffled);
        let half = shuffled.len() / 2;
        let (left, right) = shuffled.split_at_mut(half);
        (middle(left) - middle(right)).abs() / std::f64::consts::SQRT_2
    });
    at(&distances, BELOW_FLOOR)
}

fn sorted_by(count: usize, mut make: impl FnMut() -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = (0..count).map(|_| make()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which the fraction `part` of the sorted values lies.
fn at(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((part * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUNDS: usize = 20;
    const TRIES: usize = 60;

    /// The figure at time `at` on a machine that drifts and jitters and is sometimes disturbed.
    fn measured(at: usize, phase: f64, rng: &mut Rng) -> f64 {
        let drift = 1.0 + 0.15 * (phase + at as f64 / 6.0).sin();
        // The sum of twelve uniform numbers is nearly normal with a deviation of 1.
        let jitter: f64 = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        let hit = if rng.f64() < 0.1 { 1.0 + 2.0 * rng.f64() } else { 1.0 };
        8_000.0 * drift * (1.0 + 0.03 * jitter).max(0.5) * hit
    }

    /// Alternating rounds of two builds; the new build is slower by `factor`.
    fn alternating(factor: f64, rng: &mut Rng) -> (Vec<f64>, Vec<f64>) {
        let phase = rng.f64() * 6.0;
        (0..ROUNDS)
            .map(|round| {
                let (first, second) =
                    (measured(2 * round, phase, rng), measured(2 * round + 1, phase, rng));
                let (old, new) =
                    if round.is_multiple_of(2) { (first, second) } else { (second, first) };
                (old, new * factor)
            })
            .unzip()
    }

    /// Ratios to a floor that ran beside each round, from two different hours.
    fn apart(factor: f64, rng: &mut Rng) -> (Vec<f64>, Vec<f64>) {
        let mut hour = |factor: f64| -> Vec<f64> {
            let phase = rng.f64() * 6.0;
            let ratio = |round| {
                let floor = measured(2 * round, phase, rng);
                measured(2 * round + 1, phase, rng) * factor / floor
            };
            (0..ROUNDS).map(ratio).collect()
        };
        (hour(1.0), hour(factor))
    }

    fn share_of_changes(factor: f64, sampling: Sampling) -> f64 {
        let mut rng = Rng::with_seed(7);
        let is_changed = |_: &usize| {
            let (old, new) = match sampling {
                Sampling::Alternating => alternating(factor, &mut rng),
                Sampling::Apart => apart(factor, &mut rng),
            };
            compare(&old, &new, sampling).unwrap().is_real(0.0)
        };
        (0..TRIES).filter(is_changed).count() as f64 / TRIES as f64
    }

    #[test]
    fn the_same_build_has_not_changed() {
        for sampling in [Sampling::Alternating, Sampling::Apart] {
            let share = share_of_changes(1.0, sampling);
            assert!(share <= 0.03, "{sampling:?}: {share}");
        }
    }

    #[test]
    fn ten_percent_are_found() {
        for (factor, sampling) in [
            (1.1, Sampling::Alternating),
            (1.0 / 1.1, Sampling::Alternating),
            (1.2, Sampling::Apart),
        ] {
            let share = share_of_changes(factor, sampling);
            assert!(share >= 0.9, "{factor} {sampling:?}: {share}");
        }
    }

    #[test]
    fn middles_are_medians() {
        for values in [&[3.0][..], &[9.0, 1.0, 5.0], &[4.0, 1.0, 2.0, 100.0], &[2.0, 1.0]] {
            assert_eq!(Some(middle(&mut values.to_vec())), median(values));
        }
    }

    #[test]
    fn direction_and_interval() {
        let old: Vec<f64> = (0..12).map(|i| 100.0 + f64::from(i % 3)).collect();
        let new: Vec<f64> = old.iter().map(|value| value * 0.8).collect();
        let change = compare(&old, &new, Sampling::Alternating).unwrap();
        assert!((change.ratio - 0.8).abs() < 1e-9 && change.high < 1.0, "{change:?}");
        assert!(change.low <= change.ratio && change.ratio <= change.high, "{change:?}");
        assert!(change.noise >= 1.0 && change.is_real(0.1) && !change.is_real(0.3), "{change:?}");
        assert_eq!(compare(&old, &new, Sampling::Alternating), Some(change));
    }

    #[test]
    fn equal_rounds_have_not_changed() {
        let change = compare(&[5.0; 8], &[5.0; 8], Sampling::Alternating).unwrap();
        assert!(!change.is_real(0.0), "{change:?}");
    }

    #[test]
    fn refusals() {
        let six = [1.0; 6];
        for (old, new) in [
            (&six[..5], &six[..]),
            (&six[..], &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0][..]),
            (&six[..], &[1.0, 1.0, 1.0, 1.0, 1.0, f64::NAN][..]),
            (&six[..], &[1.0; 7][..]),
            (&[][..], &[][..]),
        ] {
            assert_eq!(compare(old, new, Sampling::Alternating), None);
        }
        assert!(compare(&six, &[1.0; 7], Sampling::Apart).is_some());
    }
}
