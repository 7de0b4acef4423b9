//! Runs many seeds of one program.

use std::{
    any::Any,
    env::VarError,
    io::{IsTerminal, Write},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use super::{Faults, Plan, World};
use crate::sync::Mutex;

/// The environment variable that names the one seed to run.
pub const SEED_VARIABLE: &str = "ZRING_SIM_SEED";
/// The environment variable that says how many seeds to run.
pub const SEEDS_VARIABLE: &str = "ZRING_SIM_SEEDS";

/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

struct Progress {
    next: u64,
    end: u64,
    done: u64,
    shown: Instant,
    failure: Option<(u64, Box<dyn Any + Send>)>,
}

fn variable(name: &str) -> Option<u64> {
    match std::env::var(name) {
        Ok(value) => Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}"))),
        Err(VarError::NotPresent) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// The seeds to run: those given, unless the environment says otherwise.
fn wanted(seeds: Range<u64>) -> Range<u64> {
    match (variable(SEED_VARIABLE), variable(SEEDS_VARIABLE)) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => seeds.start..seeds.start.saturating_add(count),
        (None, None) => seeds,
    }
}

/// Runs `body` in one world per seed, spread over the machine's cores, and stops at the first failure, which is
/// reported with the command that repeats it. The environment may name one seed ([`SEED_VARIABLE`]) or the number of
/// seeds ([`SEEDS_VARIABLE`]). A batch that takes longer than a second shows its progress on stderr.
///
/// # Panics
/// When a world panics, with the same payload; when a variable is no number.
pub fn batch(
    name: &str,
    replay_command: &str,
    seeds: Range<u64>,
    faults: &Faults,
    body: impl Fn(&World) + Sync,
) {
    let seeds = wanted(seeds);
    let start = Instant::now();
    let total = seeds.end.saturating_sub(seeds.start);
    let first =
        Progress { next: seeds.start, end: seeds.end, done: 0, shown: start, failure: None };
    let progress = Mutex::new(first);
    let worker = || {
        while let Some(seed) = take(&progress) {
            let replay = replay_command.to_owned();
            let plan = Plan { replay, ..Plan::new(seed, faults) };
            let outcome = catch_unwind(AssertUnwindSafe(|| plan.run(&body)));
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.done += 1;
            if let Err(panic) = outcome {
                progress.next = progress.end;
                progress.failure.get_or_insert((seed, panic));
            }
            show(name, total, start, &mut progress);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..cores.min(total as usize)).for_each(|_| drop(scope.spawn(worker)));
    });
    let progress = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((seed, panic)) = progress.failure {
        eprintln!("{name}: seed {seed} failed, after {} of {total} seeds", progress.done);
        resume_unwind(panic);
    }
}

fn take(progress: &Mutex<Progress>) -> Option<u64> {
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = progress.next;
    if seed >= progress.end {
        return None;
    }
    progress.next += 1;
    Some(seed)
}

fn show(name: &str, total: u64, start: Instant, progress: &mut Progress) {
    let is_last = progress.done == total && progress.shown > start;
    if progress.shown.elapsed() < SHOWN_EVERY && !is_last {
        return;
    }
    progress.shown = Instant::now();
    let per_second = progress.done as f64 / start.elapsed().as_secs_f64();
    let line = format!("{name}: {} of {total} seeds, {per_second:.0}/s", progress.done);
    // Written past the test harness, which captures the output of `eprintln`.
    let mut stderr = std::io::stderr();
    let _ = if stderr.is_terminal() {
        write!(stderr, "\r{line}{}", if is_last { "\n" } else { "" })
    } else {
        writeln!(stderr, "{line}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_runs_each_seed_once_and_stops_at_a_failure() {
        let seen = Mutex::new(Vec::new());
        batch("each", "", 5..25, &Faults::none(), |world| {
            seen.lock().unwrap().push(world.seed());
        });
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        if variable(SEED_VARIABLE).or(variable(SEEDS_VARIABLE)).is_none() {
            assert_eq!(seen, Vec::from_iter(5..25));
        }

        let count = Mutex::new(0);
        let failing = catch_unwind(AssertUnwindSafe(|| {
            batch("failing", "this test", 0..100_000, &Faults::none(), |_| {
                *count.lock().unwrap() += 1;
                resume_unwind(Box::new("as planned"));
            });
        }));
        let panic = failing.expect_err("it fails");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"as planned"));
        assert!(count.into_inner().unwrap() <= thread::available_parallelism().unwrap().get());
    }
}
