//! How the machine disturbs a thread: measured now, in about a second per core.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::kernel::Ticks;
use super::{Finding, Level};
use crate::machine::told_by_linux;
use crate::pin::pin_this_thread;
use crate::record::Recorder;
use crate::report::table::nanoseconds;

/// How long each core is watched in a full examination.
pub const PER_CORE: Duration = Duration::from_secs(1);

/// How long each core is watched before a matrix of runs.
pub const PER_CORE_BRIEF: Duration = Duration::from_millis(200);

/// Two clock readings of a thread that does nothing else are closer together than this, unless the thread was stopped.
const HICCUP: Duration = Duration::from_micros(5);

/// Most cores that are watched, one after another. On a larger machine the last ones, which are usually quiet.
const CORES_MAX: usize = 8;

const WAKE_UPS: u32 = 2000;
const SLEEPS: u32 = 200;
const SLEEP: Duration = Duration::from_micros(100);
const CALLS: u32 = 100_000;

/// Measures `per_core` on every core, and some tenths of a second for the rest.
pub fn measure(per_core: Duration) -> Vec<Finding> {
    let before = ticks();
    let cores = cores();
    let mut findings = vec![clock_reading()];
    findings.extend(system_call());
    findings.extend(cores.iter().rev().take(CORES_MAX).rev().map(|&core| hiccups(core, per_core)));
    findings.extend(wake_up(&cores));
    findings.push(sleep());
    findings.push(rings());
    findings.extend(before.zip(ticks()).map(|(before, after)| steal(before, after)));
    findings
}

fn measured(
    level: Level,
    what: &'static str,
    value: String,
    cost: String,
    remedy: &str,
) -> Finding {
    let remedy = (level > Level::Good).then(|| remedy.to_owned());
    Finding { what, value, level, cost, measured: true, remedy }
}

/// The cores this process may use.
fn cores() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.into_iter().map(|core| core.id).collect()
}

fn ticks() -> Option<Ticks> {
    Ticks::parse(told_by_linux("/proc/stat")?.lines().next()?)
}

fn steal(before: Ticks, after: Ticks) -> Finding {
    let spent = Ticks {
        all: after.all.saturating_sub(before.all),
        stolen: after.stolen.saturating_sub(before.stolen),
    };
    let percent = spent.stolen_percent();
    let level = match percent {
        p if p < 0.1 => Level::Good,
        p if p < 1.0 => Level::Minor,
        _ => Level::Costly,
    };
    measured(
        level,
        "steal",
        format!("{percent:.2} % during these measurements"),
        "time that the host gave to others while this machine wanted to run".to_owned(),
        "a machine with cores of its own, or another hour",
    )
}

fn clock_reading() -> Finding {
    let started = Instant::now();
    for _ in 0..CALLS {
        std::hint::black_box(Instant::now());
    }
    let ns = started.elapsed().as_nanos() as f64 / f64::from(CALLS);
    let level = if ns < 100.0 { Level::Good } else { Level::Costly };
    let cost = "what one reading takes, which is in every latency".to_owned();
    measured(level, "clock reading", nanoseconds(ns), cost, "see `clock source`")
}

#[cfg(unix)]
fn system_call() -> Option<Finding> {
    let started = Instant::now();
    for _ in 0..CALLS {
        std::hint::black_box(rustix::process::getppid());
    }
    let ns = started.elapsed().as_nanos() as f64 / f64::from(CALLS);
    let level = if ns < 300.0 { Level::Good } else { Level::Minor };
    let cost = "into the kernel and back; a round trip over sockets takes four and more".to_owned();
    Some(measured(level, "system call", nanoseconds(ns), cost, "see `CPU mitigations`"))
}

#[cfg(not(unix))]
fn system_call() -> Option<Finding> {
    None
}

/// The time that a spinning thread on `core` misses.
fn hiccups(core: usize, duration: Duration) -> Finding {
    let spun = thread::spawn(move || pin_this_thread(core).ok().map(|()| spin(duration)));
    let Some(Spun { gaps, missed, elapsed }) = spun.join().ok().flatten() else {
        let value = format!("core {core} cannot be used");
        let cost = "the sides cannot run there".to_owned();
        return measured(Level::Minor, "hiccups", value, cost, "taskset -pc $$");
    };
    let percent = missed.as_secs_f64() * 100.0 / elapsed.as_secs_f64();
    let max = Duration::from_nanos(gaps.max());
    let level = match max {
        max if max < Duration::from_micros(20) => Level::Good,
        max if max < Duration::from_micros(200) => Level::Minor,
        _ => Level::Costly,
    };
    let p999 = gaps.value_at_quantile(0.999) as f64;
    let value = if gaps.is_empty() {
        format!("core {core}: none")
    } else {
        format!(
            "core {core}: longest {}, p99.9 {}, {:.0} a second",
            nanoseconds(gaps.max() as f64),
            nanoseconds(p999),
            gaps.len() as f64 / elapsed.as_secs_f64(),
        )
    };
    let cost = format!(
        "a spinning thread stood still for more than {HICCUP:?} at a time, {percent:.2} % in all"
    );
    measured(
        level,
        "hiccups",
        value,
        cost,
        "see `isolated cores`, `other programs` and `virtualisation`",
    )
}

