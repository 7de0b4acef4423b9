//! One-way latency on a schedule: the time of a message since it was due.

use std::time::{Duration, Instant};

use crate::cpu_time;
use crate::error::{Failure, Result};
use crate::record::Recorder;
use crate::sequence::{Schedule, SequenceCheck, SharedSchedule, Verdict};
use crate::sides::run_pair;
use crate::subject::{Case, Pattern, Receiver, Sender, Subject};
use crate::workload::pace::Pace;
use crate::workload::{Figure, Round, WARM_UP_MAX, Workload, cpu_seconds_per_message};

/// Side A sends messages on a schedule of [`Case::rate`], whether or not earlier ones have arrived; side B records how
/// late each arrives. Both threads read one clock and know the schedule, so no time stamp is sent.
#[derive(Debug)]
pub struct Latency;

impl Workload for Latency {
    fn name(&self) -> &'static str {
        "latency"
    }

    fn pattern(&self) -> Pattern {
        Pattern::Stream
    }

    fn figure(&self) -> Option<Figure> {
        Some(Figure::P50)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        let plan = Timetable::new(case, duration)?;
        let side_a = |endpoint: &str| plan.send(subject.sender(case, endpoint)?, case);
        let side_b = |announce| {
            let mut receiver = subject.receiver(case, announce)?;
            plan.receive(&mut *receiver, case.size_bytes)
        };
        let (sent, arrived) = run_pair(case.pin, side_a, side_b)?;
        arrived.into_round(sent, &plan)
    }
}

/// A schedule of `messages` messages, set by the sending side.
pub(super) struct Timetable {
    rate: f64,
    untimed: u64,
    messages: u64,
    schedule: SharedSchedule,
}

impl Timetable {
    pub(super) fn new(case: &Case, duration: Duration) -> Result<Self> {
        let rate =
            case.rate.ok_or_else(|| Failure::Setup("a schedule needs its rate".to_owned()))?;
        let of = |time: Duration| (time.as_secs_f64() * rate).ceil() as u64;
        let untimed = of(WARM_UP_MAX.min(duration / 10));
        let messages = untimed + of(duration).max(1);
        Ok(Self { rate, untimed, messages, schedule: SharedSchedule::default() })
    }

    /// Sends all messages, each when it is due, and the end; returns their number.
    pub(super) fn send(&self, mut sender: Box<dyn Sender>, case: &Case) -> Result<u64> {
        let schedule = *self.schedule.get_or_init(|| Schedule::start_now(self.rate, self.untimed));
        let pace = Pace::new(case, schedule);
        let mut sent = 0;
        while sent < self.messages {
            let now = pace.await_due(sent, || sender.progress())?;
            let due = schedule.due_by(now).min(self.messages).max(sent + 1) - sent;
            sender.send_due(sent, due)?;
            sent += due;
        }
        sender.finish()?;
        Ok(sent)
    }

    /// Receives all messages and the end.
    pub(super) fn receive(
        &self,
        receiver: &mut dyn Receiver,
        size_bytes: usize,
    ) -> Result<Arrived> {
        let cpu_before = cpu_time::of_this_process();
        let mut check = SequenceCheck::timed(size_bytes, SharedSchedule::clone(&self.schedule));
        while receiver.receive_burst(&mut check)? != Verdict::End {}
        let ended = Instant::now();
        Ok(Arrived {
            messages: check.accepted(),
            ended,
            cpu: cpu_time::since(cpu_before),
            driver: receiver.driver(),
            recorder: check.into_recorder().unwrap_or_default(),
        })
    }
}

/// The receiving side's measurements.
pub(super) struct Arrived {
    messages: u64,
    ended: Instant,
    /// CPU time of the process since this side began to wait for messages.
    cpu: Option<Duration>,
    driver: Option<&'static str>,
    recorder: Recorder,
}

impl Arrived {
    pub(super) fn into_round(self, sent: u64, plan: &Timetable) -> Result<Round> {
        let received = self.messages;
        if sent != received {
            return Err(Failure::Library(format!(
                "{sent} messages were sent, {received} received"
            )));
        }
        let started = plan.schedule.get().map_or(self.ended, |schedule| schedule.due(plan.untimed));
        Ok(Round {
            messages: self.recorder.count(),
            elapsed: self.ended.saturating_duration_since(started),
            cpu_seconds_per_message: cpu_seconds_per_message(self.cpu, received),
            offered_rate: Some(plan.rate),
            driver: self.driver,
            ..Round::default()
        }
        .with_latencies(self.recorder))
    }
}
