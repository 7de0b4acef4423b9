//! Condenses, compares and writes rounds.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::{Plan, Transport, Wait};
use crate::compare::{self, Row};
use crate::doctor;
use crate::error::Result;
use crate::machine::Machine;
use crate::record::Percentiles;
use crate::report::style::Style;
use crate::stats::{median, median_percentiles};
use crate::subject;
use crate::workload::{Figure, Round, Workload};

pub mod bars;
pub mod columns;
pub mod hgrm;
pub mod html;
pub mod json;
pub mod plots;
pub mod style;
pub mod table;

/// One subject under one workload: the medians over its rounds. This is the object in the JSON report; fields that do
/// not apply are `null`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Name of the workload.
    pub workload: &'static str,
    /// Name of the subject.
    pub subject: &'static str,
    /// The subject's settings, if they matter to its figures; may be empty.
    pub settings: String,
    /// The transport of the messages.
    pub transport: Transport,
    /// The driver of the subject's sockets: `uring` or `ready`. `null` if there is no choice, or if it is not known.
    pub driver: Option<&'static str>,
    /// Length of every body; `null` for a workload without messages.
    pub size_bytes: Option<usize>,
    /// Silent connections; `null` for a workload without any.
    pub connections: Option<u32>,
    /// Subscribers of a fan-out, senders of a fan-in; `null` for any other workload.
    pub peers: Option<u32>,
    /// How a side waited.
    pub wait: Wait,
    /// Cores of side A and side B, where pinned.
    pub pin: Option<[usize; 2]>,
    /// Measured messages (or round trips), over all rounds.
    pub messages: u64,
    /// Measured time, over all rounds.
    pub seconds: f64,
    /// Median rate.
    pub messages_per_second: f64,
    /// Bytes of bodies only, without framing; a round trip counts its body once.
    pub bytes_per_second: f64,
    /// Messages per second that were handed to the subject, median; `null` if equal to the measured rate.
    pub offered_rate: Option<f64>,
    /// Messages that a lossy pattern dropped, over all receivers and rounds.
    pub dropped: u64,
    /// CPU time of the process per million messages, median.
    pub cpu_seconds_per_million: Option<f64>,
    /// Median of each percentile over the rounds, and the largest `max`.
    pub latency_ns: Percentiles,
    /// All latencies of all rounds in nanoseconds; `None` if none was measured.
    #[serde(skip)]
    pub latencies: Option<Histogram<u64>>,
    /// CPU time of the threads behind silent connections, in percent of one core, median.
    pub idle_cpu_percent: Option<f64>,
    /// Wakes per second of these threads, median.
    pub idle_switches_per_second: Option<f64>,
    /// Resident memory per silent connection, both ends. The largest of all rounds, because later rounds reuse memory
    /// of earlier ones.
    pub bytes_per_connection: Option<f64>,
    /// The figure behind [`Outcome::ratio_to_raw`]: `p50/raw` or `rate/raw`; `null` if nothing is compared.
    pub compares: Option<Figure>,
    /// This subject's figure over that of `raw`: rates for throughput, p50 latencies for roundtrip. `null` if `raw` did
    /// not run.
    pub ratio_to_raw: Option<f64>,
    /// For the workload `file` only.
    pub file: Option<FileFigures>,
    /// The rate of each round, in the order they ran.
    pub rounds: Vec<f64>,
    /// The latencies of each round, in the order they ran.
    pub rounds_latency_ns: Vec<Percentiles>,
}

/// The figures that only the workload `file` measures. `GB` is 10^9 bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FileFigures {
    /// Median over the runs.
    pub gigabytes_per_second_median: f64,
    /// Mean over the runs.
    pub gigabytes_per_second_mean: f64,
    /// Duration of each run, in the order they ran.
    pub run_seconds: Vec<f64>,
    /// Standard deviation of `run_seconds`; `null` for a single run.
    pub run_seconds_deviation: Option<f64>,
    /// The median rate over that of `raw-sendfile`; `null` if `raw-sendfile` did not run.
    pub ratio_to_sendfile: Option<f64>,
    /// Peak of the additional resident memory of the sender's process while it sent; the largest of all runs. `null`
    /// where the system does not tell.
    pub sender_grown_bytes: Option<u64>,
}

