//! Round trips: a request, its reply, the next request.

use std::time::{Duration, Instant};

use crate::cpu_time;
use crate::error::{Failure, Result};
use crate::process;
use crate::record::Recorder;
use crate::sequence::{END, Schedule, SequenceCheck, Verdict};
use crate::sides::run_pair;
use crate::subject::{Case, Pattern, Replier, Requester, Subject};
use crate::workload::pace::Pace;
use crate::workload::{Figure, Idle, Round, WARM_UP_MAX, Workload, cpu_seconds_per_message};

/// Side A sends requests one at a time, side B sends each body back. Every round trip is recorded.
///
/// Without [`Case::rate`] the loop is closed: a round trip is timed from the end of the one before, so any delay of the
/// next request counts as well. With a rate the loop is open: requests are due on a schedule, and a round trip is timed
/// from when its request was due. A request that falls due while the one before is under way has to wait, because REQ
/// and REP take turns; that wait counts.
#[derive(Debug)]
pub struct Roundtrip;

impl Workload for Roundtrip {
    fn name(&self) -> &'static str {
        "roundtrip"
    }

    fn pattern(&self) -> Pattern {
        Pattern::RoundTrip
    }

    fn figure(&self) -> Option<Figure> {
        Some(Figure::P50)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        let side_a = |endpoint: &str| {
            let mut requester = subject.requester(case, endpoint)?;
            Asking { requester: &mut *requester, check: SequenceCheck::new(case.size_bytes), case }
                .run(duration)
        };
        let side_b = |announce| {
            let mut replier = subject.replier(case, announce)?;
            reply(&mut *replier, case.size_bytes)
        };
        let (asked, replied) = run_pair(case.pin, side_a, side_b)?;
        if asked.sent != replied.received {
            let (expected, received) = (asked.sent, replied.received);
            return Err(Failure::Library(format!(
                "{expected} requests were sent, {received} answered"
            )));
        }
        let timed = asked.recorder.count();
        Ok(Round {
            messages: timed,
            elapsed: asked.elapsed,
            cpu_seconds_per_message: cpu_seconds_per_message(asked.cpu, timed),
            offered_rate: case.rate,
            driver: replied.driver,
            idle: Idle { bytes_per_connection: asked.bytes_per_connection, ..Idle::default() },
            ..Round::default()
        }
        .with_latencies(asked.recorder))
    }
}

/// Side A's measurements.
struct Asked {
    sent: u64,
    elapsed: Duration,
    /// CPU time of the process: side B does nothing that A does not wait for.
    cpu: Option<Duration>,
    bytes_per_connection: Option<f64>,
    recorder: Recorder,
}

/// Side A.
struct Asking<'a> {
    requester: &'a mut dyn Requester,
    check: SequenceCheck,
    case: &'a Case,
}

impl Asking<'_> {
    fn run(mut self, duration: Duration) -> Result<Asked> {
        let bytes_per_connection = self.open_silent()?;
        let mut recorder = Recorder::new();
        let (elapsed, cpu) = match self.case.rate {
            None => self.ask_in_turn(duration, &mut recorder)?,
            Some(rate) => self.ask_on_time(duration, rate, &mut recorder)?,
        };
        match self.requester.round_trip(END, &mut self.check)? {
            Verdict::End => {
                let sent = self.check.accepted();
                Ok(Asked { sent, elapsed, cpu, bytes_per_connection, recorder })
            }
            Verdict::InOrder => {
                Err(Failure::Repeat { expected: END, received: self.check.accepted() })
            }
        }
    }

    /// Opens the silent connections, if any, and returns the memory of one of them.
    fn open_silent(&mut self) -> Result<Option<f64>> {
        let count = self.case.connections;
        if count == 0 {
            return Ok(None);
        }
        // By then the contexts' own memory is allocated.
        self.ask()?;
        let before = process::resident_bytes();
        self.requester.open_silent(count)?;
        let after = process::resident_bytes();
        let bytes = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        Ok(bytes.map(|bytes| bytes as f64 / f64::from(count)))
    }

    fn ask(&mut self) -> Result<()> {
        let sequence = self.check.accepted();
        match self.requester.round_trip(sequence, &mut self.check)? {
            Verdict::InOrder => Ok(()),
            Verdict::End => Err(Failure::Gap { expected: sequence, received: END }),
        }
    }

    /// A closed loop; returns the actual duration and the CPU time used.
    fn ask_in_turn(
        &mut self,
        duration: Duration,
        recorder: &mut Recorder,
    ) -> Result<(Duration, Option<Duration>)> {
        self.ask_for(WARM_UP_MAX.min(duration / 10), |_| ())?;
        let cpu_before = cpu_time::of_this_process();
        let elapsed = self.ask_for(duration, |latency| recorder.record(latency))?;
        Ok((elapsed, cpu_time::since(cpu_before)))
    }

    fn ask_for(
        &mut self,
        duration: Duration,
        mut record: impl FnMut(Duration),
    ) -> Result<Duration> {
        let started = Instant::now();
        let mut before = started;
        loop {
            self.ask()?;
            let now = Instant::now();
            record(now - before);
            before = now;
            if now - started >= duration {
                return Ok(now - started);
            }
        }
    }

    /// An open loop: as many requests as are due in `duration`, however long they take.
    fn ask_on_time(
        &mut self,
        duration: Duration,
        rate: f64,
        recorder: &mut Recorder,
    ) -> Result<(Duration, Option<Duration>)> {
        self.ask_for(WARM_UP_MAX.min(duration / 10), |_| ())?;
        let cpu_before = cpu_time::of_this_process();
        let schedule = Schedule::start_now(rate, 0);
        let pace = Pace::new(self.case, schedule);
        let requests = (duration.as_secs_f64() * rate).ceil().max(1.0) as u64;
        for request in 0..requests {
            pace.await_due(request, || Ok(()))?;
            self.ask()?;
            recorder.record(Instant::now().saturating_duration_since(schedule.due(request)));
        }
        let elapsed = Instant::now().saturating_duration_since(schedule.due(0));
        Ok((elapsed, cpu_time::since(cpu_before)))
    }
}

/// Side B's measurements.
pub(super) struct Replied {
    pub(super) received: u64,
    pub(super) driver: Option<&'static str>,
}

/// Answers until the end.
pub(super) fn reply(replier: &mut dyn Replier, size_bytes: usize) -> Result<Replied> {
    let mut check = SequenceCheck::new(size_bytes);
    while replier.reply(&mut check)? != Verdict::End {}
    Ok(Replied { received: check.accepted(), driver: replier.driver() })
}