/// The observations of a spinning thread.
struct Spun {
    /// The pauses between two clock readings that the thread did not cause.
    gaps: Histogram<u64>,
    /// Their sum.
    missed: Duration,
    elapsed: Duration,
}

/// Reads the clock in a loop.
fn spin(duration: Duration) -> Spun {
    let mut gaps = Recorder::new();
    let mut missed = Duration::ZERO;
    let started = Instant::now();
    let mut before = started;
    loop {
        let now = Instant::now();
        let gap = now - before;
        if gap >= HICCUP {
            gaps.record(gap);
            missed += gap;
        }
        before = now;
        if now - started >= duration {
            return Spun { gaps: gaps.into_histogram(), missed, elapsed: now - started };
        }
    }
}

/// The time until a thread that slept on another core runs.
fn wake_up(cores: &[usize]) -> Option<Finding> {
    let (&caller_core, &sleeper_core) = (cores.first()?, cores.last()?);
    let (call, calls) = mpsc::channel::<Instant>();
    let (answer, answers) = mpsc::channel::<Duration>();
    let sleeper = thread::spawn(move || {
        let _ = pin_this_thread(sleeper_core);
        while let Ok(called) = calls.recv() {
            if answer.send(called.elapsed()).is_err() {
                return;
            }
        }
    });
    let caller = thread::spawn(move || {
        let _ = pin_this_thread(caller_core);
        let mut taken = Recorder::new();
        for _ in 0..WAKE_UPS {
            // Long enough for the other thread to fall asleep.
            thread::sleep(SLEEP / 2);
            if call.send(Instant::now()).is_err() {
                break;
            }
            answers.recv().into_iter().for_each(|latency| taken.record(latency));
        }
        taken.percentiles()
    });
    let taken = caller.join().ok()?;
    sleeper.join().ok()?;
    let (p50, p99) = (taken.p50?, taken.p99?);
    let level = match p50 {
        ns if ns < 10_000 => Level::Good,
        ns if ns < 50_000 => Level::Minor,
        _ => Level::Costly,
    };
    Some(measured(
        level,
        "wake-up",
        format!("p50 {}, p99 {}", nanoseconds(p50 as f64), nanoseconds(p99 as f64)),
        format!(
            "until a thread that slept on core {sleeper_core} runs when one on core {caller_core} calls; a parked round \
             trip has two"
        ),
        "see `idle states` and `virtualisation`; --wait spin does without",
    ))
}

/// How much longer a short sleep lasts than it was asked to.
fn sleep() -> Finding {
    let mut late = Recorder::new();
    for _ in 0..SLEEPS {
        let started = Instant::now();
        thread::sleep(SLEEP);
        late.record(started.elapsed().saturating_sub(SLEEP));
    }
    let late = late.percentiles();
    let (p50, p99) = (late.p50.unwrap_or(0), late.p99.unwrap_or(0));
    let level = if p50 < 100_000 { Level::Good } else { Level::Minor };
    measured(
        level,
        "sleep",
        format!("p50 {} late, p99 {}", nanoseconds(p50 as f64), nanoseconds(p99 as f64)),
        format!("how much later than asked for a sleep of {SLEEP:?} ends, timer slack included"),
        "see `timer slack` and `idle states`",
    )
}

/// Whether a ring can be created, whatever the switch says.
fn rings() -> Finding {
    let config = zring::Config { driver: zring::Driver::Uring, ..zring::Config::default() };
    let (level, value) = match zring::inline::Context::with_config(config) {
        Ok(_) => (Level::Good, "a ring can be had".to_owned()),
        Err(_) if !cfg!(target_os = "linux") => (Level::Good, "only Linux has it".to_owned()),
        Err(error) => (Level::Costly, format!("no ring: {error}")),
    };
    let cost = "without one zring falls back to readiness".to_owned();
    measured(
        level,
        "io_uring",
        value,
        cost,
        "see `io_uring switch` and `locked memory`; a container's filter may forbid it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_measured() {
        let findings = measure(Duration::from_millis(5));
        for what in ["clock reading", "hiccups", "wake-up", "sleep", "io_uring"] {
            let finding = findings.iter().find(|finding| finding.what == what);
            assert!(finding.is_some_and(|finding| finding.measured), "{what}: {findings:?}");
        }
    }

    #[test]
    fn gaps_are_a_part_of_the_time() {
        let Spun { gaps, missed, elapsed } = spin(Duration::from_millis(20));
        assert!(
            elapsed >= Duration::from_millis(20) && missed <= elapsed,
            "{missed:?} of {elapsed:?}"
        );
        assert!(gaps.is_empty() || gaps.max() <= 2 * elapsed.as_nanos() as u64);
    }

    #[test]
    fn steal_is_what_was_added() {
        let before = Ticks { all: 100, stolen: 10 };
        let finding = steal(before, Ticks { all: 200, stolen: 15 });
        assert_eq!(
            (finding.level, &*finding.value),
            (Level::Costly, "5.00 % during these measurements")
        );
        assert_eq!(steal(before, before).level, Level::Good);
    }
}
