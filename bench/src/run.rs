//! Runs what the command line asks for.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use crate::cli::{Cli, Driver, Options, Plan, Transport, Wait};
use crate::error::{Failure, Result};
use crate::report::{self, Outcome};
use crate::sequence::SEQUENCE_BYTES;
use crate::subject::{self, Case, Subject};
use crate::workload::Round;

/// Runs that take less than this show no progress.
const PROGRESS_FROM: Duration = Duration::from_secs(1);

/// Measures and reports.
///
/// # Errors
/// Whatever a subject failed with, or that the report could not be written.
pub fn run(cli: &Cli) -> Result<()> {
    let plan = cli.command.plan();
    if let Some(warning) = warning(plan.options) {
        eprintln!("note: {warning}");
    }
    let outcomes = measure(&plan)?;
    report::write(&outcomes, plan.options.json.as_deref())
}

/// What makes a run's figures mean something else than its reader expects.
fn warning(options: &Options) -> Option<&'static str> {
    let spins = options.wait == Wait::Spin;
    if cfg!(debug_assertions) {
        return Some("this is a debug build, its figures mean nothing");
    }
    if spins && options.pin.is_some_and(crate::pin::Pin::is_shared) {
        return Some("two sides that spin on one core only wait for each other's time slice");
    }
    if spins && options.pin.is_some() && options.driver == Some(Driver::Uring) {
        return Some(
            "with io_uring a Runner of zring-bg spins too, and takes every other time slice of its side's core",
        );
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (spins && cores < 2).then_some("two sides that spin need two cores, this machine offers one")
}

/// Runs every subject for every round, in turn, and condenses the rounds of each. Subjects that cannot do what the
/// plan asks for are left out, with a line on stderr.
///
/// # Errors
/// The first failure, with subject and round; [`Failure::Setup`] if no subject is left.
pub fn measure(plan: &Plan<'_>) -> Result<Vec<Outcome>> {
    let options = plan.options;
    let directory = tempfile::Builder::new().prefix("zring-bench-").tempdir()?;
    let subjects = able(plan, &directory)?;
    let progress = progress(options, subjects.len());
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); subjects.len()];
    for round in 1..=options.rounds {
        for (subject, rounds) in subjects.iter().zip(&mut rounds) {
            progress.set_message(format!("{} round {round}/{}", subject.name(), options.rounds));
            let case = case(plan, &directory, &format!("{}-{round}", subject.name()));
            let measured = run_round(plan, *subject, case).map_err(|failure| {
                Failure::Sides(format!("{} failed in round {round}: {failure}", subject.name()))
            })?;
            rounds.push(measured);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let named = subjects.iter().map(|subject| subject.name()).zip(&rounds);
    let mut outcomes: Vec<_> =
        named.map(|(name, rounds)| Outcome::new(plan, name, rounds)).collect();
    report::compare(plan.workload, &mut outcomes);
    Ok(outcomes)
}

fn run_round(plan: &Plan<'_>, subject: &dyn Subject, mut case: Case) -> Result<Round> {
    case.common = subject.common(&case)?;
    plan.workload.run_round(subject, &case, plan.options.seconds / plan.options.rounds)
}

/// The subjects asked for that can do what is asked for.
fn able(plan: &Plan<'_>, directory: &TempDir) -> Result<Vec<&'static dyn Subject>> {
    let case = case(plan, directory, "any");
    let mut subjects = chosen(&plan.options.subjects);
    subjects.retain(|subject| match subject.lacks(&case) {
        None => true,
        Some(reason) => {
            eprintln!("note: {} is left out: {reason}", subject.name());
            false
        }
    });
    if subjects.is_empty() {
        return Err(Failure::Setup("no subject is left to measure".to_owned()));
    }
    Ok(subjects)
}

/// The subjects asked for, in the order of [`subject::ALL`] and once each; all of them if none is named.
fn chosen(names: &[String]) -> Vec<&'static dyn Subject> {
    let is_chosen = |subject: &&dyn Subject| {
        names.is_empty() || names.iter().any(|name| name == subject.name())
    };
    subject::ALL.iter().copied().filter(is_chosen).collect()
}

fn case(plan: &Plan<'_>, directory: &TempDir, name: &str) -> Case {
    let options = plan.options;
    let bind = match options.transport {
        Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
        Transport::Ipc => format!("ipc://{}", directory.path().join(name).display()),
        Transport::Inproc => format!("inproc://{name}"),
    };
    Case {
        transport: options.transport,
        size_bytes: plan.size_bytes.unwrap_or(SEQUENCE_BYTES),
        wait: options.wait,
        driver: options.driver,
        pin: options.pin,
        connections: plan.connections.unwrap_or(0),
        bind,
        common: None,
    }
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
