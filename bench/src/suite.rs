//! `zring-bench run`: a matrix of cells, each with a command line of its own, in one report.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, Parser};

use crate::cli::Cli;
use crate::compare::Row;
use crate::compare::builds::{Builds, Pairs, parse_percent};
use crate::error::{Failure, Result};
use crate::report::{Outcome, Outputs};
use crate::run;

/// Rounds of each subject in a cell; [`compare`](crate::compare) needs more, to distinguish a change from noise.
const ROUNDS: u32 = 5;
const ROUNDS_AGAINST: u32 = 20;

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct Suite {
    /// Workloads, as in roundtrip,throughput
    #[arg(
        long = "workload",
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "roundtrip,throughput"
    )]
    pub workloads: Vec<String>,

    /// Sizes of bodies, as in 16,64,1K [default: that of each workload]
    #[arg(long = "size", value_name = "BYTES,…", value_delimiter = ',')]
    pub sizes: Vec<String>,

    /// Transports: tcp, ipc, inproc [default: tcp]
    #[arg(long = "transport", value_name = "NAME,…", value_delimiter = ',')]
    pub transports: Vec<String>,

    /// Numbers of subscribers, for workloads that have some
    #[arg(long = "subscribers", value_name = "N,…", value_delimiter = ',')]
    pub subscribers: Vec<String>,

    /// Numbers of senders, for workloads that have several
    #[arg(long = "senders", value_name = "N,…", value_delimiter = ',')]
    pub senders: Vec<String>,

    /// Messages offered a second, for workloads that keep a schedule
    #[arg(long = "rate", value_name = "R,…", value_delimiter = ',')]
    pub rates: Vec<String>,

    /// What to measure; repeat, or separate by commas [default: those of the workload]
    #[arg(long = "subject", value_name = "NAME,…", value_delimiter = ',')]
    pub subjects: Vec<String>,

    /// What zring runs on: uring or ready [default: the library chooses]
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,

    /// Time per subject and cell in seconds, split over the rounds; with --against for each of the two builds
    #[arg(long, value_name = "S", default_value = "5", value_parser = crate::cli::parse_seconds)]
    pub seconds: Duration,

    /// Rounds per subject and cell [default: 5; with --against 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,

    /// Cores for side A and side B, as in 0,1 [default: left to the system]
    #[arg(long, value_name = "A,B")]
    pub pin: Option<String>,

    /// What a side does while it waits: spin or park [default: park]
    #[arg(long, value_name = "HOW")]
    pub wait: Option<String>,

    /// Compare this build with another one (the old one): both run every cell in turn, round by round
    #[arg(long, value_name = "BINARY", conflicts_with = "hgrm")]
    pub against: Option<PathBuf>,

    /// Changes below this are none
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = parse_percent, requires = "against")]
    pub threshold: f64,

    /// Check the comparison itself: this build waits for that part of each round trip or burst in addition
    #[arg(long, value_name = "PERCENT", requires = "against")]
    pub handicap: Option<String>,

    /// Where the report goes.
    #[command(flatten)]
    pub outputs: Outputs,

    /// More options for every cell, behind `--`
    #[arg(last = true, value_name = "OPTION")]
    pub more: Vec<String>,
}

/// One point of the matrix.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The words typed behind the program's name, without subject, time and rounds.
    pub arguments: Vec<String>,
}

/// The results of the cells, and the failures.
#[derive(Debug, Default)]
pub struct Measured {
    /// The outcomes of all cells.
    pub outcomes: Vec<Outcome>,
    /// Cells in which a subject failed, with the failure.
    pub failures: Vec<String>,
}

