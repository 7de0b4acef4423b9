//! Runs what the command line asks for.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use crate::cli::{Cli, Options, Transport};
use crate::error::{Failure, Result};
use crate::report::{self, Outcome};
use crate::subject::{self, Case, Subject};
use crate::workload::{Round, Workload};

/// Runs that take less than this show no progress.
const PROGRESS_FROM: Duration = Duration::from_secs(1);

/// Measures and reports.
///
/// # Errors
/// Whatever a subject failed with, or that the report could not be written.
pub fn run(cli: &Cli) -> Result<()> {
    let (workload, options) = cli.command.split();
    if let Some(warning) = warning(options) {
        eprintln!("note: {warning}");
    }
    let outcomes = measure(workload, options)?;
    report::write(&outcomes, options.json.as_deref())
}

/// What makes a run's figures mean something else than its reader expects.
fn warning(options: &Options) -> Option<&'static str> {
    use crate::cli::Wait;
    let spins = options.wait == Wait::Spin;
    if cfg!(debug_assertions) {
        return Some("this is a debug build, its figures mean nothing");
    }
    if spins && options.pin.is_some_and(crate::pin::Pin::is_shared) {
        return Some("two sides that spin on one core only wait for each other's time slice");
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (spins && cores < 2).then_some("two sides that spin need two cores, this machine offers one")
}

/// Runs every subject for every round, in turn, and condenses the rounds of each.
///
/// # Errors
/// The first failure, with subject and round.
pub fn measure(workload: &dyn Workload, options: &Options) -> Result<Vec<Outcome>> {
    let subjects = chosen(&options.subjects);
    let directory = tempfile::Builder::new().prefix("zring-bench-").tempdir()?;
    let progress = progress(options, subjects.len());
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); subjects.len()];
    for round in 1..=options.rounds {
        for (subject, rounds) in subjects.iter().zip(&mut rounds) {
            progress.set_message(format!("{} round {round}/{}", subject.name(), options.rounds));
            let case = case(options, &directory, &format!("{}-{round}", subject.name()));
            let measured = workload
                .run_round(*subject, &case, options.pin, options.seconds / options.rounds)
                .map_err(|failure| {
                    Failure::Sides(format!("{} failed in round {round}: {failure}", subject.name()))
                })?;
            rounds.push(measured);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let named = subjects.iter().map(|subject| subject.name()).zip(&rounds);
    let mut outcomes: Vec<_> =
        named.map(|(name, rounds)| Outcome::new(workload, name, options, rounds)).collect();
    report::compare(workload, &mut outcomes);
    Ok(outcomes)
}

/// The subjects asked for, in the order of [`subject::ALL`] and once each; all of them if none is named.
fn chosen(names: &[String]) -> Vec<&'static dyn Subject> {
    let is_chosen = |subject: &&dyn Subject| {
        names.is_empty() || names.iter().any(|name| name == subject.name())
    };
    subject::ALL.iter().copied().filter(is_chosen).collect()
}

fn case(options: &Options, directory: &TempDir, name: &str) -> Case {
    let bind = match options.transport {
        Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
        Transport::Ipc => format!("ipc://{}", directory.path().join(name).display()),
    };
    Case { transport: options.transport, size_bytes: options.size, wait: options.wait, bind }
}

/// A bar on stderr. It moves between rounds only: a thread that draws would take time from the sides.
fn progress(options: &Options, subjects: usize) -> ProgressBar {
    let total = options.seconds * u32::try_from(subjects).unwrap_or(1);
    if total < PROGRESS_FROM || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::from(options.rounds) * subjects as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)");
    bar.with_style(style.expect("the template is valid"))
}
