//! Rounds condensed, compared and written.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::{Plan, Transport, Wait};
use crate::error::Result;
use crate::machine::Machine;
use crate::record::Percentiles;
use crate::stats::{median, median_percentiles};
use crate::subject;
use crate::workload::{Round, Workload};

pub mod json;
pub mod table;

/// One subject under one workload: the medians over its rounds. This is the object in the JSON report; what does
/// not apply is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name of the workload.
    pub workload: &'static str,
    /// Name of the subject.
    pub subject: &'static str,
    /// What the messages travelled over.
    pub transport: Transport,
    /// What the subject's sockets ran on: `uring` or `ready`. `null` if there is no choice, or that is not known.
    pub driver: Option<&'static str>,
    /// Length of every body; `null` for a workload without messages.
    pub size_bytes: Option<usize>,
    /// Silent connections; `null` for a workload that has none.
    pub connections: Option<u32>,
    /// What a side did while it waited.
    pub wait: Wait,
    /// Cores of side A and side B, where pinned.
    pub pin: Option<[usize; 2]>,
    /// Messages (or round trips) measured, all rounds together.
    pub messages: u64,
    /// Time measured, all rounds together.
    pub seconds: f64,
    /// Median rate.
    pub messages_per_second: f64,
    /// Bodies only, without framing; a round trip counts its body once.
    pub bytes_per_second: f64,
    /// CPU time of the process for a million messages, median.
    pub cpu_seconds_per_million: Option<f64>,
    /// Median of each percentile over the rounds, and the largest `max`.
    pub latency_ns: Percentiles,
    /// CPU time of the threads behind silent connections, in percent of one core, median.
    pub idle_cpu_percent: Option<f64>,
    /// Times a second these threads woke and slept again, median.
    pub idle_switches_per_second: Option<f64>,
    /// Resident memory that a silent connection takes, both ends. The largest of all rounds: later rounds find memory
    /// that earlier ones have left.
    pub bytes_per_connection: Option<f64>,
    /// This subject's figure over that of `raw`: rates for throughput, p50 latencies for roundtrip. `null` if
    /// `raw` did not run.
    pub ratio_to_raw: Option<f64>,
    /// The rate of each round, in the order they ran.
    pub rounds: Vec<f64>,
}

impl Outcome {
    /// Condenses the rounds of one subject.
    pub fn new(plan: &Plan<'_>, subject: &'static str, rounds: &[Round]) -> Self {
        let rates: Vec<f64> = rounds.iter().map(Round::rate).collect();
        let latencies: Vec<Percentiles> = rounds.iter().map(|round| round.latency_ns).collect();
        let over = |pick: fn(&Round) -> Option<f64>| -> Vec<f64> {
            rounds.iter().filter_map(pick).collect()
        };
        let messages_per_second = median(&rates).unwrap_or(0.0);
        Self {
            workload: plan.workload.name(),
            subject,
            transport: plan.options.transport,
            driver: rounds.iter().find_map(|round| round.driver),
            size_bytes: plan.size_bytes,
            connections: plan.connections,
            wait: plan.options.wait,
            pin: plan.options.pin.map(|pin| [pin.a, pin.b]),
            messages: rounds.iter().map(|round| round.messages).sum(),
            seconds: rounds.iter().map(|round| round.elapsed).sum::<Duration>().as_secs_f64(),
            messages_per_second,
            bytes_per_second: messages_per_second * plan.size_bytes.unwrap_or(0) as f64,
            cpu_seconds_per_million: median(&over(|round| round.cpu_seconds_per_message))
                .map(|seconds| seconds * 1e6),
            latency_ns: median_percentiles(&latencies),
            idle_cpu_percent: median(&over(|round| round.idle.cpu_per_time))
                .map(|part| part * 100.0),
            idle_switches_per_second: median(&over(|round| round.idle.switches_per_second)),
            bytes_per_connection: over(|round| round.idle.bytes_per_connection)
                .into_iter()
                .reduce(f64::max),
            ratio_to_raw: None,
            rounds: rates,
        }
    }
}