impl Suite {
    /// The cells, in running order. Options that a workload does not have are left out of its cells.
    ///
    /// # Errors
    /// The error that the cell's own command line reports for a wrong workload or value.
    pub fn cells(&self) -> std::result::Result<Vec<Cell>, clap::Error> {
        let dimensions: [(&str, &[String]); 5] = [
            ("transport", &self.transports),
            ("size", &self.sizes),
            ("subscribers", &self.subscribers),
            ("senders", &self.senders),
            ("rate", &self.rates),
        ];
        let mut cells = Vec::new();
        for workload in &self.workloads {
            let mut points = vec![vec![workload.clone()]];
            for (name, values) in dimensions {
                if !values.is_empty() && takes(workload, name) {
                    points = product(&points, name, values);
                }
            }
            for mut arguments in points {
                for (name, value) in
                    [("driver", &self.driver), ("pin", &self.pin), ("wait", &self.wait)]
                {
                    if let Some(value) = value {
                        arguments.extend([format!("--{name}"), value.clone()]);
                    }
                }
                arguments.extend(self.more.iter().cloned());
                let cell = Cell { arguments };
                cell.parse(self.subjects.iter(), self.seconds, self.rounds())?;
                cells.push(cell);
            }
        }
        Ok(cells)
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.against.is_some() { ROUNDS_AGAINST } else { ROUNDS })
    }

    /// Measures every cell. A cell in which a subject fails is reported and does not end the run.
    ///
    /// # Errors
    /// [`Failure::Setup`] if no cell has a subject that supports it.
    pub fn measure(&self, cells: &[Cell]) -> Result<Measured> {
        let mut measured = Measured::default();
        let started = Instant::now();
        for (index, cell) in cells.iter().enumerate() {
            announce(index, cells.len(), started, cell);
            let cli = cell.parse(self.subjects.iter(), self.seconds, self.rounds())?;
            match run::measure(&cli.command.plan()) {
                Ok(outcomes) => measured.outcomes.extend(outcomes),
                Err(Failure::Setup(why)) => eprintln!("note: {} is left out: {why}", cell.shown()),
                Err(failure) => {
                    eprintln!("failed: {}: {failure}", cell.shown());
                    measured.failures.push(format!("{}: {failure}", cell.shown()));
                }
            }
        }
        if measured.outcomes.is_empty() && measured.failures.is_empty() {
            return Err(Failure::Setup("no cell has a subject to measure".to_owned()));
        }
        Ok(measured)
    }

    /// Runs every cell with both builds in turn.
    ///
    /// # Errors
    /// [`Failure::Setup`] if a build cannot be started or fails, or if nothing can be measured.
    pub fn compare(&self, cells: &[Cell], against: &std::path::Path) -> Result<Vec<Row>> {
        let builds = Builds::new(against)?;
        let mut rows = Vec::new();
        let started = Instant::now();
        for (index, cell) in cells.iter().enumerate() {
            announce(index, cells.len(), started, cell);
            let cli = cell.parse(self.subjects.iter(), self.seconds, 1)?;
            for subject in run::able_names(&cli.command.plan())? {
                rows.extend(self.compare_subject(&builds, cell, subject)?);
            }
        }
        if rows.is_empty() {
            return Err(Failure::Setup("no cell has a subject to measure".to_owned()));
        }
        Ok(rows)
    }

    fn compare_subject(&self, builds: &Builds, cell: &Cell, subject: &str) -> Result<Vec<Row>> {
        let mut pairs = Pairs::default();
        let old = cell.child(subject, self.seconds / self.rounds());
        let mut new = old.clone();
        if let Some(percent) = &self.handicap {
            new.extend(["--handicap".to_owned(), percent.clone()]);
        }
        for round in 0..self.rounds() as usize {
            for side in Pairs::order(round) {
                let arguments = match side {
                    crate::compare::builds::Side::Old => &old,
                    crate::compare::builds::Side::New => &new,
                };
                pairs.push(side, builds.run(side, arguments)?);
            }
        }
        Ok(pairs.rows(self.threshold))
    }
}

impl Cell {
    fn parse<'a>(
        &self,
        subjects: impl Iterator<Item = &'a String>,
        seconds: Duration,
        rounds: u32,
    ) -> std::result::Result<Cli, clap::Error> {
        let mut words = vec!["zring-bench".to_owned()];
        words.extend(self.arguments.iter().cloned());
        words.extend(timing(seconds, rounds));
        for subject in subjects {
            words.extend(["--subject".to_owned(), subject.clone()]);
        }
        Cli::try_parse_from(words)
    }

    /// Arguments of a process that runs one round of one subject.
    fn child(&self, subject: &str, seconds: Duration) -> Vec<String> {
        let mut words = self.arguments.clone();
        words.extend(timing(seconds, 1));
        words.extend(["--subject", subject, "--json", "-"].map(str::to_owned));
        words
    }

    fn shown(&self) -> String {
        self.arguments.join(" ")
    }
}