impl Outcome {
    /// Condenses the rounds of one subject with these `settings`.
    pub fn new(plan: &Plan<'_>, subject: &'static str, settings: String, rounds: &[Round]) -> Self {
        let rates: Vec<f64> = rounds.iter().map(Round::rate).collect();
        let latencies: Vec<Percentiles> = rounds.iter().map(|round| round.latency_ns).collect();
        let over = |pick: fn(&Round) -> Option<f64>| -> Vec<f64> {
            rounds.iter().filter_map(pick).collect()
        };
        let messages_per_second = median(&rates).unwrap_or(0.0);
        Self {
            workload: plan.workload.name(),
            subject,
            settings,
            transport: plan.options.transport,
            driver: rounds.iter().find_map(|round| round.driver),
            size_bytes: plan.size_bytes,
            connections: plan.connections,
            peers: plan.peers,
            wait: plan.options.wait,
            pin: plan.options.pin.map(|pin| [pin.a, pin.b]),
            messages: rounds.iter().map(|round| round.messages).sum(),
            seconds: rounds.iter().map(|round| round.elapsed).sum::<Duration>().as_secs_f64(),
            messages_per_second,
            bytes_per_second: messages_per_second * plan.size_bytes.unwrap_or(0) as f64,
            offered_rate: median(&over(|round| round.offered_rate)),
            dropped: rounds.iter().map(|round| round.dropped).sum(),
            cpu_seconds_per_million: median(&over(|round| round.cpu_seconds_per_message))
                .map(|seconds| seconds * 1e6),
            latency_ns: median_percentiles(&latencies),
            latencies: merged(rounds),
            idle_cpu_percent: median(&over(|round| round.idle.cpu_per_time))
                .map(|part| part * 100.0),
            idle_switches_per_second: median(&over(|round| round.idle.switches_per_second)),
            bytes_per_connection: over(|round| round.idle.bytes_per_connection)
                .into_iter()
                .reduce(f64::max),
            compares: plan.workload.figure(),
            ratio_to_raw: None,
            file: None,
            rounds: rates,
            rounds_latency_ns: latencies,
        }
    }
}

/// The latencies of all rounds, merged.
fn merged(rounds: &[Round]) -> Option<Histogram<u64>> {
    let mut histograms = rounds.iter().filter_map(|round| round.latencies.as_ref());
    let mut all = histograms.next()?.clone();
    for histogram in histograms {
        all.add(histogram).expect("all recorders have the same bounds");
    }
    Some(all)
}

/// Fills in [`Outcome::ratio_to_raw`] if the floor ran.
pub fn compare_with_floor(workload: &dyn Workload, outcomes: &mut [Outcome]) {
    let Some(compared) = workload.figure() else { return };
    let figure = |outcome: &Outcome| compared.of(outcome.messages_per_second, &outcome.latency_ns);
    let floor = outcomes.iter().find(|outcome| outcome.subject == subject::FLOOR).and_then(figure);
    for outcome in outcomes {
        let ratio = figure(outcome).zip(floor).map(|(figure, floor)| figure / floor);
        outcome.ratio_to_raw = ratio.filter(|ratio| ratio.is_finite());
    }
}

impl Outcome {
    /// The rate of the messages' schedule; `None` if each message waited for another one, or was sent as soon as
    /// possible.
    pub fn scheduled_rate(&self) -> Option<f64> {
        // The rate that a publisher achieved is no schedule.
        self.offered_rate.filter(|_| self.latency_ns.p50.is_some() && self.peers.is_none())
    }
}

/// Whether two outcomes belong in one table: they differ only in subject, driver and load.
pub fn is_same_cell(one: &Outcome, other: &Outcome) -> bool {
    let key = |o: &Outcome| {
        (o.workload, o.transport, o.size_bytes, o.connections, o.peers, o.wait, o.pin)
    };
    key(one) == key(other)
}

/// Where a report goes beside the terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Outputs {
    /// Write the results as JSON to FILE; with - to stdout, and the table to stderr
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a page with plots and tables to FILE; it needs nothing but a browser
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write the latency distribution of every row to a .hgrm file in DIR, for the HdrHistogram plotter
    #[arg(long, value_name = "DIR")]
    pub hgrm: Option<PathBuf>,
}

