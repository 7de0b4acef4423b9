//! Connections made for one request each.

use std::time::{Duration, Instant};

use crate::cpu_time;
use crate::error::{Failure, Result};
use crate::record::Recorder;
use crate::sequence::{END, SequenceCheck, Verdict};
use crate::sides::run_pair;
use crate::subject::{Case, Pattern, Subject, Visitor};
use crate::workload::roundtrip::reply;
use crate::workload::{Figure, Round, WARM_UP_MAX, Workload, cpu_seconds_per_message};

/// Side A repeatedly connects, completes the handshake, gets one request answered and disconnects; each such visit is
/// recorded as a whole. Side B stays bound. The rate is that of connections.
#[derive(Debug)]
pub struct Churn;

impl Workload for Churn {
    fn name(&self) -> &'static str {
        "churn"
    }

    fn pattern(&self) -> Pattern {
        Pattern::Churn
    }

    fn figure(&self) -> Option<Figure> {
        Some(Figure::P50)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        let side_a = |endpoint: &str| {
            let mut visitor = subject.visitor(case, endpoint)?;
            visit(&mut *visitor, case.size_bytes, duration)
        };
        let side_b = |announce| {
            let mut replier = subject.replier(case, announce)?;
            reply(&mut *replier, case.size_bytes)
        };
        let (visited, replied) = run_pair(case.pin, side_a, side_b)?;
        if visited.visits != replied.received {
            let (visits, answers) = (visited.visits, replied.received);
            return Err(Failure::Library(format!("{visits} visits were made, {answers} answered")));
        }
        let timed = visited.recorder.count();
        Ok(Round {
            messages: timed,
            elapsed: visited.elapsed,
            cpu_seconds_per_message: cpu_seconds_per_message(visited.cpu, timed),
            driver: replied.driver,
            ..Round::default()
        }
        .with_latencies(visited.recorder))
    }
}

/// Side A's measurements.
struct Visited {
    visits: u64,
    elapsed: Duration,
    cpu: Option<Duration>,
    recorder: Recorder,
}

fn visit(visitor: &mut dyn Visitor, size_bytes: usize, duration: Duration) -> Result<Visited> {
    let mut check = SequenceCheck::new(size_bytes);
    let mut recorder = Recorder::new();
    visit_for(visitor, &mut check, WARM_UP_MAX.min(duration / 10), |_| ())?;
    let cpu_before = cpu_time::of_this_process();
    let elapsed = visit_for(visitor, &mut check, duration, |latency| recorder.record(latency))?;
    let cpu = cpu_time::since(cpu_before);
    match visitor.visit(END, &mut check)? {
        Verdict::End => Ok(Visited { visits: check.accepted(), elapsed, cpu, recorder }),
        Verdict::InOrder => Err(Failure::Repeat { expected: END, received: check.accepted() }),
    }
}

/// Makes visits one after another for `duration`, each timed from the end of the one before; returns the actual
/// duration.
fn visit_for(
    visitor: &mut dyn Visitor,
    check: &mut SequenceCheck,
    duration: Duration,
    mut record: impl FnMut(Duration),
) -> Result<Duration> {
    let started = Instant::now();
    let mut before = started;
    loop {
        let sequence = check.accepted();
        if visitor.visit(sequence, check)? == Verdict::End {
            return Err(Failure::Gap { expected: sequence, received: END });
        }
        let now = Instant::now();
        record(now - before);
        before = now;
        if now - started >= duration {
            return Ok(now - started);
        }
    }
}