fn timing(seconds: Duration, rounds: u32) -> [String; 4] {
    let seconds = seconds.as_secs_f64().max(0.001).to_string();
    ["--seconds".to_owned(), seconds, "--rounds".to_owned(), rounds.to_string()]
}

/// Whether the workload's own command line has this option. An unknown workload is reported by the cell itself.
fn takes(workload: &str, option: &str) -> bool {
    let program = Cli::command();
    let command = program.find_subcommand(workload);
    command.is_some_and(|command| {
        command.get_arguments().any(|argument| argument.get_long() == Some(option))
    })
}

fn product(points: &[Vec<String>], name: &str, values: &[String]) -> Vec<Vec<String>> {
    let with = |point: &Vec<String>, value: &String| {
        let mut point = point.clone();
        point.extend([format!("--{name}"), value.clone()]);
        point
    };
    points.iter().flat_map(|point| values.iter().map(move |value| with(point, value))).collect()
}

/// Prints a line on stderr for each cell; within a cell, its run shows a progress bar.
fn announce(index: usize, cells: usize, started: Instant, cell: &Cell) {
    let left = match index {
        0 => String::new(),
        done => {
            let seconds = started.elapsed().as_secs_f64() / done as f64 * (cells - done) as f64;
            format!("  (about {seconds:.0} s left)")
        }
    };
    eprintln!("[{}/{cells}] {}{left}", index + 1, cell.shown());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        suite: Suite,
    }

    fn suite(words: &[&str]) -> Suite {
        Alone::try_parse_from(["run"].iter().chain(words)).unwrap().suite
    }

    fn shown(words: &[&str]) -> Vec<String> {
        suite(words).cells().unwrap().iter().map(Cell::shown).collect()
    }

    #[test]
    fn the_matrix() {
        assert_eq!(shown(&[]), ["roundtrip", "throughput"]);
        let words = ["--workload", "throughput,idle", "--size", "16,1K", "--transport", "tcp,ipc"];
        assert_eq!(
            shown(&words),
            [
                "throughput --transport tcp --size 16",
                "throughput --transport tcp --size 1K",
                "throughput --transport ipc --size 16",
                "throughput --transport ipc --size 1K",
                "idle --transport tcp",
                "idle --transport ipc",
            ]
        );
        let words =
            ["--workload", "idle", "--wait", "spin", "--pin", "0,1", "--", "--connections", "7"];
        assert_eq!(shown(&words), ["idle --pin 0,1 --wait spin --connections 7"]);
    }

    #[test]
    fn wrong_cells_are_refused_before_anything_runs() {
        for words in [
            ["--workload", "nothing"],
            ["--size", "4"],
            ["--transport", "udp"],
            ["--subject", "nobody"],
            ["--wait", "sleep"],
            ["--driver", "epoll"],
            ["--pin", "7"],
        ] {
            assert!(suite(&words).cells().is_err(), "{words:?}");
        }
        for words in [&["--threshold", "5"][..], &["--rounds", "0"], &["--handicap", "10"]] {
            assert!(Alone::try_parse_from(["run"].iter().chain(words)).is_err(), "{words:?}");
        }
    }

    #[test]
    fn rounds_and_children() {
        assert_eq!(suite(&[]).rounds(), 5);
        let against = suite(&["--against", "/old", "--workload", "roundtrip"]);
        assert_eq!(against.rounds(), 20);
        let child = against.cells().unwrap()[0].child("zring", Duration::from_millis(250));
        assert_eq!(child.join(" "), "roundtrip --seconds 0.25 --rounds 1 --subject zring --json -");
    }

    #[test]
    fn a_small_matrix_runs() {
        let suite = suite(&[
            "--workload",
            "roundtrip,throughput",
            "--size",
            "64,256",
            "--subject",
            "raw,zring",
            "--seconds",
            "0.02",
            "--rounds",
            "2",
        ]);
        let cells = suite.cells().unwrap();
        let measured = suite.measure(&cells).unwrap();
        assert_eq!((measured.outcomes.len(), measured.failures.len()), (8, 0));
        assert!(measured.outcomes.iter().all(|outcome| outcome.ratio_to_raw.is_some()));
    }
}
