//! A source, a worker and a sink.

use std::time::Duration;

use crate::error::{Failure, Result};
use crate::sequence::{SequenceCheck, Verdict};
use crate::sides::{Announce, run_chain};
use crate::subject::{Case, Pattern, Subject};
use crate::workload::latency::Timetable;
use crate::workload::throughput;
use crate::workload::{Figure, Round, Workload};

/// Side A sends to side B, a worker that forwards to a sink, which shares side A's core. All run as fast as possible,
/// and the rate is the sink's.
#[derive(Debug)]
pub struct Pipeline;

/// The same on a schedule of [`Case::rate`]: the sink records how late each message arrives.
#[derive(Debug)]
pub struct PacedPipeline;

impl Workload for PacedPipeline {
    fn name(&self) -> &'static str {
        Pipeline.name()
    }

    fn pattern(&self) -> Pattern {
        Pattern::Pipeline
    }

    fn figure(&self) -> Option<Figure> {
        Some(Figure::P50)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        let plan = Timetable::new(case, duration)?;
        let of_sink = case.at_another_place("sink");
        let source = |endpoint: &str| plan.send(subject.sender(case, endpoint)?, case);
        let worker = |downstream: &str, announce| forward(subject, case, downstream, announce);
        let sink = |announce| {
            let mut receiver = subject.receiver(&of_sink, announce)?;
            plan.receive(&mut *receiver, case.size_bytes)
        };
        let (sent, forwarded, arrived) = run_chain(case.pin, source, worker, sink)?;
        all_went_on(sent, forwarded)?;
        arrived.into_round(sent, &plan)
    }
}

impl Workload for Pipeline {
    fn name(&self) -> &'static str {
        "pipeline"
    }

    fn pattern(&self) -> Pattern {
        Pattern::Pipeline
    }

    fn figure(&self) -> Option<Figure> {
        Some(Figure::Rate)
    }

    fn run_round(&self, subject: &dyn Subject, case: &Case, duration: Duration) -> Result<Round> {
        let of_sink = case.at_another_place("sink");
        let source = |endpoint: &str| throughput::send(subject.sender(case, endpoint)?, duration);
        let worker = |downstream: &str, announce| forward(subject, case, downstream, announce);
        let sink = |announce| {
            let mut receiver = subject.receiver(&of_sink, announce)?;
            throughput::receive(&mut *receiver, SequenceCheck::new(case.size_bytes), 1)
        };
        let (sent, forwarded, received) = run_chain(case.pin, source, worker, sink)?;
        all_went_on(sent, forwarded)?;
        received.into_round(sent)
    }
}

fn all_went_on(sent: u64, forwarded: u64) -> Result<()> {
    if forwarded == sent {
        return Ok(());
    }
    Err(Failure::Library(format!("{sent} messages were sent, {forwarded} forwarded")))
}

/// Returns the number of forwarded messages.
fn forward(
    subject: &dyn Subject,
    case: &Case,
    downstream: &str,
    announce: Announce,
) -> Result<u64> {
    let mut worker = subject.worker(case, downstream, announce)?;
    let mut check = SequenceCheck::new(case.size_bytes);
    while worker.forward_burst(&mut check)? != Verdict::End {}
    worker.finish()?;
    Ok(check.accepted())
}