/// The content of a report.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The rows.
    pub outcomes: &'a [Outcome],
    /// The changes from another build, if requested.
    pub changes: Vec<Row>,
    /// The machine of the measurement.
    pub machine: Machine,
    /// The command of the measurement.
    pub command: String,
}

impl<'a> Report<'a> {
    /// A report of this machine at this time, for the command line of this process.
    pub fn new(outcomes: &'a [Outcome]) -> Self {
        Self {
            outcomes,
            changes: Vec::new(),
            machine: Machine::probe(),
            command: command_line(std::env::args()),
        }
    }

    /// Writes the tables to stdout (to stderr if the JSON goes to stdout), and the requested files.
    ///
    /// # Errors
    /// The system's error when a file or a stream cannot be written.
    pub fn write(&self, outputs: &Outputs) -> Result<()> {
        if let Some(path) = &outputs.html {
            std::fs::write(path, html::render(self))?;
        }
        if let Some(directory) = &outputs.hgrm {
            hgrm::write(self.outcomes, directory)?;
        }
        let has_stdout = outputs.json.as_deref() == Some(Path::new("-"));
        if let Some(path) = &outputs.json {
            let json = json::render(self)?;
            if has_stdout {
                io::stdout().write_all(json.as_bytes())?;
            } else {
                std::fs::write(path, json)?;
            }
        }
        let style = if has_stdout { Style::of_stderr() } else { Style::of_stdout() };
        let foot = doctor::summary(&self.machine.findings) + "; `zring-bench doctor` tells\n";
        let tables = match self.changes.is_empty() {
            true => table::render(self.outcomes, style),
            false => compare::render(&self.changes, style),
        };
        let text = tables + "\n" + &style.dim(&foot);
        if has_stdout {
            return Ok(io::stderr().write_all(text.as_bytes())?);
        }
        Ok(io::stdout().write_all(text.as_bytes())?)
    }
}

/// The words of a command line, quoted so that they can be typed again.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:%+@".contains(c);
    let quoted = |word: String| match !word.is_empty() && word.chars().all(is_plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::workload::Idle;
    use clap::Parser;

    /// Condenses made-up rounds of `subject` under the workload `workload`.
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
            _ => Percentiles::default(),
        };
        let latencies = latency_ns.p50.map(|p50| {
            let mut recorder = crate::record::Recorder::new();
            for n in 0..1000 {
                recorder.record(Duration::from_nanos(p50 - 500 + n));
            }
            recorder.into_histogram()
        });
        let round = |messages: u64| Round {
            messages: if is_idle { 0 } else { messages },
            elapsed: Duration::from_secs(2),
            cpu_seconds_per_message: (!is_idle).then_some(4e-8),
            latency_ns,
            latencies: latencies.clone(),
            dropped: 0,
            offered_rate: None,
            driver: Some("ready"),
            idle: Idle {
                cpu_per_time: is_idle.then_some(messages as f64 / 1e6),
                switches_per_second: is_idle.then_some(messages as f64),
                bytes_per_connection: is_idle.then_some(messages as f64 * 16.0),
            },
        };
        let rounds = [round(messages), round(2 * messages), round(messages / 2)];
        Outcome::new(&cli.command.plan(), subject, String::new(), &rounds)
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
        compare_with_floor(&Throughput, &mut both);
        assert_eq!(both.map(|outcome| outcome.ratio_to_raw), [Some(1.0), Some(0.8)]);
        let mut alone = [samples::outcome("throughput", "zring", 800)];
        compare_with_floor(&Throughput, &mut alone);
        assert_eq!(alone[0].ratio_to_raw, None);
    }

    #[test]
    fn command_lines_can_be_typed_again() {
        let words = ["zring-bench", "run", "--size", "64,1K", "it's", ""];
        let line = command_line(words.into_iter().map(str::to_owned));
        assert_eq!(line, r"zring-bench run --size 64,1K 'it'\''s' ''");
    }

    #[test]
    fn rounds_keep_their_latencies() {
        let outcome = samples::outcome("roundtrip", "raw", 1000);
        assert_eq!(outcome.rounds_latency_ns.len(), outcome.rounds.len());
        assert_eq!(outcome.latencies.unwrap().len(), 3000);
    }
}