/// Fills in [`Outcome::ratio_to_raw`] if the floor ran.
pub fn compare(workload: &dyn Workload, outcomes: &mut [Outcome]) {
    let figure =
        |outcome: &Outcome| workload.figure(outcome.messages_per_second, &outcome.latency_ns);
    let floor = outcomes.iter().find(|outcome| outcome.subject == subject::FLOOR).and_then(figure);
    for outcome in outcomes {
        let ratio = figure(outcome).zip(floor).map(|(figure, floor)| figure / floor);
        outcome.ratio_to_raw = ratio.filter(|ratio| ratio.is_finite());
    }
}

/// Writes the table, and the JSON report to `json` if that is given: `-` is stdout, which moves the table to stderr.
///
/// # Errors
/// Whatever the system reports when a file or a stream cannot be written.
pub fn write(outcomes: &[Outcome], json: Option<&Path>) -> Result<()> {
    let table = table::render(outcomes);
    let Some(path) = json else {
        return Ok(io::stdout().write_all(table.as_bytes())?);
    };
    let report = json::render(outcomes, &Machine::probe())?;
    if path == Path::new("-") {
        io::stdout().write_all(report.as_bytes())?;
        return Ok(io::stderr().write_all(table.as_bytes())?);
    }
    std::fs::write(path, report)?;
    Ok(io::stdout().write_all(table.as_bytes())?)
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::workload::Idle;
    use clap::Parser;

    /// Condenses made-up rounds of `subject` under the workload called `workload`.
    pub(crate) fn outcome(workload: &str, subject: &'static str, messages: u64) -> Outcome {
        let cli = Cli::parse_from(["zring-bench", workload, "--pin", "0,1"]);
        let is_idle = matches!(cli.command, Command::Idle(_));
        let latency_ns = match &cli.command {
            Command::Roundtrip(_) | Command::Connections(_) => Percentiles {
                p50: Some(6_700),
                p90: Some(7_100),
                p99: Some(9_300),
                p999: Some(21_000),
                max: Some(1_250_000),
            },
            Command::Throughput(_) | Command::Idle(_) => Percentiles::default(),
        };
        let round = |messages: u64| Round {
            messages: if is_idle { 0 } else { messages },
            elapsed: Duration::from_secs(2),
            cpu_seconds_per_message: (!is_idle).then_some(4e-8),
            latency_ns,
            driver: Some("ready"),
            idle: Idle {
                cpu_per_time: is_idle.then_some(messages as f64 / 1e6),
                switches_per_second: is_idle.then_some(messages as f64),
                bytes_per_connection: is_idle.then_some(messages as f64 * 16.0),
            },
        };
        let rounds = [round(messages), round(2 * messages), round(messages / 2)];
        Outcome::new(&cli.command.plan(), subject, &rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::throughput::Throughput;

    #[test]
    fn rounds_are_condensed() {
        let outcome = samples::outcome("throughput", "raw", 1000);
        assert_eq!(outcome.messages, 3500);
        assert_eq!(outcome.rounds, [500.0, 1000.0, 250.0]);
        assert!((outcome.messages_per_second - 500.0).abs() < 1e-9);
        assert!((outcome.bytes_per_second - 32_000.0).abs() < 1e-9);
        assert!((outcome.seconds - 6.0).abs() < 1e-9);
    }

    #[test]
    fn idle_rounds_are_condensed() {
        let outcome = samples::outcome("idle", "zring-bg", 1000);
        assert_eq!((outcome.connections, outcome.size_bytes), (Some(100), None));
        assert!((outcome.idle_cpu_percent.unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(outcome.idle_switches_per_second, Some(1000.0));
        assert_eq!(outcome.bytes_per_connection, Some(32_000.0));
        assert_eq!(outcome.cpu_seconds_per_million, None);
    }

    #[test]
    fn ratios_need_the_floor() {
        let mut both = [
            samples::outcome("throughput", "raw", 1000),
            samples::outcome("throughput", "zring", 800),
        ];
        compare(&Throughput, &mut both);
        assert_eq!(both.map(|outcome| outcome.ratio_to_raw), [Some(1.0), Some(0.8)]);
        let mut alone = [samples::outcome("throughput", "zring", 800)];
        compare(&Throughput, &mut alone);
        assert_eq!(alone[0].ratio_to_raw, None);
    }
}
