//! The whole command line of `zring-bench`: the workloads of [`crate::cli`], and the handling of their results.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::{self, Cli};
use crate::compare::files::{Compare, Compared};
use crate::compare::{self, Finding, Row};
use crate::doctor::{self, Doctor};
use crate::error::{Failure, Result};
use crate::report::style::Style;
use crate::report::{Outputs, Report};
use crate::suite::Suite;
#[cfg(target_os = "linux")]
use crate::workload::file::{self, FileOptions, SenderOptions};

/// The exit code of a comparison that found a slower figure.
pub const SLOWER: u8 = 3;

const AFTER_HELP: &str = "\
Exit codes:
  0  everything ran, and every message arrived once, whole and in order; a comparison found nothing slower
  1  a subject failed: a message was lost, repeated or damaged, a socket or a side failed;
     or the report could not be written, or reports could not be compared
  2  the command line is wrong
  3  a comparison found something slower, beyond its interval and the noise

Examples:
  zring-bench roundtrip --wait spin --pin 0,1 --seconds 10
  zring-bench throughput --subject raw --transport ipc --size 64K --json -
  zring-bench run --workload roundtrip,throughput --size 16,64,1K --transport tcp,ipc --html report.html
  zring-bench run --against ../old/zring-bench --subject zring --wait spin --pin 0,1
  zring-bench file --size 4G --runs 20 --dir /var/tmp
  zring-bench compare old.json new.json
  zring-bench doctor";

/// Measures messaging transports beside the raw socket floor, in one run.
///
/// Two threads of this process talk to each other: side A sends or asks, side B receives or replies. All subjects
/// run in turn, several rounds each, and the medians over the rounds are reported with their ratio to `raw`: plain
/// sockets with the same framing (or plain memory) and no library. `zring` is its inline sockets, `zring-bg` its
/// background sockets. A subject that cannot do what is asked for is left out, with a note. Take the ratios;
/// absolute figures belong to the machine and to the minute.
#[derive(Debug, Parser)]
#[command(name = "zring-bench", version, after_help = AFTER_HELP)]
pub struct Program {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// A workload.
    #[command(flatten)]
    Measure(cli::Command),
    /// How fast one large file gets from a process to another, and what memory that takes
    #[cfg(target_os = "linux")]
    File(FileOptions),
    /// The process that sends the file
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    FileSender(SenderOptions),
    /// Measure a matrix of workloads, sizes, transports and so on, in one report; or compare two builds on it
    Run(Box<Suite>),
    /// Compare two JSON reports by their ratios to raw
    Compare(Compare),
    /// Say what on this machine spoils latency, what that costs and how to change it; changes nothing
    Doctor(Doctor),
}

/// Runs the command line and returns the exit code.
pub fn run(program: Program) -> ExitCode {
    let done = match program.task {
        Task::Measure(command) => crate::run::run(&Cli { command }).map(|()| Finding::NotSlower),
        #[cfg(target_os = "linux")]
        Task::File(options) => file::run(&options).map(|()| Finding::NotSlower),
        #[cfg(target_os = "linux")]
        Task::FileSender(options) => file::run_sender(&options).map(|()| Finding::NotSlower),
        Task::Doctor(options) => doctor::run(&options).map(|()| Finding::NotSlower),
        Task::Compare(options) => compare_files(&options),
        Task::Run(suite) => run_suite(&suite),
    };
    match done {
        Ok(Finding::NotSlower) => ExitCode::SUCCESS,
        Ok(Finding::Slower) => SLOWER.into(),
        Err(Failure::Usage(error)) => {
            let _ = error.print();
            ExitCode::from(2)
        }
        Err(failure) => {
            eprintln!("zring-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run_suite(suite: &Suite) -> Result<Finding> {
    if cfg!(debug_assertions) {
        eprintln!("note: this is a debug build, its figures mean nothing");
    }
    let cells = suite.cells()?;
    let findings = doctor::measured::measure(doctor::measured::PER_CORE_BRIEF);
    if let Some(against) = &suite.against {
        let changes = suite.compare(&cells, against)?;
        let mut report = Report::new(&[]);
        report.machine.findings.extend(findings);
        return write_changes(report, changes, &suite.outputs);
    }
    let measured = suite.measure(&cells)?;
    let mut report = Report::new(&measured.outcomes);
    report.machine.findings.extend(findings);
    report.write(&suite.outputs)?;
    if measured.failures.is_empty() {
        return Ok(Finding::NotSlower);
    }
    Err(Failure::Sides(format!(
        "{} cells failed: {}",
        measured.failures.len(),
        measured.failures.join("; ")
    )))
}

fn compare_files(options: &Compare) -> Result<Finding> {
    let Compared { rows, notes } = compare::files::compare(options)?;
    for note in notes {
        eprintln!("note: {note}");
    }
    print!("{}", compare::render(&rows, Style::of_stdout()));
    Ok(compare::finding(&rows))
}

fn write_changes(mut report: Report<'_>, changes: Vec<Row>, outputs: &Outputs) -> Result<Finding> {
    let finding = compare::finding(&changes);
    report.changes = changes;
    report.write(outputs)?;
    Ok(finding)
}
