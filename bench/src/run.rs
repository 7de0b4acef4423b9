//! Executes the command line.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use crate::cli::{Cli, Driver, Options, Plan, Transport, Wait};
use crate::error::{Failure, Result};
use crate::handicap::Handicapped;
use crate::report::{self, Outcome, Report};
use crate::sequence::SEQUENCE_BYTES;
use crate::subject::{self, Case, Subject, cannot_receive};
use crate::workload::Round;

pub mod sweep;

/// Shorter runs show no progress.
const PROGRESS_FROM: Duration = Duration::from_secs(1);

/// Measures and reports.
///
/// # Errors
/// The failure of a subject, or of writing the report.
pub fn run(cli: &Cli) -> Result<()> {
    let plan = cli.command.plan();
    if let Some(warning) = warning(plan.options) {
        eprintln!("note: {warning}");
    }
    let outcomes = measure(&plan)?;
    Report::new(&outcomes).write(&plan.options.outputs)
}

/// Warns about options that give the figures another meaning than the reader expects.
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

/// Measures those of the harness's subjects that the plan names: [`measure_subjects`] with [`subject::ALL`].
///
/// # Errors
/// As [`measure_subjects`].
pub fn measure(plan: &Plan<'_>) -> Result<Vec<Outcome>> {
    let subjects = chosen(&plan.options.subjects);
    if plan.options.handicap <= 0.0 {
        return measure_subjects(plan, &subjects);
    }
    let slower: Vec<_> =
        subjects.iter().map(|subject| Handicapped::new(*subject, plan.options.handicap)).collect();
    let slower: Vec<&dyn Subject> = slower.iter().map(|subject| subject as &dyn Subject).collect();
    measure_subjects(plan, &slower)
}

/// The names of the subjects that [`measure`] would measure.
///
/// # Errors
/// [`Failure::Setup`] if no subject is left.
pub fn able_names(plan: &Plan<'_>) -> Result<Vec<&'static str>> {
    let subjects = able(plan, &Place::new()?, &chosen(&plan.options.subjects))?;
    Ok(subjects.iter().map(|subject| subject.name()).collect())
}

/// Runs every subject in every round, in turn, and condenses the rounds of each; or, with [`Plan::bound_p999`],
/// searches for the highest rate of each. The subjects may come from elsewhere, and [`Options::subjects`] is ignored.
/// Subjects that do not support the plan are left out, with a line on stderr.
///
/// # Errors
/// The first failure, with subject and round; [`Failure::Setup`] if no subject is left.
pub fn measure_subjects(plan: &Plan<'_>, subjects: &[&dyn Subject]) -> Result<Vec<Outcome>> {
    let options = plan.options;
    let place = Place::new()?;
    let subjects = able(plan, &place, subjects)?;
    if let Some(bound) = plan.bound_p999 {
        return sweep::sweep(plan, &place, &subjects, bound);
    }
    let progress = progress(options, subjects.len());
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); subjects.len()];
    for round in 1..=options.rounds {
        for (subject, rounds) in subjects.iter().zip(&mut rounds) {
            progress.set_message(format!("{} round {round}/{}", subject.name(), options.rounds));
            let measured = run_round(plan, *subject, &place, &round.to_string())?;
            rounds.push(measured);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let mut outcomes: Vec<_> = subjects
        .iter()
        .zip(&rounds)
        .map(|(subject, rounds)| condense(plan, *subject, &place, rounds))
        .collect();
    report::compare_with_floor(plan.workload, &mut outcomes);
    Ok(outcomes)
}

/// The directory for unix sockets.
struct Place(TempDir);

impl Place {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("zring-bench-").tempdir()?))
    }

    fn case(&self, plan: &Plan<'_>, name: &str) -> Case {
        let options = plan.options;
        let bind = match options.transport {
            Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
            Transport::Ipc => format!("ipc://{}", self.0.path().join(name).display()),
            Transport::Inproc => format!("inproc://{name}"),
        };
        Case {
            pattern: plan.workload.pattern(),
            transport: options.transport,
            size_bytes: plan.size_bytes.unwrap_or(SEQUENCE_BYTES),
            wait: options.wait,
            driver: options.driver,
            pin: options.pin,
            connections: plan.connections.unwrap_or(0),
            peers: plan.peers.unwrap_or(1),
            rate: plan.rate,
            is_free_running: plan.is_free_running,
            receive: plan.receive,
            bind,
            common: None,
        }
    }
}

/// Runs one round, called `name`, of one subject.
fn run_round(plan: &Plan<'_>, subject: &dyn Subject, place: &Place, name: &str) -> Result<Round> {
    let run = || {
        let mut case = place.case(plan, &format!("{}-{name}", subject.name()));
        case.common = subject.common(&case)?;
        plan.workload.run_round(subject, &case, plan.options.seconds / plan.options.rounds)
    };
    run().map_err(|failure| {
        Failure::Sides(format!("{} failed in round {name}: {failure}", subject.name()))
    })
}

fn condense(plan: &Plan<'_>, subject: &dyn Subject, place: &Place, rounds: &[Round]) -> Outcome {
    Outcome::new(plan, subject.name(), subject.settings(&place.case(plan, "any")), rounds)
}

/// The subjects that support the plan.
fn able<'s>(
    plan: &Plan<'_>,
    place: &Place,
    subjects: &[&'s dyn Subject],
) -> Result<Vec<&'s dyn Subject>> {
    let case = place.case(plan, "any");
    let lacks = |subject: &dyn Subject| match subject.plays(case.pattern) {
        true => subject.lacks(&case),
        false => Some("it does not play this workload"),
    };
    let mut none_left = Failure::Setup("no subject is left to measure".to_owned());
    let mut able = subjects.to_vec();
    able.retain(|subject| {
        if let Some(reason) = lacks(*subject) {
            eprintln!("note: {} is left out: {reason}", subject.name());
            return false;
        }
        if !subject.can_receive(case.receive) {
            let missing = cannot_receive(subject.name(), case.receive);
            eprintln!("note: {} is left out: {missing}", subject.name());
            none_left = missing;
            return false;
        }
        true
    });
    if able.is_empty() { Err(none_left) } else { Ok(able) }
}

/// The named subjects, in the order of [`subject::ALL`] and once each; all default ones if none is named.
fn chosen(names: &[String]) -> Vec<&'static dyn Subject> {
    let is_chosen = |subject: &&dyn Subject| {
        (names.is_empty() && subject.is_default())
            || names.iter().any(|name| name == subject.name())
    };
    subject::ALL.iter().copied().filter(is_chosen).collect()
}

/// A progress bar on stderr. It moves only between rounds, because a drawing thread would take time from the sides.
fn progress(options: &Options, subjects: usize) -> ProgressBar {
    let total = options.seconds * u32::try_from(subjects).unwrap_or(1);
    if total < PROGRESS_FROM {
        return ProgressBar::hidden();
    }
    let rounds = u64::from(options.rounds) * subjects as u64;
    bar(rounds, "{bar:30} {pos}/{len} {msg} (about {eta} left)")
}

/// A progress bar on stderr, if that is a terminal.
pub(crate) fn bar(length: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(length).with_style(style)
}
