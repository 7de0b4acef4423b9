//! Closed-loop round trips: a request, its reply, the next request.

use std::time::{Duration, Instant};

use crate::cpu_time;
use crate::error::{Failure, Result};
use crate::record::{Percentiles, Recorder};
use crate::sequence::{END, SequenceCheck, Verdict};
use crate::sides::run_pair;
use crate::subject::{Case, Replier, Requester, Subject};
use crate::workload::{Idle, Round, Workload, cpu_seconds_per_message};

/// Longest warm-up in front of a round; a short round warms up for a tenth of its time.
const WARM_UP_MAX: Duration = Duration::from_millis(200);

/// Side A sends requests one at a time, side B sends each body back. Every round trip is recorded; it lasts from
/// the end of the one before, so that whatever delays the next request counts as well.
#[derive(Debug)]
pub struct Roundtrip;

impl Workload for Roundtrip {
    fn name(&self) -> &'static str {
        "roundtrip"
    }

    fn compares(&self) -> &'static str {
        "p50/raw"
    }

    fn figure(&self, _messages_per_second: f64, latency_ns: &Percentiles) -> Option<f64> {
        latency_ns.p50.map(|ns| ns as f64)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        let side_a = |endpoint: &str| {
            let mut requester = subject.requester(case, endpoint)?;
            request(&mut *requester, case.size_bytes, duration)
        };
        let side_b = |announce| {
            let mut replier = subject.replier(case, announce)?;
            reply(&mut *replier, case.size_bytes)
        };
        let (requested, replied) = run_pair(case.pin, side_a, side_b)?;
        if requested.sent != replied.received {
            let (expected, received) = (requested.sent, replied.received);
            return Err(Failure::Library(format!(
                "{expected} requests were sent, {received} answered"
            )));
        }
        Ok(Round {
            messages: requested.recorder.count(),
            elapsed: requested.elapsed,
            cpu_seconds_per_message: cpu_seconds_per_message(
                requested.cpu,
                requested.recorder.count(),
            ),
            latency_ns: requested.recorder.percentiles(),
            driver: replied.driver,
            idle: Idle::default(),
        })
    }
}

/// What side A saw.
struct Requested {
    sent: u64,
    elapsed: Duration,
    /// Of the process: side B does nothing that A does not wait for.
    cpu: Option<Duration>,
    recorder: Recorder,
}

/// What side B saw.
struct Replied {
    received: u64,
    driver: Option<&'static str>,
}

fn request(
    requester: &mut dyn Requester,
    size_bytes: usize,
    duration: Duration,
) -> Result<Requested> {
    let mut check = SequenceCheck::new(size_bytes);
    let mut recorder = Recorder::new();
    request_until(requester, &mut check, WARM_UP_MAX.min(duration / 10), |_| ())?;
    let cpu_before = cpu_time::of_this_process();
    let elapsed = request_until(requester, &mut check, duration, |latency| {
        recorder.record(latency);
    })?;
    let cpu = cpu_time::since(cpu_before);
    match requester.round_trip(END, &mut check)? {
        Verdict::End => Ok(Requested { sent: check.accepted(), elapsed, cpu, recorder }),
        Verdict::InOrder => Err(Failure::Repeat { expected: END, received: check.accepted() }),
    }
}

/// One round trip after the other for `duration`; returns how long it really took.
fn request_until(
    requester: &mut dyn Requester,
    check: &mut SequenceCheck,
    duration: Duration,
    mut record: impl FnMut(Duration),
) -> Result<Duration> {
    let started = Instant::now();
    let mut before = started;
    loop {
        let sequence = check.accepted();
        if requester.round_trip(sequence, check)? == Verdict::End {
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

fn reply(replier: &mut dyn Replier, size_bytes: usize) -> Result<Replied> {
    let mut check = SequenceCheck::new(size_bytes);
    while replier.reply(&mut check)? != Verdict::End {}
    Ok(Replied { received: check.accepted(), driver: replier.driver() })
}
