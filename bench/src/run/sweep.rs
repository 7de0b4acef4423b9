//! The search for the highest rate that a subject sustains without delay.

use std::time::Duration;

use crate::cli::Plan;
use crate::error::{Failure, Result};
use crate::report::Outcome;
use crate::report::table::{amount, latency_cell};
use crate::run::{Place, condense, run_round};
use crate::subject::{FLOOR, Subject};
use crate::workload::{Figure, Round};

/// The rate of the first step.
const RATE_START: f64 = 1000.0;
/// Limits of the search.
const RATE_MIN: f64 = 1.0;
const RATE_MAX: f64 = 5e7;
/// The search ends when the lowest rate that is too high is at most this factor above the highest sustained one.
const CLOSE_ENOUGH: f64 = 1.05;
/// The fraction of the requested rate that must be reached.
const REACHED_MIN: f64 = 0.95;

/// Searches for each subject's highest rate at which p99.9 stays within `bound`: doubles the rate until it is too high,
/// then halves the gap. A failed step is repeated once before it counts, because a single disturbance of the machine is
/// enough to fail it. Each step takes as long as a round and is reported on stderr.
///
/// # Errors
/// The failure of a subject; [`Failure::Setup`] if no subject stays within the bound at any rate.
pub(super) fn sweep(
    plan: &Plan<'_>,
    place: &Place,
    subjects: &[&dyn Subject],
    bound: Duration,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for subject in subjects {
        let mut search = Search::default();
        let mut best = None;
        let mut step = 0;
        while let Some(rate) = search.next() {
            let at_rate = Plan { rate: Some(rate), ..*plan };
            let mut is_within = false;
            for _ in 0..2 {
                step += 1;
                let round = run_round(&at_rate, *subject, place, &format!("step{step}"))?;
                is_within = tell(*subject, rate, &round, bound);
                if is_within {
                    best = Some((at_rate, round));
                    break;
                }
            }
            search.learn(rate, is_within);
        }
        match best {
            Some((at_rate, round)) => {
                outcomes.push(condense(&at_rate, *subject, place, &[round]));
            }
            None => eprintln!("note: {} is within the bound at no rate", subject.name()),
        }
    }
    if outcomes.is_empty() {
        return Err(Failure::Setup("no subject is within the bound at any rate".to_owned()));
    }
    compare_rates(&mut outcomes);
    Ok(outcomes)
}

/// Whether a step stayed within the bound; reports it on stderr.
fn tell(subject: &dyn Subject, rate: f64, round: &Round, bound: Duration) -> bool {
    let reached = round.rate() / rate;
    let is_late = round.latency_ns.p999.is_none_or(|p999| u128::from(p999) > bound.as_nanos());
    let verdict = match (is_late, reached < REACHED_MIN) {
        (false, false) => "within",
        (true, _) => "late",
        (false, true) => "rate not reached",
    };
    eprintln!(
        "{:<12} {:>8}/s  p99.9 {:>8}  reached {:>3.0}%  {verdict}",
        subject.name(),
        amount(rate),
        latency_cell(round.latency_ns.p999),
        reached * 100.0,
    );
    verdict == "within"
}

/// A sweep compares the rates that it found.
fn compare_rates(outcomes: &mut [Outcome]) {
    let floor = outcomes.iter().find(|outcome| outcome.subject == FLOOR);
    let floor = floor.and_then(|outcome| outcome.offered_rate);
    for outcome in outcomes {
        outcome.compares = Some(Figure::Rate);
        outcome.ratio_to_raw = outcome.offered_rate.zip(floor).map(|(rate, floor)| rate / floor);
    }
}

/// Search by doubling, then bisection.
#[derive(Debug, Default)]
struct Search {
    /// The highest rate known to be within the bound.
    within: Option<f64>,
    /// The lowest rate known to be beyond it.
    beyond: Option<f64>,
}

impl Search {
    /// The next rate to try; `None` when the search is over.
    fn next(&self) -> Option<f64> {
        match (self.within, self.beyond) {
            (None, None) => Some(RATE_START),
            (Some(within), None) => Some(within * 2.0).filter(|rate| *rate <= RATE_MAX),
            (None, Some(beyond)) => Some(beyond / 2.0).filter(|rate| *rate >= RATE_MIN),
            (Some(within), Some(beyond)) if beyond <= within * CLOSE_ENOUGH => None,
            // Rates differ by factors, so the middle is the geometric mean.
            (Some(within), Some(beyond)) => Some((within * beyond).sqrt()),
        }
    }

    fn learn(&mut self, rate: f64, is_within: bool) {
        *if is_within { &mut self.within } else { &mut self.beyond } = Some(rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches for `limit`; returns the result and the number of steps.
    fn find(limit: f64) -> (Option<f64>, usize) {
        let mut search = Search::default();
        let mut steps = 0;
        while let Some(rate) = search.next() {
            search.learn(rate, rate <= limit);
            steps += 1;
        }
        (search.within, steps)
    }

    #[test]
    fn limits_are_found_from_below() {
        for limit in [3.0, 999.0, 1000.0, 1001.0, 123_456.0, 4e6] {
            let (found, steps) = find(limit);
            let found = found.unwrap();
            assert!(found <= limit && found * CLOSE_ENOUGH >= limit, "{found} for {limit}");
            assert!(steps <= 20, "{steps} for {limit}");
        }
    }

    #[test]
    fn there_may_be_no_limit() {
        assert_eq!(find(0.0).0, None);
        assert!(find(f64::INFINITY).0.unwrap() > RATE_MAX / 2.0);
    }
}
